//! The opaque path: a connection and a TCP proxy's configuration → bytes both ways, counted, until either side is done.
//!
//! A connection is judged when it arrives and again when policies change; nothing else of a new configuration touches it.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use ripstop_identity::alpn::{self, Carried};
use ripstop_model::reason::{Flag, Flags, Reason};
use ripstop_model::snapshot::endpoint;
use ripstop_model::snapshot::listener::{Direction, TcpProxy};
use ripstop_model::snapshot::route::{Priority, Split};
use ripstop_model::split;
use ripstop_telemetry::record::{
    Kind, Known, Record, Reporter, Security, Workload, unknown_service, unknown_workload,
};
use ripstop_telemetry::trace::SpanContext;
use tokio::io::AsyncWrite;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::balance::{Member, Picked, Wish};
use crate::cluster::{Cluster, FIRST_ANSWER};
use crate::connection::Connection;
use crate::detect::probe::Opened;
use crate::detect::{Habit, Place};
use crate::error::{Error, Retry};
use crate::health;
use crate::labels;
use crate::logs::{Filtered, Logs};
use crate::pool::{self, Opening};
use crate::refusal::Refusal;
use crate::stream::{Outbox, Stream};
use crate::tls::{Carries, Proof};
use crate::trace;
use crate::worker::{Timer, Worker};

mod exchange;

/// Bytes that moved are counted at least this often, so that long connections show up before they end.
const REPORT: Duration = Duration::from_secs(5);

/// A TCP proxy, compiled.
pub struct Proxy {
    pub config: Arc<TcpProxy>,
    logs: Vec<Filtered>,
}

impl Proxy {
    pub fn new(config: Arc<TcpProxy>, logs: &Logs) -> Proxy {
        Proxy {
            logs: logs.open(&config.access_logs),
            config,
        }
    }
}

/// An upstream connection for opaque bytes, counted while it lives.
pub(crate) struct Upstream {
    pub(crate) stream: Stream,
    /// Counted at the member for as long as it lives.
    _picked: Picked,
    /// The workload at the other end, if it said so or the endpoint did.
    peer: Option<Arc<Known<Workload>>>,
    /// Where the application opened the connection for a request.
    span: Option<Box<SpanContext>>,
    _seat: Seat,
}

/// Whom it tried to reach, and how often.
#[derive(Default)]
pub(crate) struct Attempts {
    count: u32,
    cluster: Option<Arc<Cluster>>,
    host: Option<SocketAddr>,
}

