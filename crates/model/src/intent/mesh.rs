//! `Mesh` (ripstop.dev): the compose-like file that `ripstop up` runs, as typed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::diagnostic::Code;
use crate::protocol::Protocol;
use crate::schema::{Path, Sink, Typed, Word, record, token};
use crate::seam::Producer;
use crate::yaml::Node;

record! {
    #[derive(Default)]
    pub struct Mesh {
        trust_domain: Option<String>,
        /// Files or folders of Istio and Gateway API resources, relative to this file; watched.
        config: Vec<String>,
        /// What applies where nothing was written.
        defaults: Option<Defaults>,
        /// Resources here apply to the whole mesh; unset is `istio-system`.
        root_namespace: Option<String>,
        addresses: Option<AddressRanges>,
        discovery: Option<Discovery>,
        access_log: Option<AccessLog>,
        tracing: Option<Tracing>,
        /// How long what is under way at a workload may take to end when it stops; unset is [`DRAIN`].
        termination_drain_duration: Option<Duration>,
        services: Vec<MeshService>,
    }
}

/// What the sidecar listens on inside a workload: outbound connections, DNS, host ports, datagrams. Not for applications.
pub const CAPTURE_PORTS: [u16; 4] = [15001, 15053, 15054, 15055];

/// What a drain waits for at most where nobody says.
pub const DRAIN: Duration = Duration::from_secs(10);

token! {
    pub enum Defaults {
        Ripstop = "ripstop",
        Istio = "istio",
    }
}

record! {
    /// Where the mesh takes its addresses from (each a block; unset keeps the default of [`AddressRanges`]'s constants).
    #[derive(Eq, Default)]
    pub struct AddressRanges {
        /// Virtual addresses of hosts; 240.240.0.0/16 and 2001:2::/48.
        vips_v4 as "vipsV4": Option<Ipv4Net>,
        vips_v6 as "vipsV6": Option<Ipv6Net>,
        /// Addresses that workloads see as their own; 10.88.0.0/16 and fd72:6970:7374::/64.
        workloads_v4 as "workloadsV4": Option<Ipv4Net>,
        workloads_v6 as "workloadsV6": Option<Ipv6Net>,
        /// Between sidecars of one host; 127.88.0.0/16.
        transport: Option<Ipv4Net>,
    }
}

impl AddressRanges {
    pub const VIPS_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(240, 240, 0, 0), 16);
    pub const VIPS_V6: Ipv6Net =
        Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0), 48);
    pub const WORKLOADS_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 88, 0, 0), 16);
    pub const WORKLOADS_V6: Ipv6Net =
        Ipv6Net::new_assert(Ipv6Addr::new(0xfd72, 0x6970, 0x7374, 0, 0, 0, 0, 0), 64);
    pub const TRANSPORT: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 88, 0, 0), 16);
}

record! {
    /// The first use of a host asks the control plane.
    #[derive(Eq, Default)]
    pub struct Discovery {
        /// How long a first use waits; unset is 5s.
        timeout: Option<Duration>,
        /// How long "no such host" is remembered; unset is 5s.
        negative_ttl as "negativeTTL": Option<Duration>,
        /// After which an unused host is dropped; unset is 10m.
        idle_timeout: Option<Duration>,
    }
}

record! {
    #[derive(Eq, Default)]
    pub struct AccessLog {
        /// Unset is text.
        encoding: Option<LogEncoding>,
        /// A file, `/dev/stdout` or `off`; unset is a file in the state folder.
        path: Option<String>,
    }
}

token! {
    pub enum LogEncoding {
        Text = "text",
        Json = "json",
        Off = "off",
    }
}

record! {
    /// Where spans go.
    #[derive(Default)]
    pub struct Tracing {
        /// `http://host:4318` (OTLP over HTTP) or `grpc://host:4317`; unset exports nothing.
        otlp: Option<String>,
        /// Percent of new traces that are kept, 0 to 100; unset is 100.
        sampling: Option<f64>,
        hooks: Option<Hooks>,
    }
}

record! {
    /// What is put into applications so that their outbound requests join the trace of the inbound one that caused them.
    #[derive(Eq, Default)]
    pub struct Hooks {
        /// Unset is off: AsyncLocalStorage costs a busy Node before version 24 more than a fifth of its CPU time.
        node: Option<bool>,
        /// Unset is on.
        python: Option<bool>,
        /// A shared object for programs of any language whose threads serve one request at a time; unset is on.
        preload: Option<bool>,
        /// What the kernel sees of statically linked programs whose threads serve one request at a time, where it permits
        /// to look; unset is on.
        kernel: Option<bool>,
    }
}

impl Hooks {
    /// What is unset here is as in `others`.
    pub fn over(&self, others: &Hooks) -> Hooks {
        Hooks {
            node: self.node.or(others.node),
            python: self.python.or(others.python),
            preload: self.preload.or(others.preload),
            kernel: self.kernel.or(others.kernel),
        }
    }

    pub fn producers(&self) -> Vec<Producer> {
        let wanted = [
            (self.node.unwrap_or(false), Producer::Node),
            (self.python.unwrap_or(true), Producer::Python),
            (self.preload.unwrap_or(true), Producer::Preload),
            (self.kernel.unwrap_or(true), Producer::Kernel),
        ];
        let wanted = wanted.into_iter().filter(|(wanted, _)| *wanted);
        wanted.map(|(_, producer)| producer).collect()
    }
}

record! {
    pub struct MeshService {
        name: String,
        namespace: Option<String>,
        ports: Vec<MeshPort>,
        /// DNS answers with the workloads' addresses instead of one virtual address.
        headless: Option<bool>,
        labels: BTreeMap<String, String>,
        workloads: Vec<Workload>,
    }
}

