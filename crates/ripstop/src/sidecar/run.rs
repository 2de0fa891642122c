//! `ripstop proxy --sidecar FD`: a [`Config`] and the keeper's sockets → a running sidecar, until its supervisor is done.
//!
//! In order: sockets, certificate, configuration, workers, DNS; then the supervisor may start the application, whose
//! readiness is probed and reported on the discovery stream.

use std::collections::BTreeSet;
use std::os::fd::{OwnedFd, RawFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use ripstop_control::compile::VIRTUAL_OUTBOUND;
use ripstop_control::view::CLUSTER_ID;
use ripstop_host::sidecar::{Inherited, Supervisor};
use ripstop_host::supervise::{Order, Report, inherited_document};
use ripstop_model::discovery::Kind;
use ripstop_model::seam::Causes;
use ripstop_model::snapshot::Name;
use ripstop_model::snapshot::endpoint::Workload;
use ripstop_model::spiffe::Spiffe;
use ripstop_proxy::Running;
use ripstop_proxy::admin::{Admin, Face};
use ripstop_proxy::admission::Most;
use ripstop_proxy::discovery::Settings;
use ripstop_proxy::discovery::follow::{self, Follower, Resolver};
use ripstop_telemetry::Registry;
use ripstop_telemetry::export::Spans;
use ripstop_wire::node::Node;
use ripstop_wire::xds::Protocol;
use ripstop_wire::xds::client::Client;
use serde_json::json;

use super::Config;
use super::capture::Capture;
use crate::enrollment::Identity;
use crate::stage::{Following, Stage};

/// What the last spans wait for a collector at most, and the last connections for their ends.
const FLUSH: Duration = Duration::from_secs(2);

/// Runs the sidecar whose [`Config`] was inherited as `descriptor`.
pub(crate) fn main(descriptor: RawFd) -> anyhow::Result<ExitCode> {
    let config: Config = inherited_document(descriptor, "the sidecar's configuration")
        .context("`proxy --sidecar` is started by `ripstop run` and `ripstop up`, not by hand")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(config))?;
    Ok(ExitCode::SUCCESS)
}

async fn run(config: Config) -> anyhow::Result<()> {
    let inherited = Inherited::receive()
        .await
        .context("the keeper's sockets did not arrive")?;
    let identity = Identity::enroll(spiffe(&config)?, &config.control, None).await?;
    let Capture { fixed, adopted } = Capture::new(inherited.outbound)?;
    let stage = Stage::new(fixed);
    if config.readiness.is_some() {
        stage.withhold(published(&config));
    }
    let follower = discover(&config, &identity, &stage);
    follower.ready().await;
    let registry = Registry::new(Default::default());
    let spans = spans(&config, &registry)?;
    let sockets: Arc<dyn ripstop_proxy::Sockets> = Arc::new(inherited.app);
    let running = start(
        &config,
        &identity,
        &stage,
        adopted,
        &follower,
        &registry,
        spans.clone(),
        sockets.clone(),
        inherited.causes.map(|table| Arc::new(table) as _),
    )?;
    let metrics = config.metrics.iter().map(|at| (*at, Face::Metrics));
    let pages = metrics.chain([(config.ready, Face::Readiness), (config.admin, Face::Admin)]);
    let admin = crate::admin::serve(&running.shared, pages, node(&config), false)?;
    let names = Arc::new(Resolver {
        follower: follower.clone(),
        namespace: config.namespace.clone(),
        domain: config.domain.clone(),
    });
    inherited
        .background
        .spawn(names, config.ranges.clone())
        .context("DNS and UDP of the workload cannot be served")?;
    inherited.supervisor.report(Report::Ready)?;
    ripstop_proxy::memory::forget_start();
    watch_app(&config, sockets, follower.clone(), stage.clone());
    let order = obey(&inherited.supervisor, &follower, &running, &admin, &spans).await?;
    if order == Some(Order::End) {
        drain(&follower, &running, &spans).await;
        running.settle(FLUSH).await;
    }
    running.stop();
    if order == Some(Order::End) {
        // Last: with it the supervisor may be done with us.
        inherited.supervisor.report(Report::Drained)?;
    }
    Ok(())
}

