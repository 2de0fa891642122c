//! The aggregated discovery service, both sides, delta and state of the world (xDS transport protocol).
//!
//! [`client`] and [`server`] are state machines without I/O: they take and give [`Request`]s and [`Response`]s, which
//! [`message`] turns into Envoy's messages of either protocol. [`stream`] and [`service`] put them on gRPC.

pub mod client;
pub mod host;
pub mod message;
pub mod server;
pub mod service;
pub mod stream;

use ripstop_model::discovery::Kind;
use ripstop_model::snapshot::Name;

use crate::node::Node;
use crate::resource::Encoded;

/// Which of the two protocols a stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    #[default]
    Delta,
    /// State of the world: every response carries the whole set that was asked for.
    Full,
}

/// Client → server.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Only in the first request of a stream.
    pub node: Option<Node>,
    pub type_url: String,
    /// Of the response that this acknowledges or rejects; empty otherwise.
    pub nonce: String,
    /// The response was rejected, and why.
    pub error: Option<String>,
    pub interest: Interest,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Interest {
    Delta {
        subscribe: Vec<Name>,
        unsubscribe: Vec<Name>,
        held: Vec<(Name, String)>,
    },
    Full {
        names: Vec<Name>,
        version: String,
    },
}

/// Server → client.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    pub type_url: String,
    pub nonce: String,
    /// Of the whole type in state of the world; informational in delta.
    pub version: String,
    pub resources: Vec<Encoded>,
    pub removed: Vec<Name>,
}

/// The type URLs, each once.
pub const TYPE_URLS: &[(Kind, &str)] = &[
    (Kind::Ranges, "type.googleapis.com/ripstop.v1.Ranges"),
    (Kind::Host, "type.googleapis.com/ripstop.v1.Host"),
    (
        Kind::Secret,
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
    ),
    (
        Kind::Cluster,
        "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    ),
    (
        Kind::Endpoints,
        "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    ),
    (
        Kind::Listener,
        "type.googleapis.com/envoy.config.listener.v3.Listener",
    ),
    (
        Kind::Route,
        "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    ),
];

/// Istio's report of an application's health: a request on the stream that asks for nothing.
pub const HEALTH_URL: &str = "type.googleapis.com/istio.v1.HealthInformation";

pub fn type_url(kind: Kind) -> &'static str {
    TYPE_URLS
        .iter()
        .find(|(k, _)| *k == kind)
        .map_or("", |(_, url)| url)
}

pub fn kind(type_url: &str) -> Option<Kind> {
    TYPE_URLS
        .iter()
        .find(|(_, url)| *url == type_url)
        .map(|(kind, _)| *kind)
}

/// The alias under which the [`Kind::Host`] that owns an address is found.
pub fn address_alias(ip: std::net::IpAddr) -> String {
    format!("ip/{ip}")
}

/// Types whose empty first request means "all" (xDS, "how the client specifies what resources to return").
fn has_legacy_wildcard(kind: Kind) -> bool {
    matches!(kind, Kind::Listener | Kind::Cluster)
}

#[cfg(test)]
mod tests;
