//! Checks of a mesh file.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Checker;
use crate::diagnostic::{Code, Severity};
use crate::intent::Mesh;
use crate::intent::mesh::{AddressRanges, CAPTURE_PORTS, MeshPort, MeshService, Publish, Workload};
use crate::protocol::Protocol;
use crate::schema::{Path, nearest};
use crate::spiffe::Spiffe;

/// More on one machine is a slip of the pen.
const MAX_REPLICAS: u32 = 200;

pub(super) fn check(on: &mut Checker<'_>, spec: &Mesh) {
    let root = Path::ROOT.field("spec");
    let metadata = Path::ROOT.field("metadata");
    let name = on.object.name.clone();
    on.label(&metadata.field("name"), &name, "the name of a mesh");
    if let Some(domain) = &spec.trust_domain
        && Spiffe::new(domain, "default", "default").is_err()
    {
        on.error(
            Code::InvalidName,
            &root.field("trustDomain"),
            format!("`{domain}` is not a trust domain"),
        )
        .help("lower-case letters, digits, dots, dashes and underscores, such as cluster.local");
    }
    if let Some(namespace) = &spec.root_namespace {
        on.label(&root.field("rootNamespace"), namespace, "a namespace");
    }
    if let Some(ranges) = &spec.addresses {
        addresses(on, &root.field("addresses"), ranges);
    }
    if let Some(tracing) = &spec.tracing {
        let at = root.field("tracing");
        if let Some(percent) = tracing.sampling {
            on.percent(&at.field("sampling"), percent);
        }
        let known = |url: &str| {
            ["http://", "https://", "grpc://"].iter().any(|scheme| {
                url.strip_prefix(scheme)
                    .is_some_and(|rest| !rest.is_empty())
            })
        };
        if let Some(url) = tracing.otlp.as_deref().filter(|url| !known(url)) {
            on.error(
                Code::InvalidValue,
                &at.field("otlp"),
                format!("`{url}` is not the address of a collector"),
            )
            .help("http://HOST:4318 for OTLP over HTTP, grpc://HOST:4317 for gRPC");
        }
    }
    services(on, &root.field("services"), &spec.services);
}

fn services(on: &mut Checker<'_>, list: &Path<'_>, services: &[MeshService]) {
    let mut names = BTreeSet::new();
    let mut workloads: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut published: Vec<(Publish, &str)> = Vec::new();
    for (index, service) in services.iter().enumerate() {
        let at = list.index(index);
        on.label(&at.field("name"), &service.name, "the name of a service");
        if let Some(namespace) = &service.namespace {
            on.label(&at.field("namespace"), namespace, "a namespace");
        }
        if !names.insert((service.namespace(), service.name.as_str())) {
            on.error(
                Code::DuplicateResource,
                &at.field("name"),
                format!("the service `{}` is declared twice", service.name),
            )
            .help("merge the two, or give one another namespace");
        }
        ports(on, &at.field("ports"), service);
        for (which, port) in service.ports.iter().enumerate() {
            let Some(publish) = port.publish else {
                continue;
            };
            let ports = at.field("ports");
            let port = ports.index(which);
            let at = port.field("publish");
            on.port(&at, publish.port);
            let taken = published.iter().find(|(other, _)| clash(*other, publish));
            if let Some((_, owner)) = taken {
                on.error(
                    Code::PortConflict,
                    &at,
                    format!("{publish} is already published by `{owner}`"),
                )
                .help("publish it on another port");
            }
            published.push((publish, &service.name));
        }
        let list = at.field("workloads");
        for (which, workload) in service.workloads.iter().enumerate() {
            let at = list.index(which);
            if !workloads.insert((service.namespace(), workload.name(service))) {
                on.error(
                    Code::DuplicateResource,
                    &at.field("name"),
                    format!(
                        "there are two workloads `{}` in `{}`",
                        workload.name(service),
                        service.namespace()
                    ),
                )
                .help("give each a name of its own");
            }
            check_workload(on, &at, workload, service);
        }
    }
}

/// Two listeners that cannot both exist; a wildcard address takes the port everywhere.
fn clash(a: Publish, b: Publish) -> bool {
    let any = |address: IpAddr| address.is_unspecified();
    a.port == b.port && (a.address == b.address || any(a.address) || any(b.address))
}

fn ports(on: &mut Checker<'_>, list: &Path<'_>, service: &MeshService) {
    let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
    let mut targets: BTreeMap<u16, &MeshPort> = BTreeMap::new();
    for (index, port) in service.ports.iter().enumerate() {
        let at = list.index(index);
        on.port(&at.field("port"), port.port);
        if let Some(target) = port.target_port {
            on.port(&at.field("targetPort"), target);
        }
        if CAPTURE_PORTS.contains(&port.target()) {
            let field = match port.target_port {
                Some(_) => "targetPort",
                None => "port",
            };
            on.error(
                Code::PortConflict,
                &at.field(field),
                format!("{} is the sidecar's own inside a workload", port.target()),
            )
            .help("let the application listen on another port, and name that one as `targetPort`");
        }
        if !numbers.insert(port.port) {
            on.error(
                Code::PortConflict,
                &at.field("port"),
                format!("`{}` has port {} twice", service.name, port.port),
            )
            .help("remove one of them");
        }
        if let Some(name) = &port.name {
            on.label(&at.field("name"), name, "the name of a port");
            if !names.insert(name.as_str()) {
                on.error(
                    Code::PortConflict,
                    &at.field("name"),
                    format!("`{}` has two ports `{name}`", service.name),
                )
                .help("names of ports are unique in a service: http-api, http-admin");
            }
        }
        if let Some(protocol) = &port.protocol
            && Protocol::named(protocol).is_none()
        {
            let known = ["http", "http2", "grpc", "grpc-web", "https", "tls", "tcp"];
            let help = match nearest(protocol, known) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("one of {}; leave it out to detect it", known.join(", ")),
            };
            on.error(
                Code::InvalidValue,
                &at.field("protocol"),
                format!("`{protocol}` is not a protocol"),
            )
            .help(help);
        }
        match targets.get(&port.target()) {
            Some(other) if other.protocol() != port.protocol() => {
                on.error(
                    Code::ProtocolConflict,
                    &at,
                    format!(
                        "ports {} and {} lead to {} with different protocols",
                        other.port,
                        port.port,
                        port.target()
                    ),
                )
                .help(
                    "one port of a workload speaks one protocol: use the same prefix in both names",
                );
            }
            Some(_) => {}
            None => {
                targets.insert(port.target(), port);
            }
        }
    }
}

