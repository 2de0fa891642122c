//! `Cluster`: discovery, balancing, guards and transport.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ripstop_model::defaults::envoy;
use ripstop_model::snapshot::Name;
use ripstop_model::snapshot::cluster::{
    Breakers, Cluster, Discovery, Dns, DnsFamily, LbCommon, LbPolicy, RetryBudget, ServiceRef,
    SlowStart, TcpKeepalive, Thresholds, Transport, TransportMatch, ZoneAware,
};
use ripstop_model::snapshot::endpoint::Endpoints;

use super::cluster_health::{health_check, outlier};
use super::cluster_protocol::{self, Upstream};
use super::subset::subsets;
use super::tls::{Socket, upstream_socket};
use super::value::{self, metadata, percent};
use super::{Decoding, endpoints, fields, is};
use crate::pb::{cluster, core, dns_cluster, dns_common, google, lb};

#[allow(deprecated)] // The deprecated fields are destructured to be read or to be named.
pub(crate) fn cluster(cx: &mut Decoding, m: cluster::Cluster) -> Option<Cluster> {
    fields!(cx, m => cluster::Cluster {
        name, alt_stat_name, transport_socket_matches, eds_cluster_config, connect_timeout,
        per_connection_buffer_limit_bytes, lb_policy, load_assignment, health_checks,
        max_requests_per_connection, circuit_breakers, http2_protocol_options,
        http_protocol_options, common_http_protocol_options, upstream_http_protocol_options,
        typed_extension_protocol_options, dns_refresh_rate, dns_failure_refresh_rate,
        respect_dns_ttl, dns_lookup_family, outlier_detection,
        common_lb_config, transport_socket, metadata, upstream_connection_options,
        load_balancing_policy, cluster_discovery_type, lb_config, lb_subset_config,
    }
    refuse { transport_socket_matcher, filters }
    ignore {
        per_connection_buffer_high_watermark_timeout, dns_resolvers, use_tcp_for_dns_lookups,
        dns_resolution_config, upstream_bind_config, protocol_selection,
        close_connections_on_host_health_failure, ignore_health_on_host_removal,
        upstream_config, preconnect_policy, connection_pool_per_downstream_connection,
        queuing_policies, typed_dns_resolver_config,
    }
    inert {
        stats_matcher, dns_jitter, wait_for_warm_on_init,
        cleanup_interval, lrs_server, lrs_report_endpoint_metrics, track_timeout_budgets,
        track_cluster_stats,
    });
    if name.is_empty() {
        cx.invalid("name", "is required");
    }
    let name: Name = name.into();
    let own = self::metadata(&metadata, "ripstop");

    let raw_dns = RawDns {
        family: dns_lookup_family,
        refresh: dns_refresh_rate,
        failure_refresh: dns_failure_refresh_rate,
        respect_ttl: respect_dns_ttl,
    };
    let assignment = cx.optional("load_assignment", load_assignment, endpoints);
    let eds = cx.optional("eds_cluster_config", eds_cluster_config, eds_service_name);
    let discovery = discovery(
        cx,
        &name,
        cluster_discovery_type,
        raw_dns,
        assignment,
        eds,
        &lb_config,
    );

    let (mut lb, slow_start) = balancing(cx, lb_policy, lb_config, load_balancing_policy);
    if let Some(ms) = own.and_then(|m| value::number(m, "peakEwmaDecayMs")) {
        // A stock Envoy saw LEAST_REQUEST, the nearest that it has.
        lb = LbPolicy::PeakEwma {
            decay: Duration::from_millis(ms.clamp(1.0, 3_600_000.0) as u64),
        };
    }
    let mut lb_common = lb_common(cx, common_lb_config, slow_start);
    lb_common.subsets = cx
        .optional("lb_subset_config", lb_subset_config, subsets)
        .map(Arc::new);

    let upstream = cluster_protocol::upstream(
        cx,
        typed_extension_protocol_options,
        cluster_protocol::Legacy {
            common: common_http_protocol_options,
            upstream: upstream_http_protocol_options,
            http1: http_protocol_options,
            http2: http2_protocol_options,
        },
    );
    let Upstream {
        protocol,
        idle_timeout,
        max_connection_duration,
        max_requests_per_connection: from_options,
        auto_sni,
        auto_san,
    } = upstream;
    let mut transport = transport(cx, transport_socket_matches, transport_socket);
    cluster_protocol::apply_sni(&mut transport, auto_sni, auto_san);

    let keepalive = upstream_connection_options.and_then(|m| {
        fields!(cx, m => cluster::UpstreamConnectionOptions { tcp_keepalive }
            inert { set_local_interface_name_on_upstream_connections, happy_eyeballs_config });
        tcp_keepalive.map(self::keepalive)
    });
    let mut outlier = cx.optional("outlier_detection", outlier_detection, outlier);
    if let Some(outlier) = &mut outlier {
        outlier.keep_last = value::flag(own, "outlierKeepLast");
    }
    let service = service(&metadata);
    Some(Cluster {
        alt_stat_name: Some(alt_stat_name).filter(|s| !s.is_empty()),
        discovery: discovery?,
        lb,
        lb_common,
        connect_timeout: cx
            .duration("connect_timeout", connect_timeout)
            .unwrap_or(envoy::CONNECT_TIMEOUT),
        breakers: cx.field("circuit_breakers", |cx| breakers(cx, circuit_breakers)),
        outlier,
        health_checks: cx.each("health_checks", health_checks, health_check),
        transport,
        protocol,
        idle_timeout,
        max_connection_duration,
        max_requests_per_connection: from_options
            .or(max_requests_per_connection.map(|v| v.value))
            .unwrap_or(0),
        keepalive,
        buffer_limit: per_connection_buffer_limit_bytes.map_or(envoy::BUFFER_LIMIT, |v| v.value),
        service,
        resource: value::resource(&metadata),
        name,
    })
}

