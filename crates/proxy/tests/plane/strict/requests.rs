//! Requests that nobody may see: the table of HTTP/2 (RFC 9113), and what of HTTP/1 only shows on a connection.

use ripstop_testkit::frames::{
    self, Connection, Fate, GET, POST, block, code, flag, frame, headers, integer, kind, settings,
    text, window_update,
};
use ripstop_testkit::http::Client;
use ripstop_testkit::upstream::Upstream;
use ripstop_testkit::wait;

use super::bytes;
use crate::kit::{TO_A, bootstrap, start};

const MALFORMED: Fate = Fate::Reset(code::PROTOCOL_ERROR);
const END: u8 = flag::END_STREAM;

/// A GET with further fields.
fn with(fields: &[(&str, &str)]) -> Vec<u8> {
    headers(1, END, &[&GET[..], fields].concat())
}

/// A request whose pseudo-header fields are these.
fn pseudo(fields: &[(&str, &str)]) -> Vec<u8> {
    headers(1, END, fields)
}

/// GET with another path.
fn path(path: &str) -> Vec<u8> {
    pseudo(&[GET[0], GET[1], GET[2], (":path", path)])
}

fn authority(authority: &str, more: &[(&str, &str)]) -> Vec<u8> {
    pseudo(&[&[GET[0], GET[1], (":authority", authority), GET[3]], more].concat())
}

/// A POST with further fields, whose body and trailers are these frames.
fn post(fields: &[(&str, &str)], rest: &[Vec<u8>]) -> Vec<u8> {
    let head = headers(1, 0, &[&POST[..], fields].concat());
    [head, rest.concat()].concat()
}

fn data(flags: u8, body: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flags, 1, body)
}

