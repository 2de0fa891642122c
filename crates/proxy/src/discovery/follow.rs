//! The stream to the control plane: keeps it open, feeds [`Discovery`], applies what is ready, answers who waits.
//!
//! One task owns everything; workers and the DNS server ask it through [`Follower`]. When the control plane is away,
//! what was applied keeps running, first uses are answered [`Readiness::TimedOut`], and the stream is tried again with
//! jittered back-off for as long as the task lives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use ripstop_model::discovery::{Key, Kind, Resource};
use ripstop_model::seam::{HostRecord, Lookup, Names};
use ripstop_model::snapshot::{Name, Snapshot};
use ripstop_wire::xds::Response;
use ripstop_wire::xds::client::{Client, Update};
use ripstop_wire::xds::stream::{Channel, Stream, StreamError};
use tokio::sync::{mpsc, oneshot, watch};

use super::{Change, Discovery, Readiness, Settings};
use crate::{Answer, Demand, Pending};

/// How a proxy follows its control plane.
pub struct Options {
    pub client: Client,
    pub settings: Settings,
    /// What it is told to hold, used or not.
    pub hold: Vec<Key>,
    /// Connects on first use, and again after a loss.
    pub channel: Channel,
    /// Sent as `authorization: Bearer` where the channel carries no certificate.
    pub bearer: Option<String>,
}

/// Asks the task. Cheap to clone.
#[derive(Clone)]
pub struct Follower {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

struct Shared {
    ranges: ArcSwap<Vec<ipnet::IpNet>>,
    connected: AtomicBool,
    rejected: AtomicU64,
    warnings: AtomicU64,
    /// Everything it was told to hold has arrived or is known not to exist.
    ready: watch::Sender<bool>,
}

enum Command {
    Want(Key, oneshot::Sender<Wanted>),
    Report(Option<String>),
}

/// What came of a want; hosts come along, the rest is in the applied snapshot.
#[derive(Debug, Clone)]
enum Wanted {
    Ready(Option<Arc<HostRecord>>),
    Absent,
    TimedOut,
}

/// First uses that may wait at once; more are answered as timed out.
const QUEUE: usize = 4096;
/// Longest wait between attempts to reach the control plane.
const BACK_OFF_MOST: Duration = Duration::from_secs(5);
const BACK_OFF: Duration = Duration::from_millis(100);
const SWEEP: Duration = Duration::from_secs(30);
/// A stream that is away this long answers first uses at once.
const AWAY: Duration = Duration::from_secs(2);
/// What a name may wait for here. Programs ask again after 2 s (c-ares) or 5 s (the C libraries, Go), and a name that is
/// none of the mesh's has a way outside before it.
const LOOKUP: Duration = Duration::from_millis(1500);

/// What discovery is for.
pub trait Consumer: Send + 'static {
    /// Runs a new snapshot, before anybody who waited for it is answered.
    fn apply(&mut self, snapshot: Arc<Snapshot>);
    /// Whether a listener has connections, or has had some since the last time this was asked.
    fn is_used(&mut self, listener: &Name) -> bool;
}

/// Starts the task on the current runtime.
pub fn follow(options: Options, consumer: impl Consumer) -> Follower {
    let (commands, inbox) = mpsc::channel(QUEUE);
    let shared = Arc::new(Shared {
        ranges: ArcSwap::default(),
        connected: AtomicBool::new(false),
        rejected: AtomicU64::new(0),
        warnings: AtomicU64::new(0),
        ready: watch::Sender::new(false),
    });
    let now = Instant::now();
    let mut task = Task {
        discovery: Discovery::new(options.settings),
        client: options.client,
        consumer: Box::new(consumer),
        waiting: Vec::new(),
        held: options.hold,
        shared: Arc::clone(&shared),
        lost: now,
        silent: false,
        draw: now.elapsed().as_nanos() as u64 ^ u64::from(std::process::id()),
    };
    for kind in options.settings.wildcards {
        task.client.subscribe_all(*kind);
    }
    for key in task.held.clone() {
        task.discovery.hold(key, now);
    }
    task.subscribe();
    tokio::spawn(task.run(options.channel, options.bearer, inbox));
    Follower { commands, shared }
}

