//! Demands on the peer, a certificate slot and ALPN → rustls configurations, and after the handshake the verified [`Peer`].
//!
//! A configuration is built once per listener chain or cluster. Certificates (through [`Slot`]) and trust bundles
//! (through [`Trust`]) change underneath it; sessions made before such a change are not resumed, and
//! [`Server::peer`] and [`Client::peer`] judge the peer of a resumed session again.

mod session;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use ripstop_model::snapshot::tls::SanMatch;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConnection, ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConnection};
use rustls::sign::CertifiedKey;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{
    ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, Error, HandshakeKind,
    ServerConfig, SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::alpn;
use crate::bundle::{Roots, Trust};
use crate::key::Certified;
use crate::peer::Peer;
use crate::verify::{Demand, Rejection, Side, dns_covers};
use session::{ClientSessions, Epochs, ServerSessions};

/// aws-lc-rs with X25519MLKEM768 as the preferred key exchange.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    &PROVIDER
}

/// The certificate in force, swapped at run time under every configuration that holds the slot.
#[derive(Debug, Default)]
pub struct Slot {
    current: ArcSwapOption<Certified>,
    epoch: AtomicU64,
}

impl Slot {
    /// Empty: a server cannot handshake and a client presents no certificate until [`Slot::set`].
    pub fn empty() -> Arc<Slot> {
        Arc::new(Slot::default())
    }

    pub fn with(certified: Certified) -> Arc<Slot> {
        let slot = Slot::empty();
        slot.set(certified);
        slot
    }

    pub fn set(&self, certified: Certified) {
        self.current.store(Some(Arc::new(certified)));
        self.epoch.fetch_add(1, Ordering::Release);
    }

    pub fn current(&self) -> Option<Arc<Certified>> {
        self.current.load_full()
    }

    /// Grows with every certificate set.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    fn key(&self) -> Option<Arc<CertifiedKey>> {
        self.current.load().as_ref().map(|c| Arc::clone(&c.key))
    }
}

impl ResolvesServerCert for Slot {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key()
    }
}

/// Several certificates of one listener, chosen by the name the client asks for.
#[derive(Debug)]
struct ByName(Vec<Arc<Slot>>);

impl ResolvesServerCert for ByName {
    /// The first whose DNS names cover the SNI, or else the first there is.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let covers = |slot: &&Arc<Slot>| {
            let current = slot.current.load();
            hello
                .server_name()
                .zip(current.as_ref())
                .is_some_and(|(name, certified)| {
                    let mut names = certified.leaf().dns_sans().iter();
                    names.any(|san| dns_covers(san, name))
                })
        };
        let chosen = self.0.iter().find(covers).and_then(|slot| slot.key());
        chosen.or_else(|| self.0.iter().find_map(|slot| slot.key()))
    }
}

impl ResolvesClientCert for Slot {
    fn resolve(&self, _roots: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.key()
    }

    fn has_certs(&self) -> bool {
        self.current.load().is_some()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Versions {
    /// Between sidecars of this mesh.
    #[default]
    Tls13,
    /// Where the peer may be a stock Envoy, or lies outside the mesh.
    Tls12And13,
    Tls12,
}

impl Versions {
    fn list(self) -> &'static [&'static SupportedProtocolVersion] {
        // Newest first; a part of the list is a version range.
        static BOTH: [&SupportedProtocolVersion; 2] =
            [&rustls::version::TLS13, &rustls::version::TLS12];
        match self {
            Versions::Tls13 => &BOTH[..1],
            Versions::Tls12And13 => &BOTH,
            Versions::Tls12 => &BOTH[1..],
        }
    }
}

/// How a server treats client certificates.
#[derive(Debug, Clone)]
pub enum ClientAuth {
    /// Not asked for.
    None,
    /// Asked for; a client without one is served, one that does not verify is not.
    Optional(Demand),
    Required(Demand),
}

impl ClientAuth {
    fn demand(&self) -> Option<&Demand> {
        match self {
            ClientAuth::None => None,
            ClientAuth::Optional(demand) | ClientAuth::Required(demand) => Some(demand),
        }
    }
}

#[derive(Debug, Clone)]
pub struct ServerOptions {
    pub certificate: Arc<Slot>,
    /// Further certificates, chosen by SNI.
    pub more: Vec<Arc<Slot>>,
    pub client: ClientAuth,
    pub alpn: Vec<Vec<u8>>,
    pub versions: Versions,
    /// The clock that judges validity; the system's unless a test says otherwise.
    pub clock: Arc<dyn TimeProvider>,
}

impl ServerOptions {
    /// Mesh mTLS with a client certificate required: the TLS chains of an inbound listener.
    pub fn mesh(certificate: Arc<Slot>, trust: Arc<Trust>) -> ServerOptions {
        ServerOptions {
            client: ClientAuth::Required(Demand::Mesh {
                trust,
                identities: Vec::new(),
            }),
            alpn: alpn::list(alpn::INBOUND_HTTP),
            ..ServerOptions::plain(certificate)
        }
    }

