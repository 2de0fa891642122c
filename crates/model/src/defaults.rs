//! What an unset field means. Defaults differ by who speaks; each table exists once, here (decisions.md, 4).
//!
//! [`ENVOY`] is applied by `wire` to what a bootstrap or a control plane leaves unset. `compile` applies the others and
//! writes the resolved values explicitly, so nothing it emits depends on [`ENVOY`].

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::snapshot::Fraction;
use crate::snapshot::cluster::{
    Breakers, FailurePercentage, FloodLimits, Http2, RetryBudget, SuccessRate, Thresholds,
    ZoneAware,
};
use crate::snapshot::http::{EscapedSlashes, Http1Options};
use crate::snapshot::http::{HttpLimits, HttpTimeouts, PathOptions, ServerHeader};
use crate::snapshot::retry::{Backoff, RetryOn, RetryScope};

/// Envoy's defaults (the v3 API reference, field by field).
pub mod envoy {
    use super::*;

    /// `Cluster.connect_timeout`.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
    /// `per_connection_buffer_limit_bytes` of listeners and clusters.
    pub const BUFFER_LIMIT: u32 = 1 << 20;
    /// `HttpProtocolOptions.idle_timeout`, upstream and downstream; `TcpProxy.idle_timeout`.
    pub const IDLE_TIMEOUT: Option<Duration> = Some(Duration::from_secs(3600));
    /// `Listener.listener_filters_timeout`.
    pub const LISTENER_FILTERS_TIMEOUT: Option<Duration> = Some(Duration::from_secs(15));
    /// `RouteAction.timeout`: the whole request, retries included.
    pub const ROUTE_TIMEOUT: Option<Duration> = Some(Duration::from_secs(15));
    /// `RouteConfiguration.max_direct_response_body_size_bytes`.
    pub const DIRECT_RESPONSE_LIMIT: u32 = 4096;
    /// `internal_address_config` that is given and names no range: private addresses (RFC 1918, RFC 4193) and loopback.
    pub const INTERNAL: [IpNet; 6] = [
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8)),
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12)),
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16)),
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::LOCALHOST, 32)),
        IpNet::V6(Ipv6Net::new_assert(
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0),
            8,
        )),
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
    ];
    /// `RetryPolicy.num_retries`.
    pub const RETRIES: u32 = 1;
    /// `RetryPolicy.host_selection_retry_max_attempts`.
    pub const HOST_SELECTION_ATTEMPTS: u32 = 1;
    /// `RetryPolicy.retry_back_off`: base 25 ms (`upstream.base_retry_backoff_ms`), at most ten times that.
    pub const BACKOFF: Backoff = Backoff {
        base: Duration::from_millis(25),
        max: Duration::from_millis(250),
    };
    /// `PreviousPrioritiesConfig.update_frequency`.
    pub const PREVIOUS_PRIORITIES: u32 = 2;
    /// `CommonLbConfig.healthy_panic_threshold`.
    pub const PANIC_THRESHOLD: Fraction = Fraction::millionths(500_000);
    /// `CommonLbConfig.zone_aware_lb_config`.
    pub const ZONE_AWARE: ZoneAware = ZoneAware {
        enabled: Fraction::ALWAYS,
        min_members: 6,
        fail_on_panic: false,
    };
    /// `LeastRequestLbConfig.choice_count`.
    pub const LEAST_REQUEST_CHOICES: u32 = 2;
    pub const RING_HASH_MIN: u64 = 1024;
    pub const RING_HASH_MAX: u64 = 8 * 1024 * 1024;
    pub const MAGLEV_TABLE: u64 = 65_537;
    /// `SlowStartConfig.aggression` and `min_weight_percent`.
    pub const SLOW_START_AGGRESSION: f64 = 1.0;
    pub const SLOW_START_MIN_PERCENT: f64 = 10.0;
    /// `CircuitBreakers.Thresholds`, of both priorities.
    pub const THRESHOLDS: Thresholds = Thresholds {
        max_connections: 1024,
        max_pending: 1024,
        max_requests: 1024,
        max_retries: 3,
        retry_budget: None,
    };
    pub const BREAKERS: Breakers = Breakers {
        default: THRESHOLDS,
        high: THRESHOLDS,
    };
    /// `Thresholds.RetryBudget`, where one is given.
    pub const RETRY_BUDGET: RetryBudget = RetryBudget {
        percent: 20.0,
        min_concurrency: 3,
    };
    /// `Cluster.dns_refresh_rate`.
    pub const DNS_REFRESH: Duration = Duration::from_secs(5);
    /// `ClusterLoadAssignment.Policy.overprovisioning_factor`.
    pub const OVERPROVISIONING: u32 = 140;

    /// `OutlierDetection`: every count that is not given.
    pub mod outlier {
        use super::*;

        pub const CONSECUTIVE: u32 = 5;
        pub const INTERVAL: Duration = Duration::from_secs(10);
        pub const BASE_EJECTION: Duration = Duration::from_secs(30);
        pub const MAX_EJECTION: Duration = Duration::from_secs(300);
        pub const MAX_EJECTION_PERCENT: u32 = 10;
        pub const SUCCESS_RATE: SuccessRate = SuccessRate {
            minimum_hosts: 5,
            request_volume: 100,
            stdev_factor: 1900,
            enforcing_percent: 100,
        };
        /// Off unless `enforcing_failure_percentage` is given.
        pub const FAILURE_PERCENTAGE: FailurePercentage = FailurePercentage {
            threshold: 85,
            minimum_hosts: 5,
            request_volume: 50,
            enforcing_percent: 0,
        };
    }

    /// `HealthCheck.no_traffic_interval`.
    pub const NO_TRAFFIC_INTERVAL: Duration = Duration::from_secs(60);

    /// `Http2ProtocolOptions`.
    pub const HTTP2: Http2 = Http2 {
        max_concurrent_streams: 1024,
        // Envoy's are 16 and 24 MiB.
        initial_stream_window: None,
        initial_connection_window: None,
        keepalive: None,
        // Envoy's, but for resets: it counts answered streams too, and allows 1000 and 33 each second.
        allow_connect: false,
        floods: FloodLimits {
            control_frames: 1000,
            empty_frames: 1,
            priority_frames: 100,
            window_updates: 10,
            resets: 2000,
            resets_per_second: 100,
        },
    };
    /// `HttpConnectionManager`'s timers and those of its `common_http_protocol_options`.
    pub const HTTP_TIMEOUTS: HttpTimeouts = HttpTimeouts {
        idle: IDLE_TIMEOUT,
        stream_idle: Some(Duration::from_secs(300)),
        request: None,
        request_headers: None,
        max_stream_duration: None,
        max_connection_duration: None,
        drain: Duration::from_secs(5),
        delayed_close: Some(Duration::from_secs(1)),
    };
    pub const HTTP_LIMITS: HttpLimits = HttpLimits {
        max_request_headers_bytes: 60 * 1024,
        max_request_headers: 100,
        max_requests_per_connection: 0,
    };
    /// `HttpConnectionManager.server_name`.
    pub const SERVER_NAME: &str = "envoy";
    /// `HttpConnectionManager.Tracing.max_path_tag_length`.
    pub const MAX_PATH_TAG_LENGTH: u32 = 256;
    /// `TcpProxy.max_connect_attempts`.
    pub const TCP_CONNECT_ATTEMPTS: u32 = 1;
}

