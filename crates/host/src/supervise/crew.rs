//! The keeper and the sidecar of one workload: started, listened to, started again, ended.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use tokio::process::Child;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::terminal::Foreground;
use super::{Error, Exit, Order, Patience, Program, Programs, Report, Request, SidecarState};
use crate::descriptors::{self, Line};
use crate::link::{FromKeeper, KEEPER_CONTROL, KEEPER_SPEC, ToKeeper};
use crate::sidecar::{LINK, SUPERVISOR};
use crate::workload::{Spec, Stdio};

/// Restart delays of a sidecar: doubled each time, and forgotten after a sidecar that lived as long as `STEADY`.
const BACK_OFF: Duration = Duration::from_millis(100);
const BACK_OFF_MOST: Duration = Duration::from_secs(5);
const STEADY: Duration = Duration::from_secs(10);
/// For a process whose lifeline was closed to be gone.
const LEAVE: Duration = Duration::from_secs(5);

pub(super) struct Keeper {
    pub(super) child: Child,
    control: Line,
}

impl Keeper {
    pub(super) fn spawn(spec: &Spec, mut command: Command) -> Result<Keeper, Error> {
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
            Stdio::Inherit | Stdio::Terminal => {}
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

    pub(super) fn tell(&self, message: &ToKeeper, descriptors: &[RawFd]) -> io::Result<()> {
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
    pub(super) async fn ready(&mut self) -> Result<i32, Error> {
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

    pub(super) async fn started(&mut self) -> Result<(), Error> {
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
pub(super) struct Crew {
    pub(super) keeper: Keeper,
    programs: Programs,
    patience: Patience,
    sidecar: Option<Sidecar>,
    state: watch::Sender<SidecarState>,
    /// When the next sidecar may start, and the delay after it.
    next: Instant,
    delay: Duration,
    draining: Vec<oneshot::Sender<()>>,
    drained: bool,
    _foreground: Option<Foreground>,
}

/// What happened to a sidecar.
enum Event {
    Report(Report),
    Ended(String),
    /// The back-off is over.
    Due,
}

impl Crew {
    pub(super) fn new(
        keeper: Keeper,
        programs: Programs,
        patience: Patience,
        state: watch::Sender<SidecarState>,
        foreground: Option<Foreground>,
    ) -> Crew {
        Crew {
            keeper,
            programs,
            patience,
            sidecar: None,
            state,
            next: Instant::now(),
            delay: BACK_OFF,
            draining: Vec::new(),
            drained: false,
            _foreground: foreground,
        }
    }

    /// Starts sidecars until one is ready.
    pub(super) async fn first_sidecar(&mut self) -> Result<(), Error> {
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
    pub(super) async fn run(&mut self, mut inbox: mpsc::Receiver<Request>) -> Exit {
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
    pub(super) async fn end(&mut self) {
        let _ = timeout(LEAVE, self.keeper.child.wait()).await;
        if let Some(mut sidecar) = self.sidecar.take() {
            if sidecar.lifeline.send(&Order::End, &[]).is_ok() {
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
