//! What a mesh tells of its traffic, read by Prometheus' own parser, on every port that has it.

use std::process::Command;

use ripstop_testkit::wait;

use crate::bench::{Bench, PATIENCE, callers, text};

const MESH: &str = "
apiVersion: ripstop.dev/v1alpha1
kind: Mesh
metadata: {name: observed}
spec:
  services:
  - name: hello
    ports: [{name: http, port: 80, targetPort: 8080}]
    workloads: [{name: hello-v1, command: [python3, -m, http.server, '8080']}]
  - name: echo
    ports: [{name: tcp, port: 7000}]
    workloads: [{command: [python3, echo.py]}]
  - name: client
    workloads: [{command: [python3, traffic.py]}]
";

const ECHO: &str = "
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(4096): self.request.sendall(data)
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(('', 7000), Echo).serve_forever()
";

/// Once it may: five requests, and a connection that stays until it is told to end.
const TRAFFIC: &str = "
import os, socket, time, urllib.request as http
def await_file(name):
    while not os.path.exists(name): time.sleep(0.05)
await_file('go')
for _ in range(5): http.urlopen('http://hello/').read()
held = socket.create_connection(('echo', 7000))
held.sendall(b'x' * 1000)
got = 0
while got < 1000: got += len(held.recv(4096))
print('held', flush=True)
await_file('stop')
held.close()
time.sleep(600)
";

#[test]
fn every_page_is_prometheus_and_says_who_called_whom() {
    let bench = Bench::new(callers()[0], MESH);
    bench.write("echo.py", ECHO);
    bench.write("traffic.py", TRAFFIC);
    let mut mesh = bench.up();
    let said = mesh.stdout();
    let metrics = said
        .split_whitespace()
        .find_map(|word| word.strip_prefix("http://")?.strip_suffix("/metrics"))
        .unwrap_or_else(|| panic!("{}", mesh.report()))
        .to_owned();
    bench.write("go", "");
    mesh.line_with("held", PATIENCE);
    // Debian's own Python has Debian's own parser.
    let mut reader = Command::new("/usr/bin/python3");
    let reader = reader
        .args(["-c", include_str!("observed.py"), &metrics, "3"])
        .output()
        .unwrap();
    let (out, err) = (text(&reader.stdout), text(&reader.stderr));
    assert!(
        !err.contains("No module named"),
        "python3-prometheus-client is missing: run scripts/prerequisites.sh test\n{err}"
    );
    assert!(out.contains("all read"), "{out}{err}");
    bench.write("stop", "");
    // The connection's end is told too.
    let closed = "istio_tcp_connections_closed_total{";
    wait::until_true(PATIENCE, "the end of the connection", || {
        let page = ripstop_testkit::http::get(metrics.as_str(), "mesh", "/metrics");
        let page = page.map(|page| page.text()).unwrap_or_default();
        page.lines().any(|line| {
            line.starts_with(closed)
                && line.contains("reporter=\"destination\"")
                && line.contains("destination_service_name=\"echo\"")
                && line.ends_with(" 1")
        })
    });
    assert!(mesh.terminate(PATIENCE).success(), "{}", mesh.report());
}
