//! One row per rule of "strictness of the HTTP data plane": what arrives, and what becomes of it.

use ripstop_model::reason::Reason;

use super::super::write::{self, Connection};
use super::super::{Asked, Framing, Limits, Rules, Upgrade, downstream_framing};
use super::{request, request_with, response, response_with};
use crate::http1::body::Encoder;
use crate::message::{Method, ResponseHead, Version};

/// Rows: the request, and the label and status of its refusal.
#[rustfmt::skip]
const REFUSED_REQUESTS: &[(&str, &str, u16)] = &[
    // Framing: any doubt about the end.
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "length_and_coding", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\ncontent-length: 0\r\n\r\n", "length_and_coding", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "length_repeated", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", "length_repeated", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", "length_malformed", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", "length_malformed", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc", "length_malformed", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", "length_malformed", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3 3\r\n\r\n", "length_malformed", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n", "length_malformed", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "transfer_coding", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", "transfer_coding", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "transfer_coding", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", "transfer_coding", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", "transfer_coding", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n", "transfer_coding", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", "transfer_coding", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", "transfer_coding", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", "control_byte", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", "http1_space_before_colon", 400),
    ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "transfer_coding_http10", 400),
    // Chunks.
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", "chunk_size", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n", "chunk_size", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n 3\r\nabc\r\n0\r\n\r\n", "chunk_size", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n", "chunk_size", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n", "chunk_size", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n;x\r\nabc\r\n0\r\n\r\n", "chunk_size", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000003\r\nabc\r\n0\r\n\r\n", "chunk_size", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", "chunk_size", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", "chunk_end", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n", "chunk_end", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc0\r\n\r\n", "chunk_end", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\rXabc\r\n0\r\n\r\n", "http1_bare_cr", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a\nabc\r\n0\r\n\r\n", "http1_bare_lf", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a\x00\r\nabc\r\n0\r\n\r\n", "control_byte", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX : y\r\n\r\n", "http1_space_before_colon", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\nGET", "http1_bare_lf", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab", "message_truncated", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab", "message_truncated", 400),
    // Lines.
    ("GET / HTTP/1.1\nHost: a\r\n\r\n", "http1_bare_lf", 400),
    ("GET / HTTP/1.1\r\nHost: a\n\r\n", "http1_bare_lf", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\n\n", "http1_bare_lf", 400),
    ("GET / HTTP/1.1\r\nHost\n: a\r\n\r\n", "http1_bare_lf", 400),
    ("GET / HTTP/1.1\rHost: a\r\n\r\n", "http1_bare_cr", 400),
    ("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", "http1_bare_cr", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\n\rX", "http1_bare_cr", 400),
    ("\rGET / HTTP/1.1\r\n", "http1_bare_cr", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", "http1_obs_fold", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\tc\r\n\r\n", "http1_obs_fold", 400),
    ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", "http1_obs_fold", 400),
    ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "http1_space_before_colon", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX\t: b\r\n\r\n", "http1_space_before_colon", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nNo colon here\r\n\r\n", "http1_space_before_colon", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nNoColon\r\n\r\n", "http1_no_colon", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", "header_name", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX(y): b\r\n\r\n", "header_name", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX\x00: b\r\n\r\n", "header_name", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: b\x00c\r\n\r\n", "control_byte", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: b\x7fc\r\n\r\n", "control_byte", 400),
    // The request line.
    ("GET /\r\n\r\n", "http1_start_line", 400),
    ("GET / \r\n\r\n", "http1_start_line", 400),
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "http1_start_line", 400),
    ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", "http1_start_line", 400),
    ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "http1_start_line", 400),
    (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", "http1_start_line", 400),
    ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "http1_start_line", 400),
    ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "http1_bare_lf", 400),
    ("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", "http1_start_line", 400),
    ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", "http1_start_line", 400),
    ("GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", "http1_target_byte", 400),
    ("GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n", "http1_target_byte", 400),
    ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", "http1_target_byte", 400),
    ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "http1_target_byte", 400),
    ("GET / http/1.1\r\nHost: a\r\n\r\n", "http1_start_line", 400),
    ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", "http1_version", 426),
    ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", "http1_version", 426),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http1_version", 426),
    ("GET / HTTP/1.10\r\nHost: a\r\n\r\n", "http1_start_line", 400),
    ("\x16\x03\x01", "http1_start_line", 400),
    // Target and Host.
    ("GET / HTTP/1.1\r\n\r\n", "host_missing", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "host_repeated", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", "host_repeated", 400),
    ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", "host_repeated", 400),
    ("GET http://a/ HTTP/1.1\r\nHost: b\r\nHost: c\r\n\r\n", "host_repeated", 400),
    ("GET http://a/ HTTP/1.1\r\n\r\n", "host_missing", 400),
    ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "host_malformed", 400),
    ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "host_malformed", 400),
    ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", "host_malformed", 400),
    ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "host_malformed", 400),
    ("GET / HTTP/1.1\r\nHost: a.test%2esecret\r\n\r\n", "host_malformed", 400),
    ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", "host_malformed", 400),
    ("GET / HTTP/1.1\r\nHost: b\u{fc}cher\r\n\r\n", "host_malformed", 400),
    ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", "host_malformed", 400),
    ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", "host_malformed", 400),
    ("GET http://a,b/ HTTP/1.1\r\nHost: a\r\n\r\n", "host_malformed", 400),
    ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "target_form", 400),
    ("GET a/b HTTP/1.1\r\nHost: a\r\n\r\n", "target_form", 400),
    ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", "target_form", 400),
    ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", "target_form", 400),
    ("GET ?x HTTP/1.1\r\nHost: a\r\n\r\n", "target_form", 400),
    // Path.
    ("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", "path_malformed", 400),
    ("GET /% HTTP/1.1\r\nHost: a\r\n\r\n", "path_malformed", 400),
    ("GET /a%00 HTTP/1.1\r\nHost: a\r\n\r\n", "path_malformed", 400),
    ("GET /%c0%af HTTP/1.1\r\nHost: a\r\n\r\n", "path_malformed", 400),
    // Methods and expectations.
    ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", "method_trace", 405),
    ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "method_connect", 404),
    ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 0\r\n\r\n", "expectation", 417),
];