/// Malformed messages (section 8): an error of their stream, or an answer that says so; the connection goes on.
fn malformed() -> Vec<(&'static str, Vec<u8>, Fate)> {
    let bad = Fate::Answered(400);
    vec![
        ("an upper-case name", with(&[("X-Upper", "1")]), MALFORMED),
        ("an empty name", with(&[("", "1")]), MALFORMED),
        ("a space in a name", with(&[("x y", "1")]), MALFORMED),
        ("a colon in a name", with(&[("x:y", "1")]), MALFORMED),
        (
            "a control byte in a name",
            with(&[("x\u{1}", "1")]),
            MALFORMED,
        ),
        ("a name beyond ASCII", with(&[("x\u{e9}", "1")]), MALFORMED),
        ("CR in a value", with(&[("x", "a\rb")]), MALFORMED),
        ("LF in a value", with(&[("x", "a\nb: c")]), MALFORMED),
        ("NUL in a value", with(&[("x", "a\0b")]), MALFORMED),
        ("a space before a value", with(&[("x", " a")]), MALFORMED),
        ("a tab after a value", with(&[("x", "a\t")]), MALFORMED),
        ("connection", with(&[("connection", "close")]), MALFORMED),
        (
            "keep-alive",
            with(&[("keep-alive", "timeout=1")]),
            MALFORMED,
        ),
        (
            "proxy-connection",
            with(&[("proxy-connection", "close")]),
            MALFORMED,
        ),
        (
            "transfer-encoding",
            with(&[("transfer-encoding", "chunked")]),
            MALFORMED,
        ),
        ("upgrade", with(&[("upgrade", "h2c")]), MALFORMED),
        ("te other than trailers", with(&[("te", "gzip")]), MALFORMED),
        (
            "an unknown pseudo-header",
            pseudo(&[GET[0], GET[1], GET[2], GET[3], (":x", "1")]),
            MALFORMED,
        ),
        (
            "a response's pseudo-header",
            pseudo(&[GET[0], GET[1], GET[2], GET[3], (":status", "200")]),
            MALFORMED,
        ),
        (
            "a pseudo-header after a field",
            pseudo(&[GET[0], GET[1], GET[2], ("x", "1"), GET[3]]),
            MALFORMED,
        ),
        (
            "two methods",
            pseudo(&[GET[0], GET[0], GET[1], GET[2], GET[3]]),
            MALFORMED,
        ),
        (
            "two paths",
            pseudo(&[GET[0], GET[1], GET[2], GET[3], GET[3]]),
            MALFORMED,
        ),
        (
            "two schemes",
            pseudo(&[GET[0], GET[1], GET[1], GET[2], GET[3]]),
            MALFORMED,
        ),
        (
            "two authorities",
            pseudo(&[GET[0], GET[1], GET[2], GET[2], GET[3]]),
            MALFORMED,
        ),
        ("no method", pseudo(&GET[1..]), MALFORMED),
        ("no scheme", pseudo(&[GET[0], GET[2], GET[3]]), MALFORMED),
        ("no path", pseudo(&GET[..3]), MALFORMED),
        ("an empty path", path(""), MALFORMED),
        ("a path without a slash", path("x"), MALFORMED),
        ("a whole URI as path", path("http://b.test/"), MALFORMED),
        ("a space in the path", path("/a b"), MALFORMED),
        (
            "a line end in the path",
            path("/a HTTP/1.1\r\nhost: b\r\n\r\n"),
            MALFORMED,
        ),
        (
            "a method that is no token",
            pseudo(&[(":method", "G T"), GET[1], GET[2], GET[3]]),
            MALFORMED,
        ),
        (
            "a line end in the method",
            pseudo(&[(":method", "GET / HTTP/1.1\r\nx:"), GET[1], GET[2], GET[3]]),
            MALFORMED,
        ),
        (
            "an empty method",
            pseudo(&[(":method", ""), GET[1], GET[2], GET[3]]),
            MALFORMED,
        ),
        ("a fragment", path("/a#b"), MALFORMED),
        (
            "a path among the trailers",
            post(
                &[],
                &[
                    data(0, b"a"),
                    headers(1, END, &[(":path", "/b"), ("x-sum", "1")]),
                ],
            ),
            MALFORMED,
        ),
        (
            "HEADERS after the end",
            [frames::get(1), frames::get(1)].concat(),
            Fate::Reset(code::STREAM_CLOSED),
        ),
        ("the asterisk with GET", path("*"), MALFORMED),
        ("a malformed escape", path("/%zz"), bad),
        ("an escaped NUL", path("/%00"), bad),
        ("overlong UTF-8", path("/%c0%af"), bad),
        ("user information", authority("u@a.test", &[]), bad),
        (
            "a list of authorities",
            authority("a.test,b.test", &[]),
            bad,
        ),
        ("a space in the authority", authority("a test", &[]), bad),
        (
            "an escape in the authority",
            authority("a%2etest", &[]),
            bad,
        ),
        (
            "another Host",
            authority("a.test", &[("host", "b.test")]),
            bad,
        ),
        (
            "two Hosts",
            authority("a.test", &[("host", "a.test"), ("host", "a.test")]),
            bad,
        ),
        (
            "no authority at all",
            pseudo(&[GET[0], GET[1], GET[3]]),
            bad,
        ),
        (
            "TRACE",
            pseudo(&[(":method", "TRACE"), GET[1], GET[2], GET[3]]),
            Fate::Answered(405),
        ),
        (
            "CONNECT",
            pseudo(&[(":method", "CONNECT"), (":authority", "a.test:80")]),
            Fate::Answered(404),
        ),
        (
            "CONNECT with a path",
            pseudo(&[(":method", "CONNECT"), GET[1], GET[2], GET[3]]),
            MALFORMED,
        ),
        (
            "extended CONNECT that is not offered",
            pseudo(&[
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                GET[1],
                GET[2],
                GET[3],
            ]),
            MALFORMED,
        ),
        (
            "a length without a body",
            with(&[("content-length", "3")]),
            MALFORMED,
        ),
        (
            "a length that is no number",
            post(&[("content-length", "+3")], &[data(END, b"abc")]),
            MALFORMED,
        ),
        (
            "two lengths",
            post(
                &[("content-length", "3"), ("content-length", "3")],
                &[data(END, b"abc")],
            ),
            MALFORMED,
        ),
        (
            "two lengths in one",
            post(&[("content-length", "3, 3")], &[data(END, b"abc")]),
            MALFORMED,
        ),
        (
            "less than its length",
            post(&[("content-length", "3")], &[data(END, b"ab")]),
            MALFORMED,
        ),
        (
            "more than its length",
            post(&[("content-length", "3")], &[data(END, b"abcd")]),
            MALFORMED,
        ),
        (
            "an upper-case trailer",
            post(&[], &[data(0, b"a"), headers(1, END, &[("X-Sum", "1")])]),
            MALFORMED,
        ),
        (
            "a connection header in trailers",
            post(
                &[],
                &[data(0, b"a"), headers(1, END, &[("connection", "close")])],
            ),
            MALFORMED,
        ),
        (
            "trailers that do not end the stream",
            post(&[], &[data(0, b"a"), headers(1, 0, &[("x-sum", "1")])]),
            MALFORMED,
        ),
        (
            "a window that opens by nothing",
            post(&[], &[window_update(1, 0)]),
            MALFORMED,
        ),
        (
            "a window beyond its limit",
            post(&[], &[window_update(1, 0x7fff_ffff)]),
            Fate::Reset(code::FLOW_CONTROL_ERROR),
        ),
    ]
}

