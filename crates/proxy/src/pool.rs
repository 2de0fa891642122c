//! Idle upstream connections of one worker, by cluster and endpoint: taken when still silent, kept when clean.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ripstop_identity::alpn::Carried;
use ripstop_model::defaults::envoy;
use ripstop_model::reason::Reason;
use ripstop_model::snapshot::cluster::Protocol;
use ripstop_model::snapshot::endpoint::Target;
use ripstop_model::snapshot::listener::Direction;
use ripstop_model::snapshot::route::Priority;
use rustc_hash::FxHashMap;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::Shared;
use crate::balance::Member;
use crate::cluster::Cluster;
use crate::connection::Connection;
use crate::dial::{self, Dial};
use crate::error::{Error, Retry};
use crate::http1::Upgrade;
use crate::http2::{self, Lease, Session, Sessions, Tell, Waiting};
use crate::live::Tables;
use crate::message::{RequestHead, Version};
use crate::stream::Stream;
use crate::tls::{Carries, Proof, Transport};
use crate::upstream::{Http1, Leg};

/// What a pooled connection may be reused for: the same endpoint over the same transport.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub address: Target,
    /// Distinguishes TLS settings that depend on the request (SNI, ALPN); 0 for plain text.
    pub transport: u64,
}

/// A connection's place among its cluster's `max_connections`; given back when dropped.
pub struct Ticket {
    cluster: Arc<Cluster>,
    high: bool,
    /// The cluster's members when it was last known that its connection stays.
    membership: u64,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Ticket {
    pub(crate) fn new(
        cluster: Arc<Cluster>,
        high: bool,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Ticket {
        let ticket = Ticket {
            membership: cluster.membership(),
            cluster,
            high,
            _permit: permit,
        };
        ticket.breaker().connection_opened();
        ticket.cluster.stats.cx_total.inc();
        ticket
    }

    /// Whether a connection to `address` is kept for another request.
    pub(crate) fn stays(&mut self, address: &Target) -> bool {
        let now = self.cluster.membership();
        let stays = self.membership == now || self.cluster.keeps(address);
        self.membership = now;
        stays
    }

    /// Of the cluster that it belongs to.
    pub(crate) fn stats(&self) -> Arc<crate::stats::Cluster> {
        self.cluster.stats.clone()
    }

    fn breaker(&self) -> &crate::cluster::Breaker {
        self.cluster.breaker_of(self.high)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.breaker().connection_closed();
    }
}

#[derive(Default)]
pub struct Pools {
    clusters: RefCell<FxHashMap<u64, Pool>>,
}

#[expect(
    clippy::vec_box,
    reason = "the box is what is taken and put back: moving the pointer instead of the whole"
)]
struct Pool {
    cluster: Arc<Cluster>,
    idle: FxHashMap<Key, Vec<Box<Http1>>>,
    /// Requests of this worker that wait at the limit, first come first served.
    waiting: VecDeque<(Key, oneshot::Sender<Box<Http1>>)>,
    sessions: Sessions,
    /// The cluster's members that its connections are known to belong to.
    membership: u64,
}

/// What a request asks of the connection it goes by.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Must not be sent twice: a reused connection is asked of the kernel before it is trusted.
    pub strict: bool,
    /// No HTTP/1 connection that has served before will do.
    pub fresh: bool,
    /// No longer does it wait for its turn at the limit of connections; `None`: for as long as it takes.
    pub until: Option<Instant>,
    pub head: &'a RequestHead,
    pub upgrade: Option<Upgrade>,
}

