//! TLS contexts of chains and clusters in → handshakes, and what the peer proved by them.
//!
//! A context is compiled when tables are, once per chain or cluster; the certificates and roots under it are live
//! ([`Slot`], [`Trust`]). A context that cannot be compiled fails closed: its connections are refused, with the cause.

pub mod hello;
mod secrets;

pub use secrets::{ConfigError, Identity, Secrets};

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ripstop_identity::tls::{Client, ClientAuth, ClientOptions, Server, ServerOptions, Versions};
use ripstop_identity::verify::Demand;
use ripstop_identity::{Peer, Rejection, alpn};
use ripstop_model::reason::Reason;
use ripstop_model::snapshot::cluster;
use ripstop_model::snapshot::endpoint::Endpoint;
use ripstop_model::snapshot::tls::{AutoSni, DownstreamTls, TlsVersion, UpstreamTls};
use rustls::pki_types::{DnsName, ServerName};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, TlsStream};

use crate::connection::TlsFacts;
use crate::error::{Error, Retry};
use crate::stream::Stream;

/// A handshake that takes longer is given up where the configuration sets no limit.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a peer whose handshake failed may take to hear of it.
const PARTING: Duration = Duration::from_secs(1);

fn versions(least: TlsVersion, most: TlsVersion) -> Result<Versions, ConfigError> {
    match (least, most) {
        (TlsVersion::V1_3, TlsVersion::V1_3) => Ok(Versions::Tls13),
        (TlsVersion::V1_2, TlsVersion::V1_3) => Ok(Versions::Tls12And13),
        (TlsVersion::V1_2, TlsVersion::V1_2) => Ok(Versions::Tls12),
        (TlsVersion::V1_3, TlsVersion::V1_2) => Err(ConfigError::Versions),
    }
}

