//! A name of a certificate → its PEM, its key, its hashes; made anew for each run.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PublicKeyData,
    SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// What a case may name: `PEM server`, `PEM server-key`, `HASH server`, `SPKI server`.
const LEAVES: &[(&str, Authority, &[&str])] = &[
    (
        "server",
        Authority::Ca,
        &[
            "oracle.test",
            "*.oracle.test",
            "localhost",
            "spiffe://oracle.test/ns/a/sa/server",
        ],
    ),
    ("second", Authority::Ca, &["second.test"]),
    (
        "client",
        Authority::Ca,
        &["client.test", "spiffe://oracle.test/ns/a/sa/client"],
    ),
    (
        "guest",
        Authority::Ca,
        &[
            "guest.test",
            "spiffe://oracle.test/ns/b/sa/guest",
            "guest@oracle.test",
            "10.1.2.3",
        ],
    ),
    (
        "stranger",
        Authority::Other,
        &["client.test", "spiffe://oracle.test/ns/a/sa/client"],
    ),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Authority {
    Ca,
    Other,
}

pub(crate) struct Pki {
    texts: BTreeMap<String, String>,
}

impl Pki {
    pub(crate) fn shared() -> &'static Pki {
        static SHARED: OnceLock<Pki> = OnceLock::new();
        SHARED.get_or_init(Pki::make)
    }

    fn make() -> Pki {
        let mut texts = BTreeMap::new();
        let ca = authority("oracle");
        let other = authority("other");
        texts.insert("PEM ca".to_owned(), ca.pem());
        texts.insert("PEM other-ca".to_owned(), other.pem());
        for (name, authority, names) in LEAVES {
            let key = KeyPair::generate().expect("a key");
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, *name);
            params
                .distinguished_name
                .push(DnType::OrganizationName, "Oracle");
            for san in *names {
                params.subject_alt_names.push(san_of(san));
            }
            let issuer = match authority {
                Authority::Ca => &ca,
                Authority::Other => &other,
            };
            let signed = params.signed_by(&key, issuer).expect("a certificate");
            let hash = |bytes: &[u8]| {
                use aws_lc_rs::digest;
                digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
            };
            let hex: String = hash(signed.der())
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let spki = key.subject_public_key_info();
            texts.insert(format!("PEM {name}"), signed.pem());
            texts.insert(format!("PEM {name}-key"), key.serialize_pem());
            texts.insert(format!("HASH {name}"), hex);
            use base64::Engine as _;
            let base64 = base64::engine::general_purpose::STANDARD;
            texts.insert(format!("SPKI {name}"), base64.encode(hash(&spki)));
        }
        Pki { texts }
    }

    /// The text that a word of a bootstrap stands for.
    pub(crate) fn text(&self, word: &str) -> Option<&str> {
        self.texts.get(word).map(String::as_str)
    }

    fn pem(&self, name: &str) -> &str {
        self.text(&format!("PEM {name}"))
            .unwrap_or_else(|| panic!("pki.rs has no `{name}`"))
    }

    fn chain(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let certificate = CertificateDer::from_pem_slice(self.pem(name).as_bytes());
        let key = PrivateKeyDer::from_pem_slice(self.pem(&format!("{name}-key")).as_bytes());
        (
            vec![certificate.expect("a certificate")],
            key.expect("a key"),
        )
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.pem("ca").as_bytes()).expect("the CA");
        roots.add(ca).expect("a root");
        Arc::new(roots)
    }

    /// A client that trusts the CA, and shows a certificate if one is named.
    pub(crate) fn client(
        &self,
        certificate: Option<&str>,
        alpn: &[String],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions of TLS")
            .with_root_certificates(self.roots());
        let mut config = match certificate {
            Some(name) => {
                let (chain, key) = self.chain(name);
                let built = builder.with_client_auth_cert(chain, key);
                built.expect("a client's certificate")
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    }

    /// A server that asks for a certificate and takes any of the CA's, or none.
    pub(crate) fn server(&self, certificate: &str, alpn: &[String]) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            self.roots(),
            provider.clone(),
        );
        let verifier = verifier
            .allow_unauthenticated()
            .build()
            .expect("a verifier");
        let (chain, key) = self.chain(certificate);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .expect("a server's certificate");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// The name of a certificate.
    pub(crate) fn name_of(&self, certificate: &[u8]) -> String {
        let found = LEAVES.iter().find(|(name, ..)| {
            let der = CertificateDer::from_pem_slice(self.pem(name).as_bytes());
            der.is_ok_and(|der| der.as_ref() == certificate)
        });
        found.map_or("unknown", |(name, ..)| name).to_owned()
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    CertifiedIssuer::self_signed(params, key).expect("a CA")
}

fn san_of(text: &str) -> SanType {
    let name = || text.try_into().expect("an ASCII name");
    if text.starts_with("spiffe:") {
        SanType::URI(name())
    } else if text.contains('@') {
        SanType::Rfc822Name(name())
    } else if let Ok(address) = text.parse() {
        SanType::IpAddress(address)
    } else {
        SanType::DnsName(name())
    }
}
