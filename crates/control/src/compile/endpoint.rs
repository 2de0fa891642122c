//! Workloads and listed endpoints → the members of a cluster, as one client reaches them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ripstop_model::defaults::envoy;
use ripstop_model::intent::registry::{Backing, Port};
use ripstop_model::intent::service_entry::{Location, Resolution};
use ripstop_model::intent::workload_entry::WorkloadEntry;
use ripstop_model::snapshot::Name;
use ripstop_model::snapshot::endpoint::{
    Endpoint, Endpoints, Group, Health, Locality, Target as Address, Workload,
};

use super::service::Target;
use super::{cluster, identity, rule};
use crate::api::message::Readiness;
use crate::registry::{Member, Present};
use crate::view::{self, Known, View};

/// The `ClusterLoadAssignment` of an EDS cluster; `None` where there is no such cluster.
pub(super) fn of_cluster(view: &View<'_>, name: &Name) -> Option<Endpoints> {
    let (number, subset, host) = view::parse_cluster(name)?;
    let target = Target::named(view, host)?;
    let known = target.known;
    let port = known.service.port(number)?;
    if known.resolution != Resolution::Static || !view.reaches(known, number) {
        return None;
    }
    let rule = rule::rule(view, known);
    let labels = match subset {
        "" => None,
        subset => Some(rule.as_ref()?.subset_labels(subset)?),
    };
    let entries = match &known.backing {
        Backing::Endpoints(entries) => {
            return Some(of_entries(name, known, port, labels, entries));
        }
        Backing::Workloads => view.workloads.of_service(&known.host),
    };
    let endpoints = entries
        .filter(|present| {
            let only = target.workload.map(|only| &only.member.id);
            present.is_listed() && only.is_none_or(|only| *only == present.member.id)
        })
        .filter(|present| labels.is_none_or(|labels| carries(&present.member.labels, labels)))
        .filter_map(|present| of_workload(view, known, port, present))
        .collect();
    Some(assignment(
        name,
        vec![Group {
            endpoints,
            ..Group::default()
        }],
    ))
}

fn assignment(name: &Name, groups: Vec<Group>) -> Endpoints {
    Endpoints {
        name: name.clone(),
        groups: groups
            .into_iter()
            .filter(|group| !group.endpoints.is_empty())
            .collect(),
        overprovisioning: envoy::OVERPROVISIONING,
    }
}

fn carries(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// `None`: the client cannot reach it, or it does not serve the port.
fn of_workload(view: &View<'_>, known: &Known, port: &Port, present: &Present) -> Option<Endpoint> {
    let member = &present.member;
    let target = target_port(member, port)?;
    let on = member.transport_ports().get(&target).copied()?;
    let address = if member.host == view.client.host {
        SocketAddr::new(member.addresses.transport.into(), on)
    } else {
        SocketAddr::new(member.advertise?, *member.advertised.get(&target)?)
    };
    let transport = if identity::accepts_mtls(view, member, target) {
        identity::tls_mode()
    } else {
        BTreeMap::new()
    };
    Some(Endpoint {
        address: Address::Socket(address),
        weight: 1,
        health: match present.readiness {
            Readiness::Draining => Health::Draining,
            Readiness::Ready | Readiness::Starting | Readiness::Unready => Health::Healthy,
        },
        hostname: None,
        transport,
        labels: member.labels.clone(),
        workload: Some(Arc::new(workload(member, known))),
    })
}

/// The member's own declaration of the port beats the service's.
fn target_port(member: &Member, port: &Port) -> Option<u16> {
    let own = member.ports.iter().find(|own| own.port == port.number);
    own.map(crate::api::message::Port::target).or_else(|| {
        member
            .targets()
            .contains(&port.target)
            .then_some(port.target)
    })
}

/// What logs and labels say of a member. Canonical names as Istio derives them: the label, else `app`, else the workload.
pub(crate) fn workload(member: &Member, known: &Known) -> Workload {
    let label = |keys: &[&str], default: &str| -> Arc<str> {
        let found = keys.iter().find_map(|key| member.labels.get(*key));
        found.map_or(default, String::as_str).into()
    };
    Workload {
        name: member.workload.clone(),
        namespace: member.namespace.clone(),
        service_account: member.service_account.clone(),
        app: label(&["app", "app.kubernetes.io/name"], &known.name),
        version: label(&["version", "app.kubernetes.io/version"], ""),
        canonical_service: label(
            &[
                "service.istio.io/canonical-name",
                "app.kubernetes.io/name",
                "app",
            ],
            &member.workload,
        ),
        canonical_revision: label(
            &[
                "service.istio.io/canonical-revision",
                "app.kubernetes.io/version",
                "version",
            ],
            "latest",
        ),
        cluster: view::CLUSTER_ID.into(),
        address: Some(IpAddr::V4(member.addresses.v4)),
    }
}

/// The endpoints that a ServiceEntry lists.
pub(super) fn of_entries(
    name: &Name,
    known: &Known,
    port: &Port,
    labels: Option<&BTreeMap<String, String>>,
    entries: &[WorkloadEntry],
) -> Endpoints {
    let mut groups: Vec<Group> = Vec::new();
    for entry in entries {
        if labels.is_some_and(|labels| !carries(&entry.labels, labels)) {
            continue;
        }
        let locality = locality(entry.locality.as_deref());
        let endpoint = of_entry(known, port, entry);
        match groups.iter_mut().find(|group| group.locality == locality) {
            Some(group) => group.endpoints.push(endpoint),
            None => groups.push(Group {
                locality,
                endpoints: vec![endpoint],
                ..Group::default()
            }),
        }
    }
    assignment(name, groups)
}

fn of_entry(known: &Known, port: &Port, entry: &WorkloadEntry) -> Endpoint {
    let number = entry.ports.get(&port.name).copied().unwrap_or(port.target);
    // An entry says by this label that a sidecar is in front of it.
    let mesh = known.location == Location::MeshInternal
        && entry
            .labels
            .get("security.istio.io/tlsMode")
            .map(String::as_str)
            == Some("istio");
    let address = cluster::address(&entry.address, number);
    Endpoint {
        hostname: match &address {
            Address::Name { host, .. } => Some(host.clone()),
            Address::Socket(_) | Address::Pipe(_) => None,
        },
        address,
        weight: entry.weight.unwrap_or(1).max(1),
        health: Health::Healthy,
        transport: if mesh {
            identity::tls_mode()
        } else {
            BTreeMap::new()
        },
        labels: entry.labels.clone(),
        workload: entry.service_account.as_ref().map(|account| {
            Arc::new(Workload {
                namespace: known.namespace.as_str().into(),
                service_account: account.as_str().into(),
                cluster: view::CLUSTER_ID.into(),
                address: entry.address.parse().ok(),
                ..Workload::default()
            })
        }),
    }
}

fn locality(text: Option<&str>) -> Locality {
    let mut parts = text.unwrap_or_default().split('/').map(str::to_owned);
    Locality {
        region: parts.next().unwrap_or_default(),
        zone: parts.next().unwrap_or_default(),
        sub_zone: parts.next().unwrap_or_default(),
    }
}
