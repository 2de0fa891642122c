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

mod crew;
mod terminal;

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::process::Command;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::process::{ChildStderr, ChildStdout};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::descriptors;
use crate::link::ToKeeper;
pub use crate::link::{Failure, Order, Report};
use crate::workload::{Problem, Spec, Stdio};
use crew::{Crew, Keeper};
use terminal::Foreground;

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
    mut spec: Spec,
    mut programs: Programs,
    patience: Patience,
) -> Result<Running, Error> {
    let problems = spec.problems();
    if !problems.is_empty() {
        return Err(Error::Spec(problems));
    }
    let foreground = match spec.stdio {
        Stdio::Terminal => Foreground::ours(),
        Stdio::Inherit | Stdio::Piped | Stdio::Null => None,
    };
    if spec.stdio == Stdio::Terminal && foreground.is_none() {
        spec.stdio = Stdio::Inherit;
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
    let mut crew = Crew::new(keeper, programs, patience, state, foreground);
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
        // Gives the terminal back before anybody hears of the end.
        drop(crew);
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
