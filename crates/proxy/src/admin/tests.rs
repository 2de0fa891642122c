use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use ripstop_telemetry::{Registry, Scope};
use ripstop_testkit::http::{self, Response};
use ripstop_testkit::wait;
use serde_json::Value;

use super::*;

const BOOTSTRAP: &str = r#"
static_resources:
  listeners:
  - name: web
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            name: r
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /}
                route: {cluster: users}
  clusters:
  - name: users
    type: STATIC
    connect_timeout: 1s
    circuit_breakers: {thresholds: [{max_connections: 7}]}
    load_assignment:
      cluster_name: users
      endpoints:
      - locality: {region: r1, zone: z1}
        lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9}}, hostname: one}
        - health_status: UNHEALTHY
          endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 10}}}
"#;

#[derive(Default)]
struct Remembered(Mutex<String>);

impl Levels for Remembered {
    fn current(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    fn set(&self, filter: &str) -> Result<(), String> {
        match filter {
            "bad" => Err("bad is not a filter".to_owned()),
            good => {
                *self.0.lock().unwrap() = good.to_owned();
                Ok(())
            }
        }
    }
}

struct Proxy {
    running: crate::Running,
    pages: SocketAddr,
    metrics: SocketAddr,
    readiness: SocketAddr,
    admin: Admin,
}

fn bind() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn start() -> Proxy {
    let parsed =
        ripstop_wire::bootstrap::parse(BOOTSTRAP).unwrap_or_else(|error| panic!("{error}"));
    let running = crate::run(crate::Options {
        workers: 1,
        snapshot: Arc::new(parsed.snapshot()),
        demand: None,
        sidecar: None,
        node: "n1".into(),
        registry: Registry::new(ripstop_telemetry::metrics::Limits::default()),
        spans: None,
        workload: None,
        secrets: Vec::new(),
        identity: None,
        drain_time: Duration::from_secs(5),
        most: crate::admission::Most::UNLIMITED,
    })
    .unwrap();
    wait::until_true(wait::GENEROUS, "ready", || running.ready());
    let ((all, pages), (some, metrics), (one, readiness)) = (bind(), bind(), bind());
    let admin = serve(Options {
        shared: running.shared.clone(),
        listeners: vec![
            (all, Face::Admin),
            (some, Face::Metrics),
            (one, Face::Readiness),
        ],
        levels: Some(Arc::new(Remembered::default())),
        node: Node {
            id: "n1".to_owned(),
            ..Node::default()
        },
        is_static: true,
    })
    .unwrap();
    Proxy {
        running,
        pages,
        metrics,
        readiness,
        admin,
    }
}

impl Proxy {
    fn get(&self, path: &str) -> Response {
        http::get(self.pages, "admin", path).unwrap()
    }

    fn post(&self, path: &str) -> Response {
        http::request(self.pages, "POST", "admin", path, &[], b"").unwrap()
    }

