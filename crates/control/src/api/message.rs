//! What goes over the control plane's HTTP API, as JSON: the supervisor of a workload and `ripstop get/apply/status` speak it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use ripstop_model::protocol::Protocol;
use ripstop_model::seam::Producer;
use serde::{Deserialize, Serialize};

pub use crate::address::Addresses;
pub use crate::compile::Mode as MutualTls;

/// `POST /v1/workloads`: one process wants to be a workload. Asking again with the same namespace, workload and replica is the
/// restart of that workload: it keeps its id and addresses and gets a new credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// The service's short name. Made known with these ports when no configuration declares it. Empty: a client only
    /// (`--exec`), which nobody calls.
    #[serde(default)]
    pub service: String,
    /// Empty: the service's name.
    #[serde(default)]
    pub service_account: String,
    /// The Deployment-like name; empty: the service's name.
    #[serde(default)]
    pub workload: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub ports: Vec<Port>,
    /// `None`: the lowest number that no live workload of that name has.
    #[serde(default)]
    pub replica: Option<u32>,
    /// Tells hosts apart: workloads of one host, which share a loopback, meet on transport addresses, others on advertised
    /// ones. Empty: the control plane's own host.
    #[serde(default)]
    pub host: String,
    /// Where sidecars of other hosts reach this one.
    #[serde(default)]
    pub advertise: Option<IpAddr>,
    /// Callers get workload addresses from DNS instead of a virtual one.
    #[serde(default)]
    pub headless: bool,
    /// Takes traffic at once, without waiting for a first readiness report.
    #[serde(default)]
    pub ready: bool,
}

impl Register {
    /// The workload's id, where it is known before.
    pub fn id(&self) -> Option<String> {
        let workload = match self.workload.as_str() {
            "" => &self.service,
            named => named,
        };
        let replica = self.replica?;
        Some(format!("{workload}-{replica}.{}", self.namespace))
    }
}

fn default_namespace() -> String {
    ripstop_model::intent::DEFAULT_NAMESPACE.to_owned()
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Empty: `port-<number>`; the part before the first dash names the protocol.
    #[serde(default)]
    pub name: String,
    pub port: u16,
    /// Where the application listens; `None`: `port`.
    #[serde(default)]
    pub target_port: Option<u16>,
    /// Beats the name.
    #[serde(default)]
    pub protocol: Option<Protocol>,
    /// Where clients outside the mesh are let in, on the workload's host.
    #[serde(default)]
    pub publish: Option<SocketAddr>,
}

impl Port {
    pub fn target(&self) -> u16 {
        self.target_port.unwrap_or(self.port)
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
            .unwrap_or_else(|| Protocol::of_port_name(&self.name))
    }
}

/// The answer to [`Register`]: everything the supervisor needs to start the sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// `<workload>-<replica>.<namespace>`.
    pub id: String,
    /// The xDS node id: `sidecar~<address>~<workload>-<replica>.<namespace>~<namespace>.svc.cluster.local`.
    pub node: String,
    pub namespace: String,
    pub service: String,
    pub service_account: String,
    pub workload: String,
    pub replica: u32,
    pub labels: BTreeMap<String, String>,
    pub addresses: Addresses,
    /// What the sidecar subscribes to by name and binds, one per target port and kind of address.
    pub inbound: Vec<Inbound>,
    /// Good for one CreateCertificate call, until it expires; pass it to the sidecar as a descriptor.
    pub credential: String,
    /// After a join with a token: the credential of this very workload for later calls (health, place, deregistration) and
    /// for coming back. Good until 30 days after its last sign of life; one that comes back with it keeps it.
    #[serde(default)]
    pub rejoin: Option<String>,
    pub trust_domain: String,
    /// The roots of the mesh, PEM.
    pub roots: String,
    /// SHA-256 of the first root's DER, 64 hexadecimal digits.
    pub root_sha256: String,
    /// Addresses that belong to the mesh.
    pub ranges: Vec<IpNet>,
    /// Service names end in this: `cluster.local`.
    pub domain: String,
    /// Where xDS and CreateCertificate are served over TLS, as the control plane bound it.
    pub xds_tls: Option<SocketAddr>,
    /// Plain-text xDS on loopback.
    pub xds: Option<SocketAddr>,
    /// The SPIFFE identity behind `xds_tls`.
    pub control_identity: String,
    pub tracing: Tracing,
    /// How long what is under way may take to end when the workload stops.
    pub drain: Duration,
}

/// What a sidecar is to do for traces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracing {
    /// `http://host:4318` or `grpc://host:4317`; `None`: spans are not exported.
    pub otlp: Option<String>,
    /// Whose hooks are put into the application.
    pub hooks: Vec<Producer>,
}

/// One inbound listener of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inbound {
    /// The Listener's resource name.
    pub listener: String,
    pub target_port: u16,
    pub kind: InboundKind,
    pub address: SocketAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InboundKind {
    /// For sidecars of the same host.
    Transport,
    /// For sidecars of other hosts.
    Advertised,
    /// For clients outside the mesh.
    Published,
}

/// `PUT /v1/workloads/{id}/health`; also the lease: a workload that neither has an ADS stream nor reports within
/// [`crate::registry::LEASE`] gets no more traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    pub state: Readiness,
}

