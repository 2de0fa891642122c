//! `ripstop keeper`: pid 1 of a workload. Started by `up` and `run`, never by hand.

use std::process::ExitCode;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Names the workload in `ps`; not read.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _name: Vec<String>,
}

impl Options {
    /// No thread may have been started before this.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        Ok(ripstop_host::keeper::main())
    }
}
