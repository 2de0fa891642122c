//! `ripstop agent`: a stock Envoy becomes the sidecar of a workload: registered, certified over SDS, and told when to take traffic.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use ripstop_control::api::message::{Port, Readiness, Register, Registered, Report};
use ripstop_model::spiffe::Spiffe;
use ripstop_proxy::readiness;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use crate::agent::bootstrap::{Bootstrap, Protocol};
use crate::agent::{self, Here, Vault};
use crate::client::{Client, Error};
use crate::enrollment::Identity;
use crate::folder::Target;
use crate::membership::{self, Membership};
use crate::sidecar::Control;
use crate::{place, replica};

/// Between reports; a third of the lease, so that two may be lost.
const REPORT: Duration = Duration::from_secs(5);
/// Between looks at an Envoy that does not serve yet.
const LOOK: Duration = Duration::from_millis(250);
/// For the control plane to hear that the workload leaves.
const GOODBYE: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
#[command(
    after_help = "Joins as `ripstop run` does, writes a bootstrap with --bootstrap, and serves the workload's key, certificate and the \
mesh's roots to Envoy. Start Envoy as the same user once the bootstrap is there: `envoy -c FILE`. Envoy takes its peers' \
connections on an address of its own and passes requests on to 127.0.0.1; toward other services it listens on their addresses, \
which this host must take for its own:\n
  ip route add local 240.240.0.0/16 dev lo
  ip -6 route add local 2001:2::/48 dev lo
  sysctl net.ipv6.ip_nonlocal_bind=1"
)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// Where Envoy asks for its secrets: a Unix socket, made anew
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Write an Envoy bootstrap here
    #[arg(long, value_name = "FILE")]
    bootstrap: Option<PathBuf>,
    /// Envoy's admin address in that bootstrap
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15000")]
    admin: SocketAddr,
    /// How Envoy asks for its configuration in that bootstrap
    #[arg(long, value_enum, default_value_t = Protocol::Delta)]
    protocol: Protocol,
    /// The service it is an endpoint of; unset: a client that nobody calls
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// As PORT[:TARGET], where TARGET is where the application listens, or NAME=PORT[:TARGET]; may be given again
    #[arg(long = "port", value_name = "PORT", value_parser = super::run::port, requires = "service")]
    ports: Vec<Port>,
    /// Whom it is in the mesh; unset: the service's name
    #[arg(long, value_name = "SA", required_unless_present = "service")]
    service_account: Option<String>,
    #[arg(long, default_value = "default")]
    namespace: String,
    /// As in version=v1; may be given again
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = super::run::label)]
    labels: Vec<(String, String)>,
    /// The workload's name; unset: the service's or the account's
    #[arg(long)]
    workload: Option<String>,
    /// It is ready when GET PATH on its first port answers 2xx or 3xx; unset: when that port accepts connections
    #[arg(long, value_name = "PATH")]
    readiness_path: Option<String>,
    /// The control plane of another host
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_parser = super::remote,
        requires = "token",
        conflicts_with = "mesh"
    )]
    control: Option<String>,
    /// A file made by `ripstop token create`
    #[arg(long, value_name = "FILE", requires = "control")]
    token: Option<PathBuf>,
    /// Where sidecars of other hosts reach Envoy; unset with --control: the address that leads there
    #[arg(long, value_name = "ADDR")]
    advertise: Option<IpAddr>,
}

