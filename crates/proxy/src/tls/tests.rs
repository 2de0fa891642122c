//! Handshakes over loopback between the two compiled sides.

use std::time::{Duration, SystemTime};

use ripstop_identity::ca::Lifetimes;
use ripstop_identity::{Authority, Key};
use ripstop_model::snapshot::matching::StringMatch;
use ripstop_model::snapshot::tls::{SanKind, SanMatch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::secrets::{OWN_CERTIFICATE, OWN_ROOTS};
use super::*;
use ripstop_identity::key::KeyError;
use ripstop_identity::{Certified, Slot, Trust};
use ripstop_model::snapshot::tls::{
    Certificate, Pem, Roots as RootsSource, Secret, SecretBody, Validation,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A mesh's authority in a test.
pub(crate) struct Mesh(Authority);

impl Mesh {
    pub(crate) fn new() -> Mesh {
        let authority = Authority::create("cluster.local", Lifetimes::default(), SystemTime::now());
        Mesh(authority.unwrap())
    }

    /// The secrets of a proxy that runs as this service account.
    pub(crate) fn secrets(&self, account: &str) -> Secrets {
        Secrets::new(Some(Identity {
            certificate: Slot::with(self.certify(account)),
            trust: Trust::new(self.0.bundle().unwrap()),
        }))
    }

    fn certify(&self, account: &str) -> Certified {
        let id = identity_of(account).parse().unwrap();
        let key = Key::generate().unwrap();
        let chain = self.0.sign(
            &key.csr(&id).unwrap(),
            &id,
            Duration::from_secs(3600),
            SystemTime::now(),
        );
        key.certify(&chain.unwrap()).unwrap()
    }
}

pub(crate) fn identity_of(account: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
}

fn mesh_roots(accounts: &[&str]) -> Validation {
    Validation {
        roots: RootsSource::Secret(OWN_ROOTS.into()),
        sans: accounts
            .iter()
            .map(|account| SanMatch {
                kind: SanKind::Uri,
                value: StringMatch::exact(identity_of(account)),
            })
            .collect(),
        host_name: false,
        certificate_hashes: Vec::new(),
        spki_hashes: Vec::new(),
        accept_untrusted: false,
    }
}

fn names(tokens: &[&str]) -> Vec<String> {
    tokens.iter().map(|token| (*token).to_owned()).collect()
}

pub(crate) fn downstream(alpn: &[&str]) -> DownstreamTls {
    DownstreamTls {
        certificates: vec![Certificate::Secret(OWN_CERTIFICATE.into())],
        validation: Some(mesh_roots(&[])),
        require_client_certificate: true,
        alpn: names(alpn),
        min_version: TlsVersion::V1_3,
        max_version: TlsVersion::V1_3,
    }
}

pub(crate) fn upstream(account: &str, alpn: &[&str]) -> UpstreamTls {
    UpstreamTls {
        certificate: Some(Certificate::Secret(OWN_CERTIFICATE.into())),
        validation: mesh_roots(&[account]),
        sni: Some("outbound_.80_._.users.default.svc.cluster.local".into()),
        auto_sni: AutoSni::No,
        alpn: names(alpn),
        min_version: TlsVersion::V1_3,
        max_version: TlsVersion::V1_3,
    }
}

type Accepted = Result<(Stream, TlsFacts), Error>;
type Connected = Result<(Stream, Proof), Error>;

async fn shake(
    server: Terminator,
    client: Result<Originator, ConfigError>,
    carries: Carries,
) -> (Accepted, Connected) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = async {
        let (stream, _) = listener.accept().await.unwrap();
        server.accept(stream).await
    };
    let client = client.unwrap();
    let connecting = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = client.server_name("users", None, address.ip());
        client.connect(stream, carries, name, PATIENCE).await
    };
    tokio::join!(accepting, connecting)
}

