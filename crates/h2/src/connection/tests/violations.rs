//! Every rule that a peer can break → which error it gets, of the stream or of the connection.

use super::*;

enum Error {
    Stream(Code),
    Connection(Code),
    None,
}
use Error::{Connection as Whole, None as Fine, Stream as One};

fn cat(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

/// Feeds what follows the preface and checks what the peer is told.
fn check(role: Role, what: &str, bytes: &[u8], want: &Error) {
    let mut connection = begun(role, Config::default());
    if role == Role::Client {
        connection.request(false, false, false, get).unwrap();
        sent(&mut connection);
    }
    let outcome = feed(&mut connection, bytes, NOW);
    let frames = sent(&mut connection);
    let find = |kind| frames.iter().find(|frame| frame.0 == kind);
    match want {
        Whole(code) => {
            let violation = outcome.expect_err(what);
            assert_eq!(violation.code(), *code, "{what}: {violation}");
            let goaway = find(Kind::GoAway).expect(what);
            assert_eq!(code_of(goaway), *code, "{what}");
            assert_eq!(goaway.3[8..], *violation.name().as_bytes());
            // Nothing is heard after that.
            assert_eq!(feed(&mut connection, &[0; 9], NOW), Err(violation));
        }
        One(code) => {
            let told = outcome.expect(what);
            assert!(
                told.iter().any(|told| told.starts_with("broken")),
                "{what}: {told:?}"
            );
            let reset = find(Kind::Reset).unwrap_or_else(|| panic!("{what}: {frames:?}"));
            assert_eq!(code_of(reset), *code, "{what}");
            let next = headers(99, true, GET);
            if role == Role::Server {
                let told = feed(&mut connection, &next, NOW).expect(what);
                assert_eq!(
                    told,
                    ["Request 99 / end"],
                    "{what}: the connection lives on"
                );
            }
        }
        Fine => {
            let told = outcome.expect(what);
            assert!(
                !told.iter().any(|told| told.starts_with("broken")),
                "{what}: {told:?}"
            );
            assert!(
                find(Kind::GoAway).is_none() && find(Kind::Reset).is_none(),
                "{what}"
            );
        }
    }
}

type Fields = Vec<(&'static str, &'static str)>;

const PROTOCOL: Code = Code::PROTOCOL_ERROR;
const SIZE: Code = Code::FRAME_SIZE_ERROR;
const FLOW: Code = Code::FLOW_CONTROL_ERROR;
const CLOSED: Code = Code::STREAM_CLOSED;

#[test]
fn frames() {
    let open = headers(1, false, GET);
    let done = headers(1, true, GET);
    let cases: Vec<(&str, Vec<u8>, Error)> = vec![
        // Section 4.
        ("an unknown frame", frame(77, 255, 1, &[1, 2, 3]), Fine),
        (
            "a frame too long",
            frame(77, 0, 0, &vec![0; 16_385]),
            Whole(SIZE),
        ),
        (
            "the reserved bit",
            cat(&[headers(1 | 1 << 31, true, GET)]),
            Fine,
        ),
        (
            "a corrupt block",
            frame(1, 5, 1, &[0xff, 0xff, 0xff, 0xff, 0xff]),
            Whole(Code::COMPRESSION_ERROR),
        ),
        (
            "a block cut off",
            frame(1, 5, 1, &block(GET)[..9]),
            Whole(Code::COMPRESSION_ERROR),
        ),
        (
            "a block interrupted",
            cat(&[frame(1, 1, 1, &block(GET)), frame(6, 0, 0, &[0; 8])]),
            Whole(PROTOCOL),
        ),
        (
            "another stream's CONTINUATION",
            cat(&[frame(1, 1, 1, &block(GET)), frame(9, 4, 3, &[])]),
            Whole(PROTOCOL),
        ),
        (
            "an unknown frame in a block",
            cat(&[frame(1, 1, 1, &block(GET)), frame(77, 0, 1, &[])]),
            Whole(PROTOCOL),
        ),
        (
            "a block in pieces",
            cat(&[
                frame(1, 1, 1, &block(GET)[..7]),
                frame(9, 0, 1, &block(GET)[7..9]),
                frame(9, 4, 1, &block(GET)[9..]),
            ]),
            Fine,
        ),
        // Section 5.1.
        (
            "DATA on an idle stream",
            frame(0, 0, 1, b"x"),
            Whole(PROTOCOL),
        ),
        (
            "RST_STREAM on an idle stream",
            frame(3, 0, 1, &[0; 4]),
            Whole(PROTOCOL),
        ),
        (
            "WINDOW_UPDATE on an idle stream",
            frame(8, 0, 1, &[0, 0, 0, 1]),
            Whole(PROTOCOL),
        ),
        (
            "PRIORITY on an idle stream",
            frame(2, 0, 1, &[0, 0, 0, 0, 1]),
            Fine,
        ),
        ("an even stream", headers(2, true, GET), Whole(PROTOCOL)),
        (
            "a lower stream",
            cat(&[headers(5, true, GET), headers(3, true, GET)]),
            Whole(PROTOCOL),
        ),
        (
            "DATA after END_STREAM",
            cat(&[done.clone(), frame(0, 0, 1, b"x")]),
            One(CLOSED),
        ),
        (
            "HEADERS after END_STREAM",
            cat(&[done.clone(), headers(1, true, &[])]),
            One(CLOSED),
        ),
        (
            "WINDOW_UPDATE after END_STREAM",
            cat(&[done.clone(), frame(8, 0, 1, &[0, 0, 0, 1])]),
            Fine,
        ),
        (
            "DATA after RST_STREAM",
            cat(&[
                open.clone(),
                frame(3, 0, 1, &[0, 0, 0, 8]),
                frame(0, 0, 1, b"x"),
            ]),
            Whole(CLOSED),
        ),
        (
            "HEADERS after RST_STREAM",
            cat(&[
                open.clone(),
                frame(3, 0, 1, &[0, 0, 0, 8]),
                headers(1, true, &[]),
            ]),
            Whole(CLOSED),
        ),
        (
            "WINDOW_UPDATE after RST_STREAM",
            cat(&[
                open.clone(),
                frame(3, 0, 1, &[0, 0, 0, 8]),
                frame(8, 0, 1, &[0, 0, 0, 1]),
            ]),
            Fine,
        ),
        (
            "RST_STREAM twice",
            cat(&[
                open.clone(),
                frame(3, 0, 1, &[0, 0, 0, 8]),
                frame(3, 0, 1, &[0, 0, 0, 8]),
            ]),
            Fine,
        ),
        // Section 6.1.
        ("DATA on stream 0", frame(0, 0, 0, b"x"), Whole(PROTOCOL)),
        (
            "padding longer than DATA",
            cat(&[open.clone(), frame(0, 8, 1, &[5, 0, 0, 0, 0])]),
            Whole(PROTOCOL),
        ),
        (
            "DATA of padding alone",
            cat(&[open.clone(), frame(0, 8, 1, &[4, 0, 0, 0, 0])]),
            Fine,
        ),
        (
            "padded DATA without a length",
            cat(&[open.clone(), frame(0, 8, 1, &[])]),
            Whole(SIZE),
        ),
        // 6.2.
        (
            "HEADERS on stream 0",
            frame(1, 5, 0, &block(GET)),
            Whole(PROTOCOL),
        ),
        (
            "padding longer than HEADERS",
            frame(1, 13, 1, &[20, 0, 0]),
            Whole(PROTOCOL),
        ),
        (
            "padded HEADERS without a length",
            frame(1, 13, 1, &[]),
            Whole(SIZE),
        ),
        (
            "HEADERS shorter than their priority",
            frame(1, 0x25, 1, &[0, 0, 0]),
            Whole(SIZE),
        ),
        (
            "HEADERS with priority and padding",
            frame(
                1,
                0x2d,
                1,
                &[&[2, 0, 0, 0, 0, 9][..], &block(GET), &[0, 0]].concat(),
            ),
            Fine,
        ),
        (
            "HEADERS that depend on themselves",
            frame(1, 0x25, 1, &[&[0, 0, 0, 1, 9][..], &block(GET)].concat()),
            One(PROTOCOL),
        ),
        // 6.3.
        (
            "PRIORITY on stream 0",
            frame(2, 0, 0, &[0; 5]),
            Whole(PROTOCOL),
        ),
        (
            "PRIORITY of another length",
            cat(&[open.clone(), frame(2, 0, 1, &[0; 4])]),
            One(SIZE),
        ),
        (
            "PRIORITY on itself",
            cat(&[open.clone(), frame(2, 0, 1, &[0, 0, 0, 1, 0])]),
            One(PROTOCOL),
        ),
        // 6.4.
        (
            "RST_STREAM on stream 0",
            frame(3, 0, 0, &[0; 4]),
            Whole(PROTOCOL),
        ),
        (
            "RST_STREAM of another length",
            cat(&[open.clone(), frame(3, 0, 1, &[0; 3])]),
            Whole(SIZE),
        ),
        // 6.5.
        ("SETTINGS on a stream", frame(4, 0, 1, &[]), Whole(PROTOCOL)),
        (
            "SETTINGS of another length",
            frame(4, 0, 0, &[0; 5]),
            Whole(SIZE),
        ),
        (
            "an acknowledgement with settings",
            frame(4, 1, 0, &[0; 6]),
            Whole(SIZE),
        ),
        ("ENABLE_PUSH of 2", settings(&[(2, 2)]), Whole(PROTOCOL)),
        (
            "INITIAL_WINDOW_SIZE of 2^31",
            settings(&[(4, 1 << 31)]),
            Whole(FLOW),
        ),
        (
            "MAX_FRAME_SIZE too small",
            settings(&[(5, 16_383)]),
            Whole(PROTOCOL),
        ),
        (
            "MAX_FRAME_SIZE too large",
            settings(&[(5, 1 << 24)]),
            Whole(PROTOCOL),
        ),
        (
            "ENABLE_CONNECT_PROTOCOL of 2",
            settings(&[(8, 2)]),
            Whole(PROTOCOL),
        ),
        (
            "ENABLE_CONNECT_PROTOCOL taken back",
            settings(&[(8, 1), (8, 0)]),
            Whole(PROTOCOL),
        ),
        (
            "unknown settings",
            settings(&[(99, 7), (0xf00f, u32::MAX)]),
            Fine,
        ),
        // 6.6.
        (
            "PUSH_PROMISE",
            cat(&[open.clone(), frame(5, 4, 1, &[0, 0, 0, 2])]),
            Whole(PROTOCOL),
        ),
        // 6.7.
        ("PING on a stream", frame(6, 0, 1, &[0; 8]), Whole(PROTOCOL)),
        (
            "PING of another length",
            frame(6, 0, 0, &[0; 7]),
            Whole(SIZE),
        ),
        // 6.8.
        (
            "GOAWAY on a stream",
            frame(7, 0, 1, &[0; 8]),
            Whole(PROTOCOL),
        ),
        ("GOAWAY too short", frame(7, 0, 0, &[0; 7]), Whole(SIZE)),
        // 6.9.
        (
            "WINDOW_UPDATE of another length",
            frame(8, 0, 0, &[0; 3]),
            Whole(SIZE),
        ),
        (
            "WINDOW_UPDATE by nothing",
            frame(8, 0, 0, &[0; 4]),
            Whole(PROTOCOL),
        ),
        (
            "WINDOW_UPDATE of a stream by nothing",
            cat(&[open.clone(), frame(8, 0, 1, &[0; 4])]),
            One(PROTOCOL),
        ),
        (
            "the connection's window beyond 2^31-1",
            frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            Whole(FLOW),
        ),
        (
            "a stream's window beyond 2^31-1",
            cat(&[open.clone(), frame(8, 0, 1, &[0x7f, 0xff, 0xff, 0xff])]),
            One(FLOW),
        ),
        (
            "a stream's window beyond 2^31-1 by SETTINGS",
            cat(&[
                open.clone(),
                frame(8, 0, 1, &[0x7f, 0xff, 0, 0]),
                settings(&[(4, 0x7fff_ffff)]),
            ]),
            Whole(FLOW),
        ),
        (
            "more DATA than the windows",
            cat(&[
                open.clone(),
                frame(0, 0, 1, &[0; 16_384]),
                frame(0, 0, 1, &[0; 16_384]),
                frame(0, 0, 1, &[0; 16_384]),
                frame(0, 0, 1, &[0; 16_384]),
            ]),
            Whole(FLOW),
        ),
        // 6.10.
        ("CONTINUATION alone", frame(9, 4, 1, &[]), Whole(PROTOCOL)),
        (
            "CONTINUATION on stream 0",
            cat(&[frame(1, 1, 1, &[]), frame(9, 4, 0, &[])]),
            Whole(PROTOCOL),
        ),
        (
            "CONTINUATION after END_HEADERS",
            cat(&[open.clone(), frame(9, 4, 1, &[])]),
            Whole(PROTOCOL),
        ),
    ];
    for (what, bytes, want) in &cases {
        check(Role::Server, what, bytes, want);
    }
}

#[test]
fn requests() {
    let with = |more: &[(&'static str, &'static str)]| [GET, more].concat();
    let less = |name: &str| {
        let rest = GET.iter().filter(|field| field.0 != name);
        rest.copied().collect::<Vec<_>>()
    };
    let swapped = |name: &str, value: &'static str| {
        let mut fields = GET.to_vec();
        for field in &mut fields {
            if field.0 == name {
                field.1 = value;
            }
        }
        fields
    };
    let connect: &[(&str, &str)] = &[(":method", "CONNECT"), (":authority", "a:1")];
    let cases: Vec<(&str, Fields, Error)> = vec![
        ("plain", GET.to_vec(), Fine),
        ("te: trailers", with(&[("te", "trailers")]), Fine),
        ("no authority", less(":authority"), Fine),
        ("CONNECT", connect.to_vec(), Fine),
        ("an upper-case name", with(&[("X-A", "1")]), One(PROTOCOL)),
        ("a space in a name", with(&[("x a", "1")]), One(PROTOCOL)),
        ("an empty name", with(&[("", "1")]), One(PROTOCOL)),
        ("a colon in a name", with(&[("x:a", "1")]), One(PROTOCOL)),
        ("NUL in a value", with(&[("x", "a\0b")]), One(PROTOCOL)),
        ("CR in a value", with(&[("x", "a\rb")]), One(PROTOCOL)),
        ("LF in a value", with(&[("x", "a\nb")]), One(PROTOCOL)),
        (
            "a value that begins with a space",
            with(&[("x", " a")]),
            One(PROTOCOL),
        ),
        (
            "a value that ends with a tab",
            with(&[("x", "a\t")]),
            One(PROTOCOL),
        ),
        (
            "an unknown pseudo-header",
            with(&[(":x", "1")]),
            One(PROTOCOL),
        ),
        (
            "a response's pseudo-header",
            with(&[(":status", "200")]),
            One(PROTOCOL),
        ),
        (
            "a late pseudo-header",
            [&GET[..3], &[("x", "1")], &GET[3..]].concat(),
            One(PROTOCOL),
        ),
        ("two methods", with(&[(":method", "GET")]), One(PROTOCOL)),
        ("two paths", with(&[(":path", "/b")]), One(PROTOCOL)),
        (
            "two authorities",
            with(&[(":authority", "b")]),
            One(PROTOCOL),
        ),
        ("no method", less(":method"), One(PROTOCOL)),
        ("no scheme", less(":scheme"), One(PROTOCOL)),
        ("no path", less(":path"), One(PROTOCOL)),
        ("an empty path", swapped(":path", ""), One(PROTOCOL)),
        (
            "a space in the path",
            swapped(":path", "/a b"),
            One(PROTOCOL),
        ),
        (
            "a fragment in the path",
            swapped(":path", "/a#b"),
            One(PROTOCOL),
        ),
        (
            "a method that is no token",
            swapped(":method", "GE T"),
            One(PROTOCOL),
        ),
        ("an empty method", swapped(":method", ""), One(PROTOCOL)),
        (
            "a scheme that is none",
            swapped(":scheme", "ht tp"),
            One(PROTOCOL),
        ),
        (
            "CONNECT with a path",
            [connect, &[(":path", "/")]].concat(),
            One(PROTOCOL),
        ),
        (
            "CONNECT with a scheme",
            [connect, &[(":scheme", "http")]].concat(),
            One(PROTOCOL),
        ),
        (
            "CONNECT to nowhere",
            vec![(":method", "CONNECT")],
            One(PROTOCOL),
        ),
        (
            "connection",
            with(&[("connection", "close")]),
            One(PROTOCOL),
        ),
        ("keep-alive", with(&[("keep-alive", "1")]), One(PROTOCOL)),
        (
            "proxy-connection",
            with(&[("proxy-connection", "close")]),
            One(PROTOCOL),
        ),
        (
            "transfer-encoding",
            with(&[("transfer-encoding", "chunked")]),
            One(PROTOCOL),
        ),
        ("upgrade", with(&[("upgrade", "x")]), One(PROTOCOL)),
        ("te: gzip", with(&[("te", "gzip")]), One(PROTOCOL)),
        (
            "content-length of a request that has ended",
            with(&[("content-length", "1")]),
            One(PROTOCOL),
        ),
        (
            "content-length that is no number",
            with(&[("content-length", "+0")]),
            One(PROTOCOL),
        ),
        (
            "content-length twice",
            with(&[("content-length", "0"), ("content-length", "0")]),
            One(PROTOCOL),
        ),
    ];
    for (what, fields, want) in &cases {
        check(Role::Server, what, &headers(1, true, fields), want);
    }
    let length = with(&[("content-length", "3")]);
    for (what, rest, want) in [
        ("as long as it says", vec![frame(0, 1, 1, b"abc")], Fine),
        (
            "padding does not count",
            vec![frame(0, 9, 1, &[2, b'a', b'b', b'c', 0, 0])],
            Fine,
        ),
        (
            "shorter",
            vec![frame(0, 0, 1, b"ab"), frame(0, 1, 1, b"")],
            One(PROTOCOL),
        ),
        ("longer", vec![frame(0, 0, 1, b"abcd")], One(PROTOCOL)),
        (
            "shorter, with trailers",
            vec![frame(0, 0, 1, b"ab"), headers(1, true, &[])],
            One(PROTOCOL),
        ),
        (
            "trailers that end nothing",
            vec![frame(0, 0, 1, b"abc"), headers(1, false, &[])],
            One(PROTOCOL),
        ),
        (
            "a pseudo-header in trailers",
            vec![frame(0, 0, 1, b"abc"), headers(1, true, &[(":path", "/")])],
            One(PROTOCOL),
        ),
        (
            "a connection header in trailers",
            vec![
                frame(0, 0, 1, b"abc"),
                headers(1, true, &[("upgrade", "x")]),
            ],
            One(PROTOCOL),
        ),
    ] {
        let bytes = [headers(1, false, &length), rest.concat()].concat();
        check(Role::Server, what, &bytes, &want);
    }
}

