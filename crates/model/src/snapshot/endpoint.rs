//! The members of a cluster (`config.endpoint.v3.ClusterLoadAssignment`).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use super::Name;

#[derive(Debug, Clone, PartialEq)]
pub struct Endpoints {
    pub name: Name,
    pub groups: Vec<Group>,
    /// Percent; 140 means a priority spills when under 100/140 of it is healthy.
    pub overprovisioning: u32,
}

/// One locality at one priority.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Group {
    pub locality: Locality,
    pub priority: u32,
    /// Only with locality-weighted balancing.
    pub weight: Option<u32>,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Where to connect.
    pub address: Target,
    /// At least 1.
    pub weight: u32,
    pub health: Health,
    /// For `host_rewrite: auto`, health checks and TLS names.
    pub hostname: Option<String>,
    /// `envoy.transport_socket_match`; `{"tlsMode": "istio"}` means mesh mTLS.
    pub transport: BTreeMap<String, String>,
    /// `envoy.lb`: what subsets select on.
    pub labels: BTreeMap<String, String>,
    pub workload: Option<Arc<Workload>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    Socket(SocketAddr),
    /// Resolved by DNS (STRICT_DNS and LOGICAL_DNS clusters).
    Name {
        host: String,
        port: u16,
    },
    Pipe(PathBuf),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Health {
    #[default]
    Unknown,
    Healthy,
    Unhealthy,
    Draining,
    Timeout,
    Degraded,
}

impl Health {
    /// May be picked while others can.
    pub fn is_usable(self) -> bool {
        matches!(self, Health::Unknown | Health::Healthy | Health::Degraded)
    }
}

/// Who an endpoint or a peer is: what metric labels and logs say of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Workload {
    /// The Deployment-like name.
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
    pub app: Arc<str>,
    pub version: Arc<str>,
    pub canonical_service: Arc<str>,
    pub canonical_revision: Arc<str>,
    pub cluster: Arc<str>,
    /// The workload address (decisions.md, 1), which transport addresses hide.
    pub address: Option<IpAddr>,
}
