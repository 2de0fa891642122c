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

/// One scrape tells of every sidecar, from both ends of each call.
#[test]
fn one_scrape_covers_the_mesh() {
    let bench = Bench::new(callers()[0], crate::bench::MESH);
    let script = "import os, urllib.request as http\n\
                  for _ in range(5): http.urlopen('http://hello/').read()\n\
                  print(http.urlopen(os.environ['RIPSTOP_METRICS']).read().decode())";
    bench.write("scrape.py", script);
    let output = bench.run(&["up", "mesh.yaml", "--exec", "python3 scrape.py"]);
    let page = text(&output.stdout);
    assert!(output.status.success(), "{page}");
    let requests = |words: &[&str]| -> f64 {
        let lines = page
            .lines()
            .filter(|line| line.starts_with("istio_requests_total{"));
        let lines = lines.filter(|line| words.iter().all(|word| line.contains(word)));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    };
    assert_eq!(
        requests(&["reporter=\"source\"", "instance=\"client-0.default\""]),
        5.0,
        "{page}"
    );
    assert_eq!(
        requests(&[
            "reporter=\"destination\"",
            "instance=\"hello-v1-",
            "source_principal=\"spiffe://cluster.local/ns/default/sa/client\""
        ]),
        5.0,
        "{page}"
    );
    assert!(page.contains("up{instance=\"control-plane\"} 1"), "{page}");
}
