//! VirtualServices → the RouteConfiguration of one service port, and the chains of tcp and tls routes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use ripstop_model::defaults::{Table, envoy, istio};
use ripstop_model::intent::VirtualService;
use ripstop_model::intent::registry::{Port, qualify};
use ripstop_model::intent::virtual_service::{
    Destination, HttpMatch, HttpRetry, HttpRoute, HttpRouteDestination, RouteDestination, in_mesh,
};
use ripstop_model::snapshot::listener::{ChainMatch, TcpProxy, TransportProtocol};
use ripstop_model::snapshot::retry::{Backoff, RetryOn, RetryPolicy, RetryScope};
use ripstop_model::snapshot::route::{
    Action, Direct, Forward, GrpcTimeout, HostRewrite, PathRewrite, Priority, Route, RouteConfig,
    RouteMatch, Share, Split, VirtualHost,
};
use ripstop_model::snapshot::{Name, Resource};

use super::service::{self, Target, declared};
use crate::view::{Declared, Known, View, cluster_name, route_name, spellings};

mod action;
mod matching;

/// The RouteConfiguration `<host>:<port>`: one virtual host for the service under all of its names. It also takes requests for
/// hosts that nobody knows, which follow the address they were sent to. A stock Envoy, which cannot ask for more, gets
/// the other HTTP services of that port beside it, as Istio's table for the port has them.
pub(super) fn config(view: &View<'_>, name: &Name, number: u16, host: &str) -> Option<RouteConfig> {
    let target = Target::named(view, host)?;
    let port = target.port(number)?;
    if port.protocol.is_opaque()
        || port.protocol.is_tls()
        || !view.reaches(target.known, port.number)
    {
        return None;
    }
    let mut taken = BTreeSet::new();
    let mut hosts = vec![virtual_host(view, &target, port, &mut taken)];
    if view.client.stock {
        for known in view.mesh.services.values().filter(|known| view.sees(known)) {
            let other = Target {
                known,
                workload: None,
            };
            if let Some(port) = known.service.port(number)
                && view.reaches(known, number)
                && *known.host != *host
                && !port.protocol.is_opaque()
                && !port.protocol.is_tls()
            {
                hosts.push(virtual_host(view, &other, port, &mut taken));
            }
        }
    }
    if number == UNREGISTERED {
        hosts.extend(unregistered(view, &mut taken));
    }
    // Last, so that no other host's name is taken from it.
    if let Some(first) = hosts.first_mut() {
        first.domains.push("*".to_owned());
    }
    hosts.retain(|host| !host.domains.is_empty());
    Some(RouteConfig {
        name: name.clone(),
        hosts: hosts.into_iter().map(Arc::new).collect(),
        headers: Default::default(),
        internal_only_headers: Vec::new(),
        most_specific_headers_win: false,
        ignore_port: true,
        max_direct_response: 1 << 20,
    })
}

/// Where Istio routes hosts that no service has.
const UNREGISTERED: u16 = 80;

/// Hosts that only a VirtualService knows: its routes take the requests for them that are sent to any address of the mesh.
fn unregistered(view: &View<'_>, taken: &mut BTreeSet<String>) -> Vec<VirtualHost> {
    let hosts = view.mesh.unregistered.iter();
    hosts
        .filter_map(|host| {
            let routes = ruled(view, host, UNREGISTERED)?;
            let mut domains = spellings(host, &view.client.namespace);
            domains.retain(|domain| taken.insert(domain.clone()));
            Some(served(route_name(UNREGISTERED, host), domains, routes))
        })
        .collect()
}

/// `taken`: domains of earlier virtual hosts, which a table may hold only once.
fn virtual_host(
    view: &View<'_>,
    target: &Target<'_>,
    port: &Port,
    taken: &mut BTreeSet<String>,
) -> VirtualHost {
    let host = target.host();
    let mut domains = spellings(&host, &view.client.namespace);
    domains.extend(target.addresses().iter().map(|address| match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }));
    domains.retain(|domain| taken.insert(domain.clone()));
    let routes = ruled(view, &target.known.host, port.number)
        .unwrap_or_else(|| vec![follow(view, target, port)]);
    served(route_name(port.number, &host), domains, routes)
}

