//! TLS sessions kept for resumption, dropped whenever the trust bundle or the own certificate changes.
//!
//! A resumed handshake shows no certificate, so a session must not outlive what it was verified with; and a client that
//! resumed with its old certificate would be refused once that one expires. A ticket does not say when its handshake began,
//! so for a while after a change ([`SETTLE`]) a client keeps none.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::server::StoresServerSessions;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::{ServerName, UnixTime};

use super::Slot;
use crate::bundle::Trust;
use crate::verify::Demand;

/// Sessions a server keeps: each holds the client's chain, about 2 KB.
const SERVER_SESSIONS: usize = 64;
/// Server names a client configuration keeps sessions for; a cluster has one, seldom more.
const CLIENT_NAMES: usize = 8;
const TICKETS_PER_NAME: usize = 2;
/// For the tickets of handshakes that began before a change, which come with the first bytes of the server, to have come.
const SETTLE: Duration = Duration::from_secs(60);

/// The versions of trust and certificate that sessions depend on.
#[derive(Debug)]
pub(super) struct Epochs {
    trust: Option<Arc<Trust>>,
    slots: Vec<Arc<Slot>>,
}

impl Epochs {
    pub(super) fn new(demand: Option<&Demand>, slots: Vec<Arc<Slot>>) -> Epochs {
        let trust = match demand {
            Some(Demand::Mesh { trust, .. }) => Some(Arc::clone(trust)),
            _ => None,
        };
        Epochs { trust, slots }
    }

    fn now(&self) -> (u64, u64) {
        let certificates = self.slots.iter().map(|s| s.epoch()).sum();
        (self.trust.as_ref().map_or(0, |t| t.epoch()), certificates)
    }
}

/// A poisoned lock only means that a thread panicked between two whole operations on a cache.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
pub(super) struct ServerSessions {
    epochs: Epochs,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    epoch: (u64, u64),
    /// Key and value, oldest first.
    sessions: VecDeque<(Vec<u8>, Vec<u8>)>,
}

impl ServerSessions {
    pub(super) fn new(epochs: Epochs) -> ServerSessions {
        ServerSessions {
            epochs,
            kept: Mutex::default(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        let epoch = self.epochs.now();
        let mut kept = lock(&self.kept);
        if kept.epoch != epoch {
            kept.sessions.clear();
            kept.epoch = epoch;
        }
        kept
    }
}

impl StoresServerSessions for ServerSessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        let mut kept = self.kept();
        kept.sessions.retain(|(k, _)| *k != key);
        if kept.sessions.len() == SERVER_SESSIONS {
            kept.sessions.pop_front();
        }
        kept.sessions.push_back((key, value));
        true
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.kept()
            .sessions
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, value)| value.clone())
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        let mut kept = self.kept();
        let at = kept.sessions.iter().position(|(k, _)| k == key)?;
        kept.sessions.remove(at).map(|(_, value)| value)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

#[derive(Debug)]
pub(super) struct ClientSessions {
    epochs: Epochs,
    clock: Arc<dyn TimeProvider>,
    kept: Mutex<ClientKept>,
}

#[derive(Debug, Default)]
struct ClientKept {
    epoch: (u64, u64),
    /// When the last change was, if sessions of before it may still come.
    changed: Option<UnixTime>,
    /// Oldest name first.
    names: VecDeque<Remembered>,
}

#[derive(Debug)]
struct Remembered {
    name: ServerName<'static>,
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tickets: VecDeque<Tls13ClientSessionValue>,
}

impl ClientSessions {
    pub(super) fn new(epochs: Epochs, clock: Arc<dyn TimeProvider>) -> ClientSessions {
        let kept = ClientKept {
            epoch: epochs.now(),
            ..ClientKept::default()
        };
        ClientSessions {
            epochs,
            clock,
            kept: Mutex::new(kept),
        }
    }

    /// Where sessions may be put that belong to what is in force.
    fn settled(&self) -> Option<MutexGuard<'_, ClientKept>> {
        let mut kept = self.kept();
        if let Some(changed) = kept.changed {
            let now = self.clock.current_time()?;
            if now.as_secs() < changed.as_secs() + SETTLE.as_secs() {
                return None;
            }
            kept.changed = None;
        }
        Some(kept)
    }

    /// Drops every session; which key exchange each server chose stays known.
    pub(super) fn forget(&self) {
        lock(&self.kept).forget();
    }

    fn kept(&self) -> MutexGuard<'_, ClientKept> {
        let epoch = self.epochs.now();
        let mut kept = lock(&self.kept);
        if kept.epoch != epoch {
            kept.forget();
            // Before the first certificate there was no handshake.
            if kept.epoch.1 > 0 {
                kept.changed = self.clock.current_time();
            }
            kept.epoch = epoch;
        }
        kept
    }
}

impl ClientKept {
    fn forget(&mut self) {
        for remembered in &mut self.names {
            remembered.tls12 = None;
            remembered.tickets.clear();
        }
    }

    fn find(&mut self, name: &ServerName<'_>) -> Option<&mut Remembered> {
        self.names.iter_mut().find(|r| r.name == *name)
    }

    fn remember(&mut self, name: ServerName<'static>, change: impl FnOnce(&mut Remembered)) {
        if let Some(found) = self.find(&name) {
            return change(found);
        }
        if self.names.len() == CLIENT_NAMES {
            self.names.pop_front();
        }
        let mut fresh = Remembered {
            name,
            group: None,
            tls12: None,
            tickets: VecDeque::new(),
        };
        change(&mut fresh);
        self.names.push_back(fresh);
    }
}

impl ClientSessionStore for ClientSessions {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.kept().remember(name, |r| r.group = Some(group));
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept().find(name).and_then(|r| r.group)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        if let Some(mut kept) = self.settled() {
            kept.remember(name, |r| r.tls12 = Some(value));
        }
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept().find(name).and_then(|r| r.tls12.clone())
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        if let Some(remembered) = self.kept().find(name) {
            remembered.tls12 = None;
        }
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        let Some(mut kept) = self.settled() else {
            return;
        };
        kept.remember(name, |r| {
            if r.tickets.len() == TICKETS_PER_NAME {
                r.tickets.pop_front();
            }
            r.tickets.push_back(value);
        });
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept().find(name).and_then(|r| r.tickets.pop_back())
    }
}