/// A connection to a member, for one exchange: pooled if one is silent or has room, else fresh.
pub async fn acquire(
    connection: &Rc<Connection>,
    cluster: &Arc<Cluster>,
    priority: Priority,
    member: &Arc<Member>,
    wanted: Wanted<'_>,
) -> Result<Leg, Error> {
    let worker = &connection.worker;
    let transport = cluster.transports.of(&member.endpoint);
    let carries = carries(cluster, transport, priority, wanted);
    let authority = wanted.head.authority();
    let key = Key {
        address: member.endpoint.address.clone(),
        transport: key_of(transport, member, authority, carries),
    };
    let now = Instant::now();
    if matches!(carries, Carries::Http2 | Carries::Http | Carries::Shared) {
        while let Some(session) = worker.pools.session(cluster, &key, now) {
            if let Some(lease) = Lease::of(&session) {
                return Ok(Leg::Http2(Box::new(http2::client::Http2::new(lease))));
            }
        }
    }
    let place = Place {
        connection,
        cluster,
        priority,
        member,
        authority,
    };
    if carries == Carries::Http2 {
        return place.session(key).await;
    }
    if let Some(idle) = worker.pools.take(cluster, &key, wanted, now) {
        return Ok(Leg::Http1(idle));
    }
    let breaker = cluster.breaker(priority);
    let _pending = breaker.pending().map_err(Error::terminal)?;
    if carries == Carries::Shared && worker.pools.may_share(cluster, &key) {
        if let Some(lease) = place.shared(&key).await? {
            return Ok(Leg::Http2(Box::new(http2::client::Http2::new(lease))));
        }
        // The one by which that was found out is somebody's.
        if let Some(idle) = worker.pools.take(cluster, &key, wanted, now) {
            return Ok(Leg::Http1(idle));
        }
    }
    let ticket = match place.ticket(&key, wanted.until).await? {
        Turn::Given(given) if !wanted.fresh => return Ok(Leg::Http1(given)),
        Turn::Given(given) => given.into_ticket(),
        Turn::Free(ticket) => ticket,
    };
    let (stream, proof) = place.open(carries).await?;
    let chosen = proof.as_ref().and_then(Proof::carried);
    if matches!(carries, Carries::Http | Carries::Shared) && chosen == Some(Carried::Http2) {
        return place.adopt(key, stream, ticket, carries);
    }
    let fresh = Http1::new(worker.clone(), cluster.clone(), key, stream, ticket);
    Ok(Leg::Http1(Box::new(fresh)))
}

/// Which protocol the request goes by. A WebSocket handshake stays on HTTP/1 where there is a choice.
fn carries(
    cluster: &Cluster,
    transport: Transport<'_>,
    priority: Priority,
    wanted: Wanted<'_>,
) -> Carries {
    let upgrades = wanted.upgrade == Some(Upgrade::WebSocket);
    let http1 = match transport {
        Transport::Tls(tls) if tls.may_share() && wanted.upgrade.is_none() => {
            match cluster.breaker(priority).counts_connections() {
                true => Carries::Http1,
                false => Carries::Shared,
            }
        }
        _ => Carries::Http1,
    };
    match &cluster.config.protocol {
        Protocol::Http1(_) => http1,
        Protocol::Http2(_) => Carries::Http2,
        Protocol::Downstream { .. } if wanted.head.version == Version::Http2 && !upgrades => {
            Carries::Http2
        }
        Protocol::Alpn { .. } if matches!(transport, Transport::Tls(_)) && !upgrades => {
            Carries::Http
        }
        Protocol::Downstream { .. } | Protocol::Alpn { .. } => http1,
    }
}

/// 0 for plain text: HTTP/1 and HTTP/2 are kept apart by their kind of connection.
fn key_of(transport: Transport<'_>, member: &Member, authority: &str, carries: Carries) -> u64 {
    match (transport, address_of(member)) {
        (Transport::Tls(tls), Some(address)) => {
            let host = member.endpoint.hostname.as_deref();
            tls.key_of(carries, authority, host, address.ip())
        }
        _ => 0,
    }
}

/// How often a request waits for a connection that takes no more streams, or is full, once it is its turn.
const ROUNDS: usize = 16;

/// A connection that is being opened, and for whom.
struct Place<'a> {
    connection: &'a Rc<Connection>,
    cluster: &'a Arc<Cluster>,
    priority: Priority,
    member: &'a Arc<Member>,
    authority: &'a str,
}

