//! `ripstop up FILE`: a whole mesh on this machine, until Ctrl-C or for as long as a command runs.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use ripstop_control::api::message::Register;
use ripstop_dashboard::Running;
use ripstop_host::supervise::{Error as SuperviseError, Exit, Failure};
use ripstop_model::diagnostic::Diagnostic;
use ripstop_model::intent::mesh::Restart;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::console::Console;
use crate::dashboard::Claim;
use crate::folder::Folder;
use crate::mesh::{Choices, Mesh};
use crate::output::Output;
use crate::overview::Overview;
use crate::plan::{self, Faults, Plan, Wanted};
use crate::replica::{News, Order, append};
use crate::traffic::Row;

use super::top;

/// Between looks at the mesh file.
const LOOK: Duration = Duration::from_millis(300);
/// Of the live table.
const REFRESH: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
#[command(
    after_help = "The state folder is, unless --state names one, $XDG_STATE_HOME/ripstop/MESH, for root /var/lib/ripstop/MESH, \
else ~/.local/state/ripstop/MESH. A change of the file is applied at once. Ctrl-C stops everything in order; a second one \
does not wait. With --exec, what the services write goes to stderr, and the command finds RIPSTOP_METRICS (a URL), \
RIPSTOP_CONTROL (the control plane's Unix socket) and RIPSTOP_STATE (for other ripstop commands) in its environment."
)]
pub(crate) struct Options {
    /// The mesh file
    file: PathBuf,
    /// When every workload is ready, run this (by `sh -c`) as a workload of its own, exit with its code and stop the mesh
    #[arg(long, value_name = "CMD", conflicts_with_all = ["detach", "top"])]
    exec: Option<String>,
    /// Whom the command runs as in the mesh
    #[arg(long, value_name = "SA", default_value = "client")]
    exec_service_account: String,
    /// Return when every workload is ready; `ripstop down` stops the mesh
    #[arg(long, short)]
    detach: bool,
    /// Show a live table of the traffic; what the services write goes to files in the state folder
    #[arg(long, conflicts_with = "detach")]
    top: bool,
    /// Folder for the mesh's state
    #[arg(long, env = "RIPSTOP_STATE", value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where other hosts join (xDS and certificates over TLS); unset: this host alone
    #[arg(long, value_name = "ADDR")]
    xds_tls: Option<SocketAddr>,
    /// Serve the dashboard here: a port is 127.0.0.1's, port 0 a free one
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = super::listening)]
    dashboard: Option<SocketAddr>,
    /// Where sidecars of other hosts reach the services of this one; unset: the address of --xds-tls, unless that is the wildcard
    #[arg(long, value_name = "ADDR", requires = "xds_tls")]
    advertise: Option<IpAddr>,
    /// How long to wait for every workload to be ready
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = super::duration)]
    timeout: Duration,
}

