//! What happened to one request or one connection, borrowed from the task that served it.
//!
//! Everything that is said about it later (labels, log fields, span attributes) is a function of this struct.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use ripstop_model::reason::{Flag, Flags, Reason};

use crate::trace::SpanContext;

/// Which proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's sidecar.
    Source,
    /// The server's sidecar.
    Destination,
    Waypoint,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Http,
    Grpc,
    Tcp,
}

/// `connection_security_policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    MutualTls,
    None,
    /// What a client's sidecar says: only the server's knows.
    Unknown,
}

/// A workload as labels name it. Empty fields are labelled `unknown`. Built once per connection or endpoint and shared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Workload {
    pub name: String,
    pub namespace: String,
    /// `spiffe://…`.
    pub principal: String,
    pub app: String,
    pub version: String,
    pub cluster: String,
    pub canonical_service: String,
    pub canonical_revision: String,
}

/// The service that was called, from configuration and never from a request, so that labels stay bounded (R13.1).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Service {
    /// Fully qualified.
    pub host: String,
    pub name: String,
    pub namespace: String,
}

/// A value with its content hash, which stands for it when label sets are looked up.
#[derive(Debug, Clone)]
pub struct Known<T> {
    value: T,
    hash: u64,
}

impl<T: std::hash::Hash> Known<T> {
    /// The hash is keyed per process, so peers cannot choose metadata that collides.
    pub fn new(value: T) -> Known<T> {
        static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let hash = SEED.hash_one(&value);
        Known { value, hash }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }
}

impl<T> std::ops::Deref for Known<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// The workload nobody told us about.
pub fn unknown_workload() -> &'static Known<Workload> {
    static UNKNOWN: LazyLock<Known<Workload>> = LazyLock::new(|| Known::new(Workload::default()));
    &UNKNOWN
}

/// The service of a destination outside the configuration.
pub fn unknown_service() -> &'static Known<Service> {
    static UNKNOWN: LazyLock<Known<Service>> = LazyLock::new(|| Known::new(Service::default()));
    &UNKNOWN
}

/// Header fields by lower-case name; of requests also `:method`, `:path`, `:authority` and `:scheme`.
pub trait Fields {
    /// Of several values the first, as Envoy's operators have it.
    fn field(&self, name: &str) -> Option<Cow<'_, str>>;

    /// Several values joined by commas, as Envoy's matchers have it.
    fn joined(&self, name: &str) -> Option<Cow<'_, str>> {
        self.field(name)
    }
}

/// No fields: TCP, and requests that were never answered.
#[derive(Debug, Clone, Copy)]
pub struct NoFields;

impl Fields for NoFields {
    fn field(&self, _name: &str) -> Option<Cow<'_, str>> {
        None
    }
}

impl<F: Fn(&str) -> Option<String>> Fields for F {
    fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        self(name).map(Cow::Owned)
    }
}

/// Offsets from [`Record::start`]; unset where the moment never came.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timings {
    /// The last byte of the request was received.
    pub request_received: Option<Duration>,
    /// The first byte was sent upstream.
    pub upstream_sent: Option<Duration>,
    /// The first byte of the response was received.
    pub response_started: Option<Duration>,
    /// All is over.
    pub total: Duration,
}

/// One request, or one connection of opaque bytes.
pub struct Record<'a> {
    pub reporter: Reporter,
    pub kind: Kind,
    pub start: SystemTime,
    pub timings: Timings,

    /// `HTTP/1.1`, `HTTP/2`; empty for TCP.
    pub protocol: &'static str,
    pub request: &'a dyn Fields,
    pub response: &'a dyn Fields,
    pub trailers: &'a dyn Fields,
    /// 0: no response was sent.
    pub status: u16,
    pub grpc_status: Option<u32>,
    /// gRPC messages, from client and from server.
    pub grpc_messages: (u64, u64),
    pub flags: Flags,
    /// Set when the proxy itself answered or ended it.
    pub reason: Option<Reason>,
    /// The resource that decided (`AuthorizationPolicy/shop/deny-all#rule[0]`).
    pub resource: Option<&'a str>,
    pub termination_details: Option<&'a str>,
    pub upstream_failure: Option<&'a str>,

    /// Body bytes from downstream; all bytes for TCP.
    pub bytes_received: u64,
    /// Body bytes to downstream; all bytes for TCP.
    pub bytes_sent: u64,
    pub attempts: u32,

    pub route: Option<&'a str>,
    pub cluster: Option<&'a str>,
    pub upstream_host: Option<SocketAddr>,
    pub upstream_local: Option<SocketAddr>,
    pub downstream_local: Option<SocketAddr>,
    pub downstream_remote: Option<SocketAddr>,
    /// The socket's peer, where `downstream_remote` was taken from a header.
    pub downstream_direct: Option<SocketAddr>,
    pub server_name: Option<&'a str>,
    pub tls_version: Option<&'static str>,
    /// URI SANs of both ends of the downstream connection, comma-joined.
    pub peer_uri_san: Option<&'a str>,
    pub local_uri_san: Option<&'a str>,
    pub peer_subject: Option<&'a str>,

    pub source: &'a Known<Workload>,
    pub destination: &'a Known<Workload>,
    pub service: &'a Known<Service>,
    pub security: Security,
    pub span: Option<&'a SpanContext>,
    /// The span's name; the route's decorator or `service:port/*`.
    pub operation: Option<&'a str>,
    pub connection_id: u64,
    /// The node that the proxy runs on.
    pub hostname: Option<&'a str>,
}

impl<'a> Record<'a> {
    /// A record of nothing yet; callers fill in what they know.
    pub fn new(reporter: Reporter, kind: Kind, start: SystemTime) -> Record<'a> {
        Record {
            reporter,
            kind,
            start,
            timings: Timings::default(),
            protocol: "",
            request: &NoFields,
            response: &NoFields,
            trailers: &NoFields,
            status: 0,
            grpc_status: None,
            grpc_messages: (0, 0),
            flags: Flags::default(),
            reason: None,
            resource: None,
            termination_details: None,
            upstream_failure: None,
            bytes_received: 0,
            bytes_sent: 0,
            attempts: 0,
            route: None,
            cluster: None,
            upstream_host: None,
            upstream_local: None,
            downstream_local: None,
            downstream_remote: None,
            downstream_direct: None,
            server_name: None,
            tls_version: None,
            peer_uri_san: None,
            local_uri_san: None,
            peer_subject: None,
            source: unknown_workload(),
            destination: unknown_workload(),
            service: unknown_service(),
            security: Security::Unknown,
            span: None,
            operation: None,
            connection_id: 0,
            hostname: None,
        }
    }

    /// Records why the proxy answered by itself, with the flag that belongs to it.
    pub fn decide(&mut self, reason: Reason, resource: Option<&'a str>) {
        self.reason = Some(reason);
        self.resource = resource;
        if let Some(flag) = reason.flag() {
            self.flag(flag);
        }
    }

    pub fn flag(&mut self, flag: Flag) {
        self.flags.set(flag);
    }

    pub fn end(&self) -> SystemTime {
        self.start + self.timings.total
    }

    /// What the caller sees as an error: 5xx, no response, or a gRPC status of the server's making.
    pub fn is_error(&self) -> bool {
        match (self.kind, self.grpc_status) {
            (Kind::Tcp, _) => !self.flags.is_empty(),
            // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
            (Kind::Grpc, Some(status)) => matches!(status, 2 | 4 | 12..=15),
            _ => self.status >= 500 || self.status == 0,
        }
    }
}
