//! A [`Plan`] → a running mesh: its place on this host, its control plane, its replicas, its metrics.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use ripstop_control::api::message::{Readiness, Workload};
use ripstop_host::supervise::Exit;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::client::Client;
use crate::controller::{Arguments, Controller};
use crate::folder::{Folder, Lock, Presence};
use crate::output::Output;
use crate::place::Place;
use crate::plan::{Plan, Wanted};
use crate::replica::{self, METRICS, News, Order, Replica, Surroundings, Voice};
use crate::scrape::{self, Targets};
use crate::sidecar::Discovery;
use crate::turn::{Former, Turn};

const XDS: u16 = 15010;
const XDS_TLS: u16 = 15012;
const MONITORING: u16 = 15014;
/// For everything to have stopped in order, before it is killed.
const STOP: Duration = Duration::from_secs(25);
const KILL: Duration = Duration::from_secs(5);

/// A replica that is being kept.
struct Held {
    wanted: Wanted,
    orders: watch::Sender<Order>,
    task: JoinHandle<()>,
    /// It has a successor: while it waits for its turn, it goes on waiting.
    superseded: Arc<AtomicBool>,
    /// It has ended for good, with this exit.
    over: Option<Option<Exit>>,
}

/// How a mesh is run, beside what its file says.
pub(crate) struct Choices {
    pub(crate) file: PathBuf,
    pub(crate) folder: Folder,
    /// Where hosts join; unset: the mesh's own address, for this host alone.
    pub(crate) xds_tls: Option<SocketAddr>,
    /// Where sidecars of other hosts reach those of this one.
    pub(crate) advertise: Option<IpAddr>,
    /// What workloads write goes here.
    pub(crate) output: Output,
}

pub(crate) struct Mesh {
    choices: Choices,
    plan: Plan,
    place: Place,
    _lock: Lock,
    controller: Controller,
    client: Client,
    around: Arc<Surroundings>,
    held: BTreeMap<String, Held>,
    targets: Targets,
    metrics: Vec<SocketAddr>,
    tell: mpsc::Sender<News>,
    news: mpsc::Receiver<News>,
}