#[test]
fn responses() {
    let ok: &[(&str, &str)] = &[(":status", "200")];
    let end = |fields: &[(&str, &str)]| headers(1, true, fields);
    for (what, bytes, want) in [
        ("plain", end(ok), Fine),
        (
            "101",
            headers(1, false, &[(":status", "101")]),
            One(PROTOCOL),
        ),
        (
            "an interim response that ends",
            end(&[(":status", "100")]),
            One(PROTOCOL),
        ),
        ("no status", end(&[("x", "1")]), One(PROTOCOL)),
        (
            "two statuses",
            end(&[(":status", "200"), (":status", "200")]),
            One(PROTOCOL),
        ),
        (
            "a status of two digits",
            end(&[(":status", "20")]),
            One(PROTOCOL),
        ),
        (
            "a status that is no number",
            end(&[(":status", "2x0")]),
            One(PROTOCOL),
        ),
        (
            "a request's pseudo-header",
            end(&[(":status", "200"), (":path", "/")]),
            One(PROTOCOL),
        ),
        (
            "te",
            end(&[(":status", "200"), ("te", "trailers")]),
            One(PROTOCOL),
        ),
        (
            "connection",
            end(&[(":status", "200"), ("connection", "close")]),
            One(PROTOCOL),
        ),
        (
            "content-length of nothing",
            end(&[(":status", "200"), ("content-length", "3")]),
            One(PROTOCOL),
        ),
        (
            "DATA before the response",
            frame(0, 1, 1, b"x"),
            One(PROTOCOL),
        ),
        (
            "DATA with 204",
            cat(&[
                headers(1, false, &[(":status", "204")]),
                frame(0, 1, 1, b"x"),
            ]),
            One(PROTOCOL),
        ),
        (
            "a response of nobody's request",
            headers(3, true, ok),
            Whole(PROTOCOL),
        ),
        (
            "a response on an even stream",
            headers(2, true, ok),
            Whole(PROTOCOL),
        ),
        (
            "DATA for nobody's request",
            frame(0, 1, 3, b"x"),
            Whole(PROTOCOL),
        ),
        (
            "PUSH_PROMISE",
            frame(5, 4, 1, &[0, 0, 0, 2, 0x88]),
            Whole(PROTOCOL),
        ),
        (
            "ENABLE_PUSH of a server",
            settings(&[(2, 1)]),
            Whole(PROTOCOL),
        ),
        (
            "HEADERS after the end",
            cat(&[end(ok), headers(1, true, &[])]),
            One(CLOSED),
        ),
    ] {
        check(Role::Client, what, &bytes, &want);
    }
}

