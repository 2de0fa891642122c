//! Checks of a VirtualService. Those of one HTTP route are in [`http`].

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::leaf::Hosts;
use super::{Checker, shadow};
use crate::diagnostic::{Code, Severity};
use crate::intent::VirtualService;
use crate::intent::registry::covers;
use crate::intent::virtual_service::{
    Destination, HttpMatch, HttpRoute, RouteDestination, TcpRoute, TlsRoute, in_mesh,
};
use crate::schema::Path;

mod http;

pub(super) fn check(on: &mut Checker<'_>, spec: &VirtualService) {
    let root = Path::ROOT.field("spec");
    hosts(on, &root, spec);
    on.export_to(&root.field("exportTo"), &spec.export_to);
    if !spec.in_mesh() {
        on.warning(
            Code::NoEffect,
            &root.field("gateways"),
            "without `mesh` in this list no sidecar follows the rules, and gateways are not served yet",
        )
        .help("add `mesh`, or remove the list");
    }
    if spec.http.is_empty() && spec.tls.is_empty() && spec.tcp.is_empty() {
        on.error(Code::MissingField, &root, "there are no routes")
            .help("add `http:`, `tls:` or `tcp:`");
    }
    let at = root.field("http");
    for (index, route) in spec.http.iter().enumerate() {
        http::check(on, &at.index(index), route);
    }
    order(on, &at, &spec.http);
    protocols(on, &root, spec);
    let at = root.field("tls");
    for (index, route) in spec.tls.iter().enumerate() {
        tls(on, &at.index(index), route, spec);
    }
    let at = root.field("tcp");
    for (index, route) in spec.tcp.iter().enumerate() {
        tcp(on, &at.index(index), route);
    }
}

fn hosts(on: &mut Checker<'_>, root: &Path<'_>, spec: &VirtualService) {
    let list = root.field("hosts");
    if spec.hosts.is_empty() {
        on.error(Code::MissingField, &list, "`hosts` is empty")
            .help("name the services whose callers follow these rules");
    }
    for (index, host) in spec.hosts.iter().enumerate() {
        let at = list.index(index);
        if host == "*" {
            if spec.in_mesh() {
                on.error(
                    Code::InvalidHost,
                    &at,
                    "`*` would take over every host of the mesh",
                )
                .help("list the hosts, or use a suffix such as `*.example.com`");
            }
            continue;
        }
        if host.parse::<IpAddr>().is_ok() {
            on.error(
                Code::InvalidHost,
                &at,
                "a service of the mesh is named, not addressed",
            )
            .help("name the host; declare the address in a ServiceEntry");
            continue;
        }
        if !on.host(&at, host, Hosts::Wildcards) {
            continue;
        }
        let full = on.qualify(host);
        let earlier = spec.hosts.iter().take(index);
        if earlier.into_iter().any(|other| on.qualify(other) == full) {
            on.warning(Code::NoEffect, &at, format!("`{full}` is listed twice"));
        }
        let known = on.world.service(&full).is_some()
            || on.world.services.iter().any(|s| covers(&full, &s.host));
        if on.world.complete && !known {
            on.unknown_host(
                Severity::Warning,
                &at,
                host,
                "until there is one, only requests for it that are sent to port 80 of a service of the mesh follow these rules",
            );
        }
    }
}

/// How many matches a later one is compared with: the comparison is of each with each.
const MAX_COMPARED: usize = 1000;

/// First match wins: what an earlier route takes, no later one sees.
fn order(on: &mut Checker<'_>, at: &Path<'_>, routes: &[HttpRoute]) {
    let everything = [HttpMatch::default()];
    let matches = |route: &'_ HttpRoute| -> Vec<HttpMatch> {
        if route.matches.is_empty() {
            everything.to_vec()
        } else {
            route.matches.clone()
        }
    };
    let mut earlier: Vec<(usize, HttpMatch)> = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let path = at.index(index);
        let own = matches(route);
        let covered: Vec<Option<(usize, bool)>> = own
            .iter()
            .map(|later| {
                earlier
                    .iter()
                    .take(MAX_COMPARED)
                    .find(|(_, first)| shadow::covers(first, later))
                    .map(|(by, first)| (*by, shadow::same(first, later)))
            })
            .collect();
        let file = on.object.origin.file.clone();
        if covered.iter().all(Option::is_some) {
            if let Some((by, same)) = covered.first().copied().flatten() {
                let (code, message) = if same && !route.matches.is_empty() {
                    (Code::DuplicateMatch, "an earlier route has the same match")
                } else {
                    (
                        Code::Unreachable,
                        "earlier routes take every request of this one",
                    )
                };
                let first = on.span(&at.index(by));
                on.warning(code, &path, message)
                    .help("move it before the earlier one, or remove it")
                    .related(&file, first, "this route comes first");
            }
        } else {
            let list = path.field("match");
            for (which, found) in covered.iter().enumerate() {
                if let Some((by, same)) = *found {
                    let code = if same {
                        Code::DuplicateMatch
                    } else {
                        Code::Unreachable
                    };
                    let first = on.span(&at.index(by));
                    on.warning(
                        code,
                        &list.index(which),
                        "an earlier route takes everything that this match does",
                    )
                    .help("remove the match, or move the route")
                    .related(&file, first, "this route comes first");
                }
            }
        }
        for (which, later) in own.iter().enumerate() {
            let list = path.field("match");
            if own
                .iter()
                .take(which.min(MAX_COMPARED))
                .any(|first| shadow::covers(first, later))
            {
                on.warning(
                    Code::DuplicateMatch,
                    &list.index(which),
                    "another match of this route takes everything that this one does",
                )
                .help("remove it");
            }
        }
        earlier.extend(own.into_iter().map(|own| (index, own)));
    }
}

