//! The data plane: a [`Snapshot`] and connections in → connections and requests forwarded, answered and recorded.
//!
//! In the order a request meets it: [`worker`] → [`listener`] → [`connection`] → (detect, tls) → http1 or http2 →
//! http → policy → route → retry → balance → [`pool`] → upstream. [`live`] holds what they look up.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

pub mod admin;
pub mod admission;
pub mod attempt;
mod background;
pub mod balance;
pub mod cause;
pub mod cluster;
pub mod connection;
pub mod date;
pub mod detect;
pub mod dial;
pub mod discovery;
pub mod downstream;
pub mod drain;
pub mod error;
pub mod exchange;
pub mod forwarding;
pub mod grpc;
pub mod headers;
pub mod health;
pub mod http;
pub mod http1;
pub mod http2;
pub mod labels;
mod limit;
pub mod listener;
pub mod live;
pub mod logs;
pub mod memory;
pub mod message;
pub mod mirror;
pub mod peer;
pub mod policy;
pub mod pool;
pub mod readiness;
pub mod refusal;
pub mod relay;
pub mod reply;
pub mod resolve;
pub mod retry;
pub mod route;
pub mod stats;
pub mod stream;
pub mod tcp;
pub mod tls;
pub mod trace;
pub mod upstream;
pub mod worker;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ripstop_model::seam::{AppSockets, Causes, Family};
use ripstop_model::snapshot::endpoint::Workload;
use ripstop_model::snapshot::tls::Secret;
use ripstop_model::snapshot::{Name, Snapshot};
use ripstop_model::spiffe::Spiffe;
use ripstop_telemetry::record::{self, Known};

use crate::cause::Attributor;
use crate::drain::{Drain, Phase};
use crate::live::{ListenError, Live};
pub use crate::tls::Identity;
use crate::tls::Secrets;

/// What the end of the process waits for slow readers of its access logs at most.
const LAST_LINES: Duration = Duration::from_secs(1);

/// For callers to hear of a drain, which takes them the push of one endpoint; until then they open connections.
const HEARSAY: Duration = Duration::from_millis(250);

/// What a proxy is started with.
pub struct Options {
    /// At least 1.
    pub workers: usize,
    /// What runs from the start.
    pub snapshot: Arc<Snapshot>,
    /// Asked when a connection needs what the proxy does not hold; `None`: it holds all there is.
    pub demand: Option<Arc<dyn Demand>>,
    pub sidecar: Option<Sidecar>,
    /// The node's id, for `%HOSTNAME%` and the admin pages.
    pub node: Arc<str>,
    pub registry: Arc<ripstop_telemetry::Registry>,
    /// Where spans go; `None`: contexts are passed on unchanged.
    pub spans: Option<ripstop_telemetry::export::Spans>,
    /// The workload that this proxy serves, and its identity; `None`: it is nobody's sidecar.
    pub workload: Option<(Workload, Spiffe)>,
    /// Certificate and trust of a member of the mesh; `None`: only what the configuration itself carries.
    pub identity: Option<Identity>,
    /// Certificates and validation contexts that the configuration refers to by name.
    pub secrets: Vec<Arc<Secret>>,
    /// How long [`Running::drain`] lets requests go on.
    pub drain_time: Duration,
    /// Downstream connections that may be open at once.
    pub most: admission::Most,
}

/// What a sidecar has beyond a proxy: a foot in its application's namespace.
pub struct Sidecar {
    /// Listening sockets made in the namespace, by the name of the listener that takes their connections.
    pub adopted: Vec<(Name, OwnedFd)>,
    /// Sockets for dialling the application.
    pub sockets: Arc<dyn Sockets>,
    /// The workload's own addresses, as its application sees them: where inbound connections go.
    pub addresses: Vec<IpAddr>,
    /// The sidecar's own transport address (decisions.md, 1): the source of its connections to addresses in the same /16.
    pub source: Option<Ipv4Addr>,
    /// Where the application's own word on what it is serving is found; `None`: nobody watches it.
    pub causes: Option<Arc<dyn Causes>>,
}

/// [`AppSockets`] behind a pointer.
pub trait Sockets: Send + Sync + 'static {
    fn stream(&self, family: Family) -> Pending<'_, io::Result<OwnedFd>>;
}

impl<T: AppSockets> Sockets for T {
    fn stream(&self, family: Family) -> Pending<'_, io::Result<OwnedFd>> {
        Box::pin(AppSockets::stream(self, family))
    }
}

pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Asks the control plane for what a first use needs, and waits for it (decisions.md, 2). When it answers
/// [`Answer::Ready`] the snapshot that has it is applied.
pub trait Demand: Send + Sync + 'static {
    fn listener(&self, destination: SocketAddr) -> Pending<'_, Answer>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Ready,
    /// Not an address of the mesh: it is passed through.
    Outside,
    /// The control plane knows no such service.
    Unknown,
    TimedOut,
}

/// What all workers share: nothing but atomics is touched on the request path.
pub struct Shared {
    pub live: Live,
    pub drain: Drain,
    pub demand: Option<Arc<dyn Demand>>,
    pub sockets: Option<Arc<dyn Sockets>>,
    pub attributor: Option<Arc<Attributor>>,
    pub counters: Counters,
    pub(crate) admission: Arc<admission::Admission>,
    pub node: Arc<str>,
    pub registry: Arc<ripstop_telemetry::Registry>,
    pub spans: Option<ripstop_telemetry::export::Spans>,
    /// What telemetry says of this proxy's own workload.
    pub workload: Option<Arc<Known<record::Workload>>>,
    /// What it tells its peers in the mesh ([`peer::HEADER`]).
    pub introduction: Option<Arc<str>>,
    pub trust_domain: Arc<str>,
    totals: stats::Totals,
    /// The workload's own addresses; empty where there is no application beside the proxy.
    pub(crate) addresses: Vec<IpAddr>,
    source: Option<Ipv4Addr>,
    open: AtomicUsize,
    /// Of those, how many a drain ends.
    to_drain: AtomicUsize,
    ready_workers: AtomicUsize,
    serving: AtomicBool,
    /// One per worker: another worker wants a connection that this one holds idle.
    wanted: Vec<tokio::sync::Notify>,
}

/// Process-wide counters that belong to no request.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: AtomicU64,
    accept_exhausted: AtomicU64,
}

impl Counters {
    pub(crate) fn accept_exhausted(&self) {
        self.accept_exhausted.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections accepted since the start.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// Since this was first asked, which is at the start: the clock of everything that is kept between requests.
pub(crate) fn uptime() -> Duration {
    static START: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);
    START.elapsed()
}

impl Shared {
    pub(crate) fn connections_opened(&self, drains: bool) {
        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        self.to_drain
            .fetch_add(usize::from(drains), Ordering::Relaxed);
    }

    pub(crate) fn connections_closed(&self, drains: bool) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.to_drain
            .fetch_sub(usize::from(drains), Ordering::Relaxed);
    }

    /// Downstream connections that are open.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// As [`uptime`].
    pub fn uptime(&self) -> Duration {
        uptime()
    }

    /// The source for a connection to this address, where it matters: between sidecars of one host.
    pub(crate) fn source_for(&self, address: SocketAddr) -> Option<SocketAddr> {
        let (Some(source), IpAddr::V4(target)) = (self.source, address.ip()) else {
            return None;
        };
        let net = |ip: Ipv4Addr| u32::from(ip) >> 16;
        (net(source) == net(target)).then(|| SocketAddr::from((source, 0)))
    }

    pub(crate) fn worker_ready(&self) {
        self.ready_workers.fetch_add(1, Ordering::Release);
    }

    /// Whether every worker accepts and no drain has begun.
    pub fn is_ready(&self) -> bool {
        self.serving.load(Ordering::Acquire)
            && self.ready_workers.load(Ordering::Acquire) == self.wanted.len()
            && !self.drain.phase().is_draining()
    }

