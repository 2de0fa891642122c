//! The seed scenario, end to end on real programs: `ripstop up examples/orders/mesh.yaml --exec …`.
//!
//! An order service in Ruby without retry code calls a user service in Python that fails up to three times for every user.
//! With the configuration every order succeeds, without it orders fail; between the two sidecars there is only TLS; both
//! sidecars tell their spans; nothing is left behind.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ripstop_testkit::capture::{self, Capture};
use ripstop_testkit::example;
use ripstop_testkit::leftovers::{self, Machine};
use ripstop_testkit::otlp::Collector;
use ripstop_testkit::process::Guard;

/// A loaded machine is slow; only a hang takes longer.
const PATIENCE: Duration = Duration::from_secs(180);

/// A copy of the example whose spans go to `collector`.
fn orders(folder: &Path, mesh: &str, collector: &Collector) -> PathBuf {
    let file = example::orders(folder).join(mesh);
    let traced = format!("spec:\n  tracing: {{otlp: \"{}\"}}\n", collector.endpoint());
    example::change(&file, "spec:\n", &traced);
    file
}

fn up(mesh: &Path, state: &Path) -> Guard {
    let check = mesh.with_file_name("check.py");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ripstop"));
    command.arg("up").arg(mesh).arg("--state").arg(state);
    command
        .arg("--exec")
        .arg(format!("python3 {}", check.display()));
    Guard::spawn("up", &mut command)
}

/// One test, because what is left on the machine can only be told when no other test of this file runs.
#[test]
fn orders_succeed_because_of_the_mesh_and_fail_without_it() {
    with_the_configuration();
    without_it();
}

fn with_the_configuration() {
    ripstop_testkit::program("ruby");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let collector = Collector::start();
    let before = Machine::now();
    let wire = Capture::start("lo", "net 127.88.0.0/16");

    let mut mesh = up(
        &orders(folder.path(), "mesh.yaml", &collector),
        &folder.path().join("with"),
    );
    let marker = mesh.marker().to_owned();
    let status = mesh.wait(PATIENCE);
    let said = mesh.report();
    assert!(status.success(), "{said}");
    assert!(
        said.contains("20 of 20 orders succeeded") && said.contains("50 of 50 orders succeeded"),
        "{said}"
    );

    let bytes = wire.stop();
    assert!(
        bytes.len() > 100_000,
        "only {} bytes were captured between the sidecars",
        bytes.len()
    );
    assert!(
        bytes.windows(3).any(|window| window == [0x17, 0x03, 0x03]),
        "no TLS application data"
    );
    for secret in ["/users/", "/orders", "HTTP/1.1", "user-service-v1"] {
        assert!(
            !capture::contains(&bytes, secret),
            "`{secret}` went over the wire in plain text"
        );
    }

    let spans = collector.spans();
    let of = |service: &str, kind: u64| {
        spans
            .iter()
            .filter(|s| {
                s.kind == kind
                    && s.resource
                        .get("service.name")
                        .is_some_and(|n| n.starts_with(service))
            })
            .count()
    };
    assert!(
        of("orders", 3) > 0,
        "no client span of the order service's sidecar in {} spans",
        spans.len()
    );
    assert!(
        of("user-service", 2) > 0,
        "no server span of the user service's sidecar in {} spans",
        spans.len()
    );

    assert_eq!(leftovers::processes(&marker), Vec::new());
    // A namespace lives by its processes, of which none is left; those of other meshes on the machine are not ours to judge.
    let left = Machine {
        namespaces: Default::default(),
        ..Machine::now().since(&before)
    };
    assert!(left.is_empty(), "{left:?}");
}

fn without_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let collector = Collector::start();
    let mesh = orders(folder.path(), "mesh-without-retries.yaml", &collector);
    let mut mesh = up(&mesh, &folder.path().join("without"));
    let status = mesh.wait(PATIENCE);
    assert_eq!(status.code(), Some(1), "{}", mesh.report());
    assert!(mesh.report().contains("failed:"), "{}", mesh.report());
}
