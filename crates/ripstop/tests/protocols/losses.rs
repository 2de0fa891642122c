//! Parts that go while traffic runs: the control plane, and one replica of many.

use ripstop_testkit::process::{Guard, below, signal_pid};
use ripstop_testkit::{http, wait};
use std::time::{Duration, Instant};

use crate::lab::{Lab, PATIENCE};

const MESH: &str = "
  discovery: {timeout: 2s}
  services:
  - name: web
    ports: [{port: 8000, targetPort: 8080}]
    workloads: [{replicas: 3, command: [python3, peers.py, web, '8080']}]
  - name: unused
    ports: [{port: 8000, targetPort: 8080}]
    workloads: [{command: [python3, peers.py, web, '8080']}]
  - name: never-used
    ports: [{port: 8000, targetPort: 8080}]
    workloads: [{command: [python3, peers.py, web, '8080']}]
  - name: greeter
    ports: [{port: 7000}]
    workloads: [{command: [python3, peers.py, greeter, '7000']}]
";

/// Beyond what a sidecar does unasked.
const RETRIES: &str = "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: [web]
  http:
  - retries: {attempts: 3, retryOn: 'gateway-error,connect-failure,reset'}
    route: [{destination: {host: web}}]
";

/// What is in use goes on; what was never used is told so in its own words; the outside needs nobody.
#[test]
fn the_control_plane() {
    let lab = Lab::with_outside(&format!("{MESH}{RETRIES}"));
    let mut mesh = lab.up();
    let mut holder = lab.hold(
        "holder",
        &[
            "tcp:5:greeter:7000",
            "ws:5:web:8000",
            "http:5:web:8000",
            "get:5:web:8000",
            "get:1:outside.example:80",
        ],
    );
    let outside = [
        "outside_by_a_new_name",
        "outside_by_address",
        "no_such_name",
    ];
    let checks = |first: &'static str| [&[first][..], &outside].concat();
    let mut silent = lab.probe("when_silent", &checks("first_use_while_silent"));
    let mut dead = lab.probe("when_dead", &checks("first_use_while_dead"));

    let control = lab.process(&mesh, "control --config");
    signal_pid(control, libc::SIGSTOP).unwrap();
    lab.write("silent", "");
    let status = silent.wait(PATIENCE);
    assert!(status.success(), "{}", silent.report());

    // Every one that `up` starts instead is killed as well, for as long as the probe needs.
    signal_pid(control, libc::SIGKILL).unwrap();
    mesh.line_with("the control plane ended", PATIENCE);
    lab.write("dead", "");
    let status = wait::until(PATIENCE, "the probe", || {
        if let Some(next) = below(mesh.pid(), "control --config") {
            // It may be gone by itself.
            let _ = signal_pid(next, libc::SIGKILL);
        }
        dead.exited()
    });
    assert!(status.success(), "{}", dead.report());

    wait::until_true(PATIENCE, "the control plane's return", || {
        lab.passes("late", "unused")
    });
    std::thread::sleep(Duration::from_secs(2));
    lab.write("stop", "");
    holder.wait(PATIENCE);
    assert!(
        holder.stdout().contains("and lost 0"),
        "{}",
        holder.report()
    );
    eprintln!("{}{}{}", silent.stdout(), dead.stdout(), holder.stdout());
    assert!(mesh.terminate(PATIENCE).success(), "{}", mesh.report());
}

#[test]
fn one_replica() {
    a_replica_of(&format!("{MESH}{RETRIES}"));
}

/// What the replica's own sidecar met, its caller's takes elsewhere.
#[test]
fn one_replica_without_a_retry_policy() {
    a_replica_of(MESH);
}

fn a_replica_of(services: &str) {
    let lab = Lab::new(services);
    let mut mesh = lab.up();
    let mut holder = lab.hold("holder", &["get:10:web:8000", "http:5:web:8000"]);
    for part in ["keeper web-0", "peers.py web 8080"] {
        signal_pid(lab.process(&mesh, part), libc::SIGKILL).unwrap();
        std::thread::sleep(Duration::from_secs(2));
    }
    lab.write("stop", "");
    holder.wait(PATIENCE);
    assert!(
        holder.stdout().contains("and lost 0"),
        "{}",
        holder.report()
    );
    eprintln!("{}", holder.stdout());
    assert!(mesh.terminate(PATIENCE).success(), "{}", mesh.report());
}

/// What is under way may go on for as long as is said, in the mesh file or at one workload, and no longer.
#[test]
fn a_drain_lasts_as_long_as_is_said() {
    let lab = Lab::new(
        "
  terminationDrainDuration: 1s
  services:
  - name: greeter
    ports: [{name: tcp, port: 7000}]
    workloads: [{command: [python3, peers.py, greeter, '7000']}]
",
    );
    let mut mesh = lab.up();
    let late = [
        "run",
        "--service",
        "late",
        "--port",
        "tcp=7005",
        "--drain-time",
        "3s",
        "--",
        "python3",
        "peers.py",
        "greeter",
        "7005",
    ];
    let mut late = lab.spawn(&late);
    let mut waiting = lab.spawn(&["wait", "late", "greeter"]);
    assert!(waiting.wait(PATIENCE).success(), "{}", waiting.report());
    let _held = lab.hold("holder", &["tcp:1:late:7005", "tcp:1:greeter:7000"]);
    // Who has joined is on the mesh's one page of metrics.
    let said = mesh.stdout();
    let metrics = said
        .split_whitespace()
        .find_map(|word| word.strip_prefix("http://")?.strip_suffix("/metrics"))
        .unwrap_or_else(|| panic!("{}", mesh.report()));
    let page = http::get(metrics, "mesh", "/metrics").unwrap().text();
    for instance in ["late-0.default", "holder-0.default", "greeter-0.default"] {
        let up = format!("up{{instance=\"{instance}\"}} 1");
        assert!(page.contains(&up), "{instance}: {page}");
    }
    let took = |process: &mut Guard| {
        let begun = Instant::now();
        process.terminate(PATIENCE);
        begun.elapsed()
    };
    let run = took(&mut late);
    assert!((3..9).contains(&run.as_secs()), "{run:?}");
    let up = took(&mut mesh);
    assert!((1..8).contains(&up.as_secs()), "{up:?}");
}
