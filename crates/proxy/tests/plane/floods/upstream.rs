//! Servers that flood.

use std::io::Write;
use std::time::{Duration, Instant};

use ripstop_testkit::frames::{block, flag, frame, headers, kind, settings, window_update};
use ripstop_testkit::upstream::{Step, Upstream, response};
use ripstop_testkit::wait;

use crate::kit::{Frames, H2, TO_A, bootstrap, client, reaches, start};

#[test]
fn floods_of_frames_end_the_upstream_connection() {
    let ping = frame(kind::PING, 0, 0, &[0; 8]);
    let control = "cluster.a.http2.outbound_control_flood";
    for (what, repeated, counter) in [
        ("PING", ping, control),
        ("SETTINGS", settings(&[]), control),
        ("unknown frames", frame(0xbe, 0, 0, b"grease"), control),
        (
            "PRIORITY",
            frame(kind::PRIORITY, 0, 1, &[0; 5]),
            "cluster.a.http2.inbound_priority_frames_flood",
        ),
        (
            "WINDOW_UPDATE",
            window_update(0, 1),
            "cluster.a.http2.inbound_window_update_frames_flood",
        ),
        (
            "empty DATA",
            [
                headers(1, 0, &[(":status", "200")]),
                frame(kind::DATA, 0, 1, &[]).repeat(3),
            ]
            .concat(),
            "cluster.a.http2.inbound_empty_frames_flood",
        ),
        (
            "CONTINUATION",
            [
                frame(kind::HEADERS, 0, 1, &block(&[(":status", "200")])),
                frame(kind::CONTINUATION, 0, 1, &[0, 1, b'x', 1, b'y']).repeat(30),
            ]
            .concat(),
            "cluster.a.http2.header_overflow",
        ),
    ] {
        let once = what == "empty DATA" || what == "CONTINUATION";
        let up = Frames::start(if once {
            repeated
        } else {
            repeated.repeat(5000)
        });
        let fine = Upstream::always(200, "x");
        let routes = "              - match: {path: /fine}\n                route: {cluster: b}\n              - match: {prefix: /}\n                route: {cluster: a}\n";
        let running = start(
            &bootstrap(
                "",
                routes,
                &[("a", &[up.port()], H2), ("b", &[fine.port()], "")],
            ),
            1,
        );
        let mut bystander = client(&running);
        let answer = client(&running).request("GET", "a", "/", &[], b"");
        match answer {
            Ok(answer) => {
                assert_eq!(answer.status, 502, "{what}");
                assert_eq!(
                    answer.header("x-ripstop-reason"),
                    Some("upstream_protocol_error"),
                    "{what}"
                );
            }
            // The head had gone out.
            Err(_) => assert_eq!(what, "empty DATA"),
        }
        reaches(&running, counter, 1);
        assert_eq!(bystander.get("a", "/fine").status, 200);
    }
}

/// Interim responses without end, over either version.
#[test]
fn a_flood_of_interim_responses_is_502() {
    const HINT: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
    let http1 = Upstream::http(|_| vec![Step::Write(HINT.repeat(20_000).into_bytes())]);
    let hint = frame(
        kind::HEADERS,
        flag::END_HEADERS,
        1,
        &block(&[(":status", "103"), ("link", "</a.css>")]),
    );
    let http2 = Frames::start(hint.repeat(20_000));
    for (port, protocol) in [(http1.port(), ""), (http2.port(), H2)] {
        let running = start(&bootstrap("", TO_A, &[("a", &[port], protocol)]), 1);
        let answer = client(&running).request("GET", "a", "/", &[], b"").unwrap();
        assert_eq!(answer.status, 502);
        assert_eq!(
            answer.header("x-ripstop-reason"),
            Some("upstream_interim_flood")
        );
    }
    // As many as a long piece of work needs are passed on.
    let up = Upstream::http(|_| {
        let mut steps = vec![Step::Write(HINT.repeat(90).into_bytes())];
        steps.extend(response(200, "done"));
        steps
    });
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    let mut client = client(&running);
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let hints = (0..)
        .take_while(|_| client.any_response(false).unwrap().status == 103)
        .count();
    assert_eq!(hints, 90);
}

/// A head that never ends, in bytes or in time.
#[test]
fn endless_response_heads_are_502() {
    for line in [
        "x: y\r\n",
        "x-longer-name: a longer value that fills the room sooner than the count does\r\n",
    ] {
        let up = Upstream::tcp(move |conversation| {
            conversation.request()?;
            conversation.write_all(b"HTTP/1.1 200 OK\r\n")?;
            loop {
                conversation.write_all(line.repeat(1000).as_bytes())?;
            }
        });
        let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
        let answer = client(&running).request("GET", "a", "/", &[], b"").unwrap();
        assert_eq!(answer.status, 502);
        assert_eq!(
            answer.header("x-ripstop-reason"),
            Some("upstream_head_too_large")
        );
    }
    let up = Upstream::tcp(|conversation| {
        conversation.request()?;
        loop {
            conversation.write_all(b"H")?;
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let routes =
        "              - match: {prefix: /}\n                route: {cluster: a, timeout: 0.5s}\n";
    let running = start(&bootstrap("", routes, &[("a", &[up.port()], "")]), 1);
    let begun = Instant::now();
    let answer = client(&running).request("GET", "a", "/", &[], b"").unwrap();
    assert!(matches!(answer.status, 502 | 504), "{}", answer.status);
    assert!(begun.elapsed() < wait::GENEROUS);
}

/// A server that says goodbye to each connection before it has taken a request: asked a few times, not until the request's
/// time is over.
#[test]
fn an_upstream_that_takes_no_stream_is_given_up() {
    let up = Upstream::tcp(|conversation| {
        conversation.write_all(&settings(&[]))?;
        conversation.write_all(&frame(kind::GOAWAY, 0, 0, &[0; 8]))?;
        conversation.play(&Step::Wait(Duration::from_secs(2)))?;
        Ok(())
    });
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], H2)]), 1);
    let answer = client(&running).get("a", "/");
    assert_eq!(answer.status, 503);
    let reason = answer.header("x-ripstop-reason");
    assert_eq!(reason, Some("upstream_refused_stream"));
    assert!(up.connections() <= 50, "{}", up.connections());
}