impl Mesh {
    /// Everything but the workloads.
    pub(crate) async fn start(plan: Plan, choices: Choices) -> anyhow::Result<Mesh> {
        let mut lock = choices.folder.lock()?;
        let wanted = plan
            .mesh
            .addresses
            .as_ref()
            .and_then(|addresses| addresses.transport);
        let place = Place::claim(wanted, choices.folder.path())?;
        publishable(&plan, None)?;
        let arguments = arguments(&plan, &choices, &place);
        let client = Client::local(&choices.folder.socket());
        let targets = Targets::new(client.clone());
        let mut metrics = Vec::new();
        // On the mesh's own address for this host's scrapers, on plain loopback for whom `hostPorts` lets through.
        for at in [place.at(METRICS[0]), (Ipv4Addr::LOCALHOST, 0).into()] {
            let listener = tokio::net::TcpListener::bind(at).await;
            let listener = listener.with_context(|| format!("cannot serve metrics on {at}"))?;
            metrics.push(listener.local_addr()?);
            tokio::spawn(scrape::serve(listener, targets.clone()));
        }
        targets.set("control-plane".to_owned(), arguments.monitoring);
        let controller = Controller::start(choices.folder.clone(), arguments).await?;
        lock.tell(&Presence {
            mesh: plan.name.clone(),
            file: choices.file.clone(),
            metrics: metrics.first().copied(),
        })?;
        let around = Arc::new(surroundings(&plan, &choices, &client));
        let (tell, news) = mpsc::channel(64);
        Ok(Mesh {
            choices,
            plan,
            place,
            _lock: lock,
            controller,
            client,
            around,
            held: BTreeMap::new(),
            targets,
            metrics,
            tell,
            news,
        })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn metrics(&self) -> &[SocketAddr] {
        &self.metrics
    }

    /// Where other hosts join.
    pub(crate) fn xds_tls(&self) -> SocketAddr {
        self.controller.arguments().xds_tls
    }

    /// Starts what the plan wants and nothing else.
    pub(crate) fn populate(&mut self) {
        for wanted in self.plan.replicas.clone().into_values() {
            self.keep(wanted, None);
        }
    }

    /// Starts a replica; after its former self has ended. Says when that is.
    fn keep(&mut self, wanted: Wanted, before: Option<(Former, Option<Turn>)>) -> Turn {
        let (orders, told) = watch::channel(Order::Run);
        let voice = Voice::Prefixed(self.choices.output.clone());
        let replica = Replica::new(
            wanted.clone(),
            Arc::clone(&self.around),
            voice,
            self.tell.clone(),
        );
        let (replaced, turn) = Turn::after(self.client.clone(), wanted.id());
        let superseded = Arc::new(AtomicBool::new(false));
        let is_superseded = Arc::clone(&superseded);
        let task = tokio::spawn(async move {
            let mut told = told;
            if let Some((former, turn)) = before {
                former.end(turn, &mut told, &is_superseded).await;
            }
            replaced.send_replace(true);
            replica.keep(told).await;
        });
        self.held.insert(
            wanted.id(),
            Held {
                wanted,
                orders,
                task,
                superseded,
                over: None,
            },
        );
        turn
    }

    /// Waits until every workload is ready, or has done its work.
    ///
    /// # Errors
    /// The first workload that cannot be started; time that is over, with whom it was waiting for.
    pub(crate) async fn ready(&mut self, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            while let Ok(news) = self.news.try_recv() {
                if let News::Failed { error, .. } = news {
                    return Err(error);
                }
                if let Some(line) = self.learn(news) {
                    note!("{line}");
                }
            }
            let missing = self.missing().await?;
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "not ready after {} s: {}; their logs are in {}",
                    patience.as_secs(),
                    missing.join(", "),
                    self.choices.folder.logs().display()
                );
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn missing(&self) -> anyhow::Result<Vec<String>> {
        let workloads: Vec<Workload> = match self.client.fetch("/v1/workloads").await {
            Ok(workloads) => workloads,
            Err(error) if error.is_unreachable() => return Ok(vec![error.to_string()]),
            Err(error) => return Err(error.into()),
        };
        let is_ready = |id: &str| {
            workloads.iter().any(|workload| {
                workload.id == id && workload.alive && workload.readiness == Readiness::Ready
            })
        };
        let held = self.held.iter().filter(|(_, held)| held.over.is_none());
        Ok(held
            .map(|(id, _)| id)
            .filter(|id| !is_ready(id))
            .cloned()
            .collect())
    }

    /// The next thing worth a line. Cancel-safe.
    pub(crate) async fn next(&mut self) -> String {
        loop {
            let news = tokio::select! {
                news = self.news.recv() => news,
                revived = self.controller.revive() => return revived,
            };
            if let Some(line) = news.and_then(|news| self.learn(news)) {
                return line;
            }
        }
    }

    fn learn(&mut self, news: News) -> Option<String> {
        match news {
            News::Started { id, metrics, .. } => {
                self.targets.set(id, metrics);
                None
            }
            News::Failed { id, error } => Some(format!("{id}: {error:#}; trying again")),
            News::Exited { id, exit, again } => {
                self.targets.remove(&id);
                let how = match exit {
                    Exit::Code(code) => format!("exited with {code}"),
                    Exit::Signal(signal) => format!("was ended by signal {signal}"),
                    Exit::Lost => "was killed with its keeper".to_owned(),
                };
                Some(match again {
                    Some(pause) => format!(
                        "{id} {how}; starting it again in {:.1} s",
                        pause.as_secs_f64()
                    ),
                    None => format!("{id} {how}"),
                })
            }
            News::Ended { id, exit } => {
                self.targets.remove(&id);
                // One that was replaced meanwhile is another's story.
                if let Some(held) = self
                    .held
                    .get_mut(&id)
                    .filter(|held| held.task.is_finished())
                {
                    held.over = Some(exit);
                }
                None
            }
        }
    }

    /// Makes the mesh what `plan` says: what is unchanged goes on untouched.
    pub(crate) async fn apply(&mut self, plan: Plan) -> anyhow::Result<String> {
        if plan.name != self.plan.name {
            bail!(
                "metadata.name changed from {} to {}: a mesh keeps its name while it runs; stop it first",
                self.plan.name,
                plan.name
            );
        }
        if plan.mesh.addresses != self.plan.mesh.addresses
            || plan.mesh.trust_domain != self.plan.mesh.trust_domain
        {
            bail!(
                "`addresses` and `trustDomain` do not change under a running mesh: run `ripstop down` and `ripstop up`"
            );
        }
        publishable(&plan, Some(&self.plan))?;
        self.controller
            .replace(arguments(&plan, &self.choices, &self.place))
            .await?;
        let around = surroundings(&plan, &self.choices, &self.client);
        // What a sidecar and its application are started with.
        let tracing = |plan: &Plan| {
            let tracing = plan.mesh.tracing.clone().unwrap_or_default();
            (tracing.otlp, tracing.hooks)
        };
        let moved =
            around.discovery != self.around.discovery || tracing(&plan) != tracing(&self.plan);
        self.around = Arc::new(around);
        let (mut stopped, mut started, mut restarted) = (0, 0, 0);
        for (id, held) in &self.held {
            let same = |wanted: &&Wanted| **wanted == held.wanted && !moved;
            let stays = plan.replicas.get(id).filter(same).is_some();
            held.superseded.store(!stays, Ordering::Relaxed);
        }
        // Those of one workload follow each other in the order of their ids.
        let mut last: HashMap<String, Turn> = HashMap::new();
        for (id, held) in std::mem::take(&mut self.held) {
            match plan.replicas.get(&id) {
                Some(wanted) if *wanted == held.wanted && !moved => {
                    self.held.insert(id, held);
                }
                Some(wanted) => {
                    restarted += 1;
                    let workload = wanted.workload();
                    let Held { orders, task, .. } = held;
                    let before = (Former { orders, task }, last.remove(&workload));
                    let next = self.keep(wanted.clone(), Some(before));
                    last.insert(workload, next);
                }
                None => {
                    stopped += 1;
                    held.orders.send_replace(Order::Stop(libc::SIGTERM));
                }
            }
        }
        for (id, wanted) in &plan.replicas {
            if !self.held.contains_key(id) {
                started += 1;
                self.keep(wanted.clone(), None);
            }
        }
        self.plan = plan;
        Ok(format!(
            "applied: {started} started, {restarted} restarted, {stopped} stopped"
        ))
    }

    /// A workload of its own that is not of the plan, with our terminal: for `--exec`.
    pub(crate) fn guest(
        &self,
        wanted: Wanted,
        mask: bool,
    ) -> (watch::Sender<Order>, mpsc::Receiver<News>, JoinHandle<()>) {
        let (orders, told) = watch::channel(Order::Run);
        let (tell, news) = mpsc::channel(16);
        let mut around = surroundings(&self.plan, &self.choices, &self.client);
        if !mask {
            around.mask.clear();
        }
        let replica = Replica::new(wanted, Arc::new(around), Voice::Ours, tell);
        (orders, news, tokio::spawn(replica.keep(told)))
    }

    pub(crate) fn targets(&self) -> &Targets {
        &self.targets
    }

    /// The orderly end of everything, in bounded time; `hurry` makes it a quick one.
    pub(crate) async fn stop(mut self, hurry: impl Future<Output = ()>) {
        for held in self.held.values() {
            held.orders.send_replace(Order::Stop(libc::SIGTERM));
        }
        let tasks: Vec<JoinHandle<()>> = self
            .held
            .values_mut()
            .map(|held| std::mem::replace(&mut held.task, tokio::spawn(async {})))
            .collect();
        let news = &mut self.news;
        let mut all = std::pin::pin!(async {
            for task in tasks {
                let _ = task.await;
            }
        });
        let listen = async { while news.recv().await.is_some() {} };
        let mut listen = std::pin::pin!(listen);
        let in_order = tokio::select! {
            () = &mut all => true,
            () = &mut listen => true,
            () = hurry => false,
            () = sleep(STOP) => false,
        };
        if !in_order {
            for held in self.held.values() {
                held.orders.send_replace(Order::Kill);
            }
            tokio::select! {
                ended = timeout(KILL, all) => drop(ended),
                () = listen => {}
            }
        }
        self.controller.stop().await;
        let _ = std::fs::remove_file(self.choices.folder.socket());
    }
}

fn arguments(plan: &Plan, choices: &Choices, place: &Place) -> Arguments {
    Arguments {
        sources: plan.sources.clone(),
        folder: choices.folder.path().to_owned(),
        transport: place.range,
        xds: place.at(XDS),
        xds_tls: choices.xds_tls.unwrap_or(place.at(XDS_TLS)),
        monitoring: place.at(MONITORING),
    }
}

fn surroundings(plan: &Plan, choices: &Choices, client: &Client) -> Surroundings {
    let default = Discovery::default();
    let discovery = plan.mesh.discovery.as_ref();
    let log = plan
        .mesh
        .access_log
        .as_ref()
        .and_then(|log| log.path.as_deref());
    Surroundings {
        client: client.clone(),
        advertise: choices.advertise,
        follows: false,
        mesh: plan.name.clone(),
        logs: Some(choices.folder.logs()),
        log_here: log == Some("/dev/stdout"),
        mask: vec![choices.folder.path().to_owned()],
        resolver: replica::resolver(),
        discovery: Discovery {
            timeout: discovery.and_then(|d| d.timeout).unwrap_or(default.timeout),
            negative_ttl: discovery
                .and_then(|d| d.negative_ttl)
                .unwrap_or(default.negative_ttl),
            idle_timeout: discovery
                .and_then(|d| d.idle_timeout)
                .unwrap_or(default.idle_timeout),
        },
        drain: None,
    }
}

/// Whether every published port is free; those that `before` published are ours already.
fn publishable(plan: &Plan, before: Option<&Plan>) -> anyhow::Result<()> {
    let published = |plan: &Plan| -> BTreeMap<SocketAddr, String> {
        let ports = plan.replicas.values().flat_map(|wanted| {
            let ports = wanted.register.ports.iter();
            ports.filter_map(|port| Some((port.publish?, wanted.register.service.clone())))
        });
        ports.collect()
    };
    let ours = before.map(published).unwrap_or_default();
    let taken: Vec<String> = published(plan)
        .into_iter()
        .filter(|(address, _)| !ours.contains_key(address))
        .filter_map(|(address, service)| {
            let error = TcpListener::bind(address).err()?;
            Some(format!("{service} cannot publish on {address}: {error}; stop what listens there or change `publish`"))
        })
        .collect();
    if taken.is_empty() {
        Ok(())
    } else {
        bail!("{}", taken.join("\n"))
    }
}
