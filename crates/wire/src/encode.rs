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
mod tls;
mod value;

use std::hash::Hasher;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use ripstop_model::snapshot::Name;

use crate::xds::{Body, Kind, host};

pub(crate) use cluster::cluster;
pub(crate) use endpoint::endpoints;
pub(crate) use listener::listener;
pub(crate) use route::route_config;
pub(crate) use tls::secret;

/// The cluster from which Envoy takes secrets by SDS, as in Istio's bootstrap: the agent beside it.
pub const SDS_CLUSTER: &str = "sds-grpc";

/// A resource as it travels. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    pub kind: Kind,
    pub name: Name,
    /// Equal for equal content within one build.
    pub version: Arc<str>,
    /// The message, without the `Any` around it.
    pub bytes: Bytes,
}

/// Encodes one resource.
pub fn resource(body: &Body) -> Encoded {
    let bytes = match body {
        Body::Cluster(m) => cluster(m).encode_to_vec(),
        Body::Endpoints(m) => endpoints(m).encode_to_vec(),
        Body::Listener(m) => listener(m).encode_to_vec(),
        Body::Routes(m) => route_config(m).encode_to_vec(),
        Body::Secret(m) => secret(m).encode_to_vec(),
        Body::Host(m) => host::encode_host(m).encode_to_vec(),
        Body::Ranges(m) => host::encode_ranges(m).encode_to_vec(),
    };
    Encoded {
        kind: body.kind(),
        name: body.name().into(),
        version: version(body, &bytes),
        bytes: bytes.into(),
    }
}

/// A hash of the content. Of the model's debug text, because protobuf maps are written in random order; secrets, whose
/// text hides the keys, hold no maps.
fn version(body: &Body, bytes: &[u8]) -> Arc<str> {
    struct Text(std::hash::DefaultHasher);
    impl std::fmt::Write for Text {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.write(text.as_bytes());
            Ok(())
        }
    }
    let mut text = Text(std::hash::DefaultHasher::new());
    if let Body::Secret(_) = body {
        text.0.write(bytes);
    } else {
        // Writing into a hasher cannot fail.
        let _ = std::fmt::write(&mut text, format_args!("{body:?}"));
    }
    format!("{:016x}", text.0.finish()).into()
}

#[cfg(test)]
mod tests;
