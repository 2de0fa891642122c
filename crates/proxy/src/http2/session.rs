//! Upstream HTTP/2 connections of one worker: shared by the exchanges with an endpoint, as many streams on each as both
//! sides allow.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;

use ripstop_h2::{Code, Config, FieldWriter, Role, Unopened};
use ripstop_model::reason::Reason;
use ripstop_model::snapshot::cluster::Http2;
use tokio::sync::{SetOnce, watch};
use tokio::time::Instant;

use super::guard::{Guard, Violation};
use super::keepalive::Keepalive;
use super::link::{self, Link};
use super::rewound::{Rewound, Watch};
use super::server::guards;
use super::{SEND_BUFFER, SHARED_STREAMS, windows};
use crate::cluster::Cluster;
use crate::error::{Error, Retry};
use crate::pool::{Key, Ticket};
use crate::stream::Stream;
use crate::worker::Worker;

/// Peers of one cluster that are known not to share.
const ALONE: usize = 1024;
/// Response heads above this are refused (R15.2).
const RESPONSE_HEAD: u32 = 64 * 1024;

/// One connection.
pub(crate) struct Session {
    link: Rc<Link>,
    local: Option<SocketAddr>,
    /// Streams this side opens at once.
    most: usize,
    active: Cell<u32>,
    served: Cell<u32>,
    opened: Instant,
    idle_since: Cell<Instant>,
    /// Set by the task that drives the connection when it ends.
    closed: Rc<Cell<bool>>,
    /// The server's settings have come, or never will.
    begun: Rc<SetOnce<()>>,
    watch: Rc<Watch>,
}

impl Session {
    /// Starts HTTP/2 on a fresh connection; a task of its own drives it until nobody uses it any more.
    pub(crate) fn start(
        worker: &Rc<Worker>,
        stream: Stream,
        settings: &Http2,
        ticket: Ticket,
        spelt: bool,
    ) -> Rc<Session> {
        let local = stream.local();
        let response_head = match spelt {
            true => 2 * RESPONSE_HEAD,
            false => RESPONSE_HEAD,
        };
        let (stream_window, connection_window) = windows(settings, spelt);
        let most = match spelt {
            true => settings.max_concurrent_streams.min(SHARED_STREAMS),
            false => settings.max_concurrent_streams,
        };
        let config = Config {
            stream_window,
            connection_window,
            header_list: response_head,
            output: SEND_BUFFER,
            guards: guards(),
            ..Config::default()
        };
        let now = Instant::now();
        let guard = Guard::of_server(settings.floods, response_head, now);
        let mut io = Rewound::new(Vec::new(), stream, guard);
        let watch = io.watch();
        let link = Link::new(worker.clone(), Role::Client, config, spelt);
        let closed = Rc::new(Cell::new(false));
        let mut keepalive = settings.keepalive.map(|alive| Keepalive::new(alive, now));
        let (told, watched, driven) = (closed.clone(), watch.clone(), link.clone());
        let begun = Rc::new(SetOnce::new());
        let mut telling = Some(begun.clone());
        let stats = ticket.stats();
        tokio::task::spawn_local(async move {
            let ended = poll_fn(|cx| {
                if driven.is_abandoned() {
                    driven.break_off(Code::NO_ERROR, "");
                }
                if let Poll::Ready(ended) = driven.poll(cx, &mut io) {
                    return Poll::Ready(ended.err());
                }
                if let Some(begun) = telling.take_if(|_| driven.is_begun()) {
                    // Told once.
                    let _ = begun.set(());
                }
                if let Some(violation) = watched.violation() {
                    if let Violation::Flood(flood) = violation {
                        stats.flood(flood).inc();
                    }
                    tracing::debug!(?violation, "upstream HTTP/2 connection is given up");
                    driven.give_up();
                    return Poll::Ready(None);
                }
                match keepalive.as_mut().map(|alive| alive.poll_gone(&driven, cx)) {
                    Some(Poll::Ready(())) => {
                        driven.give_up();
                        Poll::Ready(None)
                    }
                    Some(Poll::Pending) | None => Poll::Pending,
                }
            })
            .await;
            told.set(true);
            if let Some(begun) = telling.take() {
                let _ = begun.set(());
            }
            if let Some(error) = ended {
                tracing::debug!(%error, "upstream HTTP/2 connection ended");
            }
            drop(ticket);
        });
        Rc::new(Session {
            link,
            local,
            most: usize::try_from(most).unwrap_or(usize::MAX),
            active: Cell::new(0),
            served: Cell::new(0),
            opened: now,
            idle_since: Cell::new(now),
            closed,
            begun,
            watch,
        })
    }

    fn has_room(&self) -> bool {
        let most = self.most.min(self.link.most_streams()).max(1);
        (self.active.get() as usize) < most
    }

    /// Whether it takes no further stream, though those it has go on.
    fn is_retired(&self, cluster: &Cluster, now: Instant) -> bool {
        let config = &cluster.config;
        let age = now.saturating_duration_since(self.opened);
        let served = config.max_requests_per_connection;
        self.closed.get()
            || self.link.is_closed()
            || (served > 0 && self.served.get() >= served)
            || config
                .max_connection_duration
                .is_some_and(|most| age >= most)
    }

    fn is_stale(&self, cluster: &Cluster, now: Instant) -> bool {
        let idle = now.saturating_duration_since(self.idle_since.get());
        let limit = cluster.config.idle_timeout;
        self.active.get() == 0 && limit.is_some_and(|most| idle >= most)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.link.nudge();
    }
}

/// The right to one stream.
pub(crate) struct Lease {
    session: Rc<Session>,
    reused: bool,
}