    /// Asks for a client certificate but serves clients without one.
    pub fn mesh_optional(certificate: Arc<Slot>, trust: Arc<Trust>) -> ServerOptions {
        ServerOptions {
            client: ClientAuth::Optional(Demand::Mesh {
                trust,
                identities: Vec::new(),
            }),
            alpn: alpn::list(alpn::INBOUND_HTTP),
            ..ServerOptions::plain(certificate)
        }
    }

    /// A server certificate only (a gateway's SIMPLE mode).
    pub fn plain(certificate: Arc<Slot>) -> ServerOptions {
        ServerOptions {
            certificate,
            more: Vec::new(),
            client: ClientAuth::None,
            alpn: Vec::new(),
            versions: Versions::Tls13,
            clock: Arc::new(DefaultTimeProvider),
        }
    }
}

#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// `None`: no client certificate is presented.
    pub certificate: Option<Arc<Slot>>,
    pub demand: Demand,
    pub alpn: Vec<Vec<u8>>,
    pub versions: Versions,
    pub sni: bool,
    pub clock: Arc<dyn TimeProvider>,
}

impl ClientOptions {
    /// Mesh mTLS toward a service whose workloads run as one of `identities` (empty: any of the trusted domains).
    pub fn mesh(
        certificate: Arc<Slot>,
        trust: Arc<Trust>,
        identities: Vec<SanMatch>,
    ) -> ClientOptions {
        ClientOptions {
            certificate: Some(certificate),
            demand: Demand::Mesh { trust, identities },
            alpn: alpn::list(alpn::MESH_HTTP1),
            versions: Versions::Tls13,
            sni: true,
            clock: Arc::new(DefaultTimeProvider),
        }
    }

    /// TLS toward the outside; `certificate` for MUTUAL.
    pub fn outside(demand: Demand, certificate: Option<Arc<Slot>>) -> ClientOptions {
        ClientOptions {
            certificate,
            demand,
            alpn: Vec::new(),
            versions: Versions::Tls12And13,
            sni: true,
            clock: Arc::new(DefaultTimeProvider),
        }
    }
}

/// A server configuration and what it demands of clients.
#[derive(Debug, Clone)]
pub struct Server {
    config: Arc<ServerConfig>,
    demand: Option<Demand>,
}

impl Server {
    pub fn new(options: ServerOptions) -> Result<Server, Error> {
        let builder =
            ServerConfig::builder_with_details(Arc::clone(provider()), Arc::clone(&options.clock))
                .with_protocol_versions(options.versions.list())?;
        let demand = options.client.demand().cloned();
        let builder = match &demand {
            None => builder.with_no_client_auth(),
            Some(demand) => builder.with_client_cert_verifier(Arc::new(Judge {
                demand: demand.clone(),
                mandatory: matches!(options.client, ClientAuth::Required(_)),
            })),
        };
        let mut slots = vec![options.certificate];
        slots.extend(options.more);
        let epochs = Epochs::new(demand.as_ref(), slots.clone());
        let resolver: Arc<dyn ResolvesServerCert> = match slots.as_slice() {
            [only] => Arc::clone(only) as _,
            _ => Arc::new(ByName(slots)),
        };
        let mut config = builder.with_cert_resolver(resolver);
        config.alpn_protocols = options.alpn;
        config.session_storage = Arc::new(ServerSessions::new(epochs));
        // A mesh client pools its connections: one ticket is enough, and each is kept with the client's chain.
        config.send_tls13_tickets = 1;
        config.max_tls13_tickets = 1;
        Ok(Server {
            config: Arc::new(config),
            demand,
        })
    }

    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// The client's certificate once the handshake is done; `None` where none was asked for or given. An `Err` means the
    /// connection must be closed: a resumed session's peer is no longer acceptable.
    pub fn peer(
        &self,
        connection: &ServerConnection,
        now: SystemTime,
    ) -> Result<Option<Peer>, Rejection> {
        let Some(chain) = connection.peer_certificates().filter(|c| !c.is_empty()) else {
            return Ok(None);
        };
        if let Some(demand) = &self.demand
            && is_resumed(connection)
        {
            demand.check(chain, Side::Client, None, now)?;
        }
        parse_leaf(chain).map(Some)
    }
}

