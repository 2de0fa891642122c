//! One replica: registered at the control plane, run with its sidecar, started again as its restart policy says, deregistered.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hyper::StatusCode;
use ripstop_control::api::message::{InboundKind, Place, Readiness, Register, Registered, Report};
use ripstop_host::supervise::{self, Exit, Patience, Program, Programs, Running};
use ripstop_host::workload::{Addresses, HostResolver, Spec, Stdio, User};
use ripstop_model::intent::mesh::Restart;
use socket2::{Domain, Socket, Type};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Client, Error as ClientError};
use crate::output::Output;
use crate::place;
use crate::plan::Wanted;
use crate::program::ourselves;
use crate::sidecar::{Config, Control, Discovery, Inbound, Port};

/// Where the sidecar serves Envoy's admin paths, on its transport address.
pub(crate) const ADMIN: u16 = 15000;
/// Where it serves metrics there, Istio's merged ones and Envoy's.
pub(crate) const METRICS: [u16; 2] = [15020, 15090];
/// Where it answers whether it takes requests (`/healthz/ready`): 503 before it does, and once it drains.
const READINESS: u16 = 15021;
/// The descriptor on which the sidecar finds its [`Config`].
const CONFIG: i32 = ripstop_host::sidecar::FIRST_FREE;

/// A sidecar may say that it has drained so much later than it had to be done.
const LATE: Duration = Duration::from_secs(2);

/// Delays of restarts: doubled each time, forgotten after an app that ran as long as `STEADY`.
const BACK_OFF: Duration = Duration::from_millis(500);
const BACK_OFF_MOST: Duration = Duration::from_secs(30);
const STEADY: Duration = Duration::from_secs(60);
/// Between looks at whether a workload of another host is still where it said.
const TEND: Duration = Duration::from_secs(3);
/// For a control plane that is starting again.
const REJOIN: Duration = Duration::from_secs(20);
/// For the app to exit after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// What the replicas of a mesh have in common.
pub(crate) struct Surroundings {
    pub(crate) client: Client,
    /// Where sidecars of other hosts reach this one, unless a replica says it itself.
    pub(crate) advertise: Option<IpAddr>,
    /// What is advertised is the address that leads to the control plane, whatever it becomes.
    pub(crate) follows: bool,
    pub(crate) mesh: String,
    /// `None`: access logs go nowhere, and what a sidecar logs to stderr.
    pub(crate) logs: Option<PathBuf>,
    /// The access log goes to our stdout.
    pub(crate) log_here: bool,
    pub(crate) mask: Vec<PathBuf>,
    pub(crate) resolver: HostResolver,
    pub(crate) discovery: Discovery,
    /// What a drain waits for at most; `None`: what the mesh says.
    pub(crate) drain: Option<Duration>,
}

/// What a replica is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    Run,
    /// Drain, pass this signal, wait, then kill.
    Stop(i32),
    Kill,
}

/// What a replica tells.
#[derive(Debug)]
pub(crate) enum News {
    Started {
        id: String,
        metrics: SocketAddr,
    },
    /// It could not be started, and whether that is tried again.
    Failed {
        id: String,
        error: anyhow::Error,
    },
    Exited {
        id: String,
        exit: Exit,
        again: Option<Duration>,
    },
    /// It is over; the last news of it.
    Ended {
        id: String,
        exit: Option<Exit>,
    },
}

/// How stdin, stdout and stderr of the app are treated.
#[derive(Clone)]
pub(crate) enum Voice {
    /// Lines behind its name.
    Prefixed(Output),
    /// Ours, the terminal included.
    Ours,
}

pub(crate) struct Replica {
    wanted: Wanted,
    client: Client,
    around: Arc<Surroundings>,
    voice: Voice,
    news: mpsc::Sender<News>,
    /// Signals to pass on to the app.
    signals: Option<mpsc::Receiver<i32>>,
    /// Of the first start, where that has been registered already.
    registered: Option<Registered>,
}

impl Replica {
    pub(crate) fn new(
        mut wanted: Wanted,
        around: Arc<Surroundings>,
        voice: Voice,
        news: mpsc::Sender<News>,
    ) -> Replica {
        let advertise = &mut wanted.register.advertise;
        *advertise = advertise.or(around.advertise);
        Replica {
            wanted,
            client: around.client.clone(),
            around,
            voice,
            news,
            signals: None,
            registered: None,
        }
    }

    /// Starts first as what was `registered`.
    pub(crate) fn with_registration(mut self, registered: Registered) -> Replica {
        self.wanted.register.replica = Some(registered.replica);
        self.registered = Some(registered);
        self
    }

    /// Passes on what comes from `signals`.
    pub(crate) fn with_signals(mut self, signals: mpsc::Receiver<i32>) -> Replica {
        self.signals = Some(signals);
        self
    }