impl Follower {
    /// Waits until all that was told to be held has arrived.
    pub async fn ready(&self) {
        // The sender lives as long as `self`.
        let _ = self.shared.ready.subscribe().wait_for(|ready| *ready).await;
    }

    pub fn is_connected(&self) -> bool {
        self.shared.connected.load(Ordering::Relaxed)
    }

    /// Resources rejected and fields ignored since the start.
    pub fn complaints(&self) -> (u64, u64) {
        (
            self.shared.rejected.load(Ordering::Relaxed),
            self.shared.warnings.load(Ordering::Relaxed),
        )
    }

    /// Tells the control plane of the application's health, or that the workload leaves; `None` is healthy.
    pub async fn report(&self, trouble: Option<String>) {
        // A task that has ended has nobody to tell.
        let _ = self.commands.send(Command::Report(trouble)).await;
    }

    /// The address ranges of the mesh; empty until they have arrived.
    pub fn ranges(&self) -> Arc<Vec<ipnet::IpNet>> {
        self.shared.ranges.load_full()
    }

    async fn want(&self, key: Key) -> Wanted {
        let (reply, answer) = oneshot::channel();
        match self.commands.try_send(Command::Want(key, reply)) {
            Ok(()) => answer.await.unwrap_or(Wanted::TimedOut),
            Err(_) => Wanted::TimedOut,
        }
    }
}

impl Demand for Follower {
    fn listener(&self, destination: SocketAddr) -> Pending<'_, Answer> {
        Box::pin(async move {
            let ranges = self.shared.ranges.load();
            if !ranges.iter().any(|range| range.contains(&destination.ip())) {
                return Answer::Outside;
            }
            match self
                .want((Kind::Listener, listener_name(destination)))
                .await
            {
                Wanted::Ready(_) => Answer::Ready,
                Wanted::Absent => Answer::Unknown,
                Wanted::TimedOut => Answer::TimedOut,
            }
        })
    }
}

/// The listener of a service's address and port: `<ip>_<port>`.
pub fn listener_name(destination: SocketAddr) -> Name {
    format!("{}_{}", destination.ip(), destination.port()).into()
}

/// [`Names`] as one workload asks them.
pub struct Resolver {
    pub follower: Follower,
    /// Of the workload; short names are taken in it.
    pub namespace: String,
    /// `cluster.local`.
    pub domain: String,
}

impl Names for Resolver {
    async fn lookup(&self, name: &str) -> Lookup {
        let candidates = candidates(name, &self.namespace, &self.domain);
        let asked = candidates.iter().map(|(candidate, _)| async {
            let wanted = self.follower.want((Kind::Host, candidate.as_str().into()));
            let answer = tokio::time::timeout(LOOKUP, wanted).await;
            answer.unwrap_or(Wanted::TimedOut)
        });
        let mut timed_out = false;
        for answer in join_all(asked).await {
            match answer {
                Wanted::Ready(Some(host)) => return Lookup::Known(host),
                Wanted::Ready(None) | Wanted::Absent => {}
                Wanted::TimedOut => timed_out = true,
            }
        }
        // Without an answer, a name that can also be an outside one is left to the outside.
        let only_mesh = candidates.iter().all(|(_, mesh)| *mesh);
        if timed_out && only_mesh {
            Lookup::Unavailable
        } else {
            Lookup::Unknown
        }
    }
}

/// The fully qualified names an asked one may stand for, in the order of a search path, and whether each can only be a
/// mesh name.
fn candidates(name: &str, namespace: &str, domain: &str) -> Vec<(String, bool)> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let labels = name.split('.').count();
    if name.ends_with(&format!(".svc.{domain}")) {
        return vec![(name, true)];
    }
    if name.ends_with(".svc") {
        return vec![(format!("{name}.{domain}"), true)];
    }
    match labels {
        1 => vec![
            (format!("{name}.{namespace}.svc.{domain}"), true),
            (name, true),
        ],
        2 => vec![(format!("{name}.svc.{domain}"), true), (name, false)],
        _ => vec![(name, false)],
    }
}

struct Task {
    discovery: Discovery,
    client: Client,
    consumer: Box<dyn Consumer>,
    waiting: Vec<(Key, oneshot::Sender<Wanted>)>,
    held: Vec<Key>,
    shared: Arc<Shared>,
    /// When the stream was last lost.
    lost: Instant,
    /// The stream is open, and a question on it was not answered in time; nothing has come since.
    silent: bool,
    draw: u64,
}

