//! What goes on beside requests → one thread for all of it: outlier intervals, health checks, DNS, and numbers that are
//! kept by the second. Follows the running tables: a task per cluster that needs one.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::{Shared, health, resolve, stats};

/// Starts the thread; it ends when the process stops serving.
pub(crate) fn start(shared: Arc<Shared>) -> io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("background".to_owned())
        .spawn(move || runtime.block_on(run(&shared)))
}

async fn run(shared: &Arc<Shared>) {
    let mut changes = shared.live.subscribe();
    let mut phase = shared.drain.subscribe();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut tasks = Tasks::default();
    tasks.follow(shared);
    while !phase.borrow().is_stopped() {
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() { return; }
                tasks.follow(shared);
            }
            changed = phase.changed() => if changed.is_err() { return; },
            _ = tick.tick() => stats::refresh(shared),
        }
    }
}

/// The running tasks, by the id of their cluster.
#[derive(Default)]
struct Tasks {
    running: HashMap<u64, JoinHandle<()>>,
    names: Arc<resolve::System>,
}

fn wants_tending(cluster: &Cluster) -> bool {
    cluster.detector.is_some()
        || !cluster.config.health_checks.is_empty()
        || resolve::settings(&cluster.config.discovery).is_some()
}

impl Tasks {
    fn follow(&mut self, shared: &Arc<Shared>) {
        let tables = shared.live.tables();
        let running: HashMap<u64, &Arc<Cluster>> = tables
            .clusters
            .values()
            .map(|cluster| (cluster.id, cluster))
            .collect();
        self.running.retain(|id, task| {
            let stays = running.contains_key(id);
            if !stays {
                task.abort();
            }
            stays
        });
        for (id, cluster) in running {
            // A last probe of the cluster before may have ended after this one was made.
            cluster.forget_checks();
            if wants_tending(cluster) && !self.running.contains_key(&id) {
                let task = tend(cluster.clone(), shared.clone(), self.names.clone());
                self.running.insert(id, tokio::spawn(task));
            }
        }
    }
}

/// All that one cluster needs; ends when nothing more is to be done.
async fn tend(cluster: Arc<Cluster>, shared: Arc<Shared>, names: Arc<resolve::System>) {
    tokio::join!(
        health::judge(&cluster, &shared),
        health::active::follow(&cluster, &shared),
        resolve::follow(&cluster, &*names),
    );
}