impl Place<'_> {
    /// A stream on an HTTP/2 connection that this request, or one before it, opens. Requests that come meanwhile wait
    /// for it instead of opening more, and it is opened even if this request does not wait to the end.
    async fn session(&self, key: Key) -> Result<Leg, Error> {
        let breaker = self.cluster.breaker(self.priority);
        let _pending = breaker.pending().map_err(Error::terminal)?;
        let pools = &self.connection.worker.pools;
        for _ in 0..ROUNDS {
            let waiting = match pools.opening(self.cluster, &key) {
                Some(waiting) => waiting,
                None => self.start(&key, Carries::Http2),
            };
            let session = waiting.session().await?;
            if let Some(lease) = Lease::of(&session) {
                return Ok(Leg::Http2(Box::new(http2::client::Http2::new(lease))));
            }
        }
        Err(Error::new(
            Reason::UpstreamRefusedStream,
            Retry::Unprocessed,
        ))
    }

    /// The same where HTTP/1 may share connections to this peer: one is opened, not one by each request that comes meanwhile.
    /// `None`: the peer does not share.
    async fn shared(&self, key: &Key) -> Result<Option<Lease>, Error> {
        let pools = &self.connection.worker.pools;
        for _ in 0..ROUNDS {
            if !pools.may_share(self.cluster, key) {
                return Ok(None);
            }
            if let Some(session) = pools.session(self.cluster, key, Instant::now())
                && let Some(lease) = Lease::of(&session)
            {
                return Ok(Some(lease));
            }
            let waiting = match pools.opening(self.cluster, key) {
                Some(waiting) => waiting,
                None => self.start(key, Carries::Shared),
            };
            match waiting.session().await {
                Err(error) if pools.may_share(self.cluster, key) => return Err(error),
                // As many may have waited as the new one has room for, and more.
                Ok(_) | Err(_) => {}
            }
        }
        Ok(None)
    }

    /// Opens a connection in a task of its own.
    fn start(&self, key: &Key, carries: Carries) -> Waiting {
        let pools = &self.connection.worker.pools;
        let (tell, waiting) = pools.begin(self.cluster, key);
        let (connection, cluster) = (self.connection.clone(), self.cluster.clone());
        let (member, authority) = (self.member.clone(), self.authority.to_owned());
        let (priority, key) = (self.priority, key.clone());
        tokio::task::spawn_local(async move {
            let place = Place {
                connection: &connection,
                cluster: &cluster,
                priority,
                member: &member,
                authority: &authority,
            };
            let outcome = place.begin(&key, carries).await;
            let pools = &connection.worker.pools;
            pools.end(&cluster, &key, &tell, outcome);
        });
        waiting
    }

    async fn begin(&self, key: &Key, carries: Carries) -> Result<Rc<Session>, Error> {
        // Whoever waits for it has a limit of his own.
        let ticket = match self.ticket(key, None).await? {
            Turn::Free(ticket) => ticket,
            // Of the other protocol: only its place is of use.
            Turn::Given(idle) => idle.into_ticket(),
        };
        let (stream, proof) = self.open(carries).await?;
        let chosen = proof.as_ref().and_then(Proof::carried);
        if carries == Carries::Shared && chosen != Some(Carried::Http2) {
            let (worker, cluster) = (&self.connection.worker, self.cluster);
            let fresh = Http1::new(worker.clone(), cluster.clone(), key.clone(), stream, ticket);
            worker.pools.put(Box::new(fresh));
            worker.pools.stays_alone(cluster, key);
            return Err(Error::new(Reason::UpstreamProtocol, Retry::Unprocessed));
        }
        Ok(self.speak(stream, ticket, carries))
    }

    fn speak(&self, stream: Stream, ticket: Ticket, carries: Carries) -> Rc<Session> {
        let settings = match &self.cluster.config.protocol {
            Protocol::Http2(http2)
            | Protocol::Downstream { http2, .. }
            | Protocol::Alpn { http2, .. } => http2,
            Protocol::Http1(_) => &envoy::HTTP2,
        };
        let worker = &self.connection.worker;
        let spelt = carries == Carries::Shared;
        Session::start(worker, stream, settings, ticket, spelt)
    }

    /// The server chose HTTP/2.
    fn adopt(
        &self,
        key: Key,
        stream: Stream,
        ticket: Ticket,
        carries: Carries,
    ) -> Result<Leg, Error> {
        let pools = &self.connection.worker.pools;
        // Requests that come together find out together; one of their connections is enough.
        let session = match pools.session(self.cluster, &key, Instant::now()) {
            Some(session) => session,
            None => {
                let session = self.speak(stream, ticket, carries);
                pools.adopt(self.cluster, key, session.clone());
                session
            }
        };
        match Lease::of(&session) {
            Some(lease) => Ok(Leg::Http2(Box::new(http2::client::Http2::new(lease)))),
            None => Err(Error::new(Reason::UpstreamClosed, Retry::Unprocessed)),
        }
    }

    async fn open(&self, carries: Carries) -> Result<(Stream, Option<Proof>), Error> {
        let application = self.connection.direction == Direction::Inbound;
        let to = Opening {
            shared: &self.connection.worker.shared,
            cluster: self.cluster,
            member: self.member,
            authority: self.authority,
            application,
        };
        open(to, carries).await
    }
    /// A place among the cluster's connections. At the limit an idle connection to another member gives way, here or on
    /// another worker; otherwise the request waits its turn, among `max_pending` of them at most, and `until` then.
    async fn ticket(&self, key: &Key, until: Option<Instant>) -> Result<Turn, Error> {
        let worker = &self.connection.worker;
        let high = self.priority == Priority::High;
        let free = |permit| Ok(Turn::Free(Ticket::new(self.cluster.clone(), high, permit)));
        let Some(permits) = self.cluster.breaker(self.priority).permits() else {
            return free(None);
        };
        if let Ok(permit) = permits.clone().try_acquire_owned() {
            return free(Some(permit));
        }
        let given = worker.pools.wait(self.cluster, key);
        worker.pools.give_up_idle();
        worker.shared.want_connection(worker.index);
        let full = || Error::terminal(Reason::CircuitOpenConnections);
        let out_of_time = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Ok(idle) = given => Ok(Turn::Given(idle)),
            permit = permits.clone().acquire_owned() => match permit {
                Ok(permit) => free(Some(permit)),
                Err(_) => Err(full()),
            },
            () = out_of_time => Err(full()),
        }
    }
}

