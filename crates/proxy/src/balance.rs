//! Who serves the next request: members with their health and load in, one member out, and what became of it back in.
//!
//! A [`Roster`] is what all workers share of a cluster's members: immutable but for atomics. A [`Balance`] is one
//! worker's own: the algorithm and its tables, rebuilt only when the roster or somebody's health changes.
//! Panic and priorities follow Envoy (`upstream/load_balancing/{priority,panic_threshold}` of its documentation).

mod edf;
mod least_request;
mod locality;
mod maglev;
mod peak_ewma;
mod priority;
mod random;
mod ring_hash;
mod round_robin;
mod subset;
pub mod zone;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use ripstop_model::snapshot::Fraction;
use ripstop_model::snapshot::cluster::{LbPolicy, SlowStart, ZoneAware};
use ripstop_model::snapshot::endpoint::{Endpoint, Endpoints, Health, Locality, Target};
use ripstop_model::subset::{Criteria, Subsets};

use edf::Schedule;
use priority::Count;
use subset::Parts;
use zone::Zones;

/// A source of uniformly random numbers.
pub type Draw<'a> = &'a mut dyn FnMut() -> u64;

/// One way to choose. Everything given to it may be picked; who may not has been left out.
pub trait Balancer {
    /// These members, in this order, from `now` on.
    fn adopt(&mut self, members: &[Arc<Member>], now: Duration, draw: Draw<'_>);

    /// The index of one of the adopted members; `None` only if there are none.
    fn pick(&mut self, members: &[Arc<Member>], ask: &mut Ask<'_>) -> Option<usize>;

    /// A request that was picked for has ended. What is learnt is kept at the member: balancers are made anew whenever
    /// somebody's health changes.
    fn done(&self, _member: &Member, _outcome: &Outcome) {}
}

/// The table of balancers: one file and one row each. `None`: the cluster knows its one member by itself.
fn balancer(policy: &LbPolicy, slow: Option<&SlowStart>) -> Option<Box<dyn Balancer>> {
    let ramp = Ramp(slow.cloned());
    Some(match policy {
        LbPolicy::RoundRobin => Box::new(round_robin::RoundRobin::new(ramp)),
        LbPolicy::LeastRequest { choices } => {
            Box::new(least_request::LeastRequest::new(*choices, ramp))
        }
        LbPolicy::Random => Box::new(random::Random),
        LbPolicy::RingHash { min_size, max_size } => {
            Box::new(ring_hash::RingHash::new(*min_size, *max_size))
        }
        LbPolicy::Maglev { table_size } => Box::new(maglev::Maglev::new(*table_size)),
        LbPolicy::PeakEwma { decay } => Box::new(peak_ewma::PeakEwma::new(*decay)),
        LbPolicy::ClusterProvided => return None,
    })
}

/// What an attempt asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish<'a> {
    pub hash: Option<u64>,
    pub tried: &'a [Arc<Member>],
    pub shunned: Priorities,
    pub picks: Picks,
    /// What a member must have, where the cluster has subsets.
    pub criteria: Option<&'a Criteria>,
}

/// How often a member is picked anew while what is picked was tried before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Picks {
    /// Until there is one that was not tried, if there is any.
    #[default]
    Fresh,
    /// So many times more, and then the last one will do (`host_selection_retry_max_attempts`).
    Again(u32),
}

/// A [`Wish`] and what it is granted with.
pub struct Ask<'a> {
    /// The key of a consistent hash (`model::hash::key`).
    pub hash: Option<u64>,
    /// Members that earlier attempts of this request used: avoided while there is another. Empty for consistent
    /// hashing, where a retry stays (istio-api.md, ConsistentHashLB).
    pub tried: &'a [Arc<Member>],
    /// Priorities left out of account while another has somebody.
    pub shunned: Priorities,
    pub picks: Picks,
    pub criteria: Option<&'a Criteria>,
    /// How many members this choice has passed over.
    pub passed: u32,
    /// Time since a moment that never changes while the proxy runs.
    pub now: Duration,
    pub draw: Draw<'a>,
}