/// What `compile` fills in where a resource leaves something unset: [`ISTIO`] or [`RIPSTOP`], by the mesh's setting.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    pub name: &'static str,
    /// `connectionPool.tcp.connectTimeout` (`MeshConfig.connectTimeout`).
    pub connect_timeout: Duration,
    /// `connectionPool.{tcp,http}.idleTimeout`.
    pub idle_timeout: Option<Duration>,
    /// Of a route without `retries`.
    pub retry: ImplicitRetry,
    /// From a sidecar to its own application; gRPC ports have none.
    pub inbound_retry: ImplicitRetry,
    /// Over [`RetryScope::Implicit`] retries of a cluster; explicit ones are limited by an explicit `retryBudget` alone.
    pub implicit_budget: Option<RetryBudget>,
    /// Circuit-breaker thresholds of either priority.
    pub thresholds: Thresholds,
    /// Where no outlier detection sets it (0 then, as Istio does).
    pub panic_threshold: Fraction,
    /// An ejection never takes the last usable endpoint, and all are used when all are bad (R20.1).
    pub keep_last: bool,
    /// Where no outlier detection is asked for: failures of the connection, one after the other and without an answer
    /// between them, that take an endpoint out for a while (R9.5).
    pub quarantine: Option<u32>,
    /// Of a TCP connection through a sidecar: endpoints tried before giving up.
    pub tcp_connect_attempts: u32,
    /// Of protocol detection; `None` waits for the first byte for ever.
    pub detection: Option<Duration>,
    /// Of a TLS handshake on an inbound listener.
    pub handshake: Option<Duration>,
    pub timeouts: HttpTimeouts,
    pub limits: HttpLimits,
    pub path: PathOptions,
    pub http1: Http1Options,
    /// On responses to applications of this workload's own calls.
    pub outbound_server: Option<&'static str>,
    pub buffer_limit: u32,
    pub dns_refresh: Duration,
    pub dns_failure_refresh: Duration,
}