#[test]
fn refused_requests() {
    for (input, label, status) in REFUSED_REQUESTS {
        for step in [usize::MAX / 2, 1, 3] {
            let result = request_with(input.as_bytes(), step, Limits::default(), &Rules::default());
            let error = match result {
                Err(error) => error,
                Ok(_) => panic!("accepted {input:?} in steps of {step}"),
            };
            assert_eq!(
                error.problem.label(),
                *label,
                "{input:?} in steps of {step}"
            );
            assert_eq!(error.reason().status(), *status, "{input:?}");
        }
    }
}

/// Rows: what arrives, and what goes upstream for it (with the body's canonical framing).
#[rustfmt::skip]
const FORWARDED_REQUESTS: &[(&str, &str)] = &[
    ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    // Order and case of names are kept; whitespace around values is not.
    ("GET /x?y=%zz HTTP/1.1\r\nX-One:1\r\nhOST:   a  \r\nx-TWO: \t2\t\r\nEmpty:\r\n\r\n",
     "GET /x?y=%zz HTTP/1.1\r\nX-One: 1\r\nhOST: a\r\nx-TWO: 2\r\nEmpty: \r\n\r\n"),
    ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    // Host goes on in the client's spelling; the path in the one form policies saw.
    ("GET /a/../%62//c HTTP/1.1\r\nHost: A.Example.:80\r\n\r\n", "GET /b/c HTTP/1.1\r\nHost: A.Example.:80\r\n\r\n"),
    // The absolute form wins over Host, in Host's place.
    ("GET http://real:8080/p?q HTTP/1.1\r\nX: 1\r\nHost: other\r\nY: 2\r\n\r\n", "GET /p?q HTTP/1.1\r\nX: 1\r\nHost: real:8080\r\nY: 2\r\n\r\n"),
    ("GET HTTP://real?q HTTP/1.1\r\nHost: real\r\n\r\n", "GET /?q HTTP/1.1\r\nHost: real\r\n\r\n"),
    ("GET http://real HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nhost: real\r\n\r\n"),
    ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
    // HTTP/1.0 is served, with or without Host.
    ("GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nhost: \r\n\r\n"),
    ("GET / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    // Bodies: lengths in plain decimal, chunks re-made.
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 003\r\nX: y\r\n\r\nabc", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nX: y\r\n\r\nabc"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n0003;x=\"y\"\r\nabc\r\n00\r\n\r\n",
     "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum:  1\r\nContent-Length: 5\r\nHost: b\r\nx-ripstop-attempt: 1\r\n\r\n",
     "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n"),
    ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\nx",
     "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\nx"),
    // Hop-by-hop headers go, those named in Connection too, but never Host, forwarding or identity headers.
    ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Hop, Host, x-forwarded-for, Authorization, traceparent\r\nX-Hop: 1\r\nKeep-Alive: timeout=1\r\nProxy-Connection: close\r\nX-Forwarded-For: 1.2.3.4\r\nAuthorization: b\r\nTraceparent: t\r\nTE: gzip\r\n\r\n",
     "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nAuthorization: b\r\nTraceparent: t\r\n\r\n"),
    // Upgrades: unknown ones are stripped, a WebSocket's passes.
    ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: TLS/1.2\r\nConnection: Upgrade\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAA\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket, h2c\r\nConnection: Upgrade\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("POST / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 1\r\n\r\nx",
     "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"),
    ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Key: k\r\n\r\n",
     "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: k\r\nconnection: Upgrade\r\n\r\n"),
    // A byte beyond ASCII is allowed in values.
    ("GET / HTTP/1.1\r\nHost: a\r\nX: \u{e9}\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX: \u{e9}\r\n\r\n"),
];

