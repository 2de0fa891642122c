//! A [`Spec`] and two programs → a running workload: its signals, its output, its exit.
//!
//! ```no_run
//! # async fn example(spec: ripstop_host::workload::Spec) -> Result<(), ripstop_host::supervise::Error> {
//! use ripstop_host::supervise::{Patience, Program, Programs, document, start};
//! let programs = Programs {
//!     keeper: Box::new(|| {
//!         let mut command = std::process::Command::new("/proc/self/exe");
//!         command.arg("keeper");
//!         command
//!     }),
//!     // Called again for each restart: a one-use credential must be made anew here.
//!     sidecar: Box::new(|| {
//!         let mut command = std::process::Command::new("/proc/self/exe");
//!         command.args(["proxy", "--sidecar", "5"]);
//!         Ok(Program { command, descriptors: vec![(document("sidecar", &"its configuration")?, 5)] })
//!     }),
//! };
//! let mut running = start(spec, programs, Patience::default()).await?;
//! let exit = running.wait().await;
//! # let _ = exit; Ok(()) }
//! ```
//!
//! The app starts when the sidecar has reported [`Report::Ready`]. A sidecar that dies is started again with back-off
//! and gets the same sockets; whether to start an app again that has exited is the caller's decision. When the app has
//! exited, the sidecar is told to drain and then ended before [`Running::wait`] answers. Dropping a [`Running`] (or the
//! future of [`start`]) ends everything at once, as does the death of this process: both children hang on a socket.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::process::{Child, ChildStderr, ChildStdout};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::descriptors::{self, Line};
pub use crate::link::{Failure, Order, Report};
use crate::link::{FromKeeper, KEEPER_CONTROL, KEEPER_SPEC, ToKeeper};
use crate::sidecar::{LINK, SUPERVISOR};
use crate::workload::{Problem, Spec, Stdio};

/// How the two children are started.
pub struct Programs {
    /// The hidden `keeper` subcommand. It reads no argument, so one may name the workload for `ps`; its environment is
    /// emptied.
    pub keeper: Box<dyn FnMut() -> Command + Send>,
    /// Called for the first sidecar and for each restart.
    pub sidecar: Box<dyn FnMut() -> io::Result<Program> + Send>,
}

/// A command and what it inherits. Numbers below [`crate::sidecar::FIRST_FREE`] belong to this crate.
pub struct Program {
    pub command: Command,
    pub descriptors: Vec<(OwnedFd, RawFd)>,
}

/// Puts `document` as JSON into an anonymous file, to be inherited as a descriptor.
pub fn document<D: Serialize>(name: &str, document: &D) -> io::Result<OwnedFd> {
    descriptors::write_document(name, document)
}

/// Reads what [`document`] wrote and this process inherited as `number`.
///
/// # Errors
/// `NotFound` when nothing was inherited there, `InvalidData` when it is not the JSON expected.
pub fn inherited_document<D: DeserializeOwned>(number: RawFd, what: &str) -> io::Result<D> {
    descriptors::read_document(descriptors::inherited(number, what)?)
}

/// How long to wait for others.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For namespaces, rules and sockets.
    pub keeper: Duration,
    /// For the first sidecar's [`Report::Ready`], restarts included.
    pub sidecar: Duration,
    /// For [`Report::Drained`].
    pub drain: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            keeper: Duration::from_secs(20),
            sidecar: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}

/// Restart delays of a sidecar: doubled each time, and forgotten after a sidecar that lived as long as `STEADY`.
const BACK_OFF: Duration = Duration::from_millis(100);
const BACK_OFF_MOST: Duration = Duration::from_secs(5);
const STEADY: Duration = Duration::from_secs(10);
/// For a process whose lifeline was closed to be gone.
const LEAVE: Duration = Duration::from_secs(5);

/// How the app ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// The keeper was killed and took the app along, so nobody knows.
    Lost,
}

impl Exit {
    /// As a shell tells it: 128 and the signal's number; 137 when the keeper was killed.
    pub fn code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
            Exit::Lost => 128 + libc::SIGKILL,
        }
    }
}

/// Why a workload did not start. Nothing of it is left running.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("; "))]
    Spec(Vec<Problem>),
    #[error(transparent)]
    Failure(#[from] Failure),
    #[error("the keeper could not be started: {0}")]
    Keeper(io::Error),
    #[error("the keeper ended before the workload stood ({0}): its own output says why")]
    KeeperLost(String),
    #[error("the sidecar could not be started: {0}")]
    Sidecar(io::Error),
    #[error("the sidecar was not ready after {} s (last end: {last}): its own output says why", .waited.as_secs())]
    SidecarNotReady { waited: Duration, last: String },
}

