//! A peer's certificate chain → accepted, or exactly one [`Rejection`].
//!
//! Mesh peers are verified as SPIFFE X.509-SVIDs: the one URI SAN names the trust domain, the trust domain chooses the
//! roots, the chain must end in one of them. Peers outside the mesh are verified against given roots and names.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ripstop_model::reason::Reason;
use ripstop_model::snapshot::matching::StringMatch;
use ripstop_model::snapshot::tls::{SanKind, SanMatch, Validation};
use ripstop_model::spiffe::Spiffe;
use rustls_pki_types::{
    CertificateDer, ServerName, SignatureVerificationAlgorithm, TrustAnchor, UnixTime,
};
use webpki::KeyUsage;

use crate::bundle::{Roots, Trust};
use crate::peer::Peer;
use crate::{tls, x509};

/// A certificate that starts to be valid this much in the future is accepted: clocks differ.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Certificates a peer may send.
pub const MAX_CHAIN: usize = 10;

/// Why a peer was not accepted. [`Rejection::as_str`] is the stable token for logs and metrics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("the peer presented no certificate")]
    NoCertificate,
    #[error("the peer's certificate is malformed: {0}")]
    Malformed(String),
    #[error("the peer sent {0} certificates, more than {MAX_CHAIN}")]
    ChainTooLong(usize),
    #[error("the peer's certificate expired {0} s ago: is its renewal failing?")]
    Expired(u64),
    #[error("the peer's certificate becomes valid in {0} s: compare the clocks of both hosts")]
    NotYetValid(u64),
    #[error("a certificate above the peer's in its chain has expired or is not valid yet")]
    IssuerExpired,
    #[error("the peer's chain ends in no root of the trust bundle")]
    UnknownRoot,
    #[error(
        "the peer's certificate has no URI SAN, so it has no SPIFFE identity (a common name is not one)"
    )]
    NoIdentity,
    #[error("the peer's certificate has {0} URI SANs; an identity is exactly one")]
    ManyIdentities(usize),
    #[error("the peer's URI SAN is not an identity: {0}")]
    BadIdentity(String),
    #[error(
        "the peer's trust domain `{0}` is not trusted: add it to the trust domains or its aliases"
    )]
    TrustDomain(String),
    #[error("the peer is `{got}`, which is none of the identities expected of this service")]
    UnexpectedIdentity { got: String },
    #[error("the peer's certificate is not valid for `{0}`")]
    WrongName(String),
    #[error("the peer's certificate lacks the extended key usage for its side of the connection")]
    KeyUsage,
    #[error("the peer presented a CA certificate as its own")]
    CaAsLeaf,
    #[error(
        "a certificate in the peer's chain is no CA, or its path length does not allow this chain"
    )]
    IssuerNotCa,
    #[error("a CA in the peer's chain is not allowed to certify this name")]
    NameConstraint,
    #[error("the peer's handshake is not signed with its certificate's key")]
    BadSignature,
    #[error("the peer's chain uses a signature algorithm that is not accepted")]
    Algorithm,
    #[error(
        "the peer's key is not accepted: use P-256, P-384, Ed25519 or RSA of at least 2048 bits"
    )]
    WeakKey,
    #[error("the peer's certificate is revoked")]
    Revoked,
    #[error("the peer's certificate is not among the pinned ones")]
    NotPinned,
    #[error("the peer's chain could not be verified: {0}")]
    Chain(String),
}

impl Rejection {
    pub fn as_str(&self) -> &'static str {
        match self {
            Rejection::NoCertificate => "tls_no_certificate",
            Rejection::Malformed(_) => "tls_malformed_certificate",
            Rejection::ChainTooLong(_) => "tls_chain_too_long",
            Rejection::Expired(_) => "tls_certificate_expired",
            Rejection::NotYetValid(_) => "tls_certificate_not_yet_valid",
            Rejection::IssuerExpired => "tls_issuer_expired",
            Rejection::UnknownRoot => "tls_untrusted_root",
            Rejection::NoIdentity => "tls_no_identity",
            Rejection::ManyIdentities(_) => "tls_many_identities",
            Rejection::BadIdentity(_) => "tls_bad_identity",
            Rejection::TrustDomain(_) => "tls_untrusted_domain",
            Rejection::UnexpectedIdentity { .. } => "tls_unexpected_identity",
            Rejection::WrongName(_) => "tls_wrong_name",
            Rejection::KeyUsage => "tls_key_usage",
            Rejection::CaAsLeaf => "tls_ca_as_leaf",
            Rejection::IssuerNotCa => "tls_issuer_not_ca",
            Rejection::NameConstraint => "tls_name_constraint",
            Rejection::BadSignature => "tls_bad_signature",
            Rejection::Algorithm => "tls_signature_algorithm",
            Rejection::WeakKey => "tls_weak_key",
            Rejection::Revoked => "tls_revoked",
            Rejection::NotPinned => "tls_not_pinned",
            Rejection::Chain(_) => "tls_chain",
        }
    }

    /// What a request fails with whose upstream was rejected.
    pub fn reason(&self) -> Reason {
        Reason::TlsUntrusted
    }

    /// The rejection inside a failed handshake, if it was this side that refused.
    pub fn of(error: &rustls::Error) -> Option<Rejection> {
        match error {
            rustls::Error::NoCertificatesPresented => Some(Rejection::NoCertificate),
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => {
                other.0.downcast_ref::<Rejection>().cloned()
            }
            rustls::Error::InvalidCertificate(rustls::CertificateError::BadSignature) => {
                Some(Rejection::BadSignature)
            }
            rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding) => {
                Some(Rejection::Malformed("bad encoding".to_owned()))
            }
            rustls::Error::InvalidCertificate(other) => Some(Rejection::Chain(other.to_string())),
            _ => None,
        }
    }

    /// As tokio-rustls reports it.
    pub fn of_io(error: &std::io::Error) -> Option<Rejection> {
        error
            .get_ref()?
            .downcast_ref::<rustls::Error>()
            .and_then(Rejection::of)
    }
}

