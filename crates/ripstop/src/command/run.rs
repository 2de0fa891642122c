//! `ripstop run --service NAME --port P -- CMD`: one process joins a running mesh, on this machine or from another.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use ripstop_control::api::message::{Port, Register, Status};
use ripstop_host::supervise::Exit;
use ripstop_host::trace::kernel;
use ripstop_model::intent::mesh::Restart;
use ripstop_model::seam::Producer;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::client::Client;
use crate::folder::Target;
use crate::membership::{self, Membership};
use crate::place;
use crate::plan::Wanted;
use crate::replica::{self, News, Order, Replica, Surroundings, Voice};
use crate::sidecar::{Discovery, Probe};

use super::up::{command_code, exit_code};

#[derive(clap::Args)]
#[command(
    after_help = "Exits with the command's code. Signals are passed on; SIGTERM first tells the mesh, so that callers leave before \
the command stops listening."
)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// The service it is an endpoint of; unset: a client that nobody calls
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// As PORT[:TARGET], where TARGET is where the command listens, or NAME=PORT[:TARGET]; may be given again
    #[arg(long = "port", value_name = "PORT", value_parser = port, requires = "service")]
    ports: Vec<Port>,
    /// Whom it runs as in the mesh; unset: the service's name
    #[arg(long, value_name = "SA", required_unless_present = "service")]
    service_account: Option<String>,
    #[arg(long, default_value = "default")]
    namespace: String,
    /// As in version=v1; may be given again
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// The workload's name; unset: the service's or the account's
    #[arg(long)]
    workload: Option<String>,
    /// A port of this host's loopback that it may reach as host.ripstop.internal; may be given again
    #[arg(long = "host-port", value_name = "PORT")]
    host_ports: Vec<u16>,
    /// It is ready when GET PATH on its first port answers 2xx or 3xx; unset: when that port accepts connections
    #[arg(long, value_name = "PATH")]
    readiness_path: Option<String>,
    /// Run it as this user
    #[arg(long)]
    user: Option<String>,
    /// Tracing hooks, in place of the mesh's: any of node, python, preload, kernel, separated by commas, or none
    #[arg(long, value_name = "HOOKS", value_parser = hooks)]
    hooks: Option<Hooks>,
    /// How long what is under way may take to end before the command is stopped; unset: as the mesh says
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    drain_time: Option<Duration>,
    /// The control plane of another host
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_parser = super::remote,
        requires = "token",
        conflicts_with = "mesh"
    )]
    control: Option<String>,
    /// A file made by `ripstop token create`
    #[arg(long, value_name = "FILE", requires = "control")]
    token: Option<PathBuf>,
    /// Where sidecars of other hosts reach this one; unset with --control: the address that leads there
    #[arg(long, value_name = "ADDR")]
    advertise: Option<IpAddr>,
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    command: Vec<String>,
}

