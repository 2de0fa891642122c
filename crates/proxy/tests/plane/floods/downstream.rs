//! Clients that flood.

use std::time::Duration;

use ripstop_proxy::Running;
use ripstop_testkit::frames::{
    self, Connection, Fate, POST, block, code, flag, frame, headers, kind, settings, window_update,
};
use ripstop_testkit::http::Client;
use ripstop_testkit::upstream::{Step, Upstream, response};
use ripstop_testkit::wait;

use super::{Bystander, FULL};
use crate::kit::{TO_A, bootstrap, client, reaches, start, stat};

const CALM: Fate = Fate::GoneAway(code::ENHANCE_YOUR_CALM);

/// How often each flood would repeat its frames.
const TIMES: usize = 20_000;

/// What, the frames before, the frames that are repeated, and the counter.
fn floods() -> Vec<(&'static str, Vec<u8>, Vec<u8>, &'static str)> {
    let open = headers(1, 0, &POST);
    let unfinished = frame(kind::HEADERS, 0, 1, &block(&POST));
    let control = "http2.outbound_control_flood";
    let empty = "http2.inbound_empty_frames_flood";
    vec![
        (
            "PING",
            Vec::new(),
            frame(kind::PING, 0, 0, &[0; 8]),
            control,
        ),
        ("SETTINGS", Vec::new(), settings(&[]), control),
        (
            "huge SETTINGS",
            Vec::new(),
            settings(&[(9, 1); 2700]),
            control,
        ),
        (
            "unknown frames",
            Vec::new(),
            frame(0xbe, 0, 1, b"grease"),
            control,
        ),
        (
            "answers to no PING",
            Vec::new(),
            frame(kind::PING, flag::ACK, 0, &[0; 8]),
            control,
        ),
        (
            "RST_STREAM of one stream",
            open.clone(),
            frames::reset(1, 8),
            control,
        ),
        (
            "PRIORITY",
            Vec::new(),
            frame(kind::PRIORITY, 0, 3, &[0, 0, 0, 0, 1]),
            "http2.inbound_priority_frames_flood",
        ),
        (
            "WINDOW_UPDATE",
            open.clone(),
            window_update(1, 1),
            "http2.inbound_window_update_frames_flood",
        ),
        (
            "empty DATA",
            open.clone(),
            frame(kind::DATA, 0, 1, &[]),
            empty,
        ),
        (
            "empty CONTINUATION",
            unfinished.clone(),
            frame(kind::CONTINUATION, 0, 1, &[]),
            empty,
        ),
        (
            "CONTINUATION",
            unfinished,
            frame(kind::CONTINUATION, 0, 1, &block(&[("x", "y")]).repeat(200)),
            "http2.header_overflow",
        ),
    ]
}

#[test]
fn floods_of_frames_end_their_connection() {
    let up = Upstream::always(200, "x");
    for (what, before, repeated, counter) in floods() {
        let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
        let mut bystander = Bystander::new(&running);
        bystander.is_served();
        let mut flood = Connection::client(running.address("l").unwrap());
        flood.write_patience(FULL);
        flood.send(&before);
        let batch = repeated.repeat(100);
        let mut sent = 0;
        while sent < TIMES && flood.send(&batch) {
            sent += 100;
            if sent.is_multiple_of(2000) {
                bystander.is_served();
            }
        }
        assert_eq!(flood.end(), CALM, "{what}");
        reaches(&running, counter, 1);
        bystander.is_served();
        wait::until_true(wait::GENEROUS, what, || running.shared.connections() == 1);
    }
}

/// Counted by whoever noticed first: the codec, while it reads, or the connection, once its streams tell it.
#[track_caller]
fn ended_for_resets(running: &Running) {
    let counters = ["http2.inbound_reset_flood", "http2.inbound_flood"];
    wait::until_true(wait::GENEROUS, "the flood is counted", || {
        counters
            .iter()
            .filter_map(|name| stat(running, name))
            .sum::<i64>()
            == 1
    });
}

