//! `ripstop proxy`: the data plane as a process, as a workload's sidecar or from an Envoy v3 bootstrap.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use ripstop_proxy::admission::Most;

#[derive(clap::Args)]
#[command(
    after_help = "SIGTERM drains: readiness fails, connections end after their current request, and the process exits \
                  when none is left or the drain time is over. SIGINT ends at once."
)]
pub(crate) struct Options {
    /// An Envoy v3 bootstrap, YAML or JSON
    #[arg(
        long,
        short = 'c',
        value_name = "FILE",
        required_unless_present = "sidecar"
    )]
    bootstrap: Option<PathBuf>,
    /// Run as a sidecar that `ripstop run` or `ripstop up` configures through this inherited descriptor
    #[arg(long, value_name = "FD", hide = true, conflicts_with = "bootstrap")]
    sidecar: Option<RawFd>,
    /// Serve, or only check the bootstrap
    #[arg(long, value_enum, default_value_t = Mode::Serve)]
    mode: Mode,
    /// Threads that serve; one for each CPU if not given
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Seconds that connections may take to end after SIGTERM
    #[arg(long, value_name = "SECONDS", default_value_t = 45)]
    drain_time: u64,
    /// Connections of clients that may be open at once; those beyond are closed. If not given: what the bootstrap says
    /// (overload_manager, global_downstream_max_connections), else half of what `ulimit -Hn` grants
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    max_connections: Option<usize>,
    /// The same for the clients of one address; without limit if not given
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    max_connections_per_address: Option<usize>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a number above 0 is needed".to_owned()),
        Ok(number) => Ok(number),
    }
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    Serve,
    Validate,
}

impl Options {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if let Some(descriptor) = self.sidecar {
            crate::log::start("info")?;
            return crate::sidecar::run::main(descriptor);
        }
        let Some(path) = &self.bootstrap else {
            bail!("give the bootstrap to run with --bootstrap FILE");
        };
        let bootstrap = ripstop_wire::bootstrap::load(path)?;
        if self.mode == Mode::Validate {
            say!("{}: valid", path.display());
            return Ok(ExitCode::SUCCESS);
        }
        crate::log::start("info")?;
        let possible = Most::of_descriptors(crate::descriptors::raise());
        let most = Most {
            all: self
                .max_connections
                .or(bootstrap.max_connections)
                .unwrap_or(possible.all),
            of_address: self.max_connections_per_address,
        };
        crate::standalone::serve(
            bootstrap,
            self.workers,
            Duration::from_secs(self.drain_time),
            most,
        )
    }
}