#[test]
fn a_stream_that_both_have_ended_is_an_error_of_the_connection() {
    for forget in [false, true] {
        for (what, bytes) in [
            ("HEADERS", headers(1, true, &[])),
            ("DATA", frame(0, 0, 1, b"x")),
        ] {
            let mut server = begun(Role::Server, Config::default());
            feed(&mut server, &headers(1, true, GET), NOW).unwrap();
            server.respond(1, false, true, ok_head).unwrap();
            if forget {
                server.forget(1);
            }
            let outcome = feed(&mut server, &bytes, NOW);
            assert_eq!(outcome, Err(Violation::ClosedStream), "{what} {forget}");
        }
    }
}

fn ok_head(writer: &mut crate::FieldWriter<'_>) {
    writer.field(b":status", b"200");
}

#[test]
fn the_preface_comes_first() {
    let mut server = Connection::new(Role::Server, Config::default());
    let outcome = feed(&mut server, b"GET / HTTP/1.1\r\n", NOW);
    assert_eq!(outcome, Err(Violation::Preface));
    let mut server = Connection::new(Role::Server, Config::default());
    feed(&mut server, PREFACE, NOW).unwrap();
    assert!(!server.is_begun());
    let outcome = feed(&mut server, &frame(6, 0, 0, &[0; 8]), NOW);
    assert_eq!(outcome, Err(Violation::FirstFrame));
    let mut client = Connection::new(Role::Client, Config::default());
    let outcome = feed(&mut client, &frame(4, 1, 0, &[]), NOW);
    assert_eq!(outcome, Err(Violation::FirstFrame));
}

