//! Clients that do much, and are never cut.

use std::time::Duration;

use ripstop_testkit::frames::{
    self, Connection, Fate, POST, code, flag, frame, headers, kind, window_update,
};
use ripstop_testkit::upstream::{Step, Upstream, response};

use crate::kit::{TO_A, bootstrap, start, stat};

/// Hundreds of calls at a time, of which the client gives up half, again and again: hedging, deadlines, a closed page.
#[test]
fn a_client_that_cancels_half_of_what_it_asks_is_served() {
    let up = Upstream::http(|request| match request.target().as_str() {
        "/slow" => vec![
            Step::Wait(Duration::from_millis(20)),
            response(200, "late").remove(0),
        ],
        _ => response(200, "x"),
    });
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    let mut client = Connection::client(running.address("l").unwrap());
    let slow = [
        frames::GET[0],
        frames::GET[1],
        frames::GET[2],
        (":path", "/slow"),
    ];
    let mut stream = 1;
    for _ in 0..30 {
        let mut bytes = Vec::new();
        let mut kept = Vec::new();
        for index in 0..100 {
            match index % 2 {
                0 => {
                    bytes.extend(headers(stream, flag::END_STREAM, &slow));
                    bytes.extend(frames::reset(stream, code::CANCEL));
                }
                _ => {
                    bytes.extend(frames::get(stream));
                    kept.push(stream);
                }
            }
            stream += 2;
        }
        client.send(&bytes);
        // Answers come in any order.
        let mut left = kept.len();
        while left > 0 {
            let frame = client.read().expect("the connection lives");
            assert_ne!(frame.kind, kind::GOAWAY);
            if frame.kind == kind::HEADERS {
                assert_eq!(frame.status(), Some(200));
                left -= 1;
            }
        }
    }
}

/// A stream of small messages with a PING and window updates for each, as gRPC libraries send them.
#[test]
fn small_messages_pings_and_window_updates_are_served() {
    let up = Upstream::always(200, "x");
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    let mut client = Connection::client(running.address("l").unwrap());
    let mut stream = 1;
    for _ in 0..40 {
        client.send(&headers(stream, 0, &POST));
        for _ in 0..100 {
            client.send(&frame(kind::DATA, 0, stream, b"a small message"));
            client.send(&frame(kind::PING, 0, 0, &[0; 8]));
        }
        client.send(&frame(kind::DATA, flag::END_STREAM, stream, b""));
        assert_eq!(client.fate(stream), Fate::Answered(200));
        client.send(&window_update(0, 1));
        client.send(&window_update(stream, 1));
        stream += 2;
    }
}

/// A client that gives up all that it has asked, again and again, because nobody answers in time: it is asked to come by
/// another connection now and then, and cut never.
#[test]
fn a_client_that_cancels_everything_is_asked_to_reconnect() {
    let up = Upstream::http(|request| match request.target().as_str() {
        "/slow" => vec![Step::Wait(Duration::from_secs(1))],
        _ => response(200, "x"),
    });
    let hcm = "          http2_protocol_options: {stream_reset_burst: 200, stream_reset_rate: 1}";
    let running = start(&bootstrap(hcm, TO_A, &[("a", &[up.port()], "")]), 1);
    let slow = [
        frames::GET[0],
        frames::GET[1],
        frames::GET[2],
        (":path", "/slow"),
    ];
    let mut connections = 0;
    let mut cancelled = 0;
    while cancelled < 1000 {
        let mut client = Connection::client(running.address("l").unwrap());
        connections += 1;
        let mut stream = 1;
        let mut told = false;
        // What was begun before the announcement is served after it.
        while !told && cancelled < 1000 {
            let kept = stream;
            let mut bytes = frames::get(kept);
            for index in 1..=50 {
                bytes.extend(headers(kept + index * 2, flag::END_STREAM, &slow));
            }
            client.send(&bytes);
            std::thread::sleep(Duration::from_millis(2));
            let mut bytes: Vec<u8> = (1..=50)
                .flat_map(|index| frames::reset(kept + index * 2, code::CANCEL))
                .collect();
            cancelled += 50;
            stream = kept + 102;
            bytes.extend(frames::get(stream));
            client.send(&bytes);
            let mut answered = 0;
            while answered < 2 {
                let frame = client.read().expect("the connection lives");
                match frame.kind {
                    kind::GOAWAY => {
                        assert_eq!(frame.code(), Some(code::NO_ERROR));
                        told = true;
                    }
                    kind::PING if frame.flags & flag::ACK == 0 => {
                        client.send(&frames::frame(kind::PING, flag::ACK, 0, &frame.payload));
                    }
                    kind::HEADERS => {
                        assert_eq!(frame.status(), Some(200));
                        answered += 1;
                    }
                    _ => {}
                }
            }
            stream += 2;
        }
    }
    assert!((5..=16).contains(&connections), "{connections}");
    assert_eq!(stat(&running, "http2.inbound_reset_flood"), Some(0));
    let told = stat(&running, "http2.inbound_reset_goaway").unwrap();
    assert!((connections - 1..=connections).contains(&told), "{told}");
}