impl From<Rejection> for rustls::Error {
    fn from(rejection: Rejection) -> rustls::Error {
        // rustls answers the alert that fits, and `Rejection::of` finds the value again.
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(rustls::OtherError(
            Arc::new(rejection),
        )))
    }
}

/// A matcher for exactly this URI SAN.
pub fn uri(value: impl Into<String>) -> SanMatch {
    SanMatch {
        kind: SanKind::Uri,
        value: StringMatch::exact(value),
    }
}

/// A matcher for exactly this identity.
pub fn exactly(id: &Spiffe) -> SanMatch {
    uri(id.to_string())
}

fn san_matches(san: &SanMatch, peer: &Peer) -> bool {
    let is = |kind| san.kind == SanKind::Any || san.kind == kind;
    // DNS names are compared without case and exact ones honour a wildcard SAN, as Envoy does.
    let dns = |candidate: &String| match &san.value {
        StringMatch::Exact { value, .. } => dns_covers(candidate, value),
        other => other.matches(&candidate.to_ascii_lowercase()),
    };
    (is(SanKind::Uri) && peer.uri_sans().iter().any(|s| san.value.matches(s)))
        || (is(SanKind::Dns) && peer.dns_sans().iter().any(dns))
        || (is(SanKind::Ip)
            && peer
                .ip_sans()
                .iter()
                .any(|ip| san.value.matches(&ip.to_string())))
        || (is(SanKind::Email) && peer.email_sans().iter().any(|s| san.value.matches(s)))
}

/// RFC 6125 section 6.4.3: a wildcard is the whole left-most label and covers one label.
pub(crate) fn dns_covers(san: &str, name: &str) -> bool {
    match san.strip_prefix("*.") {
        Some(parent) => name
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(parent)),
        None => san.eq_ignore_ascii_case(name),
    }
}

/// What is demanded of the peer.
#[derive(Debug, Clone)]
pub enum Demand {
    /// A SPIFFE identity that chains to its trust domain's roots, and is one of `identities` unless those are empty.
    Mesh {
        trust: Arc<Trust>,
        identities: Vec<SanMatch>,
    },
    /// A chain to `roots`, and `names`; certificates pinned by SHA-256 of the DER or of the public key, if any are.
    Roots {
        roots: Arc<Roots>,
        names: Names,
        pins: Pins,
    },
    /// Nothing: `insecureSkipVerify`, or an Envoy context without trusted CA.
    Nothing,
}

#[derive(Debug, Clone)]
pub enum Names {
    /// The host name that was asked for (SNI).
    ServerName,
    /// Any of these.
    Any(Vec<SanMatch>),
    /// The chain is enough (Envoy's default without `match_typed_subject_alt_names`).
    Unchecked,
}

/// Accepted SHA-256 digests; empty lists accept all.
#[derive(Debug, Clone, Default)]
pub struct Pins {
    pub certificates: Vec<[u8; 32]>,
    pub public_keys: Vec<[u8; 32]>,
}

impl Pins {
    /// Envoy takes certificate hashes with or without colons.
    fn of(context: &Validation) -> Result<Pins, ValidationError> {
        let mut pins = Pins::default();
        for text in &context.certificate_hashes {
            let digest = x509::unhex(&text.replace(':', ""));
            pins.certificates
                .push(digest.ok_or_else(|| ValidationError::CertificateHash(text.clone()))?);
        }
        for text in &context.spki_hashes {
            let digest = STANDARD.decode(text).ok().and_then(|d| d.try_into().ok());
            pins.public_keys
                .push(digest.ok_or_else(|| ValidationError::SpkiHash(text.clone()))?);
        }
        Ok(pins)
    }

