//! A marker, or an earlier look at the machine, in → what a mesh left behind: processes, namespaces, rules, links.
//!
//! Zombies do not count: the machine's pid 1 may reap slowly, and they hold nothing.

use crate::process;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// A process that is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub command: String,
}

/// Every live process that has `marker` in its environment or on its command line (our own excepted).
///
/// Only root sees the environment of other users' processes.
pub fn processes(marker: &str) -> Vec<Process> {
    pids()
        .filter(|pid| *pid != std::process::id() && process::alive(*pid))
        .filter_map(|pid| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let entry = format!("{}={marker}", process::MARKER);
            let marked = environment
                .split(|byte| *byte == 0)
                .any(|field| field == entry.as_bytes());
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            (marked || command.contains(marker)).then_some(Process { pid, command })
        })
        .collect()
}

/// What of the machine a mesh could change, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Network, pid, mount and user namespaces that a live process is in or that a mount holds.
    pub namespaces: BTreeSet<String>,
    /// nftables tables of this network namespace; empty when we may not list them.
    pub tables: BTreeSet<String>,
    pub links: BTreeSet<String>,
    /// Mount points of this mount namespace.
    pub mounts: BTreeSet<String>,
}

impl Machine {
    pub fn now() -> Machine {
        Machine {
            namespaces: namespaces(),
            tables: tables(),
            links: entries("/sys/class/net"),
            mounts: mounts(),
        }
    }

    /// What is here now and was not in `before`. Other tests that run at once show up too: ask in tests that run
    /// alone, or look at [`processes`].
    pub fn since(&self, before: &Machine) -> Machine {
        let new = |now: &BTreeSet<String>, then: &BTreeSet<String>| {
            now.difference(then).cloned().collect()
        };
        Machine {
            namespaces: new(&self.namespaces, &before.namespaces),
            tables: new(&self.tables, &before.tables),
            links: new(&self.links, &before.links),
            mounts: new(&self.mounts, &before.mounts),
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Machine::default()
    }
}

/// The namespace of `kind` (`net`, `pid`, `mnt`, `user`) of a process, as `net:[4026531840]`.
pub fn namespace(pid: u32, kind: &str) -> Option<String> {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

fn namespaces() -> BTreeSet<String> {
    let mounted = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let held = mounted
        .lines()
        .filter(|line| line.contains(" - nsfs "))
        .filter_map(|line| line.split(' ').nth(3).map(str::to_owned));
    pids()
        .filter(|pid| process::alive(*pid))
        .flat_map(|pid| {
            ["net", "pid", "mnt", "user"]
                .into_iter()
                .filter_map(move |kind| namespace(pid, kind))
        })
        .chain(held)
        .collect()
}

fn tables() -> BTreeSet<String> {
    let output = Command::new(crate::program("nft"))
        .args(["list", "tables"])
        .output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned)
            .collect(),
        _ => BTreeSet::new(),
    }
}

fn mounts() -> BTreeSet<String> {
    let mounted = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounted
        .lines()
        .filter_map(|line| line.split(' ').nth(4).map(str::to_owned))
        .collect()
}

fn pids() -> impl Iterator<Item = u32> {
    entries("/proc")
        .into_iter()
        .filter_map(|name| name.parse().ok())
}

fn entries(folder: impl AsRef<Path>) -> BTreeSet<String> {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Guard;
    use crate::wait::{GENEROUS, until_true};

    #[test]
    fn finds_grandchildren_by_marker() {
        let mut guard = Guard::spawn(
            "shell",
            Command::new("sh").args(["-c", "(sleep 60 & echo $! ready); exit 0"]),
        );
        let line = guard.line_with("ready", GENEROUS);
        guard.wait(GENEROUS);
        let pid: u32 = line
            .split(' ')
            .next()
            .and_then(|pid| pid.parse().ok())
            .expect("a pid");
        let left = processes(guard.marker());
        assert!(
            left.iter()
                .any(|process| process.pid == pid && process.command.starts_with("sleep")),
            "{left:?}"
        );
        process::signal_pid(pid, libc::SIGKILL).expect("our own");
        until_true(GENEROUS, "the orphan's end", || {
            processes(guard.marker()).is_empty()
        });
    }

    #[test]
    fn a_machine_has_namespaces_and_links() {
        let now = Machine::now();
        let ours = namespace(std::process::id(), "net").expect("our own namespace");
        assert!(now.namespaces.contains(&ours));
        assert!(now.links.contains("lo"));
        assert!(now.since(&now).is_empty());
    }
}
