//! The keeper: a [`Spec`] on one inherited descriptor and a supervisor on another → an app in namespaces of its own.
//!
//! Two processes, both single-threaded. The outer one unshares and forks; its child is pid 1 of the new PID namespace,
//! builds everything else, and then sits in one `poll` loop: orders of the supervisor, sockets for the sidecar, the
//! end of its children. Whatever ends it (the supervisor's lifeline, the app, SIGKILL on either process) ends the PID
//! namespace and with it every process inside, double-forked ones included.

mod app;
mod mounts;
mod namespace;
mod network;
mod sockets;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use ripstop_model::seam::Producer;

use crate::descriptors;
use crate::link::{Failure, FromKeeper, Handover, KEEPER_CONTROL, KEEPER_SPEC, Role, ToKeeper};
use crate::supervise::Exit;
use crate::trace;
use crate::workload::Spec;
use namespace::Rank;
use sockets::{Sockets, Supplies};

/// The `ripstop keeper` subcommand. Call it before any thread is started; it configures itself from inherited
/// descriptors alone and reports to its supervisor, so the exit code matters to nobody else.
pub fn main() -> ExitCode {
    let inherited = descriptors::inherited(KEEPER_SPEC, "the workload").and_then(|spec| {
        let control = descriptors::inherited(KEEPER_CONTROL, "the supervisor")?;
        descriptors::seal()?;
        Ok((descriptors::read_document::<Spec>(spec)?, control))
    });
    let (spec, control) = match inherited {
        Ok(inherited) => inherited,
        Err(error) => {
            // Not `eprintln!`: it panics where nobody reads.
            let _ = writeln!(io::stderr(), "ripstop keeper: {error}");
            return ExitCode::FAILURE;
        }
    };
    match outer(&spec, &control) {
        Ok(code) => code,
        Err(failure) => {
            report(&control, &FromKeeper::Failed(failure));
            ExitCode::FAILURE
        }
    }
}

/// Enters the namespaces, forks pid 1 and waits for its end.
fn outer(spec: &Spec, control: &OwnedFd) -> Result<ExitCode, Failure> {
    let rank = namespace::enter(spec)?;
    // SAFETY: this process has one thread, so the child may do whatever it likes.
    match unsafe { fork() }.map_err(|errno| setup("fork", errno))? {
        ForkResult::Child => std::process::exit(inner(spec, control, rank)),
        ForkResult::Parent { child } => {
            report(control, &FromKeeper::Init(child.as_raw()));
            loop {
                match waitpid(child, None) {
                    Err(Errno::EINTR) => {}
                    Ok(WaitStatus::Exited(_, code)) => return Ok(ExitCode::from(code as u8)),
                    _ => return Ok(ExitCode::FAILURE),
                }
            }
        }
    }
}

/// Pid 1 of the namespace; its end is everybody's end there.
fn inner(spec: &Spec, control: &OwnedFd, rank: Rank) -> i32 {
    // The outer process may be killed alone; the kernel's signal to us passes pid 1's immunity.
    let tied = prctl::set_pdeathsig(Signal::SIGKILL).map_err(|errno| setup("prctl", errno));
    match tied.and_then(|()| Keeper::build(spec, control, rank)) {
        Ok(mut keeper) => match keeper.serve() {
            Some(exit) => {
                report(control, &FromKeeper::Exited(exit));
                exit.code()
            }
            None => 1,
        },
        Err(failure) => {
            report(control, &FromKeeper::Failed(failure));
            1
        }
    }
}

struct Keeper<'a> {
    spec: &'a Spec,
    control: &'a OwnedFd,
    rank: Rank,
    signals: SignalFd,
    sockets: Sockets,
    /// The folder of the tracing hooks, as the app sees it, and the table in it.
    hooks: Option<(String, OwnedFd)>,
    /// `/proc`, for the sidecar to find programs in that the kernel is to follow.
    processes: Option<OwnedFd>,
    /// The living sidecar's queues; none between two sidecars.
    supplies: Option<Supplies>,
    app: Option<Pid>,
    limits: app::Limits,
}

/// Why the loop goes on or ends.
enum Turn {
    On,
    Over(Option<Exit>),
}

