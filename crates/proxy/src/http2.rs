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

pub(crate) use crew::Crew;
pub(crate) use guard::Flood;
pub(crate) use session::{Lease, Session, Sessions, Tell, Waiting};

/// HTTP/2's connection preface (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of bodies that wait for the connection's turn to be written.
const SEND_BUFFER: usize = 128 * 1024;

/// Of connections that HTTP/1 requests share (decisions/0010). Whoever stalls holds back what its stream's window allows; that
/// of the connection has room for all that the client's side opens, so that nobody waits for another's reader. More requests
/// take another connection.
pub(crate) const SHARED_STREAMS: u32 = 128;
pub(crate) const SHARED_STREAM_WINDOW: u32 = 512 * 1024;
pub(crate) const SHARED_WINDOW: u32 = SHARED_STREAMS * SHARED_STREAM_WINDOW;
