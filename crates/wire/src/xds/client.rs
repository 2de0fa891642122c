//! What is wanted → requests; responses → resources, acknowledged or rejected. Without I/O.
//!
//! A response is taken resource by resource: what decodes is used, what does not is named with its field path in the
//! rejection and keeps its last good version. On a new stream the versions held are sent along, so a restarted server
//! says only what changed, and nothing is dropped until it says so (R9.3).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ripstop_model::discovery::{Key, Kind, Resource};
use ripstop_model::snapshot::Name;

use super::{
    HEALTH_URL, Interest, Protocol, Request, Response, has_legacy_wildcard, kind, type_url,
};
use crate::node::Node;
use crate::resource::{self, Rejection, Warning};

/// What a response brought.
#[derive(Debug, Default)]
pub struct Update {
    pub arrived: Vec<(Name, Resource)>,
    pub removed: Vec<Key>,
    /// Rejected resources; their last good versions stay.
    pub rejected: Vec<Rejection>,
    /// Fields that were ignored.
    pub warnings: Vec<Warning>,
}

#[derive(Debug)]
pub struct Client {
    node: Node,
    protocol: Protocol,
    types: BTreeMap<Kind, Subscription>,
    queue: VecDeque<Request>,
    /// What was last reported of the application's health: its trouble, or that there is none.
    health: Option<Option<String>>,
    /// The node goes with the first request of a stream only.
    introduced: bool,
    connected: bool,
}

#[derive(Debug, Default)]
struct Subscription {
    wildcard: bool,
    names: BTreeSet<Name>,
    /// Versions of what is held.
    held: BTreeMap<Name, String>,
    /// State of the world: the last version accepted and the last nonce seen.
    version: String,
    nonce: String,
    /// Delta: changes that no request has carried yet.
    subscribe: BTreeSet<Name>,
    unsubscribe: BTreeSet<Name>,
    /// Whether a request for the type went out on this stream.
    opened: bool,
    changed: bool,
}

