//! One OS thread with a current_thread runtime of its own: its listeners' connections, pools and buffers, shared with nobody.
//!
//! The I/O seam is here too: [`Worker::poll_read`] reads into the worker's scratch buffer only when the socket is
//! readable, so a connection that waits owns no buffer at all.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ripstop_model::snapshot::cluster::Discovery;
use rustc_hash::FxHashMap;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::Shared;
use crate::balance::{self, Ask, Balance, Picked, Wish};
use crate::cluster::Cluster;
use crate::detect::Learnt;
use crate::http2::Crew;
use crate::labels::Labels;
use crate::live::Tables;
use crate::message::{RequestHead, ResponseHead};
use crate::pool::Pools;

/// Reads start with this much room and grow to [`SCRATCH_MAX`] when a peer fills it.
const SCRATCH_MIN: usize = 64 * 1024;
const SCRATCH_MAX: usize = 256 * 1024;
/// Buffers kept for reuse, and the largest that is worth keeping.
const BUFFERS: usize = 64;
const BUFFER_MAX: usize = 128 * 1024;

/// The tables of one version. Counted by the worker's own count: requests of two workers then never write the same
/// cache line.
#[derive(Clone)]
pub struct View(Rc<Held>);

struct Held(Arc<Tables>);

impl View {
    fn new(tables: Arc<Tables>) -> View {
        View(Rc::new(Held(tables)))
    }
}

impl std::ops::Deref for View {
    type Target = Tables;

    fn deref(&self) -> &Tables {
        &self.0.0
    }
}

/// The state of one worker thread; handlers hold it by `Rc`.
pub struct Worker {
    pub index: usize,
    pub shared: Arc<Shared>,
    pub pools: Pools,
    view: RefCell<View>,
    scratch: RefCell<Vec<u8>>,
    buffers: RefCell<Vec<Vec<u8>>>,
    heads: RefCell<Vec<RequestHead>>,
    responses: RefCell<Vec<ResponseHead>>,
    seed: Cell<u64>,
    balances: RefCell<FxHashMap<u64, Balance>>,
    pub telemetry: RefCell<ripstop_telemetry::Worker>,
    pub labels: Labels,
    pub(crate) crew: Crew,
    /// Who speaks first, by destination.
    pub(crate) learnt: RefCell<Learnt>,
    /// The current second and its `date` header.
    date: RefCell<(u64, String)>,
    connections: RefCell<FxHashMap<u64, Waker>>,
    next_connection: Cell<u64>,
}

impl Worker {
    pub(crate) fn new(index: usize, shared: Arc<Shared>) -> Rc<Worker> {
        let view = RefCell::new(View::new(shared.live.tables()));
        Rc::new(Worker {
            index,
            pools: Pools::default(),
            view,
            scratch: RefCell::new(Vec::new()),
            buffers: RefCell::default(),
            heads: RefCell::default(),
            responses: RefCell::default(),
            seed: Cell::new(seed(index)),
            balances: RefCell::default(),
            telemetry: RefCell::new(ripstop_telemetry::Worker::new(
                &shared.registry,
                shared.spans.clone(),
            )),
            labels: Labels::default(),
            crew: Crew::default(),
            learnt: RefCell::default(),
            date: RefCell::default(),
            connections: RefCell::default(),
            next_connection: Cell::new(0),
            shared,
        })
    }

    /// The running configuration. A request takes it once and keeps it to its end.
    pub fn view(&self) -> View {
        let current = self.shared.live.version();
        if self.view.borrow().version != current {
            let fresh = View::new(self.shared.live.tables());
            self.view.replace(fresh);
        }
        self.view.borrow().clone()
    }

    /// Reads once, when the socket is readable, and hands over what came; an empty slice is the peer's end.
    pub fn poll_read<R>(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        with: impl FnOnce(&[u8]) -> R,
    ) -> Poll<io::Result<R>> {
        self.poll_read_most(stream, cx, usize::MAX, with)
    }

