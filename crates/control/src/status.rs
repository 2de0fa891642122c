//! What proxies accept and refuse → the standing of every proxy and of every resource (R1.2, R3.4).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::api::message::{Behind, Pending, ProxyStatus, Rejected, ResourceStatus, TypeStatus};
use crate::plane::Plane;

/// After this a proxy that has not accepted a resource is named beside it (R1.2).
pub const PATIENCE: Duration = Duration::from_secs(10);

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
    /// Since when it does not run everything, and what it has not answered.
    pub behind: Option<(Instant, String)>,
}

impl Proxy {
    /// A refusal says more than a missing answer.
    fn lag(&self, now: Instant) -> Option<Behind> {
        let (since, missing) = self.behind.as_ref()?;
        let refusals: Vec<String> = self
            .rejected
            .values()
            .map(|(rejected, _)| {
                let names = rejected.names.join(", ");
                format!("refuses {} {names}: {}", rejected.kind, rejected.message)
            })
            .collect();
        Some(Behind {
            seconds: now.saturating_duration_since(*since).as_secs(),
            reason: if refusals.is_empty() {
                missing.clone()
            } else {
                refusals.join("; ")
            },
        })
    }
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
            behind: proxy.lag(now),
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

/// Adds what proxies say: a resource is programmed when every connected proxy has accepted everything of the revision that
/// brought its present version, or of a later one.
pub fn judge(
    resources: &mut [ResourceStatus],
    proxies: &[ProxyStatus],
    refusals: &BTreeMap<String, Vec<Rejected>>,
) {
    for status in resources {
        let runs = |proxy: &&ProxyStatus| proxy.acked_revision >= status.observed_revision;
        status.proxies = proxies.len();
        status.proxies_acked = proxies.iter().filter(runs).count();
        status.rejected = refusals.get(&status.resource).cloned().unwrap_or_default();
        status.programmed =
            status.accepted && status.rejected.is_empty() && status.proxies_acked == status.proxies;
        let late = proxies.iter().filter(|proxy| !runs(proxy));
        status.pending = late
            .filter_map(|proxy| {
                let behind = proxy.behind.clone()?;
                (behind.seconds >= PATIENCE.as_secs()).then(|| Pending {
                    proxy: proxy.workload.clone().unwrap_or_else(|| proxy.node.clone()),
                    seconds: behind.seconds,
                    reason: behind.reason,
                })
            })
            .collect();
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
            behind: None,
        }
    }

    fn judged(proxies: &Proxies, now: Instant) -> ResourceStatus {
        let mut resources = [ResourceStatus {
            resource: "VirtualService/default/a".into(),
            accepted: true,
            observed_revision: 4,
            ..ResourceStatus::default()
        }];
        judge(&mut resources, &proxies.statuses(now), &proxies.refusals());
        resources.into_iter().next().unwrap()
    }

    #[test]
    fn programmed_means_every_proxy_and_no_refusal() {
        let proxies = Proxies::default();
        proxies.opened(1, proxy(9));
        proxies.opened(2, proxy(3));
        let judged = || judged(&proxies, Instant::now());
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

    #[test]
    fn a_proxy_that_stays_behind_is_named_with_its_reason() {
        let (proxies, start) = (Proxies::default(), Instant::now());
        proxies.opened(1, proxy(3));
        proxies.update(1, |proxy| {
            proxy.behind = Some((start, "has not answered Cluster c (1 of 2)".into()));
        });
        let almost = judged(&proxies, start + PATIENCE - Duration::from_millis(1));
        assert!(!almost.programmed && almost.pending.is_empty());
        let late = judged(&proxies, start + PATIENCE);
        assert_eq!(late.pending[0].proxy, "sidecar~x");
        assert_eq!(late.pending[0].seconds, 10);
        assert!(late.pending[0].reason.contains("Cluster c"), "{late:?}");
        proxies.update(1, |proxy| {
            let rejected = Rejected {
                kind: "Cluster".into(),
                names: vec!["c".into()],
                message: "lb_policy: unknown".into(),
            };
            proxy
                .rejected
                .insert("Cluster".into(), (rejected, Vec::new()));
        });
        let late = judged(&proxies, start + PATIENCE);
        assert_eq!(
            late.pending[0].reason,
            "refuses Cluster c: lb_policy: unknown"
        );
        proxies.update(1, |proxy| {
            proxy.acked = 4;
            proxy.behind = None;
        });
        assert!(judged(&proxies, start + PATIENCE).pending.is_empty());
    }
}
