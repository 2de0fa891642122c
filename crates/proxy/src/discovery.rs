//! What this proxy needs → what it subscribes to; what arrives → what is ready to run. Sans-io: the xDS stream is driven by
//! its caller, time comes in as an argument.
//!
//! A sidecar holds only what it uses. The *roots* are what somebody asked for: a host by name (DNS), a listener by its
//! address (the first connection), and the listeners it is told to hold. From each root the references are followed:
//! listener → routes → clusters → endpoints. A resource is *published* once everything it refers to is there or known not
//! to exist, so a new route never runs before its new cluster (make before break); until then its last published version
//! keeps serving. Roots that nobody used for a while are dropped with everything only they needed.
//!
//! Some types come unasked: with a control plane that pushes everything (a bootstrap with wildcard LDS and CDS) every
//! listener and cluster, and to a sidecar the hosts, so that names resolve when there is nobody to ask (docs/decisions/0003).
//! Each one that arrives is then a root.

pub mod follow;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub use ripstop_model::discovery::{Key, Kind, Resource};
use ripstop_model::snapshot::{Name, Snapshot};

/// A change of what should be subscribed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Subscribe(Key),
    Unsubscribe(Key),
}

/// The answer to a first use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// It and everything it needs is published.
    Ready,
    /// The control plane says there is no such thing.
    Absent,
    /// Asked for; ask again after the next update, at the latest at this time.
    Pending { until: Instant },
    /// No answer in time. The next use asks again.
    TimedOut,
}

#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a first use waits.
    pub wait: Duration,
    /// How long "there is none" is believed.
    pub negative: Duration,
    /// How long an unused root is held.
    pub idle: Duration,
    /// Of these types everything is subscribed, and what arrives is a root until it is taken back.
    pub wildcards: &'static [Kind],
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            wait: Duration::from_secs(5),
            negative: Duration::from_secs(5),
            idle: Duration::from_secs(15 * 60),
            wildcards: &[],
        }
    }
}

#[derive(Debug)]
pub struct Discovery {
    settings: Settings,
    roots: BTreeMap<Key, Root>,
    held: BTreeMap<Key, Held>,
    published: Snapshot,
    changes: Vec<Change>,
}

#[derive(Debug, Clone, Copy)]
struct Root {
    used: Instant,
    /// Told to hold, or came unasked: never idle.
    permanent: bool,
    /// When the first use started to wait, while there is no answer.
    asked: Instant,
}

/// What is known of a subscribed resource.
#[derive(Debug, Clone, PartialEq)]
enum Held {
    Asked,
    Present(Resource),
    /// The control plane answered that it does not exist.
    Absent(Instant),
}

impl Discovery {
    pub fn new(settings: Settings) -> Discovery {
        Discovery {
            settings,
            roots: BTreeMap::new(),
            held: BTreeMap::new(),
            published: Snapshot::default(),
            changes: Vec::new(),
        }
    }

    /// Holds a resource from now on, used or not.
    pub fn hold(&mut self, key: Key, now: Instant) {
        let root = self.roots.entry(key).or_insert(Root {
            used: now,
            permanent: true,
            asked: now,
        });
        root.permanent = true;
        self.settle();
    }

    /// A use of a root: asks for it when it is not held. Only [`Kind::Host`] and [`Kind::Listener`] are asked for by use.
    pub fn want(&mut self, key: &Key, now: Instant) -> Readiness {
        if let Some(Held::Absent(since)) = self.held.get(key)
            && now.saturating_duration_since(*since) >= self.settings.negative
        {
            // The answer is stale: ask anew.
            self.roots.remove(key);
            self.settle();
        }
        let root = self.roots.entry(key.clone()).or_insert(Root {
            used: now,
            permanent: false,
            asked: now,
        });
        root.used = now;
        if !self.held.contains_key(key) {
            self.settle();
        }
        self.readiness(key, now)
    }

