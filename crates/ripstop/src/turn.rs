//! Replicas of a workload that are replaced while the mesh runs → one after the other, so that some always serve.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ripstop_control::api::message::{Readiness, Workload};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::client::Client;
use crate::replica::Order;

/// Between looks at whether the replica before is ready.
const LOOK: Duration = Duration::from_millis(100);

/// A replica that goes on until it is its successor's turn.
pub(crate) struct Former {
    pub(crate) orders: watch::Sender<Order>,
    pub(crate) task: JoinHandle<()>,
}

impl Former {
    /// Ends it, in order, when it is its turn; or at once, if that is what its successor is told meanwhile.
    /// `superseded`: the successor has one itself, and is not to take its turn any more.
    pub(crate) async fn end(
        mut self,
        turn: Option<Turn>,
        told: &mut watch::Receiver<Order>,
        superseded: &AtomicBool,
    ) {
        let come = async {
            if let Some(turn) = turn {
                turn.come().await;
            }
            if superseded.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = come => drop(self.orders.send_replace(Order::Stop(libc::SIGTERM))),
            changed = told.wait_for(|order| *order != Order::Run) => drop(changed),
        }
        loop {
            let order = *told.borrow_and_update();
            if order != Order::Run {
                self.orders.send_replace(order);
            }
            tokio::select! {
                _ = &mut self.task => return,
                changed = told.changed() => if changed.is_err() {
                    let _ = (&mut self.task).await;
                    return;
                },
            }
        }
    }
}

/// Comes when the replica before has been replaced and is ready, or is over.
pub(crate) struct Turn {
    client: Client,
    id: String,
    /// Whether its former self has ended; closed: it is over.
    replaced: watch::Receiver<bool>,
}

impl Turn {
    /// The turn after the replica `id`, and what that has to say once its former self has ended.
    pub(crate) fn after(client: Client, id: String) -> (watch::Sender<bool>, Turn) {
        let (said, replaced) = watch::channel(false);
        let turn = Turn {
            client,
            id,
            replaced,
        };
        (said, turn)
    }

    async fn come(mut self) {
        if self.replaced.wait_for(|replaced| *replaced).await.is_err() {
            return;
        }
        while self.replaced.has_changed().is_ok() && !self.is_ready().await {
            sleep(LOOK).await;
        }
    }

    async fn is_ready(&self) -> bool {
        // A control plane that does not answer is asked again.
        let workloads: Vec<Workload> = self.client.fetch("/v1/workloads").await.unwrap_or_default();
        workloads.iter().any(|workload| {
            workload.id == self.id && workload.alive && workload.readiness == Readiness::Ready
        })
    }
}
