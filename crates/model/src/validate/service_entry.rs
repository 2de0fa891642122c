//! Checks of a ServiceEntry.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Checker;
use super::leaf::Hosts;
use crate::diagnostic::{Code, Severity};
use crate::intent::ServiceEntry;
use crate::intent::service_entry::{Resolution, ServicePort};
use crate::intent::workload_entry::WorkloadEntry;
use crate::protocol::Protocol;
use crate::schema::{Path, nearest};

/// Bounds of Istio's CRD.
const MAX_HOSTS: usize = 256;
const MAX_PORTS: usize = 256;
const MAX_ENDPOINTS: usize = 4096;

pub(super) fn check(on: &mut Checker<'_>, spec: &ServiceEntry) {
    let root = Path::ROOT.field("spec");
    let resolution = spec.resolution.unwrap_or(Resolution::None);
    hosts(on, &root, spec, resolution);
    on.export_to(&root.field("exportTo"), &spec.export_to);
    let list = root.field("addresses");
    for (index, net) in spec.addresses.iter().enumerate() {
        let at = list.index(index);
        on.host_bits(&at, *net, Severity::Warning);
        let single = net.prefix_len() == net.max_prefix_len();
        if !single && !matches!(resolution, Resolution::None | Resolution::Static) {
            on.error(
                Code::InvalidAddress,
                &at,
                "a block cannot be the address of hosts that are resolved by DNS",
            )
            .help("use resolution NONE or STATIC, or single addresses");
        }
    }
    let list = root.field("ports");
    bounded(on, &list, spec.ports.len(), MAX_PORTS);
    if spec.ports.is_empty() {
        on.error(Code::MissingField, &list, "`ports` is missing or empty")
            .help("ports: [{number: 443, name: tls, protocol: TLS}]");
    }
    let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in spec.ports.iter().enumerate() {
        let at = list.index(index);
        if !numbers.insert(port.number) {
            on.error(
                Code::PortConflict,
                &at.field("number"),
                format!("port {} is listed twice", port.number),
            )
            .help("remove one of them");
        }
        if !names.insert(port.name.as_str()) {
            on.error(
                Code::PortConflict,
                &at.field("name"),
                format!("there are two ports `{}`", port.name),
            )
            .help("rename one of them");
        }
        service_port(on, &at, port);
    }
    let list = root.field("endpoints");
    bounded(on, &list, spec.endpoints.len(), MAX_ENDPOINTS);
    for (index, endpoint) in spec.endpoints.iter().enumerate() {
        target(on, &list.index(index), endpoint, resolution, &names);
    }
    endpoints(on, &root, spec, resolution);
}

fn bounded(on: &mut Checker<'_>, at: &Path<'_>, count: usize, most: usize) {
    if count > most {
        on.error(
            Code::TooLarge,
            at,
            format!("{count} entries; at most {most} are allowed"),
        )
        .help("split the resource");
    }
}

fn hosts(on: &mut Checker<'_>, root: &Path<'_>, spec: &ServiceEntry, resolution: Resolution) {
    let list = root.field("hosts");
    bounded(on, &list, spec.hosts.len(), MAX_HOSTS);
    if spec.hosts.is_empty() {
        on.error(Code::MissingField, &list, "`hosts` is missing or empty")
            .help("name the hosts that callers use");
    }
    for (index, host) in spec.hosts.iter().enumerate() {
        let at = list.index(index);
        if host == "*" {
            on.error(
                Code::InvalidHost,
                &at,
                "`*` would make every outside address this service",
            )
            .help("list the hosts, or use a suffix such as `*.example.com`");
            continue;
        }
        if !on.host(&at, host, Hosts::Wildcards) {
            continue;
        }
        let by_dns = matches!(resolution, Resolution::Dns | Resolution::DnsRoundRobin);
        if host.starts_with('*') && by_dns && spec.endpoints.is_empty() {
            on.error(
                Code::InvalidHost,
                &at,
                "a wildcard cannot be resolved by DNS",
            )
            .help("list the hosts, give endpoints, or use resolution NONE");
        }
    }
}

fn service_port(on: &mut Checker<'_>, at: &Path<'_>, port: &ServicePort) {
    on.port(&at.field("number"), port.number);
    on.label(&at.field("name"), &port.name, "the name of a port");
    if let Some(target) = port.target_port {
        on.port(&at.field("targetPort"), target);
    }
    if let Some(protocol) = &port.protocol
        && Protocol::named(protocol).is_none()
    {
        const NAMES: &[&str] = &["HTTP", "HTTPS", "GRPC", "HTTP2", "MONGO", "TCP", "TLS"];
        let help = match nearest(protocol, NAMES.iter().copied()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("one of {}", NAMES.join(", ")),
        };
        on.error(
            Code::InvalidValue,
            &at.field("protocol"),
            format!("`{protocol}` is not a protocol"),
        )
        .help(help);
    }
}

fn target(
    on: &mut Checker<'_>,
    at: &Path<'_>,
    endpoint: &WorkloadEntry,
    resolution: Resolution,
    names: &BTreeSet<&str>,
) {
    let address = at.field("address");
    let by_name = matches!(resolution, Resolution::Dns | Resolution::DnsRoundRobin);
    if endpoint.address.starts_with("unix:") {
        on.error(
            Code::NotSupportedYet,
            &address,
            "Unix sockets as endpoints are not supported yet",
        )
        .help("listen on 127.0.0.1");
    } else if endpoint.address.parse::<IpAddr>().is_err() {
        if by_name {
            on.host(&address, &endpoint.address, Hosts::Exact);
        } else {
            on.error(
                Code::InvalidAddress,
                &address,
                format!("`{}` is not an IP address", endpoint.address),
            )
            .help("use `resolution: DNS` for names");
        }
    }
    let ports = at.field("ports");
    for (name, port) in &endpoint.ports {
        let at = ports.field(name);
        on.port(&at, *port);
        if !names.contains(name.as_str()) {
            let help = match nearest(name, names.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "the keys are the names under the entry's `ports`".to_owned(),
            };
            on.error(
                Code::InvalidPort,
                &at,
                format!("the entry has no port called `{name}`"),
            )
            .help(help);
        }
    }
    if let Some(locality) = &endpoint.locality {
        let parts = locality.split('/').count();
        if parts > 3 || locality.split('/').any(str::is_empty) {
            on.error(
                Code::InvalidValue,
                &at.field("locality"),
                format!("`{locality}` is not a locality"),
            )
            .help("region/zone/subzone");
        }
    }
}

fn endpoints(on: &mut Checker<'_>, root: &Path<'_>, spec: &ServiceEntry, resolution: Resolution) {
    let at = root.field("endpoints");
    match (resolution, spec.endpoints.len()) {
        (Resolution::None, count) if count > 0 => {
            on.error(
                Code::Exclusive,
                &at,
                "with resolution NONE the client's own address is used, not the endpoints",
            )
            .help("use `resolution: STATIC` or DNS");
        }
        (Resolution::Static, 0) => {
            on.error(Code::MissingField, &at, "resolution STATIC needs endpoints")
                .help("endpoints: [{address: 192.0.2.7}]");
        }
        (Resolution::DnsRoundRobin, count) if count > 1 => {
            on.error(
                Code::InvalidValue,
                &at,
                "resolution DNS_ROUND_ROBIN takes at most one endpoint",
            )
            .help("use `resolution: DNS`");
        }
        _ => {}
    }
}