/// The retry policy of a route that has none.
#[derive(Debug, Clone, PartialEq)]
pub struct ImplicitRetry {
    pub on: RetryOn,
    pub retries: u32,
    pub scope: RetryScope,
}

impl Table {
    pub fn server_header(&self) -> ServerHeader {
        match self.outbound_server {
            Some(name) => ServerHeader::Overwrite(name.to_owned()),
            None => ServerHeader::PassThrough,
        }
    }
}

/// In which a latency that `PEAK_EWMA` remembers loses 63 % of its say (Linkerd's default).
pub const EWMA_DECAY: Duration = Duration::from_secs(10);

/// How long [`Table::quarantine`] keeps an endpoint out at first, and how often is looked; at most.
pub const QUARANTINE: Duration = Duration::from_secs(5);
pub const QUARANTINE_MOST: Duration = Duration::from_secs(30);

/// `outlierDetection` and `retries` blocks that leave fields unset mean the same in both tables (istio/api, B2 and B1).
pub mod istio {
    use super::*;

    /// `outlierDetection`, once there is a block.
    pub const CONSECUTIVE_5XX: u32 = 5;
    pub const CONSECUTIVE_LOCAL_ORIGIN: u32 = 5;
    pub const OUTLIER_INTERVAL: Duration = Duration::from_secs(10);
    pub const BASE_EJECTION: Duration = Duration::from_secs(30);
    pub const MAX_EJECTION: Duration = Duration::from_secs(300);
    pub const MAX_EJECTION_PERCENT: u32 = 10;
    /// `retries.retryOn`; the status codes are those that it lists, none by default.
    pub const RETRY_ON: RetryOn = RetryOn::CONNECT_FAILURE
        .union(RetryOn::REFUSED_STREAM)
        .union(RetryOn::GRPC_UNAVAILABLE)
        .union(RetryOn::GRPC_CANCELLED)
        .union(RetryOn::RETRIABLE_STATUS_CODES);
    /// `retries.backoff`; the maximum is ten times the base.
    pub const BACKOFF_BASE: Duration = Duration::from_millis(25);
    /// `retryIgnorePreviousHosts`: picks before a tried host is accepted after all.
    pub const HOST_SELECTION_ATTEMPTS: u32 = 5;
    /// `retryRemoteLocalities`.
    pub const PREVIOUS_PRIORITIES: u32 = 2;
    /// `retryBudget`, once there is a block.
    pub const RETRY_BUDGET: RetryBudget = RetryBudget {
        percent: 20.0,
        min_concurrency: 3,
    };
    /// `redirect.redirectCode`.
    pub const REDIRECT_CODE: u16 = 301;
}

const UNLIMITED: Thresholds = Thresholds {
    max_connections: u32::MAX,
    max_pending: u32::MAX,
    max_requests: u32::MAX,
    max_retries: u32::MAX,
    retry_budget: None,
};