impl Options {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        // Before the file is read: what is written while the mesh starts is a change.
        let watched = Watched::new(&self.file);
        let (plan, diagnostics) = match plan::read(&self.file) {
            Ok(read) => read,
            Err(error) => return Err(shown(error).context("nothing was started")),
        };
        warn(&diagnostics);
        let folder = Folder::create(self.state.as_deref(), &plan.name)?;
        // No thread has been started yet: a fork here is a whole process.
        let parent = if self.detach {
            match detach()? {
                Fork::Parent(code) => return Ok(code),
                Fork::Child(parent) => Some(parent),
            }
        } else {
            None
        };
        crate::log::start("warn")?;
        crate::runtime::long(self.mesh(plan, watched, folder, parent))
    }

    async fn mesh(
        self,
        plan: Plan,
        watched: Watched,
        folder: Folder,
        parent: Option<OwnedFd>,
    ) -> anyhow::Result<ExitCode> {
        let mut signals = Signals::new()?;
        let output = if self.top {
            Output::file(append(&folder.logs().join("apps.log"))?)
        } else if self.exec.is_some() {
            Output::stderr()
        } else {
            Output::stdout()
        };
        let dashboard = match self.dashboard {
            Some(address) => Some(Claim::new(address).await?),
            None => None,
        };
        let choices = Choices {
            file: std::path::absolute(&self.file)?,
            folder: folder.clone(),
            xds_tls: self.xds_tls,
            advertise: self.advertised(),
            output,
        };
        let mesh = tokio::select! {
            mesh = Mesh::start(plan, choices) => mesh?,
            () = signals.next() => return Ok(ExitCode::FAILURE),
        };
        let url = dashboard.as_ref().map(Claim::url);
        let dashboard = dashboard.map(|claim| self.show(claim, &mesh));
        let code = self.life(mesh, watched, signals, folder, parent, url).await;
        if let Some(dashboard) = dashboard {
            dashboard.stop().await;
        }
        code
    }

    /// From the start on: what keeps a workload from being ready is worth seeing.
    fn show(&self, claim: Claim, mesh: &Mesh) -> Running {
        if let Some(warning) = claim.warning() {
            note!("{warning}");
        }
        if self.exec.is_some() {
            note!("dashboard {}", claim.url());
        }
        let metrics = mesh.metrics().first().copied();
        claim.serve(&mesh.plan().name, mesh.client(), metrics)
    }

    /// A started mesh, from its first workload to the end. `url`: the dashboard's.
    async fn life(
        self,
        mut mesh: Mesh,
        watched: Watched,
        mut signals: Signals,
        folder: Folder,
        parent: Option<OwnedFd>,
        url: Option<String>,
    ) -> anyhow::Result<ExitCode> {
        mesh.populate();
        let ready = tokio::select! {
            ready = mesh.ready(self.timeout) => ready,
            () = signals.next() => {
                mesh.stop(signals.next()).await;
                return Ok(ExitCode::FAILURE);
            }
        };
        if let Err(error) = ready {
            let code = command_code(&error);
            mesh.stop(signals.next()).await;
            return match code {
                Some(code) => {
                    crate::report(&error);
                    Ok(ExitCode::from(code))
                }
                None => Err(error),
            };
        }
        if let Some(command) = &self.exec {
            let code = self.exec(command, &mut mesh, &mut signals).await;
            mesh.stop(signals.next()).await;
            return code;
        }
        let url = url.map(|url| format!("dashboard {url}\n"));
        let url = url.unwrap_or_default();
        Console::Stdout.say(&self.welcome(&mesh, &folder, &url).await?);
        if let Some(parent) = parent {
            leave(&parent, &folder)?;
        }
        self.stay(&mut mesh, watched, &mut signals, &url).await;
        if !self.top {
            note!("stopping; Ctrl-C again kills");
        }
        mesh.stop(signals.next()).await;
        Ok(ExitCode::SUCCESS)
    }

    fn advertised(&self) -> Option<IpAddr> {
        let joining = self.xds_tls.map(|address| address.ip());
        self.advertise
            .or(joining.filter(|ip| !ip.is_unspecified() && !ip.is_loopback()))
    }

    async fn welcome(&self, mesh: &Mesh, folder: &Folder, url: &str) -> anyhow::Result<String> {
        let overview = Overview::fetch(mesh.client()).await?;
        let mut text = format!(
            "{} is up: {} workloads\n\n{}\n",
            mesh.plan().name,
            overview.workloads.len(),
            overview.text()
        );
        text += url;
        if let Some(metrics) = mesh.metrics().first() {
            text += &format!("metrics   http://{metrics}/metrics\n");
        }
        text += &format!(
            "control   {} (TLS), {}\n",
            mesh.xds_tls(),
            folder.socket().display()
        );
        text += &format!("logs      {}\n", folder.logs().display());
        text += &match self.state {
            Some(_) => format!(
                "stop      ripstop down --state {}\n\n",
                folder.path().display()
            ),
            None => format!("stop      ripstop down --mesh {}\n\n", mesh.plan().name),
        };
        Ok(text)
    }

    /// Until a signal: applies changes of the file, tells what happens.
    async fn stay(&self, mesh: &mut Mesh, mut watched: Watched, signals: &mut Signals, url: &str) {
        let metrics = mesh.metrics().first().copied();
        let mut live = metrics.filter(|_| self.top).map(rows);
        let mut look = tokio::time::interval(LOOK);
        let header = if live.is_some() {
            self.header(mesh, url).await
        } else {
            String::new()
        };
        loop {
            tokio::select! {
                () = signals.next() => return,
                line = mesh.next() => note!("{line}"),
                _ = look.tick() => if watched.changed() {
                    note!("{}", self.reapply(mesh).await);
                },
                Some(rows) = next(&mut live) => if Console::Stdout.is_terminal() {
                    Console::Stdout.say(&format!("\x1b[H\x1b[J{header}{}", top::text(&rows)));
                } else {
                    say!("{}", top::text(&rows));
                },
            }
        }
    }

    /// What stays above the live table.
    async fn header(&self, mesh: &Mesh, url: &str) -> String {
        match Overview::fetch(mesh.client()).await {
            Ok(overview) => format!(
                "{} (Ctrl-C stops it)\n{url}\n{}\n",
                mesh.plan().name,
                overview.text()
            ),
            Err(_) => String::new(),
        }
    }

    async fn reapply(&self, mesh: &mut Mesh) -> String {
        let name = self.file.display();
        match plan::read(&self.file).map_err(shown) {
            Ok((plan, diagnostics)) => {
                warn(&diagnostics);
                match mesh.apply(plan).await {
                    Ok(done) => format!("{name} {done}"),
                    Err(error) => format!("{name} is not applied: {error:#}"),
                }
            }
            Err(error) => format!("{name} is not applied, the mesh goes on as it was: {error:#}"),
        }
    }

    /// Runs the command as a guest of the mesh.
    async fn exec(
        &self,
        command: &str,
        mesh: &mut Mesh,
        signals: &mut Signals,
    ) -> anyhow::Result<ExitCode> {
        let metrics = mesh
            .metrics()
            .last()
            .copied()
            .context("the mesh serves no metrics")?;
        let socket = Folder::create(self.state.as_deref(), &mesh.plan().name)?;
        let env = [
            (
                "RIPSTOP_METRICS",
                format!("http://host.ripstop.internal:{}/metrics", metrics.port()),
            ),
            ("RIPSTOP_CONTROL", socket.socket().display().to_string()),
            ("RIPSTOP_STATE", socket.path().display().to_string()),
        ];
        let wanted = Wanted {
            register: Register {
                namespace: ripstop_model::intent::DEFAULT_NAMESPACE.to_owned(),
                service: String::new(),
                service_account: self.exec_service_account.clone(),
                workload: self.exec_service_account.clone(),
                labels: [("app".to_owned(), self.exec_service_account.clone())].into(),
                ports: Vec::new(),
                replica: Some(0),
                host: String::new(),
                advertise: None,
                headless: false,
                ready: true,
            },
            command: vec!["sh".to_owned(), "-c".to_owned(), command.to_owned()],
            env: env.map(|(name, value)| (name.to_owned(), value)).into(),
            cwd: std::env::current_dir().context("the working folder is gone")?,
            user: None,
            host_ports: vec![metrics.port()],
            probe: None,
            restart: Restart::Never,
            hooks: None,
        };
        let (orders, mut news, task) = mesh.guest(wanted, false);
        let mut code = ExitCode::FAILURE;
        loop {
            tokio::select! {
                told = news.recv() => match told {
                    Some(News::Started { id, metrics, .. }) => mesh.targets().set(id, metrics),
                    Some(News::Failed { error, .. }) => {
                        orders.send_replace(Order::Kill);
                        return Err(error);
                    }
                    Some(News::Exited { exit, .. }) => code = exit_code(exit),
                    Some(News::Ended { .. }) | None => break,
                },
                line = mesh.next() => note!("{line}"),
                () = signals.next() => {
                    let harder = match *orders.borrow() {
                        Order::Run => Order::Stop(libc::SIGTERM),
                        Order::Stop(_) | Order::Kill => Order::Kill,
                    };
                    orders.send_replace(harder);
                }
            }
        }
        let _ = task.await;
        Ok(code)
    }
}

