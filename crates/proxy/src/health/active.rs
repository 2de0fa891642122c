//! Active health checks: how probes ended in, who may serve out. Follows Envoy's health checkers.
//!
//! A member that is new serves after its first good probe; later it takes as many in a row as the thresholds say to change
//! anybody's mind. An answer that says no is believed at once; only silence is counted (`unhealthy_threshold`).

mod probe;

pub(crate) use probe::answer;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ripstop_model::snapshot::cluster::HealthCheck;
use ripstop_model::snapshot::endpoint::Target;
use tokio::task::{AbortHandle, JoinSet};

use crate::Shared;
use crate::balance::{Bar, Member};
use crate::cluster::Cluster;

/// How one probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Degraded: it said so (`x-envoy-degraded`).
    Passed { degraded: bool },
    /// Answered, and the answer was no.
    Refused,
    /// Not answered in time, or the connection failed.
    Silent,
}

/// What one check knows of one member.
#[derive(Debug)]
struct Standing {
    healthy: bool,
    /// No probe has ended yet, of a member that is new.
    fresh: bool,
    /// Probes in a row that speak against `healthy`.
    against: u32,
}

impl Standing {
    /// `before`: what was known when an earlier configuration was checked.
    fn new(before: Option<bool>) -> Standing {
        Standing {
            healthy: before.unwrap_or(false),
            fresh: before.is_none(),
            against: 0,
        }
    }

    /// Takes in a probe; whether the member is healthy now.
    fn take(&mut self, outcome: Outcome, check: &HealthCheck) -> bool {
        let passed = matches!(outcome, Outcome::Passed { .. });
        if passed == self.healthy {
            self.against = 0;
        } else {
            self.against += 1;
            let enough = match outcome {
                Outcome::Passed { .. } => self.fresh || self.against >= check.healthy_threshold,
                Outcome::Refused => true,
                Outcome::Silent => self.against >= check.unhealthy_threshold,
            };
            if enough {
                self.healthy = passed;
                self.against = 0;
            }
        }
        self.fresh = false;
        self.healthy
    }
}

/// Until the next probe. `used`: the cluster has had traffic.
fn pause(check: &HealthCheck, used: bool) -> Duration {
    let pause = match used {
        true => check.interval,
        false => check.no_traffic_interval,
    };
    // A zero interval in configuration must not spin.
    pause.max(Duration::from_millis(1))
}

/// The checks of one member: a bit for each that fails.
#[derive(Debug, Default)]
struct Verdicts(AtomicU32);

impl Verdicts {
    fn set(&self, check: usize, healthy: bool) -> bool {
        let bit = 1u32
            .checked_shl(u32::try_from(check).unwrap_or(u32::MAX))
            .unwrap_or(0);
        let before = match healthy {
            true => self.0.fetch_and(!bit, Ordering::Relaxed) & !bit,
            false => self.0.fetch_or(bit, Ordering::Relaxed) | bit,
        };
        before == 0
    }
}

/// Checks a cluster's members, those that come later too, until it is dropped.
pub(crate) async fn follow(cluster: &Arc<Cluster>, shared: &Arc<Shared>) {
    if cluster.config.health_checks.is_empty() {
        return;
    }
    let mut tasks = JoinSet::new();
    let mut running: HashMap<Target, (Arc<Member>, Vec<AbortHandle>)> = HashMap::new();
    loop {
        let members: Vec<Arc<Member>> = cluster.roster().members().cloned().collect();
        running.retain(|_, (checked, handles)| {
            let stays = members
                .iter()
                .any(|member| member.endpoint == checked.endpoint);
            if !stays {
                handles.iter().for_each(AbortHandle::abort);
            }
            stays
        });
        for member in members {
            if running.contains_key(&member.endpoint.address) {
                continue;
            }
            let before = member
                .load
                .checked()
                .then(|| !member.load.is_barred(Bar::FailedCheck));
            if before.is_none() {
                bar(cluster, &member, Bar::FailedCheck, true);
            }
            let verdicts = Arc::new(Verdicts::default());
            let checks = 0..cluster.config.health_checks.len();
            let handles = checks
                .map(|index| {
                    let session = Session {
                        cluster: cluster.clone(),
                        shared: shared.clone(),
                        member: member.clone(),
                        verdicts: verdicts.clone(),
                        index,
                    };
                    verdicts.set(index, before == Some(true));
                    tasks.spawn(session.run(Standing::new(before)))
                })
                .collect();
            running.insert(member.endpoint.address.clone(), (member, handles));
        }
        // What was aborted is forgotten here, as it ends.
        while tasks.try_join_next().is_some() {}
        cluster.replaced().await;
    }
}

fn bar(cluster: &Cluster, member: &Member, bar: Bar, on: bool) {
    if member.load.is_barred(bar) != on {
        cluster.roster().set_bar(&member.load, bar, on);
    }
}

/// One check of one member.
struct Session {
    cluster: Arc<Cluster>,
    shared: Arc<Shared>,
    member: Arc<Member>,
    verdicts: Arc<Verdicts>,
    index: usize,
}

impl Session {
    /// Whether the cluster still runs: the member may be another's by now.
    fn is_current(&self) -> bool {
        let tables = self.shared.live.tables();
        let running = tables.clusters.get(&self.cluster.config.name);
        running.is_some_and(|running| Arc::ptr_eq(running, &self.cluster))
    }

    async fn run(self, mut standing: Standing) {
        let Some(check) = self.cluster.config.health_checks.get(self.index) else {
            return;
        };
        let stats = &self.cluster.stats;
        let mut rng = ripstop_telemetry::Rng::fresh();
        loop {
            stats.health_attempt.inc();
            let probing = probe::run(&self.cluster, &self.shared, &self.member, &check.probe);
            let outcome = tokio::time::timeout(check.timeout, probing).await;
            let outcome = outcome.unwrap_or(Outcome::Silent);
            if !self.is_current() {
                return;
            }
            match outcome {
                Outcome::Passed { .. } => stats.health_success.inc(),
                Outcome::Refused => stats.health_failure.inc(),
                Outcome::Silent => {
                    stats.health_failure.inc();
                    stats.health_network_failure.inc();
                }
            }
            let before = standing.healthy;
            let healthy = standing.take(outcome, check);
            let load = &self.member.load;
            load.set_checked();
            let fails = !self.verdicts.set(self.index, healthy);
            if load.is_barred(Bar::FailedCheck) && !fails {
                load.begins(self.shared.uptime());
            }
            bar(&self.cluster, &self.member, Bar::FailedCheck, fails);
            if let Outcome::Passed { degraded } = outcome {
                bar(&self.cluster, &self.member, Bar::Degraded, degraded);
                super::passed(&self.cluster, &self.member);
            }
            if healthy != before {
                let cluster = &self.cluster.config.name;
                let member = &self.member.endpoint.address;
                tracing::info!(%cluster, ?member, healthy, "health check");
            }
            let pause = pause(check, stats.cx_total.read() > 0);
            // Spread a little, so that many proxies do not probe in step.
            let spread = rng.next_u64() % 1000;
            tokio::time::sleep(pause.mul_f64(1.0 + spread as f64 / 10_000.0)).await;
        }
    }
}

#[cfg(test)]
mod tests;
