//! What a supervisor tells the sidecar it starts (`ripstop proxy --sidecar 5`), as JSON on an inherited descriptor.

mod capture;
pub(crate) mod run;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use ripstop_model::protocol::Protocol;
use serde::{Deserialize, Serialize};

/// Everything a sidecar needs before it knows the mesh. Read it with `ripstop_host::supervise::inherited_document`; it holds
/// a secret, so it is neither logged nor written to disk.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Config {
    /// `<workload>-<replica>.<namespace>`: the registration's id at the control plane.
    pub(crate) id: String,
    /// The xDS node id, `sidecar~<address>~<workload>-<replica>.<namespace>~<namespace>.svc.cluster.local`.
    pub(crate) node: String,
    pub(crate) namespace: String,
    /// The service's short name; empty for a client that nobody calls.
    pub(crate) service: String,
    pub(crate) service_account: String,
    pub(crate) workload: String,
    pub(crate) replica: u32,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) ports: Vec<Port>,
    /// The mesh's (`metadata.name` of the mesh file), for labels and traces.
    pub(crate) mesh: String,
    pub(crate) trust_domain: String,
    /// Service names end in this: `cluster.local`.
    pub(crate) domain: String,
    /// The workload's own addresses, the "pod IP".
    pub(crate) addresses: Vec<IpAddr>,
    /// This sidecar's address towards others of its host: the source of its dials to them.
    pub(crate) transport: Ipv4Addr,
    /// What it binds and subscribes to by name.
    pub(crate) inbound: Vec<Inbound>,
    /// Addresses that belong to the mesh.
    pub(crate) ranges: Vec<IpNet>,
    pub(crate) control: Control,
    /// `None`: ready as soon as the sidecar is.
    pub(crate) readiness: Option<Probe>,
    /// How long a first use of a name waits.
    pub(crate) discovery: Discovery,
    /// Envoy's admin paths (15000 on the transport address).
    pub(crate) admin: SocketAddr,
    /// Prometheus text at `/stats/prometheus` and `/metrics` (15090 and 15020 on the transport address).
    pub(crate) metrics: Vec<SocketAddr>,
    /// `/healthz/ready` (15021 on the transport address).
    pub(crate) ready: SocketAddr,
    /// Where access log lines go that the listeners send to `/dev/stdout`; `None`: this process' stdout.
    pub(crate) access_log: Option<PathBuf>,
    /// `http://host:4318` or `grpc://host:4317`; `None`: spans are not exported.
    pub(crate) otlp: Option<String>,
    /// What a drain waits for at most.
    pub(crate) drain: Duration,
    /// `None`: as many as the architecture says for a sidecar.
    pub(crate) workers: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) number: u16,
    /// Where the app listens.
    pub(crate) target: u16,
    pub(crate) protocol: Protocol,
}

/// One inbound listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Inbound {
    /// The Listener's resource name.
    pub(crate) listener: String,
    pub(crate) address: SocketAddr,
    pub(crate) target_port: u16,
    /// For clients outside the mesh, shared with the other replicas: open only while the application is ready.
    #[serde(default)]
    pub(crate) published: bool,
}

/// Who configures the sidecar and certifies it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Control {
    /// `HOST:PORT` of xDS and CreateCertificate over TLS.
    pub(crate) address: String,
    /// The mesh's roots, PEM: what the control plane's certificate is verified against.
    pub(crate) roots: String,
    /// The SPIFFE identity of the control plane.
    pub(crate) identity: String,
    /// The bearer secret of the first CreateCertificate, good for one; renewals authenticate by the certificate itself.
    pub(crate) credential: String,
}

/// How the sidecar finds out whether the app is ready, inside the app's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Probe {
    /// A target port.
    pub(crate) port: u16,
    /// GET this and take 200 to 399 for ready; `None`: a TCP connection will do.
    pub(crate) path: Option<String>,
    /// Between probes; shorter while the app starts.
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Discovery {
    pub(crate) timeout: Duration,
    pub(crate) negative_ttl: Duration,
    /// After which an unused host is dropped.
    pub(crate) idle_timeout: Duration,
}

impl Default for Discovery {
    fn default() -> Discovery {
        Discovery {
            timeout: Duration::from_secs(5),
            negative_ttl: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(600),
        }
    }
}