    /// Runs it until it is told to stop, or until its policy says that it is over.
    pub(crate) async fn keep(mut self, mut orders: watch::Receiver<Order>) {
        let mut delay = BACK_OFF;
        let mut last = None;
        let mut id = self.wanted.id();
        while *orders.borrow_and_update() == Order::Run {
            let begun = Instant::now();
            let ended = tokio::select! {
                biased;
                // Dropping a start ends whatever of it stands.
                () = told(&mut orders, Order::Stop(0)) => break,
                started = self.start() => match started {
                    Ok((registered, running)) => {
                        id.clone_from(&registered.id);
                        last = Some(self.attend(&registered, running, &mut orders).await);
                        last
                    }
                    Err(error) => {
                        self.say(News::Failed { id: id.clone(), error }).await;
                        None
                    }
                },
            };
            if begun.elapsed() > STEADY {
                delay = BACK_OFF;
            }
            let again = match (self.wanted.restart, ended) {
                (Restart::Never, Some(_)) | (Restart::OnFailure, Some(Exit::Code(0))) => None,
                _ => Some(delay).filter(|_| *orders.borrow() == Order::Run),
            };
            if let Some(exit) = ended {
                self.say(News::Exited {
                    id: id.clone(),
                    exit,
                    again,
                })
                .await;
            }
            let Some(pause) = again else { break };
            tokio::select! {
                () = told(&mut orders, Order::Stop(0)) => break,
                () = sleep(pause) => delay = (delay * 2).min(BACK_OFF_MOST),
            }
        }
        // Refused or not: whoever is gone loses its lease.
        let _ = timeout(
            Duration::from_secs(2),
            self.client.delete(&format!("/v1/workloads/{id}")),
        )
        .await;
        self.say(News::Ended { id, exit: last }).await;
    }

    async fn say(&self, news: News) {
        // Nobody listens any more: we are on our way out.
        let _ = self.news.send(news).await;
    }

    async fn start(&mut self) -> anyhow::Result<(Registered, Running)> {
        self.wanted.register.host = place::here()?;
        let registered = match self.registered.take() {
            Some(registered) => registered,
            None => register(&self.client, &self.wanted).await?,
        };
        if self.wanted.register.replica.is_none() {
            self.wanted.register.replica = Some(registered.replica);
        }
        bindable(&registered)?;
        let spec = self.spec(&registered)?;
        let programs = self.programs(registered.clone());
        let drain = self.around.drain.unwrap_or(registered.drain);
        let patience = Patience {
            drain: drain + LATE,
            ..Patience::default()
        };
        let running = supervise::start(spec, programs, patience).await;
        let running = running.with_context(|| format!("cannot start {}", registered.id))?;
        Ok((registered, running))
    }

    /// From the start of the app to its end.
    async fn attend(
        &mut self,
        registered: &Registered,
        mut running: Running,
        orders: &mut watch::Receiver<Order>,
    ) -> Exit {
        if let (Some((stdout, stderr)), Voice::Prefixed(output)) = (running.output(), &self.voice) {
            let name = format!("{}-{}", registered.workload, registered.replica);
            tokio::spawn(output.clone().follow(name.clone(), stdout));
            tokio::spawn(output.clone().follow(name, stderr));
        }
        let transport: IpAddr = registered.addresses.transport.into();
        self.say(News::Started {
            id: registered.id.clone(),
            metrics: (transport, METRICS[0]).into(),
        })
        .await;
        {
            let register = self.wanted.register.clone();
            let tending = tend(&self.client, register, self.around.follows, &registered.id);
            tokio::pin!(tending);
            loop {
                tokio::select! {
                    exit = running.wait() => return exit,
                    Some(signal) = passed(&mut self.signals) => running.signal(signal).await,
                    () = told(orders, Order::Stop(0)) => break,
                    () = &mut tending => {}
                }
            }
        }
        // Callers are told before anything stops listening.
        let draining = Report {
            state: Readiness::Draining,
        };
        let path = format!("/v1/workloads/{}/health", registered.id);
        let _ = timeout(Duration::from_secs(2), self.client.put(&path, &draining)).await;
        let signal = match *orders.borrow() {
            Order::Stop(signal) => signal,
            Order::Run | Order::Kill => libc::SIGTERM,
        };
        let stopped = tokio::select! {
            exit = running.stop(signal, GRACE) => Some(exit),
            () = told(orders, Order::Kill) => None,
        };
        match stopped {
            Some(exit) => exit,
            None => running.kill().await,
        }
    }