/// A place among the cluster's connections.
struct Seat {
    cluster: Arc<Cluster>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Seat {
    fn take(cluster: &Arc<Cluster>) -> Result<Seat, Error> {
        let breaker = cluster.breaker(Priority::Default);
        let permit = match breaker.permits() {
            None => None,
            Some(permits) => match permits.clone().try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => return Err(Error::terminal(Reason::CircuitOpenConnections)),
            },
        };
        breaker.connection_opened();
        Ok(Seat {
            cluster: cluster.clone(),
            _permit: permit,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.cluster.breaker(Priority::Default).connection_closed();
    }
}

/// Serves a connection from the moment its chain is known.
pub(crate) async fn serve(connection: &Rc<Connection>, mut down: Stream) {
    let view = connection.worker.view();
    let chain = connection.chain(&view);
    drop(view);
    let Some(proxy) = &chain.tcp else { return };
    let mut account = Account::new(connection, proxy);
    if exchanges(connection)
        && let Some(told) = exchange::with(&connection.worker, &mut down, None).await
    {
        let traceparent = told.traceparent.as_deref();
        account.span = traceparent.and_then(|context| trace::continued(connection, context));
        account.told = Some(told.workload);
    }
    account.meet();
    let up = connect(connection, &mut account.attempts).await;
    pass(connection, down, up, Vec::new(), account).await;
}

/// A connection that policies do not let begin.
pub(crate) fn refuse(connection: &Rc<Connection>, refusal: &Refusal) {
    let chain = connection.chain(&connection.worker.view());
    let Some(proxy) = &chain.tcp else { return };
    let mut account = Account::new(connection, proxy);
    account.meet();
    account.refused(refusal);
    account.finish();
}

/// The same with an upstream that was opened while the connection was looked at.
pub(crate) async fn serve_opened(down: Stream, opened: Opened) {
    let Opened {
        connection,
        upstream,
        attempts,
        greeting,
        greeted,
    } = opened;
    let chain = connection.chain(&connection.worker.view());
    let Some(proxy) = &chain.tcp else { return };
    let mut account = Account::new(&connection, proxy);
    account.attempts = attempts;
    account.greeted = greeted;
    account.meet();
    pass(&connection, down, upstream, greeting, account).await;
}

/// `greeting` was read from the upstream already.
async fn pass(
    connection: &Rc<Connection>,
    mut down: Stream,
    up: Result<Upstream, Error>,
    greeting: Vec<u8>,
    mut account: Account<'_>,
) {
    match up {
        Err(error) => {
            account.failed(&error);
            down.reset_on_close();
        }
        Ok(mut up) => {
            account.begin(&up);
            let outcome = relay(
                connection,
                &mut down,
                &mut up.stream,
                greeting,
                &mut account,
            )
            .await;
            if let Err(error) = outcome {
                account.failed(&error);
                down.reset_on_close();
            }
        }
    }
    account.finish();
}

/// Whether both ends of the downstream connection introduce themselves (see [`exchange`]).
fn exchanges(connection: &Connection) -> bool {
    let token = connection.tls.as_ref().and_then(|tls| tls.alpn.as_deref());
    token.is_some_and(|token| alpn::carried(token.as_bytes()) == Some(Carried::TcpWithMetadata))
}

/// Connects to a member of the cluster that the chain's split picks, trying others when one does not answer.
pub(crate) async fn connect(
    connection: &Rc<Connection>,
    attempts: &mut Attempts,
) -> Result<Upstream, Error> {
    let worker = &connection.worker;
    let view = worker.view();
    let chain = connection.chain(&view);
    let Some(proxy) = &chain.tcp else {
        return Err(Error::terminal(Reason::ClusterNotFound));
    };
    let name = match &proxy.config.clusters {
        Split::One(name) => Some(name),
        Split::Weighted { shares, total } => {
            split::pick(shares, *total, worker.random()).map(|share| &share.cluster)
        }
        Split::Header(_) => None,
    };
    let cluster = name.and_then(|name| view.clusters.get(name)).cloned();
    let cluster = cluster.ok_or_else(|| Error::terminal(Reason::ClusterNotFound))?;
    attempts.cluster = Some(cluster.clone());
    let hash = proxy
        .config
        .hash_source_ip
        .then(|| ripstop_model::hash::xx64(connection.caller.remote_ip.to_string().as_bytes()));
    let seat = Seat::take(&cluster)?;
    let mut tried: Vec<Arc<Member>> = Vec::new();
    let most = proxy.config.max_connect_attempts.max(1);
    // Without an answer there is nobody to pick, which is then the reason.
    let _ = tokio::time::timeout(FIRST_ANSWER, cluster.settled()).await;
    loop {
        let picked = worker.choose(
            &cluster,
            Wish {
                hash,
                tried: &tried,
                ..Wish::default()
            },
            connection.original(),
        );
        let picked = picked.ok_or_else(|| Error::terminal(cluster.nobody()))?;
        attempts.count += 1;
        attempts.host = pool::address_of(&picked.member);
        let to = Opening {
            shared: &worker.shared,
            cluster: &cluster,
            member: &picked.member,
            authority: &connection.caller.sni,
            application: connection.direction == Direction::Inbound,
        };
        match pool::open(to, Carries::Tcp).await {
            Ok((mut stream, proof)) => {
                let (span, traceparent) = trace::opened(connection).unzip();
                let traceparent = traceparent.flatten();
                let proof = proof.as_ref();
                let peer = introduced(connection, &mut stream, proof, &picked, traceparent).await;
                let now = worker.shared.uptime();
                health::attempted(&cluster, &picked.member, Ok(200), now);
                return Ok(Upstream {
                    stream,
                    _picked: picked,
                    peer,
                    span: span.map(Box::new),
                    _seat: seat,
                });
            }
            Err(error) if error.retry == Retry::Unprocessed && attempts.count < most => {
                refused(&cluster, &picked.member, &error, worker);
                tracing::debug!(cluster = %cluster.config.name, %error, "trying another endpoint");
                tried.push(picked.member.clone());
            }
            Err(error) => {
                refused(&cluster, &picked.member, &error, worker);
                return Err(error);
            }
        }
    }
}

fn refused(cluster: &Cluster, member: &Member, error: &Error, worker: &Worker) {
    health::attempted(cluster, member, Err(error), worker.shared.uptime());
}

/// Introductions come before anything else is read: what follows them is the application's greeting.
async fn introduced(
    connection: &Connection,
    stream: &mut Stream,
    proof: Option<&Proof>,
    picked: &Picked,
    traceparent: Option<String>,
) -> Option<Arc<Known<Workload>>> {
    let worker = &connection.worker;
    if proof.and_then(Proof::carried) == Some(Carried::TcpWithMetadata)
        && let Some(told) = exchange::with(worker, stream, traceparent.as_deref()).await
    {
        // It says what it is; who it is its certificate does.
        let peer = proof.and_then(|proof| proof.peer.as_ref());
        let principal = peer.and_then(|peer| peer.uri_sans().first());
        let principal = principal.map_or("", String::as_str);
        return Some(Arc::new(labels::workload(&told.workload, principal)));
    }
    if connection.direction == Direction::Inbound {
        return None;
    }
    let known = picked.member.endpoint.workload.as_ref();
    known.map(|workload| worker.labels.of(workload, &worker.shared.trust_domain))
}

/// One direction.
#[derive(Default)]
struct Pump {
    outbox: Outbox,
    /// The source has ended.
    ended: bool,
    /// And the sink knows.
    done: bool,
    bytes: u64,
    first: Option<u8>,
}

impl Pump {
    /// Moves what there is. Ready when the source has ended and everything was passed on.
    fn poll(
        &mut self,
        worker: &Worker,
        from: &mut Stream,
        to: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.done {
                return Poll::Ready(Ok(()));
            }
            ready!(self.outbox.poll_flush(worker, to, cx))?;
            if self.ended {
                ready!(std::pin::Pin::new(&mut *to).poll_shutdown(cx))?;
                self.done = true;
                return Poll::Ready(Ok(()));
            }
            let (outbox, first) = (&mut self.outbox, &mut self.first);
            let read = worker.poll_read(from, cx, |bytes| {
                *first = first.or(bytes.first().copied());
                outbox.buffer(worker).extend_from_slice(bytes);
                bytes.len()
            });
            match ready!(read)? {
                0 => self.ended = true,
                n => self.bytes += n as u64,
            }
        }
    }
}

/// Copies until both directions have ended, one of them broke, time is up, or policy now denies the connection.
async fn relay(
    connection: &Rc<Connection>,
    down: &mut Stream,
    up: &mut Stream,
    greeting: Vec<u8>,
    account: &mut Account<'_>,
) -> Result<(), Error> {
    let worker = connection.worker.clone();
    let config = account.proxy.config.clone();
    let mut to_up = Pump::default();
    let mut to_down = Pump::default();
    if !greeting.is_empty() {
        to_down.bytes = greeting.len() as u64;
        to_down.outbox.buffer(&worker).extend_from_slice(&greeting);
    }
    drop(greeting);
    let last = config
        .max_connection_duration
        .map(|most| connection.end(most));
    let mut version = worker.view().version;
    let mut idle = Timer::default();
    let mut limit = Timer::default();
    limit.set(last);
    let mut report = Timer::default();
    report.set(Some(Instant::now() + REPORT));
    idle.set(config.idle_timeout.map(|idle| Instant::now() + idle));
    let outcome = poll_fn(|cx| {
        let before = (to_up.bytes, to_down.bytes);
        let up_done = to_up.poll(&worker, down, up, cx);
        let down_done = to_down.poll(&worker, up, down, cx);
        if (to_up.bytes, to_down.bytes) != before {
            account.received = to_up.bytes;
            account.learn(to_up.first);
            account.sent = to_down.bytes;
            idle.set(config.idle_timeout.map(|idle| Instant::now() + idle));
        }
        match (up_done, down_done) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ok(())),
            (_, Poll::Ready(Err(error))) => {
                return Poll::Ready(Err(broken(error)));
            }
            (Poll::Ready(Err(error)), _) => {
                return Poll::Ready(Err(broken(error)));
            }
            _ => {}
        }
        let view = worker.view();
        if std::mem::replace(&mut version, view.version) != view.version
            && let Some(refusal) = connection.denied(&view)
        {
            account.refused(&refusal);
            return Poll::Ready(Err(Error::terminal(refusal.reason)));
        }
        if report.poll_expired(cx).is_ready() {
            account.report();
            report.set(Some(Instant::now() + REPORT));
            // The next deadline has to be waited for.
            let _ = report.poll_expired(cx);
        }
        if limit.poll_expired(cx).is_ready() {
            return Poll::Ready(Err(Error::terminal(Reason::MaxConnectionDuration)));
        }
        // An idle connection ends quietly: nobody did anything wrong.
        idle.poll_expired(cx).map(|()| Ok(()))
    })
    .await;
    to_up.outbox.clear(&worker);
    to_down.outbox.clear(&worker);
    outcome
}

