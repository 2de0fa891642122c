//! An upstream (`config.cluster.v3.Cluster`): how its members are found, chosen, guarded and spoken to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::endpoint::Endpoints;
use super::tls::UpstreamTls;
use super::{Fraction, Name, Resource};
use crate::subset::Subsets;

#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    pub name: Name,
    /// Name used in statistics when it differs.
    pub alt_stat_name: Option<String>,
    pub discovery: Discovery,
    pub lb: LbPolicy,
    pub lb_common: LbCommon,
    pub connect_timeout: Duration,
    pub breakers: Breakers,
    pub outlier: Option<Outlier>,
    pub health_checks: Vec<HealthCheck>,
    pub transport: Transport,
    pub protocol: Protocol,
    /// Of a pooled connection.
    pub idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    /// 0: unlimited.
    pub max_requests_per_connection: u32,
    pub keepalive: Option<TcpKeepalive>,
    /// Bytes buffered per connection before back-pressure.
    pub buffer_limit: u32,
    /// The mesh service behind it; what `destination_service…` labels say.
    pub service: Option<Arc<ServiceRef>>,
    pub resource: Option<Resource>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceRef {
    /// Fully qualified.
    pub host: Arc<str>,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Discovery {
    Static(Arc<Endpoints>),
    Eds {
        service_name: Name,
    },
    StrictDns(Dns),
    LogicalDns(Dns),
    /// The address the client asked for.
    OriginalDst {
        use_http_header: bool,
        port_override: Option<u16>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Dns {
    pub endpoints: Arc<Endpoints>,
    pub family: DnsFamily,
    pub refresh: Duration,
    pub failure_refresh: Duration,
    pub respect_ttl: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DnsFamily {
    /// Envoy's AUTO: v6 first, v4 when there is none.
    #[default]
    Auto,
    V4Only,
    V6Only,
    V4Preferred,
    All,
}

#[derive(Debug, Clone, PartialEq)]
pub enum LbPolicy {
    RoundRobin,
    /// Power of `choices`.
    LeastRequest {
        choices: u32,
    },
    Random,
    RingHash {
        min_size: u64,
        max_size: u64,
    },
    Maglev {
        table_size: u64,
    },
    PeakEwma {
        decay: Duration,
    },
    /// With [`Discovery::OriginalDst`].
    ClusterProvided,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LbCommon {
    /// Below this share of healthy members all are used; `NEVER` turns panic off.
    pub panic_threshold: Fraction,
    pub locality_weighted: bool,
    /// `None`: as Envoy does it unasked, where the proxy knows its local cluster.
    pub zones: Option<ZoneAware>,
    pub subsets: Option<Arc<Subsets>>,
    pub slow_start: Option<SlowStart>,
    pub close_on_host_set_change: bool,
}

/// Keeps traffic in the proxy's own locality, as far as that leaves all members with the same load.
#[derive(Debug, Clone, PartialEq)]
pub struct ZoneAware {
    /// The share of requests that it is for.
    pub enabled: Fraction,
    /// Where fewer members are well, localities are not minded.
    pub min_members: u64,
    /// Nobody serves where all members would in a panic.
    pub fail_on_panic: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SlowStart {
    pub window: Duration,
    pub aggression: f64,
    pub min_percent: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Breakers {
    pub default: Thresholds,
    pub high: Thresholds,
}

/// `u32::MAX` is no limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Thresholds {
    pub max_connections: u32,
    pub max_pending: u32,
    pub max_requests: u32,
    pub max_retries: u32,
    /// Takes the place of `max_retries`.
    pub retry_budget: Option<RetryBudget>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// Of active (and pending) requests.
    pub percent: f64,
    pub min_concurrency: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Outlier {
    /// `None`: off.
    pub consecutive_5xx: Option<u32>,
    pub consecutive_gateway: Option<u32>,
    pub consecutive_local_origin: Option<u32>,
    pub split_local_origin: bool,
    pub interval: Duration,
    pub base_ejection: Duration,
    pub max_ejection: Duration,
    pub max_ejection_percent: u32,
    /// ripstop's own rule: an ejection never takes the last usable member (R20.1).
    pub keep_last: bool,
    /// A member that passes an active health check is let back in.
    pub check_returns: bool,
    /// `None`: off.
    pub success_rate: Option<SuccessRate>,
    pub failure_percentage: Option<FailurePercentage>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SuccessRate {
    pub minimum_hosts: u32,
    pub request_volume: u32,
    /// Thousandths of a standard deviation.
    pub stdev_factor: u32,
    pub enforcing_percent: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct FailurePercentage {
    pub threshold: u32,
    pub minimum_hosts: u32,
    pub request_volume: u32,
    pub enforcing_percent: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    pub timeout: Duration,
    pub interval: Duration,
    pub no_traffic_interval: Duration,
    pub unhealthy_threshold: u32,
    pub healthy_threshold: u32,
    pub probe: Probe,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    Http {
        host: String,
        path: String,
        expected: Vec<std::ops::Range<u16>>,
    },
    /// Connects; sends and expects bytes when given.
    Tcp {
        send: Vec<u8>,
        receive: Vec<Vec<u8>>,
    },
    Grpc {
        service: String,
        authority: String,
    },
}

/// The transport of an endpoint is the first match on its metadata, else `default`; `None` is plain text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Transport {
    pub matches: Vec<TransportMatch>,
    pub default: Option<Arc<UpstreamTls>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TransportMatch {
    pub name: String,
    pub criteria: BTreeMap<String, String>,
    pub tls: Option<Arc<UpstreamTls>>,
}

/// What is spoken to the members (`HttpProtocolOptions`).
#[derive(Debug, Clone, PartialEq)]
pub enum Protocol {
    Http1(Http1),
    Http2(Http2),
    /// As the client spoke.
    Downstream {
        http1: Http1,
        http2: Http2,
    },
    /// By ALPN; HTTP/1 where there is none.
    Alpn {
        http1: Http1,
        http2: Http2,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Http1 {
    /// Write names in the case they came in (ripstop always keeps it; this is for Envoy).
    pub preserve_case: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http2 {
    pub max_concurrent_streams: u32,
    /// Bytes; `None`: as the proxy sees fit, which depends on who shares the connection.
    pub initial_stream_window: Option<u32>,
    pub initial_connection_window: Option<u32>,
    pub keepalive: Option<Http2Keepalive>,
    pub floods: FloodLimits,
    /// A server offers extended CONNECT (RFC 8441).
    pub allow_connect: bool,
}

/// How much of what carries nothing a peer may send before its connection ends. What is earned comes back with real
/// traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FloodLimits {
    /// PING, SETTINGS and the like at once, and a tenth of it each second; each stream and each DATA frame earns one
    /// (`max_outbound_control_frames`).
    pub control_frames: u32,
    /// Frames in a row without payload or end (`max_consecutive_inbound_frames_with_empty_payload`).
    pub empty_frames: u32,
    /// For each stream (`max_inbound_priority_frames_per_stream`).
    pub priority_frames: u32,
    /// For each DATA frame sent (`max_inbound_window_update_frames_per_data_frame_sent`).
    pub window_updates: u32,
    /// Requests reset before their answer at once; each answer earns one (`stream_reset_burst`).
    pub resets: u32,
    /// And each second (`stream_reset_rate`).
    pub resets_per_second: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Keepalive {
    pub interval: Duration,
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}
