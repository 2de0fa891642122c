//! One proxied request and its response through the codec alone: parse, admit, normalise, write; parse, accept, write.
//!
//! Prints nanoseconds per exchange. For instructions, run the built binary under
//! `valgrind --tool=callgrind` with two counts and divide the difference (`codec 1000`, `codec 11000`).

use std::hint::black_box;
use std::time::Instant;

use ripstop_model::snapshot::http::{EscapedSlashes, PathOptions};
use ripstop_proxy::headers::Known;
use ripstop_proxy::http1::write::{self, Connection};
use ripstop_proxy::http1::{
    Asked, Limits, RequestParser, ResponseParser, Rules, accept, admit, downstream_framing,
};
use ripstop_proxy::message::{RequestHead, ResponseHead, Version};

const REQUEST: &[u8] = b"GET /api/v1/users/4711?fields=name,mail HTTP/1.1\r\n\
Host: user-service.default.svc.cluster.local:8080\r\nUser-Agent: curl/8.5.0\r\nAccept: application/json\r\n\
Accept-Encoding: gzip, deflate, br\r\nX-Request-Id: 6b1f0c5e-9f0b-4f4e-9c1b-2f6a3f1f2d3c\r\n\
traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nCookie: session=0123456789abcdef\r\n\
Connection: keep-alive\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.26.0\r\nDate: Mon, 23 Nov 2026 05:00:00 GMT\r\n\
Content-Type: application/json; charset=utf-8\r\nContent-Length: 42\r\nETag: \"33a64df551425fcc55e4d42a148795d9\"\r\n\
Cache-Control: no-cache\r\nConnection: keep-alive\r\n\r\n";

const PATHS: PathOptions = PathOptions {
    normalize: true,
    merge_slashes: true,
    escaped_slashes: EscapedSlashes::KeepUnchanged,
};

fn main() {
    // `cargo bench` passes flags; the first number is ours.
    let count: u64 = std::env::args()
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(1_000_000);
    let (limits, rules) = (Limits::default(), Rules::default());
    let mut request_parser = RequestParser::default();
    let mut response_parser = ResponseParser::default();
    let (mut request, mut response) = (RequestHead::default(), ResponseHead::default());
    let mut out = Vec::with_capacity(4096);
    let start = Instant::now();
    for _ in 0..count {
        request.clear();
        request_parser
            .parse(black_box(REQUEST), &mut request, &limits)
            .expect("well-formed");
        let admitted = admit(&mut request, &rules).expect("admissible");
        request.normalize(&PATHS).expect("normal");
        request.headers.set(Known::XForwardedProto, "http");
        out.clear();
        write::request(&request, admitted.framing, admitted.upgrade, &mut out);
        black_box(&out);

        response.clear();
        response_parser
            .parse(black_box(RESPONSE), &mut response, &limits)
            .expect("well-formed");
        let asked = Asked {
            method: request.method(),
            upgrade: admitted.upgrade,
        };
        let accepted = accept(&mut response, asked).expect("acceptable");
        let (framing, close) = downstream_framing(accepted.framing, request.version);
        out.clear();
        let connection = Connection::to_client(Version::Http11, !close);
        write::response(&response, framing, connection, &mut out);
        black_box(&out);
    }
    let each = start.elapsed().as_nanos() as f64 / count as f64;
    println!("codec: {each:.0} ns per request and response, {count} times");
}