fn served(name: Name, domains: Vec<String>, routes: Vec<Route>) -> VirtualHost {
    VirtualHost {
        name,
        domains,
        routes: routes.into_iter().map(Arc::new).collect(),
        headers: Default::default(),
        require_tls: Default::default(),
        retry: None,
        request_attempt_count: true,
        response_attempt_count: false,
        per_filter: Default::default(),
    }
}

/// The VirtualServices of a host, in the order in which they are merged (R1.1): those that name it, else those with the longest
/// wildcard that covers it.
pub(super) fn rules<'a>(view: &View<'a>, host: &str) -> Vec<&'a Arc<Declared<VirtualService>>> {
    if view.mesh.closed(host).is_some() {
        return Vec::new();
    }
    // `a.b.c`, then `*.b.c`, `*.c` and `*`; of a wildcard itself only the wider ones.
    let mut named = Some(host.to_owned());
    while let Some(pattern) = named {
        let rules = view.mesh.ruled(&pattern).iter();
        let followed: Vec<_> = rules.filter(|rule| view.follows(rule)).collect();
        if !followed.is_empty() {
            return followed;
        }
        let rest = pattern.strip_prefix("*.").unwrap_or(&pattern);
        named = match rest.split_once('.') {
            Some((_, parent)) => Some(format!("*.{parent}")),
            None if pattern != "*" => Some("*".to_owned()),
            None => None,
        };
    }
    Vec::new()
}

/// The routes that VirtualServices give a host; `None`: no rule is about it.
fn ruled(view: &View<'_>, host: &str, port: u16) -> Option<Vec<Route>> {
    if let Some(resource) = view.mesh.closed(host) {
        return Some(vec![refuse(resource)]);
    }
    let mut routes = Vec::new();
    let mut ruled = false;
    for rule in rules(view, host) {
        for (index, http) in rule.spec.http.iter().enumerate() {
            ruled = true;
            let part = format!("http[{index}]");
            let context = Context {
                view,
                namespace: &rule.namespace,
                port,
                resource: rule.resource("VirtualService", part),
            };
            context.http(http, &mut routes);
        }
    }
    ruled.then_some(routes)
}

/// A host whose rules could never be read: better nothing than something else than was meant.
fn refuse(resource: &Resource) -> Route {
    Route {
        name: "not-accepted".into(),
        matches: RouteMatch::any(),
        action: Action::Direct(Direct {
            status: 503,
            body: format!("{resource} is not accepted; see `ripstop status`\n").into_bytes(),
        }),
        headers: Default::default(),
        per_filter: Default::default(),
        resource: Some(resource.clone()),
    }
}

/// What a service without a VirtualService does.
fn follow(view: &View<'_>, target: &Target<'_>, port: &Port) -> Route {
    let cluster = cluster_name(port.number, "", &target.host());
    Route {
        name: "default".into(),
        matches: RouteMatch::any(),
        action: Action::Forward(Box::new(Forward {
            retry: implicit_retry(view),
            ..forward(Split::One(cluster))
        })),
        headers: Default::default(),
        per_filter: Default::default(),
        resource: declared(target.known),
    }
}

pub(super) fn forward(to: Split) -> Forward {
    Forward {
        to,
        path_rewrite: PathRewrite::None,
        host_rewrite: HostRewrite::None,
        append_forwarded_host: false,
        timeout: None,
        idle_timeout: None,
        max_stream_duration: None,
        // Not `max_stream_duration`: a stock Envoy that is given one ignores the route's own timeout.
        grpc_timeout: Some(GrpcTimeout::default()),
        retry: None,
        hash: Vec::new(),
        mirrors: Vec::new(),
        priority: Priority::Default,
        upgrades: Vec::new(),
        missing_cluster_status: 503,
        criteria: None,
    }
}