fn tokens(names: &[String]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

fn system_clock() -> Arc<dyn rustls::time_provider::TimeProvider> {
    Arc::new(rustls::time_provider::DefaultTimeProvider)
}

/// The server side of one filter chain.
#[derive(Debug)]
pub struct Terminator {
    server: Result<Server, ConfigError>,
    /// The same without ALPN, for clients that offer none of the chain's protocols: they are served all the same, as
    /// Envoy does.
    without_alpn: Option<Arc<ServerConfig>>,
    timeout: Duration,
    /// The URI in the certificate that clients are shown first. A renewed one has the same.
    own: Option<Arc<str>>,
}

impl Terminator {
    pub fn new(config: &DownstreamTls, timeout: Option<Duration>, secrets: &Secrets) -> Terminator {
        let server = Terminator::compile(config, secrets);
        Terminator {
            without_alpn: server.as_ref().ok().map(|server| {
                let mut config = ServerConfig::clone(server.config());
                config.alpn_protocols = Vec::new();
                Arc::new(config)
            }),
            server,
            timeout: timeout.unwrap_or(HANDSHAKE),
            own: own(config, secrets),
        }
    }

    fn compile(config: &DownstreamTls, secrets: &Secrets) -> Result<Server, ConfigError> {
        let mut slots = config
            .certificates
            .iter()
            .map(|source| secrets.certificate(source))
            .collect::<Result<Vec<_>, _>>()?
            .into_iter();
        let client = match &config.validation {
            Some(validation) => {
                let demand = secrets.demand(validation)?;
                match config.require_client_certificate {
                    true => ClientAuth::Required(demand),
                    false => ClientAuth::Optional(demand),
                }
            }
            None if config.require_client_certificate => ClientAuth::Required(Demand::Nothing),
            None => ClientAuth::None,
        };
        Ok(Server::new(ServerOptions {
            certificate: slots.next().ok_or(ConfigError::NoCertificate)?,
            more: slots.collect(),
            client,
            alpn: tokens(&config.alpn),
            versions: versions(config.min_version, config.max_version)?,
            clock: system_clock(),
        })?)
    }

    /// Why connections to this chain are refused, if they are.
    pub fn error(&self) -> Option<&ConfigError> {
        self.server.as_ref().err()
    }

    /// How long a handshake may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Answers a client's handshake.
    pub async fn accept(&self, stream: TcpStream) -> Result<(Stream, TlsFacts), Error> {
        let server = match &self.server {
            Ok(server) => server,
            Err(error) => {
                return Err(Error::terminal(Reason::TlsFailure).because(error.to_string()));
            }
        };
        let shaking = async {
            let start =
                LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
            let known = &server.config().alpn_protocols;
            let offers_known = match start.client_hello().alpn() {
                Some(mut offered) => offered.any(|token| known.iter().any(|own| own == token)),
                None => true,
            };
            let config = match (&self.without_alpn, offers_known) {
                (Some(without_alpn), false) => without_alpn,
                _ => server.config(),
            };
            match start.into_stream(config.clone()).into_fallible().await {
                Ok(stream) => Ok(stream),
                Err((error, stream)) => {
                    part(stream).await;
                    Err(error)
                }
            }
        };
        let stream = match tokio::time::timeout(self.timeout, shaking).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(failed(error, Retry::Never)),
            Err(_) => {
                return Err(Error::terminal(Reason::TlsHandshakeTimeout).because(TIMED_OUT));
            }
        };
        let (_, session) = stream.get_ref();
        let peer = server
            .peer(session, SystemTime::now())
            .map_err(|rejection| untrusted(rejection, Retry::Never))?;
        let facts = TlsFacts {
            server_name: session.server_name().unwrap_or_default().into(),
            alpn: token(session.alpn_protocol()),
            principals: peer.as_ref().map(principals),
            dns_names: peer
                .as_ref()
                .map_or_else(Arc::default, |peer| peer.dns_sans().into()),
            certificates: session
                .peer_certificates()
                .unwrap_or_default()
                .iter()
                .map(|certificate| certificate.to_vec())
                .collect(),
            leaf_sha256: peer.as_ref().map(|peer| peer.sha256_hex().into()),
            subject: peer.as_ref().map(|peer| peer.subject().into()),
            version: version(session.protocol_version()),
            own: self.own.clone(),
        };
        Ok((Stream::Tls(Box::new(TlsStream::Server(stream))), facts))
    }
}

fn own(config: &DownstreamTls, secrets: &Secrets) -> Option<Arc<str>> {
    let slot = secrets.certificate(config.certificates.first()?).ok()?;
    let current = slot.current()?;
    let shown = Peer::parse(current.chain().first()?).ok()?;
    shown.uri_sans().first().map(|uri| uri.as_str().into())
}

/// Ends a connection whose handshake failed so that the peer can read why: with TLS 1.3 it may be sending its first
/// request already, and closing with that unread would reset the connection and take the alert with it.
async fn part(mut stream: TcpStream) {
    let read_on = async {
        stream.shutdown().await?;
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    // Whoever sends on after that gets a reset.
    let _ = tokio::time::timeout(PARTING, read_on).await;
}

const TIMED_OUT: &str = "the peer did not finish the TLS handshake in time";

/// What will be spoken inside a TLS connection: decides which protocols are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Carries {
    Http1,
    Http2,
    /// HTTP of either version, as the server chooses.
    Http,
    /// HTTP/1, in frames on a connection that requests share if the server is a ripstop too.
    Shared,
    Tcp,
}

/// What a handshake with an upstream proved.
#[derive(Debug, Clone)]
pub struct Proof {
    /// The protocol the server chose.
    pub alpn: Option<Arc<str>>,
    /// `None`: nothing was demanded and nothing readable was shown.
    pub peer: Option<Peer>,
    pub version: &'static str,
}

impl Proof {
    pub fn carried(&self) -> Option<alpn::Carried> {
        alpn::carried(self.alpn.as_deref()?.as_bytes())
    }
}

