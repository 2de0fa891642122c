//! What a mesh knows of itself → a page for people and JSON for programs, read-only and live.
//!
//! ```text
//! source.rs      trait Source: one look at the mesh; who composes the dashboard implements it
//! picture.rs     what a look gives, typed; the JSON of the API is these types
//! frame.rs       a look → the parts of the API as bytes, bounded, encoded once for all readers
//! feed.rs        looks again and again, but only while somebody watches
//! guard.rs       which requests are answered at all: Host, Origin, method
//! api.rs         paths → answers; page.rs the files of the page
//! server.rs      the socket: bounded connections and streams; connection.rs drops who does not read
//! ```
//!
//! `docs/dashboard.md` is the API's reference.

mod api;
mod connection;
mod feed;
mod frame;
mod guard;
mod page;
pub mod picture;
mod server;
mod source;

pub use server::{ListenError, Running, bind, serve};
pub use source::Source;