/// Of an outbound route without `retries`.
fn implicit_retry(view: &View<'_>) -> Option<Arc<RetryPolicy>> {
    let table = view.mesh.settings.table();
    let mut policy = retry_policy(table.retry.on, table.retry.retries, table.retry.scope);
    if view.client.stock && table.retry.scope == RetryScope::Implicit {
        // Envoy knows no such scope: it gets what is safe for every method.
        policy.scope = RetryScope::Explicit;
        policy.on = RetryOn::CONNECT_FAILURE
            .union(RetryOn::REFUSED_STREAM)
            .union(RetryOn::RESET_BEFORE_REQUEST);
    }
    Some(Arc::new(policy))
}

/// From a sidecar to its own application.
pub(super) fn inbound_retry(table: &Table, stock: bool) -> Arc<RetryPolicy> {
    let retry = &table.inbound_retry;
    let scope = if stock {
        RetryScope::Explicit
    } else {
        retry.scope
    };
    Arc::new(RetryPolicy {
        // There is one host only.
        avoid_previous_hosts: false,
        host_selection_attempts: envoy::HOST_SELECTION_ATTEMPTS,
        ..retry_policy(retry.on, retry.retries, scope)
    })
}

fn retry_policy(on: RetryOn, retries: u32, scope: RetryScope) -> RetryPolicy {
    RetryPolicy {
        on,
        retries,
        per_try_timeout: None,
        per_try_idle_timeout: None,
        status_codes: Vec::new(),
        response_headers: Vec::new(),
        request_headers: Vec::new(),
        backoff: Backoff {
            base: istio::BACKOFF_BASE,
            max: istio::BACKOFF_BASE * 10,
        },
        avoid_previous_hosts: true,
        host_selection_attempts: istio::HOST_SELECTION_ATTEMPTS,
        previous_priorities: None,
        scope,
    }
}

/// An explicit `retries` block (B1r). Without attempts it retries nothing.
fn explicit_retry(retry: &HttpRetry) -> Option<Arc<RetryPolicy>> {
    let retries = u32::try_from(retry.attempts.unwrap_or(0)).unwrap_or(0);
    if retries == 0 {
        return None;
    }
    let (mut on, mut status_codes) = (istio::RETRY_ON, Vec::new());
    if let Some(list) = retry.retry_on.as_deref().filter(|list| !list.is_empty()) {
        let unknown;
        (on, unknown) = RetryOn::parse(list);
        status_codes.extend(
            unknown
                .iter()
                .filter_map(|token| token.parse::<u16>().ok())
                .filter(|code| (100..600).contains(code)),
        );
        if !status_codes.is_empty() {
            on = on.union(RetryOn::RETRIABLE_STATUS_CODES);
        }
    }
    let base = retry.backoff.unwrap_or(istio::BACKOFF_BASE);
    let avoid = retry.retry_ignore_previous_hosts.unwrap_or(true);
    Some(Arc::new(RetryPolicy {
        per_try_timeout: retry.per_try_timeout.filter(|limit| !limit.is_zero()),
        status_codes,
        backoff: Backoff {
            base,
            max: base.saturating_mul(10),
        },
        avoid_previous_hosts: avoid,
        host_selection_attempts: if avoid {
            istio::HOST_SELECTION_ATTEMPTS
        } else {
            envoy::HOST_SELECTION_ATTEMPTS
        },
        previous_priorities: retry
            .retry_remote_localities
            .unwrap_or(false)
            .then_some(istio::PREVIOUS_PRIORITIES),
        ..retry_policy(on, retries, RetryScope::Explicit)
    }))
}