impl Task {
    async fn run(
        mut self,
        channel: Channel,
        bearer: Option<String>,
        mut inbox: mpsc::Receiver<Command>,
    ) {
        let mut delay = BACK_OFF;
        loop {
            let opened = Instant::now();
            match self
                .converse(channel.clone(), bearer.as_deref(), &mut inbox)
                .await
            {
                Ok(()) => return,
                Err(error) => {
                    let was_up = self.shared.connected.swap(false, Ordering::Relaxed);
                    if was_up {
                        self.lost = Instant::now();
                        tracing::warn!(%error, "lost the control plane; what is running keeps running");
                    } else {
                        tracing::debug!(%error, "the control plane cannot be reached");
                    }
                }
            }
            self.client.disconnected();
            delay = if opened.elapsed() > BACK_OFF_MOST {
                BACK_OFF
            } else {
                (delay * 2).min(BACK_OFF_MOST)
            };
            let wait = self.jittered(delay);
            if !self.wait(wait, &mut inbox).await {
                return;
            }
        }
    }

    /// Serves commands without a stream. False: everybody who could ask is gone.
    async fn wait(&mut self, wait: Duration, inbox: &mut mpsc::Receiver<Command>) -> bool {
        let until = tokio::time::sleep(wait);
        tokio::pin!(until);
        loop {
            let next = self.next_deadline();
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.command(command),
                    None => return false,
                },
                () = &mut until => return true,
                () = tokio::time::sleep_until(next.into()) => self.expire(),
            }
        }
    }

    /// One stream, from its first request to its end. `Ok`: everybody who could ask is gone.
    async fn converse(
        &mut self,
        channel: Channel,
        bearer: Option<&str>,
        inbox: &mut mpsc::Receiver<Command>,
    ) -> Result<(), StreamError> {
        self.client.connected();
        let Some(first) = self.client.next_request() else {
            // Nothing is wanted yet: an empty stream would only be refused.
            let command = inbox.recv().await;
            return match command {
                Some(command) => {
                    self.command(command);
                    Err(StreamError::Ended("nothing was asked for".to_owned()))
                }
                None => Ok(()),
            };
        };
        let protocol = self.client.protocol();
        let opening = Stream::open(channel, protocol, bearer, first);
        tokio::pin!(opening);
        let mut stream = loop {
            let next = self.next_deadline();
            tokio::select! {
                opened = &mut opening => break opened?,
                command = inbox.recv() => match command {
                    Some(command) => self.command(command),
                    None => return Ok(()),
                },
                () = tokio::time::sleep_until(next.into()) => self.expire(),
            }
        };
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            while let Some(request) = self.client.next_request() {
                stream.send(request).await?;
            }
            let next = self.next_deadline();
            tokio::select! {
                response = stream.receive() => {
                    let response = response?;
                    self.shared.connected.store(true, Ordering::Relaxed);
                    self.take(response);
                }
                command = inbox.recv() => match command {
                    Some(command) => self.command(command),
                    None => return Ok(()),
                },
                _ = sweep.tick() => {
                    let now = Instant::now();
                    let consumer = &mut self.consumer;
                    self.discovery.touch(now, |listener| consumer.is_used(listener));
                    if self.discovery.sweep(now) {
                        self.publish();
                    }
                    self.subscribe();
                }
                () = tokio::time::sleep_until(next.into()) => self.expire(),
            }
        }
    }

    fn take(&mut self, response: Response) {
        self.silent = false;
        let Update {
            arrived,
            removed,
            rejected,
            warnings,
        } = self.client.receive(response);
        for rejection in &rejected {
            tracing::warn!(resource = %rejection, "configuration rejected; its last good version stays");
        }
        for warning in &warnings {
            tracing::debug!(kind = warning.kind.as_str(), name = %warning.name, path = warning.path, "ignored");
        }
        self.shared
            .rejected
            .fetch_add(rejected.len() as u64, Ordering::Relaxed);
        self.shared
            .warnings
            .fetch_add(warnings.len() as u64, Ordering::Relaxed);
        for (_, resource) in &arrived {
            if let Resource::Ranges(ranges) = resource {
                self.shared.ranges.store(Arc::new(ranges.to_vec()));
            }
        }
        if self.discovery.update(arrived, &removed, Instant::now()) {
            self.publish();
        }
        self.subscribe();
        self.expire();
    }

    fn publish(&mut self) {
        self.consumer
            .apply(Arc::new(self.discovery.published().clone()));
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Report(trouble) => self.client.report(trouble.as_deref()),
            Command::Want(key, reply) => {
                let now = Instant::now();
                let readiness = self.discovery.want(&key, now);
                self.subscribe();
                let away = !self.shared.connected.load(Ordering::Relaxed)
                    && now.duration_since(self.lost) > AWAY;
                let away = away || (self.silent && key.0 == Kind::Host);
                match readiness {
                    Readiness::Pending { .. } if !away => self.waiting.push((key, reply)),
                    settled => {
                        // Whoever asked may have gone.
                        let _ = reply.send(self.wanted(settled, &key));
                    }
                }
            }
        }
    }

    fn wanted(&self, readiness: Readiness, (kind, name): &Key) -> Wanted {
        match readiness {
            Readiness::Ready => Wanted::Ready(match kind {
                Kind::Host => self.discovery.published().hosts.get(name).cloned(),
                _ => None,
            }),
            Readiness::Absent => Wanted::Absent,
            Readiness::Pending { .. } | Readiness::TimedOut => Wanted::TimedOut,
        }
    }

    /// Answers everybody whose wait is over.
    fn expire(&mut self) {
        let now = Instant::now();
        for (key, reply) in std::mem::take(&mut self.waiting) {
            match self.discovery.readiness(&key, now) {
                // One whose asker has gone is still a question to this control plane.
                Readiness::Pending { .. } => self.waiting.push((key, reply)),
                settled => {
                    self.silent |= settled == Readiness::TimedOut;
                    let _ = reply.send(self.wanted(settled, &key));
                }
            }
        }
        self.subscribe();
        if !*self.shared.ready.borrow() {
            let discovery = &mut self.discovery;
            let settled = |key: &Key| {
                matches!(
                    discovery.readiness(key, now),
                    Readiness::Ready | Readiness::Absent
                )
            };
            if self.held.iter().all({
                let mut settled = settled;
                move |key| settled(key)
            }) {
                self.shared.ready.send_replace(true);
            }
        }
    }

    fn next_deadline(&mut self) -> Instant {
        let now = Instant::now();
        let mut next = now + SWEEP;
        for (key, _) in &self.waiting {
            if let Readiness::Pending { until } = self.discovery.readiness(key, now) {
                next = next.min(until);
            } else {
                next = now;
            }
        }
        next
    }

    /// Hands changed subscriptions to the client.
    fn subscribe(&mut self) {
        for change in self.discovery.take_changes() {
            match change {
                Change::Subscribe(key) => self.client.subscribe(key),
                Change::Unsubscribe(key) => self.client.unsubscribe(&key),
            }
        }
    }

    /// Between half of it and all of it.
    fn jittered(&mut self, delay: Duration) -> Duration {
        // xorshift64: only to keep proxies from calling in step.
        self.draw ^= self.draw << 13;
        self.draw ^= self.draw >> 7;
        self.draw ^= self.draw << 17;
        delay / 2 + delay.mul_f64((self.draw % 1000) as f64 / 2000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::candidates;

    #[test]
    fn names_expand_in_the_order_of_a_search_path() {
        let names = |name: &str| -> Vec<String> {
            candidates(name, "shop", "cluster.local")
                .into_iter()
                .map(|(name, _)| name)
                .collect()
        };
        assert_eq!(
            names("Orders."),
            ["orders.shop.svc.cluster.local", "orders"]
        );
        assert_eq!(
            names("orders.pay"),
            ["orders.pay.svc.cluster.local", "orders.pay"]
        );
        assert_eq!(names("orders.pay.svc"), ["orders.pay.svc.cluster.local"]);
        assert_eq!(
            names("orders.pay.svc.cluster.local"),
            ["orders.pay.svc.cluster.local"]
        );
        assert_eq!(names("api.example.com"), ["api.example.com"]);
    }
}