fn discover(config: &Config, identity: &Identity, stage: &Stage) -> Follower {
    let inbound = config
        .inbound
        .iter()
        .map(|inbound| (Kind::Listener, inbound.listener.as_str().into()));
    let options = follow::Options {
        client: Client::new(node(config), Protocol::Delta),
        settings: Settings {
            wait: config.discovery.timeout,
            negative: config.discovery.negative_ttl,
            idle: config.discovery.idle_timeout,
            wildcards: &[Kind::Host],
        },
        hold: inbound
            .chain([
                (Kind::Ranges, Kind::RANGES.into()),
                (Kind::Listener, VIRTUAL_OUTBOUND.into()),
            ])
            .collect(),
        channel: identity.channel(),
        bearer: None,
    };
    follow::follow(options, Following::from(stage.clone()))
}

#[expect(
    clippy::too_many_arguments,
    reason = "the parts of a sidecar, each used once"
)]
fn start(
    config: &Config,
    identity: &Identity,
    stage: &Stage,
    adopted: Vec<(Name, OwnedFd)>,
    follower: &Follower,
    registry: &Arc<Registry>,
    spans: Option<Spans>,
    sockets: Arc<dyn ripstop_proxy::Sockets>,
    causes: Option<Arc<dyn Causes>>,
) -> anyhow::Result<Running> {
    let spiffe = spiffe(config)?;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let running = stage.start(|snapshot| ripstop_proxy::Options {
        workers: config.workers.unwrap_or(cpus.min(2)),
        snapshot,
        demand: Some(Arc::new(follower.clone())),
        sidecar: Some(ripstop_proxy::Sidecar {
            adopted,
            sockets,
            addresses: config.addresses.clone(),
            source: Some(config.transport),
            causes,
        }),
        node: config.node.as_str().into(),
        registry: registry.clone(),
        spans,
        workload: Some((workload(config), spiffe)),
        identity: Some(ripstop_proxy::Identity {
            certificate: identity.slot.clone(),
            trust: identity.trust.clone(),
        }),
        secrets: Vec::new(),
        drain_time: config.drain,
        most: Most::of_descriptors(crate::descriptors::raise()),
    })?;
    Ok(running)
}

fn spiffe(config: &Config) -> Result<Spiffe, ripstop_model::spiffe::SpiffeError> {
    Spiffe::new(
        &config.trust_domain,
        &config.namespace,
        &config.service_account,
    )
}

/// What telemetry says of this side.
fn workload(config: &Config) -> Workload {
    let label = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| config.labels.get(*name))
            .map_or("", String::as_str)
    };
    let service = if config.service.is_empty() {
        &config.workload
    } else {
        &config.service
    };
    let canonical = match label(&[
        "service.istio.io/canonical-name",
        "app.kubernetes.io/name",
        "app",
    ]) {
        "" => service,
        name => name,
    };
    let revision = match label(&[
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ]) {
        "" => "latest",
        revision => revision,
    };
    Workload {
        name: config.workload.as_str().into(),
        namespace: config.namespace.as_str().into(),
        service_account: config.service_account.as_str().into(),
        app: label(&["app", "app.kubernetes.io/name"]).into(),
        version: label(&["version", "app.kubernetes.io/version"]).into(),
        canonical_service: canonical.into(),
        canonical_revision: revision.into(),
        // As the control plane tells its callers, so that both sides count under one name.
        cluster: CLUSTER_ID.into(),
        address: config.addresses.first().copied(),
    }
}