fn broken(error: io::Error) -> Error {
    Error::terminal(Reason::UpstreamClosedMidResponse).because(error)
}

/// What is counted of one connection.
struct Account<'c> {
    connection: &'c Rc<Connection>,
    proxy: &'c Proxy,
    started: SystemTime,
    attempts: Attempts,
    received: u64,
    sent: u64,
    reported: (u64, u64),
    upstream_local: Option<SocketAddr>,
    /// What the client told of itself.
    told: Option<endpoint::Workload>,
    /// The workload at the other end of the mesh.
    peer: Option<Arc<Known<Workload>>>,
    /// Of the connection, where it is part of a trace.
    span: Option<SpanContext>,
    flags: Flags,
    reason: Option<Reason>,
    /// What decided that.
    resource: Option<String>,
    cause: Option<String>,
    opened: bool,
    /// Where the server spoke first, until the client has answered it.
    greeted: Option<Place>,
}

impl<'c> Account<'c> {
    fn new(connection: &'c Rc<Connection>, proxy: &'c Proxy) -> Account<'c> {
        Account {
            connection,
            proxy,
            started: SystemTime::now(),
            attempts: Attempts::default(),
            received: 0,
            sent: 0,
            reported: (0, 0),
            upstream_local: None,
            told: None,
            peer: None,
            span: None,
            flags: Flags::default(),
            reason: None,
            resource: None,
            cause: None,
            opened: false,
            greeted: None,
        }
    }

    /// The upstream connection is open: the first counts.
    fn begin(&mut self, up: &Upstream) {
        let worker = &self.connection.worker;
        self.upstream_local = up.stream.local();
        if up.peer.is_some() {
            self.peer = up.peer.clone();
        }
        if up.span.is_some() {
            self.span = up.span.as_deref().cloned();
        }
        self.opened = true;
        let record = self.record();
        worker.telemetry.borrow_mut().shard.opened(&record);
    }

    /// A server that speaks first is remembered when its client goes on in plain bytes: the first byte of a ClientHello
    /// tells of a member of the mesh that was late.
    fn learn(&mut self, first: Option<u8>) {
        const HANDSHAKE: u8 = 22;
        if let (Some(place), Some(first)) = (self.greeted, first) {
            self.greeted = None;
            let habit = match first {
                HANDSHAKE => Habit::Client,
                _ => Habit::Server,
            };
            let mut learnt = self.connection.worker.learnt.borrow_mut();
            learnt.learn(place, habit, Instant::now());
        }
    }

    /// Who the client of an inbound connection is: what it told, and the name that its certificate gives it.
    fn meet(&mut self) {
        let principals = self.connection.caller.principals.as_deref();
        if let (Direction::Inbound, Some(principals)) = (self.connection.direction, principals) {
            let principal = principals.first().map_or("", String::as_str);
            let told = self.told.take().unwrap_or_default();
            self.peer = Some(Arc::new(labels::workload(&told, principal)));
        }
    }

    /// By policy.
    fn refused(&mut self, refusal: &Refusal) {
        self.reason = Some(refusal.reason);
        self.resource = refusal.resource.as_ref().map(ToString::to_string);
        if let Some(flag) = refusal.reason.flag() {
            self.flags.set(flag);
        }
    }

    fn failed(&mut self, error: &Error) {
        if let Some(flag) = error.kind.flag() {
            self.flags.set(flag);
        }
        if error.kind == Reason::ConnectFailure
            && self.attempts.count >= self.proxy.config.max_connect_attempts
        {
            self.flags.set(Flag::UpstreamRetryLimitExceeded);
        }
        self.reason = Some(error.kind);
        if self.resource.is_none() && error.kind != Reason::AuthzNotAllowed {
            let resource = self.proxy.config.resource.as_ref();
            self.resource = resource.map(ToString::to_string);
        }
        self.cause = error.source.as_ref().map(ToString::to_string);
    }

    fn report(&mut self) {
        let (received, sent) = (self.received - self.reported.0, self.sent - self.reported.1);
        if self.opened && (received, sent) != (0, 0) {
            self.reported = (self.received, self.sent);
            let record = self.record();
            let mut telemetry = self.connection.worker.telemetry.borrow_mut();
            telemetry.shard.moved(&record, received, sent);
        }
    }

    fn finish(mut self) {
        if !self.opened {
            let record = self.record();
            let mut telemetry = self.connection.worker.telemetry.borrow_mut();
            telemetry.shard.opened(&record);
        }
        self.opened = true;
        self.report();
        let worker = &self.connection.worker;
        let record = self.record();
        let draw = worker.random();
        let logs = self
            .proxy
            .logs
            .iter()
            .filter(|log| log.wants(&record, draw));
        worker
            .telemetry
            .borrow_mut()
            .finish(&record, logs.map(|log| &log.log));
    }

    fn record(&self) -> Record<'_> {
        let connection = self.connection;
        let inbound = connection.direction == Direction::Inbound;
        let reporter = if inbound {
            Reporter::Destination
        } else {
            Reporter::Source
        };
        let mut record = Record::new(reporter, Kind::Tcp, self.started);
        record.timings.total = connection.opened.elapsed();
        record.flags = self.flags;
        record.reason = self.reason;
        record.resource = self.resource.as_deref();
        record.upstream_failure = self.cause.as_deref();
        record.bytes_received = self.received;
        record.bytes_sent = self.sent;
        record.attempts = self.attempts.count;
        let cluster = self.attempts.cluster.as_ref();
        record.cluster = cluster.map(|cluster| &*cluster.config.name);
        record.upstream_host = self.attempts.host;
        record.upstream_local = self.upstream_local;
        record.downstream_local = Some(connection.destination);
        record.downstream_remote = Some(connection.peer);
        record.downstream_direct = Some(connection.peer);
        record.server_name = Some(&*connection.caller.sni).filter(|name| !name.is_empty());
        let principals = connection.caller.principals.as_deref();
        record.peer_uri_san = principals
            .and_then(|names| names.first())
            .map(String::as_str);
        record.tls_version = connection.tls.as_ref().map(|tls| tls.version);
        let own = connection
            .worker
            .shared
            .workload
            .as_deref()
            .unwrap_or(unknown_workload());
        let other = self.peer.as_deref().unwrap_or(unknown_workload());
        (record.source, record.destination) = if inbound { (other, own) } else { (own, other) };
        let service = cluster.and_then(|cluster| cluster.service.as_ref());
        record.service = service.unwrap_or(unknown_service());
        record.security = match (inbound, principals.is_some()) {
            (true, true) => Security::MutualTls,
            (true, false) => Security::None,
            (false, _) => Security::Unknown,
        };
        record.connection_id = connection.id;
        record.span = self.span.as_ref();
        record.hostname = Some(&connection.worker.shared.node);
        record
    }
}