/// What waiting at the limit brought.
enum Turn {
    /// The right to open a connection.
    Free(Ticket),
    /// A connection that another request of this worker has finished with.
    Given(Box<Http1>),
}

/// What is connected to.
#[derive(Clone, Copy)]
pub(crate) struct Opening<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) cluster: &'a Cluster,
    pub(crate) member: &'a Member,
    pub(crate) authority: &'a str,
    /// Dial inside the application's namespace.
    pub(crate) application: bool,
}

/// Opens a connection and, where the member wants it, TLS on it.
pub(crate) async fn open(
    to: Opening<'_>,
    carries: Carries,
) -> Result<(Stream, Option<Proof>), Error> {
    let config = &to.cluster.config;
    let dial = Dial {
        timeout: config.connect_timeout,
        keepalive: config.keepalive,
        application: to.application,
    };
    let failed = |error: std::io::Error| dial::refused(&error);
    let (tcp, address) = match &to.member.endpoint.address {
        Target::Socket(address) => (dial::connect(to.shared, *address, &dial).await?, *address),
        Target::Pipe(path) => {
            let unix = UnixStream::connect(path).await.map_err(failed)?;
            return Ok((Stream::Unix(unix), None));
        }
        Target::Name { .. } => return Err(Error::new(Reason::DnsFailure, Retry::Unprocessed)),
    };
    match to.cluster.transports.of(&to.member.endpoint) {
        Transport::Plain => Ok((Stream::Tcp(tcp), None)),
        Transport::Broken(error) => {
            Err(Error::terminal(Reason::TlsFailure).because(error.to_string()))
        }
        Transport::Tls(tls) => {
            let host = to.member.endpoint.hostname.as_deref();
            let name = tls.server_name(to.authority, host, address.ip());
            let (stream, proof) = tls
                .connect(tcp, carries, name, config.connect_timeout)
                .await?;
            Ok((stream, Some(proof)))
        }
    }
}

