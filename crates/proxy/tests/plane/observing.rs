//! What requests leave behind: Envoy's counters, and members taken out for what they did. In this process, on loopback.

use std::sync::Arc;

use ripstop_proxy::Running;
use ripstop_testkit::upstream::{Upstream, response};
use ripstop_testkit::wait;

use crate::kit::{self, client, reaches, snapshot, stat};

/// A listener `l`, all of whose requests go to the cluster `a` on these ports. `route` and `settings` in YAML.
fn bootstrap(ports: &[u16], route: &str, settings: &str) -> String {
    let routes = format!(
        "              - match: {{prefix: /}}\n                route: {{cluster: a{route}}}\n"
    );
    kit::bootstrap("", &routes, &[("a", ports, settings)])
        .replace("stat_prefix: l", "stat_prefix: web")
}

fn start(text: &str) -> Running {
    kit::start(text, 2)
}

#[test]
fn requests_are_counted_under_envoys_names() {
    let up = Upstream::http(|request| match request.target().as_str() {
        "/missing" => response(404, ""),
        "/broken" => response(503, ""),
        _ => response(200, "hello"),
    });
    let running = start(&bootstrap(&[up.port()], "", ""));
    let mut connection = client(&running);
    for path in ["/", "/", "/missing", "/broken"] {
        connection.get("a.test", path);
    }
    let listener = format!(
        "listener.{}",
        running.address("l").unwrap().to_string().replace(':', "_")
    );
    for (name, value) in [
        ("cluster.a.upstream_rq_total", 4),
        ("cluster.a.upstream_rq_completed", 4),
        ("cluster.a.upstream_rq_2xx", 2),
        ("cluster.a.upstream_rq_200", 2),
        ("cluster.a.upstream_rq_404", 1),
        ("cluster.a.upstream_rq_4xx", 1),
        ("cluster.a.upstream_rq_503", 1),
        ("cluster.a.upstream_rq_5xx", 1),
        ("cluster.a.upstream_rq_active", 0),
        ("cluster.a.upstream_rq_retry", 0),
        ("cluster.a.upstream_cx_total", 1),
        ("cluster.a.upstream_cx_active", 1),
        ("cluster.a.membership_total", 1),
        ("cluster.a.membership_healthy", 1),
        ("http.web.downstream_rq_total", 4),
        ("http.web.downstream_rq_2xx", 2),
        ("http.web.downstream_rq_5xx", 1),
        ("http.web.downstream_rq_active", 0),
        ("http.web.downstream_cx_total", 1),
        ("http.web.downstream_cx_active", 1),
        (&format!("{listener}.downstream_cx_total"), 1),
        (&format!("{listener}.downstream_cx_active"), 1),
        ("cluster_manager.active_clusters", 1),
        ("listener_manager.total_listeners_active", 1),
        ("server.live", 1),
        ("server.concurrency", 2),
    ] {
        reaches(&running, name, value);
    }
    drop(connection);
    reaches(&running, "http.web.downstream_cx_active", 0);
    reaches(&running, &format!("{listener}.downstream_cx_active"), 0);
    let page = running
        .shared
        .registry
        .prometheus(std::time::SystemTime::now());
    let line =
        "envoy_cluster_upstream_rq{envoy_response_code=\"503\",envoy_cluster_name=\"a\"} 1\n";
    assert!(page.contains(line), "{page}");
}

#[test]
fn retries_and_failed_connections_are_counted() {
    let up = Upstream::http(
        |request| match request.header("x-envoy-attempt-count").as_deref() {
            Some("1") => response(503, ""),
            _ => response(200, ""),
        },
    );
    let retry = ", retry_policy: {retry_on: 5xx, num_retries: 1}";
    let text = bootstrap(&[up.port()], retry, "").replace(
        "domains: [\"*\"]",
        "domains: [\"*\"]\n              include_request_attempt_count: true",
    );
    let running = start(&text);
    assert_eq!(client(&running).get("a.test", "/").status, 200);
    for (name, value) in [
        ("upstream_rq_total", 2),
        ("upstream_rq_200", 1),
        ("upstream_rq_retry", 1),
        ("upstream_rq_retry_success", 1),
        ("upstream_rq_completed", 1),
    ] {
        reaches(&running, &format!("cluster.a.{name}"), value);
    }
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let running = start(&bootstrap(&[port], retry, ""));
    assert_eq!(client(&running).get("a.test", "/").status, 503);
    for (name, value) in [
        ("upstream_cx_connect_fail", 2),
        ("upstream_rq_total", 0),
        ("upstream_rq_503", 1),
        ("upstream_rq_retry_limit_exceeded", 1),
    ] {
        reaches(&running, &format!("cluster.a.{name}"), value);
    }
}

