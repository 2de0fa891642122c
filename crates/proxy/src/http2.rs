//! HTTP/2 on the `h2` crate, as [`crate::exchange`] sees it: a connection's streams in, one exchange each; and back.
//!
//! The crate does framing, HPACK, flow control and the checks of RFC 9113 on single messages; here are the limits, the
//! life of connections, and the crossing between HTTP/1 and HTTP/2.

pub(crate) mod client;
mod flow;
mod guard;
mod keepalive;
mod rewound;
pub mod server;
mod session;

pub(crate) use guard::Flood;
pub(crate) use session::{Lease, Session, Sessions, Tell, Waiting};

/// HTTP/2's connection preface (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes per stream that wait for the connection's turn to be written.
const SEND_BUFFER: usize = 32 * 1024;

/// Whether some value begins or ends with whitespace, which makes its message malformed (RFC 9113 section 8.2.1): HTTP/1
/// would read another value than HTTP/2 has.
fn has_padded_value(fields: &http::HeaderMap) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let mut values = fields.values().map(http::HeaderValue::as_bytes);
    values.any(|value| blank(value.first()) || blank(value.last()))
}