/// `PUT /v1/workloads/{id}/place`: where the workload's host is reached, said again and again by those whose address may change.
/// Not a sign of life: that is the sidecar's to give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    pub host: String,
    pub advertise: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Readiness {
    /// Registered, not yet ready.
    #[default]
    Starting,
    Ready,
    /// The probe fails.
    Unready,
    /// Going away: callers leave it before it stops listening (R4.2).
    Draining,
}

/// `GET /v1/workloads`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    pub id: String,
    pub namespace: String,
    pub service: String,
    pub service_account: String,
    pub workload: String,
    pub replica: u32,
    pub labels: BTreeMap<String, String>,
    pub addresses: Addresses,
    pub ports: Vec<Port>,
    pub host: String,
    pub advertise: Option<IpAddr>,
    pub readiness: Readiness,
    /// Its lease holds: its sidecar is connected or reported lately.
    pub alive: bool,
    /// `spiffe://…`, whom its certificate names.
    pub identity: String,
    /// By target port, as the PeerAuthentication in force has it.
    pub mutual_tls: BTreeMap<u16, MutualTls>,
}

/// `GET /v1/services`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub host: String,
    pub namespace: String,
    pub name: String,
    pub headless: bool,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
    /// Workload ids that take traffic, and all of them.
    pub ready: Vec<String>,
    pub workloads: Vec<String>,
    /// How many the mesh file declares.
    pub declared: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    pub name: String,
    pub number: u16,
    pub target: u16,
    pub protocol: Protocol,
}

/// `GET /v1/status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Grows with every change of the configuration.
    pub revision: u64,
    pub proxies: Vec<ProxyStatus>,
    pub resources: Vec<ResourceStatus>,
    pub sources: Vec<SourceStatus>,
    /// When the signing certificate ends, seconds since 1970.
    pub authority_expires: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProxyStatus {
    pub node: String,
    pub workload: Option<String>,
    /// `user_agent_name` and version.
    pub agent: String,
    /// `delta` or `sotw`.
    pub protocol: String,
    /// The verified SPIFFE identity; empty over plain text.
    pub identity: String,
    pub connected_seconds: u64,
    /// The configuration revision of which everything that was sent has been accepted.
    pub acked_revision: u64,
    pub types: Vec<TypeStatus>,
    /// What the proxy refuses now.
    pub rejected: Vec<Rejected>,
    /// Set while it has not accepted everything it should run.
    pub behind: Option<Behind>,
}

/// A proxy that does not run the configuration in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// Since it last ran everything, or connected.
    pub seconds: u64,
    /// What it refuses or has not answered.
    pub reason: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TypeStatus {
    /// `Listener`, `Cluster`, …
    pub kind: String,
    /// What it is sent, and how much of that it has accepted.
    pub resources: usize,
    pub acked: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rejected {
    pub kind: String,
    /// The xDS names in the refused response.
    pub names: Vec<String>,
    /// The proxy's words; a field path where it gave one.
    pub message: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ResourceStatus {
    /// `VirtualService/default/orders`.
    pub resource: String,
    /// `file:line`, or `api`.
    pub origin: String,
    pub accepted: bool,
    /// An earlier version stays in force because the present one is not accepted.
    pub last_good: bool,
    /// Names of the resources that won where this one overlaps them, with what about.
    pub conflicts: Vec<Conflict>,
    /// The configuration revision since which this version is in force; 0 if none is.
    pub observed_revision: u64,
    /// Every connected proxy has accepted everything it was sent of that revision or a later one.
    pub programmed: bool,
    pub proxies_acked: usize,
    pub proxies: usize,
    /// Proxies that have not accepted it for so long that somebody should look (R1.2).
    pub pending: Vec<Pending>,
    /// What proxies refuse that came from this resource, with the field path.
    pub rejected: Vec<Rejected>,
    /// Errors and warnings, one line each.
    pub messages: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The workload's id, or the node's where it is none.
    pub proxy: String,
    pub seconds: u64,
    pub reason: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Conflict {
    pub winner: String,
    pub about: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceStatus {
    pub source: String,
    pub resources: usize,
    /// Why it cannot be read now; what it said last stays in force.
    pub error: Option<String>,
    /// Errors and warnings of its files, one line each.
    pub messages: Vec<String>,
}

/// `GET /v1/resources[/KIND[/NAMESPACE[/NAME]]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub origin: String,
    /// The document as it was written.
    pub text: String,
}

/// The answer to `PUT /v1/resources` (the body is YAML or JSON, one or more documents): what was applied, what was not.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// `VirtualService/default/orders`, in the order of the text.
    pub applied: Vec<String>,
    /// Errors and warnings, as `model::diagnostic::to_json` writes them.
    pub diagnostics: Vec<serde_json::Value>,
    /// The revision from which on they are in force.
    pub revision: u64,
}

/// `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    pub namespace: String,
    pub service_account: String,
    /// Empty: a client only.
    #[serde(default)]
    pub service: String,
    pub ttl_seconds: u64,
    /// Registrations it is good for.
    pub uses: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The text of the token file; carries the root's fingerprint.
    pub token: String,
}

/// The body of every answer that is not 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub error: String,
}
