//! Mesh files and ServiceEntries → the services that routes refer to, under one shape and fully qualified.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::mesh::{Mesh, MeshService, Workload};
use super::service_entry::{Location, Resolution, ServiceEntry};
use super::workload_entry::WorkloadEntry;
use super::{Key, Object, Spec};
use crate::protocol::Protocol;

/// What short names are completed with.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// A host that callers can name, with one set of ports.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Fully qualified, lower case; a ServiceEntry may give a wildcard (`*.example.com`).
    pub host: Arc<str>,
    pub namespace: String,
    /// The part before the namespace, or the host itself for a ServiceEntry: Istio's `destination_service_name`.
    pub name: String,
    pub ports: Vec<Port>,
    pub labels: BTreeMap<String, String>,
    /// Addresses that were written; empty means one is allocated.
    pub addresses: Vec<IpNet>,
    pub headless: bool,
    pub resolution: Resolution,
    pub location: Location,
    pub backing: Backing,
    /// What a TLS peer must prove beside its place in the mesh; empty is the rule's or the host's own.
    pub subject_alt_names: Vec<String>,
    /// Namespaces that see it; empty is all.
    pub export_to: Vec<String>,
    /// The resource it was declared in.
    pub declared: Key,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub number: u16,
    pub name: String,
    pub protocol: Protocol,
    /// Where the workload listens.
    pub target: u16,
}

/// Where its endpoints come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Backing {
    /// Workloads that join it: those of the mesh file, and any that `ripstop run` adds.
    Workloads,
    /// Listed by hand; none for `NONE`, and for DNS where the host itself is resolved.
    Endpoints(Vec<WorkloadEntry>),
}

impl Service {
    pub fn port(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Adds the ports that workloads of the same service bring and it lacks; of a host that has its endpoints listed, nothing.
    pub fn join(&mut self, other: &Service) {
        if self.backing != Backing::Workloads || other.backing != self.backing {
            return;
        }
        for port in &other.ports {
            if self.port(port.number).is_none() {
                self.ports.push(port.clone());
            }
        }
    }

    /// `name.namespace.svc.cluster.local`.
    pub fn of_mesh(service: &MeshService, declared: Key) -> Service {
        Service {
            host: qualify(&service.name, service.namespace()).into(),
            namespace: service.namespace().to_owned(),
            name: service.name.clone(),
            ports: service
                .ports
                .iter()
                .map(|port| Port {
                    number: port.port,
                    name: port
                        .name
                        .clone()
                        .unwrap_or_else(|| format!("port-{}", port.port)),
                    protocol: port.protocol(),
                    target: port.target(),
                })
                .collect(),
            labels: service.labels.clone(),
            addresses: Vec::new(),
            headless: service.headless.unwrap_or(false),
            resolution: Resolution::Static,
            location: Location::MeshInternal,
            backing: Backing::Workloads,
            subject_alt_names: Vec::new(),
            export_to: Vec::new(),
            declared,
        }
    }

    /// One service a host of the entry.
    pub fn of_entry<'e>(
        entry: &'e ServiceEntry,
        object: &'e Object,
    ) -> impl Iterator<Item = Service> + 'e {
        let resolution = entry.resolution.unwrap_or(Resolution::None);
        entry.hosts.iter().map(move |host| Service {
            host: qualify(host, &object.namespace).into(),
            namespace: object.namespace.clone(),
            name: host.to_ascii_lowercase(),
            ports: entry
                .ports
                .iter()
                .map(|port| Port {
                    number: port.number,
                    name: port.name.clone(),
                    protocol: port.protocol(),
                    target: port.target_port.unwrap_or(port.number),
                })
                .collect(),
            labels: object.labels.clone(),
            addresses: entry.addresses.clone(),
            headless: false,
            resolution,
            location: entry.location.unwrap_or(Location::MeshExternal),
            backing: Backing::Endpoints(entry.endpoints.clone()),
            subject_alt_names: entry.subject_alt_names.clone(),
            export_to: entry.export_to.clone(),
            declared: object.key(),
        })
    }
}

/// Every service that `objects` declare, in their order. A host that is declared twice appears twice; the first counts.
pub fn services<'o>(objects: impl IntoIterator<Item = &'o Object>) -> Vec<Service> {
    let mut services = Vec::new();
    for object in objects {
        match &object.spec {
            Spec::Mesh(mesh) => services.extend(
                mesh.services
                    .iter()
                    .map(|service| Service::of_mesh(service, object.key())),
            ),
            Spec::ServiceEntry(entry) => services.extend(Service::of_entry(entry, object)),
            Spec::VirtualService(_)
            | Spec::DestinationRule(_)
            | Spec::Sidecar(_)
            | Spec::PeerAuthentication(_)
            | Spec::AuthorizationPolicy(_) => {}
        }
    }
    services
}

/// Every workload of a mesh file with its service.
pub fn workloads(mesh: &Mesh) -> impl Iterator<Item = (&MeshService, &Workload)> {
    mesh.services.iter().flat_map(|service| {
        service
            .workloads
            .iter()
            .map(move |workload| (service, workload))
    })
}

/// A host as a resource in `namespace` means it: a name without a dot gets that namespace and the cluster domain
/// (Istio's short-name rule); everything else is a full name. Lower case, no trailing dot.
pub fn qualify(host: &str, namespace: &str) -> String {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if host.contains('.') || host == "*" || host.is_empty() {
        return host;
    }
    format!("{host}.{namespace}.svc.{CLUSTER_DOMAIN}")
}

/// Whether `pattern` (a name, `*`, or `*.suffix`) covers `host`, which may itself be a wildcard.
pub fn covers(pattern: &str, host: &str) -> bool {
    if pattern == host || pattern == "*" {
        return true;
    }
    match pattern.strip_prefix('*') {
        Some(suffix) if suffix.starts_with('.') => {
            let host = host.strip_prefix('*').unwrap_or(host);
            host.len() > suffix.len() && host.ends_with(suffix)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names() {
        assert_eq!(qualify("reviews", "shop"), "reviews.shop.svc.cluster.local");
        assert_eq!(qualify("Reviews.shop.", "x"), "reviews.shop");
        assert_eq!(qualify("*", "x"), "*");
    }

    #[test]
    fn wildcards() {
        assert!(covers("*.example.com", "a.example.com"));
        assert!(covers("*.example.com", "a.b.example.com"));
        assert!(!covers("*.example.com", "example.com"));
        assert!(covers("*", "x"));
        assert!(covers("*.com", "*.example.com"));
        assert!(!covers("a.com", "b.com"));
    }
}