    fn accept(&self, peer: &Peer) -> bool {
        (self.certificates.is_empty() && self.public_keys.is_empty())
            || self.certificates.contains(peer.sha256())
            || self.public_keys.contains(peer.spki_sha256())
    }
}

/// Which side of the connection the judged peer is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// Where the roots of a [`Validation`] were found, by whoever holds the secrets and reads the files.
#[derive(Debug, Clone)]
pub enum Anchors {
    /// The mesh's own bundle (`ROOTCA`).
    Mesh(Arc<Trust>),
    Roots(Arc<Roots>),
    /// The context names no roots.
    None,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValidationError {
    #[error("`{0}` is not the hexadecimal SHA-256 of a certificate")]
    CertificateHash(String),
    #[error("`{0}` is not the base64 SHA-256 of a public key")]
    SpkiHash(String),
    #[error(
        "hashes and subject alternative names need trusted roots (`trusted_ca`) to be checked against"
    )]
    NamesWithoutRoots,
    #[error("certificate hashes cannot be combined with the mesh's trust bundle")]
    HashesInMesh,
}

impl Demand {
    /// What an xDS validation context asks for. Without roots, and without anything else to check, nothing is demanded
    /// (Envoy's rule); a check that could not be made is an error instead.
    pub fn of_validation(
        context: &Validation,
        anchors: Anchors,
    ) -> Result<Demand, ValidationError> {
        let pins = Pins::of(context)?;
        let pinned = !pins.certificates.is_empty() || !pins.public_keys.is_empty();
        match anchors {
            _ if context.accept_untrusted => Ok(Demand::Nothing),
            Anchors::None if pinned || !context.sans.is_empty() => {
                Err(ValidationError::NamesWithoutRoots)
            }
            Anchors::None => Ok(Demand::Nothing),
            Anchors::Mesh(_) if pinned => Err(ValidationError::HashesInMesh),
            Anchors::Mesh(trust) => Ok(Demand::Mesh {
                trust,
                identities: context.sans.clone(),
            }),
            Anchors::Roots(roots) => {
                let names = match context.sans.as_slice() {
                    [] if context.host_name => Names::ServerName,
                    [] => Names::Unchecked,
                    sans => Names::Any(sans.to_vec()),
                };
                Ok(Demand::Roots { roots, names, pins })
            }
        }
    }