    /// As [`Worker::poll_read`], and no more than `most` bytes.
    pub fn poll_read_most<R>(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        most: usize,
        with: impl FnOnce(&[u8]) -> R,
    ) -> Poll<io::Result<R>> {
        let mut scratch = self.scratch.take();
        if scratch.is_empty() {
            scratch.resize(SCRATCH_MIN, 0);
        }
        let length = scratch.len();
        let room = scratch.get_mut(..most.clamp(1, length));
        let mut buf = ReadBuf::new(room.unwrap_or_default());
        let outcome = match Pin::new(stream).poll_read(cx, &mut buf) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => Poll::Ready(Ok(with(buf.filled()))),
        };
        let full = buf.remaining() == 0 && most >= length;
        if full && scratch.len() < SCRATCH_MAX {
            let wanted = scratch.len() * 2;
            scratch.resize(wanted, 0);
        }
        self.scratch.replace(scratch);
        outcome
    }

    pub fn take_buffer(&self) -> Vec<u8> {
        self.buffers
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| Vec::with_capacity(8 * 1024))
    }

    /// A cleared head with the memory of an earlier request.
    pub fn take_head(&self) -> RequestHead {
        self.heads.borrow_mut().pop().unwrap_or_default()
    }

    pub fn give_head(&self, mut head: RequestHead) {
        let mut heads = self.heads.borrow_mut();
        if heads.len() < BUFFERS {
            head.clear();
            heads.push(head);
        }
    }

    /// As [`Worker::take_head`].
    pub fn take_response(&self) -> ResponseHead {
        self.responses.borrow_mut().pop().unwrap_or_default()
    }

    pub fn give_response(&self, mut head: ResponseHead) {
        let mut heads = self.responses.borrow_mut();
        if heads.len() < BUFFERS {
            head.clear();
            heads.push(head);
        }
    }

    pub fn give_buffer(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < BUFFERS && buffer.capacity() <= BUFFER_MAX {
            buffer.clear();
            buffers.push(buffer);
        }
    }

    /// A uniformly random number (SplitMix64): for balancing, sampling and jitter, not for secrets.
    pub fn random(&self) -> u64 {
        let state = self.seed.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.seed.set(state);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// As [`Worker::random`], from 0 to 1.
    pub(crate) fn chance(&self) -> f64 {
        self.random() as f64 / u64::MAX as f64
    }

    /// A member for the next attempt: where the client wanted to go, if that is known and the cluster passes connections
    /// on, else by the cluster's policy.
    pub fn choose(
        &self,
        cluster: &Cluster,
        wish: Wish<'_>,
        destination: Option<SocketAddr>,
    ) -> Option<Picked> {
        match &cluster.config.discovery {
            Discovery::OriginalDst { port_override, .. } => {
                let destination = destination?;
                let port = port_override.unwrap_or(destination.port());
                Some(Picked::alone(SocketAddr::new(destination.ip(), port)))
            }
            _ => self.pick(cluster, wish),
        }
    }

    /// A member by the cluster's policy.
    pub fn pick(&self, cluster: &Cluster, wish: Wish<'_>) -> Option<Picked> {
        let mut balances = self.balances.borrow_mut();
        let balance = balances
            .entry(cluster.id)
            .or_insert_with(|| cluster.balance());
        let mut draw = || self.random();
        let mut ask = Ask::new(wish, self.shared.uptime(), &mut draw);
        balance.pick(&cluster.roster(), &mut ask)
    }

    /// What became of a request on a picked member.
    pub fn done(&self, cluster: &Cluster, picked: &Picked, outcome: &balance::Outcome) {
        if let Some(balance) = self.balances.borrow().get(&cluster.id) {
            balance.done(picked, outcome);
        }
    }

    /// Forgets the balancers of clusters that are gone.
    fn retain_balances(&self, view: &Tables) {
        let running: std::collections::HashSet<u64> =
            view.clusters.values().map(|cluster| cluster.id).collect();
        self.balances
            .borrow_mut()
            .retain(|id, _| running.contains(id));
    }

    /// The `date` header (RFC 9110 section 5.6.7), made once a second.
    pub fn date(&self) -> std::cell::Ref<'_, str> {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        if self.date.borrow().0 != now {
            self.date.replace((now, crate::date::http_date(now)));
        }
        std::cell::Ref::map(self.date.borrow(), |(_, text)| text.as_str())
    }

    /// Registers the running task as a connection: it is woken when a drain starts or the configuration changes. `drains`: a
    /// drain waits for it.
    pub fn register(self: &Rc<Self>, waker: &Waker, drains: bool) -> Registration {
        let id = self.next_connection.get();
        self.next_connection.set(id + 1);
        self.connections.borrow_mut().insert(id, waker.clone());
        self.shared.connections_opened(drains);
        Registration {
            worker: self.clone(),
            id,
            drains,
        }
    }

    /// Wakes every connection, so that each looks at the drain state and at its policies again.
    pub(crate) fn wake_connections(&self) {
        for waker in self.connections.borrow().values() {
            waker.wake_by_ref();
        }
    }

    pub fn connections(&self) -> usize {
        self.connections.borrow().len()
    }
}

