//! `ripstop control`: the control plane as a process of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use ipnet::Ipv4Net;
use ripstop_control::settings::Settings;
use ripstop_model::analyze::analyze;
use ripstop_model::intent::Spec;
use ripstop_model::intent::mesh::Mesh;
use tokio::signal::unix::{SignalKind, signal};

use crate::client::Client;
use crate::dashboard::Claim;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// File or folder of resources, watched; may be given again
    #[arg(long, value_name = "PATH")]
    config: Vec<PathBuf>,
    /// Folder for what must survive a restart: the CA, addresses, registrations
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Plain-text xDS, loopback only
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15010")]
    xds: SocketAddr,
    /// xDS, certificates and joining, over TLS
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15012")]
    xds_tls: SocketAddr,
    /// /ready and /metrics
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15014")]
    monitoring: SocketAddr,
    /// Serve the dashboard here, without traffic: a port is 127.0.0.1's, port 0 a free one
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = super::listening)]
    dashboard: Option<SocketAddr>,
    /// How long what is under way at a workload may take to end when it stops; the mesh's
    /// `terminationDrainDuration` overrides it
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    drain_time: Option<Duration>,
    /// Overrides the mesh's; only before the CA's first start
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<String>,
    /// How long a workload's certificate lives at most; it asks for a day, and renews at half of what it gets
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    certificate_lifetime: Option<Duration>,
    /// How long a signing certificate lives; at half of that the next one takes over
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    intermediate_lifetime: Option<Duration>,
    /// Overrides the mesh's `addresses.transport`
    #[arg(long, value_name = "RANGE", hide = true)]
    transport_range: Option<Ipv4Net>,
    /// A supervisor holds the other end
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

impl Options {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        crate::log::start("info")?;
        crate::runtime::long(self.serve())
    }

    async fn serve(self) -> anyhow::Result<ExitCode> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let dashboard = match self.dashboard {
            Some(address) => Some(Claim::new(address).await?),
            None => None,
        };
        let mut options = ripstop_control::Options::new(&self.state);
        options.settings = self.settings()?;
        let lifetimes = &mut options.lifetimes;
        lifetimes.leaf_max = self.certificate_lifetime.unwrap_or(lifetimes.leaf_max);
        lifetimes.intermediate = self.intermediate_lifetime.unwrap_or(lifetimes.intermediate);
        options.sources = self
            .config
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        options.xds = Some(self.xds);
        options.xds_tls = Some(self.xds_tls);
        options.monitoring = Some(self.monitoring);
        let running = ripstop_control::start(options).await?;
        let listening = running.listening();
        tracing::info!(
            api = %running.socket().display(),
            xds = ?listening.xds,
            xds_tls = ?listening.xds_tls,
            monitoring = ?running.monitoring(),
            "control plane is up"
        );
        let dashboard = dashboard.map(|claim| {
            if let Some(warning) = claim.warning() {
                tracing::warn!("{warning}");
            }
            tracing::info!(url = %claim.url(), "dashboard is up");
            let name = std::path::absolute(&self.state).ok();
            let name = name.as_deref().and_then(Path::file_name);
            let name = name.map(|name| name.to_string_lossy()).unwrap_or_default();
            claim.serve(&name, &Client::local(running.socket()), None)
        });
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = stdin_closed(), if self.until_stdin_closes => {}
        }
        if let Some(dashboard) = dashboard {
            dashboard.stop().await;
        }
        running.stop().await;
        Ok(ExitCode::SUCCESS)
    }

    /// What cannot change while it runs comes from the mesh file as it is now; the control plane follows the rest of it.
    fn settings(&self) -> anyhow::Result<Settings> {
        let mut settings = Settings {
            host: crate::place::here()?,
            ..Settings::default()
        };
        // A folder that is not there (yet) is the source's to report.
        let present: Vec<PathBuf> = self
            .config
            .iter()
            .filter(|path| path.exists())
            .cloned()
            .collect();
        let analysis = analyze(&super::configuration(&present)?);
        settings.drain = self.drain_time.unwrap_or(settings.drain);
        let mesh = analysis
            .objects
            .iter()
            .find_map(|object| match &object.spec {
                Spec::Mesh(mesh) => Some(&**mesh),
                _ => None,
            });
        if let Some(mesh) = mesh {
            fixed(&mut settings, mesh);
        }
        if let Some(domain) = &self.trust_domain {
            settings.trust_domain.clone_from(domain);
        }
        if let Some(range) = self.transport_range {
            settings.ranges.transport = range;
        }
        Ok(settings)
    }
}

fn fixed(settings: &mut Settings, mesh: &Mesh) {
    if let Some(domain) = &mesh.trust_domain {
        settings.trust_domain.clone_from(domain);
    }
    if let Some(root) = &mesh.root_namespace {
        settings.root_namespace.clone_from(root);
    }
    if let Some(addresses) = &mesh.addresses {
        let ranges = &mut settings.ranges;
        ranges.vip_v4 = addresses.vips_v4.unwrap_or(ranges.vip_v4);
        ranges.vip_v6 = addresses.vips_v6.unwrap_or(ranges.vip_v6);
        ranges.workload_v4 = addresses.workloads_v4.unwrap_or(ranges.workload_v4);
        ranges.workload_v6 = addresses.workloads_v6.unwrap_or(ranges.workload_v6);
        ranges.transport = addresses.transport.unwrap_or(ranges.transport);
    }
}

/// On a thread of its own, which must not keep the process: a blocking read cannot be called off.
async fn stdin_closed() {
    let (closed, waiting) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let mut scratch = [0; 64];
        while matches!(
            std::io::Read::read(&mut std::io::stdin(), &mut scratch),
            Ok(1..)
        ) {}
        drop(closed);
    });
    let _ = waiting.await;
}