impl Lease {
    /// `None`: the connection takes no more streams after all.
    pub(crate) fn of(session: &Rc<Session>) -> Option<Lease> {
        if session.link.is_closed() {
            session.closed.set(true);
            return None;
        }
        session.active.set(session.active.get() + 1);
        let served = session.served.get();
        session.served.set(served + 1);
        Some(Lease {
            session: session.clone(),
            reused: served > 0,
        })
    }

    pub(super) fn start(
        &self,
        ended: bool,
        head_only: bool,
        connect: bool,
        write: impl FnOnce(&mut FieldWriter<'_>),
    ) -> Result<link::Stream, Unopened> {
        let link = &self.session.link;
        link.request(ended, head_only, connect, write)
    }

    /// Waits until it is known what the server takes.
    pub(super) async fn begun(&self) {
        self.session.begun.wait().await;
    }

    pub(super) fn takes_extended_connect(&self) -> bool {
        self.session.link.takes_extended_connect()
    }

    /// See [`super::spelling`].
    pub(super) fn is_spelt(&self) -> bool {
        self.session.link.is_spelt()
    }

    pub(super) fn worker(&self) -> &Worker {
        self.session.link.worker()
    }

    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Why the connection broke, where the codec does not know.
    pub(super) fn fault(&self) -> Option<Reason> {
        let watch = &self.session.watch;
        let broke = |_| Reason::UpstreamProtocol;
        watch.fault().or(watch.violation().map(broke))
    }

    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.session.local
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let session = &self.session;
        session.active.set(session.active.get() - 1);
        session.idle_since.set(Instant::now());
    }
}

/// How an attempt to connect ended, for all that waited for it.
type Opened = Result<Rc<Session>, (Reason, Rc<str>)>;
/// Where it is told.
pub(crate) type Tell = watch::Sender<Option<Opened>>;

/// The connections to a cluster's endpoints, and those being opened.
#[derive(Default)]
pub(crate) struct Sessions {
    open: HashMap<Key, Vec<Rc<Session>>>,
    opening: HashMap<Key, watch::Receiver<Option<Opened>>>,
    /// Where HTTP/1 was chosen though more was offered; few, or forgotten.
    alone: HashSet<Key>,
}

impl Sessions {
    /// A connection with room for one more stream.
    pub(crate) fn find(
        &mut self,
        cluster: &Cluster,
        key: &Key,
        now: Instant,
    ) -> Option<Rc<Session>> {
        let sessions = self.open.get_mut(key)?;
        sessions.retain(|session| !session.is_retired(cluster, now));
        sessions.iter().find(|session| session.has_room()).cloned()
    }

    /// Whether HTTP/1 may share a connection there, as far as is known.
    pub(crate) fn may_share(&self, key: &Key) -> bool {
        !self.alone.contains(key)
    }

    /// It may not.
    pub(crate) fn stays_alone(&mut self, key: &Key) {
        if self.alone.len() >= ALONE {
            self.alone.clear();
        }
        self.alone.insert(key.clone());
    }

    /// Those that do not stay take no further streams.
    pub(crate) fn retain(&mut self, stays: impl Fn(&Key) -> bool) {
        self.open.retain(|key, _| stays(key));
        self.alone.retain(stays);
    }

    pub(crate) fn insert(&mut self, key: Key, session: Rc<Session>) {
        self.alone.remove(&key);
        self.open.entry(key).or_default().push(session);
    }

    /// The attempt to connect that is under way.
    pub(crate) fn opening(&self, key: &Key) -> Option<Waiting> {
        self.opening.get(key).cloned().map(Waiting)
    }

    /// Others may wait for what `told` will say.
    pub(crate) fn begin(&mut self, key: &Key) -> (Tell, Waiting) {
        let (tell, told) = watch::channel(None);
        self.opening.insert(key.clone(), told.clone());
        (tell, Waiting(told))
    }

    /// The attempt is over; a session joins the others.
    pub(crate) fn end(&mut self, key: &Key, tell: &Tell, outcome: Result<Rc<Session>, Error>) {
        self.opening.remove(key);
        let outcome = match outcome {
            Ok(session) => {
                self.insert(key.clone(), session.clone());
                Ok(session)
            }
            Err(error) => {
                let text = error
                    .source
                    .map_or_else(String::new, |source| source.to_string());
                Err((error.kind, text.into()))
            }
        };
        tell.send_replace(Some(outcome));
    }

    pub(crate) fn sweep(&mut self, cluster: &Cluster, now: Instant) {
        self.open.retain(|_, sessions| {
            sessions.retain(|session| {
                !session.is_retired(cluster, now) && !session.is_stale(cluster, now)
            });
            !sessions.is_empty()
        });
    }

    /// Lets go of a connection without streams.
    pub(crate) fn give_up_idle(&mut self) {
        for sessions in self.open.values_mut() {
            if let Some(at) = sessions
                .iter()
                .position(|session| session.active.get() == 0)
            {
                sessions.remove(at);
                return;
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.opening.is_empty()
    }
}

/// A place in the queue for a connection that somebody opens.
pub(crate) struct Waiting(watch::Receiver<Option<Opened>>);

impl Waiting {
    /// The connection, or why there is none. Whoever waited sent nothing.
    pub(crate) async fn session(mut self) -> Result<Rc<Session>, Error> {
        let outcome = match self.0.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        match outcome {
            Some(Ok(session)) => Ok(session),
            Some(Err((kind, text))) => {
                Err(Error::new(kind, Retry::Unprocessed).because(text.to_string()))
            }
            None => Err(Error::new(Reason::ConnectFailure, Retry::Unprocessed)),
        }
    }
}

/// For tests and the admin pages.
impl Sessions {
    pub(crate) fn len(&self) -> usize {
        self.open.values().map(Vec::len).sum()
    }
}
