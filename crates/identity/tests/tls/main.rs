//! The identity crate as its users see it: real handshakes in memory, and the authority's life.

mod authority;
mod handshake;
mod pki;