/// The client side of one cluster's TLS context.
#[derive(Debug)]
pub struct Originator {
    client: Client,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    http: Arc<ClientConfig>,
    /// `None`: the configuration offers no protocol of the mesh.
    shared: Option<Arc<ClientConfig>>,
    tcp: Arc<ClientConfig>,
    sni: Option<ServerName<'static>>,
    auto_sni: AutoSni,
    /// Both sides prove membership of this proxy's own mesh.
    mesh: bool,
    /// Tells contexts apart in pool keys.
    id: u64,
    fixed: Option<Keys>,
}

impl Originator {
    pub fn new(config: &UpstreamTls, secrets: &Secrets) -> Result<Originator, ConfigError> {
        let certificate = config
            .certificate
            .as_ref()
            .map(|source| secrets.certificate(source))
            .transpose()?;
        let client = Client::new(ClientOptions {
            certificate,
            demand: secrets.demand(&config.validation)?,
            alpn: tokens(&config.alpn),
            versions: versions(config.min_version, config.max_version)?,
            sni: config.sni.is_some() || config.auto_sni != AutoSni::No,
            clock: system_clock(),
        })?;
        let sni = match &config.sni {
            Some(sni) => {
                let name = ServerName::try_from(sni.clone());
                Some(name.map_err(|_| ConfigError::Sni(sni.clone()))?)
            }
            None => None,
        };
        let offering = |carries| {
            let mut offer = ClientConfig::clone(client.config());
            offer.alpn_protocols = offered(&config.alpn, carries);
            Arc::new(offer)
        };
        let mut hasher = DefaultHasher::new();
        format!("{config:?}").hash(&mut hasher);
        let id = hasher.finish();
        Ok(Originator {
            http1: offering(Carries::Http1),
            http2: offering(Carries::Http2),
            http: offering(Carries::Http),
            shared: is_of_mesh(&config.alpn).then(|| offering(Carries::Shared)),
            tcp: offering(Carries::Tcp),
            fixed: sni.as_ref().map(|sni| Keys::new(id, sni)),
            sni,
            auto_sni: config.auto_sni,
            mesh: secrets::are_own(config.certificate.as_ref(), &config.validation),
            id,
            client,
        })
    }

    /// Whether the peer is a member of this proxy's own mesh, and learns that this one is.
    pub fn is_mesh(&self) -> bool {
        self.mesh
    }

    /// Whether [`Carries::Shared`] can be asked for.
    pub fn may_share(&self) -> bool {
        self.shared.is_some()
    }

    /// The name to ask for and to verify. An address where there is no name: it is then not sent.
    pub fn server_name(
        &self,
        authority: &str,
        endpoint: Option<&str>,
        address: IpAddr,
    ) -> ServerName<'static> {
        let named = match self.auto_sni {
            AutoSni::No => None,
            AutoSni::Authority => host_of(authority),
            AutoSni::EndpointHost => endpoint.and_then(|host| DnsName::try_from(host).ok()),
        };
        match (&self.sni, named) {
            (Some(sni), _) => sni.clone(),
            (None, Some(name)) => ServerName::DnsName(name.to_owned()),
            (None, None) => ServerName::IpAddress(address.into()),
        }
    }

    /// As [`Originator::key`] for the name of [`Originator::server_name`], without making one where all have the same.
    pub fn key_of(
        &self,
        carries: Carries,
        authority: &str,
        endpoint: Option<&str>,
        address: IpAddr,
    ) -> u64 {
        match &self.fixed {
            Some(keys) => keys.of(carries),
            None => self.key(carries, &self.server_name(authority, endpoint, address)),
        }
    }

    /// Distinguishes in a pool what may not share connections; never 0, which is plain text.
    pub fn key(&self, carries: Carries, name: &ServerName<'_>) -> u64 {
        key(self.id, carries, name)
    }

    /// Shakes hands as a client within `timeout`. Whatever goes wrong here, nothing of a request was sent.
    pub async fn connect(
        &self,
        stream: TcpStream,
        carries: Carries,
        name: ServerName<'static>,
        timeout: Duration,
    ) -> Result<(Stream, Proof), Error> {
        let config = match carries {
            Carries::Http1 => &self.http1,
            Carries::Http2 => &self.http2,
            Carries::Http => &self.http,
            Carries::Shared => self.shared.as_ref().unwrap_or(&self.http1),
            Carries::Tcp => &self.tcp,
        };
        let connector = TlsConnector::from(config.clone());
        let shaking = connector.connect(name.clone(), stream);
        let stream = match tokio::time::timeout(timeout, shaking).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(failed(error, Retry::Unprocessed)),
            Err(_) => {
                return Err(
                    Error::new(Reason::ConnectTimeout, Retry::Unprocessed).because(TIMED_OUT)
                );
            }
        };
        let (_, session) = stream.get_ref();
        let peer = self
            .client
            .peer(session, &name, SystemTime::now())
            .map_err(|rejection| untrusted(rejection, Retry::Unprocessed))?;
        let proof = Proof {
            alpn: token(session.alpn_protocol()),
            peer: Some(peer),
            version: version(session.protocol_version()),
        };
        Ok((Stream::Tls(Box::new(TlsStream::Client(stream))), proof))
    }
}

