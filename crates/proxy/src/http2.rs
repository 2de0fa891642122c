//! HTTP/2 as [`crate::exchange`] sees it: a connection's streams in, one exchange each; and back.
//!
//! `ripstop_h2` does framing, HPACK, flow control and the checks of RFC 9113, without I/O; here are the sockets, the limits,
//! the life of connections, and the crossing between HTTP/1 and HTTP/2.

pub(crate) mod client;
mod crew;
mod flow;
mod guard;
mod keepalive;
mod link;
mod refused;
mod rewound;
pub mod server;
mod session;
mod spelling;
mod streams;
mod websocket;

use ripstop_model::snapshot::cluster::Http2;

pub(crate) use crew::Crew;
pub(crate) use guard::Flood;
pub(crate) use session::{Lease, Session, Sessions, Tell, Waiting};

/// HTTP/2's connection preface (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of bodies that wait for the connection's turn to be written.
const SEND_BUFFER: usize = 128 * 1024;

/// Streams that the client's side opens on a connection that HTTP/1 requests share; more requests take another.
const SHARED_STREAMS: u32 = 128;
/// The windows of such a connection (decisions/0010). Whoever stalls holds back what its stream's window allows; that of the
/// connection has room for all streams, so that nobody waits for another's reader.
const SHARED_STREAM_WINDOW: u32 = 512 * 1024;
const SHARED_WINDOW: u32 = SHARED_STREAMS * SHARED_STREAM_WINDOW;
/// The windows where none are configured: Envoy has the same for the connection, but two of its streams, with 16 MiB each, use
/// that up.
const STREAM_WINDOW: u32 = 1024 * 1024;
const WINDOW: u32 = 24 * 1024 * 1024;

/// The windows of each stream and of its connection. `shared`: by HTTP/1 requests.
fn windows(settings: &Http2, shared: bool) -> (u32, u32) {
    let (stream, connection) = (
        settings.initial_stream_window,
        settings.initial_connection_window,
    );
    match shared {
        true => (
            stream.map_or(SHARED_STREAM_WINDOW, |stream| {
                stream.min(SHARED_STREAM_WINDOW)
            }),
            connection.map_or(SHARED_WINDOW, |connection| connection.max(SHARED_WINDOW)),
        ),
        false => (
            stream.unwrap_or(STREAM_WINDOW),
            connection.unwrap_or(WINDOW),
        ),
    }
}