#[test]
fn forwarded_requests() {
    for (input, want) in FORWARDED_REQUESTS {
        for step in [usize::MAX / 2, 1, 7] {
            let taken = request_with(input.as_bytes(), step, Limits::default(), &Rules::default());
            let taken = taken
                .unwrap_or_else(|error| panic!("{input:?}: {error}"))
                .unwrap();
            assert_eq!(taken.used, input.len(), "{input:?}");
            let mut out = Vec::new();
            write::request(
                &taken.head,
                taken.meaning.framing,
                taken.meaning.upgrade,
                &mut out,
            );
            let mut encoder = Encoder::new(taken.meaning.framing);
            encoder.data(&taken.body, &mut out).unwrap();
            encoder.end(taken.trailers.as_ref(), &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), *want, "steps of {step}");
        }
    }
}

#[test]
fn what_policies_and_routes_see() {
    let input =
        b"GET http://A.Example.:80/x/../%61?q=1 HTTP/1.1\r\nHost: ignored\r\nX: 1\r\nx: 2\r\n\r\n";
    let head = request(input).unwrap().unwrap().head;
    assert_eq!(head.authority(), "a.example");
    assert_eq!(head.authority_sent(), "A.Example.:80");
    assert_eq!((head.path(), head.query()), ("/a", Some("q=1")));
    assert_eq!(head.path_and_query(), "/a?q=1");
    assert_eq!(head.headers.joined("x").as_deref(), Some("1,2"));
}

#[test]
fn connections_persist_as_the_version_says() {
    for (input, want) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            false,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: x, CLOSE\r\n\r\n",
            false,
        ),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", false),
        (
            "GET / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n",
            true,
        ),
        (
            "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
            false,
        ),
    ] {
        let taken = request(input.as_bytes()).unwrap().unwrap();
        assert_eq!(taken.meaning.keep_alive, want, "{input:?}");
    }
}

#[test]
fn limits_are_exact_and_named() {
    let limits = Limits {
        max_head_bytes: 64,
        max_headers: 3,
    };
    let sized = |length: usize| {
        let stem = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{stem}{}\r\n\r\n", "v".repeat(length - stem.len() - 4))
    };
    for step in [usize::MAX / 2, 1, 5] {
        let run = |input: &str| request_with(input.as_bytes(), step, limits, &Rules::default());
        assert!(run(&sized(64)).unwrap().is_some());
        let error = run(&sized(65)).err().unwrap();
        assert_eq!(error.reason().status(), 431);
        assert_eq!(
            error.to_string(),
            "downstream request: the head is longer than the limit max_head_bytes = 64"
        );
        let lines = |count| {
            format!(
                "GET / HTTP/1.1\r\nHost:a\r\n{}\r\n",
                "x:y\r\n".repeat(count)
            )
        };
        assert!(run(&lines(2)).unwrap().is_some());
        let error = run(&lines(3)).err().unwrap();
        assert_eq!(error.problem.label(), "too_many_headers");
        let trailers = format!(
            "POST / HTTP/1.1\r\nHost:a\r\nTransfer-Encoding:chunked\r\n\r\n0\r\nX: {}\r\n\r\n",
            "v".repeat(64)
        );
        assert_eq!(
            run(&trailers).err().unwrap().problem.label(),
            "trailers_too_large"
        );
    }
    let extensions = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;{}\r\n",
        "x".repeat(20_000)
    );
    let error = request(extensions.as_bytes()).err().unwrap();
    assert_eq!(error.problem.label(), "chunk_extensions");
}

