//! The only crate that knows a protobuf: Envoy v3, ADS, SDS and the certificate API.
//!
//! - [`resource`]: a resource ⇄ its message, by [`decode`] and [`encode`]; `decode(encode(x)) == x`
//! - [`bootstrap`]: an Envoy v3 bootstrap in YAML or JSON
//! - [`dump`]: Envoy's `/config_dump`; [`inventory`]: which fields a bootstrap sets
//! - [`certificate`], [`sds`], [`health`]: Istio's certificate API, secrets for a stock Envoy, gRPC health checks
//! - [`xds`]: the ADS protocol, client and server, delta and state-of-the-world, without I/O

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

pub mod bootstrap;
pub mod certificate;
pub mod decode;
pub mod descriptor;
pub mod dump;
pub mod encode;
pub mod health;
pub mod inventory;
pub mod node;
mod pb;
pub mod resource;
pub mod sds;
mod text;
pub mod xds;

pub use decode::{Decoded, Position, Problem, Problems, Severity, Strictness};

/// An error and everything under it, in one line.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