    /// Where a wanted root stands. A timed-out root is forgotten when nothing of it arrived, so that the next use asks again.
    pub fn readiness(&mut self, key: &Key, now: Instant) -> Readiness {
        if matches!(self.held.get(key), Some(Held::Absent(_))) {
            return Readiness::Absent;
        }
        if self.is_published(key) {
            return Readiness::Ready;
        }
        let Some(root) = self.roots.get(key) else {
            return Readiness::TimedOut;
        };
        let until = root.asked + self.settings.wait;
        if now < until {
            return Readiness::Pending { until };
        }
        if !root.permanent && matches!(self.held.get(key), None | Some(Held::Asked)) {
            self.roots.remove(key);
            self.settle();
        } else if let Some(root) = self.roots.get_mut(key) {
            root.asked = now;
        }
        Readiness::TimedOut
    }

    /// Takes one response of the stream. Returns whether the published snapshot changed.
    pub fn update(
        &mut self,
        arrived: Vec<(Name, Resource)>,
        removed: &[Key],
        now: Instant,
    ) -> bool {
        for (name, resource) in arrived {
            let key = (resource.kind(), name);
            if self.settings.wildcards.contains(&key.0) {
                // One that was asked for by name stays what it is: let go when it is idle, and then told unasked.
                self.roots.entry(key.clone()).or_insert(Root {
                    used: now,
                    permanent: true,
                    asked: now,
                });
            } else if !self.held.contains_key(&key) {
                // Not asked for (any more): a late answer to a dropped subscription.
                continue;
            }
            self.held.insert(key, Held::Present(resource));
        }
        for key in removed {
            let unasked = self.settings.wildcards.contains(&key.0)
                && self.roots.get(key).is_some_and(|root| root.permanent);
            if unasked {
                self.roots.remove(key);
                self.held.remove(key);
            } else if let Some(held) = self.held.get_mut(key) {
                *held = Held::Absent(now);
            }
        }
        self.settle()
    }

    /// Marks the listeners among the roots that are in use: a listener that is held is not asked for again, so only its
    /// connections tell.
    pub fn touch(&mut self, now: Instant, mut in_use: impl FnMut(&Name) -> bool) {
        for ((kind, name), root) in &mut self.roots {
            if *kind == Kind::Listener && !root.permanent && in_use(name) {
                root.used = now;
            }
        }
    }

    /// Drops roots that were not used for long. Returns whether the published snapshot changed.
    pub fn sweep(&mut self, now: Instant) -> bool {
        let idle = self.settings.idle;
        let negative = self.settings.negative;
        let held = &self.held;
        self.roots.retain(|key, root| {
            let absent = matches!(held.get(key), Some(Held::Absent(since)) if now.saturating_duration_since(*since) >= negative);
            root.permanent || (!absent && now.saturating_duration_since(root.used) < idle)
        });
        self.settle()
    }

    /// The subscriptions that changed since the last call.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Everything that is subscribed, for a new stream.
    pub fn subscriptions(&self) -> impl Iterator<Item = &Key> {
        self.held.keys()
    }

    /// What is ready to run.
    pub fn published(&self) -> &Snapshot {
        &self.published
    }

    fn is_published(&self, (kind, name): &Key) -> bool {
        let published = &self.published;
        match kind {
            Kind::Ranges | Kind::Secret => matches!(
                self.held.get(&(*kind, name.clone())),
                Some(Held::Present(_))
            ),
            Kind::Host => published.hosts.contains_key(name),
            Kind::Listener => published.listeners.contains_key(name),
            Kind::Route => published.routes.contains_key(name),
            Kind::Cluster => published.clusters.contains_key(name),
            Kind::Endpoints => published.endpoints.contains_key(name),
        }
    }

    /// Follows the references from the roots, notes what to subscribe and unsubscribe, and publishes what is complete.
    fn settle(&mut self) -> bool {
        let mut changed = false;
        loop {
            self.follow();
            let next = self.complete();
            if next == self.published {
                return changed;
            }
            // What only the previous version needed can go now: once more.
            self.published = next;
            changed = true;
        }
    }

