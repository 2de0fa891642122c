//! What a proxy runs: resolved, compiled, defaults filled. Containers never travel; what travels is xDS, and `wire`
//! turns each of these types into its Envoy message and back (`decode(encode(x)) == x`).
//!
//! Durations are `Option<Duration>` where `None` means "no limit". Every name is the xDS resource name.

pub mod authz;
pub mod cluster;
pub mod endpoint;
pub mod fault;
pub mod header;
pub mod http;
pub mod listener;
pub mod matching;
pub mod references;
pub mod retry;
pub mod route;
pub mod tls;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use authz::{Action, AuthzFilter, Policy, Rule};
pub use cluster::Cluster;
pub use endpoint::{Endpoint, Endpoints, Locality};
pub use http::{HttpFilter, HttpProxy};
pub use listener::{FilterChain, Listener};
pub use route::{Route, RouteConfig, VirtualHost};

use crate::seam::HostRecord;

/// The name of an xDS resource.
pub type Name = Arc<str>;

/// Everything one proxy may need, by type and name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    pub listeners: BTreeMap<Name, Arc<Listener>>,
    pub routes: BTreeMap<Name, Arc<RouteConfig>>,
    pub clusters: BTreeMap<Name, Arc<Cluster>>,
    pub endpoints: BTreeMap<Name, Arc<Endpoints>>,
    /// ripstop's own: what a name is (decisions.md, 2).
    pub hosts: BTreeMap<Name, Arc<HostRecord>>,
    /// ripstop's own: the address ranges that belong to the mesh.
    pub ranges: Arc<[ipnet::IpNet]>,
    /// Where this proxy stands, for zone aware routing.
    pub local: Option<Local>,
}

/// The cluster that a proxy is a member of (`cluster_manager.local_cluster_name`), and its locality.
#[derive(Debug, Clone, PartialEq)]
pub struct Local {
    pub cluster: Name,
    pub locality: Locality,
}

/// The user's resource behind a compiled one; the "deciding resource" of logs and `x-ripstop-reason`.
/// Displayed as `VirtualService/default/orders#http[0]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    pub kind: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// The part of it, e.g. `http[0]` or `rules[2]`; empty for the whole.
    pub part: Arc<str>,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)?;
        if !self.part.is_empty() {
            write!(f, "#{}", self.part)?;
        }
        Ok(())
    }
}

/// A share of requests, in millionths (Envoy's `FractionalPercent` with denominator MILLION).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fraction(u32);

impl Fraction {
    pub const NEVER: Fraction = Fraction(0);
    pub const ALWAYS: Fraction = Fraction(1_000_000);

    /// Clamped to one million.
    pub const fn millionths(n: u32) -> Fraction {
        Fraction(if n < 1_000_000 { n } else { 1_000_000 })
    }

    /// From 0..=100; NaN and negatives are never.
    pub fn percent(p: f64) -> Fraction {
        if p > 0.0 {
            Fraction((p * 10_000.0).round().min(1_000_000.0) as u32)
        } else {
            Fraction(0)
        }
    }

    pub fn as_millionths(self) -> u32 {
        self.0
    }

    /// True for a uniformly random `draw` with this probability.
    pub fn holds(self, draw: u64) -> bool {
        draw % 1_000_000 < u64::from(self.0)
    }
}