impl<'a> Ask<'a> {
    pub fn new(wish: Wish<'a>, now: Duration, draw: Draw<'a>) -> Ask<'a> {
        Ask {
            hash: wish.hash,
            tried: wish.tried,
            shunned: wish.shunned,
            picks: wish.picks,
            criteria: wish.criteria,
            passed: 0,
            now,
            draw,
        }
    }

    fn has_tried(&self, member: &Member) -> bool {
        let mut tried = self.tried.iter();
        tried.any(|tried| tried.endpoint.address == member.endpoint.address)
    }
}

/// A set of priorities, by their position among those that have members; those beyond the 64th are never in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Priorities(u64);

impl Priorities {
    pub fn insert(&mut self, priority: usize) {
        self.0 |= Priorities::bit(priority);
    }

    pub fn has(self, priority: usize) -> bool {
        self.0 & Priorities::bit(priority) != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn bit(priority: usize) -> u64 {
        u32::try_from(priority)
            .ok()
            .and_then(|priority| 1u64.checked_shl(priority))
            .unwrap_or(0)
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Until the response head, or the failure.
    pub latency: Duration,
    /// No response came, or a gateway's error (502 to 504).
    pub failed: bool,
    /// For so long it asked to be left alone (`retry-after`, `grpc-retry-pushback-ms`).
    pub wait: Duration,
    pub now: Duration,
}

/// Why a member is out, whatever its endpoint says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Bar {
    /// Outlier detection.
    Ejected = 1,
    /// Active health checks.
    FailedCheck = 2,
    /// Active health checks say that it serves, but better not: used where those that are well do not suffice.
    Degraded = 4,
}

/// What is measured and decided about an address. Outlives rosters, shared by all workers.
#[derive(Debug, Default)]
pub struct Load {
    active: AtomicU32,
    bars: AtomicU8,
    /// Peak-sensitive average of latency, and when it was last fed; nanoseconds. Two workers may overwrite each other's
    /// sample: an average can bear that.
    ewma: AtomicU64,
    fed: AtomicU64,
    pub(crate) health: crate::health::outlier::Counters,
    pub usage: crate::stats::Usage,
    /// A health check has judged it.
    checked: AtomicBool,
    /// When it came, or passed its health checks again; nanoseconds.
    since: AtomicU64,
}

impl Load {
    /// Requests under way.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    pub(crate) fn checked(&self) -> bool {
        self.checked.load(Ordering::Relaxed)
    }

    pub(crate) fn set_checked(&self) {
        self.checked.store(true, Ordering::Relaxed);
    }

    pub fn is_barred(&self, bar: Bar) -> bool {
        self.bars.load(Ordering::Relaxed) & bar as u8 != 0
    }

    /// It is to be treated as new.
    pub(crate) fn begins(&self, now: Duration) {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.since.store(now, Ordering::Relaxed);
    }

    pub(crate) fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_nanos(self.since.load(Ordering::Relaxed)))
    }
}

/// One endpoint as the balancers see it.
#[derive(Debug)]
pub struct Member {
    pub endpoint: Endpoint,
    pub locality: Arc<Locality>,
    /// What its locality is due among the others of its priority; 0 where nothing is said.
    locality_weight: u32,
    pub load: Arc<Load>,
    /// What its own weight counts for: its locality's share where hashing minds localities, else 1.
    scale: f64,
    /// `address:port`: what consistent hashing hashes, as Envoy does.
    key: String,
}

impl Member {
    /// Neither its endpoint nor any bar says otherwise.
    pub fn is_usable(&self) -> bool {
        let bars = self.load.bars.load(Ordering::Relaxed) & !(Bar::Degraded as u8);
        self.endpoint.health.is_usable() && bars == 0
    }

    /// Usable, but better not.
    pub fn is_degraded(&self) -> bool {
        let says_so = self.endpoint.health == Health::Degraded;
        self.is_usable() && (says_so || self.load.is_barred(Bar::Degraded))
    }

