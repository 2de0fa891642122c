//! A stock Envoy as the sidecar of one workload, in a mesh whose other sidecars are ripstop's: configured by `ripstop control`,
//! certified by `ripstop agent`, asked and asking over mesh mTLS that is STRICT.
//!
//! Everything runs in a network namespace of the test's own, in which the mesh's addresses are local: so Envoy can listen on them
//! and no rule redirects anything.

#[path = "envoy/mesh.rs"]
mod mesh;
#[path = "envoy/namespace.rs"]
mod namespace;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use ripstop_testkit::envoy::Envoy;
use ripstop_testkit::upstream::Upstream;
use ripstop_testkit::{http, wait};
use serde_json::Value;

use mesh::{Mesh, PATIENCE};

const ADMIN: &str = "127.0.0.1:15900";

#[test]
fn by_delta() {
    namespace::inside("by_delta", || serves("delta"));
}

#[test]
fn by_state_of_the_world() {
    namespace::inside("by_state_of_the_world", || serves("sotw"));
}

fn serves(protocol: &str) {
    let mesh = Mesh::start();
    let app = Upstream::always(200, "from behind envoy");
    let agent = mesh.agent(protocol, app.port(), ADMIN);
    let admin: SocketAddr = ADMIN.parse().unwrap();
    let envoy = Envoy::start(&agent.bootstrap(), admin);

    accepts_everything(&mesh, &envoy, protocol);
    is_certified(&envoy);
    answers_ripstop(&mesh, &app, &envoy);
    asks_ripstop(&mesh, &envoy);
    follows(&mesh, &envoy);
    drop(envoy);
    agent.stop();
    wait::until_true(PATIENCE, "the mesh to forget the workload", || {
        mesh.workload("legacy-0.default").is_none()
    });
}

/// By name, as Envoy says and as the control plane has it from Envoy.
fn accepts_everything(mesh: &Mesh, envoy: &Envoy, protocol: &str) {
    let expected = mesh.expected();
    assert!(mesh.services().len() >= 20);
    wait::until_true(PATIENCE, "Envoy to hold everything", || {
        let held = held(envoy);
        let missing: Vec<_> = expected.difference(&held).take(5).collect();
        if !missing.is_empty() {
            eprintln!("{} held, missing {missing:?}", held.len());
        }
        missing.is_empty()
    });
    nothing_rejected(envoy);
    wait::until_true(PATIENCE, "the control plane to know it", || {
        let status = mesh.api("/v1/status");
        let proxies = status["proxies"].as_array().unwrap();
        let Some(proxy) = proxies.iter().find(|p| p["workload"] == "legacy-0.default") else {
            return false;
        };
        assert_eq!(proxy["rejected"], Value::Array(Vec::new()), "{proxy:#}");
        assert_eq!(proxy["protocol"], protocol);
        assert_eq!(
            proxy["identity"],
            "spiffe://cluster.local/ns/default/sa/legacy"
        );
        assert!(
            proxy["agent"].as_str().unwrap().starts_with("envoy 1."),
            "{proxy:#}"
        );
        let types = proxy["types"].as_array().unwrap();
        let settled = types.iter().all(|kind| kind["resources"] == kind["acked"]);
        settled && proxy["acked_revision"] == status["revision"]
    });
}

fn nothing_rejected(envoy: &Envoy) {
    let stats = envoy.admin("/stats");
    let bad: Vec<&str> = stats
        .lines()
        .filter(|line| line.contains("update_rejected") || line.contains("listener_create_failure"))
        .filter(|line| !line.ends_with(": 0"))
        .collect();
    assert!(bad.is_empty(), "{bad:?}\n{}", envoy.admin("/config_dump"));
    assert_eq!(envoy.stat("listener_manager.lds.update_rejected"), Some(0));
    assert_eq!(envoy.stat("cluster_manager.cds.update_rejected"), Some(0));
}

