//! Resources that are about the same thing: who wins, what happens to the other, and a warning that says so (R1.1).
//!
//! | overlap | what happens |
//! |---|---|
//! | VirtualServices of one host | routes are merged, the winner's first |
//! | DestinationRules of one host in one namespace | subsets are merged; of two with one name, and of two policies, the winner's counts |
//! | PeerAuthentications of one scope | the winner's counts |
//! | Sidecars of one scope | the winner's counts |
//! | ServiceEntries of one host, or one host of the mesh file | the winner's counts |
//! | Meshes | services are merged, the winner's settings count |

use std::collections::HashMap;

use super::{Conflict, Verdict, World};
use crate::diagnostic::Code;
use crate::intent::registry::qualify;
use crate::intent::selection::WorkloadSelector;
use crate::intent::{Object, Spec};
use crate::schema::{Path, Sink};

pub(super) fn check(world: &World<'_>, verdict: &mut Verdict) {
    let mut ordered: Vec<&Object> = world
        .objects
        .iter()
        .filter(|object| !verdict.invalid.contains(&object.key()))
        .collect();
    ordered.sort_by(|a, b| a.precedence(b));
    let mut seen = Seen {
        verdict,
        first: HashMap::new(),
    };
    // A mesh file's services come before ServiceEntries of the same host, whatever their age.
    for object in ordered.iter().filter(|o| matches!(o.spec, Spec::Mesh(_))) {
        claims(object, &mut seen, world);
    }
    for object in ordered.iter().filter(|o| !matches!(o.spec, Spec::Mesh(_))) {
        claims(object, &mut seen, world);
    }
}

/// What a claim is about; two equal ones overlap.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Claim {
    Mesh,
    Routes(String),
    Subset(String, String, Labels, String),
    Policy(String, String, Labels),
    Mtls(String, Labels),
    Scope(String, Labels),
    Host(String),
    HostPort(String, u16),
}

/// Of a selector; empty selects everything.
type Labels = Vec<(String, String)>;

fn labels(selector: Option<&WorkloadSelector>) -> Labels {
    selector
        .iter()
        .flat_map(|selector| selector.match_labels.clone())
        .collect()
}

struct Seen<'v, 'o> {
    verdict: &'v mut Verdict,
    first: HashMap<Claim, Vec<(&'o Object, String)>>,
}

fn claims<'o>(object: &'o Object, seen: &mut Seen<'_, 'o>, world: &World<'o>) {
    let spec = Path::ROOT.field("spec");
    let namespace = &object.namespace;
    match &object.spec {
        Spec::Mesh(mesh) => {
            let what = "the mesh; its settings count, the services of both are run";
            seen.claim(object, Claim::Mesh, what, &spec, "");
            let list = spec.field("services");
            for (index, service) in mesh.services.iter().enumerate() {
                let host = qualify(&service.name, service.namespace());
                let at = list.index(index);
                let over = format!("host {host}; it counts, this one does not");
                seen.claim(object, Claim::Host(host), &over, &at.field("name"), "");
            }
        }
        Spec::VirtualService(service) if service.in_mesh() => {
            let list = spec.field("hosts");
            for (index, host) in service.hosts.iter().enumerate() {
                let host = qualify(host, namespace);
                let what = format!("host {host}");
                let visible = visibility(&service.export_to, namespace);
                seen.claim(
                    object,
                    Claim::Routes(host),
                    &format!("{what}; its routes come before these"),
                    &list.index(index),
                    &visible,
                );
            }
        }
        Spec::VirtualService(_) => {}
        Spec::DestinationRule(rule) => {
            let host = qualify(&rule.host, namespace);
            let clients = labels(rule.workload_selector.as_ref());
            if rule.traffic_policy.is_some() {
                seen.claim(
                    object,
                    Claim::Policy(namespace.clone(), host.clone(), clients.clone()),
                    &format!("host {host}; its trafficPolicy counts, this one does not"),
                    &spec.field("trafficPolicy"),
                    "",
                );
            }
            let list = spec.field("subsets");
            for (index, subset) in rule.subsets.iter().enumerate() {
                let at = list.index(index);
                seen.claim(
                    object,
                    Claim::Subset(
                        namespace.clone(),
                        host.clone(),
                        clients.clone(),
                        subset.name.clone(),
                    ),
                    &format!(
                        "subset {} of host {host}; it counts, this one does not",
                        subset.name
                    ),
                    &at.field("name"),
                    "",
                );
            }
        }
        Spec::PeerAuthentication(policy) => {
            let labels = labels(policy.selector.as_ref());
            if !labels.is_empty() && *namespace == world.root_namespace {
                return;
            }
            seen.claim(
                object,
                Claim::Mtls(namespace.clone(), labels.clone()),
                &format!(
                    "{}; it counts, this one does not",
                    scope(namespace, &labels)
                ),
                &spec,
                "",
            );
        }
        Spec::Sidecar(sidecar) => {
            let labels: Labels = sidecar
                .workload_selector
                .iter()
                .flat_map(|selector| selector.labels.clone())
                .collect();
            seen.claim(
                object,
                Claim::Scope(namespace.clone(), labels.clone()),
                &format!(
                    "{}; it counts, this one does not",
                    scope(namespace, &labels)
                ),
                &spec,
                "",
            );
        }
        Spec::ServiceEntry(entry) => {
            let list = spec.field("hosts");
            for (index, host) in entry.hosts.iter().enumerate() {
                let host = qualify(host, namespace);
                let visible = visibility(&entry.export_to, namespace);
                protocols(object, seen, &host, &visible);
                seen.claim(
                    object,
                    Claim::Host(host.clone()),
                    &format!("host {host}; it counts, this one does not"),
                    &list.index(index),
                    &visible,
                );
            }
        }
        // Policies add up: there is no overlap to resolve.
        Spec::AuthorizationPolicy(_) => {}
    }
}

