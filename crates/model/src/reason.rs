//! Why the proxy itself answered or ended something: a closed enum, and one table from it to everything said about it.

use std::fmt;

/// Envoy's response flags (`%RESPONSE_FLAGS%`), each with its two spellings.
macro_rules! flags {
    ($($variant:ident $short:literal $long:literal,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Flag { $($variant,)* }
        impl Flag {
            pub const ALL: &[Flag] = &[$(Flag::$variant),*];
            pub fn short(self) -> &'static str { match self { $(Flag::$variant => $short,)* } }
            pub fn long(self) -> &'static str { match self { $(Flag::$variant => $long,)* } }
        }
    };
}

flags! {
    NoHealthyUpstream "UH" "NoHealthyUpstream",
    UpstreamConnectionFailure "UF" "UpstreamConnectionFailure",
    UpstreamOverflow "UO" "UpstreamOverflow",
    NoRouteFound "NR" "NoRouteFound",
    UpstreamRetryLimitExceeded "URX" "UpstreamRetryLimitExceeded",
    NoClusterFound "NC" "NoClusterFound",
    DurationTimeout "DT" "DurationTimeout",
    DownstreamConnectionTermination "DC" "DownstreamConnectionTermination",
    FailedLocalHealthCheck "LH" "FailedLocalHealthCheck",
    UpstreamRequestTimeout "UT" "UpstreamRequestTimeout",
    LocalReset "LR" "LocalReset",
    UpstreamRemoteReset "UR" "UpstreamRemoteReset",
    UpstreamConnectionTermination "UC" "UpstreamConnectionTermination",
    DelayInjected "DI" "DelayInjected",
    FaultInjected "FI" "FaultInjected",
    RateLimited "RL" "RateLimited",
    UnauthorizedExternalService "UAEX" "UnauthorizedExternalService",
    RateLimitServiceError "RLSE" "RateLimitServiceError",
    InvalidEnvoyRequestHeaders "IH" "InvalidEnvoyRequestHeaders",
    StreamIdleTimeout "SI" "StreamIdleTimeout",
    DownstreamProtocolError "DPE" "DownstreamProtocolError",
    UpstreamProtocolError "UPE" "UpstreamProtocolError",
    UpstreamMaxStreamDurationReached "UMSDR" "UpstreamMaxStreamDurationReached",
    ResponseFromCacheFilter "RFCF" "ResponseFromCacheFilter",
    NoFilterConfigFound "NFCF" "NoFilterConfigFound",
    OverloadManagerTerminated "OM" "OverloadManagerTerminated",
    DnsResolutionFailed "DF" "DnsResolutionFailed",
    DropOverload "DO" "DropOverload",
    DownstreamRemoteReset "DR" "DownstreamRemoteReset",
    UnconditionalDropOverload "UDO" "UnconditionalDropOverload",
}

/// A set of [`Flag`]s.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(u32);

impl Flags {
    pub fn set(&mut self, flag: Flag) {
        self.0 |= 1 << flag as u8;
    }

    pub fn has(self, flag: Flag) -> bool {
        self.0 & (1 << flag as u8) != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Flag> {
        Flag::ALL
            .iter()
            .copied()
            .filter(move |flag| self.has(*flag))
    }
}

impl From<Flag> for Flags {
    fn from(flag: Flag) -> Flags {
        let mut flags = Flags::default();
        flags.set(flag);
        flags
    }
}

/// Comma-separated short forms; `-` when empty, as Envoy writes it.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (i, flag) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            f.write_str(flag.short())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flags({self})")
    }
}

/// Whose doing it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Downstream,
    Upstream,
    /// Configuration or policy.
    Mesh,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident $text:literal $status:literal $grpc:literal $flag:expr, $side:ident, $details:literal;)*) => {
        /// `x-ripstop-reason`. Columns: text, HTTP status, gRPC code, response flag, side, Envoy's response code details.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $variant,)* }
        impl Reason {
            pub const ALL: &[Reason] = &[$(Reason::$variant),*];
            pub fn as_str(self) -> &'static str { match self { $(Reason::$variant => $text,)* } }
            pub fn status(self) -> u16 { match self { $(Reason::$variant => $status,)* } }
            pub fn grpc(self) -> u32 { match self { $(Reason::$variant => $grpc,)* } }
            pub fn flag(self) -> Option<Flag> { use Flag::*; match self { $(Reason::$variant => $flag,)* } }
            pub fn side(self) -> Side { match self { $(Reason::$variant => Side::$side,)* } }
            /// `%RESPONSE_CODE_DETAILS%`.
            pub fn details(self) -> &'static str { match self { $(Reason::$variant => $details,)* } }
        }
    };
}

