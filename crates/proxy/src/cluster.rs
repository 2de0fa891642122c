//! A cluster that runs: its members, its circuit breakers and its counters, shared by all workers through atomics only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use ripstop_model::defaults::envoy;
use ripstop_model::reason::Reason;
use ripstop_model::snapshot::cluster::{self, Discovery, LbPolicy, RetryBudget, Thresholds};
use ripstop_model::snapshot::endpoint::Target;
use ripstop_model::snapshot::route::Priority;
use ripstop_model::snapshot::{Endpoints, Name};
use ripstop_telemetry::Stats;
use ripstop_telemetry::record::{Known, Service};
use tokio::sync::{Notify, Semaphore, SetOnce};

use crate::balance::zone::Zones;
use crate::balance::{Balance, Bar, Panic, Roster};
use crate::health::outlier::Detector;
use crate::labels;
use crate::resolve;
use crate::stats;
use crate::tls::{Secrets, Transports};
use crate::uptime;

/// How long a request waits for the first answer to its cluster's names.
pub const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// The shortest idle limit of a server that is believed.
const FLEETING: Duration = Duration::from_millis(500);

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Connections, waiting requests, requests and retries of one priority, counted over all workers; a limit of N never
/// lets N + 1 in.
#[derive(Debug)]
pub struct Breaker {
    limits: Thresholds,
    counts: Arc<Counts>,
    /// Hands out connections fairly once there is a limit worth counting.
    permits: Option<Arc<Semaphore>>,
}

/// What is under way, whatever the limits were when it began.
#[derive(Debug, Default)]
struct Counts {
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
    connections: AtomicU32,
}

/// One counted thing; uncounted when dropped.
#[derive(Debug)]
pub struct Permit<'a>(&'a AtomicU32);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn enter(counter: &AtomicU32, limit: u32) -> Option<Permit<'_>> {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
            (now < limit).then_some(now + 1)
        })
        .ok()
        .map(|_| Permit(counter))
}

impl Breaker {
    /// `old`: the one before another configuration came. What it let in counts on, so that a limit holds across a push;
    /// but a limit on connections that is itself another one counts anew.
    fn new(limits: Thresholds, old: Option<&Breaker>) -> Breaker {
        let same = old.filter(|old| old.limits.max_connections == limits.max_connections);
        let permits = match same {
            Some(same) => same.permits.clone(),
            None => (limits.max_connections < u32::MAX).then(|| {
                let most = usize::try_from(limits.max_connections).unwrap_or(usize::MAX);
                Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)))
            }),
        };
        Breaker {
            limits,
            counts: old.map(|old| old.counts.clone()).unwrap_or_default(),
            permits,
        }
    }

    pub(crate) fn limits(&self) -> &Thresholds {
        &self.limits
    }

    /// Whether connections are few on purpose, so that requests must not share them. Envoy's own limit is no such purpose.
    pub(crate) fn counts_connections(&self) -> bool {
        self.limits.max_connections < envoy::THRESHOLDS.max_connections
    }

    /// Counts a request; it is refused at `max_requests`.
    pub fn request(&self) -> Result<Permit<'_>, Reason> {
        enter(&self.counts.requests, self.limits.max_requests).ok_or(Reason::CircuitOpenRequests)
    }

    /// Counts a request that waits for a connection; it is refused at `max_pending`.
    pub fn pending(&self) -> Result<Permit<'_>, Reason> {
        enter(&self.counts.pending, self.limits.max_pending).ok_or(Reason::CircuitOpenPending)
    }

    /// Counts a retry, within the budget where there is one, else within `max_retries`; `None` at the limit.
    pub fn retry(&self, budget: Option<RetryBudget>) -> Option<Permit<'_>> {
        let limit = match budget.or(self.limits.retry_budget) {
            None => self.limits.max_retries,
            Some(budget) => {
                // Those that wait for a connection are among them.
                let active = self.counts.requests.load(Ordering::Relaxed);
                let share = f64::from(active) * budget.percent / 100.0;
                // Rounded up, as Envoy does; a share of u32 counts fits.
                (share.ceil() as u32).max(budget.min_concurrency)
            }
        };
        enter(&self.counts.retries, limit)
    }

    pub fn active_requests(&self) -> u32 {
        self.counts.requests.load(Ordering::Relaxed)
    }

    pub fn pending_requests(&self) -> u32 {
        self.counts.pending.load(Ordering::Relaxed)
    }

    pub fn active_connections(&self) -> u32 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// The semaphore that connections are counted by; `None` without a limit.
    pub(crate) fn permits(&self) -> Option<&Arc<Semaphore>> {
        self.permits.as_ref()
    }

    pub(crate) fn connection_opened(&self) {
        self.counts.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn connection_closed(&self) {
        self.counts.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The running state of one cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Differs between two configurations of one name, so that pools never mix them.
    pub id: u64,
    pub config: Arc<cluster::Cluster>,
    default: Breaker,
    high: Breaker,
    /// How its members are spoken to.
    pub transports: Transports,
    endpoints: ArcSwap<Option<Arc<Endpoints>>>,
    /// What telemetry says of the service behind it.
    pub service: Option<Known<Service>>,
    pub stats: Arc<stats::Cluster>,
    /// Milliseconds of idleness after which its members were seen to close connections; 0: not seen.
    patience: AtomicU64,
    /// Set once it is known who its members are, or that nobody answers who they are.
    first: SetOnce<()>,
    /// Its members have changed; one who follows them is told.
    replaced: Notify,
    /// Where this proxy stands, if localities are minded.
    zones: Option<Arc<Zones>>,
    /// `None`: nobody is ejected.
    pub detector: Option<Arc<Detector>>,
    /// The members that balancers choose among.
    roster: ArcSwap<Roster>,
    /// Counts changes of members.
    membership: AtomicU64,
}

/// Consistent hashing has a place for every member, wherever it is.
fn minds_zones(config: &cluster::Cluster) -> bool {
    !matches!(
        config.lb,
        LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. }
    )
}