#[tokio::test]
async fn mesh_peers_prove_who_they_are() {
    let mesh = Mesh::new();
    let inbound = downstream(&["istio-h2", "istio-http/1.1", "istio-peer-exchange", "istio"]);
    for (carries, alpn) in [
        (Carries::Http1, "istio-http/1.1"),
        (Carries::Http2, "istio-h2"),
        (Carries::Tcp, "istio-peer-exchange"),
    ] {
        let (accepted, connected) = shake(
            Terminator::new(&inbound, None, &mesh.secrets("users")),
            Originator::new(
                &upstream("users", &["istio-peer-exchange", "istio"]),
                &mesh.secrets("orders"),
            ),
            carries,
        )
        .await;
        let (mut server, facts) = accepted.unwrap();
        let (mut client, proof) = connected.unwrap();
        assert_eq!(facts.alpn.as_deref(), Some(alpn));
        assert_eq!(proof.alpn.as_deref(), Some(alpn));
        assert_eq!(facts.principals.unwrap().to_vec(), [identity_of("orders")]);
        assert_eq!(
            &*facts.server_name,
            "outbound_.80_._.users.default.svc.cluster.local"
        );
        assert_eq!(proof.peer.unwrap().uri_sans(), [identity_of("users")]);
        client.write_all(b"x").await.unwrap();
        client.flush().await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'x');
    }
}

#[tokio::test]
async fn a_wrong_identity_is_told_apart_from_a_broken_handshake() {
    let mesh = Mesh::new();
    let inbound = downstream(&["istio"]);
    let (_, connected) = shake(
        Terminator::new(&inbound, None, &mesh.secrets("users")),
        Originator::new(&upstream("billing", &["istio"]), &mesh.secrets("orders")),
        Carries::Tcp,
    )
    .await;
    let error = connected.unwrap_err();
    assert_eq!(
        (error.kind, error.retry),
        (Reason::TlsUntrusted, Retry::Unprocessed)
    );
    assert!(error.to_string().contains("sa/users"), "{error}");

    // Another mesh's client: the server refuses, and says which rule.
    let (accepted, _) = shake(
        Terminator::new(&inbound, None, &mesh.secrets("users")),
        Originator::new(
            &upstream("users", &["istio"]),
            &Mesh::new().secrets("orders"),
        ),
        Carries::Tcp,
    )
    .await;
    assert!(accepted.is_err());

    // Bytes that are no TLS.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Terminator::new(&inbound, None, &mesh.secrets("users"));
    let client = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        stream
    };
    let accepting = async { server.accept(listener.accept().await.unwrap().0).await };
    let (accepted, _client) = tokio::join!(accepting, client);
    assert_eq!(accepted.unwrap_err().kind, Reason::TlsFailure);
}

#[tokio::test]
async fn a_rejected_client_hears_it_as_untrusted() {
    let mesh = Mesh::new();
    let mut trusting = upstream("users", &["istio"]);
    trusting.validation = Validation {
        roots: RootsSource::None,
        ..mesh_roots(&[])
    };
    let (accepted, connected) = shake(
        Terminator::new(&downstream(&["istio"]), None, &mesh.secrets("users")),
        Originator::new(&trusting, &Mesh::new().secrets("orders")),
        Carries::Tcp,
    )
    .await;
    assert_eq!(accepted.unwrap_err().kind, Reason::TlsUntrusted);
    let (mut client, _) = connected.unwrap();
    let error = client.read_u8().await.unwrap_err();
    assert_eq!(reason(&error), Some(Reason::TlsUntrusted), "{error}");
}