/// Istio's `services: [{host, name, namespace}]`.
fn service(m: &Option<core::Metadata>) -> Option<Arc<ServiceRef>> {
    let list = metadata(m, "istio")?
        .fields
        .get("services")?
        .kind
        .as_ref()?;
    let google::value::Kind::ListValue(list) = list else {
        return None;
    };
    let google::value::Kind::StructValue(first) = list.values.first()?.kind.as_ref()? else {
        return None;
    };
    let part = |key| value::string(first, key).unwrap_or_default().into();
    Some(Arc::new(ServiceRef {
        host: part("host"),
        name: part("name"),
        namespace: part("namespace"),
    }))
}

struct RawDns {
    family: i32,
    refresh: Option<google::Duration>,
    failure_refresh: Option<cluster::cluster::RefreshRate>,
    respect_ttl: bool,
}

fn eds_service_name(cx: &mut Decoding, m: cluster::cluster::EdsClusterConfig) -> Option<String> {
    fields!(cx, m => cluster::cluster::EdsClusterConfig { eds_config, service_name });
    if let Some(source) = eds_config {
        cx.field("eds_config", |cx| from_ads(cx, source));
    }
    Some(service_name)
}

/// Accepts a `ConfigSource` that means "the ADS stream"; a resource cannot choose another source.
pub(crate) fn from_ads(cx: &mut Decoding, m: core::ConfigSource) {
    use core::config_source::ConfigSourceSpecifier as Source;
    fields!(cx, m => core::ConfigSource { config_source_specifier }
        inert { authorities, initial_fetch_timeout, resource_api_version });
    if !matches!(
        config_source_specifier,
        None | Some(Source::Ads(_) | Source::Self_(_))
    ) {
        cx.invalid_here("only `ads: {}` is supported as a source");
    }
}

