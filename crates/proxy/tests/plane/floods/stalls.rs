//! Clients that begin and do not go on, where nobody has configured a limit; and those that go on byte by byte.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ripstop_testkit::frames;
use ripstop_testkit::upstream::{Step, Upstream};
use ripstop_testkit::wait;

use crate::http2::MESH_CHAIN;
use crate::kit::{Mesh, TO_A, bootstrap, client, reaches, start, start_as};

/// The limit is ten seconds; the rest is for the machine.
const AT_MOST: Duration = Duration::from_secs(14);

/// A beginning that has no end: what the client is told, once it is given up.
fn outlasted(address: SocketAddr, sent: &[u8]) -> (Vec<u8>, Duration) {
    let mut stalling = TcpStream::connect(address).unwrap();
    stalling.set_read_timeout(Some(wait::GENEROUS)).unwrap();
    stalling.write_all(sent).unwrap();
    let begun = Instant::now();
    let mut told = Vec::new();
    if let Err(error) = stalling.read_to_end(&mut told) {
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::ConnectionReset,
            "{sent:?}"
        );
    }
    (told, begun.elapsed())
}

/// A record of TLS's handshake that says how long a ClientHello will be, and its first bytes.
const HELLO: &[u8] = &[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];

#[test]
fn who_stalls_is_given_up_unasked() {
    let up = Upstream::always(200, "x");
    let text = bootstrap("", TO_A, &[("a", &[up.port()], "")]);
    let plain = start(&text, 1);
    let chain = format!(
        "    filter_chains:\n    - {}\n      filters:",
        MESH_CHAIN.trim()
    );
    let tls = text.replace("    filter_chains:\n    - filters:", &chain);
    let tls = start_as(&tls, 1, Some(Mesh::new().identity("server")));
    let (open, secured) = (plain.address("l").unwrap(), tls.address("l").unwrap());
    let get = frames::get(1);
    let half = [
        frames::PREFACE,
        &frames::settings(&[]),
        &get[..get.len() - 1],
    ]
    .concat();
    let stalls: [(&str, SocketAddr, &[u8], &[u8]); 7] = [
        ("a byte", open, b"G", b"HTTP/1.1 408 "),
        (
            "half a head",
            open,
            b"GET / HTTP/1.1\r\nX-Slow: ",
            b"HTTP/1.1 408 ",
        ),
        ("half a preface", open, &frames::PREFACE[..9], b""),
        ("half a head in frames", open, &half, b"\0\0"),
        ("no hello", secured, b"", b""),
        ("half a hello", secured, HELLO, b""),
        ("a byte of a hello", secured, &HELLO[..1], b""),
    ];
    std::thread::scope(|scope| {
        for (what, address, sent, wanted) in stalls {
            scope.spawn(move || {
                let (told, took) = outlasted(address, sent);
                assert!(took < AT_MOST, "{what}: {took:?}");
                assert!(told.starts_with(wanted), "{what}: {told:?}");
            });
        }
    });
    reaches(&plain, "http.l.downstream_rq_header_timeout", 2);
    reaches(&plain, "http2.inbound_slow_head", 1);
    let listener = secured.to_string().replace(':', "_");
    let stalled = format!("listener.{listener}.downstream_cx_transport_socket_connect_timeout");
    reaches(&tls, &stalled, 3);
    for running in [&plain, &tls] {
        wait::until_true(wait::GENEROUS, "nobody is left", || {
            running.shared.connections() == 0
        });
    }
}

/// A body that comes byte by byte never idles: the time for the whole request ends it, and the upstream is let go.
#[test]
fn a_body_byte_by_byte_ends_in_time() {
    let up = Upstream::http(|_| vec![Step::Close]);
    let hcm = "          request_timeout: 1s\n          stream_idle_timeout: 0.7s";
    let running = start(&bootstrap(hcm, TO_A, &[("a", &[up.port()], "")]), 1);
    for (pause, wanted) in [(200, "408"), (10_000, "408")] {
        let mut slow = TcpStream::connect(running.address("l").unwrap()).unwrap();
        slow.set_read_timeout(Some(Duration::from_millis(pause)))
            .unwrap();
        slow.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
            .unwrap();
        let begun = Instant::now();
        let mut told = [0; 512];
        let count = loop {
            slow.write_all(b"x").unwrap();
            match slow.read(&mut told) {
                Ok(count) => break count,
                Err(_) => assert!(begun.elapsed() < wait::GENEROUS),
            }
        };
        let told = String::from_utf8_lossy(&told[..count]);
        assert!(told.starts_with(&format!("HTTP/1.1 {wanted} ")), "{told}");
        wait::until_true(wait::GENEROUS, "the upstream is let go", || up.open() == 0);
    }
    reaches(&running, "http.l.downstream_rq_timeout", 1);
    reaches(&running, "http.l.downstream_rq_idle_timeout", 1);
    assert_eq!(
        client(&running)
            .request("GET", "a", "/", &[], b"")
            .unwrap()
            .status,
        503
    );
}
