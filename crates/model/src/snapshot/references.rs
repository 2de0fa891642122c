//! Which resources a resource needs before it can run: listener → routes and clusters, route → clusters, cluster → endpoints.

use std::collections::BTreeSet;

use super::cluster::Discovery;
use super::http::RouteSource;
use super::listener::Terminal;
use super::route::{Action, Split};
use super::{Cluster, Listener, Name, RouteConfig};

impl Listener {
    /// Names of the route configurations its chains follow.
    pub fn routes(&self) -> BTreeSet<Name> {
        let mut names = BTreeSet::new();
        for chain in self.chains.iter().chain(&self.default_chain) {
            if let Terminal::Http(http) = &chain.terminal
                && let RouteSource::Named(name) = &http.routes
            {
                names.insert(name.clone());
            }
        }
        names
    }

    /// Clusters its chains name directly: TCP targets, inline routes, trace collectors.
    pub fn clusters(&self) -> BTreeSet<Name> {
        let mut names = BTreeSet::new();
        for chain in self.chains.iter().chain(&self.default_chain) {
            match &chain.terminal {
                Terminal::Tcp(tcp) => tcp.clusters.names_into(&mut names),
                Terminal::Http(http) => {
                    if let RouteSource::Inline(config) = &http.routes {
                        names.extend(config.clusters());
                    }
                    names.extend(
                        http.tracing
                            .iter()
                            .filter_map(|tracing| tracing.cluster.clone()),
                    );
                }
            }
        }
        names
    }
}

impl RouteConfig {
    /// Every cluster that a route, a weighted share or a mirror may send to.
    pub fn clusters(&self) -> BTreeSet<Name> {
        let mut names = BTreeSet::new();
        for route in self.hosts.iter().flat_map(|host| &host.routes) {
            if let Action::Forward(forward) = &route.action {
                forward.to.names_into(&mut names);
                names.extend(forward.mirrors.iter().map(|mirror| mirror.cluster.clone()));
            }
        }
        names
    }
}

impl Split {
    fn names_into(&self, names: &mut BTreeSet<Name>) {
        match self {
            Split::One(name) => {
                names.insert(name.clone());
            }
            Split::Weighted { shares, .. } => {
                names.extend(shares.iter().map(|share| share.cluster.clone()))
            }
            Split::Header(_) => {}
        }
    }
}

impl Cluster {
    /// The endpoints resource it follows, when they are discovered.
    pub fn endpoints(&self) -> Option<&Name> {
        match &self.discovery {
            Discovery::Eds { service_name } => Some(service_name),
            Discovery::Static(_)
            | Discovery::StrictDns(_)
            | Discovery::LogicalDns(_)
            | Discovery::OriginalDst { .. } => None,
        }
    }
}