impl<'a> Keeper<'a> {
    fn build(spec: &'a Spec, control: &'a OwnedFd, rank: Rank) -> Result<Keeper<'a>, Failure> {
        let mut children = SigSet::empty();
        children.add(Signal::SIGCHLD);
        children
            .thread_block()
            .map_err(|errno| setup("block SIGCHLD", errno))?;
        let signals =
            SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
                .map_err(|errno| setup("signalfd", errno))?;
        mounts::proc()?;
        let network = network::build(spec)?;
        let sockets = Sockets::open(network.v6).map_err(|error| setup("sockets inside", error))?;
        let mut notes = network.notes;
        notes.extend(network::capture(spec)?);
        // Last: until here the keeper needs the host's files itself.
        mounts::private_files(spec, rank)?;
        let hooks = mounts::hooks(spec)?;
        // A workload without ports serves no requests.
        let kernel = spec.hooks.contains(&Producer::Kernel) && !spec.target_ports.is_empty();
        let processes = kernel.then(|| File::open("/proc").map(OwnedFd::from));
        let processes = processes
            .transpose()
            .map_err(|error| setup("/proc", error))?;
        let limits = app::Limits::raise();
        report(control, &FromKeeper::Ready { notes });
        Ok(Keeper {
            spec,
            control,
            rank,
            signals,
            sockets,
            hooks,
            processes,
            supplies: None,
            app: None,
            limits,
        })
    }

    /// Until the app ends (its exit) or the supervisor does (nothing).
    fn serve(&mut self) -> Option<Exit> {
        loop {
            let turn = match self.wait() {
                Ok(()) => self.turn(),
                Err(Errno::EINTR) => Turn::On,
                Err(_) => Turn::Over(None),
            };
            if let Turn::Over(exit) = turn {
                return exit;
            }
        }
    }

    /// Sleeps until there is something to do.
    fn wait(&self) -> Result<(), Errno> {
        let readable = |descriptor| PollFd::new(descriptor, PollFlags::POLLIN);
        let mut watched = vec![
            readable(self.control.as_fd()),
            readable(self.signals.as_fd()),
        ];
        let mut timeout = PollTimeout::NONE;
        if let Some(supplies) = &self.supplies {
            if supplies.starved {
                // Out of descriptors or memory: try again soon, not at once.
                timeout = PollTimeout::from(100u8);
            } else {
                watched.extend(
                    supplies
                        .queues()
                        .map(|queue| PollFd::new(queue, PollFlags::POLLOUT)),
                );
            }
        }
        poll(&mut watched, timeout).map(|_| ())
    }

    fn turn(&mut self) -> Turn {
        loop {
            match descriptors::receive::<ToKeeper>(self.control.as_fd()) {
                Ok(None) => return Turn::Over(None),
                Ok(Some((order, passed))) => {
                    if let Err(failure) = self.obey(order, passed) {
                        report(self.control, &FromKeeper::Failed(failure));
                        return Turn::Over(None);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Turn::Over(None),
            }
        }
        if let Some(exit) = self.reap() {
            return Turn::Over(Some(exit));
        }
        if let Some(supplies) = &mut self.supplies
            && !supplies.refill()
        {
            self.supplies = None;
        }
        Turn::On
    }

    fn obey(&mut self, order: ToKeeper, passed: Vec<OwnedFd>) -> Result<(), Failure> {
        match order {
            ToKeeper::Sidecar => {
                // A sidecar that is already gone again is its supervisor's business: it sends the next one.
                self.supplies = passed
                    .into_iter()
                    .next()
                    .and_then(|link| self.hand_over(link.as_fd()).ok());
            }
            ToKeeper::Start => {
                self.app = Some(app::start(&self.app_spec(), self.rank, &self.limits)?);
                report(self.control, &FromKeeper::Started);
            }
            ToKeeper::Signal(number) => {
                if let (Some(app), Ok(signal)) = (self.app, Signal::try_from(number)) {
                    // ESRCH: it has just ended, and the loop is about to see that.
                    let _ = nix::sys::signal::kill(app, signal);
                }
            }
        }
        Ok(())
    }

    /// With the variables that set the hooks up.
    fn app_spec(&self) -> Spec {
        let mut spec = self.spec.clone();
        if let Some((folder, _)) = &self.hooks {
            trace::set_up(&spec.hooks, folder, &mut spec.env);
        }
        spec
    }

    fn hand_over(&self, link: BorrowedFd<'_>) -> io::Result<Supplies> {
        let (supplies, far_ends) = Supplies::open(self.sockets.v6())?;
        let (mut roles, mut raw) = self.sockets.roles();
        for (role, descriptor) in &far_ends {
            roles.push(*role);
            raw.push(descriptor.as_raw_fd());
        }
        if let Some((_, table)) = &self.hooks {
            roles.push(Role::Causes);
            raw.push(table.as_raw_fd());
        }
        if let Some(processes) = &self.processes {
            roles.push(Role::Processes);
            raw.push(processes.as_raw_fd());
        }
        let handover = Handover {
            roles,
            addresses: self.spec.addresses,
            target_ports: self.spec.target_ports.clone(),
            host_ports: self.spec.host_ports.clone(),
            resolver: self.spec.resolver.clone(),
        };
        descriptors::send(link, &handover, &raw)?;
        Ok(supplies)
    }

    /// Buries every dead child, adopted orphans included; the app's exit if it was among them.
    fn reap(&self) -> Option<Exit> {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        let mut exit = None;
        let watched = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED;
        loop {
            match waitpid(None, Some(watched)) {
                Ok(WaitStatus::Exited(pid, code)) if Some(pid) == self.app => {
                    exit = Some(Exit::Code(code))
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if Some(pid) == self.app => {
                    exit = Some(Exit::Signal(signal as i32));
                }
                // No shell watches this job: after Ctrl-Z nobody could bring it back.
                Ok(WaitStatus::Stopped(pid, Signal::SIGTSTP)) if Some(pid) == self.app => {
                    let _ = killpg(pid, Signal::SIGCONT);
                }
                Ok(WaitStatus::StillAlive) | Err(_) => return exit,
                Ok(_) => {}
            }
        }
    }
}

/// The supervisor may be gone, and then nobody is left to tell.
fn report(control: &OwnedFd, message: &FromKeeper) {
    let _ = descriptors::send(control.as_fd(), message, &[]);
}

fn setup(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::Setup(format!("{what}: {error}"))
}
