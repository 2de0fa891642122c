//! Checks of a DestinationRule.

use std::collections::BTreeSet;

use super::Checker;
use super::leaf::Hosts;
use crate::diagnostic::{Code, Severity};
use crate::intent::DestinationRule;
use crate::intent::destination_rule::{
    ClientTls, ConnectionPool, LoadBalancer, OutlierDetection, SimpleLb, Subset, TlsMode,
    TrafficPolicy,
};
use crate::intent::peer_authentication::MtlsMode;
use crate::intent::registry::{Backing, Service, covers};
use crate::intent::service_entry::Resolution;
use crate::schema::Path;

pub(super) fn check(on: &mut Checker<'_>, spec: &DestinationRule) {
    let root = Path::ROOT.field("spec");
    let host = root.field("host");
    let full = on.qualify(&spec.host);
    if on.host(&host, &spec.host, Hosts::Wildcards) {
        let known = on.world.service(&full).is_some()
            || on.world.services.iter().any(|s| covers(&full, &s.host));
        if on.world.complete && !known {
            on.unknown_host(
                Severity::Warning,
                &host,
                &spec.host,
                "until there is one, this rule has no effect",
            );
        }
    }
    on.export_to(&root.field("exportTo"), &spec.export_to);
    if let Some(selector) = &spec.workload_selector {
        on.selector(&root.field("workloadSelector"), selector);
    }
    let service = on.world.service(&full);
    if let Some(policy) = &spec.traffic_policy {
        traffic(on, &root.field("trafficPolicy"), policy, service);
    }
    let list = root.field("subsets");
    let mut names = BTreeSet::new();
    for (index, subset) in spec.subsets.iter().enumerate() {
        let at = list.index(index);
        if !names.insert(subset.name.as_str()) {
            on.error(
                Code::Conflict,
                &at.field("name"),
                format!("there are two subsets `{}`", subset.name),
            )
            .help("rename one of them");
        }
        subset_of(on, &at, subset, service);
    }
}

fn subset_of(on: &mut Checker<'_>, at: &Path<'_>, subset: &Subset, service: Option<&Service>) {
    on.label(&at.field("name"), &subset.name, "the name of a subset");
    let labels = at.field("labels");
    if subset.labels.is_empty() {
        // One with a policy of its own is a second way to the whole service.
        if subset.traffic_policy.is_none() {
            on.warning(
                Code::NoEffect,
                at,
                "a subset without labels is the whole service",
            )
            .help("add `labels:`");
        }
    } else if let Some(service) = service {
        let any = match &service.backing {
            Backing::Workloads => {
                !on.world.complete
                    || on.world.workloads.iter().any(|workload| {
                        workload.service == service.host
                            && subset
                                .labels
                                .iter()
                                .all(|(key, value)| workload.labels.get(key) == Some(value))
                    })
            }
            Backing::Endpoints(endpoints) => endpoints.iter().any(|endpoint| {
                subset
                    .labels
                    .iter()
                    .all(|(key, value)| endpoint.labels.get(key) == Some(value))
            }),
        };
        if !any {
            on.error(
                Code::NoWorkload,
                &labels,
                format!(
                    "no workload of `{}` has these labels; requests to the subset get 503",
                    service.host
                ),
            )
            .help("compare with `labels:` of the service's workloads");
        }
    }
    if let Some(policy) = &subset.traffic_policy {
        traffic(on, &at.field("trafficPolicy"), policy, service);
    }
}

fn balancer(
    on: &mut Checker<'_>,
    at: &Path<'_>,
    balancer: Option<&LoadBalancer>,
    service: Option<&Service>,
) {
    match balancer.and_then(|balancer| balancer.simple) {
        Some(SimpleLb::LeastConn) => {
            on.warning(
                Code::Deprecated,
                &at.field("simple"),
                "LEAST_CONN is the old name of LEAST_REQUEST",
            )
            .help("write LEAST_REQUEST");
        }
        Some(SimpleLb::Passthrough) => {
            let Some(service) = service.filter(|known| known.resolution != Resolution::None) else {
                return;
            };
            on.warning(
                Code::NoEffect,
                &at.field("simple"),
                format!(
                    "the mesh knows the endpoints of `{}` and balances over them; it does not dial the address that the client asked for",
                    service.host
                ),
            )
            .help("remove it: PASSTHROUGH is for a ServiceEntry with `resolution: NONE`");
        }
        _ => {}
    }
}

