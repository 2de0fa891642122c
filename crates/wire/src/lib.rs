//! The only crate that knows a protobuf: Envoy v3, ADS, SDS and the certificate API.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]
