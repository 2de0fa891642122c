//! A one-use credential → the workload's certificate, kept fresh in memory for as long as the process lives.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use ripstop_identity::bundle::{Bundle, Trust};
use ripstop_identity::key::Key;
use ripstop_identity::renew::{Schedule, Step};
use ripstop_identity::tls::{Client, ClientOptions, Slot};
use ripstop_identity::{alpn, verify};
use ripstop_model::seam::{SignError, Signer};
use ripstop_model::spiffe::Spiffe;
use ripstop_wire::certificate;
use ripstop_wire::xds::stream::{Channel, channel};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::sidecar::Control;

/// What is asked for; the authority may grant less.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Of one attempt to reach the control plane, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// Between attempts to get the first certificate.
const RETRY: Duration = Duration::from_millis(500);

/// A workload's identity, as the rest of the process uses it.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) slot: Arc<Slot>,
    pub(crate) trust: Arc<Trust>,
    /// Opens connections to the control plane; with the certificate once there is one.
    control: Arc<Connector>,
    issued: Option<Issued>,
}

/// Told of every certificate that is got: its key, and the chain as it is sent, leaf first, PEM.
pub(crate) type Issued = Arc<dyn Fn(&Key, &[String]) + Send + Sync>;

struct Connector {
    address: String,
    tls: Client,
    name: ServerName<'static>,
}

impl Identity {
    /// Gets the first certificate, trying for as long as the control plane cannot be reached, and keeps renewing it.
    ///
    /// # Errors
    /// A refusal, and roots or identities that cannot be read.
    pub(crate) async fn enroll(
        identity: Spiffe,
        control: &Control,
        issued: Option<Issued>,
    ) -> anyhow::Result<Identity> {
        let bundle = Bundle::from_pem(&identity.trust_domain, &control.roots)
            .context("the roots of the mesh cannot be read")?;
        let trust = Trust::new(bundle);
        let slot = Slot::empty();
        let server: Spiffe = control
            .identity
            .parse()
            .context("the control plane's identity cannot be read")?;
        let connector = Arc::new(Connector {
            address: control.address.clone(),
            tls: Client::new(ClientOptions {
                alpn: alpn::list(&[alpn::H2]),
                ..ClientOptions::mesh(slot.clone(), trust.clone(), vec![verify::exactly(&server)])
            })?,
            name: server_name(&control.address),
        });
        let this = Identity {
            slot,
            trust,
            control: connector,
            issued,
        };
        // A channel of its own: later ones must open with the certificate that this one has to get.
        let first = certificate::Client::new(this.channel(), Some(control.credential.clone()));
        let mut told = false;
        loop {
            match this.obtain(&first, &identity).await {
                Ok(()) => break,
                Err(SignError::Refused(why)) => {
                    anyhow::bail!("the control plane refuses a certificate for {identity}: {why}")
                }
                Err(SignError::Unavailable(why)) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(why, "no certificate yet, trying again");
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        tokio::spawn(this.clone().renew(identity));
        Ok(this)
    }

    /// A channel to the control plane.
    pub(crate) fn channel(&self) -> Channel {
        let control = Arc::clone(&self.control);
        channel(&self.control.address, move || {
            let control = Arc::clone(&control);
            async move { control.connect().await }
        })
    }

    async fn obtain(
        &self,
        signer: &certificate::Client,
        identity: &Spiffe,
    ) -> Result<(), SignError> {
        let unusable = |what: &str, error: &dyn std::fmt::Display| {
            SignError::Unavailable(format!("{what}: {error}"))
        };
        let key = Key::generate().map_err(|error| unusable("no key", &error))?;
        let csr = key
            .csr(identity)
            .map_err(|error| unusable("no request", &error))?;
        let chain = signer.sign(&csr, LIFETIME).await?;
        // The root stays at home: the peer has it or does not trust us.
        let sent = chain
            .get(..chain.len().saturating_sub(1))
            .filter(|sent| !sent.is_empty())
            .unwrap_or(&chain);
        let certified = key
            .certify(sent)
            .map_err(|error| unusable("an unusable certificate", &error))?;
        self.slot.set(certified);
        if let Some(issued) = &self.issued {
            issued(&key, sent);
        }
        Ok(())
    }

    async fn renew(self, identity: Spiffe) {
        let signer = certificate::Client::new(self.channel(), None);
        let jitter = f64::from(std::process::id() % 997) / 997.0;
        let schedule = |slot: &Slot| {
            let not_after = slot
                .current()
                .map_or_else(SystemTime::now, |certified| certified.not_after());
            Schedule::new(SystemTime::now(), not_after, jitter)
        };
        let mut next = schedule(&self.slot);
        loop {
            if let Some(overdue) = next.report(SystemTime::now()) {
                tracing::error!(
                    life = overdue.as_str(),
                    "the workload's certificate was not renewed in time"
                );
            }
            match next.poll(SystemTime::now()) {
                Step::Wait(until) => {
                    let wait = until.duration_since(SystemTime::now()).unwrap_or_default();
                    // Bounded, so that a clock that jumps is noticed.
                    tokio::time::sleep(wait.min(Duration::from_secs(60))).await;
                }
                Step::Renew => match self.obtain(&signer, &identity).await {
                    Ok(()) => next = schedule(&self.slot),
                    Err(error) => {
                        tracing::warn!(%error, "certificate not renewed");
                        next.failed(SystemTime::now(), jitter);
                    }
                },
            }
        }
    }
}

impl Connector {
    async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let late = || {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{} did not answer in {} s", self.address, CONNECT.as_secs()),
            )
        };
        tokio::time::timeout(CONNECT, self.handshake())
            .await
            .map_err(|_| late())?
    }

    async fn handshake(&self) -> io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(&self.address).await?;
        tcp.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::clone(self.tls.config()));
        let stream = connector.connect(self.name.clone(), tcp).await?;
        let peer = self
            .tls
            .peer(stream.get_ref().1, &self.name, SystemTime::now());
        peer.map_err(|rejection| {
            io::Error::new(io::ErrorKind::PermissionDenied, rejection.as_str())
        })?;
        Ok(stream)
    }
}

/// The host of `HOST:PORT`; the control plane is verified by its SPIFFE identity, so the name only has to be well-formed.
fn server_name(address: &str) -> ServerName<'static> {
    let host = address
        .rsplit_once(':')
        .map_or(address, |(host, _)| host)
        .trim_matches(['[', ']']);
    ServerName::try_from(host.to_owned())
        .unwrap_or(ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()))
}