/// The socket address of a member, for logs.
pub fn address_of(member: &Member) -> Option<SocketAddr> {
    match member.endpoint.address {
        Target::Socket(address) => Some(address),
        Target::Name { .. } | Target::Pipe(_) => None,
    }
}

impl Pool {
    fn new(cluster: &Arc<Cluster>) -> Pool {
        Pool {
            cluster: cluster.clone(),
            idle: FxHashMap::default(),
            waiting: VecDeque::new(),
            sessions: Sessions::default(),
            membership: cluster.membership(),
        }
    }

    /// Lets go of connections to members that are gone, and of all where the cluster wants that with any change.
    fn follow(&mut self) {
        let now = self.cluster.membership();
        if self.membership != now {
            self.membership = now;
            let stays = |key: &Key| self.cluster.keeps(&key.address);
            self.idle.retain(|key, _| stays(key));
            self.sessions.retain(stays);
        }
    }
}

impl Pools {
    /// Queues for a connection to `key` that becomes idle.
    fn wait(&self, cluster: &Arc<Cluster>, key: &Key) -> oneshot::Receiver<Box<Http1>> {
        let (give, given) = oneshot::channel();
        let mut clusters = self.clusters.borrow_mut();
        let pool = clusters
            .entry(cluster.id)
            .or_insert_with(|| Pool::new(cluster));
        pool.waiting.retain(|(_, waiter)| !waiter.is_closed());
        pool.waiting.push_back((key.clone(), give));
        given
    }

    /// What is known of a cluster's HTTP/2 connections.
    fn with_sessions<R>(&self, cluster: &Arc<Cluster>, with: impl FnOnce(&mut Sessions) -> R) -> R {
        let mut clusters = self.clusters.borrow_mut();
        let pool = clusters
            .entry(cluster.id)
            .or_insert_with(|| Pool::new(cluster));
        with(&mut pool.sessions)
    }

    fn session(&self, cluster: &Cluster, key: &Key, now: Instant) -> Option<Rc<Session>> {
        let mut clusters = self.clusters.borrow_mut();
        let pool = clusters.get_mut(&cluster.id)?;
        pool.follow();
        pool.sessions.find(cluster, key, now)
    }

    fn opening(&self, cluster: &Arc<Cluster>, key: &Key) -> Option<Waiting> {
        self.with_sessions(cluster, |sessions| sessions.opening(key))
    }

    /// See [`Sessions::may_share`].
    fn may_share(&self, cluster: &Arc<Cluster>, key: &Key) -> bool {
        self.with_sessions(cluster, |sessions| sessions.may_share(key))
    }

    fn stays_alone(&self, cluster: &Arc<Cluster>, key: &Key) {
        self.with_sessions(cluster, |sessions| sessions.stays_alone(key));
    }

    fn begin(&self, cluster: &Arc<Cluster>, key: &Key) -> (Tell, Waiting) {
        self.with_sessions(cluster, |sessions| sessions.begin(key))
    }

    fn end(
        &self,
        cluster: &Arc<Cluster>,
        key: &Key,
        tell: &Tell,
        outcome: Result<Rc<Session>, Error>,
    ) {
        self.with_sessions(cluster, |sessions| sessions.end(key, tell, outcome));
    }

    fn adopt(&self, cluster: &Arc<Cluster>, key: Key, session: Rc<Session>) {
        self.with_sessions(cluster, |sessions| sessions.insert(key, session));
    }

