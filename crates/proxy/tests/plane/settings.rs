//! What HTTP/2 connections begin with: the windows that are told, and how long the server's own word is waited for.

use std::io::Read;
use std::time::{Duration, Instant};

use ripstop_testkit::frames::{self, Connection, kind};
use ripstop_testkit::upstream::Upstream;
use ripstop_testkit::wait;

use crate::kit::{H2, TO_A, bootstrap, client, start};

/// Of each stream, and of the connection beyond what every connection has (RFC 9113 section 6.9.2).
#[derive(Debug, PartialEq)]
struct Windows {
    stream: u32,
    connection: u32,
}

/// Reads them from what a peer says first.
fn told(mut next: impl FnMut() -> frames::Frame) -> Windows {
    const INITIAL_WINDOW_SIZE: u16 = 4;
    let (mut stream, mut connection) = (None, None);
    while stream.is_none() || connection.is_none() {
        let frame = next();
        match frame.kind {
            kind::SETTINGS if !frame.payload.is_empty() => {
                stream = frame.payload.chunks_exact(6).find_map(|entry| {
                    let name = u16::from_be_bytes([entry[0], entry[1]]);
                    let value = u32::from_be_bytes(entry[2..].try_into().unwrap());
                    (name == INITIAL_WINDOW_SIZE).then_some(value)
                });
            }
            kind::WINDOW_UPDATE => {
                assert_eq!(frame.stream, 0);
                let more = u32::from_be_bytes(frame.payload.try_into().unwrap());
                connection = Some(more + 65_535);
            }
            _ => {}
        }
    }
    Windows {
        stream: stream.unwrap(),
        connection: connection.unwrap(),
    }
}

/// Who writes Envoy's own defaults down means them; who writes nothing gets what lets no two streams use up the connection.
#[test]
fn windows_that_are_configured_are_told_apart_from_none() {
    const MIB: u32 = 1 << 20;
    for (options, stream, connection) in [
        ("", MIB, 24 * MIB),
        (
            "initial_stream_window_size: 16777216, initial_connection_window_size: 25165824",
            16 * MIB,
            24 * MIB,
        ),
        ("initial_stream_window_size: 131072", 131_072, 24 * MIB),
        ("initial_connection_window_size: 25165824", MIB, 24 * MIB),
        ("initial_connection_window_size: 33554432", MIB, 32 * MIB),
    ] {
        let want = Windows { stream, connection };
        let (say, hear) = std::sync::mpsc::sync_channel(1);
        let up = Upstream::tcp(move |conversation| {
            let mut preface = [0; frames::PREFACE.len()];
            conversation.read_exact(&mut preface)?;
            let _ = say.send(told(|| frames::read(conversation).unwrap()));
            Ok(())
        });
        let settings = H2.replace(
            "http2_protocol_options: {}",
            &format!("http2_protocol_options: {{{options}}}"),
        );
        let hcm = format!("          http2_protocol_options: {{{options}}}");
        let running = start(&bootstrap(&hcm, TO_A, &[("a", &[up.port()], &settings)]), 1);
        let mut down = Connection::client(running.address("l").unwrap());
        assert_eq!(told(|| down.read().unwrap()), want, "down: {options}");
        client(&running).send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        let heard = hear.recv_timeout(wait::GENEROUS).unwrap();
        assert_eq!(heard, want, "up: {options}");
    }
}

/// Whether a WebSocket may go by HTTP/2 the server's SETTINGS say. One that says nothing is not waited for without end, even
/// where nothing else is limited.
#[test]
fn a_server_that_never_says_its_settings_is_given_up() {
    let up = Upstream::tcp(|conversation| {
        // Takes all that comes.
        let mut bytes = [0; 1024];
        while conversation.read(&mut bytes)? > 0 {}
        Ok(())
    });
    let hcm = "          upgrade_configs: [{upgrade_type: websocket}]\n          http2_protocol_options: {allow_connect: true}\n          stream_idle_timeout: 0s";
    let unlimited =
        "              - match: {prefix: /}\n                route: {cluster: a, timeout: 0s}\n";
    let running = start(&bootstrap(hcm, unlimited, &[("a", &[up.port()], H2)]), 1);
    let mut down = Connection::client(running.address("l").unwrap());
    let began = Instant::now();
    down.send(&frames::headers(
        1,
        0,
        &[
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":authority", "a.test"),
            (":path", "/"),
            ("sec-websocket-version", "13"),
        ],
    ));
    assert_eq!(down.fate(1), frames::Fate::Answered(503));
    assert!(
        began.elapsed() > Duration::from_secs(4),
        "waited for a while"
    );
}
