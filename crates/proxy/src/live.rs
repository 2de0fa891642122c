//! Snapshot in → the tables that run, swapped in one step. What did not change is kept as it is: sockets of listeners,
//! balancer, breaker and pool state of clusters, compiled policies of chains.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use ripstop_model::authz::Judge;
use ripstop_model::snapshot::listener::{self, FilterChain, Terminal};
use ripstop_model::snapshot::{Endpoints, Name, Snapshot};
use ripstop_telemetry::{Registry, Stats};
use rustc_hash::FxHashMap;
use tokio::sync::watch;

use crate::balance::zone::Zones;
use crate::cluster::Cluster;
use crate::http::Proxy;
use crate::listener::Sockets;
use crate::logs::{Filtered, Logs};
use crate::refusal;
use crate::route;
use crate::stats;
use crate::tcp;
use crate::tls::{Secrets, Terminator};

/// Everything the data path looks up, of one moment. A request uses one from start to end. The names are the
/// configuration's, not a stranger's: a quick hash does.
#[derive(Default)]
pub struct Tables {
    pub version: u64,
    pub listeners: FxHashMap<Name, Arc<Listener>>,
    /// The same, by address: for connections handed over by their original destination.
    pub by_address: FxHashMap<SocketAddr, Arc<Listener>>,
    pub routes: FxHashMap<Name, Arc<route::Table>>,
    pub clusters: FxHashMap<Name, Arc<Cluster>>,
    pub snapshot: Arc<Snapshot>,
}

/// A listener that runs.
pub struct Listener {
    pub config: Arc<listener::Listener>,
    /// `None`: virtual, or not bound.
    pub sockets: Option<Arc<Sockets>>,
    pub chains: Vec<Arc<Chain>>,
    pub default_chain: Option<Arc<Chain>>,
    /// For connections that this listener accepts and nobody serves.
    pub refusing: Arc<Chain>,
    /// Where those that are closed without an answer are written down.
    pub logs: Vec<Filtered>,
    pub stats: Arc<stats::Listener>,
}

/// A filter chain with its policies compiled.
pub struct Chain {
    pub config: Arc<FilterChain>,
    /// Network-level authorization.
    pub judge: Judge,
    /// `None`: plain text.
    pub tls: Option<Terminator>,
    /// `None` where the chain ends in a TCP proxy.
    pub http: Option<Proxy>,
    /// `None` where it ends in an HTTP proxy.
    pub tcp: Option<tcp::Proxy>,
}

impl Listener {
    /// Compiles a listener; chains equal to one of `old` are taken over.
    pub fn new(
        config: Arc<listener::Listener>,
        sockets: Option<Arc<Sockets>>,
        old: Option<&Listener>,
        logs: &Logs,
        stats: &Stats,
        secrets: &Secrets,
    ) -> Listener {
        let address = sockets.as_ref().map(|sockets| sockets.address);
        let name = stats::listener_name(address.unwrap_or(config.address));
        let chain = |chain: &Arc<FilterChain>| {
            old.into_iter()
                .flat_map(|old| old.chains.iter().chain(&old.default_chain))
                .find(|kept| Arc::ptr_eq(&kept.config, chain) || kept.config == *chain)
                .filter(|kept| !kept.is_broken())
                .cloned()
                .unwrap_or_else(|| Arc::new(Chain::new(chain.clone(), logs, stats, secrets)))
        };
        let refusing = Arc::new(refusal::chain(&config.access_logs));
        Listener {
            refusing: Arc::new(Chain::new(refusing, logs, stats, secrets)),
            logs: logs.open(&config.access_logs),
            chains: config.chains.iter().map(chain).collect(),
            default_chain: config.default_chain.as_ref().map(chain),
            stats: stats::Listener::new(stats, &name),
            sockets,
            config,
        }
    }

    /// Connections so far, and now.
    pub fn connections(&self) -> (u64, i64) {
        self.stats.connections()
    }

    /// Whether only listeners that it hands connections to serve any.
    pub fn leads_nowhere(&self) -> bool {
        self.chains.is_empty() && self.default_chain.is_none()
    }

    /// Where every chain needs TLS: how long a handshake may take.
    pub fn handshake_limit(&self) -> Option<Duration> {
        let chains = || self.chains.iter().chain(&self.default_chain);
        let limits = chains().filter_map(|chain| Some(chain.tls.as_ref()?.timeout()));
        limits
            .max()
            .filter(|_| chains().all(|chain| chain.tls.is_some()))
    }

    pub fn chain(&self, name: &str) -> Option<&Arc<Chain>> {
        self.chains
            .iter()
            .chain(&self.default_chain)
            .find(|chain| *chain.config.name == *name)
    }
}

impl Chain {
    fn new(config: Arc<FilterChain>, logs: &Logs, stats: &Stats, secrets: &Secrets) -> Chain {
        let (http, tcp) = match &config.terminal {
            Terminal::Http(proxy) => (Some(Proxy::new(proxy.clone(), logs, stats)), None),
            Terminal::Tcp(proxy) => (None, Some(tcp::Proxy::new(proxy.clone(), logs))),
        };
        let tls = config
            .tls
            .as_ref()
            .map(|tls| Terminator::new(tls, config.handshake_timeout, secrets));
        if let Some(error) = tls.as_ref().and_then(Terminator::error) {
            tracing::error!(chain = %config.name, %error, "connections to this chain are refused");
        }
        Chain {
            tls,
            http,
            tcp,
            judge: Judge::new(&config.authz),
            config,
        }
    }

