//! The seed scenario: with the configuration every order succeeds, without it orders fail.

use std::process::{Command, Output};

use ripstop_testkit::{program, root};

use crate::bench::{Bench, Caller, callers, text};

/// Copies the example to where the caller may read it, runs `mesh` and places orders.
fn place(caller: Caller, mesh: &str) -> Output {
    program("ruby");
    let bench = Bench::new(caller, "");
    let copied = Command::new(program("cp"))
        .arg("-r")
        .arg(root().join("examples/orders"))
        .arg(bench.path("orders"))
        .status();
    assert!(copied.unwrap().success());
    let file = format!("orders/{mesh}");
    bench.run(&["up", &file, "--exec", "python3 orders/check.py"])
}

#[test]
fn with_the_configuration_every_order_succeeds() {
    for caller in callers() {
        let output = place(caller, "mesh.yaml");
        let said = text(&output.stdout);
        assert!(output.status.success(), "{said}");
        assert!(
            said.contains("one at a time: 20 of 20") && said.contains("at once: 50 of 50"),
            "{said}"
        );
    }
}

#[test]
fn without_it_orders_fail() {
    for caller in callers() {
        let output = place(caller, "mesh-without-retries.yaml");
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("failed: "), "{said}");
    }
}