fn discovery(
    cx: &mut Decoding,
    name: &Name,
    kind: Option<cluster::cluster::ClusterDiscoveryType>,
    raw: RawDns,
    assignment: Option<Endpoints>,
    eds: Option<String>,
    lb_config: &Option<cluster::cluster::LbConfig>,
) -> Option<Discovery> {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType, LbConfig};
    let members = |assignment: Option<Endpoints>| {
        Arc::new(match assignment {
            Some(mut endpoints) => {
                if endpoints.name.is_empty() {
                    endpoints.name = Arc::clone(name);
                }
                endpoints
            }
            None => Endpoints {
                name: Arc::clone(name),
                groups: Vec::new(),
                overprovisioning: envoy::OVERPROVISIONING,
            },
        })
    };
    let kind = match kind {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => cx.enumeration("type", kind)?,
        Some(ClusterDiscoveryType::ClusterType(m)) => {
            return cx.field("cluster_type", |cx| {
                fields!(cx, m => cluster::cluster::CustomClusterType { typed_config } inert { name });
                let any = typed_config.unwrap_or_default();
                cx.field("typed_config", |cx| {
                    let m = cx.expect::<dns_cluster::DnsCluster>(&any)?;
                    typed_dns(cx, m, members(assignment))
                })
            });
        }
    };
    match kind {
        DiscoveryType::Static => Some(Discovery::Static(members(assignment))),
        DiscoveryType::Eds => Some(Discovery::Eds {
            service_name: eds
                .filter(|s| !s.is_empty())
                .map_or_else(|| Arc::clone(name), Name::from),
        }),
        DiscoveryType::StrictDns => Some(Discovery::StrictDns(dns(cx, raw, members(assignment))?)),
        DiscoveryType::LogicalDns => {
            Some(Discovery::LogicalDns(dns(cx, raw, members(assignment))?))
        }
        DiscoveryType::OriginalDst => {
            let Some(LbConfig::OriginalDstLbConfig(m)) = lb_config.clone() else {
                return Some(Discovery::OriginalDst {
                    use_http_header: false,
                    port_override: None,
                });
            };
            cx.field("original_dst_lb_config", |cx| {
                fields!(cx, m => cluster::cluster::OriginalDstLbConfig { use_http_header, upstream_port_override }
                    refuse { http_header_name, metadata_key });
                let port_override = match upstream_port_override {
                    Some(v) => Some(cx.port("upstream_port_override", v.value)?),
                    None => None,
                };
                Some(Discovery::OriginalDst {
                    use_http_header,
                    port_override,
                })
            })
        }
    }
}

fn dns(cx: &mut Decoding, raw: RawDns, endpoints: Arc<Endpoints>) -> Option<Dns> {
    use cluster::cluster::DnsLookupFamily as Family;
    let family = match cx.enumeration("dns_lookup_family", raw.family)? {
        Family::Auto => DnsFamily::Auto,
        Family::V4Only => DnsFamily::V4Only,
        Family::V6Only => DnsFamily::V6Only,
        Family::V4Preferred => DnsFamily::V4Preferred,
        Family::All => DnsFamily::All,
    };
    let refresh = cx
        .duration("dns_refresh_rate", raw.refresh)
        .unwrap_or(envoy::DNS_REFRESH);
    let base = raw.failure_refresh.and_then(|m| m.base_interval);
    Some(Dns {
        endpoints,
        family,
        refresh,
        failure_refresh: cx
            .duration("dns_failure_refresh_rate", base)
            .unwrap_or(refresh),
        respect_ttl: raw.respect_ttl,
    })
}

fn typed_dns(
    cx: &mut Decoding,
    m: dns_cluster::DnsCluster,
    endpoints: Arc<Endpoints>,
) -> Option<Discovery> {
    use dns_common::DnsLookupFamily as Family;
    fields!(cx, m => dns_cluster::DnsCluster {
            dns_refresh_rate, dns_failure_refresh_rate, respect_dns_ttl, dns_lookup_family,
            all_addresses_in_single_endpoint,
        }
        ignore { typed_dns_resolver_config, dns_min_refresh_rate }
        inert { dns_jitter });
    let family = match cx.enumeration("dns_lookup_family", dns_lookup_family)? {
        Family::Unspecified | Family::Auto => DnsFamily::Auto,
        Family::V4Only => DnsFamily::V4Only,
        Family::V6Only => DnsFamily::V6Only,
        Family::V4Preferred => DnsFamily::V4Preferred,
        Family::All => DnsFamily::All,
    };
    let refresh = cx
        .duration("dns_refresh_rate", dns_refresh_rate)
        .unwrap_or(envoy::DNS_REFRESH);
    let base = dns_failure_refresh_rate.and_then(|m| m.base_interval);
    let dns = Dns {
        endpoints,
        family,
        refresh,
        failure_refresh: cx
            .duration("dns_failure_refresh_rate", base)
            .unwrap_or(refresh),
        respect_ttl: respect_dns_ttl,
    };
    Some(if all_addresses_in_single_endpoint {
        Discovery::LogicalDns(dns)
    } else {
        Discovery::StrictDns(dns)
    })
}