impl Client {
    pub fn new(node: Node, protocol: Protocol) -> Client {
        Client {
            node,
            protocol,
            types: BTreeMap::new(),
            queue: VecDeque::new(),
            health: None,
            introduced: false,
            connected: false,
        }
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Asks for one resource by name.
    pub fn subscribe(&mut self, (kind, name): Key) {
        let subscription = self.types.entry(kind).or_default();
        if subscription.names.insert(name.clone()) {
            subscription.unsubscribe.remove(&name);
            subscription.subscribe.insert(name);
            subscription.changed = true;
        }
    }

    pub fn unsubscribe(&mut self, (kind, name): &Key) {
        let Some(subscription) = self.types.get_mut(kind) else {
            return;
        };
        if subscription.names.remove(name) {
            subscription.held.remove(name);
            subscription.subscribe.remove(name);
            subscription.unsubscribe.insert(name.clone());
            subscription.changed = true;
        }
    }

    /// Asks for everything of a type (listeners and clusters).
    pub fn subscribe_all(&mut self, kind: Kind) {
        let subscription = self.types.entry(kind).or_default();
        subscription.wildcard = true;
        subscription.changed = true;
    }

    /// Reports the application's health, or that the workload is leaving; `None` is healthy.
    ///
    /// A stream that opens later begins with it: the control plane may have heard nothing, or have forgotten it.
    pub fn report(&mut self, trouble: Option<&str>) {
        self.health = Some(trouble.map(str::to_owned));
        self.queue_health();
    }

    fn queue_health(&mut self) {
        let Some(trouble) = self.health.clone() else {
            return;
        };
        let node = self.introduction();
        self.queue.push_back(Request {
            node,
            type_url: HEALTH_URL.to_owned(),
            nonce: String::new(),
            error: trouble,
            interest: match self.protocol {
                Protocol::Delta => Interest::Delta {
                    subscribe: Vec::new(),
                    unsubscribe: Vec::new(),
                    held: Vec::new(),
                },
                Protocol::Full => Interest::Full {
                    names: Vec::new(),
                    version: String::new(),
                },
            },
        });
    }

    /// A stream has opened: everything is asked for again, with the versions held.
    pub fn connected(&mut self) {
        self.connected = true;
        self.introduced = false;
        self.queue.clear();
        for subscription in self.types.values_mut() {
            subscription.opened = false;
            subscription.changed = true;
            subscription.nonce.clear();
            subscription.unsubscribe.clear();
            subscription.subscribe = subscription.names.clone();
        }
        self.queue_health();
    }

    pub fn disconnected(&mut self) {
        self.connected = false;
        self.queue.clear();
    }

    /// The next request to send. Nothing while disconnected.
    pub fn next_request(&mut self) -> Option<Request> {
        if !self.connected {
            return None;
        }
        if let Some(request) = self.queue.pop_front() {
            return Some(request);
        }
        let protocol = self.protocol;
        let (kind, subscription) = self
            .types
            .iter_mut()
            .find(|(_, subscription)| subscription.changed)?;
        subscription.changed = false;
        let kind = *kind;
        let interest = match protocol {
            Protocol::Delta => subscription.delta(kind),
            Protocol::Full => Some(subscription.full()),
        };
        let nonce = match protocol {
            Protocol::Delta => String::new(),
            Protocol::Full => subscription.nonce.clone(),
        };
        subscription.opened = true;
        let Some(interest) = interest else {
            return self.next_request();
        };
        let node = self.introduction();
        Some(Request {
            node,
            type_url: type_url(kind).to_owned(),
            nonce,
            error: None,
            interest,
        })
    }

    /// Takes a response and queues its acknowledgement or rejection.
    pub fn receive(&mut self, response: Response) -> Update {
        let mut update = Update::default();
        let Some(kind) = kind(&response.type_url) else {
            // A type we never asked for: acknowledged, so that the server goes on.
            self.acknowledge(&response, None, None);
            return update;
        };
        let protocol = self.protocol;
        let subscription = self.types.entry(kind).or_default();
        let mut present = BTreeSet::new();
        for encoded in response.resources.iter() {
            match resource::decode(kind, &encoded.name, &encoded.bytes) {
                Ok(decoded) => {
                    let name = decoded.name;
                    subscription
                        .held
                        .insert(name.clone(), encoded.version.to_string());
                    present.insert(name.clone());
                    update.warnings.extend(decoded.warnings);
                    update.arrived.push((name, decoded.resource));
                }
                Err(rejection) => {
                    present.insert(rejection.name.clone());
                    update.rejected.push(rejection);
                }
            }
        }
        for name in &response.removed {
            subscription.held.remove(name);
            update.removed.push((kind, name.clone()));
        }
        if protocol == Protocol::Full && has_legacy_wildcard(kind) {
            let gone: Vec<Name> = subscription
                .held
                .keys()
                .filter(|name| !present.contains(*name))
                .cloned()
                .collect();
            for name in gone {
                subscription.held.remove(&name);
                update.removed.push((kind, name));
            }
        }
        let error = (!update.rejected.is_empty()).then(|| {
            let lines: Vec<String> = update.rejected.iter().map(ToString::to_string).collect();
            lines.join("\n")
        });
        self.acknowledge(&response, Some(kind), error);
        update
    }

    fn acknowledge(&mut self, response: &Response, kind: Option<Kind>, error: Option<String>) {
        let interest = match (
            self.protocol,
            kind.and_then(|kind| self.types.get_mut(&kind)),
        ) {
            (Protocol::Delta, _) => Interest::Delta {
                subscribe: Vec::new(),
                unsubscribe: Vec::new(),
                held: Vec::new(),
            },
            (Protocol::Full, Some(subscription)) => {
                subscription.nonce.clone_from(&response.nonce);
                if error.is_none() {
                    subscription.version.clone_from(&response.version);
                }
                subscription.changed = false;
                subscription.full()
            }
            (Protocol::Full, None) => Interest::Full {
                names: Vec::new(),
                version: response.version.clone(),
            },
        };
        let node = self.introduction();
        self.queue.push_back(Request {
            node,
            type_url: response.type_url.clone(),
            nonce: response.nonce.clone(),
            error,
            interest,
        });
    }

    fn introduction(&mut self) -> Option<Node> {
        (!std::mem::replace(&mut self.introduced, true)).then(|| self.node.clone())
    }
}

impl Subscription {
    /// `None`: the changes cancelled each other out.
    fn delta(&mut self, kind: Kind) -> Option<Interest> {
        let mut subscribe: Vec<Name> = std::mem::take(&mut self.subscribe).into_iter().collect();
        let unsubscribe: Vec<Name> = std::mem::take(&mut self.unsubscribe).into_iter().collect();
        let held = if self.opened {
            Vec::new()
        } else {
            self.held
                .iter()
                .map(|(name, version)| (name.clone(), version.clone()))
                .collect()
        };
        if self.wildcard && !self.opened && (!has_legacy_wildcard(kind) || !subscribe.is_empty()) {
            subscribe.push("*".into());
        }
        let first_of_all = self.wildcard && !self.opened;
        (first_of_all || !subscribe.is_empty() || !unsubscribe.is_empty()).then_some(
            Interest::Delta {
                subscribe,
                unsubscribe,
                held,
            },
        )
    }

    fn full(&mut self) -> Interest {
        self.subscribe.clear();
        self.unsubscribe.clear();
        let names = if self.wildcard {
            Vec::new()
        } else {
            self.names.iter().cloned().collect()
        };
        Interest::Full {
            names,
            version: self.version.clone(),
        }
    }
}
