//! Envoy's descriptor set, for reading YAML and JSON and for writing `/config_dump`.
//!
//! Decoding it takes tens of milliseconds and some tens of megabytes, so it is loaded on first use and never on the way a
//! sidecar starts (decisions.md, 8).

use std::sync::LazyLock;

use prost_reflect::prost_types::{DescriptorProto, FileDescriptorProto};
use prost_reflect::{DescriptorError, DescriptorPool, MessageDescriptor};

static POOL: LazyLock<Result<DescriptorPool, String>> = LazyLock::new(|| {
    let envoy = include_bytes!(concat!(env!("OUT_DIR"), "/envoy.bin")).as_slice();
    let mut pool = DescriptorPool::decode(envoy).map_err(|error| error.to_string())?;
    add_istio(&mut pool).map_err(|error| error.to_string())?;
    Ok(pool)
});

/// The one message outside Envoy's API that `encode` writes, always empty; JSON cannot show an `Any` of unknown type.
fn add_istio(pool: &mut DescriptorPool) -> Result<(), DescriptorError> {
    pool.add_file_descriptor_proto(FileDescriptorProto {
        name: Some("io/istio/http/peer_metadata/config.proto".to_owned()),
        package: Some("io.istio.http.peer_metadata".to_owned()),
        syntax: Some("proto3".to_owned()),
        message_type: vec![DescriptorProto {
            name: Some("Config".to_owned()),
            ..DescriptorProto::default()
        }],
        ..FileDescriptorProto::default()
    })
}

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