impl MeshService {
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }
}

record! {
    #[derive(Eq)]
    pub struct MeshPort {
        /// Names the protocol too, as in Istio: `http`, `http-web`, `grpc`, `tcp-db`; anything else is detected.
        name: Option<String>,
        port: u16,
        /// Where the workload listens; unset is `port`.
        target_port: Option<u16>,
        /// Beats what the name says: `http`, `http2`, `grpc`, `tcp`, `tls`, …
        protocol: Option<String>,
        /// Opens the port for clients outside the mesh.
        publish: Option<Publish>,
    }
}

impl MeshPort {
    pub fn target(&self) -> u16 {
        self.target_port.unwrap_or(self.port)
    }

    pub fn protocol(&self) -> Protocol {
        match (&self.protocol, &self.name) {
            (Some(protocol), _) => Protocol::named(protocol).unwrap_or_default(),
            (None, Some(name)) => Protocol::of_port_name(name),
            (None, None) => Protocol::Auto,
        }
    }
}

/// `[ADDR:]PORT` on the host; the address defaults to 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Publish {
    pub address: IpAddr,
    pub port: u16,
}

impl Publish {
    pub fn parse(text: &str) -> Option<Publish> {
        if let Ok(socket) = text.parse::<std::net::SocketAddr>() {
            return Some(Publish {
                address: socket.ip(),
                port: socket.port(),
            });
        }
        let (address, port) = match text.rsplit_once(':') {
            Some((address, port)) => (address.parse().ok()?, port),
            None => (IpAddr::V4(Ipv4Addr::LOCALHOST), text),
        };
        Some(Publish {
            address,
            port: port.parse().ok()?,
        })
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::net::SocketAddr::new(self.address, self.port).fmt(f)
    }
}

impl Typed for Publish {
    fn read(node: &Node, at: &Path<'_>, sink: &mut Sink) -> Option<Self> {
        if let Some(publish) = node.text().and_then(Publish::parse) {
            return Some(publish);
        }
        sink.error(
            Code::InvalidAddress,
            at,
            node.span,
            format!(
                "expected a port or an address and a port, found {}",
                node.describe()
            ),
        )
        .help("such as 8080, \"0.0.0.0:8080\" or \"[::1]:8080\"");
        None
    }
}

record! {
    pub struct Workload {
        /// Unset is the service's name.
        name: Option<String>,
        /// Unset is 1.
        replicas: Option<u32>,
        labels: BTreeMap<String, String>,
        /// Unset is the service's name.
        service_account: Option<String>,
        /// Program and arguments; relative to this file's folder.
        command: Command,
        env: BTreeMap<String, Word>,
        /// Unset is the caller.
        user: Option<String>,
        readiness: Option<Readiness>,
        /// Ports of the host's loopback that it reaches as `host.ripstop.internal`.
        host_ports: Vec<u16>,
        /// Unset is on-failure.
        restart: Option<Restart>,
        /// In place of the mesh's; what is unset in it stays as the mesh has it.
        hooks: Option<Hooks>,
    }
}

impl Workload {
    /// The workload's name in the service `service`.
    pub fn name<'a>(&'a self, service: &'a MeshService) -> &'a str {
        self.name.as_deref().unwrap_or(&service.name)
    }

    pub fn service_account<'a>(&'a self, service: &'a MeshService) -> &'a str {
        self.service_account.as_deref().unwrap_or(&service.name)
    }

    pub fn replicas(&self) -> u32 {
        self.replicas.unwrap_or(1)
    }

    /// Its labels with the ones that Istio's metrics and selectors expect: `app`, unless it is set.
    pub fn labels(&self, service: &MeshService) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        labels
            .entry("app".to_owned())
            .or_insert_with(|| service.name.clone());
        labels
    }
}

/// Program and arguments, at least the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command(pub Vec<String>);

impl Typed for Command {
    fn read(node: &Node, at: &Path<'_>, sink: &mut Sink) -> Option<Self> {
        if let Some(text) = node.text() {
            let words: Vec<&str> = text.split_whitespace().collect();
            sink.error(
                Code::WrongType,
                at,
                node.span,
                "a command is a list: the program, then its arguments",
            )
            .help(format!("write [{}], or [sh, -c, \"…\"]", words.join(", ")));
            return None;
        }
        let words = Vec::<Word>::read(node, at, sink)?;
        if words.first().is_none_or(|program| program.0.is_empty()) {
            sink.error(Code::EmptyField, at, node.span, "the command is empty")
                .help("name a program: [python3, app.py]");
            return None;
        }
        Some(Command(words.into_iter().map(|word| word.0).collect()))
    }
}

record! {
    /// When a workload counts as ready; unset is a TCP connection to the first port.
    #[derive(Eq, Default)]
    pub struct Readiness {
        http: Option<HttpReadiness>,
        tcp: Option<TcpReadiness>,
        /// Between probes; unset is 1s, quicker while starting.
        interval: Option<Duration>,
        /// Of one probe; unset is 1s.
        timeout: Option<Duration>,
    }
    exclusive { "http" | "tcp" }
}

record! {
    #[derive(Eq)]
    pub struct HttpReadiness {
        path: String,
        /// A target port; unset is the first.
        port: Option<u16>,
    }
}

record! {
    #[derive(Eq, Default)]
    pub struct TcpReadiness {
        port: Option<u16>,
    }
}

token! {
    pub enum Restart {
        /// With back-off, unless it exits with 0.
        OnFailure = "on-failure",
        Always = "always",
        Never = "never",
    }
}