fn check_workload(on: &mut Checker<'_>, at: &Path<'_>, workload: &Workload, service: &MeshService) {
    if let Some(name) = &workload.name {
        on.label(&at.field("name"), name, "the name of a workload");
    }
    if let Some(account) = &workload.service_account {
        on.label(&at.field("serviceAccount"), account, "a service account");
    }
    if workload.replicas() > MAX_REPLICAS {
        on.error(
            Code::TooLarge,
            &at.field("replicas"),
            format!(
                "{} replicas; at most {MAX_REPLICAS} are started",
                workload.replicas()
            ),
        )
        .help("lower the number");
    }
    if workload.user.as_deref() == Some("") {
        on.error(Code::EmptyField, &at.field("user"), "the user is empty")
            .help("remove it to run as the caller");
    }
    let env = at.field("env");
    for (name, value) in &workload.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.0.contains('\0') {
            on.report_key(
                Severity::Error,
                Code::InvalidName,
                &env.field(name),
                "this cannot be an environment variable",
            )
            .help("a name without `=`, a value without NUL");
        }
    }
    let command = at.field("command");
    for (index, word) in workload.command.0.iter().enumerate() {
        if word.contains('\0') {
            on.error(
                Code::InvalidValue,
                &command.index(index),
                "an argument cannot hold NUL",
            )
            .help("remove the character");
        }
    }
    let list = at.field("hostPorts");
    for (index, port) in workload.host_ports.iter().enumerate() {
        let at = list.index(index);
        on.port(&at, *port);
        if service.ports.iter().any(|own| own.target() == *port) {
            on.error(
                Code::PortConflict,
                &at,
                format!("the application itself listens on {port}, which would shadow the host's"),
            )
            .help("move the application to another targetPort");
        }
    }
    readiness(on, &at.field("readiness"), workload, service);
}

fn readiness(on: &mut Checker<'_>, at: &Path<'_>, workload: &Workload, service: &MeshService) {
    let Some(readiness) = &workload.readiness else {
        return;
    };
    on.at_least_1ms(&at.field("interval"), readiness.interval);
    on.at_least_1ms(&at.field("timeout"), readiness.timeout);
    let (field, port) = match (&readiness.http, &readiness.tcp) {
        (Some(http), _) => {
            let at = at.field("http");
            if !http.path.starts_with('/') {
                on.error(
                    Code::InvalidValue,
                    &at.field("path"),
                    format!("`{}` is not a path", http.path),
                )
                .help(format!("write `/{}`", http.path));
            }
            ("http", http.port)
        }
        (None, Some(tcp)) => ("tcp", tcp.port),
        (None, None) => return,
    };
    let probe = at.field(field);
    if let Some(port) = port {
        on.port(&probe.field("port"), port);
    } else if service.ports.is_empty() {
        on.error(
            Code::MissingField,
            &probe,
            "there is no port to probe: the service has none",
        )
        .help("add `port:` here");
    }
}

fn addresses(on: &mut Checker<'_>, at: &Path<'_>, ranges: &AddressRanges) {
    let v4 = |net: Option<ipnet::Ipv4Net>, default| IpNet::V4(net.unwrap_or(default));
    let v6 = |net: Option<ipnet::Ipv6Net>, default| IpNet::V6(net.unwrap_or(default));
    let all = [
        ("vipsV4", v4(ranges.vips_v4, AddressRanges::VIPS_V4)),
        ("vipsV6", v6(ranges.vips_v6, AddressRanges::VIPS_V6)),
        (
            "workloadsV4",
            v4(ranges.workloads_v4, AddressRanges::WORKLOADS_V4),
        ),
        (
            "workloadsV6",
            v6(ranges.workloads_v6, AddressRanges::WORKLOADS_V6),
        ),
        ("transport", v4(ranges.transport, AddressRanges::TRANSPORT)),
    ];
    for (index, (field, net)) in all.iter().enumerate() {
        let at = at.field(field);
        on.host_bits(&at, *net, Severity::Error);
        for (other, earlier) in all.iter().take(index) {
            if net.contains(earlier) || earlier.contains(net) {
                on.error(
                    Code::Conflict,
                    &at,
                    format!("{net} overlaps `{other}`, {earlier}"),
                )
                .help("each kind of address needs a block of its own");
            }
        }
    }
    if let Some(net) = ranges.transport
        && !net.addr().is_loopback()
    {
        on.error(
            Code::InvalidAddress,
            &at.field("transport"),
            format!("{net} is not on the loopback interface"),
        )
        .help("a block of 127.0.0.0/8");
    }
}