/// So many of these until the connection ends.
fn flood(what: &str, want: Violation, most: usize, mut next: impl FnMut(u32) -> Vec<u8>) {
    let mut server = begun(Role::Server, Config::default());
    feed(&mut server, &headers(1, false, GET), NOW).unwrap();
    server.respond(1, false, false, ok_head).unwrap();
    for number in 0..most as u32 {
        match feed(&mut server, &next(number), NOW) {
            Ok(told) => {
                for told in told.iter().filter_map(|told| told.strip_prefix("reset ")) {
                    let (stream, _) = told.split_once(' ').unwrap();
                    server.forget(stream.parse().unwrap());
                }
                let all = server.waits();
                // Unread answers have a limit of their own.
                if want != Violation::UnreadAnswers {
                    server.written(all);
                }
                assert!(all < 1 << 20, "{what}");
            }
            Err(violation) => {
                assert_eq!(violation, want, "{what}");
                assert_eq!(violation.code(), Code::ENHANCE_YOUR_CALM);
                return assert!(number > 15, "{what} after {number}");
            }
        }
    }
    panic!("{what} is not stopped");
}

#[test]
fn floods() {
    let id = |number: u32| 3 + 2 * number;
    flood("rapid resets", Violation::ResetFlood, 600, |number| {
        cat(&[
            headers(id(number), true, GET),
            frame(3, 0, id(number), &[0, 0, 0, 8]),
        ])
    });
    flood("provoked errors", Violation::ErrorFlood, 600, |number| {
        headers(id(number), true, &[("no", "pseudo")])
    });
    flood("refused streams", Violation::ErrorFlood, 800, |number| {
        headers(id(number), true, GET)
    });
    flood("pings", Violation::PingFlood, 1100, |_| {
        frame(6, 0, 0, &[0; 8])
    });
    flood("settings", Violation::SettingsFlood, 200, |_| settings(&[]));
    flood("empty DATA", Violation::EmptyDataFlood, 200, |_| {
        frame(0, 0, 1, &[])
    });
    flood("priorities", Violation::PriorityFlood, 1100, |_| {
        frame(2, 0, 1, &[0; 5])
    });
    flood("windows", Violation::WindowFlood, 5000, |_| {
        frame(8, 0, 0, &[0, 0, 0, 1])
    });
    flood("unknown frames", Violation::UnknownFlood, 1100, |_| {
        frame(99, 0, 0, &[])
    });
    flood(
        "strays",
        Violation::StrayFlood,
        11_000,
        |number| match number {
            0 => cat(&[headers(3, true, GET), frame(3, 0, 3, &[0; 4])]),
            _ => frame(3, 0, 3, &[0; 4]),
        },
    );
    flood(
        "unread answers",
        Violation::UnreadAnswers,
        1100,
        |number| match number % 2 {
            0 => frame(6, 0, 0, &[0; 8]),
            _ => cat(&[frame(0, 0, 1, b"x"), frame(6, 0, 0, &[0; 8])]),
        },
    );
    flood(
        "CONTINUATION",
        Violation::ContinuationFlood,
        30,
        |number| match number {
            0 => frame(1, 0, 3, &[]),
            _ => frame(9, 0, 3, &[]),
        },
    );
}