fn balancing(
    cx: &mut Decoding,
    policy: i32,
    config: Option<cluster::cluster::LbConfig>,
    extension: Option<cluster::LoadBalancingPolicy>,
) -> (LbPolicy, Option<SlowStart>) {
    use cluster::cluster::{LbConfig, LbPolicy as Policy};
    if let Some(extension) = extension {
        return cx.field("load_balancing_policy", |cx| typed_balancing(cx, extension));
    }
    let Some(policy) = cx.enumeration::<Policy>("lb_policy", policy) else {
        return (LbPolicy::RoundRobin, None);
    };
    match (policy, config) {
        (Policy::RoundRobin, Some(LbConfig::RoundRobinLbConfig(m))) => {
            let slow = cx.field("round_robin_lb_config", |cx| {
                fields!(cx, m => cluster::cluster::RoundRobinLbConfig { slow_start_config });
                cx.optional("slow_start_config", slow_start_config, slow_start)
            });
            (LbPolicy::RoundRobin, slow)
        }
        (Policy::RoundRobin, _) => (LbPolicy::RoundRobin, None),
        (Policy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(m))) => {
            cx.field("least_request_lb_config", |cx| {
                fields!(cx, m => cluster::cluster::LeastRequestLbConfig { choice_count, slow_start_config }
                    ignore { active_request_bias });
                let choices = choice_count.map_or(envoy::LEAST_REQUEST_CHOICES, |v| v.value);
                let slow = cx.optional("slow_start_config", slow_start_config, slow_start);
                (LbPolicy::LeastRequest { choices }, slow)
            })
        }
        (Policy::LeastRequest, _) => (
            LbPolicy::LeastRequest {
                choices: envoy::LEAST_REQUEST_CHOICES,
            },
            None,
        ),
        (Policy::Random, _) => (LbPolicy::Random, None),
        (Policy::RingHash, config) => {
            let (min, max) = match config {
                Some(LbConfig::RingHashLbConfig(m)) => {
                    cx.field("ring_hash_lb_config", |cx| {
                        fields!(cx, m => cluster::cluster::RingHashLbConfig { minimum_ring_size, maximum_ring_size }
                            ignore { hash_function });
                        (minimum_ring_size, maximum_ring_size)
                    })
                }
                _ => (None, None),
            };
            (ring(min, max), None)
        }
        (Policy::Maglev, config) => {
            let size = match config {
                Some(LbConfig::MaglevLbConfig(m)) => {
                    fields!(cx, m => cluster::cluster::MaglevLbConfig { table_size });
                    table_size
                }
                _ => None,
            };
            (maglev(size), None)
        }
        (Policy::ClusterProvided, _) => (LbPolicy::ClusterProvided, None),
        (Policy::LoadBalancingPolicyConfig, _) => {
            cx.invalid("load_balancing_policy", "is required by this lb_policy");
            (LbPolicy::RoundRobin, None)
        }
    }
}

fn ring(min: Option<google::UInt64Value>, max: Option<google::UInt64Value>) -> LbPolicy {
    LbPolicy::RingHash {
        min_size: min.map_or(envoy::RING_HASH_MIN, |v| v.value),
        max_size: max.map_or(envoy::RING_HASH_MAX, |v| v.value),
    }
}

fn maglev(size: Option<google::UInt64Value>) -> LbPolicy {
    LbPolicy::Maglev {
        table_size: size.map_or(envoy::MAGLEV_TABLE, |v| v.value),
    }
}

/// The first policy of the list that is known, as Envoy does.
fn typed_balancing(
    cx: &mut Decoding,
    m: cluster::LoadBalancingPolicy,
) -> (LbPolicy, Option<SlowStart>) {
    for (index, policy) in m.policies.into_iter().enumerate() {
        let Some(any) = policy.typed_extension_config.and_then(|e| e.typed_config) else {
            continue;
        };
        let found = cx.field("policies", |cx| {
            cx.key(index, |cx| {
                cx.field("typed_extension_config.typed_config", |cx| typed(cx, &any))
            })
        });
        if let Some(found) = found {
            return found;
        }
    }
    cx.invalid("policies", "none of them is supported");
    (LbPolicy::RoundRobin, None)
}

