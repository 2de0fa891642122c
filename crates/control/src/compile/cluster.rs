//! Services and their DestinationRules → clusters.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ripstop_model::defaults::{self, Table, envoy, istio};
use ripstop_model::intent::destination_rule::{
    ConnectionPool, H2UpgradePolicy, HttpPool, OutlierDetection, RetryBudget, SimpleLb, TlsMode,
};
use ripstop_model::intent::registry::{Backing, Port};
use ripstop_model::intent::service_entry::{Location, Resolution};
use ripstop_model::protocol::Protocol as AppProtocol;
use ripstop_model::snapshot::cluster::{
    Breakers, Cluster, Discovery, Dns, DnsFamily, Http1, Http2, LbCommon, LbPolicy, Outlier,
    Protocol, ServiceRef, TcpKeepalive, Thresholds, Transport, TransportMatch,
};
use ripstop_model::snapshot::endpoint::{Endpoint, Endpoints, Group, Health, Target as Address};
use ripstop_model::snapshot::{Fraction, Name};

use super::rule::{self, Policy, Rule};
use super::service::Target;
use super::{BLACK_HOLE, OTLP, endpoint, identity};
use crate::view::View;

/// `outbound|<port>|<subset>|<host>`; `host` may be one workload of a service.
pub(super) fn outbound(
    view: &View<'_>,
    name: &Name,
    number: u16,
    subset: &str,
    host: &str,
) -> Option<Cluster> {
    let target = Target::named(view, host)?;
    let known = target.known;
    let port = known.service.port(number)?;
    if !view.reaches(known, number) {
        return None;
    }
    let rule = rule::rule(view, known);
    if !subset.is_empty() {
        rule.as_ref()?.subset_labels(subset)?;
    }
    let policy = rule
        .as_ref()
        .map(|rule| rule.policy(subset, number))
        .unwrap_or_default();
    let table = view.mesh.settings.table();
    let pool = policy.connection_pool.clone().unwrap_or_default();
    // PASSTHROUGH does not add to this: where the mesh knows endpoints, a client's address for them is a VIP, which is nowhere.
    let through = known.resolution == Resolution::None;
    let protocol = protocol(table, port, &pool.http.clone().unwrap_or_default());
    let outlier = policy.outlier.as_ref();
    let cluster = Cluster {
        discovery: discovery(view, name, &target, port, rule.as_ref(), subset, through),
        lb: balancer(&policy, through),
        lb_common: LbCommon {
            panic_threshold: outlier.map_or(table.panic_threshold, panic_threshold),
            locality_weighted: false,
            zones: None,
            subsets: None,
            slow_start: None,
            close_on_host_set_change: false,
        },
        outlier: match outlier {
            Some(outlier) => Some(detection(table, outlier)),
            None => quarantine(table),
        },
        transport: transport(view, &target, port, subset, &policy, &protocol),
        service: Some(Arc::new(ServiceRef {
            host: known.host.clone(),
            name: known.name.as_str().into(),
            namespace: known.namespace.as_str().into(),
        })),
        resource: rule.map(|rule| rule.resource),
        ..base(view, name.clone(), protocol)
    };
    Some(limited(table, &pool, policy.retry_budget.as_ref(), cluster))
}

/// A cluster under a `connectionPool`.
pub(super) fn limited(
    table: &Table,
    pool: &ConnectionPool,
    budget: Option<&RetryBudget>,
    cluster: Cluster,
) -> Cluster {
    let tcp = pool.tcp.clone().unwrap_or_default();
    let http = pool.http.clone().unwrap_or_default();
    let defaults = &table.thresholds;
    Cluster {
        connect_timeout: tcp.connect_timeout.unwrap_or(table.connect_timeout),
        breakers: Breakers {
            default: Thresholds {
                max_connections: count(tcp.max_connections).unwrap_or(defaults.max_connections),
                max_pending: count(http.http1_max_pending_requests).unwrap_or(defaults.max_pending),
                max_requests: count(http.http2_max_requests).unwrap_or(defaults.max_requests),
                max_retries: count(http.max_retries).unwrap_or(defaults.max_retries),
                retry_budget: budget.map(retry_budget),
            },
            high: defaults.clone(),
        },
        idle_timeout: match http.idle_timeout.or(tcp.idle_timeout) {
            Some(Duration::ZERO) => None,
            Some(timeout) => Some(timeout),
            None => table.idle_timeout,
        },
        max_connection_duration: tcp.max_connection_duration,
        max_requests_per_connection: count(http.max_requests_per_connection).unwrap_or(0),
        keepalive: tcp.tcp_keepalive.as_ref().map(|keepalive| TcpKeepalive {
            probes: keepalive.probes,
            time: keepalive.time,
            interval: keepalive.interval,
        }),
        ..cluster
    }
}

