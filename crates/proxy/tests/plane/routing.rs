//! What routes and policies do to requests.

use std::time::Duration;

use ripstop_testkit::upstream::{Step, Upstream, response};
use ripstop_testkit::wait;

use crate::kit::{TO_A, bootstrap, client, snapshot, start};

/// An RBAC filter before the router; `rules` in YAML flow style.
fn with_rbac(text: &str, rules: &str) -> String {
    text.replace(
        "          - name: router\n",
        &format!(
            "          - name: rbac\n            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, rules: {rules}}}\n          - name: router\n"
        ),
    )
}

#[test]
fn weights_split_and_edits_apply() {
    let (a, b) = (Upstream::always(200, "a"), Upstream::always(200, "b"));
    let routes = r#"              - match: {prefix: /}
                request_headers_to_add:
                - {header: {key: x-from, value: "%REQ(:path)%"}}
                response_headers_to_add:
                - {header: {key: x-to, value: "%PROTOCOL%"}}
                response_headers_to_remove: [x-gone]
                route:
                  weighted_clusters:
                    clusters:
                    - {name: a, weight: 80, request_headers_to_add: [{header: {key: x-share, value: a}}]}
                    - {name: b, weight: 20}
"#;
    let running = start(
        &bootstrap(
            "",
            routes,
            &[("a", &[a.port()], ""), ("b", &[b.port()], "")],
        ),
        1,
    );
    let mut client = client(&running);
    let mut to_a = 0;
    for _ in 0..300 {
        let response = client.get("x", "/p?q");
        assert_eq!(response.header("x-to"), Some("HTTP/1.1"));
        to_a += u32::from(response.text() == "a");
    }
    assert!((200..=275).contains(&to_a), "{to_a} of 300 went to a");
    let seen = a.requests();
    assert_eq!(seen[0].header("x-from").as_deref(), Some("/p?q"));
    assert_eq!(seen[0].header("x-share").as_deref(), Some("a"));
    assert_eq!(b.requests()[0].header("x-share"), None);
}

#[test]
fn rewrites_reach_the_upstream() {
    let up = Upstream::always(200, "ok");
    let routes = r#"              - match: {prefix: /api/}
                route: {cluster: a, prefix_rewrite: /v1/, host_rewrite_literal: inner.test}
              - match: {prefix: /re}
                route:
                  cluster: a
                  regex_rewrite: {pattern: {regex: "/re/([a-z]+)"}, substitution: "/\\1/re"}
"#;
    let running = start(&bootstrap("", routes, &[("a", &[up.port()], "")]), 1);
    let mut client = client(&running);
    client.get("outer.test", "/api/x?y=1");
    client.get("outer.test", "/re/abc");
    let seen = up.requests();
    assert_eq!(seen[0].target(), "/v1/x?y=1");
    assert_eq!(seen[0].header("host").as_deref(), Some("inner.test"));
    assert_eq!(
        seen[0].header("x-envoy-original-path").as_deref(),
        Some("/api/x?y=1")
    );
    assert_eq!(seen[1].target(), "/abc/re");
}

#[test]
fn faults_delay_and_abort() {
    let up = Upstream::always(200, "ok");
    let text = bootstrap("", TO_A, &[("a", &[up.port()], "")]).replace(
        "          - name: router\n",
        "          - name: fault\n            typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, delay: {fixed_delay: 0.1s, percentage: {numerator: 100}}, abort: {http_status: 418, percentage: {numerator: 100}}}\n          - name: router\n",
    );
    let running = start(&text, 1);
    let began = std::time::Instant::now();
    let response = client(&running).get("a", "/");
    assert!(began.elapsed() >= Duration::from_millis(100));
    assert_eq!(
        (response.status, response.text().as_str()),
        (418, "fault filter abort")
    );
    assert_eq!(response.header("x-ripstop-reason"), Some("fault_abort"));
    assert!(up.requests().is_empty());
}

#[test]
fn mirrors_get_a_copy() {
    let (a, shadow) = (
        Upstream::always(200, "a"),
        Upstream::always(500, "nobody reads this"),
    );
    let routes = "              - match: {prefix: /}\n                route:\n                  cluster: a\n                  request_mirror_policies: [{cluster: m}]\n";
    let running = start(
        &bootstrap(
            "",
            routes,
            &[("a", &[a.port()], ""), ("m", &[shadow.port()], "")],
        ),
        1,
    );
    let mut client = client(&running);
    let response = client
        .request("POST", "a.test", "/", &[], b"twice")
        .unwrap();
    assert_eq!(response.text(), "a");
    wait::until_true(wait::GENEROUS, "the copy", || shadow.requests().len() == 1);
    let copy = &shadow.requests()[0];
    assert_eq!(copy.body, b"twice");
    assert_eq!(copy.header("host").as_deref(), Some("a.test-shadow"));
}