/// `None`: not a policy that is known.
#[allow(deprecated)]
fn typed(cx: &mut Decoding, any: &google::Any) -> Option<(LbPolicy, Option<SlowStart>)> {
    use lb::{
        cluster_provided::v3::ClusterProvided, least_request::v3::LeastRequest, maglev::v3::Maglev,
        random::v3::Random, ring_hash::v3::RingHash, round_robin::v3::RoundRobin,
    };
    let mut slow = None;
    let policy = if is::<RoundRobin>(any) {
        let m: RoundRobin = cx.unpack(any).unwrap_or_default();
        fields!(cx, m => RoundRobin { slow_start_config } ignore { locality_lb_config });
        slow = cx.optional("slow_start_config", slow_start_config, typed_slow_start);
        LbPolicy::RoundRobin
    } else if is::<LeastRequest>(any) {
        let m: LeastRequest = cx.unpack(any).unwrap_or_default();
        fields!(cx, m => LeastRequest { choice_count, slow_start_config }
            ignore { active_request_bias, selection_method, locality_lb_config, enable_full_scan });
        slow = cx.optional("slow_start_config", slow_start_config, typed_slow_start);
        let choices = choice_count.map_or(envoy::LEAST_REQUEST_CHOICES, |v| v.value);
        LbPolicy::LeastRequest { choices }
    } else if is::<Random>(any) {
        let m: Random = cx.unpack(any).unwrap_or_default();
        fields!(cx, m => Random {} ignore { locality_lb_config });
        LbPolicy::Random
    } else if is::<RingHash>(any) {
        let m: RingHash = cx.unpack(any).unwrap_or_default();
        fields!(cx, m => RingHash { minimum_ring_size, maximum_ring_size }
        ignore {
            hash_function, use_hostname_for_hashing, hash_balance_factor,
            consistent_hashing_lb_config, locality_weighted_lb_config,
        });
        ring(minimum_ring_size, maximum_ring_size)
    } else if is::<Maglev>(any) {
        let m: Maglev = cx.unpack(any).unwrap_or_default();
        fields!(cx, m => Maglev { table_size }
            ignore { consistent_hashing_lb_config, locality_weighted_lb_config });
        maglev(table_size)
    } else if is::<ClusterProvided>(any) {
        LbPolicy::ClusterProvided
    } else {
        return None;
    };
    Some((policy, slow))
}

fn slow_start(cx: &mut Decoding, m: cluster::cluster::SlowStartConfig) -> Option<SlowStart> {
    fields!(cx, m => cluster::cluster::SlowStartConfig {
        slow_start_window, aggression, min_weight_percent,
    });
    Some(SlowStart {
        window: cx
            .duration("slow_start_window", slow_start_window)
            .unwrap_or_default(),
        // The runtime key is inert: there is no runtime.
        aggression: aggression.map_or(envoy::SLOW_START_AGGRESSION, |v| v.default_value),
        min_percent: min_weight_percent.map_or(envoy::SLOW_START_MIN_PERCENT, |v| v.value),
    })
}

fn typed_slow_start(cx: &mut Decoding, m: lb::common::v3::SlowStartConfig) -> Option<SlowStart> {
    let lb::common::v3::SlowStartConfig {
        slow_start_window,
        aggression,
        min_weight_percent,
    } = m;
    let same = cluster::cluster::SlowStartConfig {
        slow_start_window,
        aggression,
        min_weight_percent,
    };
    slow_start(cx, same)
}

fn lb_common(
    cx: &mut Decoding,
    common: Option<cluster::cluster::CommonLbConfig>,
    slow_start: Option<SlowStart>,
) -> LbCommon {
    use cluster::cluster::common_lb_config::{
        LocalityConfigSpecifier as Locality, ZoneAwareLbConfig,
    };
    let mut lb = LbCommon {
        panic_threshold: envoy::PANIC_THRESHOLD,
        locality_weighted: false,
        zones: None,
        subsets: None,
        slow_start,
        close_on_host_set_change: false,
    };
    cx.field("common_lb_config", |cx| {
        let Some(m) = common else { return };
        fields!(cx, m => cluster::cluster::CommonLbConfig {
                healthy_panic_threshold, close_connections_on_host_set_change,
                locality_config_specifier,
            }
            ignore { consistent_hashing_lb_config, ignore_new_hosts_until_first_hc }
            inert { update_merge_window, override_host_status });
        lb.panic_threshold = percent(healthy_panic_threshold, envoy::PANIC_THRESHOLD);
        lb.close_on_host_set_change = close_connections_on_host_set_change;
        match locality_config_specifier {
            Some(Locality::LocalityWeightedLbConfig(_)) => lb.locality_weighted = true,
            Some(Locality::ZoneAwareLbConfig(m)) => {
                fields!(cx, m => ZoneAwareLbConfig {
                    routing_enabled, min_cluster_size, fail_traffic_on_panic,
                });
                lb.zones = Some(ZoneAware {
                    enabled: percent(routing_enabled, envoy::ZONE_AWARE.enabled),
                    min_members: min_cluster_size
                        .map_or(envoy::ZONE_AWARE.min_members, |v| v.value),
                    fail_on_panic: fail_traffic_on_panic,
                });
            }
            None => {}
        }
    });
    lb
}