fn retry_budget(budget: &RetryBudget) -> ripstop_model::snapshot::cluster::RetryBudget {
    ripstop_model::snapshot::cluster::RetryBudget {
        percent: budget.percent.unwrap_or(istio::RETRY_BUDGET.percent),
        min_concurrency: budget
            .min_retry_concurrency
            .unwrap_or(istio::RETRY_BUDGET.min_concurrency),
    }
}

/// What is the same for every cluster.
pub(super) fn base(view: &View<'_>, name: Name, protocol: Protocol) -> Cluster {
    let table = view.mesh.settings.table();
    Cluster {
        name: name.clone(),
        alt_stat_name: None,
        discovery: Discovery::Static(Arc::new(empty(name))),
        lb: LbPolicy::RoundRobin,
        lb_common: LbCommon {
            panic_threshold: table.panic_threshold,
            locality_weighted: false,
            zones: None,
            subsets: None,
            slow_start: None,
            close_on_host_set_change: false,
        },
        connect_timeout: table.connect_timeout,
        breakers: Breakers {
            default: table.thresholds.clone(),
            high: table.thresholds.clone(),
        },
        outlier: None,
        health_checks: Vec::new(),
        transport: Transport::default(),
        protocol,
        idle_timeout: table.idle_timeout,
        max_connection_duration: None,
        max_requests_per_connection: 0,
        keepalive: None,
        buffer_limit: table.buffer_limit,
        service: None,
        resource: None,
    }
}

fn empty(name: Name) -> Endpoints {
    Endpoints {
        name,
        groups: Vec::new(),
        overprovisioning: envoy::OVERPROVISIONING,
    }
}

pub(super) fn downstream(table: &Table) -> Protocol {
    Protocol::Downstream {
        http1: http1(table),
        http2: envoy::HTTP2,
    }
}

pub(super) fn http1(table: &Table) -> Http1 {
    Http1 {
        preserve_case: table.http1.preserve_case,
    }
}

/// To where the client wanted to go; outside the mesh, so without mesh TLS.
pub(super) fn passthrough(view: &View<'_>, name: &Name) -> Cluster {
    Cluster {
        discovery: Discovery::OriginalDst {
            use_http_header: false,
            port_override: None,
        },
        lb: LbPolicy::ClusterProvided,
        ..base(view, name.clone(), downstream(view.mesh.settings.table()))
    }
}

pub(super) fn black_hole(view: &View<'_>) -> Cluster {
    base(view, BLACK_HOLE.into(), Protocol::Http1(Http1::default()))
}

/// Where spans go, if anywhere: `http://host:4318` (HTTP/1) or `grpc://host:4317`.
pub(super) fn collector(view: &View<'_>) -> Option<Cluster> {
    let url = view.mesh.settings.tracing.otlp.as_deref()?;
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    let default = if scheme == "grpc" { 4317 } else { 4318 };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') => (host, port.parse().ok()?),
        _ => (authority, default),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name: Name = OTLP.into();
    let endpoints = Arc::new(one(name.clone(), address(host, port)));
    let protocol = if scheme == "grpc" {
        Protocol::Http2(envoy::HTTP2)
    } else {
        Protocol::Http1(Http1::default())
    };
    Some(Cluster {
        discovery: match host.parse::<IpAddr>() {
            Ok(_) => Discovery::Static(endpoints),
            Err(_) => Discovery::StrictDns(dns(view, endpoints)),
        },
        ..base(view, name, protocol)
    })
}

