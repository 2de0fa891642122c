//! What proxies accept and refuse → the standing of every proxy and of every resource (R1.2, R3.4).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::api::message::{ProxyStatus, Rejected, ResourceStatus, TypeStatus};
use crate::plane::Plane;

/// The connected proxies, by session.
#[derive(Debug, Default)]
pub struct Proxies {
    sessions: Mutex<BTreeMap<u64, Proxy>>,
}

/// One session as its ADS stream reports it.
#[derive(Debug, Clone)]
pub struct Proxy {
    pub node: String,
    pub workload: Option<String>,
    /// `delta` or `sotw`.
    pub protocol: &'static str,
    pub agent: String,
    pub identity: String,
    pub connected: Instant,
    /// The last revision of which everything has been accepted.
    pub acked: u64,
    /// By type.
    pub types: BTreeMap<String, TypeStatus>,
    /// By type: the last refusal, until a later response of the type is accepted. With the user's resources behind the names.
    pub rejected: BTreeMap<String, (Rejected, Vec<String>)>,
}

impl Proxies {
    fn sessions(&self) -> MutexGuard<'_, BTreeMap<u64, Proxy>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn opened(&self, session: u64, proxy: Proxy) {
        self.sessions().insert(session, proxy);
    }

    pub fn update(&self, session: u64, change: impl FnOnce(&mut Proxy)) {
        if let Some(proxy) = self.sessions().get_mut(&session) {
            change(proxy);
        }
    }

    pub fn closed(&self, session: u64) {
        self.sessions().remove(&session);
    }

    pub fn len(&self) -> usize {
        self.sessions().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn statuses(&self, now: Instant) -> Vec<ProxyStatus> {
        let status = |proxy: &Proxy| ProxyStatus {
            node: proxy.node.clone(),
            workload: proxy.workload.clone(),
            protocol: proxy.protocol.to_owned(),
            agent: proxy.agent.clone(),
            identity: proxy.identity.clone(),
            connected_seconds: now.saturating_duration_since(proxy.connected).as_secs(),
            acked_revision: proxy.acked,
            types: proxy.types.values().cloned().collect(),
            rejected: proxy
                .rejected
                .values()
                .map(|(rejected, _)| rejected.clone())
                .collect(),
        };
        self.sessions().values().map(status).collect()
    }

    /// User's resource → what proxies refuse of it.
    pub fn refusals(&self) -> BTreeMap<String, Vec<Rejected>> {
        let mut refusals: BTreeMap<String, Vec<Rejected>> = BTreeMap::new();
        for proxy in self.sessions().values() {
            for (rejected, resources) in proxy.rejected.values() {
                for resource in resources {
                    let known = refusals.entry(resource.clone()).or_default();
                    if !known.contains(rejected) {
                        known.push(rejected.clone());
                    }
                }
            }
        }
        refusals
    }
}

/// Adds what proxies say: a resource is programmed when every connected proxy has accepted everything of the revision.
pub fn judge(
    resources: &mut [ResourceStatus],
    proxies: &[ProxyStatus],
    refusals: &BTreeMap<String, Vec<Rejected>>,
    revision: u64,
) {
    let acked = proxies
        .iter()
        .filter(|proxy| proxy.acked_revision >= revision)
        .count();
    for status in resources {
        status.proxies = proxies.len();
        status.proxies_acked = acked;
        status.rejected = refusals.get(&status.resource).cloned().unwrap_or_default();
        status.programmed = status.accepted && status.rejected.is_empty() && acked == proxies.len();
    }
}

/// The control plane's own metrics, in Prometheus' text format.
pub fn metrics(plane: &Plane) -> String {
    let status = plane.status();
    let current = plane.current();
    let count = |wanted: &dyn Fn(&ResourceStatus) -> bool| {
        status.resources.iter().filter(|r| wanted(r)).count()
    };
    let rejected: usize = status.proxies.iter().map(|p| p.rejected.len()).sum();
    let ready = current
        .workloads
        .by_id
        .values()
        .filter(|p| p.takes_traffic())
        .count();
    let gauges: [(&str, &str, u64); 8] = [
        (
            "ripstop_config_revision",
            "Revision of the configuration in force.",
            status.revision,
        ),
        (
            "ripstop_config_resources",
            "Resources in force.",
            count(&|r| r.accepted) as u64,
        ),
        (
            "ripstop_config_resources_rejected",
            "Resources that are not accepted.",
            count(&|r| !r.accepted) as u64,
        ),
        (
            "ripstop_workloads",
            "Registered workloads.",
            current.workloads.by_id.len() as u64,
        ),
        (
            "ripstop_workloads_ready",
            "Workloads that take traffic.",
            ready as u64,
        ),
        (
            "ripstop_xds_proxies",
            "Connected proxies.",
            status.proxies.len() as u64,
        ),
        (
            "xds_rejected",
            "Types of resources that connected proxies refuse now.",
            rejected as u64,
        ),
        (
            "ripstop_authority_expiry_timestamp_seconds",
            "When the signing certificate ends.",
            status.authority_expires.unwrap_or_default(),
        ),
    ];
    gauges
        .iter()
        .map(|(name, help, value)| {
            format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(acked: u64) -> Proxy {
        Proxy {
            node: "sidecar~x".into(),
            workload: None,
            protocol: "delta",
            agent: "envoy 1.40".into(),
            identity: String::new(),
            connected: Instant::now(),
            acked,
            types: BTreeMap::new(),
            rejected: BTreeMap::new(),
        }
    }

    #[test]
    fn programmed_means_every_proxy_and_no_refusal() {
        let proxies = Proxies::default();
        proxies.opened(1, proxy(4));
        proxies.opened(2, proxy(3));
        let judged = || {
            let mut resources = [ResourceStatus {
                resource: "VirtualService/default/a".into(),
                accepted: true,
                ..ResourceStatus::default()
            }];
            judge(
                &mut resources,
                &proxies.statuses(Instant::now()),
                &proxies.refusals(),
                4,
            );
            resources.into_iter().next().unwrap()
        };
        let status = judged();
        assert!(!status.programmed);
        assert_eq!((status.proxies_acked, status.proxies), (1, 2));
        proxies.update(2, |proxy| proxy.acked = 4);
        assert!(judged().programmed);
        proxies.update(2, |proxy| {
            let rejected = Rejected {
                kind: "Listener".into(),
                names: vec!["x".into()],
                message: "filter_chains[0]: unknown".into(),
            };
            proxy.rejected.insert(
                "Listener".into(),
                (rejected, vec!["VirtualService/default/a".into()]),
            );
        });
        let status = judged();
        assert!(!status.programmed);
        assert_eq!(status.rejected[0].message, "filter_chains[0]: unknown");
        proxies.closed(2);
        assert!(judged().programmed);
    }
}