/// The sidecar, as seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SidecarState {
    /// None between two sidecars.
    pub pid: Option<u32>,
    pub ready: bool,
    pub restarts: u32,
}

/// A workload that has started. Dropping it ends it at once.
#[derive(Debug)]
pub struct Running {
    requests: mpsc::Sender<Request>,
    exit: watch::Receiver<Option<Exit>>,
    sidecar: watch::Receiver<SidecarState>,
    keeper: u32,
    init: i32,
    output: Option<(ChildStdout, ChildStderr)>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
enum Request {
    Signal(i32),
    Drain(oneshot::Sender<()>),
    Kill,
}

impl Running {
    /// Waits until the app has exited and its sidecar is gone. Cancel-safe, and may be called again.
    pub async fn wait(&mut self) -> Exit {
        match self.exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or(Exit::Lost),
            Err(_) => Exit::Lost,
        }
    }

    /// Passes a signal (SIGTERM, SIGHUP, …) to the app's first process; without effect once it has exited.
    pub async fn signal(&self, number: i32) {
        let _ = self.requests.send(Request::Signal(number)).await;
    }

    /// Tells the sidecar to drain; returns when it has, has ended, or [`Patience::drain`] is over.
    pub async fn drain(&self) {
        let (done, waiting) = oneshot::channel();
        if self.requests.send(Request::Drain(done)).await.is_ok() {
            let _ = waiting.await;
        }
    }

    /// The orderly end: drain inbound, pass `signal`, keep outbound working until the app has exited, at most `grace`;
    /// then kill.
    pub async fn stop(&mut self, signal: i32, grace: Duration) -> Exit {
        self.drain().await;
        self.signal(signal).await;
        if let Ok(exit) = timeout(grace, self.wait()).await {
            return exit;
        }
        self.kill().await
    }

    /// Ends the PID namespace, and with it the app and everything it forked.
    pub async fn kill(&mut self) -> Exit {
        let _ = self.requests.send(Request::Kill).await;
        self.wait().await
    }

    /// stdout and stderr of the app, once, with [`Stdio::Piped`]. They reach their end when the app has.
    pub fn output(&mut self) -> Option<(ChildStdout, ChildStderr)> {
        self.output.take()
    }

    /// Follows the sidecar through its restarts.
    pub fn sidecar(&self) -> watch::Receiver<SidecarState> {
        self.sidecar.clone()
    }

    /// The host's process ids of the keeper: the outer process, and pid 1 of the namespace.
    pub fn keeper_pids(&self) -> (u32, i32) {
        (self.keeper, self.init)
    }
}

/// Builds the workload and starts its app. Must be called inside a tokio runtime with I/O and time; install handlers
/// of signals to be passed on before, since the app may run before this returns.
///
/// # Errors
/// See [`Error`]; [`Failure::Command`] carries the exit code a shell would give.
pub async fn start(
    spec: Spec,
    mut programs: Programs,
    patience: Patience,
) -> Result<Running, Error> {
    let problems = spec.problems();
    if !problems.is_empty() {
        return Err(Error::Spec(problems));
    }
    let mut keeper = Keeper::spawn(&spec, (programs.keeper)())?;
    let init = match timeout(patience.keeper, keeper.ready()).await {
        Ok(ready) => ready?,
        Err(_) => {
            return Err(Error::KeeperLost(format!(
                "no answer after {} s",
                patience.keeper.as_secs()
            )));
        }
    };
    let (state, sidecar) = watch::channel(SidecarState::default());
    let mut crew = Crew {
        keeper,
        programs,
        patience,
        sidecar: None,
        state,
        next: Instant::now(),
        delay: BACK_OFF,
        draining: Vec::new(),
        drained: false,
    };
    crew.first_sidecar().await?;
    crew.keeper
        .tell(&ToKeeper::Start, &[])
        .map_err(Error::Keeper)?;
    crew.keeper.started().await?;
    let (requests, inbox) = mpsc::channel(16);
    let (end, exit) = watch::channel(None);
    let outer = crew.keeper.child.id().unwrap_or(0);
    let stdout = crew.keeper.child.stdout.take();
    let output = stdout.zip(crew.keeper.child.stderr.take());
    let task = tokio::spawn(async move {
        let exit = crew.run(inbox).await;
        crew.end().await;
        let _ = end.send(Some(exit));
    });
    Ok(Running {
        requests,
        exit,
        sidecar,
        keeper: outer,
        init,
        output,
        task,
    })
}

struct Keeper {
    child: Child,
    control: Line,
}