/// CVE-2023-44487: as fast as it goes, and paced.
#[test]
fn rapid_resets_start_little_and_end_soon() {
    for (pause, batch) in [(Duration::ZERO, 100), (Duration::from_millis(2), 5)] {
        let up = Upstream::http(|_| vec![Step::Wait(Duration::from_millis(200))]);
        let fine = Upstream::always(200, "x");
        let routes = "              - match: {path: /fine}\n                route: {cluster: b}\n              - match: {prefix: /}\n                route: {cluster: a}\n";
        let clusters: &[(&str, &[u16], &str)] =
            &[("a", &[up.port()], ""), ("b", &[fine.port()], "")];
        let running = start(&bootstrap("", routes, clusters), 1);
        let mut bystander = client(&running);
        let mut flood = Connection::client(running.address("l").unwrap());
        flood.write_patience(FULL);
        let mut stream = 1;
        while stream < 40_000 {
            let mut bytes = Vec::new();
            for _ in 0..batch {
                bytes.extend(frames::get(stream));
                bytes.extend(frames::reset(stream, code::CANCEL));
                stream += 2;
            }
            if !flood.send(&bytes) {
                break;
            }
            std::thread::sleep(pause);
        }
        assert!(stream < 20_000 || pause.is_zero(), "{stream}");
        assert_eq!(flood.end(), CALM);
        ended_for_resets(&running);
        assert_eq!(bystander.get("a", "/fine").status, 200);
        assert!(
            up.requests().len() <= 100,
            "{} requests started",
            up.requests().len()
        );
    }
}

/// CVE-2025-8671: resets that the client makes the proxy send count as its own, and what they end is ended upstream.
#[test]
fn provoked_resets_end_the_connection() {
    let malformed = |stream| {
        let fields = [&frames::GET[..], &[("connection", "close")]].concat();
        headers(stream, flag::END_STREAM, &fields)
    };
    let overflowing = |stream| [frames::get(stream), window_update(stream, 0x7fff_ffff)].concat();
    let kinds: [&dyn Fn(u32) -> Vec<u8>; 2] = [&malformed, &overflowing];
    for request in kinds {
        let up = Upstream::http(|_| vec![Step::Wait(Duration::from_millis(500))]);
        let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
        let mut flood = Connection::client(running.address("l").unwrap());
        flood.write_patience(FULL);
        let mut stream = 1;
        while stream < 40_000 {
            let mut bytes = Vec::new();
            for _ in 0..50 {
                bytes.extend(request(stream));
                stream += 2;
            }
            if !flood.send(&bytes) {
                break;
            }
        }
        assert_eq!(flood.end(), CALM);
        ended_for_resets(&running);
        let started = up.requests().len();
        assert!(started <= 100, "{started} requests started");
        wait::until_true(wait::GENEROUS, "the upstream is let go", || up.open() == 0);
    }
}

/// Heads beyond the limits: by decoded bytes with 32 for each field, by count, over several frames, out of few bytes.
#[test]
fn heads_beyond_their_limits_are_431() {
    let up = Upstream::always(200, "x");
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    let mut bystander = Bystander::new(&running);
    let crumbs = block(&[("cookie", "a=b")]).repeat(10_000);
    let (first, rest) = crumbs.split_at(8 * 1024);
    let head = [block(&frames::GET), first.to_vec()].concat();
    // 3000 references to one entry of four thousand bytes (CVE-2016-6581).
    let mut bomb = block(&frames::GET);
    bomb.push(0x40);
    frames::text(b"x", &mut bomb);
    frames::text(&[b'a'; 4000], &mut bomb);
    bomb.extend([0xbe; 3000]);
    let many: Vec<(String, String)> = (0..150)
        .map(|n| (format!("x-{n}"), "1".to_owned()))
        .collect();
    let many: Vec<(&str, &str)> = frames::GET
        .into_iter()
        .chain(many.iter().map(|(n, v)| (n.as_str(), v.as_str())))
        .collect();
    for (what, sent) in [
        ("too many fields", headers(1, flag::END_STREAM, &many)),
        (
            "cookie crumbs",
            [
                frame(kind::HEADERS, flag::END_STREAM, 1, &head),
                frame(kind::CONTINUATION, 0, 1, &rest[..16_000]),
                frame(
                    kind::CONTINUATION,
                    flag::END_HEADERS,
                    1,
                    &rest[16_000..32_000 / 11 * 11 + 9],
                ),
            ]
            .concat(),
        ),
        ("an HPACK bomb", frame(kind::HEADERS, 5, 1, &bomb)),
    ] {
        let mut connection = Connection::client(running.address("l").unwrap());
        connection.send(&sent);
        let fate = connection.fate(1);
        // A head that is many times its limit is not even taken apart to its end.
        assert!(
            matches!(fate, Fate::Answered(431) | CALM),
            "{what}: {fate:?}"
        );
        bystander.is_served();
    }
    assert!(
        up.requests()
            .iter()
            .all(|request| request.headers().len() < 20)
    );
}

