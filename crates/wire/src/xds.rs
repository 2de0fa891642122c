//! The xDS transport protocol without I/O: resource kinds, the client's and the server's state machines.

pub mod host;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ripstop_model::seam::HostRecord;
use ripstop_model::snapshot::tls::Secret;
use ripstop_model::snapshot::{Cluster, Endpoints, Listener, RouteConfig};

/// A type of resource, in the order in which they are delivered: what is referred to comes before what refers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Cluster,
    Endpoints,
    Listener,
    Routes,
    Secret,
    /// `ripstop.v1.Host`: what a name is (decisions.md, 2).
    Host,
    /// `ripstop.v1.Ranges`: the addresses that belong to the mesh.
    Ranges,
}

impl Kind {
    pub const ALL: [Kind; 7] = [
        Kind::Cluster,
        Kind::Endpoints,
        Kind::Listener,
        Kind::Routes,
        Kind::Secret,
        Kind::Host,
        Kind::Ranges,
    ];

    pub const fn type_url(self) -> &'static str {
        match self {
            Kind::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Kind::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Kind::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Kind::Routes => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Kind::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Kind::Host => "type.googleapis.com/ripstop.v1.Host",
            Kind::Ranges => "type.googleapis.com/ripstop.v1.Ranges",
        }
    }

    pub fn of_type_url(url: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// What Envoy's documents call its discovery service.
    pub const fn short(self) -> &'static str {
        match self {
            Kind::Cluster => "CDS",
            Kind::Endpoints => "EDS",
            Kind::Listener => "LDS",
            Kind::Routes => "RDS",
            Kind::Secret => "SDS",
            Kind::Host => "host",
            Kind::Ranges => "ranges",
        }
    }

    /// Whether a subscription may mean "everything", and a state-of-the-world response is the complete set.
    pub const fn is_wildcard(self) -> bool {
        matches!(self, Kind::Cluster | Kind::Listener)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

/// A decoded resource.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    Cluster(Arc<Cluster>),
    Endpoints(Arc<Endpoints>),
    Listener(Arc<Listener>),
    Routes(Arc<RouteConfig>),
    Secret(Arc<Secret>),
    Host(Arc<HostRecord>),
    Ranges(Arc<[IpNet]>),
}

impl Body {
    pub fn kind(&self) -> Kind {
        match self {
            Body::Cluster(_) => Kind::Cluster,
            Body::Endpoints(_) => Kind::Endpoints,
            Body::Listener(_) => Kind::Listener,
            Body::Routes(_) => Kind::Routes,
            Body::Secret(_) => Kind::Secret,
            Body::Host(_) => Kind::Host,
            Body::Ranges(_) => Kind::Ranges,
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Body::Cluster(m) => &m.name,
            Body::Endpoints(m) => &m.name,
            Body::Listener(m) => &m.name,
            Body::Routes(m) => &m.name,
            Body::Secret(m) => &m.name,
            Body::Host(m) => &m.fqdn,
            Body::Ranges(_) => RANGES,
        }
    }
}

/// The name of the one [`Kind::Ranges`] resource.
pub const RANGES: &str = "mesh";

/// The alias under which the [`Kind::Host`] that owns an address is found.
pub fn address_alias(ip: IpAddr) -> String {
    format!("ip/{ip}")
}