impl Keeper {
    fn spawn(spec: &Spec, mut command: Command) -> Result<Keeper, Error> {
        let (near, far) = descriptors::pair().map_err(Error::Keeper)?;
        let document = descriptors::write_document("workload", spec).map_err(Error::Keeper)?;
        descriptors::pass(
            &mut command,
            vec![(document, KEEPER_SPEC), (far, KEEPER_CONTROL)],
        );
        let mut command = tokio::process::Command::from(command);
        // A group of its own: Ctrl-C at a terminal is the supervisor's to judge. And no environment: it needs none, and
        // what is not there cannot be read.
        command.process_group(0).env_clear();
        match spec.stdio {
            Stdio::Inherit => {}
            Stdio::Piped => {
                command.stdin(std::process::Stdio::null());
                command
                    .stdout(std::process::Stdio::piped())
                    .stderr(std::process::Stdio::piped());
            }
            Stdio::Null => {
                command.stdin(std::process::Stdio::null());
                command
                    .stdout(std::process::Stdio::null())
                    .stderr(std::process::Stdio::null());
            }
        }
        let child = command.spawn().map_err(Error::Keeper)?;
        let control = Line::new(near).map_err(Error::Keeper)?;
        Ok(Keeper { child, control })
    }

    fn tell(&self, message: &ToKeeper, descriptors: &[RawFd]) -> io::Result<()> {
        self.control.send(message, descriptors)
    }

    /// The next message that is not about the start, or why there is none.
    async fn next(&mut self) -> Result<FromKeeper, Error> {
        match self.control.receive::<FromKeeper>().await {
            Ok(Some((FromKeeper::Failed(failure), _))) => Err(failure.into()),
            Ok(Some((message, _))) => Ok(message),
            Ok(None) => Err(Error::KeeperLost(ended(self.child.wait().await))),
            Err(error) => Err(Error::Keeper(error)),
        }
    }

    /// Waits for the namespaces; the host's pid of pid 1.
    async fn ready(&mut self) -> Result<i32, Error> {
        let mut init = 0;
        loop {
            match self.next().await? {
                FromKeeper::Init(pid) => init = pid,
                FromKeeper::Ready { notes } => {
                    for note in notes {
                        tracing::warn!(note, "capture is incomplete");
                    }
                    // The outer process and pid 1 report independently, so either may come first.
                    while init == 0 {
                        if let FromKeeper::Init(pid) = self.next().await? {
                            init = pid;
                        }
                    }
                    return Ok(init);
                }
                _ => {}
            }
        }
    }

    async fn started(&mut self) -> Result<(), Error> {
        loop {
            if let FromKeeper::Started = self.next().await? {
                return Ok(());
            }
        }
    }
}

struct Sidecar {
    child: Child,
    lifeline: Line,
    born: Instant,
}

/// One workload's processes and what is known of them.
struct Crew {
    keeper: Keeper,
    programs: Programs,
    patience: Patience,
    sidecar: Option<Sidecar>,
    state: watch::Sender<SidecarState>,
    /// When the next sidecar may start, and the delay after it.
    next: Instant,
    delay: Duration,
    draining: Vec<oneshot::Sender<()>>,
    drained: bool,
}

/// What happened to a sidecar.
enum Event {
    Report(Report),
    Ended(String),
    /// The back-off is over.
    Due,
}

impl Crew {
    /// Starts sidecars until one is ready.
    async fn first_sidecar(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + self.patience.sidecar;
        let mut last = "none".to_owned();
        self.spawn_sidecar().map_err(Error::Sidecar)?;
        loop {
            let event = tokio::select! {
                event = sidecar_event(&mut self.sidecar, self.next) => event,
                message = self.keeper.next() => match message {
                    Ok(_) => continue,
                    Err(error) => return Err(error),
                },
                () = sleep_until(deadline) => {
                    return Err(Error::SidecarNotReady { waited: self.patience.sidecar, last });
                }
            };
            match event {
                Event::Report(Report::Ready) => {
                    self.state.send_modify(|state| state.ready = true);
                    return Ok(());
                }
                Event::Report(Report::Drained) => {}
                Event::Ended(how) => {
                    self.sidecar_ended(&how);
                    last = how;
                }
                Event::Due => self.spawn_sidecar().map_err(Error::Sidecar)?,
            }
        }
    }

    /// Until the app ends.
    async fn run(&mut self, mut inbox: mpsc::Receiver<Request>) -> Exit {
        let mut drain_over = None;
        loop {
            tokio::select! {
                message = self.keeper.next() => match message {
                    Ok(FromKeeper::Exited(exit)) => return exit,
                    Ok(_) => {}
                    Err(_) => return Exit::Lost,
                },
                event = sidecar_event(&mut self.sidecar, self.next) => self.sidecar_changed(event),
                Some(request) = inbox.recv() => match request {
                    Request::Signal(number) => {
                        if let Err(error) = self.keeper.tell(&ToKeeper::Signal(number), &[]) {
                            tracing::warn!(%error, signal = number, "signal not passed");
                        }
                    }
                    Request::Drain(done) => {
                        self.draining.push(done);
                        drain_over = Some(Instant::now() + self.patience.drain);
                        self.order_drain();
                    }
                    Request::Kill => {
                        let _ = self.keeper.child.start_kill();
                    }
                },
                () = at(drain_over) => {
                    drain_over = None;
                    self.draining.clear();
                }
            }
        }
    }

