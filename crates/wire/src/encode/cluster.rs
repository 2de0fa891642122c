//! `Cluster`.

use ripstop_model::defaults::envoy;
use ripstop_model::snapshot::cluster::{
    Breakers, Cluster, Discovery, Dns, DnsFamily, FloodLimits, HealthCheck, Http1, Http2, LbCommon,
    LbPolicy, Outlier, Probe, Protocol, SlowStart, TcpKeepalive, Thresholds,
};
use ripstop_model::snapshot::tls::{AutoSni, UpstreamTls};

use super::endpoint::endpoints;
use super::value::{
    Meta, any, duration, extension, limit, list, number, object, percent, strings, text, truth,
    uint,
};
use super::{subset, tls};
use crate::pb::{
    cluster, core, dns_cluster, dns_common, google, kind, preserve_case, upstream_http,
};

pub(crate) fn cluster(c: &Cluster) -> cluster::Cluster {
    let mut m = cluster::Cluster {
        name: c.name.to_string(),
        alt_stat_name: c.alt_stat_name.clone().unwrap_or_default(),
        transport_socket_matches: transport_matches(c),
        transport_socket: c
            .transport
            .default
            .as_deref()
            .map(|t| tls::upstream(Some(t))),
        connect_timeout: Some(duration(c.connect_timeout)),
        per_connection_buffer_limit_bytes: uint(c.buffer_limit),
        health_checks: c.health_checks.iter().map(health_check).collect(),
        circuit_breakers: Some(breakers(&c.breakers)),
        outlier_detection: c.outlier.as_ref().map(outlier),
        typed_extension_protocol_options: [(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
            any(&protocol(c)),
        )]
        .into(),
        upstream_connection_options: c.keepalive.map(keepalive),
        metadata: metadata(c),
        ..Default::default()
    };
    discover(&mut m, &c.discovery);
    balancing(&mut m, &c.lb, c.lb_common.slow_start.as_ref());
    lb_common(&mut m, &c.lb_common);
    m.lb_subset_config = c.lb_common.subsets.as_deref().map(subset::subsets);
    m
}

fn metadata(c: &Cluster) -> Option<core::Metadata> {
    let mut meta = Meta::default();
    meta.put_resource(&c.resource);
    if let Some(s) = &c.service {
        let part = |key: &str, value: &str| (key.to_owned(), text(value));
        let service = object([
            part("host", &s.host),
            part("name", &s.name),
            part("namespace", &s.namespace),
        ]);
        meta.put("istio", "services", list(vec![service]));
    }
    if c.outlier.as_ref().is_some_and(|o| o.keep_last) {
        meta.put("ripstop", "outlierKeepLast", truth());
    }
    if let LbPolicy::PeakEwma { decay } = c.lb {
        meta.put(
            "ripstop",
            "peakEwmaDecayMs",
            number(decay.as_millis() as f64),
        );
    }
    meta.finish()
}

fn transport_matches(c: &Cluster) -> Vec<cluster::cluster::TransportSocketMatch> {
    c.transport
        .matches
        .iter()
        .map(|m| cluster::cluster::TransportSocketMatch {
            name: m.name.clone(),
            r#match: Some(strings(&m.criteria)),
            transport_socket: Some(tls::upstream(m.tls.as_deref())),
        })
        .collect()
}

fn ads() -> core::ConfigSource {
    core::ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource::default(),
        )),
        ..Default::default()
    }
}

/// Where listeners find their routes.
pub(super) fn route_source() -> core::ConfigSource {
    ads()
}

fn discover(m: &mut cluster::Cluster, discovery: &Discovery) {
    use cluster::cluster::{
        ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbConfig, OriginalDstLbConfig,
    };
    let kind = match discovery {
        Discovery::Static(members) => {
            m.load_assignment = Some(endpoints(members));
            DiscoveryType::Static
        }
        Discovery::Eds { service_name } => {
            m.eds_cluster_config = Some(EdsClusterConfig {
                eds_config: Some(ads()),
                service_name: service_name.to_string(),
            });
            DiscoveryType::Eds
        }
        Discovery::StrictDns(d) | Discovery::LogicalDns(d) => {
            let logical = matches!(discovery, Discovery::LogicalDns(_));
            m.load_assignment = Some(endpoints(&d.endpoints));
            m.cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(dns(d, logical)));
            return;
        }
        Discovery::OriginalDst {
            use_http_header,
            port_override,
        } => {
            m.lb_config = Some(LbConfig::OriginalDstLbConfig(OriginalDstLbConfig {
                use_http_header: *use_http_header,
                upstream_port_override: port_override.and_then(|port| uint(port.into())),
                ..Default::default()
            }));
            DiscoveryType::OriginalDst
        }
    };
    m.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind.into()));
}