#[test]
fn malformed_http2_requests_reach_nobody() {
    let up = Upstream::always(200, "x");
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    let address = running.address("l").unwrap();
    let mut wrong = Vec::new();
    for (what, sent, want) in malformed() {
        let mut connection = Connection::client(address);
        connection.send(&sent);
        let fate = connection.fate(1);
        // Its neighbour on the same connection is served.
        connection.send(&frames::get(3));
        let next = connection.fate(3);
        if (fate, next) != (want, Fate::Answered(200)) {
            wrong.push(format!("{what}: {fate:?}, then {next:?}; not {want:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let seen = up.requests();
    assert!(
        seen.iter()
            .all(|request| request.method() == "GET" && request.target() == "/"),
        "{seen:?}"
    );
    assert_eq!(seen.len(), malformed().len());
}

/// Errors of the connection (sections 4 to 6): GOAWAY with this code.
fn broken() -> Vec<(&'static str, Vec<u8>, u32)> {
    let open = headers(1, 0, &POST);
    let half = |kind, payload: &[u8]| frame(kind, 0, 1, payload);
    let mut table_too_large = Vec::new();
    integer(1 << 20, 5, 0x20, &mut table_too_large);
    let mut bad_huffman = vec![0, 1, b'x'];
    bad_huffman.extend_from_slice(&[0x84, 0xff, 0xff, 0xff, 0xff]);
    let mut cut_short = vec![0];
    text(b"x", &mut cut_short);
    cut_short.push(40);
    vec![
        (
            "DATA on stream 0",
            frame(kind::DATA, 0, 0, b"x"),
            code::PROTOCOL_ERROR,
        ),
        (
            "HEADERS on stream 0",
            headers(0, END, &GET),
            code::PROTOCOL_ERROR,
        ),
        (
            "PRIORITY on stream 0",
            frame(kind::PRIORITY, 0, 0, &[0; 5]),
            code::PROTOCOL_ERROR,
        ),
        (
            "RST_STREAM on stream 0",
            frames::reset(0, 0),
            code::PROTOCOL_ERROR,
        ),
        (
            "CONTINUATION on stream 0",
            frame(kind::CONTINUATION, 4, 0, &[]),
            code::PROTOCOL_ERROR,
        ),
        (
            "a server's stream number",
            headers(2, END, &GET),
            code::PROTOCOL_ERROR,
        ),
        (
            "a stream number that goes back",
            [frames::get(5), frames::get(3)].concat(),
            code::PROTOCOL_ERROR,
        ),
        (
            "DATA on an idle stream",
            data(0, b"x"),
            code::PROTOCOL_ERROR,
        ),
        (
            "RST_STREAM on an idle stream",
            frames::reset(1, 8),
            code::PROTOCOL_ERROR,
        ),
        (
            "WINDOW_UPDATE on an idle stream",
            window_update(1, 1),
            code::PROTOCOL_ERROR,
        ),
        (
            "PUSH_PROMISE",
            [open.clone(), frame(kind::PUSH_PROMISE, 4, 1, &[0, 0, 0, 2])].concat(),
            code::PROTOCOL_ERROR,
        ),
        (
            "CONTINUATION without HEADERS",
            frame(kind::CONTINUATION, 4, 1, &block(&GET)),
            code::PROTOCOL_ERROR,
        ),
        (
            "something between HEADERS and CONTINUATION",
            [
                half(kind::HEADERS, &block(&GET)),
                frame(kind::PING, 0, 0, &[0; 8]),
            ]
            .concat(),
            code::PROTOCOL_ERROR,
        ),
        (
            "CONTINUATION of another stream",
            [
                half(kind::HEADERS, &block(&GET)),
                frame(kind::CONTINUATION, 4, 3, &[]),
            ]
            .concat(),
            code::PROTOCOL_ERROR,
        ),
        (
            "SETTINGS on a stream",
            frame(kind::SETTINGS, 0, 1, &[]),
            code::PROTOCOL_ERROR,
        ),
        (
            "half a setting",
            frame(kind::SETTINGS, 0, 0, &[0; 5]),
            code::FRAME_SIZE_ERROR,
        ),
        (
            "an acknowledgement with settings",
            frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]),
            code::FRAME_SIZE_ERROR,
        ),
        (
            "ENABLE_PUSH of two",
            settings(&[(2, 2)]),
            code::PROTOCOL_ERROR,
        ),
        (
            "a window beyond its limit",
            settings(&[(4, 1 << 31)]),
            code::FLOW_CONTROL_ERROR,
        ),
        (
            "frames smaller than may be",
            settings(&[(5, 16_383)]),
            code::PROTOCOL_ERROR,
        ),
        (
            "frames larger than may be",
            settings(&[(5, 1 << 24)]),
            code::PROTOCOL_ERROR,
        ),
        (
            "PING on a stream",
            frame(kind::PING, 0, 1, &[0; 8]),
            code::PROTOCOL_ERROR,
        ),
        (
            "PING of seven bytes",
            frame(kind::PING, 0, 0, &[0; 7]),
            code::FRAME_SIZE_ERROR,
        ),
        (
            "GOAWAY on a stream",
            frame(kind::GOAWAY, 0, 1, &[0; 8]),
            code::PROTOCOL_ERROR,
        ),
        (
            "WINDOW_UPDATE of three bytes",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]),
            code::FRAME_SIZE_ERROR,
        ),
        (
            "the connection's window opens by nothing",
            window_update(0, 0),
            code::PROTOCOL_ERROR,
        ),
        (
            "the connection's window beyond its limit",
            window_update(0, 0x7fff_ffff),
            code::FLOW_CONTROL_ERROR,
        ),
        (
            "RST_STREAM of three bytes",
            [open.clone(), half(kind::RST_STREAM, &[0; 3])].concat(),
            code::FRAME_SIZE_ERROR,
        ),
        (
            "a frame above the limit",
            frame(9, 0, 1, &[0; 16_385]),
            code::FRAME_SIZE_ERROR,
        ),
        (
            "padding longer than its frame",
            [open.clone(), frame(kind::DATA, flag::PADDED, 1, &[9, 0, 0])].concat(),
            code::PROTOCOL_ERROR,
        ),
        (
            "padding without its length",
            [open.clone(), frame(kind::DATA, flag::PADDED, 1, &[])].concat(),
            code::FRAME_SIZE_ERROR,
        ),
        (
            "an index that is not in the table",
            frame(kind::HEADERS, 5, 1, &[0xff, 0x7f]),
            code::COMPRESSION_ERROR,
        ),
        (
            "index 0",
            frame(kind::HEADERS, 5, 1, &[0x80]),
            code::COMPRESSION_ERROR,
        ),
        (
            "a table beyond the limit",
            frame(kind::HEADERS, 5, 1, &table_too_large),
            code::COMPRESSION_ERROR,
        ),
        (
            "a broken Huffman code",
            frame(kind::HEADERS, 5, 1, &bad_huffman),
            code::COMPRESSION_ERROR,
        ),
        (
            "a field that is cut short",
            frame(kind::HEADERS, 5, 1, &cut_short),
            code::COMPRESSION_ERROR,
        ),
        (
            "an integer without an end",
            frame(
                kind::HEADERS,
                5,
                1,
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            ),
            code::COMPRESSION_ERROR,
        ),
    ]
}