    fn spec(&self, registered: &Registered) -> anyhow::Result<Spec> {
        let wanted = &self.wanted;
        let user = wanted.user.as_deref().map(User::lookup).transpose()?;
        let caller = nix::unistd::Uid::effective();
        if let Some(user) = &user
            && !caller.is_root()
            && user.uid != caller.as_raw()
        {
            anyhow::bail!(
                "`user: {}` of {} needs root: run ripstop as root, or leave `user` out",
                user.name,
                registered.id
            );
        }
        let mut env = inherited();
        if let Some(user) = user.as_ref().filter(|user| user.uid != caller.as_raw()) {
            env.retain(|(name, _)| {
                !matches!(
                    name.as_str(),
                    "HOME" | "USER" | "LOGNAME" | "XDG_RUNTIME_DIR"
                )
            });
            env.push(("HOME".to_owned(), user.home.display().to_string()));
            env.push(("USER".to_owned(), user.name.clone()));
            env.push(("LOGNAME".to_owned(), user.name.clone()));
        }
        env.retain(|(name, _)| !wanted.env.contains_key(name));
        env.extend(
            wanted
                .env
                .iter()
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        Ok(Spec {
            service: registered.service.clone(),
            namespace: registered.namespace.clone(),
            service_account: registered.service_account.clone(),
            workload: registered.workload.clone(),
            replica: registered.replica,
            addresses: visible(registered),
            target_ports: wanted
                .register
                .ports
                .iter()
                .map(|port| port.target())
                .collect(),
            host_ports: wanted.host_ports.clone(),
            command: wanted.command.clone(),
            env,
            cwd: wanted.cwd.clone(),
            user,
            stdio: match self.voice {
                Voice::Prefixed(_) => Stdio::Piped,
                Voice::Ours => Stdio::Terminal,
            },
            mask: self.around.mask.clone(),
            resolver: self.around.resolver.clone(),
            hooks: match &wanted.hooks {
                Some(hooks) => hooks.clone(),
                None => registered.tracing.hooks.clone(),
            },
        })
    }

    fn programs(&self, registered: Registered) -> Programs {
        let around = Arc::clone(&self.around);
        let (client, wanted) = (self.client.clone(), self.wanted.clone());
        let (id, mut first) = (registered.id.clone(), Some(registered));
        Programs {
            keeper: Box::new(move || {
                let mut command = ourselves("keeper");
                command.arg(&id);
                command
            }),
            sidecar: Box::new(move || {
                // A credential is good for one sidecar: the next one's comes with a new registration.
                let registered = match first.take() {
                    Some(registered) => registered,
                    None => again(&client, &wanted)?,
                };
                sidecar(&around, &wanted, registered)
            }),
        }
    }
}

/// The sidecar's program, its configuration on a descriptor and its output in the log folder.
fn sidecar(around: &Surroundings, wanted: &Wanted, registered: Registered) -> io::Result<Program> {
    let mut command = ourselves("proxy");
    command.args(["--sidecar", &CONFIG.to_string()]);
    match &around.logs {
        Some(logs) => {
            let name = |what: &str| logs.join(format!("{}.{what}.log", registered.id));
            command.stderr(append(&name("sidecar"))?);
            if !around.log_here {
                command.stdout(append(&name("access"))?);
            }
        }
        None if !around.log_here => {
            command.stdout(std::process::Stdio::null());
        }
        None => {}
    }
    let config = config(around, wanted, registered)?;
    Ok(Program {
        command,
        descriptors: vec![(supervise::document("sidecar", &config)?, CONFIG)],
    })
}

/// Registers the same replica again, from inside a synchronous call of a multi-threaded runtime.
fn again(client: &Client, wanted: &Wanted) -> io::Result<Registered> {
    let call = client.post("/v1/workloads", &wanted.register);
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(call))
        .map_err(io::Error::other)
}

/// `HOST:PORT` of xDS over TLS: where we reached the control plane, or what it says of itself when it is on this host.
pub(crate) fn control_address(client: &Client, registered: &Registered) -> Option<String> {
    if let Some(address) = client.address() {
        return Some(address.to_owned());
    }
    let mut address = registered.xds_tls?;
    if address.ip().is_unspecified() {
        // The wildcard is nowhere to connect to.
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Some(address.to_string())
}

/// Told now, not in a sidecar's log: what others on this host may hold already.
fn bindable(registered: &Registered) -> anyhow::Result<()> {
    for inbound in &registered.inbound {
        let remedy = match inbound.kind {
            InboundKind::Transport => continue,
            InboundKind::Advertised => {
                "advertise an address of this host, where that port is free, with --advertise ADDR"
            }
            InboundKind::Published => "stop what listens there or change `publish`",
        };
        free(inbound.address, inbound.kind).with_context(|| {
            format!(
                "cannot listen on {} for callers of {}: {remedy}",
                inbound.address, registered.id
            )
        })?;
    }
    Ok(())
}

/// A published port is that of every replica of its service on this host: their sidecars share it (SO_REUSEPORT).
fn free(address: SocketAddr, kind: InboundKind) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(kind == InboundKind::Published)?;
    socket.bind(&address.into())?;
    socket.listen(1)
}