fn traffic(on: &mut Checker<'_>, at: &Path<'_>, policy: &TrafficPolicy, service: Option<&Service>) {
    balancer(
        on,
        &at.field("loadBalancer"),
        policy.load_balancer.as_ref(),
        service,
    );
    pool(
        on,
        &at.field("connectionPool"),
        policy.connection_pool.as_ref(),
    );
    outlier(
        on,
        &at.field("outlierDetection"),
        policy.outlier_detection.as_ref(),
    );
    if let Some(tls) = &policy.tls {
        client_tls(on, &at.field("tls"), tls, service, None);
    }
    if let Some(percent) = policy
        .retry_budget
        .as_ref()
        .and_then(|budget| budget.percent)
    {
        let at = at.field("retryBudget");
        on.percent(&at.field("percent"), percent);
    }
    let list = at.field("portLevelSettings");
    let mut seen = BTreeSet::new();
    for (index, port) in policy.port_level_settings.iter().enumerate() {
        let at = list.index(index);
        let selector = at.field("port");
        let number = selector.field("number");
        if !seen.insert(port.port.number) {
            on.error(
                Code::Conflict,
                &number,
                format!("port {} is set twice", port.port.number),
            )
            .help("merge the two");
        }
        if on.port(&number, port.port.number)
            && let Some(service) = service
            && service.port(port.port.number).is_none()
        {
            on.warning(
                Code::UnknownPort,
                &number,
                format!("`{}` has no port {}", service.host, port.port.number),
            )
            .help("this is the service's port, not the one that the workload listens on");
        }
        balancer(
            on,
            &at.field("loadBalancer"),
            port.load_balancer.as_ref(),
            service,
        );
        pool(
            on,
            &at.field("connectionPool"),
            port.connection_pool.as_ref(),
        );
        outlier(
            on,
            &at.field("outlierDetection"),
            port.outlier_detection.as_ref(),
        );
        if let Some(tls) = &port.tls {
            client_tls(on, &at.field("tls"), tls, service, Some(port.port.number));
        }
    }
}

pub(super) fn pool(on: &mut Checker<'_>, at: &Path<'_>, pool: Option<&ConnectionPool>) {
    let Some(pool) = pool else { return };
    if let Some(tcp) = &pool.tcp {
        let at = at.field("tcp");
        not_negative(on, &at.field("maxConnections"), tcp.max_connections);
        on.at_least_1ms(&at.field("connectTimeout"), tcp.connect_timeout);
        on.at_least_1ms(
            &at.field("maxConnectionDuration"),
            tcp.max_connection_duration,
        );
    }
    if let Some(http) = &pool.http {
        let at = at.field("http");
        for (field, value) in [
            ("http1MaxPendingRequests", http.http1_max_pending_requests),
            ("http2MaxRequests", http.http2_max_requests),
            ("maxRequestsPerConnection", http.max_requests_per_connection),
            ("maxRetries", http.max_retries),
            ("maxConcurrentStreams", http.max_concurrent_streams),
        ] {
            not_negative(on, &at.field(field), value);
        }
    }
}

fn not_negative(on: &mut Checker<'_>, at: &Path<'_>, value: Option<i32>) {
    if value.is_some_and(|value| value < 0) {
        on.error(Code::InvalidValue, at, "this must not be negative")
            .help("leave it out for no limit");
    }
}