/// Where in the configuration we are.
struct Context<'v, 'a> {
    view: &'v View<'a>,
    /// Of the rule: what its short names are completed with.
    namespace: &'a str,
    /// Of the service whose routes these are.
    port: u16,
    resource: Resource,
}

impl Context<'_, '_> {
    /// One Istio route is a route per match, all with the same action.
    fn http(&self, http: &HttpRoute, routes: &mut Vec<Route>) {
        if http.matches.is_empty() {
            routes.extend(self.route(http, None));
        }
        for matching in &http.matches {
            if self.applies(
                matching.port,
                &matching.gateways,
                &matching.source_labels,
                matching.source_namespace.as_deref(),
            ) {
                routes.extend(self.route(http, Some(matching)));
            }
        }
    }

    /// The parts of a match that are decided here: which port, which clients.
    fn applies(
        &self,
        port: Option<u16>,
        gateways: &[String],
        labels: &std::collections::BTreeMap<String, String>,
        namespace: Option<&str>,
    ) -> bool {
        let client = self.view.client;
        port.is_none_or(|port| port == self.port)
            && in_mesh(gateways)
            && labels
                .iter()
                .all(|(key, value)| client.labels.get(key) == Some(value))
            && namespace.is_none_or(|namespace| namespace == client.namespace)
    }

    /// `None`: the match holds an expression that cannot be compiled, so it matches nothing.
    fn route(&self, http: &HttpRoute, matching: Option<&HttpMatch>) -> Option<Route> {
        let names = [
            http.name.as_deref(),
            matching.and_then(|matching| matching.name.as_deref()),
        ];
        let names: Vec<&str> = names.into_iter().flatten().collect();
        let (action, headers, per_filter) = action::compile(self, http)?;
        Some(Route {
            name: names.join(".").into(),
            matches: match matching {
                None => RouteMatch::any(),
                Some(matching) => matching::compile(matching)?,
            },
            action,
            headers,
            per_filter,
            resource: Some(self.resource.clone()),
        })
    }

    /// The cluster of a destination, whether or not it exists: to one that does not, the answer is 503 (NC).
    fn cluster(&self, destination: &Destination) -> Name {
        let host = qualify(&destination.host, self.namespace);
        let known = self.view.mesh.covering(&host);
        let port = match (&destination.port, known.map(|known| known.ports.as_slice())) {
            (Some(port), _) => port.number,
            (None, Some([only])) => only.number,
            (None, _) => self.port,
        };
        cluster_name(
            port,
            destination.subset.as_deref().unwrap_or_default(),
            &host,
        )
    }

    fn split<'d>(
        &self,
        destinations: impl ExactSizeIterator<Item = (&'d Destination, Option<i32>)>,
        mut share: impl FnMut(usize, Name, u32) -> Share,
    ) -> Option<Split> {
        let single = destinations.len() == 1;
        let mut shares = Vec::new();
        for (index, (destination, weight)) in destinations.enumerate() {
            let cluster = self.cluster(destination);
            if single {
                return Some(Split::One(cluster));
            }
            let weight = u32::try_from(weight.unwrap_or(0)).unwrap_or(0);
            shares.push(share(index, cluster, weight));
        }
        let total = shares.iter().map(|share| share.weight).sum();
        (!shares.is_empty()).then_some(Split::Weighted { shares, total })
    }

    fn http_split(
        &self,
        destinations: &[HttpRouteDestination],
        share: impl FnMut(usize, Name, u32) -> Share,
    ) -> Option<Split> {
        let pairs = destinations.iter().map(|d| (&d.destination, d.weight));
        self.split(pairs, share)
    }