#[test]
fn a_broken_http2_connection_is_told_why() {
    let up = Upstream::always(200, "x");
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    let address = running.address("l").unwrap();
    let mut bystander = Connection::client(address);
    let mut wrong = Vec::new();
    for (index, (what, sent, want)) in broken().into_iter().enumerate() {
        let mut connection = Connection::client(address);
        connection.send(&sent);
        let end = connection.end();
        if end != Fate::GoneAway(want) {
            wrong.push(format!("{what}: {end:?}, not {want}"));
        }
        let stream = index as u32 * 2 + 1;
        bystander.send(&frames::get(stream));
        assert_eq!(bystander.fate(stream), Fate::Answered(200), "after {what}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What may be odd and is not wrong.
#[test]
fn odd_http2_is_served() {
    let up = Upstream::always(200, "x");
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    let address = running.address("l").unwrap();
    let half = block(&GET);
    let (first, second) = half.split_at(7);
    let padded = [&[3][..], &half, &[0; 3]].concat();
    let weighted = [&[0, 0, 0, 0, 15][..], &half].concat();
    for (what, sent) in [
        (
            "a frame of an unknown type",
            [frame(0xbe, 0xff, 9, b"grease"), frames::get(1)].concat(),
        ),
        (
            "an unknown setting",
            [settings(&[(0x1a2a, 7)]), frames::get(1)].concat(),
        ),
        ("unknown flags", frame(kind::HEADERS, 0x95, 1, &half)),
        (
            "a head in pieces",
            [
                frame(kind::HEADERS, END, 1, first),
                frame(kind::CONTINUATION, 4, 1, second),
            ]
            .concat(),
        ),
        (
            "padding",
            frame(kind::HEADERS, 5 | flag::PADDED, 1, &padded),
        ),
        (
            "a priority",
            frame(kind::HEADERS, 5 | flag::PRIORITY, 1, &weighted),
        ),
        (
            "a priority of a stream to come",
            [
                frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 9]),
                frames::get(1),
            ]
            .concat(),
        ),
        ("te: trailers", with(&[("te", "trailers")])),
        ("an empty value", with(&[("x", "")])),
        (
            "Host that agrees",
            authority("A.Test", &[("host", "a.test")]),
        ),
        (
            "Host alone",
            pseudo(&[GET[0], GET[1], GET[3], ("host", "a.test")]),
        ),
        (
            "trailers",
            post(&[], &[data(0, b"a"), headers(1, END, &[("x-sum", "1")])]),
        ),
        (
            "a body of its length",
            post(
                &[("content-length", "2")],
                &[data(0, b"a"), data(END, b"b")],
            ),
        ),
        (
            "an empty last frame",
            post(&[], &[data(0, b"a"), data(END, b"")]),
        ),
        (
            "a WINDOW_UPDATE after the end",
            [frames::get(1), window_update(1, 10)].concat(),
        ),
    ] {
        let mut connection = Connection::client(address);
        connection.send(&sent);
        assert_eq!(connection.fate(1), Fate::Answered(200), "{what}");
    }
}

/// Bytes after a request that is refused are never read as a request, whatever they look like.
#[test]
fn nothing_follows_a_refused_http1_request() {
    let up = Upstream::always(200, "x");
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    let address = running.address("l").unwrap();
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    for head in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 35\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
        "GET /%00 HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\n",
        "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let mut client = Client::connect(address);
        client.send(format!("{head}{smuggled}").as_bytes());
        let answer = client.response().unwrap();
        assert!(
            (400..500).contains(&answer.status),
            "{head:?}: {}",
            answer.status
        );
        assert!(client.closed(), "{head:?}");
    }
    assert_eq!(bytes(&up), 0, "{:?}", up.received());
}

/// A doubt that shows only in the body: what was sent of it by then is no whole request, and its connection ends.
#[test]
fn a_body_that_goes_wrong_is_never_whole_upstream() {
    let up = Upstream::always(200, "x");
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    let address = running.address("l").unwrap();
    const HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let bodies = [
        "3\r\nabcd\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
        "3\r\nabc\r\n0\r\nX : y\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
        "3\r\nabc\r\n0x\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
        "3\r\nabc\r\n00000000000000000\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
        "3;\n\r\nabc\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
    ];
    for body in bodies {
        let mut client = Client::connect(address);
        client.send(HEAD.as_bytes());
        client.send(body.as_bytes());
        if let Ok(answer) = client.response() {
            assert_eq!(answer.status, 400, "{body:?}");
        }
        assert!(client.closed(), "{body:?}");
    }
    wait::until_true(wait::GENEROUS, "the upstream connections end", || {
        up.open() == 0
    });
    assert!(up.requests().is_empty(), "{:?}", up.requests());
}