/// The live table's rows as they come; the task ends with the receiver.
fn rows(metrics: SocketAddr) -> mpsc::Receiver<Vec<Row>> {
    let (send, rows) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut live = top::Live::new(metrics);
        loop {
            sleep(REFRESH).await;
            if let Some(rows) = live.next().await
                && send.send(rows).await.is_err()
            {
                return;
            }
        }
    });
    rows
}

async fn next(rows: &mut Option<mpsc::Receiver<Vec<Row>>>) -> Option<Vec<Row>> {
    match rows {
        Some(rows) => rows.recv().await,
        None => std::future::pending().await,
    }
}

pub(crate) fn exit_code(exit: Exit) -> ExitCode {
    ExitCode::from(u8::try_from(exit.code()).unwrap_or(1))
}

/// A command that could not be started ends us as it would end a shell: 126 or 127.
pub(crate) fn command_code(error: &anyhow::Error) -> Option<u8> {
    match error.downcast_ref::<SuperviseError>() {
        Some(SuperviseError::Failure(Failure::Command { code, .. })) => u8::try_from(*code).ok(),
        _ => None,
    }
}

/// The faults of a mesh file go to the terminal as they are; what is left is the summary.
fn shown(error: anyhow::Error) -> anyhow::Error {
    if let Some(faults) = error.downcast_ref::<Faults>() {
        Console::Stderr.say(&faults.render(Console::Stderr.is_terminal()));
    }
    error
}

