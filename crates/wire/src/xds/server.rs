//! Requests of one proxy → what it is subscribed to and what it thinks of what it got; a view → the responses it is owed.
//! Without I/O.
//!
//! At most one response of a type is on its way: the next goes out when it was acknowledged or rejected, so a slow proxy
//! gets the latest version and not every one in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ripstop_model::discovery::Kind;
use ripstop_model::snapshot::Name;

use super::{
    HEALTH_URL, Interest, Protocol, Request, Response, has_legacy_wildcard, kind, type_url,
};
use crate::resource::Encoded;

/// What one proxy may see. Answers must stay the same within one call of [`Session::next_response`].
pub trait View {
    /// The resource under a name the proxy asked for; `None`: there is none (for this proxy).
    fn resource(&mut self, kind: Kind, name: &Name) -> Option<Encoded>;
    /// The names a wildcard subscription covers.
    fn names(&mut self, kind: Kind) -> Vec<Name>;
}

/// What a request said.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Subscribed {
        kind: Kind,
        names: Vec<Name>,
    },
    SubscribedAll {
        kind: Kind,
    },
    Unsubscribed {
        kind: Kind,
        names: Vec<Name>,
    },
    Acknowledged {
        kind: Kind,
        resources: Vec<(Name, Arc<str>)>,
    },
    /// The proxy keeps what it had of these. `message` names the resources and the field paths.
    Rejected {
        kind: Kind,
        resources: Vec<(Name, Arc<str>)>,
        message: String,
    },
    /// The workload's own report; `None` is healthy.
    Health(Option<String>),
}

/// A proxy may hold this many names of one type subscribed; more are ignored.
pub const MAX_NAMES: usize = 100_000;

#[derive(Debug)]
pub struct Session {
    protocol: Protocol,
    types: BTreeMap<Kind, Subscription>,
    nonce: u64,
}

#[derive(Debug, Default)]
struct Subscription {
    wildcard: bool,
    names: BTreeSet<Name>,
    sent: BTreeMap<Name, Sent>,
    pending: Option<Pending>,
    /// A response is owed even if it is empty.
    owed: bool,
    /// State of the world: something changed, so everything is sent again.
    version: u64,
}

#[derive(Debug, Clone, PartialEq)]
enum Sent {
    Version(Arc<str>),
    Absent,
}

#[derive(Debug)]
struct Pending {
    nonce: String,
    resources: Vec<(Name, Arc<str>)>,
}

impl Session {
    pub fn new(protocol: Protocol) -> Session {
        Session {
            protocol,
            types: BTreeMap::new(),
            nonce: 0,
        }
    }

    /// Takes a request. Types we do not serve are ignored: the client waits for them in vain, as the protocol has it.
    pub fn receive(&mut self, request: Request) -> Vec<Event> {
        if request.type_url == HEALTH_URL {
            return vec![Event::Health(request.error)];
        }
        let Some(kind) = kind(&request.type_url) else {
            return Vec::new();
        };
        let first = !self.types.contains_key(&kind);
        let subscription = self.types.entry(kind).or_default();
        let mut events = Vec::new();
        if !request.nonce.is_empty() {
            events.extend(subscription.answer(kind, &request));
        }
        match request.interest {
            Interest::Delta {
                subscribe,
                unsubscribe,
                held,
            } => {
                subscription.delta(kind, first, subscribe, unsubscribe, held, &mut events);
            }
            Interest::Full { names, .. } => {
                // A request that answers an older response does not speak for what is subscribed now.
                let stale = subscription.pending.as_ref().is_some_and(|pending| {
                    !request.nonce.is_empty() && pending.nonce != request.nonce
                });
                if !stale {
                    subscription.full(kind, first, names, &mut events);
                }
            }
        }
        events
    }

    /// The next response, if one is owed. Call again until `None`.
    pub fn next_response<V: View + ?Sized>(&mut self, view: &mut V) -> Option<Response> {
        for kind in Kind::ALL {
            let Some(subscription) = self.types.get_mut(kind) else {
                continue;
            };
            if subscription.pending.is_some() {
                continue;
            }
            let body = match self.protocol {
                Protocol::Delta => subscription.difference(*kind, view),
                Protocol::Full => subscription.world(*kind, view),
            };
            let Some((resources, removed)) = body else {
                continue;
            };
            self.nonce += 1;
            let nonce = self.nonce.to_string();
            subscription.pending = Some(Pending {
                nonce: nonce.clone(),
                resources: resources
                    .iter()
                    .map(|r| (r.name.clone(), r.version.clone()))
                    .collect(),
            });
            let version = subscription.version.to_string();
            if *kind == Kind::Cluster {
                self.resend_endpoints(&resources);
            }
            return Some(Response {
                type_url: type_url(*kind).to_owned(),
                nonce,
                version,
                resources,
                removed,
            });
        }
        None
    }

    /// A stock Envoy warms a changed cluster by waiting for its endpoints again, so they follow every such push.
    fn resend_endpoints(&mut self, clusters: &[Encoded]) {
        if let Some(endpoints) = self.types.get_mut(&Kind::Endpoints) {
            for cluster in clusters {
                endpoints.sent.remove(&cluster.name);
            }
        }
    }

    /// Everything that was sent and not rejected, by kind: what the proxy runs if it acknowledged it.
    pub fn subscribed(&self, kind: Kind) -> impl Iterator<Item = &Name> {
        self.types
            .get(&kind)
            .into_iter()
            .flat_map(|subscription| &subscription.names)
    }
}

