//! `ripstop_model::snapshot` → Envoy v3 messages: what `decode` reads back to the same value.
//!
//! Facts that Envoy has no field for travel as filter metadata: under Istio's keys where Istio has them (a route's
//! `config`, a cluster's `services`, an endpoint's `workload`), under `ripstop` otherwise. A stock Envoy passes over both.

mod access_log;
mod authz;
mod cluster;
mod endpoint;
mod http;
mod listener;
mod route;
mod subset;
mod tls;
mod value;

use std::hash::Hasher;
use std::sync::Arc;

use prost::Message;
use ripstop_model::discovery::Resource;

use crate::xds::host;

pub(crate) use cluster::cluster;
pub(crate) use endpoint::endpoints;
pub(crate) use listener::listener;
pub(crate) use route::route_config;
pub(crate) use tls::secret;

/// The cluster from which Envoy takes secrets by SDS, as in Istio's bootstrap: the agent beside it.
pub const SDS_CLUSTER: &str = "sds-grpc";

/// The message of a resource.
pub(crate) fn message(resource: &Resource) -> Vec<u8> {
    match resource {
        Resource::Cluster(m) => cluster(m).encode_to_vec(),
        Resource::Endpoints(m) => endpoints(m).encode_to_vec(),
        Resource::Listener(m) => listener(m).encode_to_vec(),
        Resource::Route(m) => route_config(m).encode_to_vec(),
        Resource::Secret(m) => secret(m).encode_to_vec(),
        Resource::Host(m) => host::encode_host(m),
        Resource::Ranges(m) => host::encode_ranges(m),
    }
}

/// A hash of the content. Of the model's debug text, because protobuf maps are written in random order; secrets, whose
/// text hides the keys, hold no maps.
pub(crate) fn version(resource: &Resource, bytes: &[u8]) -> Arc<str> {
    struct Text(std::hash::DefaultHasher);
    impl std::fmt::Write for Text {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.write(text.as_bytes());
            Ok(())
        }
    }
    let mut text = Text(std::hash::DefaultHasher::new());
    if let Resource::Secret(_) = resource {
        text.0.write(bytes);
    } else {
        // Writing into a hasher cannot fail.
        let _ = std::fmt::write(&mut text, format_args!("{resource:?}"));
    }
    format!("{:016x}", text.0.finish()).into()
}

#[cfg(test)]
mod tests;
