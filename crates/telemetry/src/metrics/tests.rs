//! What a scrape shows after given records.

use std::time::{Duration, SystemTime};

use ripstop_model::reason::Reason;

use super::stats::Scope;
use super::{Limits, Registry};
use crate::record::{Kind, Known, Record, Reporter, Security, Service, Workload};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000 + seconds)
}

fn workload(name: &str) -> Known<Workload> {
    Known::new(Workload {
        name: format!("{name}-v1"),
        namespace: "shop".into(),
        principal: format!("spiffe://cluster.local/ns/shop/sa/{name}"),
        app: name.into(),
        version: "v1".into(),
        cluster: "local".into(),
        canonical_service: name.into(),
        canonical_revision: "v1".into(),
    })
}

fn service(name: &str) -> Known<Service> {
    Known::new(Service {
        host: format!("{name}.shop.svc.cluster.local"),
        name: name.into(),
        namespace: "shop".into(),
    })
}

/// The value of the only line with this metric name and all of these labels.
fn value(page: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let mut lines = page.lines().filter(|l| {
        l.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
            && labels.iter().all(|label| l.contains(label))
    });
    let line = lines.next()?;
    assert_eq!(
        lines.next(),
        None,
        "more than one line matches {name} {labels:?}"
    );
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn a_request_as_prometheus_sees_it() {
    let registry = Registry::new(Limits::default());
    let mut shard = registry.shard();
    let (source, destination, called) = (workload("orders"), workload("users"), service("users"));
    let mut record = Record::new(Reporter::Destination, Kind::Http, at(0));
    record.source = &source;
    record.destination = &destination;
    record.service = &called;
    record.security = Security::MutualTls;
    record.status = 200;
    record.timings.total = Duration::from_micros(7_250);
    record.bytes_received = 10;
    record.bytes_sent = 2000;
    shard.request(&record);
    record.timings.total = Duration::from_millis(1);
    shard.request(&record);
    let page = registry.prometheus(at(1));
    let labels = "reporter=\"destination\",source_workload=\"orders-v1\",source_canonical_service=\"orders\",\
source_canonical_revision=\"v1\",source_workload_namespace=\"shop\",\
source_principal=\"spiffe://cluster.local/ns/shop/sa/orders\",source_app=\"orders\",source_version=\"v1\",\
source_cluster=\"local\",destination_workload=\"users-v1\",destination_workload_namespace=\"shop\",\
destination_principal=\"spiffe://cluster.local/ns/shop/sa/users\",destination_app=\"users\",\
destination_version=\"v1\",destination_service=\"users.shop.svc.cluster.local\",\
destination_canonical_service=\"users\",destination_canonical_revision=\"v1\",destination_service_name=\"users\",\
destination_service_namespace=\"shop\",destination_cluster=\"local\",request_protocol=\"http\",\
response_code=\"200\",grpc_response_status=\"\",response_flags=\"-\",connection_security_policy=\"mutual_tls\"";
    let mut want = String::from("# TYPE istio_request_bytes histogram\n");
    let edges = [
        "0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000",
        "30000", "60000", "300000", "600000", "1800000", "3600000",
    ];
    let histogram = |name: &str, from: &[(usize, u64)], sum: &str| {
        let mut out = String::new();
        for (i, edge) in edges.iter().enumerate() {
            let below: u64 = from.iter().filter(|(at, _)| *at <= i).map(|(_, n)| n).sum();
            out += &format!("{name}_bucket{{{labels},le=\"{edge}\"}} {below}\n");
        }
        out += &format!("{name}_bucket{{{labels},le=\"+Inf\"}} 2\n{name}_sum{{{labels}}} {sum}\n");
        out + &format!("{name}_count{{{labels}}} 2\n")
    };
    want += &histogram("istio_request_bytes", &[(3, 2)], "20");
    want += "# TYPE istio_request_duration_milliseconds histogram\n";
    want += &histogram(
        "istio_request_duration_milliseconds",
        &[(1, 1), (3, 1)],
        "8.250",
    );
    want += &format!("# TYPE istio_requests_total counter\nistio_requests_total{{{labels}}} 2\n");
    want += "# TYPE istio_response_bytes histogram\n";
    want += &histogram("istio_response_bytes", &[(10, 2)], "4000");
    assert_eq!(page, want);
}

#[test]
fn workers_are_summed_and_label_sets_kept_apart() {
    let registry = Registry::new(Limits::default());
    let (mut one, mut two) = (registry.shard(), registry.shard());
    let called = service("users");
    let mut record = Record::new(Reporter::Source, Kind::Http, at(0));
    record.service = &called;
    record.status = 200;
    one.request(&record);
    two.request(&record);
    record.status = 503;
    record.decide(Reason::NoHealthyEndpoint, None);
    two.request(&record);
    let page = registry.prometheus(at(1));
    assert_eq!(
        value(
            &page,
            "istio_requests_total",
            &["response_code=\"200\"", "response_flags=\"-\""]
        ),
        Some(2.0)
    );
    assert_eq!(
        value(
            &page,
            "istio_requests_total",
            &["response_code=\"503\"", "response_flags=\"UH\""]
        ),
        Some(1.0)
    );
    assert!(
        page.contains("source_workload=\"unknown\"")
            && page.contains("source_canonical_revision=\"latest\"")
    );
    assert!(page.contains("connection_security_policy=\"unknown\""));
}

#[test]
fn grpc_counts_messages_and_status() {
    let registry = Registry::new(Limits::default());
    let mut shard = registry.shard();
    let mut record = Record::new(Reporter::Source, Kind::Grpc, at(0));
    record.status = 200;
    record.grpc_status = Some(0);
    record.grpc_messages = (3, 5);
    shard.request(&record);
    record.grpc_status = Some(14);
    shard.request(&record);
    let page = registry.prometheus(at(0));
    for status in ["0", "14"] {
        let label = format!("grpc_response_status=\"{status}\"");
        assert_eq!(
            value(&page, "istio_request_messages_total", &[&label]),
            Some(3.0)
        );
        assert_eq!(
            value(&page, "istio_response_messages_total", &[&label]),
            Some(5.0)
        );
    }
    assert!(page.contains("request_protocol=\"grpc\""));
}

#[test]
fn tcp_has_its_own_four() {
    let registry = Registry::new(Limits::default());
    let mut shard = registry.shard();
    let mut record = Record::new(Reporter::Destination, Kind::Tcp, at(0));
    shard.opened(&record);
    shard.moved(&record, 100, 7);
    record.timings.total = Duration::from_secs(5);
    shard.moved(&record, 11, 0);
    shard.closed(&record);
    let page = registry.prometheus(at(6));
    for (name, want) in [
        ("istio_tcp_connections_opened_total", 1.0),
        ("istio_tcp_connections_closed_total", 1.0),
        ("istio_tcp_received_bytes_total", 111.0),
        ("istio_tcp_sent_bytes_total", 7.0),
    ] {
        assert_eq!(
            value(&page, name, &["request_protocol=\"tcp\""]),
            Some(want),
            "{name}"
        );
    }
    assert!(!page.contains("response_code=") && !page.contains("istio_requests_total"));
}

#[test]
fn label_sets_are_bounded() {
    let registry = Registry::new(Limits {
        series: 10,
        ..Limits::default()
    });
    let mut shard = registry.shard();
    for code in 0..100 {
        let mut record = Record::new(Reporter::Source, Kind::Http, at(0));
        record.status = 200 + code;
        shard.request(&record);
        shard.request(&record);
    }
    let page = registry.prometheus(at(1));
    let lines: Vec<_> = page
        .lines()
        .filter(|l| l.starts_with("istio_requests_total{"))
        .collect();
    assert_eq!(lines.len(), 11, "ten, and the overflow");
    let overflow = value(
        &page,
        "istio_requests_total",
        &["response_code=\"overflow\"", "reporter=\"overflow\""],
    );
    assert_eq!(overflow, Some(180.0), "nothing is lost");
}

#[test]
fn idle_label_sets_disappear_and_come_back() {
    let registry = Registry::new(Limits {
        series: 1,
        idle: Duration::from_secs(900),
    });
    let mut shard = registry.shard();
    let mut record = Record::new(Reporter::Source, Kind::Http, at(0));
    record.status = 200;
    shard.request(&record);
    assert_eq!(
        value(&registry.prometheus(at(899)), "istio_requests_total", &[]),
        Some(1.0)
    );
    assert_eq!(
        value(&registry.prometheus(at(901)), "istio_requests_total", &[]),
        Some(1.0),
        "seen a last time"
    );
    assert_eq!(
        value(&registry.prometheus(at(902)), "istio_requests_total", &[]),
        None
    );
    record.start = at(1000);
    shard.request(&record);
    let page = registry.prometheus(at(1001));
    assert_eq!(
        value(&page, "istio_requests_total", &["response_code=\"200\""]),
        Some(1.0),
        "and not as overflow"
    );
}

#[test]
fn label_values_cannot_forge_lines() {
    let registry = Registry::new(Limits::default());
    let evil = Known::new(Workload {
        name: "a\"} 1\nforged 2\\".into(),
        ..Workload::default()
    });
    let mut record = Record::new(Reporter::Destination, Kind::Http, at(0));
    record.source = &evil;
    registry.shard().request(&record);
    let page = registry.prometheus(at(0));
    assert!(page.contains(r#"source_workload="a\"} 1\nforged 2\\""#));
    assert!(!page.lines().any(|l| l.starts_with("forged")));
}

#[test]
fn envoy_names_in_both_spellings() {
    let registry = Registry::new(Limits::default());
    let stats = registry.stats();
    let total = stats.counter(
        Scope::Cluster("outbound|80||users.shop"),
        "upstream_rq_total",
    );
    let ok = stats.counter(Scope::Cluster("outbound|80||users.shop"), "upstream_rq_2xx");
    let code = stats.counter(Scope::Cluster("outbound|80||users.shop"), "upstream_rq_503");
    let http = stats.counter(Scope::Http("in"), "downstream_rq_2xx");
    let active = stats.gauge(Scope::Listener("127.0.0.1:15006"), "downstream_cx_active");
    let own = stats.counter(
        Scope::Own(&[("result", "hit")]),
        "istio_on_demand_dns_total",
    );
    total.add(5);
    stats
        .counter(
            Scope::Cluster("outbound|80||users.shop"),
            "upstream_rq_total",
        )
        .inc();
    ok.add(4);
    code.inc();
    http.inc();
    active.set(-2);
    own.inc();
    assert_eq!(
        stats.text(""),
        "cluster.outbound|80||users.shop.upstream_rq_2xx: 4\n\
         cluster.outbound|80||users.shop.upstream_rq_503: 1\n\
         cluster.outbound|80||users.shop.upstream_rq_total: 6\n\
         http.in.downstream_rq_2xx: 1\n\
         istio_on_demand_dns_total{result=\"hit\"}: 1\n\
         listener.127.0.0.1_15006.downstream_cx_active: -2\n"
    );
    assert_eq!(stats.text("http.in"), "http.in.downstream_rq_2xx: 1\n");
    assert_eq!(
        registry.prometheus(at(0)),
        "# TYPE envoy_cluster_upstream_rq counter\n\
         envoy_cluster_upstream_rq{envoy_response_code=\"503\",envoy_cluster_name=\"outbound|80||users.shop\"} 1\n\
         # TYPE envoy_cluster_upstream_rq_total counter\n\
         envoy_cluster_upstream_rq_total{envoy_cluster_name=\"outbound|80||users.shop\"} 6\n\
         # TYPE envoy_cluster_upstream_rq_xx counter\n\
         envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"2\",envoy_cluster_name=\"outbound|80||users.shop\"} 4\n\
         # TYPE envoy_http_downstream_rq_xx counter\n\
         envoy_http_downstream_rq_xx{envoy_response_code_class=\"2\",envoy_http_conn_manager_prefix=\"in\"} 1\n\
         # TYPE envoy_listener_downstream_cx_active gauge\n\
         envoy_listener_downstream_cx_active{envoy_listener_address=\"127.0.0.1:15006\"} -2\n\
         # TYPE istio_on_demand_dns_total counter\n\
         istio_on_demand_dns_total{result=\"hit\"} 1\n"
    );
    drop((total, ok, code, http, active));
    assert_eq!(
        stats.text(""),
        "istio_on_demand_dns_total{result=\"hit\"}: 1\n"
    );
}
