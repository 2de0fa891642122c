//! Envoy's descriptor set, for reading YAML and JSON and for writing `/config_dump`.
//!
//! Decoded it takes tens of milliseconds and tens of megabytes: whoever reads or writes text loads it, lets go of it when
//! that is done, and a sidecar starts without it (decisions.md, 8).

use prost_reflect::prost_types::{DescriptorProto, FileDescriptorProto};
use prost_reflect::{DescriptorError, DescriptorPool, MessageDescriptor};

/// The messages of Envoy's API, while somebody needs them.
pub struct Descriptors(DescriptorPool);

impl Descriptors {
    /// Decodes what this build carries.
    pub fn load() -> Result<Descriptors, DescriptorError> {
        let envoy = include_bytes!(concat!(env!("OUT_DIR"), "/envoy.bin")).as_slice();
        let mut pool = DescriptorPool::decode(envoy)?;
        add_istio(&mut pool)?;
        Ok(Descriptors(pool))
    }

    /// The message `name` (`envoy.config.bootstrap.v3.Bootstrap`); `None` when Envoy's API has none.
    pub(crate) fn message(&self, name: &str) -> Option<MessageDescriptor> {
        self.0.get_message_by_name(name)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = MessageDescriptor> {
        self.0.all_messages()
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_holds_what_a_bootstrap_may_name() {
        let descriptors = Descriptors::load().unwrap();
        for name in [
            "envoy.config.bootstrap.v3.Bootstrap",
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "google.protobuf.Duration",
            "google.protobuf.Struct",
        ] {
            assert!(descriptors.message(name).is_some(), "{name}");
        }
        assert!(descriptors.message("no.such.Message").is_none());
    }
}
