//! Clusters whose members are names → their members by address, resolved again when the answer's time is over.
//!
//! As Envoy's STRICT_DNS and LOGICAL_DNS: every address of every name is a member, or only the first one of the one name.
//! An address that is no longer answered gets no new connection at once; while there is no answer at all, the last one
//! keeps serving (R16.2). A name that does not exist is an answer: it has no members.

mod system;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ripstop_model::snapshot::cluster::{Discovery, Dns, DnsFamily};
use ripstop_model::snapshot::endpoint::{Endpoint, Endpoints, Group, Target};

use crate::Pending;
use crate::cluster::Cluster;

pub use system::System;

/// No name is asked for more often, whatever its answers or the configuration say.
const OFTENEST: Duration = Duration::from_secs(1);
/// A name without a time to live of its own (from a hosts file) is looked at again after this long at the latest.
const RAREST: Duration = Duration::from_secs(300);

/// What a name server said of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Empty: there is no such name, or it has no address of the family.
    pub addresses: Vec<IpAddr>,
    /// The smallest of the chain that led to the addresses; `None`: the answer has none.
    pub ttl: Option<Duration>,
}

/// Nobody answered, or not with an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} cannot be resolved: {reason}")]
pub struct Failure {
    pub name: String,
    pub reason: String,
}

/// Asks for addresses.
pub trait Lookup: Send + Sync + 'static {
    fn lookup<'a>(
        &'a self,
        name: &'a str,
        family: DnsFamily,
    ) -> Pending<'a, Result<Answer, Failure>>;
}

/// The DNS settings of a cluster that has any.
pub(crate) fn settings(discovery: &Discovery) -> Option<(&Dns, bool)> {
    match discovery {
        Discovery::StrictDns(dns) => Some((dns, false)),
        Discovery::LogicalDns(dns) => Some((dns, true)),
        Discovery::Static(_) | Discovery::Eds { .. } | Discovery::OriginalDst { .. } => None,
    }
}

fn names(endpoints: &Endpoints) -> BTreeSet<&str> {
    let all = endpoints.groups.iter().flat_map(|group| &group.endpoints);
    all.filter_map(|endpoint| match &endpoint.address {
        Target::Name { host, .. } if host.parse::<IpAddr>().is_err() => Some(host.as_str()),
        _ => None,
    })
    .collect()
}

/// The addresses known of each name.
type Known = BTreeMap<String, Vec<IpAddr>>;

/// Members for the addresses known so far. Names that are addresses stand for themselves.
fn members(configured: &Endpoints, known: &Known, logical: bool) -> Endpoints {
    let addresses = |host: &str| -> Vec<IpAddr> {
        match host.parse() {
            Ok(address) => vec![address],
            Err(_) => known.get(host).cloned().unwrap_or_default(),
        }
    };
    let resolved = |endpoint: &Endpoint| -> Vec<Endpoint> {
        let Target::Name { host, port } = &endpoint.address else {
            return vec![endpoint.clone()];
        };
        let mut addresses = addresses(host);
        if logical {
            addresses.truncate(1);
        }
        let member = |address| Endpoint {
            address: Target::Socket(SocketAddr::new(address, *port)),
            hostname: endpoint.hostname.clone().or_else(|| Some(host.clone())),
            ..endpoint.clone()
        };
        addresses.into_iter().map(member).collect()
    };
    let groups = configured.groups.iter().map(|group| {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for endpoint in group.endpoints.iter().flat_map(resolved) {
            // Two names of one place are one member (as Envoy: by address, within the cluster).
            if !endpoints
                .iter()
                .any(|known| known.address == endpoint.address)
            {
                endpoints.push(endpoint);
            }
        }
        Group {
            endpoints,
            ..group.clone()
        }
    });
    Endpoints {
        groups: groups.collect(),
        ..configured.clone()
    }
}

/// When to ask again.
fn pause(outcome: &Result<Answer, Failure>, dns: &Dns) -> Duration {
    match outcome {
        Err(_) => dns.failure_refresh.max(OFTENEST),
        Ok(answer) => match answer.ttl.filter(|ttl| dns.respect_ttl && !ttl.is_zero()) {
            Some(ttl) => ttl.clamp(OFTENEST, RAREST.max(dns.refresh)),
            None => dns.refresh.max(OFTENEST),
        },
    }
}

/// What needs no name server: a cluster of addresses alone is complete from the start.
pub(crate) fn at_once(discovery: &Discovery) -> Option<Endpoints> {
    let (dns, logical) = settings(discovery)?;
    names(&dns.endpoints)
        .is_empty()
        .then(|| members(&dns.endpoints, &Known::new(), logical))
}

/// Keeps a cluster's members up to date until it is dropped.
pub(crate) async fn follow(cluster: &Cluster, lookup: &dyn Lookup) {
    let Some((dns, logical)) = settings(&cluster.config.discovery) else {
        return;
    };
    let names = names(&dns.endpoints);
    // None: not asked yet. Names that failed count as asked, but know nothing.
    let known: Mutex<(Known, BTreeSet<&str>)> = Mutex::default();
    let publish = |name, outcome: &Result<Answer, Failure>| {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        known.1.insert(name);
        if let Ok(answer) = outcome {
            known
                .0
                .insert(str::to_owned(name), answer.addresses.clone());
        }
        let all_asked = known.1.len() == names.len();
        // What the cluster had before a push stays until all of it is known anew.
        if !known.0.is_empty() && (all_asked || !cluster.is_settled()) {
            cluster.replace(Arc::new(members(&dns.endpoints, &known.0, logical)));
        }
        if all_asked || cluster.roster().members().next().is_some() {
            cluster.settle();
        }
    };
    let each = names.iter().copied().map(|name| {
        let publish = &publish;
        async move {
            loop {
                cluster.stats.update_attempt.inc();
                let outcome = lookup.lookup(name, dns.family).await;
                match &outcome {
                    Ok(answer) if answer.addresses.is_empty() => cluster.stats.update_empty.inc(),
                    Ok(_) => cluster.stats.update_success.inc(),
                    Err(failure) => {
                        cluster.stats.update_failure.inc();
                        tracing::debug!(cluster = %cluster.config.name, %failure, "keeping what is known");
                    }
                }
                publish(name, &outcome);
                tokio::time::sleep(pause(&outcome, dns)).await;
            }
        }
    });
    futures_util::future::join_all(each).await;
}

#[cfg(test)]
mod tests;