impl Cluster {
    /// Its balancer heeds what members ask for in `retry-after`.
    pub(crate) fn minds_waits(&self) -> bool {
        matches!(self.config.lb, cluster::LbPolicy::PeakEwma { .. })
    }

    /// `old`: the cluster of that name that ran before with another configuration. What is known of its members' health
    /// and load stays true.
    pub fn new(
        config: Arc<cluster::Cluster>,
        old: Option<&Arc<Cluster>>,
        stats: &Stats,
        secrets: &Secrets,
        zones: Option<&Arc<Zones>>,
    ) -> Cluster {
        let endpoints = match &config.discovery {
            Discovery::Static(endpoints) => Some(endpoints.clone()),
            Discovery::OriginalDst { .. } => None,
            Discovery::Eds { .. } | Discovery::StrictDns(_) | Discovery::LogicalDns(_) => {
                let same =
                    old.filter(|old| finds_the_same(&old.config.discovery, &config.discovery));
                match same {
                    Some(same) => (**same.endpoints.load()).clone(),
                    None => resolve::at_once(&config.discovery).map(Arc::new),
                }
            }
        };
        let first = SetOnce::new();
        if endpoints.is_some() || resolve::settings(&config.discovery).is_none() {
            // It is new: nobody can have set it.
            let _ = first.set(());
        }
        let before = old.map(|old| old.roster.load_full());
        let roster = match &endpoints {
            Some(endpoints) => Roster::new(endpoints, before.as_deref(), uptime()),
            None => Roster::default(),
        };
        let same = old.filter(|old| old.config.outlier == config.outlier);
        let detector = match same {
            Some(same) => same.detector.clone(),
            None => {
                // Nobody would let back in whom the old rules ejected.
                roster.clear_bar(Bar::Ejected);
                config.outlier.clone().map(Detector::new).map(Arc::new)
            }
        };
        if config.health_checks.is_empty() {
            roster.clear_bar(Bar::FailedCheck);
        }
        let name = config.alt_stat_name.as_deref().unwrap_or(&config.name);
        let same = old.filter(|old| old.config.alt_stat_name == config.alt_stat_name);
        let stats = match same {
            Some(same) => same.stats.clone(),
            None => stats::Cluster::new(stats, name),
        };
        let roster = Arc::new(roster);
        if let Some(zones) = zones.filter(|zones| zones.local.cluster == config.name) {
            zones.follow(roster.clone());
        }
        Cluster {
            stats,
            detector,
            patience: AtomicU64::new(0),
            first,
            replaced: Notify::new(),
            service: config.service.as_deref().map(labels::service),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            default: Breaker::new(config.breakers.default.clone(), old.map(|old| &old.default)),
            high: Breaker::new(config.breakers.high.clone(), old.map(|old| &old.high)),
            transports: Transports::new(&config.transport, secrets),
            endpoints: ArcSwap::from_pointee(endpoints),
            roster: ArcSwap::new(roster),
            zones: zones.cloned(),
            membership: AtomicU64::new(0),
            config,
        }
    }

    pub fn roster(&self) -> Guard<Arc<Roster>> {
        self.roster.load()
    }

