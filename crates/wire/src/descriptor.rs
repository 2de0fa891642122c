//! Envoy's descriptor set, for reading YAML and JSON and for writing `/config_dump`.
//!
//! Decoding it takes tens of milliseconds and some tens of megabytes, so it is loaded on first use and never on the way a
//! sidecar starts (decisions.md, 8).

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, MessageDescriptor};

static POOL: LazyLock<Result<DescriptorPool, String>> = LazyLock::new(|| {
    DescriptorPool::decode(include_bytes!(concat!(env!("OUT_DIR"), "/envoy.bin")).as_slice())
        .map_err(|error| error.to_string())
});

/// The descriptor of the message `name` (`envoy.config.bootstrap.v3.Bootstrap`); `None` when Envoy's API has none.
pub(crate) fn message(name: &str) -> Option<MessageDescriptor> {
    POOL.as_ref().ok()?.get_message_by_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_holds_what_a_bootstrap_may_name() {
        assert_eq!(POOL.as_ref().err(), None);
        for name in [
            "envoy.config.bootstrap.v3.Bootstrap",
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "google.protobuf.Duration",
            "google.protobuf.Struct",
        ] {
            assert!(message(name).is_some(), "{name}");
        }
        assert!(message("no.such.Message").is_none());
    }
}
