//! Parts that go while traffic runs: the control plane, and one replica of many.

use ripstop_testkit::process::signal_pid;
use ripstop_testkit::upstream::Upstream;
use ripstop_testkit::wait;
use std::time::Duration;

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
  - name: greeter
    ports: [{port: 7000}]
    workloads: [{command: [python3, peers.py, greeter, '7000']}]
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

#[test]
fn the_control_plane() {
    let lab = Lab::new(MESH);
    let outside = Upstream::always(200, "outside");
    let mut mesh = lab.up();
    let mut holder = lab.hold_with(
        "holder",
        &["--host-port", &outside.port().to_string()],
        &[
            "tcp:5:greeter:7000",
            "ws:5:web:8000",
            "http:5:web:8000",
            "get:5:web:8000",
            &format!("get:1:host.ripstop.internal:{}", outside.port()),
        ],
    );
    let mut prober = lab.probe("unknown_in_time");
    let control = lab.process(&mesh, "control --config");
    // Held still, then killed: so there is time to see what works without it.
    signal_pid(control, libc::SIGSTOP).unwrap();
    lab.write("go", "");
    let status = prober.wait(PATIENCE);
    assert!(status.success(), "{}", prober.report());
    signal_pid(control, libc::SIGKILL).unwrap();
    mesh.line_with("the control plane ended", PATIENCE);
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
    eprintln!("{}", holder.stdout());
    assert!(mesh.terminate(PATIENCE).success(), "{}", mesh.report());
}

#[test]
fn one_replica() {
    let lab = Lab::new(MESH);
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