    fn sidecar_changed(&mut self, event: Event) {
        match event {
            Event::Report(Report::Ready) => self.state.send_modify(|state| state.ready = true),
            Event::Report(Report::Drained) => {
                self.drained = true;
                self.draining.clear();
            }
            Event::Ended(how) => {
                tracing::warn!(how, "sidecar ended; starting it again");
                self.sidecar_ended(&how);
                self.draining.clear();
            }
            Event::Due => {
                if let Err(error) = self.spawn_sidecar() {
                    tracing::warn!(%error, "sidecar not started");
                    self.back_off();
                }
            }
        }
    }

    fn sidecar_ended(&mut self, how: &str) {
        let lived = self
            .sidecar
            .take()
            .map_or(Duration::ZERO, |sidecar| sidecar.born.elapsed());
        if lived > STEADY {
            self.delay = BACK_OFF;
        }
        tracing::debug!(how, ?lived, "sidecar ended");
        self.state.send_modify(|state| {
            state.pid = None;
            state.ready = false;
            state.restarts += 1;
        });
        self.back_off();
    }

    fn back_off(&mut self) {
        self.next = Instant::now() + self.delay;
        self.delay = (self.delay * 2).min(BACK_OFF_MOST);
    }

    fn order_drain(&mut self) {
        match &self.sidecar {
            Some(sidecar) if !self.drained => {
                // Broken: it has just ended, and the loop is about to see that.
                let _ = sidecar.lifeline.send(&Order::Drain, &[]);
            }
            _ => self.draining.clear(),
        }
    }

    fn spawn_sidecar(&mut self) -> io::Result<()> {
        let (keeper_end, sidecar_end) = descriptors::pair()?;
        let (near, lifeline) = descriptors::pair()?;
        let Program {
            mut command,
            mut descriptors,
        } = (self.programs.sidecar)()?;
        descriptors.push((sidecar_end, LINK));
        descriptors.push((lifeline, SUPERVISOR));
        descriptors::pass(&mut command, descriptors);
        let mut command = tokio::process::Command::from(command);
        command.process_group(0).stdin(std::process::Stdio::null());
        let child = command.spawn()?;
        self.keeper
            .tell(&ToKeeper::Sidecar, &[keeper_end.as_raw_fd()])?;
        self.state.send_modify(|state| state.pid = child.id());
        self.drained = false;
        self.sidecar = Some(Sidecar {
            child,
            lifeline: Line::new(near)?,
            born: Instant::now(),
        });
        Ok(())
    }

    /// After the app: the sidecar drains and ends, the keeper is buried.
    async fn end(&mut self) {
        let _ = timeout(LEAVE, self.keeper.child.wait()).await;
        if let Some(mut sidecar) = self.sidecar.take() {
            if !self.drained && sidecar.lifeline.send(&Order::Drain, &[]).is_ok() {
                let drained = async {
                    while let Ok(Some((report, _))) = sidecar.lifeline.receive::<Report>().await {
                        if report == Report::Drained {
                            break;
                        }
                    }
                };
                let _ = timeout(self.patience.drain, drained).await;
            }
            drop(sidecar.lifeline);
            if timeout(LEAVE, sidecar.child.wait()).await.is_err() {
                let _ = sidecar.child.kill().await;
            }
        }
        self.draining.clear();
        self.state
            .send_modify(|state| (state.pid, state.ready) = (None, false));
    }
}

/// The next thing about the sidecar, or the moment to start one when there is none.
async fn sidecar_event(sidecar: &mut Option<Sidecar>, next: Instant) -> Event {
    let Some(sidecar) = sidecar else {
        sleep_until(next).await;
        return Event::Due;
    };
    tokio::select! {
        biased;
        report = sidecar.lifeline.receive::<Report>() => {
            // Else it closed its end, which only its death does; a message we cannot read is as bad.
            if let Ok(Some((report, _))) = report {
                return Event::Report(report);
            }
        }
        status = sidecar.child.wait() => return Event::Ended(ended(status)),
    }
    match timeout(LEAVE, sidecar.child.wait()).await {
        Ok(status) => Event::Ended(ended(status)),
        Err(_) => {
            let _ = sidecar.child.kill().await;
            Event::Ended("it closed its lifeline and was killed".to_owned())
        }
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn ended(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "unknown".to_owned(),
        },
        Err(error) => error.to_string(),
    }
}