fn key(id: u64, carries: Carries, name: &ServerName<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (id, carries, name).hash(&mut hasher);
    hasher.finish().max(1)
}

/// The keys where each connection asks for the same name.
#[derive(Debug)]
struct Keys {
    http1: u64,
    http2: u64,
    http: u64,
    shared: u64,
    tcp: u64,
}

impl Keys {
    fn new(id: u64, name: &ServerName<'_>) -> Keys {
        let of = |carries| key(id, carries, name);
        Keys {
            http1: of(Carries::Http1),
            http2: of(Carries::Http2),
            http: of(Carries::Http),
            shared: of(Carries::Shared),
            tcp: of(Carries::Tcp),
        }
    }

    fn of(&self, carries: Carries) -> u64 {
        match carries {
            Carries::Http1 => self.http1,
            Carries::Http2 => self.http2,
            Carries::Http => self.http,
            Carries::Shared => self.shared,
            Carries::Tcp => self.tcp,
        }
    }
}

/// The ALPN list for what a connection will carry. In the mesh it is the protocol that decides, as Istio's ALPN filter
/// does; elsewhere the configured list, or the protocol's own token where there is none, as Envoy's pools do.
fn offered(configured: &[String], carries: Carries) -> Vec<Vec<u8>> {
    match (is_of_mesh(configured), carries) {
        (true, Carries::Http1) => alpn::list(alpn::MESH_HTTP1),
        (true, Carries::Http2 | Carries::Http) => alpn::list(alpn::MESH_HTTP2),
        (true, Carries::Shared) => alpn::list(alpn::MESH_SHARED),
        (true, Carries::Tcp) => alpn::list(alpn::MESH_TCP),
        (false, _) if !configured.is_empty() => tokens(configured),
        (false, Carries::Http1 | Carries::Shared) => alpn::list(&[alpn::HTTP_11]),
        (false, Carries::Http2) => alpn::list(&[alpn::H2]),
        (false, Carries::Http) => alpn::list(&[alpn::H2, alpn::HTTP_11]),
        (false, Carries::Tcp) => Vec::new(),
    }
}

fn is_of_mesh(configured: &[String]) -> bool {
    configured
        .iter()
        .any(|token| alpn::is_mesh(token.as_bytes()))
}

/// The host of an authority, if it is a name.
fn host_of(authority: &str) -> Option<DnsName<'_>> {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    DnsName::try_from(host)
        .ok()
        .filter(|name| name.as_ref().parse::<IpAddr>().is_err())
}

