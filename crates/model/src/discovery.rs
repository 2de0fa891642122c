//! The unit of xDS: a resource of a kind, under a name.

use std::sync::Arc;

use crate::seam::HostRecord;
use crate::snapshot::tls::Secret;
use crate::snapshot::{Cluster, Endpoints, Listener, Name, RouteConfig};

/// The resource types a proxy follows, in the order in which a server sends them: what others refer to comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The address ranges of the mesh; one resource, named `mesh`.
    Ranges,
    Host,
    /// Certificates and roots, for a stock Envoy (SDS).
    Secret,
    Cluster,
    Endpoints,
    Listener,
    Route,
}

impl Kind {
    pub const ALL: &[Kind] = &[
        Kind::Ranges,
        Kind::Host,
        Kind::Secret,
        Kind::Cluster,
        Kind::Endpoints,
        Kind::Listener,
        Kind::Route,
    ];
    /// The name of the one [`Kind::Ranges`] resource.
    pub const RANGES: &str = "mesh";

    /// For logs and `status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Ranges => "Ranges",
            Kind::Host => "Host",
            Kind::Secret => "Secret",
            Kind::Cluster => "Cluster",
            Kind::Endpoints => "Endpoints",
            Kind::Listener => "Listener",
            Kind::Route => "RouteConfiguration",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Resource {
    Ranges(Arc<[ipnet::IpNet]>),
    Host(Arc<HostRecord>),
    Secret(Arc<Secret>),
    Cluster(Arc<Cluster>),
    Endpoints(Arc<Endpoints>),
    Listener(Arc<Listener>),
    Route(Arc<RouteConfig>),
}

pub type Key = (Kind, Name);

impl Resource {
    pub fn kind(&self) -> Kind {
        match self {
            Resource::Ranges(_) => Kind::Ranges,
            Resource::Host(_) => Kind::Host,
            Resource::Secret(_) => Kind::Secret,
            Resource::Cluster(_) => Kind::Cluster,
            Resource::Endpoints(_) => Kind::Endpoints,
            Resource::Listener(_) => Kind::Listener,
            Resource::Route(_) => Kind::Route,
        }
    }

    /// The name it is discovered under. A host is also found under its aliases.
    pub fn name(&self) -> Name {
        match self {
            Resource::Ranges(_) => Kind::RANGES.into(),
            Resource::Host(host) => host.fqdn.clone(),
            Resource::Secret(secret) => secret.name.clone(),
            Resource::Cluster(cluster) => cluster.name.clone(),
            Resource::Endpoints(endpoints) => endpoints.name.clone(),
            Resource::Listener(listener) => listener.name.clone(),
            Resource::Route(route) => route.name.clone(),
        }
    }

    /// What it needs before it can run.
    pub fn references(&self) -> Vec<Key> {
        match self {
            Resource::Ranges(_)
            | Resource::Host(_)
            | Resource::Secret(_)
            | Resource::Endpoints(_) => Vec::new(),
            Resource::Listener(listener) => {
                let routes = listener
                    .routes()
                    .into_iter()
                    .map(|name| (Kind::Route, name));
                routes
                    .chain(
                        listener
                            .clusters()
                            .into_iter()
                            .map(|name| (Kind::Cluster, name)),
                    )
                    .collect()
            }
            Resource::Route(route) => route
                .clusters()
                .into_iter()
                .map(|name| (Kind::Cluster, name))
                .collect(),
            Resource::Cluster(cluster) => cluster
                .endpoints()
                .map(|name| (Kind::Endpoints, name.clone()))
                .into_iter()
                .collect(),
        }
    }
}