impl Options {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        crate::log::start("info")?;
        crate::runtime::long(self.serve())
    }

    async fn serve(self) -> anyhow::Result<ExitCode> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let listener = agent::listen(&self.socket)?;
        let (member, mut registered) = tokio::select! {
            joined = self.join() => joined?,
            // The control plane may be long in coming.
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
        };
        let control = Self::control_plane(&member.client, &registered)?;
        let vault = Vault::new(&registered.roots, system_roots().as_deref());
        let spiffe = Spiffe::new(
            &registered.trust_domain,
            &registered.namespace,
            &registered.service_account,
        )?;
        // Envoy may come before the certificate: then it waits.
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(ripstop_wire::sds::serve(
            listener,
            vault.secrets(),
            async move {
                // An error means that we end.
                let _ = stopped.await;
            },
        ));
        let enrolled = tokio::select! {
            enrolled = Identity::enroll(spiffe, &control, Some(vault.issued())) => enrolled.map(Some),
            _ = terminate.recv() => Ok(None),
            _ = interrupt.recv() => Ok(None),
        };
        // A bootstrap that cannot be written is told after the goodbye.
        let prepared = enrolled.and_then(|identity| match identity {
            Some(identity) => {
                self.write(&registered, &control.address)?;
                Ok(Some(identity))
            }
            None => Ok(None),
        });
        let outcome = match prepared {
            Ok(Some(_identity)) => {
                tracing::info!(
                    workload = registered.id,
                    socket = %self.socket.display(),
                    "serving Envoy its secrets"
                );
                tokio::select! {
                    () = member.attend(&mut registered, self.probe()) => {}
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                Ok(ExitCode::SUCCESS)
            }
            Ok(None) => Ok(ExitCode::SUCCESS),
            Err(error) => Err(error),
        };
        member.leave(&registered).await;
        drop(stop);
        serving.abort();
        let _ = std::fs::remove_file(&self.socket);
        outcome
    }

    async fn join(&self) -> anyhow::Result<(Member, Registered)> {
        let mut register = self.register().await?;
        let (client, registered, membership) = match (&self.control, &self.token) {
            (Some(control), Some(token)) => {
                let state = self.target.state();
                let joined = membership::join(control, token, state, register.clone()).await?;
                (
                    joined.client.clone(),
                    joined.registered.clone(),
                    Some(joined),
                )
            }
            _ => {
                let client = Client::local(&self.target.folder()?.socket());
                let registered = client.post("/v1/workloads", &register).await;
                let registered: Registered = registered.context("cannot register")?;
                (client, registered, None)
            }
        };
        // Later on it is this replica that comes again.
        register.replica = Some(registered.replica);
        let member = Member {
            client,
            register,
            _membership: membership,
        };
        Ok((member, registered))
    }

    async fn register(&self) -> anyhow::Result<Register> {
        let service = self.service.clone().unwrap_or_default();
        let account = self
            .service_account
            .clone()
            .unwrap_or_else(|| service.clone());
        let named = if service.is_empty() {
            &account
        } else {
            &service
        };
        let workload = self.workload.clone().unwrap_or_else(|| named.clone());
        let advertise = match (self.advertise, &self.control) {
            (None, Some(control)) => Some(place::leading_to(control).await?),
            (named, _) => named,
        };
        Ok(Register {
            namespace: self.namespace.clone(),
            service,
            service_account: account,
            workload,
            labels: self.labels.iter().cloned().collect(),
            ports: self.ports.clone(),
            replica: None,
            host: place::here()?,
            advertise,
            headless: false,
            ready: self.ports.is_empty(),
        })
    }

    fn control_plane(client: &Client, registered: &Registered) -> anyhow::Result<Control> {
        let address = replica::control_address(client, registered)
            .context("the control plane serves no TLS: start it with --xds-tls ADDR")?;
        Ok(Control {
            address,
            roots: registered.roots.clone(),
            identity: registered.control_identity.clone(),
            credential: registered.credential.clone(),
        })
    }

    fn write(&self, registered: &Registered, control: &str) -> anyhow::Result<()> {
        let Some(path) = &self.bootstrap else {
            return Ok(());
        };
        let socket = std::path::absolute(&self.socket)?;
        let text = Bootstrap {
            registered,
            control,
            socket: &socket,
            admin: self.admin,
            protocol: self.protocol,
        }
        .to_text();
        replace(path, &text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Of the application, which listens on this host.
    fn probe(&self) -> Option<readiness::Probe> {
        Some(readiness::Probe {
            addresses: Vec::new(),
            port: self.ports.first()?.target(),
            path: self.readiness_path.clone(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
        })
    }
}

/// Without them Envoy connects to nobody outside the mesh whom a DestinationRule wants verified.
fn system_roots() -> Option<String> {
    match ripstop_identity::tls::system_roots() {
        Ok(roots) => Some(roots.to_pem()),
        Err(error) => {
            tracing::warn!(%error, "Envoy will trust nobody outside the mesh");
            None
        }
    }
}

/// Whole or not at all: who waits for the file may start Envoy as soon as it is there.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)
}

/// The workload at the control plane.
struct Member {
    client: Client,
    register: Register,
    _membership: Option<Membership>,
}

impl Member {
    /// Reports what Envoy and the application are up to, for ever.
    async fn attend(&self, registered: &mut Registered, probe: Option<readiness::Probe>) {
        let mut app = match probe {
            Some(probe) => readiness::watch(probe, Arc::new(Here)),
            None => watch::channel(true).1,
        };
        let listeners: Vec<SocketAddr> = registered.inbound.iter().map(|i| i.address).collect();
        let mut told: Option<(Readiness, tokio::time::Instant)> = None;
        loop {
            let ready = *app.borrow_and_update() && agent::serving(&listeners).await;
            let state = match (ready, &told) {
                (true, _) => Readiness::Ready,
                (false, Some((Readiness::Ready | Readiness::Unready, _))) => Readiness::Unready,
                (false, _) => Readiness::Starting,
            };
            let news = told.is_none_or(|(before, at)| before != state || at.elapsed() >= REPORT);
            if news {
                match self.report(registered, state).await {
                    Ok(()) => told = Some((state, tokio::time::Instant::now())),
                    Err(error) => tracing::warn!(%error, "the control plane was not told"),
                }
            }
            let pause = if ready { REPORT } else { LOOK };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = app.changed() => {}
            }
        }
    }

    /// A control plane that has forgotten the workload is told of it again.
    async fn report(&self, registered: &mut Registered, state: Readiness) -> Result<(), Error> {
        let path = format!("/v1/workloads/{}/health", registered.id);
        match self.client.put(&path, &Report { state }).await {
            Err(Error::Refused { status, .. }) if status == hyper::StatusCode::NOT_FOUND => {
                *registered = self.client.post("/v1/workloads", &self.register).await?;
                self.client.put(&path, &Report { state }).await
            }
            told => told,
        }
    }

    /// Callers are told before Envoy stops listening.
    async fn leave(&self, registered: &Registered) {
        let path = format!("/v1/workloads/{}", registered.id);
        let goodbye = tokio::time::timeout(GOODBYE, self.client.delete(&path)).await;
        if !matches!(goodbye, Ok(Ok(()))) {
            tracing::warn!(workload = registered.id, "left without a goodbye");
        }
    }
}