fn outlier(on: &mut Checker<'_>, at: &Path<'_>, outlier: Option<&OutlierDetection>) {
    let Some(outlier) = outlier else { return };
    on.at_least_1ms(&at.field("interval"), outlier.interval);
    on.at_least_1ms(&at.field("baseEjectionTime"), outlier.base_ejection_time);
    for (field, value) in [
        ("maxEjectionPercent", outlier.max_ejection_percent),
        ("minHealthPercent", outlier.min_health_percent),
    ] {
        if let Some(value) = value {
            on.percent(&at.field(field), f64::from(value));
        }
    }
    if outlier.consecutive_local_origin_failures.is_some()
        && outlier.split_external_local_origin_errors != Some(true)
    {
        on.warning(
            Code::NoEffect,
            &at.field("consecutiveLocalOriginFailures"),
            "local failures count with the others unless they are split",
        )
        .help("add `splitExternalLocalOriginErrors: true`");
    }
}

fn client_tls(
    on: &mut Checker<'_>,
    at: &Path<'_>,
    tls: &ClientTls,
    service: Option<&Service>,
    port: Option<u16>,
) {
    let files = [
        ("clientCertificate", tls.client_certificate.is_some()),
        ("privateKey", tls.private_key.is_some()),
    ];
    let others = [
        ("caCertificates", tls.ca_certificates.is_some()),
        ("subjectAltNames", !tls.subject_alt_names.is_empty()),
        ("sni", tls.sni.is_some()),
        ("insecureSkipVerify", tls.insecure_skip_verify.is_some()),
    ];
    let all = || files.iter().chain(&others);
    match tls.mode {
        TlsMode::IstioMutual => {
            for (field, _) in all().filter(|(_, set)| *set) {
                on.error(
                    Code::Exclusive,
                    &at.field(field),
                    format!("ISTIO_MUTUAL uses the mesh's own certificates; `{field}` does not go with it"),
                )
                .help("remove it, or use MUTUAL with your own certificates");
            }
        }
        TlsMode::Disable => {
            for (field, _) in all().filter(|(_, set)| *set) {
                on.warning(
                    Code::NoEffect,
                    &at.field(field),
                    "there is no TLS that this applies to",
                )
                .help("use SIMPLE or MUTUAL, or remove it");
            }
        }
        TlsMode::Mutual => {
            for (field, _) in files.iter().filter(|(_, set)| !*set) {
                on.error(
                    Code::MissingField,
                    &at.field(field),
                    format!("MUTUAL needs `{field}`"),
                )
                .help("name the file; or use ISTIO_MUTUAL for the mesh's certificates");
            }
        }
        TlsMode::Simple => {
            for (field, _) in files.iter().filter(|(_, set)| *set) {
                on.error(
                    Code::Exclusive,
                    &at.field(field),
                    "SIMPLE shows no client certificate",
                )
                .help("use MUTUAL, or remove it");
            }
        }
    }
    if tls.insecure_skip_verify == Some(true) && tls.mode != TlsMode::IstioMutual {
        on.warning(
            Code::UnverifiedTls,
            &at.field("insecureSkipVerify"),
            "anybody on the way can pose as the server",
        )
        .help("name the authority with `caCertificates`");
    }
    against_strict(on, at, tls, service, port);
}

/// A client that does not speak the mesh's TLS to a server that insists on it.
fn against_strict(
    on: &mut Checker<'_>,
    at: &Path<'_>,
    tls: &ClientTls,
    service: Option<&Service>,
    port: Option<u16>,
) {
    if tls.mode == TlsMode::IstioMutual {
        return;
    }
    let Some(service) = service.filter(|service| service.backing == Backing::Workloads) else {
        return;
    };
    let ports = service
        .ports
        .iter()
        .filter(|own| port.is_none_or(|port| port == own.number));
    let strict = ports.into_iter().any(|own| {
        on.world
            .workloads
            .iter()
            .filter(|workload| workload.service == service.host)
            .any(|workload| {
                on.world
                    .mtls(&workload.namespace, &workload.labels, Some(own.target))
                    == MtlsMode::Strict
            })
    });
    if strict {
        on.error(
            Code::TlsConflict,
            &at.field("mode"),
            format!(
                "`{}` is STRICT by PeerAuthentication and refuses connections without mesh TLS",
                service.host
            ),
        )
        .help("use ISTIO_MUTUAL, or leave `tls` out");
    }
}
