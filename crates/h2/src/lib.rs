//! HTTP/2 (RFC 9113) without I/O: bytes of a peer in → events out; commands in → bytes for the peer out.
//!
//! A [`Connection`] opens no socket and reads no clock. Its owner feeds it what it read, acts on the events, gives
//! commands, and writes [`Connection::output`] once per wake-up. Nothing is allocated per request once the buffers have
//! grown to what a connection needs.
//!
//! It is strict by construction: every rule of RFC 9113 that a peer can break is a [`Violation`] with a name and an error
//! code, and ends either its stream ([`Event::Broken`]) or the connection (the error of [`Connection::next`]). What a
//! peer may make this side do without asking for anything useful is bounded by [`Guards`].

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

mod connection;
mod frame;
mod guard;
mod head;
mod hpack;
mod settings;
mod stream;
mod violation;
mod window;

pub use connection::{Config, Connection, Event, HeadKind, Role, Unopened};
pub use frame::StreamId;
pub use guard::{Budget, Guards};
pub use head::{Field, Head};
pub use hpack::FieldWriter;
pub use violation::{Code, Malformed, Violation};

/// The client's connection preface (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
