//! Idle upstream connections of one worker, by cluster and endpoint: taken when still silent, kept when clean.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ripstop_model::reason::Reason;
use ripstop_model::snapshot::endpoint::Target;
use ripstop_model::snapshot::listener::Direction;
use ripstop_model::snapshot::route::Priority;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::balance::Member;
use crate::cluster::Cluster;
use crate::connection::Connection;
use crate::dial::{self, Dial};
use crate::error::{Error, Retry};
use crate::live::Tables;
use crate::stream::Stream;
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
    _permit: Option<OwnedSemaphorePermit>,
}

impl Ticket {
    pub(crate) fn new(
        cluster: Arc<Cluster>,
        high: bool,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Ticket {
        let ticket = Ticket {
            cluster,
            high,
            _permit: permit,
        };
        ticket.breaker().connection_opened();
        ticket.cluster.stats.cx_total.inc();
        ticket
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
    clusters: RefCell<HashMap<u64, Pool>>,
}

#[expect(
    clippy::vec_box,
    reason = "the box is what is taken and put back: moving the pointer instead of the whole"
)]
struct Pool {
    cluster: Arc<Cluster>,
    idle: HashMap<Key, Vec<Box<Http1>>>,
    /// Requests of this worker that wait at the limit, first come first served.
    waiting: VecDeque<(Key, oneshot::Sender<Box<Http1>>)>,
}

/// An HTTP/1 connection to a member, for one exchange: pooled if one is silent, else fresh.
pub async fn acquire(
    connection: &Rc<Connection>,
    cluster: &Arc<Cluster>,
    priority: Priority,
    member: &Member,
    strict: bool,
) -> Result<Leg, Error> {
    let worker = &connection.worker;
    let key = Key {
        address: member.endpoint.address.clone(),
        transport: 0,
    };
    let now = Instant::now();
    if let Some(idle) = worker.pools.take(cluster, &key, strict, now) {
        return Ok(Leg::Http1(idle));
    }
    let breaker = cluster.breaker(priority);
    let _pending = breaker.pending().map_err(Error::terminal)?;
    let ticket = match ticket(connection, cluster, priority, &key).await? {
        Place::Given(given) => return Ok(Leg::Http1(given)),
        Place::Free(ticket) => ticket,
    };
    let stream = open(connection, cluster, member).await?;
    let fresh = Http1::new(worker.clone(), cluster.clone(), key, stream, ticket);
    Ok(Leg::Http1(Box::new(fresh)))
}

/// What waiting at the limit brought.
enum Place {
    /// The right to open a connection.
    Free(Ticket),
    /// A connection that another request of this worker has finished with.
    Given(Box<Http1>),
}

/// A place among the cluster's connections. At the limit an idle connection to another member gives way, here or on
/// another worker; otherwise the request waits its turn.
async fn ticket(
    connection: &Connection,
    cluster: &Arc<Cluster>,
    priority: Priority,
    key: &Key,
) -> Result<Place, Error> {
    let worker = &connection.worker;
    let high = priority == Priority::High;
    let free = |permit| Ok(Place::Free(Ticket::new(cluster.clone(), high, permit)));
    let Some(permits) = cluster.breaker(priority).permits() else {
        return free(None);
    };
    if let Ok(permit) = permits.clone().try_acquire_owned() {
        return free(Some(permit));
    }
    let given = worker.pools.wait(cluster, key);
    worker.pools.give_up_idle();
    worker.shared.want_connection(worker.index);
    tokio::select! {
        biased;
        Ok(idle) = given => Ok(Place::Given(idle)),
        permit = permits.clone().acquire_owned() => match permit {
            Ok(permit) => free(Some(permit)),
            Err(_) => Err(Error::terminal(Reason::CircuitOpenConnections)),
        },
    }
}

/// Opens a connection and, where the member wants it, TLS on it.
async fn open(
    connection: &Connection,
    cluster: &Cluster,
    member: &Member,
) -> Result<Stream, Error> {
    let dial = Dial {
        timeout: cluster.config.connect_timeout,
        keepalive: cluster.config.keepalive,
        application: connection.direction == Direction::Inbound,
    };
    let failed = |error: std::io::Error| {
        Error::new(Reason::ConnectFailure, Retry::Unprocessed).because(error)
    };
    let tcp = match &member.endpoint.address {
        Target::Socket(address) => dial::connect(&connection.worker, *address, &dial).await?,
        Target::Pipe(path) => {
            let unix = UnixStream::connect(path).await.map_err(failed)?;
            return Ok(Stream::Unix(unix));
        }
        Target::Name { .. } => return Err(Error::new(Reason::DnsFailure, Retry::Unprocessed)),
    };
    match cluster.transport(member) {
        None => Ok(Stream::Tcp(tcp)),
        Some(_) => Err(Error::new(Reason::TlsFailure, Retry::Never)),
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
            idle: HashMap::new(),
            waiting: VecDeque::new(),
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

    /// The most recently used connection that is still silent. `strict` asks the kernel, for requests that must not be
    /// sent twice.
    pub fn take(
        &self,
        cluster: &Cluster,
        key: &Key,
        strict: bool,
        now: Instant,
    ) -> Option<Box<Http1>> {
        let mut clusters = self.clusters.borrow_mut();
        let pool = clusters.get_mut(&cluster.id)?;
        let stack = pool.idle.get_mut(key)?;
        while let Some(mut idle) = stack.pop() {
            if !is_old(&idle, cluster, now) && idle.is_silent(strict) {
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
            let cluster = pool.cluster.clone();
            pool.idle.retain(|_, stack| {
                stack.retain_mut(|idle| !is_old(idle, &cluster, now) && idle.is_silent(false));
                !stack.is_empty()
            });
            pool.waiting.retain(|(_, waiter)| !waiter.is_closed());
            !pool.idle.is_empty() || !pool.waiting.is_empty()
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
                drop(stack.and_then(Vec::pop));
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
