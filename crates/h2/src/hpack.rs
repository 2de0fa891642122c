//! HPACK (RFC 7541): field blocks ↔ fields, each way with a table of its own.

mod decode;
mod encode;
mod huffman;
mod integer;
mod table;

pub(crate) use decode::{Decoder, Undecoded};
pub(crate) use encode::Encoder;
pub use encode::FieldWriter;

/// The table that this side lets its peers use; the default, so that no SETTINGS are needed (RFC 9113 section 6.5.2).
pub(crate) const TABLE: usize = 4_096;

#[cfg(test)]
mod tests;
