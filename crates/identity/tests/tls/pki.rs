//! A certificate authority that issues whatever a test wants, also what no authority should, and handshakes in memory.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PublicKeyData,
    SanType, SignatureAlgorithm,
};
use ripstop_identity::tls::{Client, Server};
use ripstop_identity::{Bundle, Certified, Rejection};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConnection, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// The tests' present: one moment, in whole seconds as certificates have them.
pub(crate) fn now() -> SystemTime {
    static NOW: LazyLock<SystemTime> = LazyLock::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        UNIX_EPOCH + Duration::from_secs(since.as_secs())
    });
    *NOW
}

pub(crate) fn name() -> ServerName<'static> {
    ServerName::try_from("users.default.svc.cluster.local").unwrap()
}

#[derive(Debug)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    pub(crate) fn at(time: SystemTime) -> Arc<Clock> {
        let clock = Arc::new(Clock(AtomicU64::new(0)));
        clock.set(time);
        clock
    }

    pub(crate) fn set(&self, time: SystemTime) {
        self.0.store(
            time.duration_since(UNIX_EPOCH).unwrap().as_secs(),
            Ordering::SeqCst,
        );
    }

    pub(crate) fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(
            self.0.load(Ordering::SeqCst),
        )))
    }
}

/// What stands between the test's intermediate and the leaf.
#[derive(Clone, Copy)]
pub(crate) enum Below {
    Leaf,
    SecondIntermediate,
    ExpiredIntermediate,
    ConstrainedTo(&'static str),
}

/// A leaf to be issued; a good one until a test changes it.
pub(crate) struct Spec {
    pub(crate) uris: Vec<String>,
    pub(crate) dns: Vec<String>,
    pub(crate) common_name: Option<String>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) is_ca: bool,
    pub(crate) key: &'static SignatureAlgorithm,
    pub(crate) without_intermediate: bool,
    pub(crate) below: Option<Below>,
}

impl Spec {
    pub(crate) fn new(uri: &str) -> Spec {
        Spec {
            uris: vec![uri.to_owned()],
            dns: Vec::new(),
            common_name: None,
            not_before: now() - Duration::from_secs(60),
            not_after: now() + Duration::from_secs(3600),
            usages: vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            is_ca: false,
            key: &rcgen::PKCS_ECDSA_P256_SHA256,
            without_intermediate: false,
            below: None,
        }
    }
}

pub(crate) struct Pki {
    trust_domain: String,
    root_pem: String,
    intermediate: (CertificateDer<'static>, Issuer<'static, KeyPair>),
    root: Issuer<'static, KeyPair>,
}

fn ca(name: &str, path_length: u8, end: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = (now() - Duration::from_secs(86_400)).into();
    params.not_after = end.into();
    params
}

impl Pki {
    pub(crate) fn new(trust_domain: &str) -> Pki {
        let late = now() + Duration::from_secs(86_400 * 100);
        let key = KeyPair::generate().unwrap();
        let params = ca("test root", 2, late);
        let cert = params.self_signed(&key).unwrap();
        let root = Issuer::new(params, key);
        let intermediate = below(&root, ca("test intermediate", 0, late));
        Pki {
            trust_domain: trust_domain.to_owned(),
            root_pem: cert.pem(),
            intermediate,
            root,
        }
    }

    pub(crate) fn bundle(&self) -> Bundle {
        Bundle::from_pem(&self.trust_domain, &self.root_pem).unwrap()
    }

    pub(crate) fn certify(&self, spec: &Spec) -> Certified {
        let (chain, key) = self.pem_pair(spec);
        Certified::from_pem(&chain, &key).unwrap()
    }

    pub(crate) fn pem_pair(&self, spec: &Spec) -> (String, String) {
        let key = KeyPair::generate_for(spec.key).unwrap();
        let chain = self.chain_for(spec, &key);
        (
            chain.iter().map(|der| pem(der)).collect(),
            key.serialize_pem(),
        )
    }

