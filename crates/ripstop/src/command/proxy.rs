//! `ripstop proxy`: the data plane as a process, as a workload's sidecar or from an Envoy v3 bootstrap.

use std::os::fd::RawFd;
use std::process::ExitCode;

/// What it is configured by.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run as a sidecar that `ripstop run` or `ripstop up` configures through this inherited descriptor
    #[arg(long, value_name = "FD", hide = true)]
    sidecar: RawFd,
}

impl Options {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        crate::log::start("info")?;
        crate::sidecar::run::main(self.sidecar)
    }
}