    fn weight(&self) -> f64 {
        f64::from(self.endpoint.weight.max(1)) * self.scale
    }

    fn scaled(&self, scale: f64) -> Member {
        Member {
            endpoint: self.endpoint.clone(),
            locality: self.locality.clone(),
            locality_weight: self.locality_weight,
            load: self.load.clone(),
            scale,
            key: self.key.clone(),
        }
    }
}

fn key(target: &Target) -> String {
    match target {
        Target::Socket(address) => address.to_string(),
        Target::Name { host, port } => format!("{host}:{port}"),
        Target::Pipe(path) => path.display().to_string(),
    }
}

/// A cluster's members, by priority.
#[derive(Debug, Default)]
pub struct Roster {
    tiers: Vec<Vec<Arc<Member>>>,
    overprovisioning: u32,
    /// Counts changes of health; shared with the rosters before and after.
    changes: Arc<AtomicU64>,
}

impl Roster {
    /// Load and bars of addresses that `old` had are kept; the others come `now`, as in [`Ask`].
    pub fn new(endpoints: &Endpoints, old: Option<&Roster>, now: Duration) -> Roster {
        let known: HashMap<&Target, &Arc<Load>> = old
            .into_iter()
            .flat_map(Roster::members)
            .map(|member| (&member.endpoint.address, &member.load))
            .collect();
        let mut tiers: Vec<(u32, Vec<Arc<Member>>)> = Vec::new();
        for group in &endpoints.groups {
            let locality = Arc::new(group.locality.clone());
            let members = group.endpoints.iter().map(|endpoint| {
                let load = match known.get(&endpoint.address) {
                    Some(load) => Arc::clone(load),
                    None => {
                        let load = Load::default();
                        load.begins(now);
                        Arc::new(load)
                    }
                };
                Arc::new(Member {
                    endpoint: endpoint.clone(),
                    locality: locality.clone(),
                    locality_weight: group.weight.unwrap_or(0),
                    scale: 1.0,
                    load,
                    key: key(&endpoint.address),
                })
            });
            match tiers.iter_mut().find(|tier| tier.0 == group.priority) {
                Some(tier) => tier.1.extend(members),
                None => tiers.push((group.priority, members.collect())),
            }
        }
        tiers.sort_by_key(|tier| tier.0);
        Roster {
            tiers: tiers.into_iter().map(|tier| tier.1).collect(),
            overprovisioning: endpoints.overprovisioning,
            changes: old.map(|old| old.changes.clone()).unwrap_or_default(),
        }
    }

    /// Some of the members, at the same priorities; whose health changes here changes there.
    fn part(&self, has: &dyn Fn(&Member) -> bool) -> Roster {
        let some = |tier: &Vec<Arc<Member>>| -> Vec<Arc<Member>> {
            let some = tier.iter().filter(|member| has(member));
            some.cloned().collect()
        };
        Roster {
            tiers: self.tiers.iter().map(some).collect(),
            overprovisioning: self.overprovisioning,
            changes: self.changes.clone(),
        }
    }

    pub fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.tiers.iter().flatten()
    }

    /// As [`Roster::members`], each with its tier: 0 for the lowest priority number that has members.
    pub fn by_priority(&self) -> impl Iterator<Item = (u32, &Arc<Member>)> {
        let tiers = (0u32..).zip(&self.tiers);
        tiers.flat_map(|(tier, members)| members.iter().map(move |member| (tier, member)))
    }

    /// Takes a member out for this reason, or lets it back in; every worker sees it at its next pick.
    pub fn set_bar(&self, load: &Load, bar: Bar, on: bool) {
        match on {
            true => load.bars.fetch_or(bar as u8, Ordering::Relaxed),
            false => load.bars.fetch_and(!(bar as u8), Ordering::Relaxed),
        };
        self.changes.fetch_add(1, Ordering::Release);
    }
}

impl Roster {
    /// Lets back in whoever is out for this reason.
    pub fn clear_bar(&self, bar: Bar) {
        for member in self.members().filter(|member| member.load.is_barred(bar)) {
            self.set_bar(&member.load, bar, false);
        }
    }
}