    /// Judges a chain, leaf first. `server_name` is what the client asked for, where it is the client that judges.
    pub fn check(
        &self,
        chain: &[CertificateDer<'_>],
        side: Side,
        server_name: Option<&ServerName<'_>>,
        now: SystemTime,
    ) -> Result<(), Rejection> {
        let (leaf, above) = chain.split_first().ok_or(Rejection::NoCertificate)?;
        if chain.len() > MAX_CHAIN {
            return Err(Rejection::ChainTooLong(chain.len()));
        }
        match self {
            Demand::Nothing => Ok(()),
            Demand::Mesh { trust, identities } => {
                let peer = Peer::parse(leaf).map_err(|e| Rejection::Malformed(e.0))?;
                judge_leaf(leaf, side, true)?;
                let id = identity(&peer)?;
                let bundle = trust.bundle();
                let roots = bundle
                    .roots(&id.trust_domain)
                    .ok_or_else(|| Rejection::TrustDomain(id.trust_domain.to_string()))?;
                verify_chain(leaf, above, roots.anchors(), side, &peer, now)?;
                if !identities.is_empty() && !identities.iter().any(|s| san_matches(s, &peer)) {
                    return Err(Rejection::UnexpectedIdentity {
                        got: id.to_string(),
                    });
                }
                Ok(())
            }
            Demand::Roots { roots, names, pins } => {
                let peer = Peer::parse(leaf).map_err(|e| Rejection::Malformed(e.0))?;
                judge_leaf(leaf, side, false)?;
                verify_chain(leaf, above, roots.anchors(), side, &peer, now)?;
                if !pins.accept(&peer) {
                    return Err(Rejection::NotPinned);
                }
                judge_names(leaf, names, &peer, server_name)
            }
        }
    }
}

fn judge_names(
    leaf: &CertificateDer<'_>,
    names: &Names,
    peer: &Peer,
    server_name: Option<&ServerName<'_>>,
) -> Result<(), Rejection> {
    match names {
        Names::Unchecked => Ok(()),
        Names::Any(sans) if sans.iter().any(|s| san_matches(s, peer)) => Ok(()),
        Names::Any(_) => {
            let got = peer
                .uri_sans()
                .iter()
                .chain(peer.dns_sans())
                .cloned()
                .collect::<Vec<_>>()
                .join(", ");
            Err(Rejection::UnexpectedIdentity { got })
        }
        Names::ServerName => {
            let Some(name) = server_name else {
                return Err(Rejection::WrongName("no server name".to_owned()));
            };
            webpki::EndEntityCert::try_from(leaf)
                .and_then(|cert| cert.verify_is_valid_for_subject_name(name))
                .map_err(|_| Rejection::WrongName(name.to_str().into_owned()))
        }
    }
}

fn identity(peer: &Peer) -> Result<Spiffe, Rejection> {
    match peer.uri_sans() {
        [] => Err(Rejection::NoIdentity),
        [only] => only
            .parse()
            .map_err(|e: ripstop_model::spiffe::SpiffeError| Rejection::BadIdentity(e.to_string())),
        many => Err(Rejection::ManyIdentities(many.len())),
    }
}

/// What chain building does not look at, or only in general: CA leaves, weak keys and, in the mesh, an extended key
/// usage that must be there.
fn judge_leaf(
    leaf: &CertificateDer<'_>,
    side: Side,
    usage_required: bool,
) -> Result<(), Rejection> {
    let malformed = |e: &dyn fmt::Display| Rejection::Malformed(e.to_string());
    let (_, cert) = x509_parser::parse_x509_certificate(leaf).map_err(|e| malformed(&e))?;
    if cert
        .basic_constraints()
        .map_err(|e| malformed(&e))?
        .is_some_and(|c| c.value.ca)
    {
        return Err(Rejection::CaAsLeaf);
    }
    if !x509::key_is_strong(cert.public_key()) {
        return Err(Rejection::WeakKey);
    }
    let usage = cert.extended_key_usage().map_err(|e| malformed(&e))?;
    let allowed = match usage.map(|u| u.value) {
        Some(usage) if side == Side::Client => usage.client_auth || usage.any,
        Some(usage) => usage.server_auth || usage.any,
        None => !usage_required,
    };
    if allowed {
        Ok(())
    } else {
        Err(Rejection::KeyUsage)
    }
}

fn verify_chain(
    leaf: &CertificateDer<'_>,
    above: &[CertificateDer<'_>],
    anchors: &[TrustAnchor<'_>],
    side: Side,
    peer: &Peer,
    now: SystemTime,
) -> Result<(), Rejection> {
    let (not_before, not_after) = peer.validity();
    if let Ok(late) = now.duration_since(not_after)
        && !late.is_zero()
    {
        return Err(Rejection::Expired(late.as_secs()));
    }
    let early = not_before.duration_since(now).unwrap_or_default();
    if early > CLOCK_SKEW {
        return Err(Rejection::NotYetValid(early.as_secs()));
    }
    let cert = webpki::EndEntityCert::try_from(leaf).map_err(|e| chain_rejection(&e))?;
    let build = |time: SystemTime| {
        let usage = match side {
            Side::Client => KeyUsage::client_auth(),
            Side::Server => KeyUsage::server_auth(),
        };
        cert.verify_for_usage(
            chain_algorithms(),
            anchors,
            above,
            unix(time),
            usage,
            None,
            None,
        )
        .map(|_| ())
    };
    match build(now) {
        // The leaf, or an intermediate as young as it, starts within the tolerated skew.
        Err(webpki::Error::CertNotValidYet { .. }) => build(now + CLOCK_SKEW),
        judged => judged,
    }
    .map_err(|e| chain_rejection(&e))
}

fn chain_algorithms() -> &'static [&'static dyn SignatureVerificationAlgorithm] {
    tls::provider().signature_verification_algorithms.all
}

fn unix(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn chain_rejection(error: &webpki::Error) -> Rejection {
    use webpki::Error as E;
    match error {
        // The leaf's own validity was judged before.
        E::CertExpired { .. } | E::CertNotValidYet { .. } => Rejection::IssuerExpired,
        // A signature that does not fit means an issuer of the right name with another key: two meshes whose roots are
        // called the same.
        E::UnknownIssuer | E::InvalidSignatureForPublicKey => Rejection::UnknownRoot,
        E::CaUsedAsEndEntity => Rejection::CaAsLeaf,
        E::EndEntityUsedAsCa | E::PathLenConstraintViolated => Rejection::IssuerNotCa,
        E::NameConstraintViolation => Rejection::NameConstraint,
        E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        | E::SignatureAlgorithmMismatch => Rejection::Algorithm,
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Rejection::KeyUsage,
        E::CertRevoked | E::CertDistrusted => Rejection::Revoked,
        E::BadDer
        | E::BadDerTime
        | E::MalformedExtensions
        | E::ExtensionValueInvalid
        | E::TrailingData(_) => Rejection::Malformed(error.to_string()),
        other => Rejection::Chain(other.to_string()),
    }
}
