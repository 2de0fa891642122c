//! A prepared namespace → the app running in it, as a child that is never pid 1.
//!
//! The child first loses its power over the namespace it lives in: it unshares a user namespace and waits until the
//! keeper has mapped its ids. Where root is refused one, it drops the capabilities that could alter networks, mounts
//! or other processes from its bounding set instead.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask,
};
use nix::unistd::{
    ForkResult, Gid, Pid, Uid, execve, fork, getpid, setgroups, setpgid, setresgid, setresuid,
    tcsetpgrp,
};
use serde::{Deserialize, Serialize};

use super::namespace::{self, Rank};
use super::setup;
use crate::descriptors;
use crate::link::Failure;
use crate::workload::{Spec, Stdio, User};

/// linux/capability.h. Without SYS_PTRACE gone, root could attach to a process of the host and be free.
const POWERS: [libc::c_ulong; 9] = [
    12, // NET_ADMIN
    13, // NET_RAW
    16, // SYS_MODULE
    17, // SYS_RAWIO
    19, // SYS_PTRACE
    21, // SYS_ADMIN
    33, // MAC_ADMIN
    38, // PERFMON
    39, // BPF
];

/// The limit of open files that the app gets back: the keeper raises its own, since the kernel counts descriptors in
/// flight against it.
pub(super) struct Limits {
    files: Option<(u64, u64)>,
}

impl Limits {
    pub(super) fn raise() -> Limits {
        let files = getrlimit(Resource::RLIMIT_NOFILE).ok();
        if let Some((_, hard)) = files {
            // Lower is possible, only tighter.
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        }
        Limits { files }
    }
}

/// Child → keeper, before exec.
#[derive(Serialize, Deserialize)]
enum Step {
    Unshared,
    Bounded,
    Failed(Failure),
}

/// Starts the app and returns when exec has succeeded.
pub(super) fn start(spec: &Spec, rank: Rank, limits: &Limits) -> Result<Pid, Failure> {
    if let (Rank::Root, Stdio::Piped, Some(user)) = (rank, spec.stdio, &spec.user) {
        // Lets it open /dev/stdout again, as nginx does for its log.
        for descriptor in [io::stdout().as_fd(), io::stderr().as_fd()] {
            let _ = nix::unistd::fchown(
                descriptor,
                Some(Uid::from_raw(user.uid)),
                Some(Gid::from_raw(user.gid)),
            );
        }
    }
    let (keeper_end, child_end) =
        descriptors::pair().map_err(|error| setup("socketpair", error))?;
    // SAFETY: the keeper has one thread.
    match unsafe { fork() }.map_err(|errno| setup("fork", errno))? {
        ForkResult::Child => {
            drop(keeper_end);
            let Err(failure) = become_app(spec, rank, limits, &child_end);
            let _ = descriptors::send(child_end.as_fd(), &Step::Failed(failure), &[]);
            // SAFETY: ends the process at once; nothing of the keeper's may run here.
            unsafe { libc::_exit(127) }
        }
        ForkResult::Parent { child } => {
            drop(child_end);
            watch(child, rank, &keeper_end)
        }
    }
}

/// Answers the child's steps until exec closes its end.
fn watch(child: Pid, rank: Rank, link: &OwnedFd) -> Result<Pid, Failure> {
    loop {
        match next::<Step>(link)? {
            None => return Ok(child),
            Some(Step::Unshared) => namespace::map_app(child, rank)?,
            Some(Step::Bounded) => {}
            Some(Step::Failed(failure)) => return Err(failure),
        }
        descriptors::send(link.as_fd(), &(), &[]).map_err(|error| setup("app", error))?;
    }
}

/// Blocks for a message; the sockets themselves do not.
fn next<M: serde::de::DeserializeOwned>(link: &OwnedFd) -> Result<Option<M>, Failure> {
    loop {
        match poll(
            &mut [PollFd::new(link.as_fd(), PollFlags::POLLIN)],
            PollTimeout::NONE,
        ) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(setup("app", errno)),
        }
    }
    let received = descriptors::receive::<M>(link.as_fd()).map_err(|error| setup("app", error))?;
    Ok(received.map(|(message, _)| message))
}