/// Istio's defaults (istio/istio, B19 of the API notes): what a mesh that migrates is used to.
pub static ISTIO: Table = Table {
    name: "istio",
    connect_timeout: Duration::from_secs(10),
    idle_timeout: Some(Duration::from_secs(3600)),
    retry: ImplicitRetry {
        on: istio::RETRY_ON,
        retries: 2,
        scope: RetryScope::Explicit,
    },
    inbound_retry: ImplicitRetry {
        on: RetryOn::RESET_BEFORE_REQUEST,
        retries: 2,
        scope: RetryScope::Explicit,
    },
    implicit_budget: None,
    thresholds: UNLIMITED,
    panic_threshold: envoy::PANIC_THRESHOLD,
    keep_last: false,
    quarantine: None,
    tcp_connect_attempts: 1,
    detection: None,
    handshake: Some(Duration::from_secs(15)),
    timeouts: HttpTimeouts {
        stream_idle: None,
        ..envoy::HTTP_TIMEOUTS
    },
    limits: envoy::HTTP_LIMITS,
    path: PathOptions {
        normalize: true,
        merge_slashes: false,
        escaped_slashes: EscapedSlashes::KeepUnchanged,
    },
    http1: Http1Options {
        accept_http_10: false,
        default_host: None,
        preserve_case: false,
        enable_trailers: false,
    },
    outbound_server: Some("istio-envoy"),
    buffer_limit: envoy::BUFFER_LIMIT,
    dns_refresh: Duration::from_secs(60),
    dns_failure_refresh: Duration::from_secs(60),
};

/// ripstop's own, where the user said nothing (decisions.md, 4): a retry that cannot repeat an effect, a budget over it, an
/// outlier detection that cannot empty a cluster, bounds on what may wait.
pub static RIPSTOP: Table = Table {
    name: "ripstop",
    retry: ImplicitRetry {
        on: RetryOn::CONNECT_FAILURE
            .union(RetryOn::REFUSED_STREAM)
            .union(RetryOn::RESET_BEFORE_REQUEST)
            .union(RetryOn::RESET),
        retries: 1,
        scope: RetryScope::Implicit,
    },
    inbound_retry: ImplicitRetry {
        on: RetryOn::RESET_BEFORE_REQUEST,
        retries: 1,
        scope: RetryScope::Implicit,
    },
    implicit_budget: Some(istio::RETRY_BUDGET),
    panic_threshold: Fraction::NEVER,
    keep_last: true,
    quarantine: Some(3),
    tcp_connect_attempts: 3,
    detection: Some(Duration::from_secs(5)),
    handshake: Some(Duration::from_secs(10)),
    timeouts: HttpTimeouts {
        stream_idle: None,
        request_headers: Some(Duration::from_secs(10)),
        ..envoy::HTTP_TIMEOUTS
    },
    path: PathOptions {
        normalize: true,
        merge_slashes: true,
        escaped_slashes: EscapedSlashes::KeepUnchanged,
    },
    http1: Http1Options {
        accept_http_10: true,
        default_host: None,
        preserve_case: true,
        enable_trailers: true,
    },
    outbound_server: None,
    connect_timeout: Duration::from_secs(10),
    idle_timeout: Some(Duration::from_secs(3600)),
    thresholds: UNLIMITED,
    limits: HttpLimits {
        max_request_headers_bytes: 64 * 1024,
        max_request_headers: 256,
        ..envoy::HTTP_LIMITS
    },
    buffer_limit: envoy::BUFFER_LIMIT,
    dns_refresh: Duration::from_secs(60),
    dns_failure_refresh: Duration::from_secs(60),
};

/// Envoy's access-log line.
pub const ENVOY_LOG_TEXT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% ",
    "%RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% ",
    "\"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" ",
    "\"%UPSTREAM_HOST%\"\n"
);

/// Istio's access-log line (B21).
pub const ISTIO_LOG_TEXT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% ",
    "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% ",
    "\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" ",
    "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% ",
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% ",
    "%ROUTE_NAME%\n"
);

/// Istio's JSON access log (B21): key and value, in order.
pub const ISTIO_LOG_JSON: &[(&str, &str)] = &[
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    (
        "connection_termination_details",
        "%CONNECTION_TERMINATION_DETAILS%",
    ),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    (
        "upstream_service_time",
        "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    ),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    (
        "upstream_transport_failure_reason",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    ),
];