/// The DNS cluster type of Envoy 1.34 and later; the fields of `Cluster` that it replaces are on their way out.
fn dns(d: &Dns, logical: bool) -> cluster::cluster::CustomClusterType {
    use cluster::cluster::CustomClusterType;
    use dns_cluster::dns_cluster::RefreshRate;
    use dns_common::DnsLookupFamily as Family;
    let family = match d.family {
        DnsFamily::Auto => Family::Auto,
        DnsFamily::V4Only => Family::V4Only,
        DnsFamily::V6Only => Family::V6Only,
        DnsFamily::V4Preferred => Family::V4Preferred,
        DnsFamily::All => Family::All,
    };
    CustomClusterType {
        name: "envoy.cluster.dns".to_owned(),
        typed_config: Some(any(&dns_cluster::DnsCluster {
            dns_refresh_rate: Some(duration(d.refresh)),
            dns_failure_refresh_rate: Some(RefreshRate {
                base_interval: Some(duration(d.failure_refresh)),
                max_interval: Some(duration(d.failure_refresh)),
            }),
            respect_dns_ttl: d.respect_ttl,
            dns_lookup_family: family.into(),
            all_addresses_in_single_endpoint: logical,
            ..Default::default()
        })),
    }
}

fn balancing(m: &mut cluster::Cluster, lb: &LbPolicy, slow: Option<&SlowStart>) {
    use cluster::cluster::{
        LbConfig, LbPolicy as Policy, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig,
        RoundRobinLbConfig,
    };
    let big = |value| Some(google::UInt64Value { value });
    let least = |choices| {
        LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
            choice_count: uint(choices),
            slow_start_config: slow.map(slow_start),
            ..Default::default()
        })
    };
    let (policy, config) = match lb {
        LbPolicy::RoundRobin => (
            Policy::RoundRobin,
            slow.map(|slow| {
                LbConfig::RoundRobinLbConfig(RoundRobinLbConfig {
                    slow_start_config: Some(slow_start(slow)),
                })
            }),
        ),
        LbPolicy::LeastRequest { choices } => (Policy::LeastRequest, Some(least(*choices))),
        // The nearest that Envoy has; ripstop reads the metadata.
        LbPolicy::PeakEwma { .. } => (
            Policy::LeastRequest,
            Some(least(envoy::LEAST_REQUEST_CHOICES)),
        ),
        LbPolicy::Random => (Policy::Random, None),
        LbPolicy::RingHash { min_size, max_size } => (
            Policy::RingHash,
            Some(LbConfig::RingHashLbConfig(RingHashLbConfig {
                minimum_ring_size: big(*min_size),
                maximum_ring_size: big(*max_size),
                ..Default::default()
            })),
        ),
        LbPolicy::Maglev { table_size } => (
            Policy::Maglev,
            Some(LbConfig::MaglevLbConfig(MaglevLbConfig {
                table_size: big(*table_size),
            })),
        ),
        LbPolicy::ClusterProvided => (Policy::ClusterProvided, None),
    };
    m.lb_policy = policy.into();
    if config.is_some() {
        m.lb_config = config;
    }
}

fn slow_start(s: &SlowStart) -> cluster::cluster::SlowStartConfig {
    cluster::cluster::SlowStartConfig {
        slow_start_window: Some(duration(s.window)),
        aggression: Some(core::RuntimeDouble {
            default_value: s.aggression,
            runtime_key: "upstream.slow_start_aggression".to_owned(),
        }),
        min_weight_percent: Some(kind::Percent {
            value: s.min_percent,
        }),
    }
}

fn lb_common(m: &mut cluster::Cluster, lb: &LbCommon) {
    use cluster::cluster::CommonLbConfig;
    use cluster::cluster::common_lb_config::{
        LocalityConfigSpecifier, LocalityWeightedLbConfig, ZoneAwareLbConfig,
    };
    m.common_lb_config = Some(CommonLbConfig {
        healthy_panic_threshold: percent(lb.panic_threshold),
        close_connections_on_host_set_change: lb.close_on_host_set_change,
        locality_config_specifier: match (lb.locality_weighted, &lb.zones) {
            (true, _) => Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(
                LocalityWeightedLbConfig::default(),
            )),
            (false, zones) => zones.as_ref().map(|zones| {
                LocalityConfigSpecifier::ZoneAwareLbConfig(ZoneAwareLbConfig {
                    routing_enabled: percent(zones.enabled),
                    min_cluster_size: Some(google::UInt64Value {
                        value: zones.min_members,
                    }),
                    fail_traffic_on_panic: zones.fail_on_panic,
                })
            }),
        },
        ..Default::default()
    });
}