/// When unhealthy members are used all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panic {
    /// Below this share of usable members, all are used.
    pub below: Fraction,
    /// Where none is usable all are used, whatever the threshold (R20.1).
    pub when_none: bool,
}

/// A member with a request on it: counted as active until dropped.
#[derive(Debug)]
pub struct Picked {
    pub member: Arc<Member>,
    /// Its priority, by position.
    pub priority: usize,
    /// Picked although perhaps unhealthy, because too few were healthy.
    pub panic: bool,
}

impl Picked {
    /// A member that needed no choice: the address a client asked for.
    pub fn alone(address: SocketAddr) -> Picked {
        let target = Target::Socket(address);
        let member = Member {
            key: key(&target),
            endpoint: Endpoint {
                address: target,
                weight: 1,
                health: Health::Unknown,
                hostname: None,
                transport: BTreeMap::new(),
                labels: BTreeMap::new(),
                workload: None,
            },
            locality: Arc::default(),
            locality_weight: 0,
            scale: 1.0,
            load: Arc::default(),
        };
        member.load.active.fetch_add(1, Ordering::Relaxed);
        Picked {
            member: Arc::new(member),
            priority: 0,
            panic: false,
        }
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.member.load.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One worker's balancer of one cluster.
pub struct Balance {
    policy: LbPolicy,
    panic: Panic,
    /// Requests are spread over localities by their weights, and then within one.
    by_locality: bool,
    slow: Option<SlowStart>,
    zones: Option<Nearby>,
    /// Where all members would serve in a panic, nobody does.
    fails_in_panic: bool,
    /// Hears how requests ended, whoever picked for them.
    learner: Option<Box<dyn Balancer>>,
    /// In place of all that follows: each subset balances by itself.
    subsets: Option<Box<Parts>>,
    roster: Arc<Roster>,
    /// The roster's changes that the tiers have taken in.
    seen: Option<u64>,
    /// Of each priority.
    counts: Vec<Count>,
    /// Those that are well, by priority; then those that are degraded, as far as they are needed.
    tiers: Vec<Tier>,
}

/// What zone aware routing goes by.
struct Nearby {
    zones: Arc<Zones>,
    rule: ZoneAware,
    /// The local cluster's members, and the changes of their health, that the tiers have taken in.
    seen: (Arc<Roster>, u64),
}

struct Tier {
    /// By position.
    priority: usize,
    degraded: bool,
    /// Percent of the requests.
    share: u32,
    panic: bool,
    pools: Vec<Pool>,
    /// Which pool is next, where there are several.
    order: Option<Schedule>,
    /// The same, where it is by zones: the pools are localities, and after them all of them as one.
    zones: Option<(zone::Plan, Fraction)>,
}

/// Members among whom a balancer chooses: a locality's, or all of a priority.
struct Pool {
    weight: f64,
    members: Vec<Arc<Member>>,
    balancer: Box<dyn Balancer>,
}

impl Balance {
    pub fn new(policy: LbPolicy, panic: Panic) -> Balance {
        Balance {
            learner: balancer(&policy, None),
            policy,
            panic,
            by_locality: false,
            slow: None,
            zones: None,
            fails_in_panic: false,
            subsets: None,
            roster: Arc::default(),
            seen: None,
            counts: Vec::new(),
            tiers: Vec::new(),
        }
    }

    /// Minds the weights of localities (Envoy's `locality_weighted_lb_config`).
    pub fn by_locality(mut self, on: bool) -> Balance {
        self.by_locality = on;
        self
    }

    /// Gives members that are new less, and more as time goes by (Envoy's `slow_start_config`).
    pub fn slowly(mut self, slow: Option<SlowStart>) -> Balance {
        self.slow = slow;
        self
    }

    /// Keeps requests in this proxy's own locality (Envoy's `zone_aware_lb_config`); without `zones` they are not minded.
    pub fn by_zones(mut self, zones: Option<Arc<Zones>>, rule: ZoneAware) -> Balance {
        self.fails_in_panic = rule.fail_on_panic;
        self.zones = zones.map(|zones| Nearby {
            zones,
            rule,
            seen: (Arc::default(), 0),
        });
        self
    }

    /// Serves each subset by a balancer of its own, without regard to localities (Envoy's `lb_subset_config`). Comes last.
    pub fn by_subsets(mut self, rules: Option<Arc<Subsets>>) -> Balance {
        let (policy, panic, slow) = (self.policy.clone(), self.panic, self.slow.clone());
        let fails = self.fails_in_panic;
        let like = move || Balance {
            fails_in_panic: fails,
            ..Balance::new(policy.clone(), panic).slowly(slow.clone())
        };
        self.subsets = rules.map(|rules| Box::new(Parts::new(rules, Box::new(like))));
        self
    }

    /// Picks among the members of `roster`, which is compared by pointer with the one of the last pick. `None`: nobody
    /// may be picked.
    pub fn pick(&mut self, roster: &Arc<Roster>, ask: &mut Ask<'_>) -> Option<Picked> {
        if let Some(subsets) = &mut self.subsets {
            return subsets.pick(roster, ask);
        }
        if !Arc::ptr_eq(&self.roster, roster) {
            self.roster = roster.clone();
            self.seen = None;
        }
        if let Some(nearby) = &mut self.zones
            && nearby.has_changed()
        {
            self.seen = None;
        }
        let changes = roster.changes.load(Ordering::Acquire);
        if self.seen != Some(changes) {
            self.refresh(ask);
            self.seen = Some(changes);
        }
        let (tier, member) = self.choose(ask)?;
        member.load.active.fetch_add(1, Ordering::Relaxed);
        Some(Picked {
            member,
            priority: tier.priority,
            panic: tier.panic,
        })
    }

    /// As the balancer says; a member that was tried is picked again as [`Picks`] says.
    fn choose(&mut self, ask: &mut Ask<'_>) -> Option<(&Tier, Arc<Member>)> {
        /// Fresh picks before the first untried member is taken (Istio sets `host_selection_retry_max_attempts: 5`).
        const FRESH: u32 = 5;
        /// More would be a loop without end, for whoever configures it.
        const MOST: u32 = 1000;
        let most = match ask.picks {
            Picks::Fresh => FRESH,
            Picks::Again(times) => times.saturating_add(1).min(MOST),
        };
        loop {
            let at = match self.tiers.len() {
                1 => 0,
                _ => self.draw(ask)?,
            };
            let tier = self.tiers.get_mut(at)?;
            let member = tier.pick(ask)?;
            ask.passed += 1;
            let fresh = !ask.has_tried(&member);
            if fresh || ask.passed >= most {
                let other = match (fresh, ask.picks) {
                    (true, _) | (_, Picks::Again(_)) => None,
                    (false, Picks::Fresh) => tier.untried(ask),
                };
                let tier = self.tiers.get(at)?;
                return Some((tier, other.unwrap_or(member)));
            }
        }
    }

    /// Draws a tier by the shares, or by what they are without the priorities that are shunned.
    fn draw(&self, ask: &mut Ask<'_>) -> Option<usize> {
        let shares: Vec<u32> = match ask.shunned.is_empty() {
            true => self.tiers.iter().map(|tier| tier.share).collect(),
            false => self.shares_without(ask.shunned),
        };
        let last = shares.iter().rposition(|share| *share > 0)?;
        let mut rest = ((ask.draw)() % 100) as u32;
        for (index, share) in shares.iter().enumerate() {
            match rest.checked_sub(*share) {
                Some(left) => rest = left,
                None => return Some(index),
            }
        }
        Some(last)
    }

    fn shares_without(&self, shunned: Priorities) -> Vec<u32> {
        let counts: Vec<Count> = self
            .counts
            .iter()
            .enumerate()
            .map(|(priority, count)| match shunned.has(priority) {
                true => Count {
                    all: count.all,
                    ..Count::default()
                },
                false => *count,
            })
            .collect();
        let strict = Panic {
            below: Fraction::NEVER,
            when_none: false,
        };
        let parts = priority::plan(&counts, self.roster.overprovisioning, strict);
        match parts.iter().any(|part| part.share + part.degraded > 0) {
            true => {
                let share = |tier: &Tier| {
                    let part = parts.get(tier.priority);
                    part.map_or(0, |part| match tier.degraded {
                        true => part.degraded,
                        false => part.share,
                    })
                };
                self.tiers.iter().map(share).collect()
            }
            // All that is left is what is shunned.
            false => self.tiers.iter().map(|tier| tier.share).collect(),
        }
    }

    /// Feeds back how a request ended.
    pub fn done(&self, picked: &Picked, outcome: &Outcome) {
        if let Some(learner) = &self.learner {
            learner.done(&picked.member, outcome);
        }
    }

    /// Works out who may be picked.
    fn refresh(&mut self, ask: &mut Ask<'_>) {
        self.tiers.clear();
        let roster = self.roster.clone();
        self.counts = roster.tiers.iter().map(|tier| Count::of(tier)).collect();
        let plan = priority::plan(&self.counts, roster.overprovisioning, self.panic);
        let parts = || roster.tiers.iter().zip(&plan).enumerate();
        for (priority, (all, part)) in parts() {
            let panic = part.panic && part.share > 0;
            let nobody = panic && self.fails_in_panic;
            let may = |member: &Member| {
                !nobody && (panic || (member.is_usable() && !member.is_degraded()))
            };
            let tier = Tier {
                panic,
                ..Tier::new(priority, part.share, false)
            };
            self.add(tier, all, &may, ask);
        }
        for (priority, (all, part)) in parts().filter(|(_, (_, part))| part.degraded > 0) {
            let tier = Tier::new(priority, part.degraded, true);
            self.add(tier, all, &Member::is_degraded, ask);
        }
    }

    /// Adds a tier with those of `all` who may be in it.
    fn add(
        &mut self,
        mut tier: Tier,
        all: &[Arc<Member>],
        may: &dyn Fn(&Member) -> bool,
        ask: &mut Ask<'_>,
    ) {
        let members: Vec<Arc<Member>> = all.iter().filter(|member| may(member)).cloned().collect();
        let weights = match self.by_locality {
            true => locality::weights(all, &members, self.roster.overprovisioning),
            false => Vec::new(),
        };
        if weights.is_empty()
            && tier.priority == 0
            && !tier.degraded
            && !tier.panic
            && self.add_by_zones(&mut tier, all, &members, ask)
        {
            self.tiers.push(tier);
            return;
        }
        let hashed = matches!(
            self.policy,
            LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. }
        );
        let groups = match (weights.is_empty(), hashed) {
            (true, _) => vec![(1.0, members)],
            (false, true) => vec![(1.0, locality::scaled(&members, &weights))],
            (false, false) => locality::groups(&members, &weights),
        };
        for (weight, members) in groups {
            let Some(mut balancer) = balancer(&self.policy, self.slow.as_ref()) else {
                return;
            };
            balancer.adopt(&members, ask.now, ask.draw);
            tier.pools.push(Pool {
                weight,
                members,
                balancer,
            });
        }
        if tier.pools.len() > 1 {
            let weights = tier.pools.iter().map(|pool| pool.weight);
            tier.order = Some(Schedule::new(weights, ask.draw));
        }
        self.tiers.push(tier);
    }
}

impl Balance {
    /// A pool for each locality, and one of all. False where localities are not minded.
    fn add_by_zones(
        &self,
        tier: &mut Tier,
        all: &[Arc<Member>],
        members: &[Arc<Member>],
        ask: &mut Ask<'_>,
    ) -> bool {
        let Some(nearby) = &self.zones else {
            return false;
        };
        let own = &nearby.zones.local.locality;
        let locals = nearby.seen.0.tiers.first().map_or(&[][..], Vec::as_slice);
        let well = |member: &&Arc<Member>| member.is_usable() && !member.is_degraded();
        let up: Vec<Arc<Member>> = locals.iter().filter(well).cloned().collect();
        let groups = zone::groups(all, members, own);
        let Some(plan) = zone::Plan::new(&nearby.rule, own, &groups, &up) else {
            return false;
        };
        let usable = locals.iter().filter(|member| member.is_usable()).count();
        let share = usable as u64 * 1_000_000 / locals.len().max(1) as u64;
        if share < u64::from(self.panic.below.as_millionths()) {
            // The proxies themselves are in a panic: what they see of the others says little.
            return self.fails_in_panic;
        }
        let groups = groups.into_iter().map(|(_, members)| members);
        for members in groups.chain([members.to_vec()]) {
            let Some(mut balancer) = balancer(&self.policy, self.slow.as_ref()) else {
                return false;
            };
            balancer.adopt(&members, ask.now, ask.draw);
            tier.pools.push(Pool {
                weight: 1.0,
                members,
                balancer,
            });
        }
        tier.zones = Some((plan, nearby.rule.enabled));
        true
    }
}

impl Nearby {
    /// Takes in what the local cluster is now.
    fn has_changed(&mut self) -> bool {
        let roster = self.zones.roster();
        let changes = roster.changes.load(Ordering::Acquire);
        let same = Arc::ptr_eq(&self.seen.0, &roster) && self.seen.1 == changes;
        if !same {
            self.seen = (roster, changes);
        }
        !same
    }
}

impl Tier {
    fn new(priority: usize, share: u32, degraded: bool) -> Tier {
        Tier {
            priority,
            degraded,
            share,
            panic: false,
            pools: Vec::new(),
            order: None,
            zones: None,
        }
    }