fn scope(namespace: &str, labels: &Labels) -> String {
    if labels.is_empty() {
        format!("namespace {namespace}")
    } else {
        "the same workloads".to_owned()
    }
}

/// One port of one host with two protocols is never what was meant.
fn protocols<'o>(object: &'o Object, seen: &mut Seen<'_, 'o>, host: &str, visible: &str) {
    let Spec::ServiceEntry(entry) = &object.spec else {
        return;
    };
    let spec = Path::ROOT.field("spec");
    let list = spec.field("ports");
    for (index, port) in entry.ports.iter().enumerate() {
        let claim = Claim::HostPort(host.to_owned(), port.number);
        let owner = seen.overlapping(&claim, visible);
        let other = owner.and_then(|owner| match &owner.spec {
            Spec::ServiceEntry(other) => other
                .ports
                .iter()
                .find(|other| other.number == port.number)
                .map(|other| (owner, other.protocol())),
            _ => None,
        });
        if let Some((owner, protocol)) = other.filter(|(_, p)| *p != port.protocol()) {
            let at = list.index(index);
            let mut sink = sink_of(object);
            sink.warning(
                Code::ProtocolConflict,
                &at,
                object.origin.locate(&at),
                format!(
                    "{} gives port {} of `{host}` another protocol, {protocol:?}",
                    owner.key(),
                    port.number
                ),
            )
            .help("make the two agree");
            seen.verdict.diagnostics.append(&mut sink.diagnostics);
        }
        seen.first
            .entry(claim)
            .or_default()
            .push((object, visible.to_owned()));
    }
}

/// Who sees a resource: empty is everybody, else the namespaces.
fn visibility(export_to: &[String], namespace: &str) -> String {
    match export_to {
        [] => String::new(),
        list if list.iter().any(|entry| entry == "*") => String::new(),
        list => {
            let names: Vec<&str> = list
                .iter()
                .map(|entry| if entry == "." { namespace } else { entry })
                .collect();
            names.join(",")
        }
    }
}

fn meet(a: &str, b: &str) -> bool {
    a.is_empty()
        || b.is_empty()
        || a.split(',')
            .any(|name| b.split(',').any(|other| other == name))
}

fn sink_of(object: &Object) -> Sink {
    let mut sink = Sink::new(object.origin.file.clone());
    sink.resource = object.key().to_string();
    sink
}

impl<'o> Seen<'_, 'o> {
    fn overlapping(&self, claim: &Claim, visible: &str) -> Option<&'o Object> {
        self.first
            .get(claim)?
            .iter()
            .find(|(_, other)| meet(other, visible))
            .map(|(object, _)| *object)
    }

    /// Registers a claim; if somebody was first, reports the conflict. `over` is what both are about and what happens.
    fn claim(
        &mut self,
        object: &'o Object,
        claim: Claim,
        over: &str,
        at: &Path<'_>,
        visible: &str,
    ) {
        if let Some(winner) = self.overlapping(&claim, visible)
            && winner.key() != object.key()
        {
            let mut sink = sink_of(object);
            sink.warning(
                Code::Conflict,
                at,
                object.origin.locate(at),
                format!("{} is also about {over}", winner.key()),
            )
            .help("merge the two; the older one wins, else the first by namespace and name")
            .related(
                &winner.origin.file,
                winner.origin.locate(&Path::ROOT.field("metadata")),
                "the one that wins",
            );
            self.verdict.diagnostics.append(&mut sink.diagnostics);
            let subject = over.split_once("; ").map_or(over, |(subject, _)| subject);
            self.verdict.conflicts.push(Conflict {
                loser: object.key(),
                winner: winner.key(),
                over: subject.to_owned(),
            });
        }
        self.first
            .entry(claim)
            .or_default()
            .push((object, visible.to_owned()));
    }
}
