//! The seed scenario: with the configuration every order succeeds, without it orders fail.

use std::process::Output;

use ripstop_testkit::{example, program};

use crate::bench::{Bench, Caller, callers, text};

/// Copies the example to where the caller may read it, runs `mesh` and places orders.
fn place(caller: Caller, mesh: &str) -> Output {
    program("ruby");
    let bench = Bench::new(caller, "");
    example::orders(&bench.path(""));
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

/// R10.3: between a pair of sidecars the caller's alone tries again, however the application fails, and says so.
#[test]
fn one_sidecar_of_a_pair_tries_again() {
    const MESH: &str = "
apiVersion: ripstop.dev/v1alpha1
kind: Mesh
metadata: {name: failing}
spec:
  services:
  - name: failing
    ports: [{name: http, port: 80, targetPort: 8080}]
    workloads: [{command: [python3, failing.py], replicas: 2}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: failing}
spec:
  hosts: [failing]
  http: [{retries: {attempts: 2, retryOn: gateway-error}, route: [{destination: {host: failing}}]}]
";
    const FAILING: &str = "
import http.server, sys
class Failing(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print('asked', self.path, self.headers['x-ripstop-attempt'], file=sys.stderr, flush=True)
        if self.path == '/says-so':
            self.send_error(503)
        self.close_connection = True
    def log_message(self, *words): pass
http.server.ThreadingHTTPServer(('', 8080), Failing).serve_forever()
";
    const ASK: &str = "
import urllib.request, urllib.error
for path in ['/says-so', '/hangs-up']:
    try:
        urllib.request.urlopen('http://failing' + path, timeout=30)
    except urllib.error.HTTPError as refusal:
        print(refusal.status)
";
    let bench = Bench::new(callers()[0], MESH);
    bench.write("failing.py", FAILING);
    bench.write("ask.py", ASK);
    let output = bench.run(&["up", "mesh.yaml", "--exec", "python3 ask.py"]);
    assert_eq!(text(&output.stdout), "503\n503\n");
    let said = text(&output.stderr);
    for path in ["/says-so", "/hangs-up"] {
        let asked = said.lines().filter_map(|line| line.split_once("asked "));
        let of_path = asked.filter_map(|(_, asked)| asked.strip_prefix(path));
        assert_eq!(of_path.collect::<Vec<_>>(), [" None", " 1", " 2"], "{said}");
    }
}
