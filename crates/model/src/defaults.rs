//! What an unset field means. Defaults differ by who speaks; each table exists once, here (decisions.md, 4).
//!
//! [`ENVOY`] is applied by `wire` to what a bootstrap or a control plane leaves unset. `compile` applies the others and
//! writes the resolved values explicitly, so nothing it emits depends on [`ENVOY`].

use std::time::Duration;

use crate::snapshot::Fraction;
use crate::snapshot::cluster::{
    Breakers, FailurePercentage, Http2, RetryBudget, SuccessRate, Thresholds,
};
use crate::snapshot::http::{HttpLimits, HttpTimeouts};
use crate::snapshot::retry::Backoff;

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
        initial_stream_window: 16 << 20,
        initial_connection_window: 24 << 20,
        keepalive: None,
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