    fn json(&self, path: &str) -> Value {
        let response = self.get(path);
        assert_eq!(response.status, 200, "{path}");
        assert_eq!(response.header("content-type"), Some("application/json"));
        serde_json::from_str(&response.text()).unwrap()
    }
}

#[test]
fn readiness_follows_the_proxy() {
    let proxy = start();
    let ready = |address| {
        http::get(address, "probe", "/healthz/ready")
            .unwrap()
            .status
    };
    let answer = proxy.get("/ready");
    assert_eq!((answer.status, answer.text().as_str()), (200, "LIVE\n"));
    for address in [proxy.pages, proxy.metrics, proxy.readiness] {
        assert_eq!(ready(address), 200);
    }
    assert_eq!(proxy.post("/healthcheck/fail").status, 200);
    assert_eq!(proxy.get("/ready").status, 503);
    assert_eq!(proxy.post("/healthcheck/ok").status, 200);
    assert_eq!(ready(proxy.readiness), 200);
    assert_eq!(proxy.post("/drain_listeners?graceful").status, 200);
    assert_eq!(ready(proxy.readiness), 503);
    assert_eq!(proxy.get("/ready").text(), "DRAINING\n");
    assert_eq!(proxy.json("/server_info")["state"], "DRAINING");
}

#[test]
fn what_changes_something_wants_post() {
    let proxy = start();
    for page in PAGES.iter().filter(|page| page.changes) {
        let answer = proxy.get(page.path);
        assert_eq!(answer.status, 405, "{}", page.path);
        assert!(answer.text().contains("POST"));
    }
    assert!(proxy.running.ready());
    let unknown = proxy.get("/nonsense");
    assert_eq!(unknown.status, 404);
    assert!(unknown.text().contains("/config_dump"));
    assert_eq!(
        http::get(proxy.metrics, "m", "/config_dump")
            .unwrap()
            .status,
        404
    );
    assert_eq!(
        http::get(proxy.readiness, "m", "/metrics").unwrap().status,
        404
    );
    assert_eq!(proxy.get("/").text(), proxy.get("/help").text());
}

#[test]
fn counters_are_found_by_name_and_by_pattern() {
    let proxy = start();
    let stats = proxy.running.shared.registry.stats();
    let used = stats.counter(Scope::Cluster("users"), "probes_test_used");
    let unused = stats.counter(Scope::Cluster("users"), "probes_test_unused");
    used.add(3);
    let text = proxy.get("/stats?filter=probes_test").text();
    assert_eq!(
        text,
        "cluster.users.probes_test_unused: 0\ncluster.users.probes_test_used: 3\n"
    );
    let text = proxy
        .get("/stats?filter=^cluster%5C..*_test&usedonly")
        .text();
    assert_eq!(text, "cluster.users.probes_test_used: 3\n");
    let json = proxy.json("/stats?format=json&filter=test_used");
    assert_eq!(json["stats"][0]["name"], "cluster.users.probes_test_used");
    assert_eq!(json["stats"][0]["value"], 3);
    assert_eq!(proxy.get("/stats?filter=(").status, 400);
    for (address, path) in [
        (proxy.pages, "/stats?format=prometheus"),
        (proxy.pages, "/stats/prometheus"),
        (proxy.metrics, "/stats/prometheus"),
        (proxy.metrics, "/metrics"),
    ] {
        let answer = http::get(address, "m", path).unwrap();
        let line = "envoy_cluster_probes_test_used{envoy_cluster_name=\"users\"} 3\n";
        assert!(answer.text().contains(line), "{path}");
        assert!(
            answer
                .header("content-type")
                .unwrap()
                .contains("version=0.0.4")
        );
    }
    drop(unused);
}

#[test]
fn clusters_show_limits_members_and_their_health() {
    let proxy = start();
    let text = proxy.get("/clusters").text();
    for line in [
        "users::observability_name::users",
        "users::default_priority::max_connections::7",
        "users::high_priority::max_connections::1024",
        "users::127.0.0.1:9::health_flags::healthy",
        "users::127.0.0.1:9::hostname::one",
        "users::127.0.0.1:9::zone::z1",
        "users::127.0.0.1:9::rq_active::0",
        "users::127.0.0.1:10::health_flags::/failed_eds_health",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    let json = proxy.json("/clusters?format=json");
    let hosts = &json["cluster_statuses"][0]["host_statuses"];
    assert_eq!(hosts[0]["address"]["socket_address"]["port_value"], 9);
    assert_eq!(hosts[1]["health_status"]["failed_eds_health"], true);
}

#[test]
fn the_configuration_is_shown_as_envoy_would() {
    let proxy = start();
    let listeners = proxy.get("/listeners").text();
    let bound = proxy.running.address("web").unwrap();
    assert_eq!(listeners, format!("web::{bound}\n"));
    let json = proxy.json("/listeners?format=json");
    assert_eq!(
        json["listener_statuses"][0]["local_address"]["socket_address"]["port_value"],
        bound.port()
    );
    let dump = proxy.json("/config_dump").to_string();
    for name in [
        "ClustersConfigDump",
        "ListenersConfigDump",
        "http_connection_manager",
    ] {
        assert!(dump.contains(name), "{name}");
    }
    let one = proxy.json("/config_dump?resource=static_clusters&name_regex=^us");
    assert_eq!(one["configs"][0]["cluster"]["name"], "users");
    let none = proxy.json("/config_dump?resource=static_clusters&name_regex=^x");
    assert_eq!(none["configs"], serde_json::json!([]));
    assert_eq!(proxy.json("/certs")["certificates"], serde_json::json!([]));
    assert_eq!(proxy.json("/server_info")["node"]["id"], "n1");
    let memory = proxy.json("/memory");
    assert!(
        memory["total_physical_bytes"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 0
    );
}

#[test]
fn logging_is_shown_and_changed() {
    let proxy = start();
    assert_eq!(
        proxy.post("/logging?level=warning").text(),
        "active filter: warn\n"
    );
    assert_eq!(proxy.post("/logging").text(), "active filter: warn\n");
    let wrong = proxy.post("/logging?filter=bad");
    assert_eq!(wrong.status, 400);
    assert!(wrong.text().contains("bad is not a filter"));
}

#[tokio::test]
async fn quitting_is_told_to_the_process() {
    let proxy = start();
    assert_eq!(proxy.post("/quitquitquit").text(), "OK\n");
    tokio::time::timeout(wait::GENEROUS, proxy.admin.quit())
        .await
        .unwrap();
    let address = proxy.pages;
    drop(proxy.admin);
    assert!(http::get(address, "admin", "/ready").is_err());
}