#[test]
fn limits_refuse_with_their_own_reason() {
    let up = Upstream::http(|_| {
        let mut steps = vec![Step::Wait(Duration::from_millis(500))];
        steps.extend(response(200, "slow"));
        steps
    });
    let settings = "    circuit_breakers: {thresholds: [{max_requests: 1}]}\n";
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], settings)]), 1);
    let mut first = client(&running);
    first.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    wait::until_true(wait::GENEROUS, "the first", || up.requests().len() == 1);
    let refused = client(&running).get("a", "/");
    assert_eq!(refused.status, 503);
    assert_eq!(
        refused.header("x-ripstop-reason"),
        Some("circuit_open:max_requests")
    );
    assert_eq!(refused.header("x-envoy-overloaded"), Some("true"));
    assert_eq!(first.response().unwrap().status, 200);
}

#[test]
fn each_try_has_its_limit() {
    let up = Upstream::http(|request| match request.number {
        0 => vec![Step::Wait(Duration::from_secs(2)), Step::Close],
        _ => response(200, "second"),
    });
    let routes = "              - match: {prefix: /}\n                route:\n                  cluster: a\n                  retry_policy: {retry_on: reset, num_retries: 2, per_try_timeout: 0.2s}\n";
    let running = start(&bootstrap("", routes, &[("a", &[up.port()], "")]), 1);
    assert_eq!(client(&running).get("a", "/").text(), "second");
}

#[test]
fn denied_requests_never_leave_and_denied_streams_end() {
    let up = Upstream::http(|request| {
        match request.header("upgrade") {
        Some(_) => vec![
            Step::Write(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n".to_vec()),
            Step::Wait(Duration::from_secs(20)),
        ],
        None => response(200, "ok"),
    }
    });
    let plain = bootstrap(
        "          normalize_path: true\n          upgrade_configs: [{upgrade_type: websocket}]",
        TO_A,
        &[("a", &[up.port()], "")],
    );
    let deny = |path: &str| {
        let rules = format!(
            "{{action: DENY, policies: {{p: {{permissions: [{{url_path: {{path: {{prefix: {path}}}}}}}], principals: [{{any: true}}]}}}}}}"
        );
        with_rbac(&plain, &rules)
    };
    let running = start(&deny("/secret"), 1);
    let mut caller = client(&running);
    for path in ["/secret", "/x/../secret", "/%73ecret"] {
        let response = caller.get("a", path);
        assert_eq!(
            (response.status, response.text().as_str()),
            (403, "RBAC: access denied"),
            "{path}"
        );
    }
    assert!(up.requests().is_empty());
    let mut socket = client(&running);
    socket
        .send(b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n");
    assert_eq!(socket.any_response(false).unwrap().status, 101);
    for round in 0..20 {
        running.apply(snapshot(&deny(&format!("/secret{round}"))));
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(up.open(), 1, "the tunnel is open");
    running.apply(snapshot(&deny("/ws")));
    assert!(socket.closed());
}

#[test]
fn forwarding_headers_at_the_edge_and_inside() {
    let up = Upstream::always(200, "ok");
    let inside = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    let edge = start(
        &bootstrap(
            "          use_remote_address: true",
            TO_A,
            &[("a", &[up.port()], "")],
        ),
        1,
    );
    let sent = [
        ("x-forwarded-for", "9.9.9.9"),
        ("x-request-id", "mine"),
        ("x-envoy-max-retries", "7"),
        ("x-forwarded-client-cert", "Hash=1"),
    ];
    for running in [&inside, &edge] {
        client(running)
            .request("GET", "a", "/", &sent, b"")
            .unwrap();
    }
    let seen = up.requests();
    assert_eq!(
        seen[0].header("x-forwarded-for").as_deref(),
        Some("9.9.9.9")
    );
    assert_eq!(seen[0].header("x-request-id").as_deref(), Some("mine"));
    assert_eq!(
        seen[1].header("x-forwarded-for").as_deref(),
        Some("9.9.9.9,127.0.0.1")
    );
    assert_ne!(seen[1].header("x-request-id").as_deref(), Some("mine"));
    for request in seen {
        assert_eq!(request.header("x-envoy-max-retries"), None);
        assert_eq!(request.header("x-forwarded-client-cert"), None);
    }
}