#[test]
fn connect_where_it_is_enabled() {
    let rules = Rules {
        connect: true,
        ..Rules::default()
    };
    let run = |input: &str| request_with(input.as_bytes(), 4, Limits::default(), &rules);
    let taken = run("CONNECT a.example:443 HTTP/1.1\r\nHost: b\r\n\r\n")
        .unwrap()
        .unwrap();
    assert_eq!(taken.meaning.upgrade, Some(Upgrade::Connect));
    assert_eq!(taken.head.authority(), "a.example:443");
    let mut out = Vec::new();
    write::request(&taken.head, Framing::None, None, &mut out);
    assert_eq!(
        out,
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n"
    );
    for refused in [
        "CONNECT a.example HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
    ] {
        assert_eq!(
            run(refused).err().unwrap().reason().status(),
            400,
            "{refused:?}"
        );
    }
}

#[test]
fn the_next_request_starts_where_the_body_ends() {
    let input = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nGET /next";
    let taken = request(input).unwrap().unwrap();
    assert_eq!(&input[taken.used..], b"GET /next");
}

/// Rows: the response to a GET, and the label of its refusal; all are 502.
#[rustfmt::skip]
const REFUSED_RESPONSES: &[(&str, &str)] = &[
    ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "length_and_coding"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", "length_repeated"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 1,1\r\n\r\nx", "length_repeated"),
    ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nx", "length_malformed"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "transfer_coding"),
    ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "transfer_coding_http10"),
    ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", "body_forbidden"),
    ("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "body_forbidden"),
    ("HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n", "body_forbidden"),
    ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "upgrade_unasked"),
    ("HTTP/1.1 304 Not Modified\r\nContent-Length: x\r\n\r\n", "length_malformed"),
    ("HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n", "http1_bare_lf"),
    ("HTTP/1.1 200\nContent-Length: 0\r\n\r\n", "http1_bare_lf"),
    ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", "http1_obs_fold"),
    ("HTTP/1.1 200 OK\r\nX : a\r\n\r\n", "http1_space_before_colon"),
    ("HTTP/1.1 200 OK\r\nX: a\x01\r\n\r\n", "control_byte"),
    ("HTTP/1.1 200 O\x00K\r\n\r\n", "control_byte"),
    ("HTTP/1.1 99 X\r\n\r\n", "http1_status"),
    ("HTTP/1.1 600 X\r\n\r\n", "http1_status"),
    ("HTTP/1.1 2000 X\r\n\r\n", "http1_status"),
    ("HTTP/1.1  200 OK\r\n\r\n", "http1_status"),
    ("HTTP/2.0 200 OK\r\n\r\n", "http1_version"),
    ("ICY 200 OK\r\n\r\n", "http1_start_line"),
    ("\r\nHTTP/1.1 200 OK\r\n\r\n", "http1_start_line"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n", "chunk_end"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc", "message_truncated"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", "message_truncated"),
];

#[test]
fn refused_responses() {
    for (input, label) in REFUSED_RESPONSES {
        for step in [usize::MAX / 2, 1, 3] {
            let error = match response_with(input.as_bytes(), step, Asked::default()) {
                Err(error) => error,
                Ok(_) => panic!("accepted {input:?}"),
            };
            assert_eq!(
                error.problem.label(),
                *label,
                "{input:?} in steps of {step}"
            );
            assert_eq!(
                error.reason().status(),
                if *label == "message_truncated" {
                    0
                } else {
                    502
                }
            );
        }
    }
}

/// Rows: the response, the method it answers, and what an HTTP/1.1 client and an HTTP/1.0 client get.
#[rustfmt::skip]
const FORWARDED_RESPONSES: &[(&str, Method, &str, &str)] = &[
    ("HTTP/1.1 200 OK\r\nServer: s\r\nCONTENT-length: 2\r\n\r\nhi",
     Method::Get,
     "HTTP/1.1 200 OK\r\nServer: s\r\nCONTENT-length: 2\r\n\r\nhi",
     "HTTP/1.1 200 OK\r\nServer: s\r\nCONTENT-length: 2\r\nconnection: keep-alive\r\n\r\nhi"),
    ("HTTP/1.1 418\r\nContent-Length: 0\r\n\r\n",
     Method::Get,
     "HTTP/1.1 418 I'm a teapot\r\nContent-Length: 0\r\n\r\n",
     "HTTP/1.1 418 I'm a teapot\r\nContent-Length: 0\r\nconnection: keep-alive\r\n\r\n"),
    ("HTTP/1.1 200 Very Fine\r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive\r\n\r\n2\r\nhi\r\n0\r\nT: 1\r\n\r\n",
     Method::Get,
     "HTTP/1.1 200 Very Fine\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nT: 1\r\n\r\n",
     "HTTP/1.1 200 Very Fine\r\nconnection: close\r\n\r\nhi"),
    ("HTTP/1.0 200 OK\r\n\r\nhi",
     Method::Get,
     "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
     "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhi"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n",
     Method::Head,
     "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n",
     "HTTP/1.1 200 OK\r\nContent-Length: 12\r\nconnection: keep-alive\r\n\r\n"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Method::Head, "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nconnection: keep-alive\r\n\r\n"),
    ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: e\r\n\r\n",
     Method::Get,
     "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: e\r\n\r\n",
     "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: e\r\nconnection: keep-alive\r\n\r\n"),
    ("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
     Method::Get,
     "HTTP/1.1 204 No Content\r\n\r\n",
     "HTTP/1.1 204 No Content\r\nconnection: keep-alive\r\n\r\n"),
    ("HTTP/1.1 200 OK\r\nConnection: X-Hop, Set-Cookie\r\nX-Hop: 1\r\nSet-Cookie: c\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n",
     Method::Get,
     "HTTP/1.1 200 OK\r\nSet-Cookie: c\r\nContent-Length: 0\r\n\r\n",
     "HTTP/1.1 200 OK\r\nSet-Cookie: c\r\nContent-Length: 0\r\nconnection: keep-alive\r\n\r\n"),
];

