//! HTTP/1.1 on the wire: bytes in, heads and body pieces out, and back; no I/O, no clock.
//!
//! The rule is RFC 9110 and 9112 read strictly: any doubt about where a message ends is an error, nothing of a doubtful
//! message is forwarded, and what is forwarded is always the writer's own serialisation.
//!
//! A request passes: [`RequestParser`] (syntax) → [`admit`] (target, Host, framing, connection) →
//! [`RequestHead::normalize`](crate::message::RequestHead::normalize) → policies → [`write::request`]. A response:
//! [`ResponseParser`] → [`accept`] → [`write::response`]. Bodies run through [`body::Decoder`] and [`body::Encoder`].

pub mod body;
mod error;
pub mod framing;
mod head;
mod request;
mod response;
pub mod write;

pub use error::{Error, Peer, Problem};
pub use framing::Framing;
pub use head::{Limits, Progress, RequestParser, ResponseParser};
pub use request::{Admitted, Rules, Upgrade, admit, admit_h2};
pub use response::{Accepted, Asked, accept, downstream_framing};

#[cfg(test)]
mod tests;
