//! The caller's rights → namespaces for the keeper, and a user namespace without power for the app.
//!
//! Root unshares network, mounts and PIDs directly, so they belong to the host's user namespace, and the app is put
//! into a user namespace of its own that maps every id to itself: chown, setuid and su work there, nft, setns, mount
//! and ptrace of anything outside do not. An ordinary user needs a user namespace to unshare at all (its id is 0
//! there), and the app gets a nested one that maps back to the user's own id.

use std::fs;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Pid, getegid, geteuid};

use super::setup;
use crate::link::Failure;
use crate::workload::Spec;

/// What the caller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rank {
    Root,
    /// Ids outside; 0 inside the keeper's user namespace.
    Ordinary {
        uid: u32,
        gid: u32,
    },
}

const CAP_SYS_ADMIN: u32 = 21;

/// Moves the calling process into new namespaces; the PID namespace begins with its next child.
pub(super) fn enter(spec: &Spec) -> Result<Rank, Failure> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let spaces = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    if uid == 0 && effective(CAP_SYS_ADMIN) {
        unshare(spaces).map_err(|errno| refused("unshare", errno))?;
        return Ok(Rank::Root);
    }
    if let Some(user) = &spec.user
        && user.uid != uid
    {
        let text = format!(
            "`user: {}` needs ripstop to run as root: the caller can only be itself",
            user.name
        );
        return Err(Failure::Setup(text));
    }
    unshare(spaces | CloneFlags::CLONE_NEWUSER).map_err(|errno| refused("unshare", errno))?;
    write_map("/proc/self/setgroups", "deny")?;
    write_map("/proc/self/uid_map", &format!("0 {uid} 1"))?;
    write_map("/proc/self/gid_map", &format!("0 {gid} 1"))?;
    Ok(Rank::Ordinary { uid, gid })
}

/// Maps the ids of `child`, which has just unshared its user namespace from ours.
pub(super) fn map_app(child: Pid, rank: Rank) -> Result<(), Failure> {
    let file = |name: &str| format!("/proc/{child}/{name}");
    match rank {
        Rank::Root => {
            // What we can name, mapped to itself; in the host's namespace one extent of everything.
            write_map(&file("uid_map"), &identity(&read("/proc/self/uid_map")?))?;
            write_map(&file("gid_map"), &identity(&read("/proc/self/gid_map")?))
        }
        Rank::Ordinary { uid, gid } => {
            write_map(&file("uid_map"), &format!("{uid} 0 1"))?;
            write_map(&file("gid_map"), &format!("{gid} 0 1"))
        }
    }
}

/// A map's `inside outside length` lines → the same ids mapped to themselves one level down.
fn identity(map: &str) -> String {
    map.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (inside, _, length) = (fields.next()?, fields.next()?, fields.next()?);
            Some(format!("{inside} {inside} {length}\n"))
        })
        .collect()
}

fn effective(capability: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    set.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|bits| bits & (1 << capability) != 0)
}

fn read(path: &str) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| setup(path, error))
}

fn write_map(path: &str, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| match error.raw_os_error() {
        Some(errno) => refused(path, Errno::from_raw(errno)),
        None => setup(path, error),
    })
}

/// A limit of 0 answers ENOSPC, AppArmor and seccomp EPERM or EACCES: one remedy for all.
pub(super) fn refused(what: &str, errno: Errno) -> Failure {
    match errno {
        Errno::ENOSPC | Errno::EPERM | Errno::EACCES => {
            Failure::Namespaces(format!("{what}: {}", errno.desc()))
        }
        other => setup(what, other.desc()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_identity_map_covers_exactly_what_the_parent_has() {
        assert_eq!(
            super::identity("         0          0 4294967295\n"),
            "0 0 4294967295\n"
        );
        assert_eq!(
            super::identity("0 1000 1\n1 100000 65536\n"),
            "0 0 1\n1 1 65536\n"
        );
    }
}