#[test]
fn a_block_beyond_measure_ends_the_connection() {
    let mut server = begun(Role::Server, Config::default());
    feed(&mut server, &frame(1, 0, 1, &[0; 16_384]), NOW).unwrap();
    for _ in 0..7 {
        feed(&mut server, &frame(9, 0, 1, &[0; 16_384]), NOW).unwrap();
    }
    let outcome = feed(&mut server, &frame(9, 0, 1, &[0; 16_384]), NOW);
    assert_eq!(outcome, Err(Violation::BlockFlood));
}

#[test]
fn a_few_bytes_that_stand_for_megabytes_end_the_connection() {
    let bomb = |times| {
        let mut block = vec![0x40, 1, b'x', 0x7f, 0xa1, 0x1e];
        block.extend([b'a'; 4_000]);
        block.extend(vec![0xbe; times]);
        block
    };
    let mut server = begun(Role::Server, Config::default());
    // Too large, and whoever sends it is told so; the next block builds on it.
    let large = frame(1, 5, 1, &bomb(20));
    feed(&mut server, &large, NOW).unwrap();
    let outcome = feed(&mut server, &frame(1, 5, 3, &bomb(64)), NOW);
    assert_eq!(outcome, Err(Violation::ListFlood));
}

#[test]
fn windows_of_a_byte_are_given_up_on() {
    let mut server = begun(Role::Server, Config::default());
    let mut bytes = settings(&[(4, 0)]);
    bytes.extend_from_slice(&headers(1, true, GET));
    feed(&mut server, &bytes, NOW).unwrap();
    server.respond(1, false, false, ok_head).unwrap();
    assert_eq!(server.send(1, &[0; 10_000], true), 0);
    for number in 0..2_000 {
        if let Err(violation) = feed(&mut server, &frame(8, 0, 1, &[0, 0, 0, 1]), NOW) {
            assert_eq!(violation, Violation::TinyWindows);
            return assert!(number > 500);
        }
        assert_eq!(server.ready(), Some(1));
        assert_eq!(server.send(1, &[0; 10_000], true), 1);
        sent(&mut server);
    }
    panic!("not stopped");
}