#[test]
fn forwarded_responses() {
    for (input, method, http11, http10) in FORWARDED_RESPONSES {
        let asked = Asked {
            method: *method,
            upgrade: None,
        };
        for step in [usize::MAX / 2, 1, 3] {
            let taken = response_with(input.as_bytes(), step, asked);
            let taken = taken
                .unwrap_or_else(|error| panic!("{input:?}: {error}"))
                .unwrap();
            for (client, want) in [(Version::Http11, http11), (Version::Http10, http10)] {
                let (framing, close) = downstream_framing(taken.meaning.framing, client);
                let mut out = Vec::new();
                let connection = Connection::to_client(client, !close);
                write::response(&taken.head, framing, connection, &mut out);
                let mut encoder = Encoder::new(framing);
                encoder.data(&taken.body, &mut out).unwrap();
                encoder.end(taken.trailers.as_ref(), &mut out).unwrap();
                assert_eq!(String::from_utf8(out).unwrap(), **want, "{input:?}");
            }
        }
    }
}

#[test]
fn upstream_connections_are_kept_only_when_sure() {
    for (input, keep_alive, idle) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true, None),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            false,
            None,
        ),
        ("HTTP/1.1 200 OK\r\n\r\n", false, None),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false, None),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\nKeep-Alive: max=3, timeout=7\r\n\r\n",
            true,
            Some(7),
        ),
    ] {
        let meaning = response(input.as_bytes()).unwrap().unwrap().meaning;
        assert_eq!(
            (meaning.keep_alive, meaning.idle_timeout),
            (keep_alive, idle),
            "{input:?}"
        );
    }
}

#[test]
fn a_tunnel_needs_both_sides() {
    let asked = Asked {
        method: Method::Get,
        upgrade: Some(Upgrade::WebSocket),
    };
    let switched = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x01\x02";
    let taken = response_with(switched.as_bytes(), 5, asked)
        .unwrap()
        .unwrap();
    assert!(taken.meaning.tunnel && !taken.meaning.interim);
    let mut out = Vec::new();
    write::response(&taken.head, Framing::None, Connection::Upgrade, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nconnection: Upgrade\r\n\r\n"
    );
    // Denied: what follows is read as HTTP, never tunnelled.
    let denied = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nnoGET /smuggled";
    let taken = response_with(denied.as_bytes(), 5, asked).unwrap().unwrap();
    assert!(!taken.meaning.tunnel);
    assert_eq!(taken.body, b"no");
}

#[test]
fn interim_responses_are_told_apart() {
    let taken = response(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200")
        .unwrap()
        .unwrap();
    assert!(taken.meaning.interim && taken.meaning.keep_alive);
    assert_eq!(taken.meaning.framing, Framing::None);
}

#[test]
fn our_own_answers_say_why() {
    let mut out = Vec::new();
    let mut head = ResponseHead::build(503);
    write::local_response(
        &mut head,
        Reason::NoHealthyEndpoint,
        "none left\n",
        Method::Get,
        Connection::Close,
        &mut out,
    );
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\nx-ripstop-reason: no_healthy_endpoint\r\n\
         content-length: 10\r\nconnection: close\r\n\r\nnone left\n"
    );
    let mut out = Vec::new();
    let mut head = ResponseHead::build(404);
    write::local_response(
        &mut head,
        Reason::RouteNotFound,
        "x",
        Method::Head,
        Connection::Persist,
        &mut out,
    );
    assert!(out.ends_with(b"content-length: 1\r\n\r\n"));
}