/// Istio's node: what the control plane and, through it, peers learn of the workload.
fn node(config: &Config) -> Node {
    let ips: Vec<String> = config.addresses.iter().map(ToString::to_string).collect();
    let metadata = json!({
        "NAMESPACE": config.namespace,
        "SERVICE_ACCOUNT": config.service_account,
        "WORKLOAD_NAME": config.workload,
        "LABELS": config.labels,
        "INSTANCE_IPS": ips.join(","),
        "MESH_ID": config.mesh,
        "CLUSTER_ID": CLUSTER_ID,
        "NAME": config.id,
        "RIPSTOP_ID": config.id,
    });
    Node {
        id: config.node.clone(),
        cluster: format!(
            "{}.{}",
            if config.service.is_empty() {
                &config.workload
            } else {
                &config.service
            },
            config.namespace
        ),
        metadata: match metadata {
            serde_json::Value::Object(map) => map,
            _ => Default::default(),
        },
        user_agent: "ripstop".to_owned(),
        user_agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Node::default()
    }
}

fn spans(config: &Config, registry: &Registry) -> anyhow::Result<Option<Spans>> {
    use ripstop_telemetry::export::{Settings, Transport};
    let Some(url) = &config.otlp else {
        return Ok(None);
    };
    let (transport, url) = match url.strip_prefix("grpc://") {
        Some(rest) => (Transport::Grpc, format!("http://{rest}")),
        None => (Transport::Http, url.clone()),
    };
    let service = if config.service.is_empty() {
        &config.workload
    } else {
        &config.service
    };
    let settings = Settings::new(transport, &url, &format!("{service}.{}", config.namespace));
    Ok(Some(Spans::start(settings, registry.stats())?))
}

fn published(config: &Config) -> BTreeSet<Name> {
    let published = config.inbound.iter().filter(|inbound| inbound.published);
    published
        .map(|inbound| inbound.listener.as_str().into())
        .collect()
}

/// Tells the mesh whether the application is ready. While it is not, clients outside meet no listener of this replica, since
/// they would meet no application behind it: the other replicas share the port.
fn watch_app(
    config: &Config,
    sockets: Arc<dyn ripstop_proxy::Sockets>,
    follower: Follower,
    stage: Stage,
) {
    let Some(probe) = &config.readiness else {
        tokio::spawn(async move { follower.report(None).await });
        return;
    };
    let published = published(config);
    let mut ready = ripstop_proxy::readiness::watch(
        ripstop_proxy::readiness::Probe {
            addresses: config.addresses.clone(),
            port: probe.port,
            path: probe.path.clone(),
            interval: probe.interval,
            timeout: probe.timeout,
        },
        sockets,
    );
    tokio::spawn(async move {
        loop {
            let is_ready = *ready.borrow_and_update();
            stage.withhold(match is_ready {
                true => BTreeSet::new(),
                false => published.clone(),
            });
            let trouble = (!is_ready).then(|| "the readiness probe fails".to_owned());
            follower.report(trouble).await;
            if ready.changed().await.is_err() {
                return;
            }
        }
    });
}

/// Follows the supervisor's orders until it, or a signal, says to end; the order that does.
async fn obey(
    supervisor: &Supervisor,
    follower: &Follower,
    running: &Running,
    admin: &Admin,
    spans: &Option<Spans>,
) -> anyhow::Result<Option<Order>> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    loop {
        tokio::select! {
            order = supervisor.order() => match order? {
                Some(Order::Drain) => {
                    drain(follower, running, spans).await;
                    supervisor.report(Report::Drained)?;
                }
                ending => return Ok(ending),
            },
            _ = terminate.recv() => return Ok(None),
            () = admin.quit() => return Ok(None),
            // The terminal's Ctrl-C reaches the whole group; the supervisor decides what ends when.
            _ = interrupt.recv() => {}
        }
    }
}

/// Callers leave first, on our own word; then requests end; outbound goes on (R4.2).
async fn drain(follower: &Follower, running: &Running, spans: &Option<Spans>) {
    follower.report(Some("draining".to_owned())).await;
    running.drain().await;
    if let Some(spans) = spans {
        spans.flush(FLUSH).await;
    }
}
