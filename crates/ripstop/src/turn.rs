//! Replicas of a workload that are replaced or leave while the mesh runs → one after the other, so that the others serve.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ripstop_control::api::message::{Readiness, Workload};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::client::Client;
use crate::replica::Order;

/// Between looks at who is ready.
const LOOK: Duration = Duration::from_millis(100);

/// Whose turn it is to stop: a replica that is not ready, at any time; one that is ready, when every other that its
/// workload is to have serves, and those to be replaced in the order of their ids.
pub(crate) struct Turns {
    client: Client,
    crews: Mutex<Crews>,
}

#[derive(Default)]
struct Crews {
    /// Workload → its replicas.
    wanted: BTreeMap<String, BTreeSet<String>>,
    /// Those that are to be replaced.
    waiting: BTreeSet<String>,
    /// Those that have been told to stop, and may still look ready.
    going: BTreeSet<String>,
    /// Those that have done their work.
    over: BTreeSet<String>,
}

impl Turns {
    pub(crate) fn new(client: Client) -> Turns {
        Turns {
            client,
            crews: Mutex::default(),
        }
    }

    /// Says which replicas a workload is to have (its name and their ids), and forgets all others.
    pub(crate) fn plan(&self, replicas: impl Iterator<Item = (String, String)>) {
        let mut wanted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (workload, id) in replicas {
            wanted.entry(workload).or_default().insert(id);
        }
        let mut crews = self.crews();
        let known: BTreeSet<&String> = wanted.values().flatten().collect();
        crews.waiting.retain(|id| known.contains(id));
        crews.wanted = wanted;
    }

    /// A replica is to be replaced, when its turn comes.
    pub(crate) fn queue(&self, id: &str) {
        self.crews().waiting.insert(id.to_owned());
    }

    pub(crate) fn begun(&self, id: &str) {
        self.crews().over.remove(id);
    }

    /// It has done its work, and nobody waits for it to get ready.
    pub(crate) fn over(&self, id: &str) {
        self.crews().over.insert(id.to_owned());
    }

    /// `superseded`: another has taken its place in the queue.
    async fn come(&self, workload: &str, id: &str, superseded: &AtomicBool) {
        loop {
            // A control plane that does not answer is asked again.
            if let Ok(workloads) = self.client.fetch::<Vec<Workload>>("/v1/workloads").await {
                let is_ready = |w: &Workload| w.alive && w.readiness == Readiness::Ready;
                let ready = workloads.into_iter().filter(is_ready).map(|w| w.id);
                let mut crews = self.crews();
                let may_go = crews.may_go(workload, id, &ready.collect());
                if may_go && !superseded.load(Ordering::Relaxed) {
                    crews.waiting.remove(id);
                    crews.going.insert(id.to_owned());
                    return;
                }
            }
            sleep(LOOK).await;
        }
    }

    fn crews(&self) -> MutexGuard<'_, Crews> {
        self.crews.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Crews {
    fn may_go(&self, workload: &str, id: &str, ready: &BTreeSet<String>) -> bool {
        let is_wanted = |crew: &BTreeSet<String>| crew.contains(id);
        let crew = self.wanted.get(workload);
        let stays = crew.is_some_and(is_wanted);
        let serves = |other: &String| {
            let comes_after = stays && other.as_str() > id;
            (comes_after || !self.waiting.contains(other))
                && (self.over.contains(other)
                    || ready.contains(other) && !self.going.contains(other))
        };
        let mut others = crew.into_iter().flatten().filter(|other| *other != id);
        !ready.contains(id) || others.all(serves)
    }
}

/// A replica that goes on until it is its turn to stop.
pub(crate) struct Former {
    pub(crate) id: String,
    pub(crate) workload: String,
    pub(crate) orders: watch::Sender<Order>,
    pub(crate) task: JoinHandle<()>,
}

impl Former {
    /// Ends it, in order, when it is its turn; or at once, if that is what its successor is told meanwhile.
    /// `superseded`: the successor has one itself, and is not to take its turn any more.
    pub(crate) async fn end(
        mut self,
        turns: &Turns,
        told: &mut watch::Receiver<Order>,
        superseded: &AtomicBool,
    ) {
        tokio::select! {
            () = turns.come(&self.workload, &self.id, superseded) => drop(self.orders.send_replace(Order::Stop(libc::SIGTERM))),
            changed = told.wait_for(|order| *order != Order::Run) => drop(changed),
        }
        loop {
            let order = *told.borrow_and_update();
            if order != Order::Run {
                self.orders.send_replace(order);
            }
            tokio::select! {
                _ = &mut self.task => break,
                changed = told.changed() => if changed.is_err() {
                    // Whoever could give an order is gone: that is one to stop.
                    if order == Order::Run {
                        self.orders.send_replace(Order::Stop(libc::SIGTERM));
                    }
                    let _ = (&mut self.task).await;
                    break;
                },
            }
        }
        turns.crews().going.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn one_goes_when_all_others_serve() {
        let mut crews = Crews {
            wanted: BTreeMap::from([("w".to_owned(), ids(&["w-0", "w-1"]))]),
            waiting: ids(&["w-0", "w-1"]),
            ..Crews::default()
        };
        let all = ids(&["w-0", "w-1", "w-2"]);
        let go = |crews: &Crews, ready: &BTreeSet<String>| {
            let may_go = |id: &&str| crews.may_go("w", id, ready);
            ["w-0", "w-1", "w-2"]
                .into_iter()
                .filter(may_go)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            go(&crews, &all),
            ["w-0"],
            "in their order, and what is too many last"
        );
        crews.waiting.remove("w-0");
        crews.going.insert("w-0".to_owned());
        assert_eq!(go(&crews, &all), ["w-0"], "it looks ready for a moment");
        crews.going.clear();
        let one = ids(&["w-1", "w-2"]);
        assert_eq!(go(&crews, &one), ["w-0"], "nobody misses who is not ready");
        assert_eq!(go(&crews, &all), ["w-0", "w-1"]);
        crews.waiting.clear();
        assert_eq!(go(&crews, &all), ["w-0", "w-1", "w-2"]);
        crews.over.insert("w-0".to_owned());
        assert_eq!(
            go(&crews, &one),
            ["w-0", "w-1", "w-2"],
            "who has done its work is not awaited"
        );
        crews.wanted.clear();
        assert_eq!(go(&crews, &all), ["w-0", "w-1", "w-2"]);
    }
}