impl Subscription {
    fn answer(&mut self, kind: Kind, request: &Request) -> Option<Event> {
        let pending = self
            .pending
            .take_if(|pending| pending.nonce == request.nonce)?;
        Some(match &request.error {
            None => Event::Acknowledged {
                kind,
                resources: pending.resources,
            },
            Some(message) => Event::Rejected {
                kind,
                resources: pending.resources,
                message: message.clone(),
            },
        })
    }

    fn delta(
        &mut self,
        kind: Kind,
        first: bool,
        subscribe: Vec<Name>,
        unsubscribe: Vec<Name>,
        held: Vec<(Name, String)>,
        events: &mut Vec<Event>,
    ) {
        if first && subscribe.is_empty() && has_legacy_wildcard(kind) {
            self.subscribe_all(kind, events);
        }
        for (name, version) in held {
            self.sent.insert(name, Sent::Version(version.into()));
        }
        let mut added = Vec::new();
        for name in subscribe {
            if &*name == "*" {
                self.subscribe_all(kind, events);
            } else if self.names.len() < MAX_NAMES {
                // Asking again for what is subscribed means: tell me again.
                if !self.names.insert(name.clone()) {
                    self.sent.remove(&name);
                }
                added.push(name);
            }
        }
        let mut dropped = Vec::new();
        for name in unsubscribe {
            if &*name == "*" {
                self.wildcard = false;
            } else if self.names.remove(&name) {
                if self.wildcard {
                    // The client has let go of it: what the wildcard covers is told again, the rest is taken back.
                    self.sent.insert(name.clone(), Sent::Version("".into()));
                } else {
                    self.sent.remove(&name);
                }
                dropped.push(name);
            }
        }
        if !added.is_empty() {
            events.push(Event::Subscribed { kind, names: added });
        }
        if !dropped.is_empty() {
            events.push(Event::Unsubscribed {
                kind,
                names: dropped,
            });
        }
    }

    fn full(&mut self, kind: Kind, first: bool, names: Vec<Name>, events: &mut Vec<Event>) {
        if names.is_empty() && has_legacy_wildcard(kind) && (first || self.wildcard) {
            if first {
                self.subscribe_all(kind, events);
            }
            return;
        }
        let wanted: BTreeSet<Name> = names
            .into_iter()
            .filter(|name| &**name != "*")
            .take(MAX_NAMES)
            .collect();
        let added: Vec<Name> = wanted.difference(&self.names).cloned().collect();
        let dropped: Vec<Name> = self.names.difference(&wanted).cloned().collect();
        self.owed |= !added.is_empty();
        for name in &dropped {
            self.sent.remove(name);
        }
        self.names = wanted;
        if !added.is_empty() {
            events.push(Event::Subscribed { kind, names: added });
        }
        if !dropped.is_empty() {
            events.push(Event::Unsubscribed {
                kind,
                names: dropped,
            });
        }
    }

    fn subscribe_all(&mut self, kind: Kind, events: &mut Vec<Event>) {
        self.wildcard = true;
        self.owed = true;
        events.push(Event::SubscribedAll { kind });
    }

    fn wanted<V: View + ?Sized>(&self, kind: Kind, view: &mut V) -> BTreeSet<Name> {
        let mut wanted = self.names.clone();
        if self.wildcard {
            wanted.extend(view.names(kind));
        }
        wanted
    }

    fn difference<V: View + ?Sized>(
        &mut self,
        kind: Kind,
        view: &mut V,
    ) -> Option<(Vec<Encoded>, Vec<Name>)> {
        let wanted = self.wanted(kind, view);
        let mut resources = Vec::new();
        let mut removed = Vec::new();
        for name in &wanted {
            let now = view.resource(kind, name);
            match (now, self.sent.get(name)) {
                (Some(now), Some(Sent::Version(version))) if *version == now.version => {}
                (Some(now), _) => {
                    self.sent
                        .insert(name.clone(), Sent::Version(now.version.clone()));
                    resources.push(now);
                }
                (None, Some(Sent::Absent)) => {}
                // A certificate that is not there yet is on its way; Envoy takes its removal for an error.
                (None, _) if kind == Kind::Secret => {}
                (None, _) => {
                    self.sent.insert(name.clone(), Sent::Absent);
                    removed.push(name.clone());
                }
            }
        }
        let gone: Vec<Name> = self
            .sent
            .keys()
            .filter(|name| !wanted.contains(*name))
            .cloned()
            .collect();
        for name in gone {
            if self
                .sent
                .remove(&name)
                .is_some_and(|sent| sent != Sent::Absent)
            {
                removed.push(name);
            }
        }
        let owed = std::mem::take(&mut self.owed);
        if resources.is_empty() && removed.is_empty() && !owed {
            return None;
        }
        self.version += 1;
        Some((resources, removed))
    }

    fn world<V: View + ?Sized>(
        &mut self,
        kind: Kind,
        view: &mut V,
    ) -> Option<(Vec<Encoded>, Vec<Name>)> {
        let wanted = self.wanted(kind, view);
        let resources: Vec<Encoded> = wanted
            .iter()
            .filter_map(|name| view.resource(kind, name))
            .collect();
        let sent: BTreeMap<Name, Sent> = resources
            .iter()
            .map(|r| (r.name.clone(), Sent::Version(r.version.clone())))
            .collect();
        if kind == Kind::Secret && resources.is_empty() {
            return None;
        }
        let owed = std::mem::take(&mut self.owed);
        if sent == self.sent && !owed {
            return None;
        }
        self.sent = sent;
        self.version += 1;
        Some((resources, Vec::new()))
    }
}