/// Routes of a protocol that none of the host's ports speaks.
fn protocols(on: &mut Checker<'_>, root: &Path<'_>, spec: &VirtualService) {
    let hosts: BTreeSet<String> = spec.hosts.iter().map(|host| on.qualify(host)).collect();
    for full in hosts {
        let Some(service) = on.world.service(&full).filter(|s| !s.ports.is_empty()) else {
            continue;
        };
        let protocols: Vec<_> = service.ports.iter().map(|port| port.protocol).collect();
        let says = |on: &mut Checker<'_>, field: &str, none: &str, help: &str| {
            on.warning(
                Code::NoEffect,
                &root.field(field),
                format!("no port of `{full}` is {none}; these routes are not used"),
            )
            .help(help);
        };
        if !spec.http.is_empty() && protocols.iter().all(|p| p.is_opaque() || p.is_tls()) {
            says(
                on,
                "http",
                "HTTP",
                "use `tcp:` or `tls:`, or name the port `http-…`",
            );
        }
        if !spec.tls.is_empty() && !protocols.iter().any(|p| p.is_tls()) {
            says(on, "tls", "TLS", "name the port `tls-…` or `https-…`");
        }
        if !spec.tcp.is_empty() && protocols.iter().all(|p| p.is_http() || p.is_tls()) {
            says(on, "tcp", "TCP", "use `http:`, or name the port `tcp-…`");
        }
    }
}

fn tls(on: &mut Checker<'_>, at: &Path<'_>, route: &TlsRoute, spec: &VirtualService) {
    let list = at.field("match");
    if route.matches.is_empty() {
        on.error(Code::MissingField, &list, "a TLS route needs a `match`")
            .help("match: [{sniHosts: [HOST]}]");
    }
    for (index, matched) in route.matches.iter().enumerate() {
        let at = list.index(index);
        let names = at.field("sniHosts");
        if matched.sni_hosts.is_empty() {
            on.error(Code::MissingField, &names, "`sniHosts` is missing or empty")
                .help("name the hosts that clients ask for by SNI");
        }
        for (which, host) in matched.sni_hosts.iter().enumerate() {
            let at = names.index(which);
            if !on.host(&at, host, Hosts::Wildcards) {
                continue;
            }
            let full = on.qualify(host);
            if !spec.hosts.iter().any(|own| covers(&on.qualify(own), &full)) {
                on.error(
                    Code::InvalidHost,
                    &at,
                    format!("`{host}` is not among this resource's `hosts`"),
                )
                .help("add it to `hosts`, or remove it here");
            }
        }
        blocks(
            on,
            &at.field("destinationSubnets"),
            &matched.destination_subnets,
        );
        common(on, &at, matched.port, &matched.gateways);
    }
    destinations(on, &at.field("route"), &route.route);
}

fn tcp(on: &mut Checker<'_>, at: &Path<'_>, route: &TcpRoute) {
    let list = at.field("match");
    for (index, matched) in route.matches.iter().enumerate() {
        let at = list.index(index);
        blocks(
            on,
            &at.field("destinationSubnets"),
            &matched.destination_subnets,
        );
        if let Some(block) = &matched.source_subnet {
            on.block(&at.field("sourceSubnet"), block);
        }
        common(on, &at, matched.port, &matched.gateways);
    }
    destinations(on, &at.field("route"), &route.route);
}

fn blocks(on: &mut Checker<'_>, at: &Path<'_>, list: &[String]) {
    for (index, block) in list.iter().enumerate() {
        on.block(&at.index(index), block);
    }
}