fn breakers(cx: &mut Decoding, m: Option<cluster::CircuitBreakers>) -> Breakers {
    let mut breakers = envoy::BREAKERS;
    let Some(m) = m else { return breakers };
    fields!(cx, m => cluster::CircuitBreakers { thresholds } ignore { per_host_thresholds });
    for (priority, limits) in cx.each("thresholds", thresholds, thresholds_of) {
        match priority {
            core::RoutingPriority::Default => breakers.default = limits,
            core::RoutingPriority::High => breakers.high = limits,
        }
    }
    breakers
}

fn thresholds_of(
    cx: &mut Decoding,
    m: cluster::circuit_breakers::Thresholds,
) -> Option<(core::RoutingPriority, Thresholds)> {
    use cluster::circuit_breakers::thresholds::RetryBudget as Budget;
    fields!(cx, m => cluster::circuit_breakers::Thresholds {
            priority, max_connections, max_pending_requests, max_requests, max_retries, retry_budget,
        }
        ignore { max_connection_pools }
        inert { track_remaining });
    let priority = cx.enumeration("priority", priority)?;
    let retry_budget = cx.optional("retry_budget", retry_budget, |cx, m| {
        fields!(cx, m => Budget { budget_percent, min_retry_concurrency } ignore { budget_interval });
        Some(RetryBudget {
            percent: budget_percent.map_or(envoy::RETRY_BUDGET.percent, |v| v.value),
            min_concurrency: min_retry_concurrency
                .map_or(envoy::RETRY_BUDGET.min_concurrency, |v| v.value),
        })
    });
    let or = |value: Option<google::UInt32Value>, default| value.map_or(default, |v| v.value);
    Some((
        priority,
        Thresholds {
            max_connections: or(max_connections, envoy::THRESHOLDS.max_connections),
            max_pending: or(max_pending_requests, envoy::THRESHOLDS.max_pending),
            max_requests: or(max_requests, envoy::THRESHOLDS.max_requests),
            max_retries: or(max_retries, envoy::THRESHOLDS.max_retries),
            retry_budget,
        },
    ))
}

fn transport(
    cx: &mut Decoding,
    matches: Vec<cluster::cluster::TransportSocketMatch>,
    default: Option<core::TransportSocket>,
) -> Transport {
    let matches = cx.each("transport_socket_matches", matches, |cx, m| {
        fields!(cx, m => cluster::cluster::TransportSocketMatch { name, r#match, transport_socket });
        let criteria: BTreeMap<String, String> = cx.field("match", |cx| {
            value::strings(cx, r#match.unwrap_or_default()).into_iter().collect()
        });
        let tls = socket(cx, transport_socket)?;
        Some(TransportMatch { name, criteria, tls })
    });
    Transport {
        matches,
        default: socket(cx, default).flatten(),
    }
}

/// Outer `None`: could not be decoded. Inner `None`: plain text.
fn socket(
    cx: &mut Decoding,
    m: Option<core::TransportSocket>,
) -> Option<Option<Arc<ripstop_model::snapshot::tls::UpstreamTls>>> {
    let Some(m) = m else { return Some(None) };
    match cx.field("transport_socket", |cx| upstream_socket(cx, m))? {
        Socket::Plain => Some(None),
        Socket::Tls(tls) => Some(Some(Arc::new(tls))),
    }
}

fn keepalive(m: core::TcpKeepalive) -> TcpKeepalive {
    let seconds = |v: google::UInt32Value| Duration::from_secs(v.value.into());
    TcpKeepalive {
        probes: m.keepalive_probes.map(|v| v.value),
        time: m.keepalive_time.map(seconds),
        interval: m.keepalive_interval.map(seconds),
    }
}