/// A connection's place in its worker's list; leaves it when dropped.
pub struct Registration {
    worker: Rc<Worker>,
    id: u64,
    drains: bool,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(&self.id);
        self.worker.shared.connections_closed(self.drains);
    }
}

fn seed(index: usize) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's hasher keys are the one source of randomness that needs neither a crate nor a file.
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_usize(index);
    hasher.finish()
}

/// A deadline that is moved for every request and hardly ever reached: the runtime's timer is touched only when the
/// new deadline is earlier than the one it holds, or when that one fires.
#[derive(Default)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: Option<Instant>,
    deadline: Option<Instant>,
}

impl Timer {
    /// `None`: never.
    pub fn set(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Ready once the deadline has passed; otherwise the task is woken no later than then.
    pub fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        loop {
            match (&mut self.sleep, self.armed) {
                (Some(sleep), Some(armed)) if armed <= deadline => match sleep.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) if armed == deadline || Instant::now() >= deadline => {
                        self.armed = None;
                        return Poll::Ready(());
                    }
                    Poll::Ready(()) => self.armed = None,
                },
                (Some(sleep), _) => {
                    sleep.as_mut().reset(deadline);
                    self.armed = Some(deadline);
                }
                (None, _) => {
                    self.sleep = Some(Box::pin(tokio::time::sleep_until(deadline)));
                    self.armed = Some(deadline);
                }
            }
        }
    }
}

/// Starts the worker's thread; it ends when the process stops serving.
pub(crate) fn start(index: usize, shared: Arc<Shared>) -> io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            match runtime {
                Ok(runtime) => {
                    let local = tokio::task::LocalSet::new();
                    let worker = Worker::new(index, shared);
                    local.block_on(&runtime, run(worker));
                }
                Err(error) => tracing::error!(worker = index, %error, "a worker could not start"),
            }
        })
}

/// Keeps the worker's accept loops in step with the configuration until the process stops.
async fn run(worker: Rc<Worker>) {
    let mut changes = worker.shared.live.subscribe();
    let mut phase = worker.shared.drain.subscribe();
    let mut accepting = crate::listener::Accepting::default();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    accepting.follow(&worker);
    worker.shared.worker_ready();
    // The phase, not its change: the process may have ended before this worker subscribed.
    while !phase.borrow_and_update().is_stopped() {
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() { break; }
                accepting.follow(&worker);
                let view = worker.view();
                worker.pools.retain(&view);
                worker.retain_balances(&view);
                worker.wake_connections();
            }
            changed = phase.changed() => {
                if changed.is_err() { break; }
                accepting.follow(&worker);
                worker.wake_connections();
            }
            () = worker.shared.pool_wanted(worker.index) => worker.pools.give_up_idle(),
            _ = tick.tick() => {
                worker.pools.sweep(Instant::now());
                worker.telemetry.borrow_mut().flush();
            }
        }
    }
    worker.telemetry.borrow_mut().flush();
}
