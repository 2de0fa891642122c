//! View → Snapshot: what one proxy runs, resolved, defaults filled in. Pure: no clock, no store, no other argument.
//!
//! Each resource can be compiled by its name alone, so a sidecar that uses five services costs five services; a stock Envoy gets
//! all names its view has.
//!
//! ```text
//! service.rs   service → Host, outbound listeners
//! route.rs     VirtualServices → the RouteConfiguration of a service port; tcp and tls routes
//! rule.rs      DestinationRules → the one that is followed for a host
//! cluster.rs   services and their rules → clusters
//! endpoint.rs  workloads → the members of a cluster (the fast lane compiles these alone)
//! inbound.rs   the client's own ports → inbound listeners and clusters
//! identity.rs  PeerAuthentication → accepted transports; TLS contexts of the mesh
//! policy.rs    AuthorizationPolicy → RBAC filters
//! ```

use std::sync::Arc;

use ripstop_model::snapshot::{Cluster, Endpoints, Listener, Name, RouteConfig, Snapshot};

use crate::view::{self, Scope, View, Wanted};

mod cluster;
pub(crate) mod endpoint;
mod http;
mod identity;
mod inbound;
mod policy;
mod route;
mod rule;
mod service;

pub use identity::Mode;
pub(crate) use identity::mode;

/// To the address the client asked for.
pub const PASSTHROUGH: &str = "PassthroughCluster";
/// To nowhere.
pub const BLACK_HOLE: &str = "BlackHoleCluster";
/// To the application, on a port that nobody declared.
pub const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";
/// The OTLP collector of the mesh settings.
pub const OTLP: &str = "ripstop.otlp";

pub fn compile(view: &View<'_>) -> Snapshot {
    let all;
    let wanted = match view.scope {
        Scope::Named(wanted) => wanted,
        Scope::All => {
            all = everything(view);
            &all
        }
    };
    let mut snapshot = Snapshot {
        ranges: view.mesh.ranges.clone(),
        ..Snapshot::default()
    };
    for name in &wanted.hosts {
        if let Some(host) = service::host(view, name) {
            snapshot.hosts.insert(name.clone(), Arc::new(host));
        }
    }
    for name in &wanted.listeners {
        if let Some(listener) = listener(view, name) {
            snapshot.listeners.insert(name.clone(), Arc::new(listener));
        }
    }
    for name in &wanted.routes {
        if let Some(route) = route(view, name) {
            snapshot.routes.insert(name.clone(), Arc::new(route));
        }
    }
    for name in &wanted.clusters {
        if let Some(cluster) = cluster(view, name) {
            snapshot.clusters.insert(name.clone(), Arc::new(cluster));
        }
    }
    snapshot.endpoints = endpoints(view, wanted.endpoints.iter());
    snapshot
}

/// The fast lane: members of clusters, without anything else.
pub fn endpoints<'n>(
    view: &View<'_>,
    names: impl Iterator<Item = &'n Name>,
) -> std::collections::BTreeMap<Name, Arc<Endpoints>> {
    names
        .filter_map(|name| Some((name.clone(), Arc::new(endpoint::of_cluster(view, name)?))))
        .collect()
}

fn listener(view: &View<'_>, name: &Name) -> Option<Listener> {
    if **name == *service::VIRTUAL_OUTBOUND {
        return Some(service::virtual_outbound(view));
    }
    match view::parse_listener(name) {
        Some((address, port)) => service::outbound(view, name, address, port),
        None => inbound::listener(view, name),
    }
}

fn route(view: &View<'_>, name: &Name) -> Option<RouteConfig> {
    let (port, host) = view::parse_route(name)?;
    route::config(view, name, port, host)
}

fn cluster(view: &View<'_>, name: &Name) -> Option<Cluster> {
    match &**name {
        PASSTHROUGH | INBOUND_PASSTHROUGH => Some(cluster::passthrough(view, name)),
        BLACK_HOLE => Some(cluster::black_hole(view)),
        OTLP => cluster::collector(view),
        inbound if inbound.starts_with("inbound|") => inbound::upstream(view, name),
        outbound => {
            let (port, subset, host) = view::parse_cluster(outbound)?;
            cluster::outbound(view, name, port, subset, host)
        }
    }
}

pub use service::VIRTUAL_OUTBOUND;
pub(crate) use service::hosts;

/// Every name of the client's view but its hosts: the Sidecar-scoped set of a stock Envoy.
pub(crate) fn everything(view: &View<'_>) -> Wanted {
    let mut wanted = Wanted::default();
    for known in view.mesh.services.values().filter(|known| view.sees(known)) {
        service::names(view, known, &mut wanted);
    }
    for name in [PASSTHROUGH, BLACK_HOLE, INBOUND_PASSTHROUGH] {
        wanted.clusters.insert(name.into());
    }
    if cluster::collector(view).is_some() {
        wanted.clusters.insert(OTLP.into());
    }
    if view.client.captured {
        wanted.listeners.insert(service::VIRTUAL_OUTBOUND.into());
    }
    inbound::names(view, &mut wanted);
    wanted
}
