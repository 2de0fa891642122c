//! DestinationRules → what one client, or the inbound side of a workload, follows for a host.

use std::collections::BTreeMap;
use std::sync::Arc;

use ripstop_model::intent::DestinationRule;
use ripstop_model::intent::destination_rule::{
    ClientTls, ConnectionPool, LoadBalancer, OutlierDetection, PortTrafficPolicy, RetryBudget,
    TcpPool, TrafficPolicy,
};
use ripstop_model::intent::registry::{covers, qualify};
use ripstop_model::snapshot::Resource;

use crate::view::{Declared, Known, View};

/// The rule of a host for this client: from its own namespace, the service's, or the root namespace, whichever has one first; in
/// each the most specific host (B2). In the client's own namespace one whose `workloadSelector` selects it comes before those
/// for everybody. Several for one host and one selector in a namespace are merged in order: subsets appended, the first
/// traffic policy wins.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    spec: DestinationRule,
    pub(super) resource: Resource,
}

/// Which way the traffic goes that asks for a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Outbound,
    /// Selectors select clients: a rule with one says nothing about the server's side.
    Inbound,
}

pub(super) fn rule(view: &View<'_>, known: &Known) -> Option<Rule> {
    of_side(view, known, Side::Outbound)
}

fn of_side(view: &View<'_>, known: &Known, side: Side) -> Option<Rule> {
    let root = view.mesh.settings.root_namespace.as_str();
    let own = view.client.namespace.as_str();
    if side == Side::Outbound {
        let selected = of_namespace(view, known, own, |rule| {
            let selector = rule.spec.workload_selector.as_ref();
            selector.is_some_and(|selector| selector.matches(&view.client.labels))
        });
        if selected.is_some() {
            return selected;
        }
    }
    let mut namespaces = Vec::new();
    if own != root {
        namespaces.push(own);
    }
    namespaces.extend([known.namespace.as_str(), root]);
    namespaces.into_iter().find_map(|namespace| {
        of_namespace(view, known, namespace, |rule| {
            rule.spec.workload_selector.is_none()
        })
    })
}

fn of_namespace(
    view: &View<'_>,
    known: &Known,
    namespace: &str,
    counts: impl Fn(&Declared<DestinationRule>) -> bool,
) -> Option<Rule> {
    let mut best = 0;
    let mut found: Vec<&Arc<Declared<DestinationRule>>> = Vec::new();
    for rule in &view.mesh.destination_rules {
        if rule.namespace != namespace
            || !counts(rule)
            || !view.visible(&rule.namespace, &rule.spec.export_to)
        {
            continue;
        }
        let host = qualify(&rule.spec.host, &rule.namespace);
        if !covers(&host, &known.host) {
            continue;
        }
        let length = if *host == *known.host {
            usize::MAX
        } else {
            host.len()
        };
        if length > best {
            best = length;
            found.clear();
        }
        if length == best {
            found.push(rule);
        }
    }
    let (first, rest) = found.split_first()?;
    let mut spec = first.spec.clone();
    for rule in rest {
        // The winner's selector groups them: one about other clients is not of this group.
        if rule.spec.workload_selector != spec.workload_selector {
            continue;
        }
        if spec.traffic_policy.is_none() {
            spec.traffic_policy.clone_from(&rule.spec.traffic_policy);
        }
        for subset in &rule.spec.subsets {
            if !spec.subsets.iter().any(|known| known.name == subset.name) {
                spec.subsets.push(subset.clone());
            }
        }
    }
    Some(Rule {
        spec,
        resource: first.resource("DestinationRule", String::new()),
    })
}

/// The blocks in force for one port and subset.
#[derive(Debug, Clone, Default)]
pub(super) struct Policy {
    pub load_balancer: Option<LoadBalancer>,
    pub connection_pool: Option<ConnectionPool>,
    pub outlier: Option<OutlierDetection>,
    pub tls: Option<ClientTls>,
    pub retry_budget: Option<RetryBudget>,
}

impl Rule {
    pub(super) fn subset_labels(&self, subset: &str) -> Option<&BTreeMap<String, String>> {
        let found = self
            .spec
            .subsets
            .iter()
            .find(|known| known.name == subset)?;
        Some(&found.labels)
    }

    pub(super) fn policy(&self, subset: &str, port: u16) -> Policy {
        let whole = self.spec.traffic_policy.as_ref();
        let mut policy = whole.map(|policy| level(policy, port)).unwrap_or_default();
        let subset = self.spec.subsets.iter().find(|known| known.name == subset);
        if let Some(own) = subset.and_then(|subset| subset.traffic_policy.as_ref()) {
            // Block by block.
            let own = level(own, port);
            policy.load_balancer = own.load_balancer.or(policy.load_balancer);
            policy.connection_pool = own.connection_pool.or(policy.connection_pool);
            policy.outlier = own.outlier.or(policy.outlier);
            policy.tls = own.tls.or(policy.tls);
            policy.retry_budget = own.retry_budget.or(policy.retry_budget);
        }
        policy
    }
}

/// A block for the port replaces the others whole.
fn level(policy: &TrafficPolicy, port: u16) -> Policy {
    let for_port = |block: &&PortTrafficPolicy| block.port.number == port;
    match policy.port_level_settings.iter().find(for_port) {
        Some(block) => Policy {
            load_balancer: block.load_balancer.clone(),
            connection_pool: block.connection_pool.clone(),
            outlier: block.outlier_detection.clone(),
            tls: block.tls.clone(),
            retry_budget: policy.retry_budget.clone(),
        },
        None => Policy {
            load_balancer: policy.load_balancer.clone(),
            connection_pool: policy.connection_pool.clone(),
            outlier: policy.outlier_detection.clone(),
            tls: policy.tls.clone(),
            retry_budget: policy.retry_budget.clone(),
        },
    }
}

pub(super) fn subsets(view: &View<'_>, host: &str) -> Vec<String> {
    let rule = view.mesh.service(host).and_then(|known| rule(view, known));
    rule.map_or_else(Vec::new, |rule| {
        rule.spec.subsets.iter().map(|s| s.name.clone()).collect()
    })
}

/// The `connectionPool.tcp` that an opaque connection to a host follows.
pub(super) fn tcp_pool(view: &View<'_>, host: &str, port: u16) -> Option<TcpPool> {
    let known = view.mesh.covering(host)?;
    rule(view, known)?.policy("", port).connection_pool?.tcp
}

/// What limits a sidecar toward its own application: the Sidecar's pool, else that of the service's rule for the port (B5);
/// one replaces the other whole.
pub(super) fn inbound_pool(view: &View<'_>, known: Option<&Known>, port: u16) -> ConnectionPool {
    let sidecar = view
        .sidecar()
        .and_then(|sidecar| sidecar.spec.inbound_connection_pool.clone());
    let ruled = || {
        let rule = of_side(view, known?, Side::Inbound)?;
        rule.policy("", port).connection_pool
    };
    sidecar.or_else(ruled).unwrap_or_default()
}