    fn tcp_proxy(&self, destinations: &[RouteDestination], known: &Known) -> Option<TcpProxy> {
        let pairs = destinations.iter().map(|d| (&d.destination, d.weight));
        let split = self.split(pairs, |_, cluster, weight| Share {
            cluster,
            weight,
            criteria: None,
            headers: Default::default(),
            host_rewrite: None,
            per_filter: Default::default(),
        })?;
        let first = destinations.first().map(|d| &d.destination);
        let host = first.map_or_else(
            || known.host.to_string(),
            |destination| qualify(&destination.host, self.namespace),
        );
        let resource = Some(self.resource.clone());
        Some(service::tcp_proxy(
            self.view, split, &host, self.port, resource,
        ))
    }
}

/// The tcp routes of a service port, in order, each with what it matches.
pub(super) fn tcp(
    view: &View<'_>,
    target: &Target<'_>,
    port: &Port,
) -> Vec<(ChainMatch, TcpProxy)> {
    let mut chains = Vec::new();
    for rule in rules(view, &target.known.host) {
        for (index, route) in rule.spec.tcp.iter().enumerate() {
            let context = Context {
                view,
                namespace: &rule.namespace,
                port: port.number,
                resource: rule.resource("VirtualService", format!("tcp[{index}]")),
            };
            let mut add = |matches: ChainMatch| {
                // Of two chains that match the same the earlier wins; a listener may not have both.
                let duplicate = chains.iter().any(|(earlier, _)| *earlier == matches);
                if let Some(proxy) = context.tcp_proxy(&route.route, target.known)
                    && !duplicate
                {
                    chains.push((matches, proxy));
                }
            };
            if route.matches.is_empty() {
                add(ChainMatch::default());
            }
            for matching in &route.matches {
                let client = context.applies(
                    matching.port,
                    &matching.gateways,
                    &matching.source_labels,
                    matching.source_namespace.as_deref(),
                );
                if client && in_subnets(&target.addresses(), &matching.destination_subnets) {
                    add(ChainMatch {
                        source: matching
                            .source_subnet
                            .as_deref()
                            .and_then(subnet)
                            .into_iter()
                            .collect(),
                        ..ChainMatch::default()
                    });
                }
            }
        }
    }
    chains
}

/// The tls routes of a service port, by SNI.
pub(super) fn tls(
    view: &View<'_>,
    target: &Target<'_>,
    port: &Port,
) -> Vec<(ChainMatch, TcpProxy)> {
    let mut chains = Vec::new();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for rule in rules(view, &target.known.host) {
        for (index, route) in rule.spec.tls.iter().enumerate() {
            let context = Context {
                view,
                namespace: &rule.namespace,
                port: port.number,
                resource: rule.resource("VirtualService", format!("tls[{index}]")),
            };
            for matching in &route.matches {
                let client = context.applies(
                    matching.port,
                    &matching.gateways,
                    &matching.source_labels,
                    matching.source_namespace.as_deref(),
                );
                if !client || !in_subnets(&target.addresses(), &matching.destination_subnets) {
                    continue;
                }
                let server_names: Vec<String> = matching
                    .sni_hosts
                    .iter()
                    .map(|host| host.to_ascii_lowercase())
                    .filter(|host| taken.insert(host.clone()))
                    .collect();
                if let (false, Some(proxy)) = (
                    server_names.is_empty(),
                    context.tcp_proxy(&route.route, target.known),
                ) {
                    let matches = ChainMatch {
                        server_names,
                        transport: Some(TransportProtocol::Tls),
                        ..ChainMatch::default()
                    };
                    chains.push((matches, proxy));
                }
            }
        }
    }
    chains
}

/// The listener has one address, so `destinationSubnets` is decided here. Empty: any.
fn in_subnets(addresses: &[IpAddr], subnets: &[String]) -> bool {
    subnets.is_empty()
        || subnets
            .iter()
            .filter_map(|text| subnet(text))
            .any(|net| addresses.iter().any(|address| net.contains(address)))
}

/// A block, or an address as a block of one.
pub(super) fn subnet(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// Zero is no limit.
fn limit(timeout: Option<Duration>) -> Option<Duration> {
    timeout.filter(|timeout| !timeout.is_zero())
}
