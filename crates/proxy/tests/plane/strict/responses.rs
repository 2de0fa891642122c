//! Responses that no client may see: 502 or a reset, and a connection that is not used again, over both versions.

use ripstop_testkit::frames::{self, block, flag, frame, headers, kind};
use ripstop_testkit::upstream::{Step, Upstream};

use crate::kit::{Frames, H2, TO_A, bootstrap, client, start};

/// Rows: what the upstream says, and what the client gets; 0: a connection that breaks off.
#[rustfmt::skip]
const HTTP1: &[(&str, u16)] = &[
    ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 502),
    ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 502),
    ("HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\na", 502),
    ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", 502),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 502),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nx", 502),
    ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 502),
    ("HTTP/1.1 200 OK\nContent-Length: 0\n\n", 502),
    ("HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 0\r\n\r\n", 502),
    ("HTTP/1.1 200 OK\r\nX: y\r\n folded\r\nContent-Length: 0\r\n\r\n", 502),
    ("HTTP/1.1 200 OK\r\nX: y\rz\r\nContent-Length: 0\r\n\r\n", 502),
    ("HTTP/1.1 200 OK\r\nX: y\0z\r\nContent-Length: 0\r\n\r\n", 502),
    ("HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n", 502),
    ("HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n", 502),
    ("HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", 502),
    ("ICY 200 OK\r\n\r\n", 502),
    ("garbage\r\n\r\n", 502),
    ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 502),
    ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", 502),
    ("HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 502),
    // The head has gone on by then: what follows cannot be taken back, but it is no whole response.
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", 0),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0x\r\n\r\n", 0),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX : y\r\n\r\n", 0),
];

#[test]
fn malformed_http1_responses_are_502_and_their_connection_ends() {
    for (said, status) in HTTP1 {
        let up = Upstream::http(move |_| vec![Step::Write(said.as_bytes().to_vec())]);
        let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
        for round in 1..=2 {
            let mut client = client(&running);
            let answer = client.request("GET", "a", "/", &[], b"");
            match (status, answer) {
                (0, answer) => assert!(answer.is_err(), "{said:?}: {answer:?}"),
                (status, answer) => {
                    let answer = answer.unwrap_or_else(|error| panic!("{said:?}: {error}"));
                    assert_eq!(answer.status, *status, "{said:?}");
                    assert_eq!(
                        answer.header("x-ripstop-reason"),
                        Some("upstream_protocol_error"),
                        "{said:?}"
                    );
                }
            }
            assert_eq!(up.connections(), round, "{said:?}: not reused");
        }
    }
}

/// An excess of the upstream is nobody's response: the next request goes elsewhere.
#[test]
fn bytes_after_a_response_belong_to_no_request() {
    const TWICE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nmineHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    for said in [
        TWICE,
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nmine\r\n",
    ] {
        let up = Upstream::http(move |_| vec![Step::Write(said.as_bytes().to_vec())]);
        let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
        let mut client = client(&running);
        for round in 1..=3 {
            assert_eq!(client.get("a", "/").text(), "mine");
            assert_eq!(up.connections(), round);
        }
    }
}

const END: u8 = flag::END_STREAM;

/// Rows: what, the frames of the answer, what the client gets, and whether the connection goes on.
fn http2() -> Vec<(&'static str, Vec<u8>, u16, bool)> {
    let ok = |fields: &[(&str, &str)]| headers(1, END, &[&[(":status", "200")], fields].concat());
    let body = |flags, body: &[u8]| frame(kind::DATA, flags, 1, body);
    let head = |fields: &[(&str, &str)]| headers(1, 0, &[&[(":status", "200")], fields].concat());
    vec![
        ("no status", headers(1, END, &[("x", "1")]), 502, true),
        (
            "two statuses",
            headers(1, END, &[(":status", "200"), (":status", "200")]),
            502,
            true,
        ),
        (
            "a status that is no number",
            headers(1, END, &[(":status", "2oo")]),
            502,
            true,
        ),
        (
            "a status after a field",
            headers(1, END, &[("x", "1"), (":status", "200")]),
            502,
            true,
        ),
        (
            "status 101",
            headers(1, END, &[(":status", "101")]),
            502,
            true,
        ),
        ("an upper-case name", ok(&[("X-Upper", "1")]), 502, true),
        (
            "a line end in a value",
            ok(&[("x", "a\r\nset-cookie: b")]),
            502,
            true,
        ),
        ("NUL in a value", ok(&[("x", "a\0b")]), 502, true),
        ("a space before a value", ok(&[("x", " a")]), 502, true),
        ("connection", ok(&[("connection", "close")]), 502, true),
        (
            "transfer-encoding",
            ok(&[("transfer-encoding", "chunked")]),
            502,
            true,
        ),
        ("upgrade", ok(&[("upgrade", "websocket")]), 502, true),
        (
            "two lengths",
            [
                head(&[("content-length", "1"), ("content-length", "1")]),
                body(END, b"a"),
            ]
            .concat(),
            502,
            true,
        ),
        (
            "a length that is no number",
            [head(&[("content-length", "0x1")]), body(END, b"a")].concat(),
            502,
            true,
        ),
        (
            "a length without a body",
            ok(&[("content-length", "5")]),
            502,
            true,
        ),
        ("DATA before HEADERS", body(END, b"x"), 502, true),
        (
            "less than its length",
            [head(&[("content-length", "3")]), body(END, b"ab")].concat(),
            0,
            true,
        ),
        (
            "more than its length",
            [head(&[("content-length", "3")]), body(END, b"abcd")].concat(),
            0,
            true,
        ),
        (
            "a push",
            frame(
                kind::PUSH_PROMISE,
                4,
                1,
                &[&[0, 0, 0, 2][..], &block(&frames::GET)].concat(),
            ),
            502,
            false,
        ),
    ]
}

#[test]
fn malformed_http2_responses_are_502() {
    let mut wrong = Vec::new();
    for (what, said, status, lives) in http2() {
        let up = Frames::start(said);
        let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], H2)]), 1);
        let mut got = Vec::new();
        for _ in 0..2 {
            let answer = client(&running).request("GET", "a", "/", &[], b"");
            got.push(answer.map_or(0, |answer| answer.status));
        }
        let connections = up.connections();
        if got != [status; 2] || connections != if lives { 1 } else { 2 } {
            wrong.push(format!(
                "{what}: {got:?} over {connections} connections, not {status}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
