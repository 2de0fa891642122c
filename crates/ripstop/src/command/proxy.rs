//! `ripstop proxy`: the data plane as a process, as a workload's sidecar or from an Envoy v3 bootstrap.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use ripstop_model::snapshot::Snapshot;
use ripstop_proxy::drain::Phase;
use ripstop_telemetry::Registry;
use ripstop_wire::bootstrap::Bootstrap;
use tokio::signal::unix::{SignalKind, signal};

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
            println!("{}: valid", path.display());
            return Ok(ExitCode::SUCCESS);
        }
        crate::log::start("info")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("no runtime for the main thread")?;
        runtime.block_on(self.serve(bootstrap))
    }

    async fn serve(self, bootstrap: Bootstrap) -> anyhow::Result<ExitCode> {
        // Before anything listens: a signal that comes early must not kill what has begun to serve.
        let mut terminate = signal(SignalKind::terminate()).context("cannot watch SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch SIGINT")?;
        let workers = match self.workers {
            Some(workers) => workers,
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let running = ripstop_proxy::run(ripstop_proxy::Options {
            workers,
            snapshot: Arc::new(snapshot(&bootstrap)),
            demand: None,
            sidecar: None,
            node: bootstrap.node.id.as_str().into(),
            registry: Registry::new(ripstop_telemetry::metrics::Limits::default()),
            spans: None,
            workload: None,
            identity: None,
            drain_time: Duration::from_secs(self.drain_time),
        })?;
        if !running.listen_errors.is_empty() {
            for error in &running.listen_errors {
                tracing::error!("{error}");
            }
            bail!(
                "{} of the bootstrap's listeners cannot be opened: free their addresses or change them",
                running.listen_errors.len()
            );
        }
        tracing::info!(workers, listeners = bootstrap.listeners.len(), "serving");
        tokio::select! {
            _ = terminate.recv() => {
                tracing::info!("draining");
                tokio::select! {
                    () = running.drain() => {}
                    _ = interrupt.recv() => {}
                }
            }
            _ = interrupt.recv() => {}
        }
        running.shared.drain.advance(Phase::Closing);
        running.stop();
        Ok(ExitCode::SUCCESS)
    }
}

/// What the bootstrap itself brings.
fn snapshot(bootstrap: &Bootstrap) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for listener in &bootstrap.listeners {
        snapshot
            .listeners
            .insert(listener.name.clone(), listener.clone());
    }
    for cluster in &bootstrap.clusters {
        snapshot
            .clusters
            .insert(cluster.name.clone(), cluster.clone());
    }
    snapshot
}