/// `KIND NAME` of what Envoy's configuration dump calls active.
fn held(envoy: &Envoy) -> BTreeSet<String> {
    let dump: Value = serde_json::from_str(&envoy.admin("/config_dump?include_eds")).unwrap();
    let mut held = BTreeSet::new();
    let mut add = |kind: &str, name: &Value| {
        held.insert(format!("{kind} {}", name.as_str().unwrap_or_default()));
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for part in list(&dump["configs"]) {
        for row in list(&part["dynamic_listeners"]) {
            if !row["active_state"].is_null() && row["error_state"].is_null() {
                add("listener", &row["name"]);
            }
        }
        for row in list(&part["dynamic_active_clusters"]) {
            add("cluster", &row["cluster"]["name"]);
        }
        for row in list(&part["dynamic_route_configs"]) {
            add("route", &row["route_config"]["name"]);
        }
        for row in list(&part["dynamic_endpoint_configs"]) {
            add("endpoints", &row["endpoint_config"]["cluster_name"]);
        }
    }
    held
}

fn is_certified(envoy: &Envoy) {
    let certificates = envoy.admin("/certs");
    for identity in ["spiffe://cluster.local/ns/default/sa/legacy", "\"ca_cert\""] {
        assert!(certificates.contains(identity), "{certificates}");
    }
}

/// From a ripstop sidecar to Envoy.
fn answers_ripstop(mesh: &Mesh, app: &Upstream, envoy: &Envoy) {
    wait::until_true(PATIENCE, "the workload to take traffic", || {
        mesh.workload("legacy-0.default")
            .is_some_and(|workload| workload["readiness"] == "ready")
    });
    let answer = mesh.ask_as("caller", "http://legacy/orders/1");
    assert_eq!(answer, "200 from behind envoy");
    let request = app.requests().pop().unwrap();
    assert_eq!(request.target(), "/orders/1");
    let chain = request
        .header("x-forwarded-client-cert")
        .unwrap_or_default();
    assert!(
        chain.contains("URI=spiffe://cluster.local/ns/default/sa/caller"),
        "{chain}"
    );
    // The policy lets callers in, and Envoy enforces it.
    let answer = mesh.ask_as("stranger", "http://legacy/orders/2");
    assert!(answer.starts_with("403 "), "{answer}");
    assert_eq!(app.requests().len(), 1);
    let inbound = mesh.inbound("legacy-0.default");
    refuses_plain_text(inbound);
    let handshakes = envoy
        .admin("/stats")
        .lines()
        .filter(|line| {
            line.starts_with("listener.127.88.") && line.contains("ssl.versions.TLSv1.3: ")
        })
        .any(|line| !line.ends_with(": 0"));
    assert!(handshakes, "{}", envoy.admin("/stats?filter=listener.*ssl"));
}

/// From Envoy to a ripstop sidecar.
fn asks_ripstop(mesh: &Mesh, envoy: &Envoy) {
    let vip = mesh.vip("hello.default.svc.cluster.local");
    wait::until_true(PATIENCE, "Envoy to reach the service", || {
        http::get(vip, "hello", "/").is_ok_and(|answer| answer.status == 200)
    });
    let answer = http::get(vip, "hello", "/users/7").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen: Value = serde_json::from_str(&answer.text()).unwrap();
    assert_eq!(seen["path"], "/users/7");
    let chain = seen["headers"]["x-forwarded-client-cert"].to_string();
    assert!(
        chain.contains("URI=spiffe://cluster.local/ns/default/sa/legacy"),
        "{seen:#}"
    );
    let name = "cluster.outbound|80||hello.default.svc.cluster.local.ssl";
    assert!(
        envoy.stat(&format!("{name}.versions.TLSv1.3")) >= Some(1),
        "{}",
        envoy.admin("/stats?filter=hello.*ssl")
    );
    assert_eq!(envoy.stat(&format!("{name}.fail_verify_san")), Some(0));
    refuses_plain_text(mesh.inbound("hello-0.default"));
    // Of a workload of the same mesh, whose identity the policy does not name.
    let answer = mesh.ask_as("caller", "http://hello/users/7");
    assert!(answer.starts_with("403 "), "{answer}");
}

fn refuses_plain_text(address: SocketAddr) {
    match http::get(address, "anything", "/") {
        Ok(answer) => panic!("{address} answers {} to plain text", answer.status),
        Err(error) => assert_ne!(
            error.kind(),
            std::io::ErrorKind::ConnectionRefused,
            "{error}"
        ),
    }
}

/// A live change reaches Envoy and disturbs nothing.
fn follows(mesh: &Mesh, envoy: &Envoy) {
    let before = mesh.expected();
    mesh.write(
        "more.yaml",
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: newcomer}
spec:
  hosts: [newcomer.example.com]
  resolution: STATIC
  ports: [{name: http, number: 80, protocol: HTTP}]
  endpoints: [{address: 127.0.0.9}]
",
    );
    wait::until_true(PATIENCE, "the newcomer", || {
        held(envoy).contains("cluster outbound|80||newcomer.example.com")
    });
    let after = mesh.expected();
    assert!(after.len() > before.len());
    wait::until_true(PATIENCE, "all of it", || after.is_subset(&held(envoy)));
    nothing_rejected(envoy);
    let vip = mesh.vip("hello.default.svc.cluster.local");
    assert_eq!(http::get(vip, "hello", "/").unwrap().status, 200);
}