/// A client configuration and what it demands of servers.
#[derive(Debug, Clone)]
pub struct Client {
    config: Arc<ClientConfig>,
    demand: Demand,
    sessions: Arc<ClientSessions>,
}

impl Client {
    pub fn new(options: ClientOptions) -> Result<Client, Error> {
        let epochs = Epochs::new(
            Some(&options.demand),
            options.certificate.iter().cloned().collect(),
        );
        let sessions = Arc::new(ClientSessions::new(epochs, options.clock.clone()));
        let builder = ClientConfig::builder_with_details(Arc::clone(provider()), options.clock)
            .with_protocol_versions(options.versions.list())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Judge {
                demand: options.demand.clone(),
                mandatory: true,
            }));
        let mut config = match options.certificate {
            Some(slot) => builder.with_client_cert_resolver(slot),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = options.alpn;
        // As Envoy: a server that selects no protocol, or one of its own liking, is judged by the caller.
        config.check_selected_alpn = false;
        config.enable_sni = options.sni;
        config.resumption = Resumption::store(sessions.clone());
        Ok(Client {
            config: Arc::new(config),
            demand: options.demand,
            sessions,
        })
    }

    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// The server's certificate once the handshake is done. An `Err` means the connection must be closed; another
    /// attempt then makes a full handshake.
    pub fn peer(
        &self,
        connection: &ClientConnection,
        server_name: &ServerName<'_>,
        now: SystemTime,
    ) -> Result<Peer, Rejection> {
        let chain = connection
            .peer_certificates()
            .filter(|c| !c.is_empty())
            .ok_or(Rejection::NoCertificate)?;
        if is_resumed(connection)
            && let Err(rejection) = self
                .demand
                .check(chain, Side::Server, Some(server_name), now)
        {
            self.sessions.forget();
            return Err(rejection);
        }
        parse_leaf(chain)
    }
}

fn is_resumed(connection: &CommonState) -> bool {
    connection.handshake_kind() == Some(HandshakeKind::Resumed)
}

fn parse_leaf(chain: &[CertificateDer<'_>]) -> Result<Peer, Rejection> {
    let leaf = chain.first().ok_or(Rejection::NoCertificate)?;
    Peer::parse(leaf).map_err(|e| Rejection::Malformed(e.0))
}

/// [`Demand`] as rustls asks it.
#[derive(Debug)]
struct Judge {
    demand: Demand,
    mandatory: bool,
}

fn chain_of<'a>(
    leaf: &'a CertificateDer<'_>,
    above: &'a [CertificateDer<'_>],
) -> Vec<CertificateDer<'a>> {
    std::iter::once(leaf)
        .chain(above)
        .map(|c| CertificateDer::from(c.as_ref()))
        .collect()
}

fn system(now: UnixTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(now.as_secs())
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.demand.check(
            &chain_of(leaf, above),
            Side::Server,
            Some(name),
            system(now),
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for Judge {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: the bundle changes under the configuration, and a client that has a certificate shall send it.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.demand
            .check(&chain_of(leaf, above), Side::Client, None, system(now))?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}

/// Where operating systems keep the roots of the public web, in the order Go looks (`crypto/x509/root_linux.go`).
pub const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Reads the first of [`SYSTEM_ROOTS`] that exists.
pub fn system_roots() -> std::io::Result<Roots> {
    for path in SYSTEM_ROOTS {
        match std::fs::read_to_string(path) {
            Ok(pem) => return Ok(Roots::usable_from_pem(&pem)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Err(std::io::Error::new(
        std::io::ErrorKind::NotFound,
        "no system trust store found: install ca-certificates, or name a CA file",
    ))
}