pub(super) fn address(host: &str, port: u16) -> Address {
    match host.parse::<IpAddr>() {
        Ok(ip) => Address::Socket(SocketAddr::new(ip, port)),
        Err(_) => Address::Name {
            host: host.to_owned(),
            port,
        },
    }
}

/// A cluster of one address.
pub(super) fn one(name: Name, address: Address) -> Endpoints {
    Endpoints {
        groups: vec![Group {
            endpoints: vec![Endpoint {
                address,
                weight: 1,
                health: Health::Healthy,
                hostname: None,
                transport: BTreeMap::new(),
                labels: BTreeMap::new(),
                workload: None,
            }],
            ..Group::default()
        }],
        ..empty(name)
    }
}

fn dns(view: &View<'_>, endpoints: Arc<Endpoints>) -> Dns {
    let table = view.mesh.settings.table();
    Dns {
        endpoints,
        family: family(view),
        refresh: table.dns_refresh,
        failure_refresh: table.dns_failure_refresh,
        respect_ttl: true,
    }
}

/// Of a name with addresses of both families, those that the client's host can dial: IPv6 where that is how others reach it,
/// else IPv4, which a host without a way into the IPv6 internet has (Istio too goes by the proxy's own addresses).
fn family(view: &View<'_>) -> DnsFamily {
    let member = view.client.member.as_ref();
    match member.and_then(|member| member.advertise) {
        Some(IpAddr::V6(_)) => DnsFamily::Auto,
        Some(IpAddr::V4(_)) | None => DnsFamily::V4Preferred,
    }
}

fn discovery(
    view: &View<'_>,
    name: &Name,
    target: &Target<'_>,
    port: &Port,
    rule: Option<&Rule>,
    subset: &str,
    through: bool,
) -> Discovery {
    if through {
        return Discovery::OriginalDst {
            use_http_header: false,
            port_override: None,
        };
    }
    let known = target.known;
    let listed = || {
        let labels = rule.and_then(|rule| rule.subset_labels(subset));
        let entries = match &known.backing {
            Backing::Endpoints(entries) if !entries.is_empty() => {
                endpoint::of_entries(name, known, port, labels, entries)
            }
            // DNS without endpoints resolves the host itself.
            Backing::Endpoints(_) | Backing::Workloads => {
                one(name.clone(), address(&known.host, port.target))
            }
        };
        dns(view, Arc::new(entries))
    };
    match known.resolution {
        Resolution::Static | Resolution::None => Discovery::Eds {
            service_name: name.clone(),
        },
        Resolution::Dns => Discovery::StrictDns(listed()),
        Resolution::DnsRoundRobin => Discovery::LogicalDns(listed()),
    }
}

fn balancer(policy: &Policy, through: bool) -> LbPolicy {
    if through {
        return LbPolicy::ClusterProvided;
    }
    let simple = policy.load_balancer.as_ref().and_then(|lb| lb.simple);
    match simple {
        Some(SimpleLb::Random) => LbPolicy::Random,
        Some(SimpleLb::RoundRobin) => LbPolicy::RoundRobin,
        Some(SimpleLb::PeakEwma) => LbPolicy::PeakEwma {
            decay: defaults::EWMA_DECAY,
        },
        Some(
            SimpleLb::Unspecified
            | SimpleLb::LeastConn
            | SimpleLb::LeastRequest
            | SimpleLb::Passthrough,
        )
        | None => LbPolicy::LeastRequest {
            choices: envoy::LEAST_REQUEST_CHOICES,
        },
    }
}

/// Istio turns panic off wherever there is outlier detection, unless the rule asks for it.
fn panic_threshold(outlier: &OutlierDetection) -> Fraction {
    Fraction::percent(f64::from(outlier.min_health_percent.unwrap_or(0)))
}

/// Zero counts as unset, as everywhere among Istio's plain integers.
fn count(value: Option<i32>) -> Option<u32> {
    value
        .and_then(|value| u32::try_from(value).ok())
        .filter(|value| *value > 0)
}

