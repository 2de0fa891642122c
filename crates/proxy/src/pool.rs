//! Idle upstream connections of one worker, by cluster and endpoint: taken when still silent, kept when clean.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::live::Tables;
use crate::stream::Stream;

/// What a pooled connection may be reused for: the same endpoint over the same transport.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub address: SocketAddr,
    /// Distinguishes TLS settings that depend on the request (SNI, ALPN); 0 for plain text.
    pub transport: u64,
}

/// An HTTP/1 connection between requests.
pub struct Idle {
    pub stream: Stream,
    pub ticket: Ticket,
    pub served: u32,
    pub opened: Instant,
    since: Instant,
}

impl Idle {
    pub fn new(stream: Stream, ticket: Ticket, served: u32, opened: Instant) -> Idle {
        Idle {
            stream,
            ticket,
            served,
            opened,
            since: opened,
        }
    }
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

struct Pool {
    cluster: Arc<Cluster>,
    idle: HashMap<Key, Vec<Idle>>,
}

impl Pools {
    /// The most recently used connection that is still silent. `strict` asks the kernel, for requests that must not be
    /// sent twice.
    pub fn take(&self, cluster: &Cluster, key: &Key, strict: bool, now: Instant) -> Option<Idle> {
        let mut clusters = self.clusters.borrow_mut();
        let pool = clusters.get_mut(&cluster.id)?;
        let stack = pool.idle.get_mut(key)?;
        while let Some(mut idle) = stack.pop() {
            let silent = match strict {
                true => !idle.stream.is_readable_now(),
                false => !idle.stream.is_readable(),
            };
            if silent && !is_old(&idle, cluster, now) {
                return Some(idle);
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub fn put(&self, cluster: &Arc<Cluster>, key: Key, mut idle: Idle, now: Instant) {
        idle.since = now;
        let mut clusters = self.clusters.borrow_mut();
        let pool = clusters.entry(cluster.id).or_insert_with(|| Pool {
            cluster: cluster.clone(),
            idle: HashMap::new(),
        });
        pool.idle.entry(key).or_default().push(idle);
    }

    /// Closes what was idle too long or was closed by its peer.
    pub fn sweep(&self, now: Instant) {
        let mut clusters = self.clusters.borrow_mut();
        clusters.retain(|_, pool| {
            let cluster = pool.cluster.clone();
            pool.idle.retain(|_, stack| {
                stack.retain_mut(|idle| !is_old(idle, &cluster, now) && !idle.stream.is_readable());
                !stack.is_empty()
            });
            !pool.idle.is_empty()
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
            if pool.cluster.is_wanted() {
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

fn is_old(idle: &Idle, cluster: &Cluster, now: Instant) -> bool {
    let since = now.saturating_duration_since(idle.since);
    let age = now.saturating_duration_since(idle.opened);
    cluster
        .config
        .idle_timeout
        .is_some_and(|most| since >= most)
        || cluster
            .config
            .max_connection_duration
            .is_some_and(|most| age >= most)
}