fn breakers(b: &Breakers) -> cluster::CircuitBreakers {
    cluster::CircuitBreakers {
        thresholds: vec![
            thresholds(core::RoutingPriority::Default, &b.default),
            thresholds(core::RoutingPriority::High, &b.high),
        ],
        per_host_thresholds: Vec::new(),
    }
}

fn thresholds(
    priority: core::RoutingPriority,
    t: &Thresholds,
) -> cluster::circuit_breakers::Thresholds {
    cluster::circuit_breakers::Thresholds {
        priority: priority.into(),
        max_connections: uint(t.max_connections),
        max_pending_requests: uint(t.max_pending),
        max_requests: uint(t.max_requests),
        max_retries: uint(t.max_retries),
        retry_budget: t
            .retry_budget
            .map(|b| cluster::circuit_breakers::thresholds::RetryBudget {
                budget_percent: Some(kind::Percent { value: b.percent }),
                min_retry_concurrency: uint(b.min_concurrency),
                ..Default::default()
            }),
        ..Default::default()
    }
}

fn outlier(o: &Outlier) -> cluster::OutlierDetection {
    let enforcing = |count: Option<u32>| uint(if count.is_some() { 100 } else { 0 });
    let mut m = cluster::OutlierDetection {
        consecutive_5xx: o.consecutive_5xx.and_then(uint),
        enforcing_consecutive_5xx: enforcing(o.consecutive_5xx),
        consecutive_gateway_failure: o.consecutive_gateway.and_then(uint),
        enforcing_consecutive_gateway_failure: enforcing(o.consecutive_gateway),
        split_external_local_origin_errors: o.split_local_origin,
        consecutive_local_origin_failure: o.consecutive_local_origin.and_then(uint),
        enforcing_consecutive_local_origin_failure: enforcing(o.consecutive_local_origin),
        interval: Some(duration(o.interval)),
        base_ejection_time: Some(duration(o.base_ejection)),
        max_ejection_time: Some(duration(o.max_ejection)),
        max_ejection_percent: uint(o.max_ejection_percent),
        successful_active_health_check_uneject_host: Some(google::BoolValue {
            value: o.check_returns,
        }),
        enforcing_success_rate: uint(0),
        enforcing_failure_percentage: uint(0),
        ..Default::default()
    };
    if let Some(rate) = &o.success_rate {
        m.enforcing_success_rate = uint(rate.enforcing_percent);
        m.success_rate_minimum_hosts = uint(rate.minimum_hosts);
        m.success_rate_request_volume = uint(rate.request_volume);
        m.success_rate_stdev_factor = uint(rate.stdev_factor);
    }
    if let Some(failure) = &o.failure_percentage {
        m.enforcing_failure_percentage = uint(failure.enforcing_percent);
        m.failure_percentage_threshold = uint(failure.threshold);
        m.failure_percentage_minimum_hosts = uint(failure.minimum_hosts);
        m.failure_percentage_request_volume = uint(failure.request_volume);
    }
    m
}

fn health_check(h: &HealthCheck) -> core::HealthCheck {
    use core::health_check::{
        GrpcHealthCheck, HealthChecker, HttpHealthCheck, Payload, TcpHealthCheck, payload,
    };
    let bytes = |bytes: &[u8]| Payload {
        payload: Some(payload::Payload::Binary(bytes.to_vec())),
    };
    let checker = match &h.probe {
        Probe::Http {
            host,
            path,
            expected,
        } => HealthChecker::HttpHealthCheck(HttpHealthCheck {
            host: host.clone(),
            path: path.clone(),
            expected_statuses: expected
                .iter()
                .map(|range| kind::Int64Range {
                    start: range.start.into(),
                    end: range.end.into(),
                })
                .collect(),
            ..Default::default()
        }),
        Probe::Tcp { send, receive } => HealthChecker::TcpHealthCheck(TcpHealthCheck {
            send: (!send.is_empty()).then(|| bytes(send)),
            receive: receive.iter().map(|b| bytes(b)).collect(),
            ..Default::default()
        }),
        Probe::Grpc { service, authority } => HealthChecker::GrpcHealthCheck(GrpcHealthCheck {
            service_name: service.clone(),
            authority: authority.clone(),
            ..Default::default()
        }),
    };
    core::HealthCheck {
        timeout: Some(duration(h.timeout)),
        interval: Some(duration(h.interval)),
        no_traffic_interval: Some(duration(h.no_traffic_interval)),
        unhealthy_threshold: uint(h.unhealthy_threshold),
        healthy_threshold: uint(h.healthy_threshold),
        health_checker: Some(checker),
        ..Default::default()
    }
}

