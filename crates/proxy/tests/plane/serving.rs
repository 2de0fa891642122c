//! Requests and responses through one listener to one cluster: bodies, limits, upgrades, new configurations.

use std::time::Duration;

use ripstop_testkit::http::Client;
use ripstop_testkit::upstream::{Step, Upstream, response};
use ripstop_testkit::wait;

use crate::kit::{TO_A, bootstrap, client, snapshot, start};

#[test]
fn requests_are_forwarded_and_connections_reused() {
    let up = Upstream::always(200, "hello");
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    let mut client = client(&running);
    for _ in 0..5 {
        let response = client.get("a.test", "/x?y=1");
        assert_eq!((response.status, response.text().as_str()), (200, "hello"));
        assert_eq!(response.header("server"), Some("envoy"));
        assert!(response.header("x-envoy-upstream-service-time").is_some());
        assert!(response.header("date").is_some());
    }
    assert_eq!(up.connections(), 1);
    let seen = &up.requests()[0];
    assert_eq!(seen.target(), "/x?y=1");
    assert_eq!(seen.header("host").as_deref(), Some("a.test"));
    assert_eq!(seen.header("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(
        seen.header("x-envoy-expected-rq-timeout-ms").as_deref(),
        Some("15000")
    );
    assert_eq!(seen.header("x-request-id").map(|id| id.len()), Some(36));
}

/// A client of HTTP/1.0 need not name a host: it means the one whose address it dialled, through two proxies as well (R15.3).
#[test]
fn who_names_no_host_means_the_address_it_dialled() {
    let up = Upstream::always(200, "hello");
    let last = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    let port = last.address("l").unwrap().port();
    let first = start(&bootstrap("", TO_A, &[("a", &[port], "")]), 1);
    let mut client = client(&first);
    client.send(b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().unwrap().status, 200);
    let dialled = first.address("l").unwrap().to_string();
    assert_eq!(up.requests()[0].header("host"), Some(dialled));
}

#[test]
fn bodies_flow_both_ways_in_any_framing() {
    let up = Upstream::http(|request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        match request.target().as_str() {
            "/chunked" => vec![Step::Write(
                format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\nx-t: 1\r\n\r\n", body.len())
                    .into_bytes(),
            )],
            "/close" => vec![
                Step::Write(format!("HTTP/1.1 200 OK\r\n\r\n{body}").into_bytes()),
                Step::Close,
            ],
            _ => response(200, &body),
        }
    });
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    let mut client = client(&running);
    let big = "x".repeat(300_000);
    for path in ["/length", "/chunked", "/close"] {
        for body in ["small", &big] {
            let response = client
                .request("POST", "a", path, &[], body.as_bytes())
                .unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(response.text().len(), body.len(), "{path}");
        }
    }
    client.send(b"POST /length HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(client.response().unwrap().text(), "abc");
    let head = client.request("HEAD", "a", "/length", &[], b"");
    assert_eq!(head.unwrap().status, 200);
}

#[test]
fn an_upstream_that_breaks_off_resets_the_client() {
    let up = Upstream::http(|_| {
        vec![
            Step::Write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_vec()),
            Step::Wait(Duration::from_millis(50)),
            Step::Close,
        ]
    });
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    let mut client = client(&running);
    assert!(client.request("GET", "a", "/", &[], b"").is_err());
}

#[test]
fn time_limits_end_in_504() {
    let up = Upstream::http(|_| vec![Step::Wait(Duration::from_secs(3))]);
    let routes =
        "              - match: {prefix: /}\n                route: {cluster: a, timeout: 0.2s}\n";
    let running = start(&bootstrap("", routes, &[("a", &[up.port()], "")]), 1);
    let mut client = client(&running);
    let response = client.get("a", "/");
    assert_eq!(response.status, 504);
    assert_eq!(
        response.text(),
        "upstream request timeout (limit: timeout = 200ms)"
    );
    assert_eq!(
        response.header("x-ripstop-reason"),
        Some("upstream_timeout")
    );
}

#[test]
fn interim_responses_and_upgrades_pass() {
    let up = Upstream::http(|request| {
        match request.header("upgrade") {
        Some(_) => vec![
            Step::Write(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nfirst".to_vec()),
            Step::Wait(Duration::from_secs(1)),
            Step::Close,
        ],
        None => {
            let mut steps = vec![Step::Write(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".to_vec())];
            steps.extend(response(200, "late"));
            steps
        }
    }
    });
    let hcm = "          upgrade_configs: [{upgrade_type: websocket}]";
    let running = start(&bootstrap(hcm, TO_A, &[("a", &[up.port()], "")]), 1);
    let mut first = client(&running);
    first.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(first.any_response(false).unwrap().status, 103);
    assert_eq!(first.any_response(false).unwrap().text(), "late");
    let mut socket = client(&running);
    socket
        .send(b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n");
    let switched = socket.any_response(false).unwrap();
    assert_eq!(switched.status, 101);
    assert_eq!(switched.header("upgrade"), Some("websocket"));
    assert_eq!(socket.bytes(5).unwrap(), b"first");
    assert!(socket.closed());
}

#[test]
fn the_connection_limit_is_exact_over_workers() {
    let up = Upstream::http(|_| {
        let mut steps = vec![Step::Wait(Duration::from_millis(30))];
        steps.extend(response(200, "ok"));
        steps
    });
    let settings = "    circuit_breakers: {thresholds: [{max_connections: 2}]}\n";
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], settings)]), 2);
    let address = running.address("l").unwrap();
    let callers: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                (0..5).for_each(|_| assert_eq!(client.get("a", "/").status, 200));
            })
        })
        .collect();
    let cluster = running.shared.live.tables().clusters["a"].clone();
    let mut most = 0;
    while !callers.iter().all(std::thread::JoinHandle::is_finished) {
        most = most.max(cluster.breaker(Default::default()).active_connections());
        std::thread::sleep(Duration::from_millis(1));
    }
    callers
        .into_iter()
        .for_each(|caller| caller.join().unwrap());
    assert!(
        (1..=2).contains(&most),
        "{most} connections were open at once"
    );
}

#[test]
fn a_new_configuration_closes_nothing() {
    let (first, second) = (
        Upstream::always(200, "first"),
        Upstream::always(200, "second"),
    );
    let text = |to: &str, port: u16| {
        bootstrap("", TO_A, &[("a", &[port], "")])
            .replace("stat_prefix: l", &format!("stat_prefix: {to}"))
    };
    let running = start(&text("l", first.port()), 1);
    let mut client = client(&running);
    assert_eq!(client.get("a", "/").text(), "first");
    for round in 0..20 {
        let errors = running.apply(snapshot(&text(&format!("l{round}"), second.port())));
        assert!(errors.is_empty());
        wait::until_true(wait::GENEROUS, "the new members", || {
            client.get("a", "/").text() == "second"
        });
    }
    assert_eq!(client.get("a", "/").text(), "second");
}

#[test]
fn an_early_answer_outlives_the_upload_it_refuses() {
    let up = Upstream::tcp(|conversation| {
        // Reads the head only, answers, and stops reading.
        let mut head = vec![0u8; 16];
        std::io::Read::read_exact(conversation, &mut head)?;
        conversation.play(&Step::Write(
            b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig".to_vec(),
        ))?;
        conversation.play(&Step::Wait(Duration::from_millis(100)))?;
        Ok(())
    });
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    let mut client = client(&running);
    client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n");
    client.send(&vec![b'x'; 100_000]);
    let response = client.response().unwrap();
    assert_eq!((response.status, response.text().as_str()), (413, "big"));
}
