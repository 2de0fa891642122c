//! A process → its end, its family, its CPU time and its memory, from proc(5).

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

/// A program that ends with its owner.
pub(super) struct Running(pub(super) Child);

impl Running {
    /// Without input and output.
    pub(super) fn start(command: &mut Command) -> anyhow::Result<Running> {
        Running::talking(command.stdout(Stdio::null()).stderr(Stdio::null()))
    }

    /// With the output that `command` says.
    pub(super) fn talking(command: &mut Command) -> anyhow::Result<Running> {
        // A peer that reads it knows when its owner has gone.
        let child = command.stdin(Stdio::piped()).spawn();
        let child = child.with_context(|| format!("cannot start {command:?}"))?;
        Ok(Running(child))
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whatever is wrong with it, it must not outlive the measurement.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn pinned(processors: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", processors]);
    command
}

pub(super) fn wait_for(port: u16) -> anyhow::Result<()> {
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        match std::net::TcpStream::connect(("127.0.0.1", port)) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > patience => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// A process and all that descend from it.
pub(super) fn family(pid: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let child = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        // The parent is the second field after the command (proc_pid_stat(5)).
        let parent = child.and_then(|child| field(child, 1));
        if let (Some(child), Some(parent)) = (child, parent) {
            children.entry(parent as u32).or_default().push(child);
        }
    }
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(parent) = all.get(next) {
        all.extend(children.get(parent).into_iter().flatten());
        next += 1;
    }
    all
}

/// A number of `/proc/PID/stat`, counted from the field after the command's closing parenthesis.
fn field(pid: u32, at: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = stat.rsplit(')').next()?;
    fields.split_whitespace().nth(at)?.parse().ok()
}

/// User and system time of a process and its descendants (nginx's worker).
pub(super) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let ticks = |pid| Some(field(pid, 11)? + field(pid, 12)?);
    let own = ticks(pid).context("a measured process has gone")?;
    let others = family(pid).into_iter().skip(1).filter_map(ticks);
    let ticks: u64 = own + others.sum::<u64>();
    // USER_HZ is 100 on every Linux that runs this.
    Ok(Duration::from_millis(ticks * 10))
}

/// A line of `/proc/PID/status`: VmRSS and its kind in MiB, Threads as it is.
pub(super) fn status(pid: u32, name: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find(|line| line.split(':').next() == Some(name))?;
    let figure: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(if line.ends_with("kB") {
        figure / 1024.0
    } else {
        figure
    })
}

/// VmRSS in MiB, a process and its descendants together.
pub(super) fn rss(pid: u32) -> f64 {
    family(pid)
        .into_iter()
        .filter_map(|pid| status(pid, "VmRSS"))
        .sum()
}