/// How an endpoint is spoken to.
#[derive(Debug, Clone, Copy)]
pub enum Transport<'a> {
    Plain,
    Tls(&'a Originator),
    /// Configured, and not usable: connections fail with the cause.
    Broken(&'a ConfigError),
}

/// A cluster's transports, compiled.
#[derive(Debug, Default)]
pub struct Transports {
    config: cluster::Transport,
    matches: Vec<Option<Result<Originator, ConfigError>>>,
    default: Option<Result<Originator, ConfigError>>,
}

impl Transports {
    pub fn new(config: &cluster::Transport, secrets: &Secrets) -> Transports {
        let compile =
            |tls: &Option<Arc<UpstreamTls>>| tls.as_ref().map(|tls| Originator::new(tls, secrets));
        Transports {
            matches: config
                .matches
                .iter()
                .map(|found| compile(&found.tls))
                .collect(),
            default: compile(&config.default),
            config: config.clone(),
        }
    }

    /// Whether something of it could not be compiled: worth trying again at the next change.
    pub fn is_broken(&self) -> bool {
        self.matches
            .iter()
            .chain([&self.default])
            .any(|compiled| matches!(compiled, Some(Err(_))))
    }

    /// The first match all of whose criteria the endpoint's metadata meets, or else the default.
    pub fn of(&self, endpoint: &Endpoint) -> Transport<'_> {
        let found = self.config.matches.iter().position(|candidate| {
            candidate
                .criteria
                .iter()
                .all(|(key, value)| endpoint.transport.get(key) == Some(value))
        });
        match found {
            Some(index) => Transport::over(self.matches.get(index).and_then(Option::as_ref)),
            None => self.default(),
        }
    }

    /// For members without metadata (original destinations).
    pub fn default(&self) -> Transport<'_> {
        Transport::over(self.default.as_ref())
    }
}

impl<'a> Transport<'a> {
    fn over(compiled: Option<&'a Result<Originator, ConfigError>>) -> Transport<'a> {
        match compiled {
            None => Transport::Plain,
            Some(Ok(originator)) => Transport::Tls(originator),
            Some(Err(error)) => Transport::Broken(error),
        }
    }
}

/// What a failed handshake means: a peer that was not accepted (by either side), or anything else.
fn failed(error: io::Error, retry: Retry) -> Error {
    if let Some(rejection) = Rejection::of_io(&error) {
        return untrusted(rejection, retry);
    }
    let kind = reason(&error).unwrap_or(Reason::TlsFailure);
    Error::new(kind, retry).because(error)
}

fn untrusted(rejection: Rejection, retry: Retry) -> Error {
    tracing::debug!(rejection = rejection.as_str(), %rejection, "TLS peer rejected");
    Error::new(rejection.reason(), retry).because(rejection)
}

/// What an error of an established TLS connection means; `None` if TLS did not cause it. With TLS 1.3 a client hears of
/// its certificate's rejection only when it reads: an alert about certificates then is [`Reason::TlsUntrusted`].
pub fn reason(error: &io::Error) -> Option<Reason> {
    use rustls::AlertDescription as Alert;
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::AlertReceived(
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::CertificateRequired,
        ) => Reason::TlsUntrusted,
        _ => Reason::TlsFailure,
    })
}

fn token(alpn: Option<&[u8]>) -> Option<Arc<str>> {
    alpn.map(|token| String::from_utf8_lossy(token).into())
}

fn version(version: Option<rustls::ProtocolVersion>) -> &'static str {
    match version {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLSv1.3",
    }
}

/// The names authorization sees, in Envoy's order of preference (`source.principal`): URI SANs, else DNS SANs, else
/// the subject.
fn principals(peer: &Peer) -> Arc<[String]> {
    if !peer.uri_sans().is_empty() {
        peer.uri_sans().into()
    } else if !peer.dns_sans().is_empty() {
        peer.dns_sans().into()
    } else {
        Arc::new([peer.subject().to_owned()])
    }
}

#[cfg(test)]
pub(crate) mod tests;
