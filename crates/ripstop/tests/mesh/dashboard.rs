//! The dashboard of a mesh that works: what it tells programs, and whom it tells nothing.

use std::net::{SocketAddr, TcpListener};

use ripstop_testkit::http::{self, Client};
use ripstop_testkit::process::Guard;
use ripstop_testkit::{program, wait};
use serde_json::Value;

use crate::bench::{Bench, MESH, PATIENCE, callers, nothing_left, text};

/// A caller beside the two services, and a resource with a warning.
fn mesh() -> String {
    program("curl");
    let caller = "  - name: caller
    workloads: [{command: [sh, -c, 'while :; do curl -s -o /dev/null http://hello/; sleep 0.05; done']}]
";
    let strict = "---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: hello}
spec:
  selector: {matchLabels: {app: hello}}
  mtls: {mode: STRICT}
";
    format!("{MESH}{caller}{strict}")
        .replace("replicas: 2", "replicas: 2\n      labels: {app: hello}")
}

/// A mesh that is up, and where its dashboard is.
fn up(bench: &Bench) -> (Guard, SocketAddr) {
    let mut mesh = bench.spawn(&["up", "mesh.yaml", "--dashboard", "0"]);
    mesh.line_with("stop      ripstop down", PATIENCE);
    let line = mesh.line_with("dashboard http://", PATIENCE);
    let at = line.trim().trim_start_matches("dashboard http://");
    let at = at.trim_end_matches('/').parse().expect("an address");
    (mesh, at)
}

fn part(at: SocketAddr, name: &str) -> Value {
    let response = http::get(at, "localhost", &format!("/api/{name}")).unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    serde_json::from_str(&response.text()).unwrap()
}

fn items(part: &Value) -> &Vec<Value> {
    part["items"].as_array().unwrap()
}

/// The pair that the caller makes, once it flows.
fn flowing(traffic: &Value) -> Option<Value> {
    let pair = items(traffic)
        .iter()
        .find(|pair| pair["source"] == "caller" && pair["destination"] == "hello")?;
    (pair["requestsPerSecond"].as_f64()? > 0.0).then(|| pair.clone())
}

#[test]
fn a_working_mesh_is_shown_as_it_is() {
    let bench = Bench::new(callers()[0], &mesh());
    let (mut mesh, at) = up(&bench);
    let pair = wait::until(PATIENCE, "traffic between caller and hello", || {
        flowing(&part(at, "traffic")).filter(|pair| pair["mutualTlsPercent"].is_number())
    });
    assert_eq!(pair["successPercent"], 100.0, "{pair}");
    assert_eq!(pair["mutualTlsPercent"], 100.0, "{pair}");
    assert!(pair["p99Milliseconds"].as_f64().unwrap() > 0.0, "{pair}");

    let services = part(at, "services");
    let hello = items(&services).iter().find(|s| s["name"] == "hello");
    let hello = hello.expect("the service");
    assert_eq!(hello["ready"].as_array().unwrap().len(), 2, "{hello}");
    let workloads = part(at, "workloads");
    let ours = items(&workloads)
        .iter()
        .find(|w| w["id"] == "hello-v1-0.default");
    let ours = ours.expect("the workload");
    assert_eq!(ours["state"], "ready");
    assert_eq!(
        ours["identity"],
        "spiffe://cluster.local/ns/default/sa/hello"
    );
    assert_eq!(ours["ports"][0]["mutualTls"], "strict");
    let whole: Value = {
        let response = http::get(at, &at.to_string(), "/api").unwrap();
        serde_json::from_str(&response.text()).unwrap()
    };
    assert_eq!(whole["mesh"]["name"], "tested");
    assert_eq!(items(&whole["proxies"]).len(), 4, "{}", whole["proxies"]);
    let standing = items(&whole["resources"])
        .iter()
        .find(|r| r["resource"] == "PeerAuthentication/default/hello");
    assert_eq!(standing.expect("the resource")["accepted"], true);
    assert!(mesh.terminate(PATIENCE).success());
    nothing_left(&bench.state().display().to_string(), &bench.path("ripstop"));
}

#[test]
fn events_follow_the_mesh_and_end_with_it() {
    let bench = Bench::new(callers()[0], &mesh());
    let (mut mesh, at) = up(&bench);
    let mut stream = Client::connect(at);
    stream.send(b"GET /api/events HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let mut seen = String::new();
    let mut next = |data: &str| loop {
        while !seen.ends_with('\n') || seen.is_empty() {
            seen.push_str(&text(&stream.bytes(1).expect("the stream goes on")));
        }
        let line = std::mem::take(&mut seen);
        if let Some(json) = line
            .strip_prefix("data: ")
            .filter(|json| json.contains(data))
        {
            return serde_json::from_str::<Value>(json).unwrap();
        }
    };
    wait::until(PATIENCE, "an event that shows the traffic", || {
        flowing(&next("requestsPerSecond"))
    });
    bench.write(
        "broken.yaml",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: odd}\nspec:\n  hosts: [hello]\n  http: [{name: '<b>', route: [{destination: {host: nowhere}}]}]\n",
    );
    // Accepted, with a finding: stored and shown, and the exit code says that it does not work.
    assert_eq!(bench.run(&["apply", "broken.yaml"]).status.code(), Some(1));
    let resources = next("VirtualService/default/odd");
    assert!(
        items(&resources)
            .iter()
            .any(|r| r["resource"] == "VirtualService/default/odd")
    );
    // An open stream does not keep the mesh.
    assert!(mesh.terminate(PATIENCE).success());
    nothing_left(&bench.state().display().to_string(), &bench.path("ripstop"));
}

#[test]
fn strangers_learn_nothing() {
    let bench = Bench::new(callers()[0], MESH);
    let (mut mesh, at) = up(&bench);
    let rebound = http::get(at, "evil.example", "/api").unwrap();
    assert_eq!(rebound.status, 421);
    assert!(!rebound.text().contains("hello"), "{}", rebound.text());
    let origin = [("origin", "http://evil.example")];
    let mut client = Client::connect(at);
    let other = client
        .request("GET", "localhost", "/api", &origin, b"")
        .unwrap();
    assert_eq!(other.status, 403);
    let page = http::get(at, "localhost", "/").unwrap();
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'"), "{policy}");
    assert!(mesh.terminate(PATIENCE).success());
}

#[test]
fn a_place_that_cannot_be_had_is_named_and_starts_nothing() {
    let bench = Bench::new(callers()[0], MESH);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (at, code, words) in [
        (taken.as_str(), 1, "choose another port"),
        ("192.0.2.1:0", 1, "an address that this machine has"),
        ("localhost:80", 2, "write PORT, ADDR:PORT"),
    ] {
        let output = bench.run(&["up", "mesh.yaml", "--dashboard", at]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(words), "{words:?} is not in:\n{said}");
    }
    nothing_left(&bench.state().display().to_string(), &bench.path("ripstop"));
}
