//! Checks of a Sidecar.

use std::collections::BTreeSet;

use super::leaf::Hosts;
use super::{Checker, destination_rule};
use crate::diagnostic::{Code, Severity};
use crate::intent::Sidecar;
use crate::intent::registry::covers;
use crate::intent::selection::WorkloadSelector;
use crate::intent::sidecar::Import;
use crate::schema::Path;

pub(super) fn check(on: &mut Checker<'_>, spec: &Sidecar) {
    let root = Path::ROOT.field("spec");
    let selector = root.field("workloadSelector");
    if let Some(selected) = &spec.workload_selector {
        let labels = WorkloadSelector {
            match_labels: selected.labels.clone(),
        };
        on.labels(&selector.field("labels"), &labels);
    }
    egress(on, &root.field("egress"), spec);
    if !spec.ingress.is_empty() {
        on.warning(
            Code::NotSupportedYet,
            &root.field("ingress"),
            "`ingress` is not supported yet and is ignored",
        )
        .help("the inbound side follows the ports and target ports of the workload's service");
    }
    destination_rule::pool(
        on,
        &root.field("inboundConnectionPool"),
        spec.inbound_connection_pool.as_ref(),
    );
}

fn egress(on: &mut Checker<'_>, list: &Path<'_>, spec: &Sidecar) {
    let mut ports = BTreeSet::new();
    for (index, listener) in spec.egress.iter().enumerate() {
        let at = list.index(index);
        let number = listener.port.as_ref().map(|port| port.number);
        if let Some(number) = number {
            let port = at.field("port");
            on.port(&port.field("number"), number);
        }
        if !ports.insert(number) {
            let what = match number {
                Some(number) => format!("port {number}"),
                None => "all other ports".to_owned(),
            };
            on.error(
                Code::Conflict,
                &at,
                format!("an earlier listener is about {what} as well"),
            )
            .help("merge their `hosts`");
        }
        let hosts = at.field("hosts");
        if listener.hosts.is_empty() {
            on.error(Code::MissingField, &hosts, "`hosts` is missing or empty")
                .help("hosts: [\"./*\"], or [\"~/*\"] for none");
        }
        for (index, host) in listener.hosts.iter().enumerate() {
            import(on, &hosts.index(index), host);
        }
    }
}

fn import(on: &mut Checker<'_>, at: &Path<'_>, text: &str) {
    let Some(import) = Import::parse(text) else {
        on.error(
            Code::InvalidHost,
            at,
            format!("`{text}` is not of the form NAMESPACE/HOST"),
        )
        .help("such as ./*, shop/* or */api.example.com");
        return;
    };
    if !matches!(import.namespace, "" | "." | "*") && on.label(at, import.namespace, "a namespace")
    {
        on.in_use(at, import.namespace);
    }
    if import.host == "*" || !on.host(at, import.host, Hosts::Wildcards) {
        return;
    }
    if !import.host.contains('.') {
        on.error(
            Code::InvalidHost,
            at,
            format!("`{}` is not a full name", import.host),
        )
        .help(format!("write {}.NAMESPACE.svc.cluster.local", import.host));
        return;
    }
    let known = on
        .world
        .services
        .iter()
        .any(|service| covers(import.host, &service.host));
    if on.world.complete && !known {
        on.unknown_host(
            Severity::Warning,
            at,
            import.host,
            "until there is one, this entry brings in nothing",
        );
    }
}