fn become_app(
    spec: &Spec,
    rank: Rank,
    limits: &Limits,
    link: &OwnedFd,
) -> Result<Infallible, Failure> {
    // A group of its own: a terminal's Ctrl-C reaches the supervisor, which drains before it passes the signal on.
    setpgid(Pid::from_raw(0), Pid::from_raw(0)).map_err(|errno| setup("setpgid", errno))?;
    if spec.stdio == Stdio::Terminal {
        let mut minding = SigSet::empty();
        minding.add(Signal::SIGTTOU);
        let lent = minding
            .thread_block()
            .and_then(|()| tcsetpgrp(io::stdin(), getpid()));
        lent.map_err(|errno| setup("terminal", errno))?;
    }
    let step = match (unshare(CloneFlags::CLONE_NEWUSER), rank) {
        (Ok(()), _) => Step::Unshared,
        (Err(_), Rank::Root) => {
            bound()?;
            Step::Bounded
        }
        (Err(errno), Rank::Ordinary { .. }) => {
            return Err(namespace::refused("nested user namespace", errno));
        }
    };
    descriptors::send(link.as_fd(), &step, &[]).map_err(|error| setup("app", error))?;
    next::<()>(link)?.ok_or_else(|| setup("app", "the keeper is gone"))?;
    if let (Rank::Root, Some(user)) = (rank, &spec.user) {
        switch(user)?;
    }
    restore(limits)?;
    nix::unistd::chdir(&spec.cwd).map_err(|errno| {
        cannot(
            format!("folder {}: {}", spec.cwd.display(), errno.desc()),
            126,
        )
    })?;
    execute(spec)
}

/// Drops [`POWERS`] from the bounding set, and what could carry them over exec beside it.
fn bound() -> Result<(), Failure> {
    for capability in POWERS {
        // SAFETY: plain system call; EINVAL tells that this kernel does not know the capability.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if dropped < 0 && Errno::last() != Errno::EINVAL {
            return Err(setup("capability bounding set", Errno::last()));
        }
    }
    // SAFETY: as above.
    unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    };
    clear_inheritable()
}

/// capset(2) with an empty inheritable set: for root, exec would otherwise add it back.
fn clear_inheritable() -> Result<(), Failure> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let mut data = [0u32; 6];
    // SAFETY: header and data have the layout and size that version 3 asks for.
    let done = unsafe {
        if libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) < 0 {
            -1
        } else {
            (data[2], data[5]) = (0, 0);
            libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr())
        }
    };
    if done < 0 {
        Err(setup("capset", Errno::last()))
    } else {
        Ok(())
    }
}

fn switch(user: &User) -> Result<(), Failure> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups)
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid))
        .map_err(|errno| setup(&format!("user {}", user.name), errno))
}

/// Undoes what the keeper and Rust's runtime changed and exec would keep.
fn restore(limits: &Limits) -> Result<(), Failure> {
    if let Some((soft, hard)) = limits.files {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
    }
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of ours.
    unsafe { sigaction(Signal::SIGPIPE, &default) }.map_err(|errno| setup("SIGPIPE", errno))?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .map_err(|errno| setup("signal mask", errno))
}

/// execve along the app's own PATH, as execvp does along the caller's.
fn execute(spec: &Spec) -> Result<Infallible, Failure> {
    let program = spec
        .command
        .first()
        .ok_or_else(|| cannot("no command".to_owned(), 127))?;
    let text = |text: &str| {
        CString::new(text).map_err(|_| cannot(format!("{text:?} contains a NUL byte"), 126))
    };
    let arguments = spec
        .command
        .iter()
        .map(|word| text(word))
        .collect::<Result<Vec<_>, _>>()?;
    let pairs = spec
        .env
        .iter()
        .map(|(name, value)| text(&format!("{name}={value}")));
    let environment = pairs.collect::<Result<Vec<_>, _>>()?;
    let mut refusal = Errno::ENOENT;
    for candidate in candidates(program, &spec.env) {
        let Ok(path) = CString::new(candidate.as_os_str().as_bytes()) else {
            continue;
        };
        let Err(errno) = execve(&path, &arguments, &environment);
        match errno {
            Errno::ENOENT | Errno::ENOTDIR => {}
            // Another folder may have one that can be executed.
            Errno::EACCES => refusal = errno,
            other => {
                return Err(cannot(
                    format!("{}: {}", candidate.display(), other.desc()),
                    126,
                ));
            }
        }
    }
    let code = if refusal == Errno::ENOENT { 127 } else { 126 };
    let place = if program.contains('/') {
        format!("seen from {}", spec.cwd.display())
    } else {
        "in its PATH".to_owned()
    };
    Err(cannot(
        format!("{program}: {} ({place})", refusal.desc()),
        code,
    ))
}

fn candidates(program: &str, env: &[(String, String)]) -> Vec<PathBuf> {
    if program.contains('/') {
        return vec![PathBuf::from(program)];
    }
    let path = env.iter().rev().find(|(name, _)| name == "PATH");
    let path = path.map_or("/usr/local/bin:/usr/bin:/bin", |(_, value)| value.as_str());
    path.split(':')
        .map(|folder| Path::new(if folder.is_empty() { "." } else { folder }).join(program))
        .collect()
}

fn cannot(message: String, code: i32) -> Failure {
    Failure::Command { message, code }
}