fn warn(diagnostics: &[Diagnostic]) {
    for diagnostic in diagnostics {
        note!("{diagnostic}");
    }
}

/// The signals that end a mesh.
struct Signals {
    all: [Signal; 3],
}

impl Signals {
    fn new() -> anyhow::Result<Signals> {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        let [a, b, c] = kinds.map(signal);
        Ok(Signals { all: [a?, b?, c?] })
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hang_up] = &mut self.all;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    }
}

/// A file, and whether it changed since it was last asked about.
struct Watched {
    file: PathBuf,
    seen: Option<(SystemTime, u64)>,
}

impl Watched {
    fn new(file: &Path) -> Watched {
        Watched {
            file: file.to_owned(),
            seen: stamp(file),
        }
    }

    /// A file that is gone has not changed: editors replace files so.
    fn changed(&mut self) -> bool {
        let now = stamp(&self.file);
        let changed = now.is_some() && now != self.seen;
        if changed {
            self.seen = now;
        }
        changed
    }
}

fn stamp(file: &Path) -> Option<(SystemTime, u64)> {
    let found = std::fs::metadata(file).ok()?;
    Some((found.modified().ok()?, found.len()))
}

enum Fork {
    Parent(ExitCode),
    Child(OwnedFd),
}

/// Goes on in a child of a session of its own; the parent waits until that is ready, or has failed.
fn detach() -> anyhow::Result<Fork> {
    let (read, write) = nix::unistd::pipe().context("cannot make a pipe")?;
    // SAFETY: this process has one thread.
    match unsafe { nix::unistd::fork() }.context("cannot fork")? {
        nix::unistd::ForkResult::Child => {
            nix::unistd::setsid().context("cannot start a session")?;
            Ok(Fork::Child(write))
        }
        nix::unistd::ForkResult::Parent { child } => {
            drop(write);
            let mut byte = [0];
            if let Ok(1) = nix::unistd::read(&read, &mut byte) {
                return Ok(Fork::Parent(ExitCode::SUCCESS));
            }
            let code = match nix::sys::wait::waitpid(child, None) {
                Ok(nix::sys::wait::WaitStatus::Exited(_, code)) => u8::try_from(code).unwrap_or(1),
                _ => 1,
            };
            Ok(Fork::Parent(ExitCode::from(code)))
        }
    }
}

/// Lets the parent go, and the terminal with it.
fn leave(parent: &OwnedFd, folder: &Folder) -> anyhow::Result<()> {
    let path = folder.logs().join("up.log");
    let log = append(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let null = std::fs::File::open("/dev/null").context("cannot open /dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&log)?;
    nix::unistd::dup2_stderr(&log)?;
    if nix::unistd::write(parent, b"!").is_err() {
        bail!("whoever started this mesh went away before it was ready");
    }
    Ok(())
}