    pub(crate) async fn pool_wanted(&self, worker: usize) {
        match self.wanted.get(worker) {
            Some(wanted) => wanted.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Asks all workers but this one to close an idle connection of a cluster that is at its limit.
    pub(crate) fn want_connection(&self, except: usize) {
        for (index, wanted) in self.wanted.iter().enumerate() {
            if index != except {
                wanted.notify_one();
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("a worker thread could not be started: {0}")]
    Thread(io::Error),
    #[error("an adopted listener cannot be used: {0}")]
    Adopt(io::Error),
}

/// A proxy that runs until it is stopped. Dropping it stops it.
pub struct Running {
    pub shared: Arc<Shared>,
    /// Listeners of the first snapshot that could not be opened.
    pub listen_errors: Vec<ListenError>,
    threads: Vec<std::thread::JoinHandle<()>>,
    drain_time: Duration,
}

/// Starts the workers.
pub fn run(options: Options) -> Result<Running, StartError> {
    let workers = options.workers.max(1);
    let mut adopted = HashMap::new();
    let mut sockets = None;
    let mut source = None;
    let mut addresses = Vec::new();
    let mut attributor = None;
    if let Some(sidecar) = options.sidecar {
        for (name, socket) in sidecar.adopted {
            let socket = listener::Sockets::adopt(socket).map_err(StartError::Adopt)?;
            adopted.insert(name, Arc::new(socket));
        }
        sockets = Some(sidecar.sockets);
        source = sidecar.source;
        addresses = sidecar.addresses;
        attributor = sidecar
            .causes
            .map(|causes| Arc::new(Attributor::new(causes, options.registry.stats())));
    }
    let secrets = Secrets::new(options.identity);
    for secret in &options.secrets {
        if let Err(error) = secrets.set(secret) {
            // What refers to it fails closed, each with this cause; the rest runs.
            tracing::error!(secret = %secret.name, %error, "a secret cannot be used");
        }
    }
    let shared = Arc::new(Shared {
        live: Live::new(workers, adopted, options.registry.clone(), secrets),
        totals: stats::Totals::new(options.registry.stats()),
        drain: Drain::default(),
        demand: options.demand,
        sockets,
        attributor,
        counters: Counters::default(),
        admission: admission::Admission::new(options.most),
        node: options.node,
        registry: options.registry,
        spans: options.spans,
        trust_domain: match &options.workload {
            Some((_, id)) => id.trust_domain.clone(),
            None => "cluster.local".into(),
        },
        workload: options
            .workload
            .as_ref()
            .map(|(workload, id)| Arc::new(labels::workload(workload, &id.to_string()))),
        introduction: options
            .workload
            .as_ref()
            .map(|(workload, _)| peer::introduction(workload).into()),
        addresses,
        source,
        open: AtomicUsize::new(0),
        to_drain: AtomicUsize::new(0),
        ready_workers: AtomicUsize::new(0),
        serving: AtomicBool::new(true),
        wanted: (0..workers).map(|_| tokio::sync::Notify::new()).collect(),
    });
    let listen_errors = shared.live.apply(options.snapshot);
    let mut running = Running {
        shared: shared.clone(),
        listen_errors,
        threads: Vec::new(),
        drain_time: options.drain_time,
    };
    let background = background::start(shared.clone()).map_err(StartError::Thread)?;
    running.threads.push(background);
    for index in 0..workers {
        let thread = worker::start(index, shared.clone()).map_err(StartError::Thread)?;
        running.threads.push(thread);
    }
    Ok(running)
}

impl Running {
    /// Runs another snapshot. No connection ends for it, unless it denies that connection.
    pub fn apply(&self, snapshot: Arc<Snapshot>) -> Vec<ListenError> {
        self.shared.live.apply(snapshot)
    }

    pub fn ready(&self) -> bool {
        self.shared.is_ready()
    }

    /// Fails readiness, ends idle connections, lets requests finish; returns when no connection is left, at the latest
    /// after the drain time. New connections are served meanwhile: who still calls has not heard yet. A sidecar's
    /// application goes on asking others.
    pub async fn drain(&self) {
        self.shared.drain.advance(Phase::Draining);
        let begun = tokio::time::Instant::now();
        let least = if self.is_called() {
            HEARSAY
        } else {
            Duration::ZERO
        };
        let (least, most) = (begun + least, begun + self.drain_time);
        loop {
            let now = tokio::time::Instant::now();
            let left = self.shared.to_drain.load(Ordering::Relaxed);
            if now >= most || (left == 0 && now >= least) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until no connection is left but those that a drain is for, at most so long: when the application has exited,
    /// what it had opened ends by itself, and is yet to be written down.
    pub async fn settle(&self, most: Duration) {
        let until = tokio::time::Instant::now() + most;
        let left = || {
            let open = self.shared.open.load(Ordering::Relaxed);
            open.saturating_sub(self.shared.to_drain.load(Ordering::Relaxed))
        };
        while left() > 0 && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether others of a mesh call here, who hear of the drain from the control plane.
    fn is_called(&self) -> bool {
        let tables = self.shared.live.tables();
        let mut listeners = tables.listeners.values();
        self.shared.sockets.is_some()
            && listeners.any(|listener| {
                listener.config.direction == ripstop_model::snapshot::listener::Direction::Inbound
            })
    }

    /// Ends everything now and waits for the workers.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.drain.advance(Phase::Stopped);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker thread ended in a panic");
            }
        }
        self.shared.live.logs.flush(LAST_LINES);
    }

    /// The address a listener is bound to (with port 0 the kernel chose).
    pub fn address(&self, listener: &str) -> Option<SocketAddr> {
        let tables = self.shared.live.tables();
        let sockets = tables.listeners.get(listener)?.sockets.clone()?;
        Some(sockets.address)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
