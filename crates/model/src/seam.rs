//! Traits through which sibling crates meet without depending on each other: who signs, who names, who dials.
//!
//! Implementations live where the sockets are (`wire`, `proxy`, `host`); the binary introduces them to each other.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A certificate authority as a workload sees it (Istio's `CreateCertificate`).
pub trait Signer: Send + Sync + 'static {
    /// Signs `csr_pem`; answers the chain, leaf first, root last, each PEM.
    fn sign(
        &self,
        csr_pem: &str,
        ttl: Duration,
    ) -> impl Future<Output = Result<Vec<String>, SignError>> + Send;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The authority could not be reached or was not ready: worth trying again.
    #[error("certificate authority unavailable: {0}")]
    Unavailable(String),
    /// The authority refused: trying the same again will not help.
    #[error("certificate refused: {0}")]
    Refused(String),
}

/// What the mesh knows of one host name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostRecord {
    /// Fully qualified, lower case, no trailing dot.
    pub fqdn: Arc<str>,
    /// Virtual addresses, v4 and v6; the DNS answer unless the service is headless.
    pub vips: Vec<IpAddr>,
    /// Workload addresses: the DNS answer of a headless service.
    pub endpoints: Vec<IpAddr>,
    pub headless: bool,
    pub ports: Vec<HostPort>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub number: u16,
    pub name: String,
    pub protocol: crate::protocol::Protocol,
}

impl HostRecord {
    /// The addresses a DNS answer carries.
    pub fn addresses(&self) -> &[IpAddr] {
        if self.headless {
            &self.endpoints
        } else {
            &self.vips
        }
    }
}

/// The answer to "is this a name of the mesh?".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    Known(Arc<HostRecord>),
    /// Not a mesh name: ask the outside resolver.
    Unknown,
    /// The control plane did not answer in time and the name could only be a mesh name: SERVFAIL.
    Unavailable,
}

/// Looks names up in the mesh, asking the control plane on first use (decisions.md, 2).
/// Takes the name as the application asked it (`orders`, `orders.shop`, `orders.shop.svc.cluster.local`,
/// `api.example.com`); the implementation knows the workload's namespace and expands it.
/// A PTR query for an address of the mesh asks for the alias `ip/ADDRESS` (decisions.md, 2); the record's `fqdn` answers it.
pub trait Names: Send + Sync + 'static {
    fn lookup(&self, name: &str) -> impl Future<Output = Lookup> + Send;
}

/// The two ends of a TCP connection as the application's kernel names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ends {
    /// The application's.
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// What an application was serving when it wrote on an outbound connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// The connection that the request came by.
    pub inbound: Ends,
    /// Bytes that the application had read from that connection when it began the work: it tells which of the
    /// connection's requests is meant.
    pub received: u64,
    pub producer: Producer,
}

/// Who saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Producer {
    Node,
    Python,
    Preload,
    Kernel,
}

impl Producer {
    pub const ALL: [Producer; 4] = [
        Producer::Node,
        Producer::Python,
        Producer::Preload,
        Producer::Kernel,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Producer::Node => "node",
            Producer::Python => "python",
            Producer::Preload => "preload",
            Producer::Kernel => "kernel",
        }
    }
}

/// The table in which producers inside the application's process note what causes its outbound requests.
/// Whatever it says is the application's word about itself and is trusted with nothing but its own traces.
pub trait Causes: Send + Sync + 'static {
    /// What caused the request whose head has just arrived on this connection.
    fn cause(&self, outbound: Ends) -> Option<Cause>;
    /// The connection ends. Called before its socket is closed, so that the next connection with the same ends finds
    /// nothing of this one.
    fn forget(&self, outbound: Ends);
}

/// Hands out unconnected sockets that were born in the application's network namespace.
pub trait AppSockets: Send + Sync + 'static {
    fn stream(&self, family: Family) -> impl Future<Output = std::io::Result<OwnedFd>> + Send;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(ip: IpAddr) -> Family {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}