    fn follow(&mut self) {
        let needed = self.needed();
        let dropped: Vec<Key> = self
            .held
            .keys()
            .filter(|key| !needed.contains(*key))
            .cloned()
            .collect();
        for key in dropped {
            self.held.remove(&key);
            self.changes.push(Change::Unsubscribe(key));
        }
        for key in needed {
            if let Entry::Vacant(slot) = self.held.entry(key.clone()) {
                slot.insert(Held::Asked);
                self.changes.push(Change::Subscribe(key));
            }
        }
    }

    /// Roots and everything reachable from their latest and their published versions.
    fn needed(&self) -> BTreeSet<Key> {
        let mut needed = BTreeSet::new();
        let mut queue: Vec<Key> = self.roots.keys().cloned().collect();
        while let Some(key) = queue.pop() {
            if !needed.insert(key.clone()) {
                continue;
            }
            if let Some(Held::Present(resource)) = self.held.get(&key) {
                queue.extend(resource.references());
            }
            if let Some(resource) = self.published_resource(&key) {
                queue.extend(resource.references());
            }
        }
        needed
    }

    fn published_resource(&self, (kind, name): &Key) -> Option<Resource> {
        let published = &self.published;
        match kind {
            Kind::Ranges | Kind::Secret => None,
            Kind::Host => published.hosts.get(name).cloned().map(Resource::Host),
            Kind::Listener => published
                .listeners
                .get(name)
                .cloned()
                .map(Resource::Listener),
            Kind::Route => published.routes.get(name).cloned().map(Resource::Route),
            Kind::Cluster => published.clusters.get(name).cloned().map(Resource::Cluster),
            Kind::Endpoints => published
                .endpoints
                .get(name)
                .cloned()
                .map(Resource::Endpoints),
        }
    }

    /// Each type in the order of dependency: the latest version where what it refers to is settled, else the last published.
    fn complete(&self) -> Snapshot {
        let mut next = Snapshot::default();
        let mut waiting: BTreeSet<Key> = BTreeSet::new();
        for kind in [
            Kind::Ranges,
            Kind::Host,
            Kind::Endpoints,
            Kind::Cluster,
            Kind::Route,
            Kind::Listener,
        ] {
            let first = (kind, Name::from(""));
            for (key, held) in self
                .held
                .range(first..)
                .take_while(|(key, _)| key.0 == kind)
            {
                match held {
                    Held::Absent(_) => {}
                    Held::Asked => {
                        waiting.insert(key.clone());
                    }
                    Held::Present(resource) => {
                        let settled = !resource
                            .references()
                            .iter()
                            .any(|reference| waiting.contains(reference));
                        if settled {
                            insert(&mut next, &key.1, resource.clone());
                        } else if let Some(previous) = self.published_resource(key) {
                            insert(&mut next, &key.1, previous);
                        } else {
                            waiting.insert(key.clone());
                        }
                    }
                }
            }
        }
        next
    }
}

fn insert(snapshot: &mut Snapshot, name: &Name, resource: Resource) {
    let name = name.clone();
    match resource {
        Resource::Ranges(ranges) => snapshot.ranges = ranges,
        // Certificates are not part of a snapshot: who asked for them keeps them.
        Resource::Secret(_) => {}
        Resource::Host(host) => drop(snapshot.hosts.insert(name, host)),
        Resource::Listener(listener) => drop(snapshot.listeners.insert(name, listener)),
        Resource::Route(route) => drop(snapshot.routes.insert(name, route)),
        Resource::Cluster(cluster) => drop(snapshot.clusters.insert(name, cluster)),
        Resource::Endpoints(endpoints) => drop(snapshot.endpoints.insert(name, endpoints)),
    }
}

#[cfg(test)]
mod tests;