    /// HTTP/2 connections that are open.
    pub fn sessions(&self) -> usize {
        let clusters = self.clusters.borrow();
        clusters.values().map(|pool| pool.sessions.len()).sum()
    }

    /// The most recently used connection that is still silent and will do.
    fn take(
        &self,
        cluster: &Cluster,
        key: &Key,
        wanted: Wanted<'_>,
        now: Instant,
    ) -> Option<Box<Http1>> {
        let mut clusters = self.clusters.borrow_mut();
        let pool = clusters.get_mut(&cluster.id)?;
        pool.follow();
        let stack = pool.idle.get_mut(key)?;
        while let Some(at) = stack
            .iter()
            .rposition(|idle| !(wanted.fresh && idle.has_served()))
        {
            let mut idle = stack.remove(at);
            if is_old(&idle, cluster, now) {
                continue;
            }
            let (age, _) = idle.ages(now);
            if !idle.is_silent(wanted.strict) {
                cluster.closed_after(age);
                continue;
            }
            // What cannot be sent twice takes no chances.
            if !(wanted.strict && cluster.is_about_to_close(age)) {
                return Some(idle);
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub fn put(&self, mut idle: Box<Http1>) {
        let cluster = idle.cluster().clone();
        let key = idle.key().clone();
        let mut clusters = self.clusters.borrow_mut();
        let pool = clusters
            .entry(cluster.id)
            .or_insert_with(|| Pool::new(&cluster));
        while let Some(at) = pool.waiting.iter().position(|(wanted, _)| *wanted == key) {
            let Some((_, waiter)) = pool.waiting.remove(at) else {
                break;
            };
            match waiter.send(idle) {
                Ok(()) => return,
                Err(back) => idle = back,
            }
        }
        // Whoever waits for another member, or on another worker, gets this one's place.
        if !cluster.is_wanted() {
            pool.idle.entry(key).or_default().push(idle);
        }
    }

    /// Closes what was idle too long or was closed by its peer.
    pub fn sweep(&self, now: Instant) {
        let mut clusters = self.clusters.borrow_mut();
        clusters.retain(|_, pool| {
            pool.follow();
            let cluster = pool.cluster.clone();
            pool.idle.retain(|_, stack| {
                stack.retain_mut(|idle| {
                    let silent = idle.is_silent(false);
                    if !silent {
                        cluster.closed_after(idle.ages(now).0);
                    }
                    silent && !is_old(idle, &cluster, now)
                });
                !stack.is_empty()
            });
            pool.waiting.retain(|(_, waiter)| !waiter.is_closed());
            pool.sessions.sweep(&cluster, now);
            !pool.idle.is_empty() || !pool.waiting.is_empty() || !pool.sessions.is_empty()
        });
    }

    /// Drops the connections of clusters that are gone or have become others.
    pub fn retain(&self, view: &Tables) {
        self.clusters.borrow_mut().retain(|id, pool| {
            view.clusters
                .get(&pool.cluster.config.name)
                .is_some_and(|running| running.id == *id)
        });
    }

    /// Closes one idle connection of each cluster that another worker waits for.
    pub fn give_up_idle(&self) {
        for pool in self.clusters.borrow_mut().values_mut() {
            if pool.cluster.is_at_limit() {
                let stack = pool.idle.values_mut().find(|stack| !stack.is_empty());
                match stack.and_then(Vec::pop) {
                    Some(idle) => drop(idle),
                    None => pool.sessions.give_up_idle(),
                }
            }
        }
    }

    pub fn idle(&self) -> usize {
        let clusters = self.clusters.borrow();
        clusters
            .values()
            .flat_map(|pool| pool.idle.values())
            .map(Vec::len)
            .sum()
    }
}

fn is_old(idle: &Http1, cluster: &Cluster, now: Instant) -> bool {
    let (idle, age) = idle.ages(now);
    let over = |most: Option<Duration>, is: Duration| most.is_some_and(|most| is >= most);
    over(cluster.config.idle_timeout, idle) || over(cluster.config.max_connection_duration, age)
}