#[test]
fn a_member_that_fails_is_taken_out_and_let_back_in() {
    let good = Upstream::always(200, "good");
    let bad = Upstream::always(503, "bad");
    let settings = "    outlier_detection: {consecutive_5xx: 2, interval: 0.1s, base_ejection_time: 1.5s, max_ejection_percent: 50}\n";
    let running = start(&bootstrap(&[good.port(), bad.port()], "", settings));
    let mut connection = client(&running);
    wait::until_true(wait::GENEROUS, "ejected", || {
        connection.get("a.test", "/");
        stat(&running, "cluster.a.outlier_detection.ejections_active") == Some(1)
    });
    // The gauge is a moment ahead of nobody: from here on the other one serves alone, until the time is over.
    let before = bad.requests().len();
    for _ in 0..10 {
        assert_eq!(connection.get("a.test", "/").text(), "good");
    }
    assert_eq!(bad.requests().len(), before);
    assert_eq!(
        stat(
            &running,
            "cluster.a.outlier_detection.ejections_enforced_total"
        ),
        Some(1)
    );
    assert_eq!(stat(&running, "cluster.a.membership_healthy"), Some(1));
    // A push that changes other settings of the cluster keeps it out, one that ends detection lets it in.
    let kept = settings.replace(
        "outlier",
        "circuit_breakers: {thresholds: [{max_retries: 9}]}\n    outlier",
    );
    running.apply(snapshot(&bootstrap(&[good.port(), bad.port()], "", &kept)));
    assert_eq!(
        stat(
            &running,
            "cluster.a.outlier_detection.ejections_enforced_total"
        ),
        Some(1)
    );
    wait::until_true(wait::GENEROUS, "returned", || {
        stat(&running, "cluster.a.outlier_detection.ejections_active") == Some(0)
    });
    wait::until_true(wait::GENEROUS, "ejected again", || {
        connection.get("a.test", "/");
        stat(&running, "cluster.a.outlier_detection.ejections_active") == Some(1)
    });
    running.apply(snapshot(&bootstrap(&[good.port(), bad.port()], "", "")));
    assert_eq!(
        stat(&running, "cluster.a.outlier_detection.ejections_active"),
        Some(0)
    );
}

#[test]
fn the_first_request_to_a_name_waits_for_its_address() {
    let up = Upstream::always(200, "hello");
    let text = bootstrap(&[up.port()], "", "")
        .replace(
            "type: STATIC",
            "type: STRICT_DNS\n    dns_lookup_family: V4_ONLY",
        )
        .replace(
            &format!("address: 127.0.0.1, port_value: {}", up.port()),
            &format!("address: localhost, port_value: {}", up.port()),
        );
    let running = start(&text);
    assert_eq!(client(&running).get("a.test", "/").text(), "hello");
    reaches(&running, "cluster.a.membership_total", 1);
    reaches(&running, "cluster.a.update_success", 1);
}

#[test]
fn members_that_fail_their_health_checks_get_no_traffic() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let sick = Arc::new(AtomicBool::new(true));
    let told = sick.clone();
    let first = Upstream::http(move |request| match request.target().as_str() {
        "/health" if told.load(Ordering::Relaxed) => response(500, ""),
        _ => response(200, "first"),
    });
    let second = Upstream::always(200, "second");
    let settings = "    common_lb_config: {healthy_panic_threshold: {value: 0}}\n    health_checks: [{timeout: 2s, interval: 0.05s, no_traffic_interval: 0.05s, unhealthy_threshold: 2, healthy_threshold: 2, http_health_check: {path: /health, host: a}}]\n";
    let running = start(&bootstrap(&[first.port(), second.port()], "", settings));
    reaches(&running, "cluster.a.membership_healthy", 1);
    let mut connection = client(&running);
    for _ in 0..6 {
        assert_eq!(connection.get("a.test", "/").text(), "second");
    }
    sick.store(false, Ordering::Relaxed);
    reaches(&running, "cluster.a.membership_healthy", 2);
    wait::until_true(wait::GENEROUS, "both serve", || {
        connection.get("a.test", "/").text() == "first"
    });
    sick.store(true, Ordering::Relaxed);
    reaches(&running, "cluster.a.membership_healthy", 1);
    assert!(stat(&running, "cluster.a.health_check.failure").unwrap() > 0);
    // Without checks nobody is out.
    let ports = [first.port(), second.port()];
    running.apply(snapshot(&bootstrap(&ports, "", "")));
    reaches(&running, "cluster.a.membership_healthy", 2);
}

#[test]
fn a_member_that_does_not_accept_fails_its_tcp_check() {
    let up = Upstream::always(200, "up");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let settings = "    health_checks: [{timeout: 2s, interval: 0.05s, no_traffic_interval: 0.05s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {}}]\n";
    let running = start(&bootstrap(&[up.port(), port], "", settings));
    reaches(&running, "cluster.a.membership_healthy", 1);
    assert_eq!(client(&running).get("a.test", "/").text(), "up");
    wait::until_true(wait::GENEROUS, "probed again", || {
        stat(&running, "cluster.a.health_check.network_failure") > Some(1)
    });
}