/// A slow head is 408 over HTTP/1 and the connection's end over HTTP/2; a connection that says nothing at all is closed.
#[test]
fn slow_heads_are_not_waited_for() {
    let up = Upstream::always(200, "x");
    let hcm = "          request_headers_timeout: 0.5s\n          common_http_protocol_options: {idle_timeout: 0.7s}";
    let running = start(&bootstrap(hcm, TO_A, &[("a", &[up.port()], "")]), 1);
    let address = running.address("l").unwrap();
    for sent in [
        "G",
        "GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ",
        "GET / HTTP/1.1\r\nHost: a\r\n",
    ] {
        let mut slow = Client::connect(address);
        slow.send(sent.as_bytes());
        let answer = slow.response().unwrap();
        assert_eq!(answer.status, 408, "{sent:?}");
        assert_eq!(
            answer.header("x-ripstop-reason"),
            Some("request_head_timeout")
        );
        assert!(slow.closed());
    }
    let get = frames::get(1);
    let begun = frame(kind::HEADERS, 0, 1, &block(&POST));
    for (count, sent) in [&get[..3], &get[..9], &get[..get.len() - 1], &begun]
        .into_iter()
        .enumerate()
    {
        let mut slow = Connection::client(address);
        slow.send(sent);
        assert_eq!(slow.end(), CALM, "{sent:?}");
        reaches(&running, "http2.inbound_slow_head", count as i64 + 1);
    }
    assert!(Client::connect(address).closed());
    assert_eq!(Connection::silent(address).end(), Fate::Closed);
}

/// A head's time begins with its first byte, not with the rest before it.
#[test]
fn a_head_in_pieces_after_a_rest_is_served() {
    let up = Upstream::always(200, "x");
    let hcm = "          request_headers_timeout: 0.5s";
    let running = start(&bootstrap(hcm, TO_A, &[("a", &[up.port()], "")]), 1);
    let mut client = client(&running);
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(700));
        client.send(b"GET / HTTP/1.1\r\nHo");
        std::thread::sleep(Duration::from_millis(50));
        client.send(b"st: a\r\n\r\n");
        assert_eq!(client.response().unwrap().status, 200);
    }
}

/// Unfinished requests beyond what SETTINGS allows are refused, the others go on.
#[test]
fn streams_beyond_the_limit_are_refused() {
    let up = Upstream::always(200, "x");
    let hcm = "          http2_protocol_options: {max_concurrent_streams: 128}";
    let running = start(&bootstrap(hcm, TO_A, &[("a", &[up.port()], "")]), 1);
    let mut flood = Connection::client(running.address("l").unwrap());
    for index in 0..200 {
        flood.send(&headers(index * 2 + 1, 0, &POST));
    }
    assert_eq!(flood.fate(399), Fate::Reset(code::REFUSED_STREAM));
    flood.send(&frame(kind::DATA, flag::END_STREAM, 1, b"x"));
    assert_eq!(flood.fate(1), Fate::Answered(200));
}

/// Many responses for a client that opens no window: what waits for it is bounded, and others are served.
#[test]
fn a_stalled_window_holds_little() {
    let up = Upstream::http(|_| response(200, &"x".repeat(1 << 20)));
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    let mut stalled = Connection::silent(running.address("l").unwrap());
    stalled.send(frames::PREFACE);
    stalled.send(&settings(&[(4, 0)]));
    for index in 0..100 {
        stalled.send(&frames::get(index * 2 + 1));
        stalled.send(&window_update(index * 2 + 1, 1));
    }
    assert_eq!(stalled.fate(199), Fate::Answered(200));
    let mut other = client(&running);
    assert_eq!(other.get("a", "/").body.len(), 1 << 20);
}