impl Options {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        crate::log::start("warn")?;
        crate::runtime::long(self.join())
    }

    async fn join(self) -> anyhow::Result<ExitCode> {
        let mut signals = passed()?;
        let wanted = self.wanted().await?;
        let (around, member) = match (&self.control, &self.token) {
            (Some(control), Some(token)) => {
                let member = tokio::select! {
                    member = self.member(control, token, &wanted) => member?,
                    // The control plane may be long in coming.
                    signal = end(&mut signals) => return Ok(exit_code(Exit::Signal(signal))),
                };
                (self.remote(&member), Some(member))
            }
            _ => (self.local().await?, None),
        };
        let (orders, told) = watch::channel(Order::Run);
        let (news, mut incoming) = mpsc::channel(16);
        let (pass, passing) = mpsc::channel(16);
        let mut replica =
            Replica::new(wanted, Arc::new(around), Voice::Ours, news).with_signals(passing);
        if let Some(member) = &member {
            replica = replica.with_registration(member.registered.clone());
        }
        let keeping = tokio::spawn(replica.keep(told));
        let orders = Arc::new(orders);
        tokio::spawn(forward(signals, orders.clone(), pass));
        let mut code = ExitCode::FAILURE;
        let mut failed = None;
        while let Some(told) = incoming.recv().await {
            match told {
                News::Started { .. } => {}
                News::Failed { error, .. } => {
                    failed = Some(error);
                    break;
                }
                News::Exited { exit, .. } => code = exit_code(exit),
                News::Ended { exit: None, .. } => {
                    // Told to end before the command began.
                    if let Order::Stop(signal) = *orders.borrow() {
                        code = exit_code(Exit::Signal(signal));
                    }
                    break;
                }
                News::Ended { .. } => break,
            }
        }
        if failed.is_some() {
            // Not tried again; it takes back its registration.
            orders.send_replace(Order::Stop(libc::SIGTERM));
            while incoming.recv().await.is_some() {}
        }
        let _ = keeping.await;
        match failed {
            None => Ok(code),
            Some(error) => {
                let Some(code) = command_code(&error) else {
                    return Err(error);
                };
                crate::report(&error);
                Ok(ExitCode::from(code))
            }
        }
    }

    async fn wanted(&self) -> anyhow::Result<Wanted> {
        let account = self
            .service_account
            .clone()
            .or_else(|| self.service.clone())
            .unwrap_or_default();
        let service = self.service.clone().unwrap_or_default();
        let workload = self
            .workload
            .clone()
            .unwrap_or_else(|| match service.is_empty() {
                true => account.clone(),
                false => service.clone(),
            });
        let advertise = match (self.advertise, &self.control) {
            (None, Some(control)) => Some(place::leading_to(control).await?),
            (named, _) => named,
        };
        let probe = self.ports.first().map(|port| Probe {
            port: port.target(),
            path: self.readiness_path.clone(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
        });
        Ok(Wanted {
            register: Register {
                namespace: self.namespace.clone(),
                service,
                service_account: account,
                workload,
                labels: self.labels.iter().cloned().collect(),
                ready: self.ports.is_empty(),
                ports: self.ports.clone(),
                replica: None,
                host: place::here()?,
                advertise,
                headless: false,
            },
            command: self.command.clone(),
            env: Default::default(),
            cwd: std::env::current_dir().context("the working folder is gone")?,
            user: self.user.clone(),
            host_ports: self.host_ports.clone(),
            probe,
            restart: Restart::Never,
            hooks: self.producers()?,
        })
    }

    /// Nobody who asks for what is not there should find out from missing spans.
    fn producers(&self) -> anyhow::Result<Option<Vec<Producer>>> {
        let wanted = self.hooks.clone().map(|Hooks(hooks)| hooks);
        if wanted
            .as_ref()
            .is_some_and(|hooks| hooks.contains(&Producer::Kernel))
        {
            kernel::available().context("--hooks kernel is not possible here")?;
        }
        Ok(wanted)
    }

    async fn local(&self) -> anyhow::Result<Surroundings> {
        let folder = self.target.folder()?;
        let client = Client::local(&folder.socket());
        // A mesh that does not run is told at once, one that restarts later is waited for.
        client.fetch::<Status>("/v1/status").await?;
        let mesh = folder
            .holder()
            .map(|(_, presence)| presence.mesh)
            .unwrap_or_default();
        let logs = Some(folder.logs()).filter(|logs| logs.is_dir());
        Ok(Surroundings {
            mask: vec![folder.path().to_owned()],
            logs,
            mesh,
            drain: self.drain_time,
            ..around(client)
        })
    }

    /// Registered at the control plane of another host.
    async fn member(
        &self,
        control: &str,
        token: &Path,
        wanted: &Wanted,
    ) -> anyhow::Result<Membership> {
        membership::join(control, token, self.target.state(), wanted.register.clone()).await
    }

    fn remote(&self, member: &Membership) -> Surroundings {
        Surroundings {
            follows: self.advertise.is_none(),
            drain: self.drain_time,
            mask: member.secrets.clone(),
            ..around(member.client.clone())
        }
    }
}

fn around(client: Client) -> Surroundings {
    Surroundings {
        client,
        advertise: None,
        follows: false,
        mesh: String::new(),
        logs: None,
        log_here: false,
        mask: Vec::new(),
        resolver: replica::resolver(),
        discovery: Discovery::default(),
        drain: None,
    }
}