reasons! {
    BadRequest "bad_request" 400 13 Some(DownstreamProtocolError), Downstream, "http1.codec_error";
    BadPath "bad_path" 400 13 Some(DownstreamProtocolError), Downstream, "path_normalization_failed";
    BadAuthority "bad_authority" 400 13 Some(DownstreamProtocolError), Downstream, "invalid_authority";
    MissingHost "missing_host" 400 13 Some(DownstreamProtocolError), Downstream, "missing_host_header";
    RequestHeadTooLarge "request_head_too_large" 431 8 Some(DownstreamProtocolError), Downstream, "request_headers_too_large";
    TooManyRequestHeaders "too_many_request_headers" 431 8 Some(DownstreamProtocolError), Downstream, "http1.too_many_headers";
    UnsupportedVersion "unsupported_http_version" 426 13 Some(DownstreamProtocolError), Downstream, "low_version";
    MethodNotAllowed "method_not_allowed" 405 12 None, Downstream, "method_not_allowed";
    ConnectNotAllowed "connect_not_allowed" 404 5 Some(NoRouteFound), Mesh, "route_not_found";
    UpgradeNotAllowed "upgrade_not_allowed" 403 7 None, Mesh, "upgrade_failed";
    ExpectationFailed "expectation_failed" 417 13 Some(DownstreamProtocolError), Downstream, "unsupported_expectation";
    RequestHeadTimeout "request_head_timeout" 408 4 Some(DownstreamProtocolError), Downstream, "request_header_overall_timeout";
    RequestTimeout "request_timeout" 408 4 None, Downstream, "request_overall_timeout";
    DownstreamClosed "downstream_closed" 0 1 Some(DownstreamConnectionTermination), Downstream, "downstream_remote_disconnect";
    RouteNotFound "route_not_found" 404 12 Some(NoRouteFound), Mesh, "route_not_found";
    ListenerNotFound "listener_not_found" 404 12 Some(NoRouteFound), Mesh, "filter_chain_not_found";
    RouteConfigMissing "route_config_missing" 404 12 Some(NoRouteFound), Mesh, "route_configuration_not_found";
    ClusterNotFound "cluster_not_found" 503 14 Some(NoClusterFound), Mesh, "cluster_not_found";
    /// The name belongs to the mesh, but the control plane did not answer in time.
    DiscoveryTimeout "discovery_timeout" 503 14 Some(NoClusterFound), Mesh, "discovery_timeout";
    /// The control plane answered that there is no such service.
    ServiceUnknown "service_unknown" 503 14 Some(NoClusterFound), Mesh, "service_unknown";
    /// `outboundTrafficPolicy: REGISTRY_ONLY`, and no resource declares the address.
    NotRegistered "not_registered" 502 14 Some(NoHealthyUpstream), Mesh, "not_registered";
    NoHealthyEndpoint "no_healthy_endpoint" 503 14 Some(NoHealthyUpstream), Upstream, "no_healthy_upstream";
    /// The cluster has no endpoint at all.
    NoEndpoint "no_endpoint" 503 14 Some(NoHealthyUpstream), Upstream, "no_healthy_upstream";
    ConnectFailure "connect_failure" 503 14 Some(UpstreamConnectionFailure), Upstream, "upstream_reset_before_response_started{remote_connection_failure}";
    ConnectTimeout "connect_timeout" 503 14 Some(UpstreamConnectionFailure), Upstream, "upstream_reset_before_response_started{connection_timeout}";
    DnsFailure "dns_failure" 503 14 Some(DnsResolutionFailed), Upstream, "dns_resolution_failure";
    TlsUntrusted "tls_untrusted_peer" 503 14 Some(UpstreamConnectionFailure), Upstream, "upstream_reset_before_response_started{remote_connection_failure}";
    TlsFailure "tls_failure" 503 14 Some(UpstreamConnectionFailure), Upstream, "upstream_reset_before_response_started{remote_connection_failure}";
    /// A client that did not finish its handshake.
    TlsHandshakeTimeout "tls_handshake_timeout" 0 4 None, Downstream, "transport_socket_timeout";
    UpstreamReset "upstream_reset" 503 14 Some(UpstreamRemoteReset), Upstream, "upstream_reset_before_response_started{remote_reset}";
    UpstreamRefusedStream "upstream_refused_stream" 503 14 Some(UpstreamRemoteReset), Upstream, "upstream_reset_before_response_started{remote_refused_stream_reset}";
    UpstreamClosed "upstream_closed" 503 14 Some(UpstreamConnectionTermination), Upstream, "upstream_reset_before_response_started{connection_termination}";
    /// A pooled connection ended under the request, and replaying was not safe.
    UpstreamClosedReused "upstream_closed_reused_connection" 503 14 Some(UpstreamConnectionTermination), Upstream, "upstream_reset_before_response_started{connection_termination}";
    UpstreamClosedMidResponse "upstream_closed_mid_response" 0 14 Some(UpstreamConnectionTermination), Upstream, "upstream_reset_after_response_started{connection_termination}";
    UpstreamProtocol "upstream_protocol_error" 502 14 Some(UpstreamProtocolError), Upstream, "upstream_reset_before_response_started{protocol_error}";
    UpstreamHeadTooLarge "upstream_head_too_large" 502 14 Some(UpstreamProtocolError), Upstream, "upstream_reset_before_response_started{protocol_error}";
    UpstreamTimeout "upstream_timeout" 504 14 Some(UpstreamRequestTimeout), Upstream, "response_timeout";
    PerTryTimeout "per_try_timeout" 504 14 Some(UpstreamRequestTimeout), Upstream, "upstream_per_try_timeout";
    PerTryIdleTimeout "per_try_idle_timeout" 504 14 Some(UpstreamRequestTimeout), Upstream, "upstream_per_try_idle_timeout";
    /// The client stopped in the middle of its request.
    RequestIdle "request_idle_timeout" 408 4 Some(StreamIdleTimeout), Downstream, "stream_idle_timeout";
    StreamIdle "stream_idle_timeout" 504 14 Some(StreamIdleTimeout), Mesh, "stream_idle_timeout";
    MaxStreamDuration "max_stream_duration" 504 4 Some(UpstreamMaxStreamDurationReached), Upstream, "upstream_max_stream_duration_reached";
    MaxConnectionDuration "max_connection_duration" 0 14 Some(DurationTimeout), Mesh, "duration_timeout";
    CircuitOpenConnections "circuit_open:max_connections" 503 14 Some(UpstreamOverflow), Mesh, "upstream_reset_before_response_started{overflow}";
    CircuitOpenPending "circuit_open:max_pending" 503 14 Some(UpstreamOverflow), Mesh, "upstream_reset_before_response_started{overflow}";
    CircuitOpenRequests "circuit_open:max_requests" 503 14 Some(UpstreamOverflow), Mesh, "upstream_reset_before_response_started{overflow}";
    AuthzDenied "authz_denied" 403 7 None, Mesh, "rbac_access_denied_matched_policy";
    /// An ALLOW policy selects the workload and none of its rules matched.
    AuthzNotAllowed "authz_not_allowed" 403 7 None, Mesh, "rbac_access_denied_matched_policy[none]";
    /// Plain text where every filter chain wants TLS.
    MtlsRequired "mtls_required" 0 16 Some(NoRouteFound), Mesh, "filter_chain_not_found";
    TlsRequired "tls_required" 301 16 None, Mesh, "direct_response";
    FaultAbort "fault_abort" 503 14 Some(FaultInjected), Mesh, "fault_filter_abort";
    /// PING, SETTINGS and the like beyond `max_outbound_control_frames`. As the other floods it ends an HTTP/2 connection
    /// with ENHANCE_YOUR_CALM.
    FloodControl "http2_flood:control_frames" 0 8 Some(DownstreamProtocolError), Downstream, "http2.outbound_control_flood";
    FloodEmpty "http2_flood:empty_frames" 0 8 Some(DownstreamProtocolError), Downstream, "http2.inbound_empty_frames_flood";
    FloodPriority "http2_flood:priority_frames" 0 8 Some(DownstreamProtocolError), Downstream, "http2.inbound_priority_frames_flood";
    FloodWindowUpdate "http2_flood:window_updates" 0 8 Some(DownstreamProtocolError), Downstream, "http2.inbound_window_update_frames_flood";
    /// Requests reset before they were answered, beyond `stream_reset_burst` and `stream_reset_rate`.
    FloodReset "http2_flood:resets" 0 8 Some(DownstreamProtocolError), Downstream, "too_many_premature_resets";
    /// A head in more CONTINUATION frames than its limit has room for.
    FloodHead "http2_flood:continuation_frames" 0 8 Some(DownstreamProtocolError), Downstream, "http2.header_overflow";
    /// A request's head that was not whole in time.
    FloodSlowHead "http2_flood:slow_head" 0 4 Some(DownstreamProtocolError), Downstream, "request_header_overall_timeout";
    /// What the HTTP/2 codec counts itself: resets that a client provokes, heads many times their limit.
    FloodCodec "http2_flood:codec" 0 8 Some(DownstreamProtocolError), Downstream, "http2.inbound_flood";
    /// More interim responses to one request than anybody has a use for.
    UpstreamInterimFlood "upstream_interim_flood" 502 14 Some(UpstreamProtocolError), Upstream, "upstream_reset_before_response_started{protocol_error}";
    DirectResponse "direct_response" 200 0 None, Mesh, "direct_response";
    Redirected "redirect" 301 0 None, Mesh, "direct_response";
    PreflightAnswered "cors_preflight" 200 0 None, Mesh, "direct_response";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_distinct() {
        let mut seen = std::collections::BTreeSet::new();
        for reason in Reason::ALL {
            assert!(seen.insert(reason.as_str()), "{reason}");
        }
    }

    #[test]
    fn texts_are_one_token() {
        for reason in Reason::ALL {
            let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c);
            assert!(reason.as_str().chars().all(fine), "{reason}");
        }
    }

    #[test]
    fn flags_print_as_envoy_does() {
        let mut flags = Flags::default();
        assert_eq!(flags.to_string(), "-");
        flags.set(Flag::UpstreamRetryLimitExceeded);
        flags.set(Flag::NoHealthyUpstream);
        assert_eq!(flags.to_string(), "UH,URX");
    }
}