fn keepalive(k: TcpKeepalive) -> cluster::UpstreamConnectionOptions {
    let seconds = |d: std::time::Duration| uint(u32::try_from(d.as_secs()).unwrap_or(u32::MAX));
    cluster::UpstreamConnectionOptions {
        tcp_keepalive: Some(core::TcpKeepalive {
            keepalive_probes: k.probes.and_then(uint),
            keepalive_time: k.time.and_then(seconds),
            keepalive_interval: k.interval.and_then(seconds),
        }),
        ..Default::default()
    }
}

fn protocol(c: &Cluster) -> upstream_http::HttpProtocolOptions {
    use upstream_http::http_protocol_options::{
        AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions as Options,
        UseDownstreamHttpConfig, explicit_http_config::ProtocolConfig,
    };
    let explicit = |config| {
        Options::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(config),
        })
    };
    let options = match &c.protocol {
        Protocol::Http1(h1) => explicit(ProtocolConfig::HttpProtocolOptions(http1(h1))),
        Protocol::Http2(h2) => explicit(ProtocolConfig::Http2ProtocolOptions(http2(h2))),
        Protocol::Downstream {
            http1: h1,
            http2: h2,
        } => Options::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(http1(h1)),
            http2_protocol_options: Some(http2(h2)),
            ..Default::default()
        }),
        Protocol::Alpn {
            http1: h1,
            http2: h2,
        } => Options::AutoConfig(AutoHttpConfig {
            http_protocol_options: Some(http1(h1)),
            http2_protocol_options: Some(http2(h2)),
            ..Default::default()
        }),
    };
    let transports = c.transport.matches.iter().filter_map(|m| m.tls.as_deref());
    let by_authority: Vec<&UpstreamTls> = transports
        .chain(c.transport.default.as_deref())
        .filter(|tls| tls.auto_sni == AutoSni::Authority)
        .collect();
    let sni = core::UpstreamHttpProtocolOptions {
        auto_sni: !by_authority.is_empty(),
        // One switch for the whole cluster: stricter for some rather than looser for others.
        auto_san_validation: by_authority.iter().any(|tls| tls.validation.host_name),
        ..Default::default()
    };
    upstream_http::HttpProtocolOptions {
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            idle_timeout: Some(limit(c.idle_timeout)),
            max_connection_duration: c.max_connection_duration.map(duration),
            max_requests_per_connection: (c.max_requests_per_connection > 0)
                .then(|| uint(c.max_requests_per_connection))
                .flatten(),
            ..Default::default()
        }),
        upstream_http_protocol_options: sni.auto_sni.then_some(sni),
        upstream_protocol_options: Some(options),
        ..Default::default()
    }
}

fn http1(h: &Http1) -> core::Http1ProtocolOptions {
    core::Http1ProtocolOptions {
        header_key_format: h.preserve_case.then(preserve_case),
        ..Default::default()
    }
}

pub(super) fn preserve_case() -> core::http1_protocol_options::HeaderKeyFormat {
    use core::http1_protocol_options::header_key_format::HeaderFormat;
    core::http1_protocol_options::HeaderKeyFormat {
        header_format: Some(HeaderFormat::StatefulFormatter(extension(
            "preserve_case",
            &preserve_case::PreserveCaseFormatterConfig::default(),
        ))),
    }
}

pub(super) fn http2(h: &Http2) -> core::Http2ProtocolOptions {
    // Where they are what an unset field means anyway, they are left out.
    let floods = (h.floods != envoy::HTTP2.floods).then_some(h.floods);
    let limit = |of: fn(FloodLimits) -> u32| floods.and_then(|floods| uint(of(floods)));
    let long = |of: fn(FloodLimits) -> u32| {
        floods.map(|floods| google::UInt64Value {
            value: of(floods).into(),
        })
    };
    core::Http2ProtocolOptions {
        allow_connect: h.allow_connect,
        max_concurrent_streams: uint(h.max_concurrent_streams),
        initial_stream_window_size: h.initial_stream_window.and_then(uint),
        initial_connection_window_size: h.initial_connection_window.and_then(uint),
        connection_keepalive: h.keepalive.map(|k| core::KeepaliveSettings {
            interval: Some(duration(k.interval)),
            timeout: Some(duration(k.timeout)),
            ..Default::default()
        }),
        max_outbound_control_frames: limit(|floods| floods.control_frames),
        max_consecutive_inbound_frames_with_empty_payload: limit(|floods| floods.empty_frames),
        max_inbound_priority_frames_per_stream: limit(|floods| floods.priority_frames),
        max_inbound_window_update_frames_per_data_frame_sent: limit(|floods| floods.window_updates),
        stream_reset_burst: long(|floods| floods.resets),
        stream_reset_rate: long(|floods| floods.resets_per_second),
        ..Default::default()
    }
}
