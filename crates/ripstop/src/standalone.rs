//! `ripstop proxy --bootstrap FILE`: an Envoy v3 bootstrap → a proxy that stands where Envoy would.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use ripstop_model::discovery::Kind;
use ripstop_model::snapshot::Cluster;
use ripstop_model::snapshot::cluster::Discovery;
use ripstop_model::snapshot::endpoint::Target;
use ripstop_model::snapshot::tls::{Secret, UpstreamTls};
use ripstop_proxy::admin::Face;
use ripstop_proxy::admission::Most;
use ripstop_proxy::discovery::Settings;
use ripstop_proxy::discovery::follow::{self, Follower};
use ripstop_proxy::drain::Phase;
use ripstop_proxy::stream::Stream;
use ripstop_proxy::tls::{Carries, ConfigError, Originator, Secrets};
use ripstop_telemetry::Registry;
use ripstop_wire::bootstrap::{AdsSource, Bootstrap};
use ripstop_wire::xds::Protocol;
use ripstop_wire::xds::client::Client;
use ripstop_wire::xds::stream::channel;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::stage::{Fixed, Following, Stage};

/// Serves until it has drained after SIGTERM, or SIGINT.
pub(crate) fn serve(
    bootstrap: Bootstrap,
    workers: Option<usize>,
    drain_time: Duration,
    most: Most,
) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime for the main thread")?;
    // Reading the file took Envoy's descriptors, some forty megabytes that are not needed again.
    ripstop_proxy::memory::give_back();
    runtime.block_on(run(bootstrap, workers, drain_time, most))?;
    Ok(ExitCode::SUCCESS)
}

async fn run(
    bootstrap: Bootstrap,
    workers: Option<usize>,
    drain_time: Duration,
    most: Most,
) -> anyhow::Result<()> {
    // Before anything listens: a signal that comes early must not kill what has begun to serve.
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch SIGINT")?;
    let own = bootstrap.snapshot();
    let stage = Stage::new(Fixed {
        captures: Vec::new(),
        listeners: own.listeners,
        clusters: own.clusters,
        local: own.local,
    });
    let _follower = match &bootstrap.ads {
        Some(source) => Some(discover(&bootstrap, source, &stage)?),
        None => None,
    };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let running = stage.start(|snapshot| ripstop_proxy::Options {
        workers: workers.unwrap_or(cpus),
        snapshot,
        demand: None,
        sidecar: None,
        node: bootstrap.node.id.as_str().into(),
        registry: Registry::new(Default::default()),
        spans: None,
        workload: None,
        identity: None,
        secrets: bootstrap.secrets.clone(),
        drain_time,
        most,
    })?;
    let failed = running.listen_errors.len();
    anyhow::ensure!(
        failed == 0,
        "{failed} of the bootstrap's listeners cannot be opened: free their addresses or change them"
    );
    let pages = bootstrap.admin.map(|address| (address, Face::Admin));
    let (node, is_static) = (bootstrap.node.clone(), bootstrap.ads.is_none());
    let admin = crate::admin::serve(&running.shared, pages, node, is_static)?;
    tracing::info!(listeners = bootstrap.listeners.len(), "serving");
    ripstop_proxy::memory::forget_start();
    tokio::select! {
        () = admin.quit() => tracing::info!("ending: asked for by /quitquitquit"),
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
    Ok(())
}

fn discover(bootstrap: &Bootstrap, source: &AdsSource, stage: &Stage) -> anyhow::Result<Follower> {
    let door = Arc::new(Door::new(bootstrap, source)?);
    let authority = if source.authority.is_empty() {
        &*source.cluster
    } else {
        &source.authority
    };
    let options = follow::Options {
        client: Client::new(
            bootstrap.node.clone(),
            if source.delta {
                Protocol::Delta
            } else {
                Protocol::Full
            },
        ),
        settings: Settings {
            wildcards: &[Kind::Cluster, Kind::Listener],
            ..Settings::default()
        },
        hold: Vec::new(),
        channel: channel(authority, move || {
            let door = door.clone();
            async move { door.open().await }
        }),
        bearer: None,
    };
    Ok(follow::follow(options, Following::from(stage.clone())))
}

/// How the control plane is reached: the first endpoint of the static cluster that the bootstrap names, and its TLS context.
struct Door {
    address: String,
    timeout: Duration,
    tls: Option<Arc<UpstreamTls>>,
    secrets: Vec<Arc<Secret>>,
}

impl Door {
    fn new(bootstrap: &Bootstrap, source: &AdsSource) -> anyhow::Result<Door> {
        let cluster = bootstrap
            .clusters
            .iter()
            .find(|cluster| cluster.name == source.cluster);
        let cluster = cluster.with_context(|| {
            format!(
                "ads_config names the cluster `{}`, which is not among static_resources.clusters",
                source.cluster
            )
        })?;
        anyhow::ensure!(
            cluster.transport.matches.is_empty(),
            "the control plane's cluster `{}` has transport_socket_matches: give it one transport_socket",
            source.cluster
        );
        let door = Door {
            address: address(cluster)?,
            timeout: cluster.connect_timeout,
            tls: cluster.transport.default.clone(),
            secrets: bootstrap.secrets.clone(),
        };
        // What can never work is told before anything listens.
        door.originator()
            .with_context(|| format!("the TLS context of the cluster `{}`", source.cluster))?;
        Ok(door)
    }

    /// Made anew for each connection: certificate files may have been replaced meanwhile.
    fn originator(&self) -> Result<Option<Originator>, ConfigError> {
        let Some(tls) = &self.tls else {
            return Ok(None);
        };
        let secrets = Secrets::new(None);
        for secret in &self.secrets {
            secrets.set(secret)?;
        }
        Originator::new(tls, &secrets).map(Some)
    }

    async fn open(&self) -> io::Result<Stream> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
        let tcp = timeout(self.timeout, TcpStream::connect(&self.address))
            .await
            .map_err(late)??;
        tcp.set_nodelay(true)?;
        let Some(originator) = self.originator().map_err(io::Error::other)? else {
            return Ok(Stream::Tcp(tcp));
        };
        let host = self.address.rsplit_once(':').map(|(host, _)| host);
        let name = originator.server_name("", host, tcp.peer_addr()?.ip());
        let connected = originator
            .connect(tcp, Carries::Http2, name, self.timeout)
            .await;
        let (stream, _) = connected.map_err(|error| io::Error::other(error.to_string()))?;
        Ok(stream)
    }
}

/// What is dialled.
fn address(cluster: &Cluster) -> anyhow::Result<String> {
    let endpoints = match &cluster.discovery {
        Discovery::Static(endpoints) => endpoints,
        Discovery::StrictDns(dns) | Discovery::LogicalDns(dns) => &dns.endpoints,
        Discovery::Eds { .. } | Discovery::OriginalDst { .. } => {
            anyhow::bail!(
                "the control plane's cluster `{}` must be STATIC, STRICT_DNS or LOGICAL_DNS",
                cluster.name
            )
        }
    };
    let first = endpoints
        .groups
        .iter()
        .flat_map(|group| &group.endpoints)
        .next();
    match first.map(|endpoint| &endpoint.address) {
        Some(Target::Socket(address)) => Ok(SocketAddr::to_string(address)),
        Some(Target::Name { host, port }) => Ok(format!("{host}:{port}")),
        Some(Target::Pipe(_)) | None => anyhow::bail!(
            "the control plane's cluster `{}` has no address to dial",
            cluster.name
        ),
    }
}