fn detection(table: &Table, outlier: &OutlierDetection) -> Outlier {
    let on = |threshold: u32| Some(threshold).filter(|threshold| *threshold > 0);
    let split = outlier.split_external_local_origin_errors.unwrap_or(false);
    let percent = outlier
        .max_ejection_percent
        .and_then(|p| u32::try_from(p).ok());
    let base = outlier.base_ejection_time.unwrap_or(istio::BASE_EJECTION);
    Outlier {
        consecutive_5xx: on(outlier
            .consecutive5xx_errors
            .unwrap_or(istio::CONSECUTIVE_5XX)),
        consecutive_gateway: outlier.consecutive_gateway_errors.and_then(on),
        consecutive_local_origin: if split {
            on(outlier
                .consecutive_local_origin_failures
                .unwrap_or(istio::CONSECUTIVE_LOCAL_ORIGIN))
        } else {
            None
        },
        split_local_origin: split,
        interval: outlier.interval.unwrap_or(istio::OUTLIER_INTERVAL),
        base_ejection: base,
        max_ejection: istio::MAX_EJECTION.max(base),
        max_ejection_percent: percent.unwrap_or(istio::MAX_EJECTION_PERCENT).min(100),
        keep_last: table.keep_last,
        check_returns: true,
        success_rate: None,
        failure_percentage: None,
    }
}

/// Nobody asked for outlier detection: what cannot be reached is spared all the same, answers are not judged.
fn quarantine(table: &Table) -> Option<Outlier> {
    Some(Outlier {
        consecutive_5xx: None,
        consecutive_gateway: None,
        consecutive_local_origin: Some(table.quarantine?),
        split_local_origin: true,
        interval: defaults::QUARANTINE,
        base_ejection: defaults::QUARANTINE,
        max_ejection: defaults::QUARANTINE_MOST,
        max_ejection_percent: 100,
        keep_last: table.keep_last,
        check_returns: true,
        success_rate: None,
        failure_percentage: None,
    })
}

fn protocol(table: &Table, port: &Port, http: &HttpPool) -> Protocol {
    let http2 = Http2 {
        max_concurrent_streams: count(http.max_concurrent_streams)
            .unwrap_or(envoy::HTTP2.max_concurrent_streams),
        ..envoy::HTTP2
    };
    let http1 = http1(table);
    if http.use_client_protocol.unwrap_or(false) {
        return Protocol::Downstream { http1, http2 };
    }
    let upgrade = http.h2_upgrade_policy == Some(H2UpgradePolicy::Upgrade);
    match port.protocol {
        AppProtocol::Http2 | AppProtocol::Grpc => Protocol::Http2(http2),
        // Who asks for it on an undeclared port is sure that it is HTTP.
        AppProtocol::Http | AppProtocol::GrpcWeb | AppProtocol::Auto if upgrade => {
            Protocol::Http2(http2)
        }
        AppProtocol::Auto => Protocol::Downstream { http1, http2 },
        _ => Protocol::Http1(http1),
    }
}

fn transport(
    view: &View<'_>,
    target: &Target<'_>,
    port: &Port,
    subset: &str,
    policy: &Policy,
    protocol: &Protocol,
) -> Transport {
    let known = target.known;
    let mesh = || {
        let sni = identity::sni(port.number, subset, &known.host);
        Arc::new(identity::upstream(
            view,
            known,
            port.protocol,
            protocol,
            sni,
        ))
    };
    match policy.tls.as_ref().map(|tls| (tls.mode, tls)) {
        Some((TlsMode::Disable, _)) => Transport::default(),
        Some((TlsMode::IstioMutual, _)) => Transport {
            matches: Vec::new(),
            default: Some(mesh()),
        },
        Some((TlsMode::Simple | TlsMode::Mutual, tls)) => Transport {
            matches: Vec::new(),
            default: Some(Arc::new(identity::origination(
                view, known, port, protocol, tls,
            ))),
        },
        // Mutual TLS with every endpoint that says it has a sidecar.
        None if known.location == Location::MeshInternal => Transport {
            matches: vec![TransportMatch {
                name: identity::TLS_MODE_ISTIO.to_owned(),
                criteria: identity::tls_mode(),
                tls: Some(mesh()),
            }],
            default: None,
        },
        None => Transport::default(),
    }
}