#[tokio::test]
async fn a_silent_client_is_given_up() {
    let mesh = Mesh::new();
    let limit = Some(Duration::from_millis(50));
    let server = Terminator::new(&downstream(&[]), limit, &mesh.secrets("users"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _silent = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let accepted = tokio::time::timeout(PATIENCE, server.accept(stream)).await;
    assert_eq!(
        accepted.unwrap().unwrap_err().kind,
        Reason::TlsHandshakeTimeout
    );
}

#[tokio::test]
async fn protocols_the_server_does_not_know_are_no_obstacle() {
    let mesh = Mesh::new();
    let (accepted, connected) = shake(
        Terminator::new(&downstream(&["h2"]), None, &mesh.secrets("users")),
        Originator::new(
            &upstream("users", &["x-unheard-of"]),
            &mesh.secrets("orders"),
        ),
        Carries::Http1,
    )
    .await;
    assert_eq!(accepted.unwrap().1.alpn, None);
    assert_eq!(connected.unwrap().1.alpn, None);
}

#[tokio::test]
async fn what_cannot_be_compiled_fails_closed() {
    let nobody = Secrets::default();
    let server = Terminator::new(&downstream(&[]), None, &nobody);
    assert!(matches!(
        server.error(),
        Some(ConfigError::UnknownSecret(_))
    ));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let error = server.accept(stream).await.unwrap_err();
    assert_eq!(error.kind, Reason::TlsFailure);

    let config = cluster::Transport {
        matches: vec![cluster::TransportMatch {
            name: "mesh".into(),
            criteria: [("tlsMode".to_owned(), "istio".to_owned())].into(),
            tls: Some(Arc::new(upstream("users", &["istio"]))),
        }],
        default: None,
    };
    let transports = Transports::new(&config, &nobody);
    assert!(transports.is_broken());
    let mut endpoint = Endpoint {
        address: ripstop_model::snapshot::endpoint::Target::Socket("127.0.0.1:1".parse().unwrap()),
        weight: 1,
        health: Default::default(),
        hostname: None,
        transport: Default::default(),
        labels: Default::default(),
        workload: None,
    };
    assert!(matches!(transports.of(&endpoint), Transport::Plain));
    endpoint.transport.insert("tlsMode".into(), "istio".into());
    assert!(matches!(transports.of(&endpoint), Transport::Broken(_)));
    let whole = Transports::new(&config, &Mesh::new().secrets("orders"));
    assert!(matches!(whole.of(&endpoint), Transport::Tls(_)));
}

#[test]
fn server_names() {
    let mesh = Mesh::new();
    let mut config = upstream("users", &[]);
    config.sni = None;
    let ip: IpAddr = "10.0.0.1".parse().unwrap();
    for (auto, authority, want) in [
        (AutoSni::Authority, "users.example:8080", "users.example"),
        (AutoSni::Authority, "10.1.1.1:80", "10.0.0.1"),
        (AutoSni::EndpointHost, "x", "host.example"),
        (AutoSni::No, "users.example", "10.0.0.1"),
    ] {
        config.auto_sni = auto;
        let originator = Originator::new(&config, &mesh.secrets("orders")).unwrap();
        let name = originator.server_name(authority, Some("host.example"), ip);
        assert_eq!(name.to_str(), want, "{auto:?}");
        assert_ne!(
            originator.key(Carries::Http1, &name),
            originator.key(Carries::Http2, &name)
        );
    }
}

#[test]
fn named_secrets_are_found_and_their_certificates_follow() {
    let mesh = Mesh::new();
    let secrets = Secrets::default();
    let pem = |key: &Key, chain: &[String]| SecretBody::Certificate {
        chain: Pem::Inline(chain.concat().into_bytes()),
        key: Pem::Inline(key.private_key_pem().as_bytes().to_vec()),
    };
    let id: ripstop_model::spiffe::Spiffe = identity_of("users").parse().unwrap();
    let key = Key::generate().unwrap();
    let chain = mesh
        .0
        .sign(
            &key.csr(&id).unwrap(),
            &id,
            Duration::from_secs(60),
            SystemTime::now(),
        )
        .unwrap();
    let secret = Secret {
        name: "server".into(),
        body: pem(&key, &chain),
    };
    secrets.set(&secret).unwrap();
    let source = Certificate::Secret("server".into());
    let slot = secrets.certificate(&source).unwrap();
    let epoch = slot.epoch();
    secrets.set(&secret).unwrap();
    assert!(slot.epoch() > epoch, "the slot in use follows the secret");
    let other = Key::generate().unwrap();
    let broken = Secret {
        name: "server".into(),
        body: pem(&other, &chain),
    };
    assert!(matches!(
        secrets.set(&broken),
        Err(ConfigError::Key(KeyError::Mismatch))
    ));
}