    /// Whether part of it could not be compiled: worth trying again at the next change.
    fn is_broken(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.error().is_some())
    }
}

/// A listener that could not be opened. The rest of the snapshot runs.
#[derive(Debug, thiserror::Error)]
#[error("listener {name}: cannot listen on {address}: {source}")]
pub struct ListenError {
    pub name: Name,
    pub address: SocketAddr,
    pub source: io::Error,
}

/// The running tables and their only way to change.
pub struct Live {
    tables: ArcSwap<Tables>,
    /// The tables' version, so that asking whether they changed touches nothing else.
    version: AtomicU64,
    changed: watch::Sender<u64>,
    workers: usize,
    pub logs: Logs,
    registry: Arc<Registry>,
    pub secrets: Secrets,
    /// Where this proxy stands; known from the start or never.
    zones: OnceLock<Arc<Zones>>,
    /// Held while a snapshot is applied, never on the data path.
    applying: Mutex<Adopted>,
}

/// Sockets given by the supervisor, by listener name.
type Adopted = HashMap<Name, Arc<Sockets>>;

impl Live {
    pub fn new(
        workers: usize,
        adopted: HashMap<Name, Arc<Sockets>>,
        registry: Arc<Registry>,
        secrets: Secrets,
    ) -> Live {
        Live {
            tables: ArcSwap::default(),
            version: AtomicU64::new(0),
            changed: watch::Sender::new(0),
            workers,
            logs: Logs::default(),
            registry,
            secrets,
            zones: OnceLock::new(),
            applying: Mutex::new(adopted),
        }
    }

    pub fn tables(&self) -> Arc<Tables> {
        self.tables.load_full()
    }

    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Told of each new version.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Runs a snapshot from now on. Listeners that cannot be opened are named; all else runs.
    pub fn apply(&self, snapshot: Arc<Snapshot>) -> Vec<ListenError> {
        let adopted = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.tables();
        let mut errors = Vec::new();
        let zones = snapshot.local.as_ref().map(|local| {
            self.zones
                .get_or_init(|| Arc::new(Zones::new(local.clone())))
        });
        let clusters: FxHashMap<Name, Arc<Cluster>> = snapshot
            .clusters
            .iter()
            .map(|(name, config)| {
                let kept = old
                    .clusters
                    .get(name)
                    .filter(|kept| Arc::ptr_eq(&kept.config, config) || kept.config == *config)
                    .filter(|kept| !kept.transports.is_broken());
                let cluster = match kept {
                    Some(kept) => kept.clone(),
                    None => Arc::new(Cluster::new(
                        config.clone(),
                        old.clusters.get(name),
                        self.registry.stats(),
                        &self.secrets,
                        zones,
                    )),
                };
                cluster.follow(&snapshot.endpoints);
                (name.clone(), cluster)
            })
            .collect();
        let routes = snapshot
            .routes
            .iter()
            .map(|(name, config)| {
                let kept = old
                    .routes
                    .get(name)
                    .filter(|kept| Arc::ptr_eq(kept.config(), config) || kept.config() == config);
                let table = kept
                    .cloned()
                    .unwrap_or_else(|| Arc::new(route::Table::new(config.clone())));
                (name.clone(), table)
            })
            .collect();
        let mut listeners = FxHashMap::default();
        for (name, config) in &snapshot.listeners {
            let before = old.listeners.get(name);
            let sockets = match self.sockets(&adopted, config, &old) {
                Ok(sockets) => sockets,
                Err(source) => {
                    errors.push(ListenError {
                        name: name.clone(),
                        address: config.address,
                        source,
                    });
                    continue;
                }
            };
            let running = Listener::new(
                config.clone(),
                sockets,
                before.map(|old| &**old),
                &self.logs,
                self.registry.stats(),
                &self.secrets,
            );
            listeners.insert(name.clone(), Arc::new(running));
        }
        let by_address = listeners
            .values()
            .map(|listener| (listener.config.address, listener.clone()))
            .collect();
        let version = old.version + 1;
        self.tables.store(Arc::new(Tables {
            version,
            listeners,
            by_address,
            routes,
            clusters,
            snapshot,
        }));
        self.version.store(version, Ordering::Release);
        self.changed.send_replace(version);
        errors
    }

    /// The fast lane: members change, nothing else does.
    pub fn apply_endpoints(&self, endpoints: &BTreeMap<Name, Arc<Endpoints>>) {
        for cluster in self.tables().clusters.values() {
            cluster.follow(endpoints);
        }
    }

    fn sockets(
        &self,
        adopted: &Adopted,
        config: &listener::Listener,
        old: &Tables,
    ) -> io::Result<Option<Arc<Sockets>>> {
        if let Some(given) = adopted.get(&config.name) {
            return Ok(Some(given.clone()));
        }
        if !config.bind {
            return Ok(None);
        }
        // Whatever its name was: the address is what a socket belongs to.
        let kept = old.listeners.values().find_map(|listener| {
            let sockets = listener.sockets.as_ref()?;
            let same = listener.config.address == config.address
                && (config.address.port() != 0 || listener.config.name == config.name);
            same.then(|| sockets.clone())
        });
        match kept {
            Some(kept) => Ok(Some(kept)),
            None => Sockets::bind(config.address, self.workers).map(|bound| Some(Arc::new(bound))),
        }
    }
}