/// What every kind of match has.
fn common(on: &mut Checker<'_>, at: &Path<'_>, port: Option<u16>, gateways: &[String]) {
    if let Some(port) = port {
        on.port(&at.field("port"), port);
    }
    if !in_mesh(gateways) {
        on.warning(
            Code::NoEffect,
            &at.field("gateways"),
            "without `mesh` in this list no sidecar uses the match",
        )
        .help("add `mesh`, or remove the list");
    }
}

fn destinations(on: &mut Checker<'_>, at: &Path<'_>, list: &[RouteDestination]) {
    if list.is_empty() {
        on.error(Code::MissingField, at, "this route leads nowhere")
            .help("add `route:` with a destination");
    }
    let weights: Vec<Option<i32>> = list.iter().map(|to| to.weight).collect();
    weighted(on, at, &weights);
    for (index, to) in list.iter().enumerate() {
        let at = at.index(index);
        destination(on, &at.field("destination"), &to.destination);
    }
}

/// Weights are shares of their sum.
fn weighted(on: &mut Checker<'_>, at: &Path<'_>, weights: &[Option<i32>]) {
    let mut sum: i64 = 0;
    for (index, weight) in weights.iter().enumerate() {
        let item = at.index(index);
        match weight {
            Some(weight) if *weight < 0 => {
                on.error(
                    Code::Weights,
                    &item.field("weight"),
                    format!("{weight} is not a share"),
                )
                .help("0 or more; shares are of the sum of all weights");
                return;
            }
            Some(weight) => sum += i64::from(*weight),
            None if weights.len() > 1 => {
                on.warning(
                    Code::Weights,
                    &item,
                    "without a weight beside others this destination gets no requests",
                )
                .help("add `weight:`, or remove the destination");
            }
            None => {}
        }
    }
    if weights.len() > 1 && sum == 0 {
        on.error(Code::Weights, at, "no destination has a weight")
            .help("give each destination its share: `weight: 50`");
    } else if weights.len() > 1 && sum != 100 {
        on.warning(
            Code::Weights,
            at,
            format!("the weights add up to {sum}; each is read as its share of {sum}"),
        )
        .help("make them add up to 100, so that they read as percentages");
    } else if let [Some(weight)] = weights
        && *weight != 100
    {
        on.warning(
            Code::Weights,
            &at.index(0).field("weight"),
            "a single destination gets every request, whatever its weight",
        )
        .help("remove the weight, or add the destination that gets the rest");
    }
}

/// A host that exists, a subset that some rule declares, a port that the service has.
fn destination(on: &mut Checker<'_>, at: &Path<'_>, to: &Destination) {
    let host = at.field("host");
    if !on.host(&host, &to.host, Hosts::Exact) {
        return;
    }
    let full = on.qualify(&to.host);
    let service = on.world.service(&full);
    if service.is_none() && on.world.complete {
        on.unknown_host(
            Severity::Error,
            &host,
            &to.host,
            "requests that come here get 503",
        );
    }
    if let Some(subset) = to.subset.as_deref().filter(|subset| !subset.is_empty()) {
        subset_of(on, &at.field("subset"), &full, subset);
    }
    let number = at.field("port");
    match (to.port, service) {
        (Some(port), Some(service)) => {
            let number = number.field("number");
            if on.port(&number, port.number) && service.port(port.number).is_none() {
                let ports: Vec<String> =
                    service.ports.iter().map(|p| p.number.to_string()).collect();
                on.error(
                    Code::UnknownPort,
                    &number,
                    format!("`{full}` has no port {}", port.number),
                )
                .help(format!("its ports are {}", ports.join(", ")));
            }
        }
        (Some(port), None) => {
            on.port(&number.field("number"), port.number);
        }
        (None, Some(service)) if service.ports.len() > 1 => {
            on.warning(
                Code::AmbiguousPort,
                at,
                format!(
                    "`{full}` has {} ports; the one that the client called is used, if it has that",
                    service.ports.len()
                ),
            )
            .help("add `port: {number: …}`");
        }
        (None, _) => {}
    }
}

fn subset_of(on: &mut Checker<'_>, at: &Path<'_>, full: &str, subset: &str) {
    let mut names: Vec<&str> = Vec::new();
    let mut any = false;
    for (_, rule) in on.world.rules(full) {
        any = true;
        names.extend(rule.subsets.iter().map(|subset| subset.name.as_str()));
    }
    if names.contains(&subset) {
        return;
    }
    let help = match crate::schema::nearest(subset, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if any => format!("add the subset `{subset}` to the DestinationRule of `{full}`"),
        None => format!("add a DestinationRule for `{full}` with the subset `{subset}`"),
    };
    on.error(
        Code::UnknownSubset,
        at,
        format!(
            "no DestinationRule gives `{full}` a subset `{subset}`; requests that come here get 503"
        ),
    )
    .help(help);
}