    /// A member has closed a connection that had been idle for so long. What is shorter than [`FLEETING`] says nothing of
    /// an idle limit: it may have been a restart.
    pub(crate) fn closed_after(&self, idle: Duration) {
        let idle = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        if Duration::from_millis(idle) >= FLEETING {
            let shorter = |known| (known == 0 || idle < known).then_some(idle);
            // Unchanged where it is known to be shorter.
            let _ = self
                .patience
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, shorter);
        }
    }

    /// Whether a connection that has been idle for so long is likely to be closed at any moment (R5.3).
    pub(crate) fn is_about_to_close(&self, idle: Duration) -> bool {
        match self.patience.load(Ordering::Relaxed) {
            0 => false,
            known => idle.as_millis() * 10 >= u128::from(known) * 9,
        }
    }

    /// How often its members have changed.
    pub(crate) fn membership(&self) -> u64 {
        self.membership.load(Ordering::Acquire)
    }

    /// Whether connections to `address` stay, now that the members have changed.
    pub(crate) fn keeps(&self, address: &Target) -> bool {
        match &self.config.discovery {
            // An address that a name had, or that a client asked for, is good for as long as it answers.
            Discovery::LogicalDns(_) | Discovery::OriginalDst { .. } => true,
            Discovery::Static(_) | Discovery::Eds { .. } | Discovery::StrictDns(_) => {
                let roster = self.roster();
                let mut members = roster.members();
                !self.config.lb_common.close_on_host_set_change
                    && members.any(|member| member.endpoint.address == *address)
            }
        }
    }

    /// Why none of its members could be picked.
    pub fn nobody(&self) -> Reason {
        match self.roster().members().next() {
            Some(_) => Reason::NoHealthyEndpoint,
            None => Reason::NoEndpoint,
        }
    }

    /// One worker's balancer for this cluster.
    pub fn balance(&self) -> Balance {
        let panic = Panic {
            below: self.config.lb_common.panic_threshold,
            when_none: self
                .config
                .outlier
                .as_ref()
                .is_some_and(|outlier| outlier.keep_last),
        };
        let rule = self.config.lb_common.zones.clone();
        let zones = self.zones.clone();
        let zones = zones.filter(|_| minds_zones(&self.config));
        let rule = rule.unwrap_or(envoy::ZONE_AWARE);
        Balance::new(self.config.lb.clone(), panic)
            .by_locality(self.config.lb_common.locality_weighted)
            .slowly(self.config.lb_common.slow_start.clone())
            .by_zones(zones, rule)
            .by_subsets(self.config.lb_common.subsets.clone())
    }

    pub fn breaker(&self, priority: Priority) -> &Breaker {
        match priority {
            Priority::Default => &self.default,
            Priority::High => &self.high,
        }
    }

    pub(crate) fn breaker_of(&self, high: bool) -> &Breaker {
        match high {
            true => &self.high,
            false => &self.default,
        }
    }

    /// Whether a request waits because all of this cluster's connections are taken.
    pub fn is_wanted(&self) -> bool {
        self.is_at_limit()
            && [&self.default, &self.high]
                .iter()
                .any(|breaker| breaker.counts.pending.load(Ordering::Relaxed) > 0)
    }

    /// Whether `max_connections` is reached.
    pub fn is_at_limit(&self) -> bool {
        [&self.default, &self.high].iter().any(|breaker| {
            breaker
                .permits
                .as_ref()
                .is_some_and(|permits| permits.available_permits() == 0)
        })
    }

    /// Where nobody checks, nobody is out for a check that failed once.
    pub(crate) fn forget_checks(&self) {
        if self.config.health_checks.is_empty() {
            self.roster.load().clear_bar(Bar::FailedCheck);
        }
    }

    /// Takes over the members that EDS has for this cluster.
    pub fn follow(&self, endpoints: &BTreeMap<Name, Arc<Endpoints>>) {
        if let Discovery::Eds { service_name } = &self.config.discovery
            && let Some(fresh) = endpoints.get(service_name)
        {
            self.replace(fresh.clone());
        }
    }

    /// Whether its members are known, as far as they can be: only a cluster of names is not from the start.
    pub fn is_settled(&self) -> bool {
        self.first.initialized()
    }

    /// Waits until [`Cluster::is_settled`].
    pub async fn settled(&self) {
        self.first.wait().await;
    }

    /// Waits for the next change of members.
    pub(crate) async fn replaced(&self) {
        self.replaced.notified().await;
    }

    pub(crate) fn settle(&self) {
        // The first time counts.
        let _ = self.first.set(());
    }

    /// New members; the same ones again change nothing.
    pub fn replace(&self, fresh: Arc<Endpoints>) {
        let same = self
            .endpoints
            .load()
            .as_ref()
            .as_ref()
            .is_some_and(|old| Arc::ptr_eq(old, &fresh) || *old == fresh);
        if !same {
            let roster = Roster::new(&fresh, Some(&self.roster.load()), uptime());
            self.stats.membership_change.inc();
            let roster = Arc::new(roster);
            if let Some(zones) = &self.zones
                && zones.local.cluster == self.config.name
            {
                zones.follow(roster.clone());
            }
            self.roster.store(roster);
            self.endpoints.store(Arc::new(Some(fresh)));
            self.membership.fetch_add(1, Ordering::Release);
            self.replaced.notify_one();
        }
    }
}

/// Whether what one of them found is true of the other.
fn finds_the_same(old: &Discovery, new: &Discovery) -> bool {
    let names = |discovery| {
        resolve::settings(discovery).map(|(dns, logical)| (&dns.endpoints, dns.family, logical))
    };
    match (old, new) {
        (Discovery::Eds { service_name: old }, Discovery::Eds { service_name: new }) => old == new,
        _ => names(old).is_some() && names(old) == names(new),
    }
}

#[cfg(test)]
mod tests;