/// Keeps a workload that joined from another host in its place, for as long as it is polled: its address may change, and a
/// control plane from which it was cut off for long has forgotten it.
async fn tend(client: &Client, mut register: Register, follows: bool, id: &str) {
    let Some(control) = client.address() else {
        return std::future::pending().await;
    };
    loop {
        sleep(TEND).await;
        if follows {
            match place::leading_to(control).await {
                Ok(address) => register.advertise = Some(address),
                Err(error) => {
                    tracing::debug!(%error, "no way to the control plane");
                    continue;
                }
            }
        }
        let here = Place {
            host: register.host.clone(),
            advertise: register.advertise,
        };
        let told = client
            .put(&format!("/v1/workloads/{id}/place"), &here)
            .await;
        let told = match told {
            Err(ClientError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => client
                .post::<Registered>("/v1/workloads", &register)
                .await
                .map(drop),
            told => told,
        };
        if let Err(error) = told {
            tracing::debug!(%error, "the control plane was not told where we are");
        }
    }
}

async fn register(client: &Client, wanted: &Wanted) -> anyhow::Result<Registered> {
    let deadline = Instant::now() + REJOIN;
    loop {
        match client.post("/v1/workloads", &wanted.register).await {
            Ok(registered) => return Ok(registered),
            Err(error) if error.is_unreachable() && Instant::now() < deadline => {
                sleep(Duration::from_millis(100)).await
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot register {}", wanted.id()));
            }
        }
    }
}

fn config(around: &Surroundings, wanted: &Wanted, registered: Registered) -> io::Result<Config> {
    let address = control_address(&around.client, &registered).ok_or_else(|| {
        io::Error::other("the control plane serves no TLS: start it with --xds-tls ADDR")
    })?;
    let transport: IpAddr = registered.addresses.transport.into();
    let ports = wanted.register.ports.iter().map(|port| Port {
        name: port.name.clone(),
        number: port.port,
        target: port.target(),
        protocol: port.protocol(),
    });
    let inbound = registered.inbound.into_iter().map(|inbound| Inbound {
        listener: inbound.listener,
        address: inbound.address,
        target_port: inbound.target_port,
        published: inbound.kind == InboundKind::Published,
    });
    Ok(Config {
        id: registered.id,
        node: registered.node,
        namespace: registered.namespace,
        service: registered.service,
        service_account: registered.service_account,
        workload: registered.workload,
        replica: registered.replica,
        labels: registered.labels,
        ports: ports.collect(),
        mesh: around.mesh.clone(),
        trust_domain: registered.trust_domain,
        domain: registered.domain,
        addresses: registered.addresses.visible().to_vec(),
        transport: registered.addresses.transport,
        inbound: inbound.collect(),
        ranges: registered.ranges,
        control: Control {
            address,
            roots: registered.roots,
            identity: registered.control_identity,
            credential: registered.credential,
        },
        readiness: wanted.probe.clone(),
        discovery: around.discovery,
        admin: (transport, ADMIN).into(),
        metrics: METRICS.map(|port| (transport, port).into()).to_vec(),
        ready: (transport, READINESS).into(),
        access_log: None,
        otlp: registered.tracing.otlp,
        drain: around.drain.unwrap_or(registered.drain),
        workers: None,
    })
}

fn visible(registered: &Registered) -> Addresses {
    Addresses {
        v4: Some(registered.addresses.v4),
        v6: Some(registered.addresses.v6),
    }
}

/// Our environment without what would lead an app around the mesh (a proxy of the machine knows no service) or is for us.
fn inherited() -> Vec<(String, String)> {
    const OURS: [&str; 2] = ["RIPSTOP_LOG", "RIPSTOP_STATE"];
    const PROXIES: [&str; 5] = [
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "ftp_proxy",
        "no_proxy",
    ];
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| {
            !PROXIES.contains(&name.to_ascii_lowercase().as_str()) && !OURS.contains(&name.as_str())
        })
        .collect()
}

/// How this host resolves names, for what lies outside the mesh.
pub(crate) fn resolver() -> HostResolver {
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let hostname = nix::unistd::gethostname().unwrap_or_default();
    HostResolver::parse(&resolv_conf, &hostname.to_string_lossy())
}

pub(crate) fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// Waits for an order at least as strong. Whoever could give one is gone: that is an order to stop, not to hurry.
async fn told(orders: &mut watch::Receiver<Order>, least: Order) {
    if orders.wait_for(|order| *order >= least).await.is_err() && least == Order::Kill {
        std::future::pending().await
    }
}

async fn passed(signals: &mut Option<mpsc::Receiver<i32>>) -> Option<i32> {
    match signals {
        Some(signals) => signals.recv().await,
        None => std::future::pending().await,
    }
}