    fn pick(&mut self, ask: &mut Ask<'_>) -> Option<Arc<Member>> {
        let pools = &self.pools;
        let weight = |index: usize| pools.get(index).map_or(0.0, |pool: &Pool| pool.weight);
        let next = match &mut self.order {
            Some(order) => order.next(weight)?,
            None => match &self.zones {
                None => 0,
                Some((plan, enabled)) if enabled.holds((ask.draw)()) => plan.choose(ask.draw),
                Some(_) => self.pools.len() - 1,
            },
        };
        let pool = self.pools.get_mut(next)?;
        let index = pool.balancer.pick(&pool.members, ask)?;
        pool.members.get(index).cloned()
    }

    /// Some member that was not tried; any of them, so that not all retries go to one.
    fn untried(&self, ask: &mut Ask<'_>) -> Option<Arc<Member>> {
        let members = self.pools.iter().flat_map(|pool| &pool.members);
        let untried: Vec<&Arc<Member>> = members.filter(|member| !ask.has_tried(member)).collect();
        let index = random::below(untried.len(), ask)?;
        untried.get(index).map(|member| Arc::clone(member))
    }
}

/// How much of its weight a member that is new counts for.
#[derive(Debug, Default)]
struct Ramp(Option<SlowStart>);

impl Ramp {
    /// Whether some member is new.
    fn is_climbed(&self, members: &[Arc<Member>], now: Duration) -> bool {
        members.iter().any(|member| self.part(member, now) < 1.0)
    }

    fn weight(&self, members: &[Arc<Member>], index: usize, now: Duration) -> f64 {
        let weight = |member: &Arc<Member>| member.weight() * self.part(member, now);
        members.get(index).map_or(1.0, weight)
    }

    /// Envoy's formula: the elapsed part of the window to the power of 1/aggression, and not less than the least.
    fn part(&self, member: &Member, now: Duration) -> f64 {
        let Some(slow) = &self.0 else { return 1.0 };
        let age = member.load.age(now);
        if age >= slow.window {
            return 1.0;
        }
        let aggression = match slow.aggression > 0.0 {
            true => slow.aggression,
            false => 1.0,
        };
        let elapsed = age.max(Duration::from_millis(1)).as_secs_f64() / slow.window.as_secs_f64();
        let part = elapsed.powf(1.0 / aggression);
        part.max(slow.min_percent / 100.0).min(1.0)
    }
}

#[cfg(test)]
mod tests;