const PASSED: [i32; 6] = [
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
    libc::SIGCONT,
];
const ENDING: [i32; 2] = [libc::SIGTERM, libc::SIGINT];

/// All that come, from before the command can run.
fn passed() -> anyhow::Result<mpsc::Receiver<i32>> {
    let (send, signals) = mpsc::channel(16);
    for number in PASSED.into_iter().chain(ENDING) {
        let mut source = signal(SignalKind::from_raw(number))
            .with_context(|| format!("cannot listen for signal {number}"))?;
        let send = send.clone();
        tokio::spawn(async move {
            while source.recv().await.is_some() && send.send(number).await.is_ok() {}
        });
    }
    Ok(signals)
}

/// Waits for SIGTERM or SIGINT.
async fn end(signals: &mut mpsc::Receiver<i32>) -> i32 {
    loop {
        match signals.recv().await {
            Some(number) if ENDING.contains(&number) => return number,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

/// A first SIGTERM or SIGINT ends in order, a second at once; the others are the command's.
async fn forward(
    mut signals: mpsc::Receiver<i32>,
    orders: Arc<watch::Sender<Order>>,
    pass: mpsc::Sender<i32>,
) {
    while let Some(number) = signals.recv().await {
        if !ENDING.contains(&number) {
            let _ = pass.send(number).await;
            continue;
        }
        orders.send_modify(|order| {
            *order = match order {
                Order::Run => Order::Stop(number),
                Order::Stop(_) | Order::Kill => Order::Kill,
            }
        });
    }
}

pub(super) fn port(text: &str) -> anyhow::Result<Port> {
    let number = |text: &str| match text.parse::<u16>() {
        Ok(0) | Err(_) => bail!("`{text}` is not a port: write 1 to 65535, as in 80:8080"),
        Ok(port) => Ok(port),
    };
    let (name, numbers) = text.split_once('=').unwrap_or(("", text));
    let (port, target) = match numbers.split_once(':') {
        Some((port, target)) => (number(port)?, Some(number(target)?)),
        None => (number(numbers)?, None),
    };
    Ok(Port {
        name: name.to_owned(),
        port,
        target_port: target,
        protocol: None,
        publish: None,
    })
}

pub(super) fn label(text: &str) -> anyhow::Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => bail!("`{text}` is not a label: write KEY=VALUE"),
    }
}

/// What clap would take for an option that is given several times, were it a bare list.
#[derive(Debug, Clone, PartialEq)]
struct Hooks(Vec<Producer>);

fn hooks(text: &str) -> anyhow::Result<Hooks> {
    if text == "none" {
        return Ok(Hooks(Vec::new()));
    }
    let named = |name: &str| {
        let mut all = Producer::ALL.into_iter();
        let known = all.find(|producer| producer.as_str() == name);
        known.with_context(|| {
            let all = Producer::ALL.map(Producer::as_str).join(", ");
            format!("`{name}` is not a tracing hook: write any of {all}, or none")
        })
    };
    text.split(',')
        .map(named)
        .collect::<Result<_, _>>()
        .map(Hooks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_are_read() {
        let all = hooks("preload,python").unwrap();
        assert_eq!(all, Hooks(vec![Producer::Preload, Producer::Python]));
        assert_eq!(hooks("none").unwrap(), Hooks(Vec::new()));
        for unknown in ["ruby", "go", ""] {
            let error = hooks(&format!("node,{unknown}")).unwrap_err().to_string();
            let said = format!("`{unknown}` is not a tracing hook");
            assert!(error.contains(&said), "{error}");
        }
    }

    #[test]
    fn ports_are_read() {
        let read = port("http=80:8080").unwrap();
        assert_eq!(
            (read.name.as_str(), read.port, read.target()),
            ("http", 80, 8080)
        );
        assert_eq!(port("5432").unwrap().target(), 5432);
        for bad in ["", "0", "80:", "http", "80:x", "70000"] {
            assert!(
                port(bad).unwrap_err().to_string().contains("is not a port"),
                "{bad}"
            );
        }
    }

    #[test]
    fn labels_are_read() {
        assert_eq!(label("a=b=c").unwrap(), ("a".to_owned(), "b=c".to_owned()));
        assert!(label("a").is_err() && label("=b").is_err());
    }
}