#[test]
fn heavy_real_clients_are_not_cut() {
    let mut server = begun(Role::Server, Config::default());
    let mut now = NOW;
    // A thousand requests a second that are half of them cancelled after their answer began, with a ping and two window
    // updates each.
    for number in 0..20_000u32 {
        now += Duration::from_millis(1);
        let id = 1 + 2 * number;
        let mut bytes = headers(id, false, GET);
        bytes.extend_from_slice(&frame(0, 1, id, b"hello"));
        bytes.extend_from_slice(&frame(6, 0, 0, &[0; 8]));
        feed(&mut server, &bytes, now).unwrap();
        server.consumed(id, 5);
        server.respond(id, false, false, ok_head).unwrap();
        assert_eq!(server.send(id, &[1; 1000], number % 2 == 0), 1000);
        let mut bytes = frame(8, 0, 0, &1000u32.to_be_bytes());
        bytes.extend_from_slice(&frame(8, 0, id, &1000u32.to_be_bytes()));
        if number % 2 == 1 {
            bytes.extend_from_slice(&frame(3, 0, id, &[0, 0, 0, 8]));
        }
        feed(&mut server, &bytes, now).unwrap();
        server.forget(id);
        sent(&mut server);
    }
    assert_eq!(server.open_streams(), 0);
}