    pub(crate) fn chain_for(
        &self,
        spec: &Spec,
        key: &impl PublicKeyData,
    ) -> Vec<CertificateDer<'static>> {
        let late = now() + Duration::from_secs(86_400);
        let (above, issuer) = match spec.below {
            None => (vec![self.intermediate.0.clone()], &self.intermediate.1),
            Some(Below::Leaf) => {
                let mut params = ca("not a CA", 0, late);
                params.is_ca = IsCa::ExplicitNoCa;
                let (der, issuer) = below(&self.intermediate.1, params);
                return self.leaf(spec, key, vec![der, self.intermediate.0.clone()], &issuer);
            }
            Some(Below::SecondIntermediate) => {
                let (der, issuer) = below(&self.intermediate.1, ca("second", 0, late));
                return self.leaf(spec, key, vec![der, self.intermediate.0.clone()], &issuer);
            }
            Some(Below::ExpiredIntermediate) => {
                let (der, issuer) = below(
                    &self.root,
                    ca("expired", 0, now() - Duration::from_secs(10)),
                );
                return self.leaf(spec, key, vec![der], &issuer);
            }
            Some(Below::ConstrainedTo(name)) => {
                let mut params = ca("constrained", 0, late);
                params.name_constraints = Some(NameConstraints {
                    permitted_subtrees: vec![GeneralSubtree::DnsName(name.to_owned())],
                    excluded_subtrees: Vec::new(),
                });
                let (der, issuer) = below(&self.root, params);
                return self.leaf(spec, key, vec![der], &issuer);
            }
        };
        self.leaf(
            spec,
            key,
            if spec.without_intermediate {
                Vec::new()
            } else {
                above
            },
            issuer,
        )
    }

    fn leaf(
        &self,
        spec: &Spec,
        key: &impl PublicKeyData,
        above: Vec<CertificateDer<'static>>,
        issuer: &Issuer<'static, KeyPair>,
    ) -> Vec<CertificateDer<'static>> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = &spec.common_name {
            params
                .distinguished_name
                .push(DnType::CommonName, name.clone());
        }
        let uris = spec
            .uris
            .iter()
            .map(|u| SanType::URI(u.as_str().try_into().unwrap()));
        let dns = spec
            .dns
            .iter()
            .map(|d| SanType::DnsName(d.as_str().try_into().unwrap()));
        params.subject_alt_names = uris.chain(dns).collect();
        params.not_before = spec.not_before.into();
        params.not_after = spec.not_after.into();
        params.extended_key_usages = spec.usages.clone();
        params.is_ca = if spec.is_ca {
            IsCa::Ca(BasicConstraints::Unconstrained)
        } else {
            IsCa::ExplicitNoCa
        };
        let leaf = params.signed_by(key, issuer).unwrap();
        std::iter::once(leaf.der().clone()).chain(above).collect()
    }
}

fn below(
    issuer: &Issuer<'_, KeyPair>,
    params: CertificateParams,
) -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, issuer).unwrap();
    (cert.der().clone(), Issuer::new(params, key))
}

fn pem(der: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}

pub(crate) fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// Who refused whom in a failed handshake.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    pub(crate) client: Option<Rejection>,
    pub(crate) server: Option<Rejection>,
}

pub(crate) fn connect(
    client: &Client,
    server: &Server,
) -> Result<(ClientConnection, ServerConnection), Refused> {
    run(client, server, name())
}

pub(crate) fn connect_named(
    client: &Client,
    server: &Server,
    name: &str,
) -> Result<(ClientConnection, ServerConnection), Refused> {
    run(
        client,
        server,
        ServerName::try_from(name.to_owned()).unwrap(),
    )
}

fn run(
    client: &Client,
    server: &Server,
    name: ServerName<'static>,
) -> Result<(ClientConnection, ServerConnection), Refused> {
    let mut client = ClientConnection::new(client.config().clone(), name).unwrap();
    let mut server = ServerConnection::new(server.config().clone()).unwrap();
    let mut refused = Refused::default();
    let mut failed = false;
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() && !failed {
            server.read_tls(&mut rest).unwrap();
            if let Err(error) = server.process_new_packets() {
                refused.server = Rejection::of(&error);
                failed = true;
            }
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() && !failed {
            client.read_tls(&mut rest).unwrap();
            if let Err(error) = client.process_new_packets() {
                refused.client = Rejection::of(&error);
                failed = true;
            }
        }
    }
    if failed || client.is_handshaking() || server.is_handshaking() {
        Err(refused)
    } else {
        Ok((client, server))
    }
}

/// A byte each way, which also delivers session tickets.
pub(crate) fn exchange(client: &mut ClientConnection, server: &mut ServerConnection) {
    let mut byte = [0];
    client.writer().write_all(b"a").unwrap();
    let mut wire = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut wire).unwrap();
    }
    server.read_tls(&mut wire.as_slice()).unwrap();
    server.process_new_packets().unwrap();
    server.reader().read_exact(&mut byte).unwrap();
    server.writer().write_all(b"b").unwrap();
    let mut wire = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut wire).unwrap();
    }
    client.read_tls(&mut wire.as_slice()).unwrap();
    client.process_new_packets().unwrap();
    client.reader().read_exact(&mut byte).unwrap();
}
