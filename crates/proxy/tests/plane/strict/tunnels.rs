//! WebSockets over HTTP/2 (RFC 8441) that the application refuses: nothing of them goes through.

use ripstop_testkit::frames::{self, Connection, Fate, flag, frame, headers, kind};
use ripstop_testkit::upstream::{Step, Upstream};

use crate::kit::{TO_A, bootstrap, start};

const CONNECT: [(&str, &str); 6] = [
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "http"),
    (":authority", "a"),
    (":path", "/ws"),
    ("sec-websocket-version", "13"),
];

#[test]
fn a_refused_websocket_over_http2_carries_nothing() {
    for (refusal, told) in [
        // To the client a 200 would be a tunnel.
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno"[..], 502),
        (b"HTTP/1.1 200 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 502),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 502),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403),
        (b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", 426),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 502),
    ] {
        let up = Upstream::http(move |_| vec![Step::Write(refusal.to_vec())]);
        let hcm = "          upgrade_configs: [{upgrade_type: websocket}]\n          http2_protocol_options: {allow_connect: true}";
        let running = start(&bootstrap(hcm, TO_A, &[("a", &[up.port()], "")]), 1);
        let mut client = Connection::client(running.address("l").unwrap());
        client.send(&headers(1, 0, &CONNECT));
        let second = b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n";
        client.send(&frame(kind::DATA, 0, 1, second));
        let refusal = String::from_utf8_lossy(refusal);
        assert_eq!(client.fate(1), Fate::Answered(told), "{refusal}");
        client.send(&frame(kind::DATA, flag::END_STREAM, 1, second));
        // The connection goes on; what was smuggled has not.
        client.send(&frames::get(3));
        assert!(matches!(client.fate(3), Fate::Answered(_)), "{refusal}");
        let bytes = up.received().concat();
        assert!(!bytes.windows(7).any(|window| window == b"/second"), "{refusal}");
    }
}
