//! A fixed part of the configuration and what is discovered → what the workers run, also before there are workers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ripstop_control::compile::VIRTUAL_OUTBOUND;
use ripstop_model::snapshot::{Cluster, Listener, Local, Name, Snapshot};
use ripstop_proxy::discovery::follow::Consumer;
use ripstop_proxy::{Options, Running, Shared, StartError};

/// What runs whatever is discovered.
#[derive(Clone, Default)]
pub(crate) struct Fixed {
    /// Where captured connections arrive: served as the discovered [`VIRTUAL_OUTBOUND`] says, under names of their own.
    pub(crate) captures: Vec<(Name, SocketAddr)>,
    pub(crate) listeners: BTreeMap<Name, Arc<Listener>>,
    pub(crate) clusters: BTreeMap<Name, Arc<Cluster>>,
    pub(crate) local: Option<Local>,
}

impl Fixed {
    /// What was discovered, with the fixed part, which wins.
    fn join(&self, discovered: &Snapshot) -> Snapshot {
        let mut joined = discovered.clone();
        joined.local.clone_from(&self.local);
        if let Some(capturing) = joined.listeners.remove(VIRTUAL_OUTBOUND) {
            for (name, address) in &self.captures {
                let listener = Listener {
                    name: name.clone(),
                    address: *address,
                    ..Listener::clone(&capturing)
                };
                joined.listeners.insert(name.clone(), Arc::new(listener));
            }
        }
        joined.listeners.extend(
            self.listeners
                .iter()
                .map(|(name, listener)| (name.clone(), listener.clone())),
        );
        joined.clusters.extend(
            self.clusters
                .iter()
                .map(|(name, cluster)| (name.clone(), cluster.clone())),
        );
        joined
    }
}

/// Where snapshots go: kept until the workers run, then to them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Stage {
    fixed: Fixed,
    play: Arc<Mutex<Play>>,
}

struct Play {
    discovered: Arc<Snapshot>,
    /// Listeners that do not run now.
    withheld: BTreeSet<Name>,
    /// `None`: they have not started.
    workers: Option<Arc<Shared>>,
}

impl Stage {
    pub(crate) fn new(fixed: Fixed) -> Stage {
        let play = Play {
            discovered: Arc::default(),
            withheld: BTreeSet::new(),
            workers: None,
        };
        Stage {
            fixed,
            play: Arc::new(Mutex::new(play)),
        }
    }

    /// Runs what was discovered, with the fixed part.
    pub(crate) fn apply(&self, discovered: Arc<Snapshot>) {
        let mut play = self.play();
        play.discovered = discovered;
        self.show(&play);
    }

    /// Runs all listeners but these.
    pub(crate) fn withhold(&self, listeners: BTreeSet<Name>) {
        let mut play = self.play();
        if play.withheld != listeners {
            play.withheld = listeners;
            self.show(&play);
        }
    }

    fn show(&self, play: &Play) {
        if let Some(shared) = &play.workers {
            complain(&shared.live.apply(self.scene(play)));
        }
    }

    fn scene(&self, play: &Play) -> Arc<Snapshot> {
        let mut joined = self.fixed.join(&play.discovered);
        joined
            .listeners
            .retain(|name, _| !play.withheld.contains(name));
        Arc::new(joined)
    }

    fn play(&self) -> MutexGuard<'_, Play> {
        self.play.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the workers on what has been applied so far. Once.
    pub(crate) fn start(
        &self,
        options: impl FnOnce(Arc<Snapshot>) -> Options,
    ) -> Result<Running, StartError> {
        let mut play = self.play();
        let running = ripstop_proxy::run(options(self.scene(&play)))?;
        complain(&running.listen_errors);
        play.workers = Some(running.shared.clone());
        Ok(running)
    }
}

/// A stage that a control plane's discoveries go to.
pub(crate) struct Following {
    stage: Stage,
    /// Connections so far, by listener, when last asked.
    seen: HashMap<Name, u64>,
}

impl From<Stage> for Following {
    fn from(stage: Stage) -> Following {
        Following {
            stage,
            seen: HashMap::new(),
        }
    }
}

impl Consumer for Following {
    fn apply(&mut self, snapshot: Arc<Snapshot>) {
        self.stage.apply(snapshot);
    }

    fn is_used(&mut self, listener: &Name) -> bool {
        let Some(shared) = self.stage.play().workers.clone() else {
            return false;
        };
        let tables = shared.live.tables();
        let Some(running) = tables.listeners.get(listener) else {
            self.seen.remove(listener);
            return false;
        };
        let (total, active) = running.connections();
        let before = self.seen.insert(listener.clone(), total);
        active > 0 || before != Some(total)
    }
}

fn complain(errors: &[ripstop_proxy::live::ListenError]) {
    for error in errors {
        tracing::error!(%error, "a listener cannot be opened");
    }
}
