//! `ripstop down`: ends a mesh that `ripstop up` runs, and waits until it has ended.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::folder::Target;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// How long workloads may take before they are killed
    #[arg(long, default_value = "30s", value_parser = super::duration)]
    timeout: Duration,
}

impl Options {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let folder = self.target.folder()?;
        let Some((pid, presence)) = folder.holder() else {
            bail!("no `ripstop up` runs in {}", folder.path().display());
        };
        let pid = Pid::from_raw(pid);
        let send =
            |signal| kill(pid, signal).with_context(|| format!("cannot signal process {pid}"));
        send(Signal::SIGTERM)?;
        let mut deadline = Instant::now() + self.timeout;
        let mut killed = false;
        while folder
            .holder()
            .is_some_and(|(holder, _)| holder == pid.as_raw())
        {
            if Instant::now() > deadline {
                if killed {
                    bail!(
                        "process {pid} does not end; kill it with `kill -9 {pid}`: what it runs ends with it"
                    );
                }
                // The second signal is the impatient one.
                send(Signal::SIGTERM)?;
                killed = true;
                deadline += Duration::from_secs(5);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        say!("{} is down", presence.mesh);
        Ok(ExitCode::SUCCESS)
    }
}
