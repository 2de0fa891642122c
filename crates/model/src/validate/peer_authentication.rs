//! Checks of a PeerAuthentication.

use super::Checker;
use crate::diagnostic::Code;
use crate::intent::PeerAuthentication;
use crate::schema::Path;

pub(super) fn check(on: &mut Checker<'_>, spec: &PeerAuthentication) {
    let root = Path::ROOT.field("spec");
    let at = root.field("selector");
    let selected = spec
        .selector
        .as_ref()
        .filter(|selector| !selector.match_labels.is_empty());
    if let Some(selector) = selected {
        on.selector(&at, selector);
        if on.namespace() == on.world.root_namespace {
            on.warning(
                Code::NoEffect,
                &at,
                "in the root namespace a policy with a selector is ignored",
            )
            .help("put it into the workload's namespace, or remove the selector");
        }
    }
    let ports = root.field("portLevelMtls");
    let written = ports.value(&on.object.origin.tree).is_some();
    if written && selected.is_none() {
        on.error(
            Code::MissingField,
            &ports,
            "modes by port need a selector: they name ports of a workload",
        )
        .help("add `selector: {matchLabels: …}`");
    }
    if written && spec.port_level_mtls.is_empty() {
        on.error(Code::EmptyField, &ports, "`portLevelMtls` is empty")
            .help("remove it");
    }
    for key in spec.port_level_mtls.keys() {
        let at = ports.field(key);
        let Some(port) = key.parse::<u16>().ok().filter(|port| *port > 0) else {
            on.error(Code::InvalidPort, &at, format!("`{key}` is not a port"))
                .help("1 to 65535");
            continue;
        };
        let Some(selector) = selected.filter(|_| on.world.complete) else {
            continue;
        };
        let mut workloads = on.world.selected(on.namespace(), Some(selector)).peekable();
        let any = workloads.peek().is_some();
        let listens = workloads.any(|workload| {
            let service = on.world.service(&workload.service);
            service.is_some_and(|s| s.ports.iter().any(|own| own.target == port))
        });
        if any && !listens {
            on.warning(
                Code::UnknownPort,
                &at,
                format!("no selected workload listens on {port}"),
            )
            .help("this is the port that the workload listens on, not the service's");
        }
    }
}
