//! A CSR and the identity its sender proved → a certificate chain; a P-256 root and an intermediate that rotates.
//!
//! The caller stores [`State`] and, apart and readable by nobody else, [`Secrets`]; both are enough to restore the
//! authority. Time is an argument throughout.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use ripstop_model::spiffe::Spiffe;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use zeroize::Zeroize;

use crate::bundle::{Bundle, BundleError, Fingerprint, Root};
use crate::verify::CLOCK_SKEW;
use crate::x509;

/// Largest CSR looked at, in bytes of PEM. A P-256 request has about 600.
pub const MAX_CSR: usize = 16 * 1024;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long certificates live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifetimes {
    pub root: Duration,
    pub intermediate: Duration,
    /// What a leaf gets at most, whatever its CSR's sender asks for.
    pub leaf_max: Duration,
}

impl Default for Lifetimes {
    fn default() -> Lifetimes {
        Lifetimes {
            root: DAY * 3650,
            intermediate: DAY * 30,
            leaf_max: DAY * 7,
        }
    }
}

/// The public half of the authority: what it issued with, in PEM, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct State {
    pub trust_domain: String,
    pub root: String,
    pub intermediate: String,
    /// Seconds since the Unix epoch.
    pub root_created: u64,
    pub intermediate_created: u64,
    pub lifetimes: Lifetimes,
}

/// The private half: two PKCS#8 keys in PEM. For a file of mode 0600 and nothing else; wiped on drop.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Secrets {
    pub root_key: String,
    pub intermediate_key: String,
}

impl Drop for Secrets {
    fn drop(&mut self) {
        self.root_key.zeroize();
        self.intermediate_key.zeroize();
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(…)")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    #[error(
        "the authority's {what} is not usable: {cause}; restore the state folder from a backup, or remove it to start with a new root"
    )]
    State { what: &'static str, cause: String },
    #[error("cannot make a certificate: {0}")]
    Make(String),
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// Why a CSR was not signed. All but `SignerExpired` and `Make` are the requester's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignRefusal {
    #[error("the request has {0} bytes, more than {MAX_CSR}")]
    TooLarge(usize),
    #[error("the request is not a readable PKCS#10 PEM: {0}")]
    Malformed(String),
    #[error("the request's own signature is wrong")]
    Signature,
    #[error(
        "the request's key is not accepted: use P-256, P-384, Ed25519 or RSA of at least 2048 bits"
    )]
    Key,
    #[error("the request names `{asked}`, but its sender proved to be `{proved}`")]
    OtherName { asked: String, proved: String },
    #[error("the request asks for a CA certificate")]
    AsksForCa,
    #[error("`{0}` is not of this authority's trust domain")]
    TrustDomain(String),
    #[error("the asked lifetime is zero")]
    Lifetime,
    #[error(
        "the signing certificate has expired or is about to: the authority's clock or its rotation is broken"
    )]
    SignerExpired,
    #[error("cannot make the certificate: {0}")]
    Make(String),
}

/// One CA certificate with its key.
struct Signing {
    pem: String,
    created: SystemTime,
    not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

/// Signs CSRs for one trust domain.
pub struct Authority {
    trust_domain: String,
    lifetimes: Lifetimes,
    root: Signing,
    intermediate: Signing,
    fingerprint: Fingerprint,
}

impl Authority {
    /// A new root and intermediate.
    pub fn create(
        trust_domain: &str,
        lifetimes: Lifetimes,
        now: SystemTime,
    ) -> Result<Authority, AuthorityError> {
        // Proves that the trust domain can stand in identities.
        Spiffe::new(trust_domain, "x", "x").map_err(|e| AuthorityError::Make(e.to_string()))?;
        let root = Signing::root(trust_domain, lifetimes.root, now)?;
        let intermediate = Signing::intermediate(trust_domain, &root, lifetimes.intermediate, now)?;
        Authority::assemble(trust_domain.to_owned(), lifetimes, root, intermediate)
    }

    /// From what was stored; proves that keys and certificates belong together. What is issued from now on lives as long as
    /// `lifetimes` says.
    pub fn restore(
        state: &State,
        secrets: &Secrets,
        lifetimes: Lifetimes,
    ) -> Result<Authority, AuthorityError> {
        let root = Signing::restore("root", &state.root, &secrets.root_key, state.root_created)?;
        let intermediate = Signing::restore(
            "intermediate",
            &state.intermediate,
            &secrets.intermediate_key,
            state.intermediate_created,
        )?;
        check_issued_by(&intermediate.pem, &root.pem)?;
        Authority::assemble(state.trust_domain.clone(), lifetimes, root, intermediate)
    }

    fn assemble(
        trust_domain: String,
        lifetimes: Lifetimes,
        root: Signing,
        intermediate: Signing,
    ) -> Result<Authority, AuthorityError> {
        let fingerprint = Fingerprint::of(&der(&root.pem, "root")?);
        Ok(Authority {
            trust_domain,
            lifetimes,
            root,
            intermediate,
            fingerprint,
        })
    }

    pub fn state(&self) -> State {
        State {
            trust_domain: self.trust_domain.clone(),
            root: self.root.pem.clone(),
            intermediate: self.intermediate.pem.clone(),
            root_created: seconds(self.root.created),
            intermediate_created: seconds(self.intermediate.created),
            lifetimes: self.lifetimes,
        }
    }

    pub fn secrets(&self) -> Secrets {
        Secrets {
            root_key: self.root.issuer.key().serialize_pem(),
            intermediate_key: self.intermediate.issuer.key().serialize_pem(),
        }
    }

    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub fn root_pem(&self) -> &str {
        &self.root.pem
    }

    pub fn bundle(&self) -> Result<Bundle, AuthorityError> {
        Ok(Bundle::from_pem(&self.trust_domain, &self.root.pem)?)
    }

    /// Replaces the intermediate once half of its life is over. `true`: state and secrets must be stored again before
    /// the next signature leaves this process.
    pub fn rotate(&mut self, now: SystemTime) -> Result<bool, AuthorityError> {
        if now < self.next_rotation() || !self.root.outlives(now) {
            return Ok(false);
        }
        self.intermediate = Signing::intermediate(
            &self.trust_domain,
            &self.root,
            self.lifetimes.intermediate,
            now,
        )?;
        Ok(true)
    }

    /// When [`Authority::rotate`] will next do something.
    pub fn next_rotation(&self) -> SystemTime {
        let life = self.intermediate.life().min(self.lifetimes.intermediate);
        self.intermediate.created + life / 2
    }

    /// False when nothing can be signed any more (R6.3): readiness fails, and the operator learns why.
    pub fn is_ready(&self, now: SystemTime) -> bool {
        self.intermediate.outlives(now) && self.root.outlives(now)
    }

    /// Until when root and intermediate are valid.
    pub fn expiry(&self) -> (SystemTime, SystemTime) {
        (self.root.not_after, self.intermediate.not_after)
    }

    /// Signs a leaf for `identity`, which the caller has attested. Answers leaf, intermediate and root, each in PEM.
    ///
    /// Only the public key is taken from the CSR. Its lifetime starts [`CLOCK_SKEW`] ago and ends after `ttl`, after
    /// [`Lifetimes::leaf_max`] or with the issuer, whichever is first.
    pub fn sign(
        &self,
        csr_pem: &str,
        identity: &Spiffe,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Vec<String>, SignRefusal> {
        if *identity.trust_domain != *self.trust_domain {
            return Err(SignRefusal::TrustDomain(identity.to_string()));
        }
        if ttl < Duration::from_secs(1) {
            return Err(SignRefusal::Lifetime);
        }
        if !self.is_ready(now) {
            return Err(SignRefusal::SignerExpired);
        }
        let public_key = read_csr(csr_pem, identity)?;
        let failed = |e: rcgen::Error| SignRefusal::Make(e.to_string());
        let issuer_end = self.intermediate.not_after.min(self.root.not_after);
        let mut params = params(
            now,
            (now + ttl.min(self.lifetimes.leaf_max)).min(issuer_end),
        );
        let uri = identity.to_string().try_into().map_err(failed)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.serial_number = Some(serial().map_err(SignRefusal::Make)?);
        let leaf = params
            .signed_by(&public_key, &self.intermediate.issuer)
            .map_err(failed)?;
        Ok(vec![
            x509::pem("CERTIFICATE", leaf.der()),
            self.intermediate.pem.clone(),
            self.root.pem.clone(),
        ])
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({}, {})", self.trust_domain, self.fingerprint)
    }
}

impl Signing {
    fn root(
        trust_domain: &str,
        life: Duration,
        now: SystemTime,
    ) -> Result<Signing, AuthorityError> {
        let key = new_key()?;
        let params = ca_params(trust_domain, "root", 1, now, now + life)?;
        let cert = params.self_signed(&key).map_err(make)?;
        Ok(Signing {
            pem: x509::pem("CERTIFICATE", cert.der()),
            created: now,
            not_after: whole(now + life),
            issuer: Issuer::new(params, key),
        })
    }

    fn intermediate(
        trust_domain: &str,
        root: &Signing,
        life: Duration,
        now: SystemTime,
    ) -> Result<Signing, AuthorityError> {
        let key = new_key()?;
        let end = (now + life).min(root.not_after);
        let params = ca_params(trust_domain, "intermediate", 0, now, end)?;
        let cert = params.signed_by(&key, &root.issuer).map_err(make)?;
        Ok(Signing {
            pem: x509::pem("CERTIFICATE", cert.der()),
            created: now,
            not_after: whole(end),
            issuer: Issuer::new(params, key),
        })
    }

    fn restore(
        what: &'static str,
        pem: &str,
        key: &str,
        created: u64,
    ) -> Result<Signing, AuthorityError> {
        let bad = |cause: String| AuthorityError::State { what, cause };
        let key = KeyPair::from_pem_and_sign_algo(key, &PKCS_ECDSA_P256_SHA256)
            .map_err(|e| bad(e.to_string()))?;
        let der = der(pem, what)?;
        let (_, cert) =
            x509_parser::parse_x509_certificate(&der).map_err(|e| bad(e.to_string()))?;
        if *cert.public_key().subject_public_key.data != *key.public_key_raw() {
            return Err(bad("the key does not belong to the certificate".to_owned()));
        }
        let not_after = x509::at(cert.validity().not_after);
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|e| bad(e.to_string()))?;
        Ok(Signing {
            pem: pem.to_owned(),
            created: UNIX_EPOCH + Duration::from_secs(created),
            not_after,
            issuer,
        })
    }

    fn life(&self) -> Duration {
        self.not_after
            .duration_since(self.created)
            .unwrap_or_default()
    }

    /// Valid for at least a minute more, or an eighth of a short life.
    fn outlives(&self, now: SystemTime) -> bool {
        now + Duration::from_secs(60).min(self.life() / 8) < self.not_after
    }
}

/// The public key of an acceptable CSR.
fn read_csr(pem: &str, identity: &Spiffe) -> Result<SubjectPublicKeyInfo, SignRefusal> {
    if pem.len() > MAX_CSR {
        return Err(SignRefusal::TooLarge(pem.len()));
    }
    let malformed = |e: &dyn std::fmt::Display| SignRefusal::Malformed(e.to_string());
    let der =
        CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|e| malformed(&e))?;
    let (rest, csr) = X509CertificationRequest::from_der(&der).map_err(|e| malformed(&e))?;
    if !rest.is_empty() {
        return Err(SignRefusal::Malformed("bytes after the request".to_owned()));
    }
    let key = &csr.certification_request_info.subject_pki;
    if !x509::key_is_strong(key) {
        return Err(SignRefusal::Key);
    }
    csr.verify_signature().map_err(|_| SignRefusal::Signature)?;
    for extension in csr.requested_extensions().into_iter().flatten() {
        match extension {
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    judge_name(name, identity)?;
                }
            }
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                return Err(SignRefusal::AsksForCa);
            }
            _ => {}
        }
    }
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| SignRefusal::Key)
}

fn judge_name(name: &GeneralName<'_>, identity: &Spiffe) -> Result<(), SignRefusal> {
    let proved = identity.to_string();
    match name {
        GeneralName::URI(uri) if *uri == proved => Ok(()),
        other => Err(SignRefusal::OtherName {
            asked: other.to_string(),
            proved,
        }),
    }
}

fn params(now: SystemTime, end: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = OffsetDateTime::from(now - CLOCK_SKEW);
    params.not_after = OffsetDateTime::from(end);
    params.use_authority_key_identifier_extension = true;
    params
}

fn ca_params(
    trust_domain: &str,
    what: &str,
    path_length: u8,
    now: SystemTime,
    end: SystemTime,
) -> Result<CertificateParams, AuthorityError> {
    let serial = serial().map_err(AuthorityError::Make)?;
    // The serial in the name keeps two generations apart: chain building goes by names.
    let name = format!("ripstop {what} {}", x509::hex(&serial.to_bytes()[..4]));
    let mut params = params(now, end);
    params
        .distinguished_name
        .push(DnType::OrganizationName, trust_domain);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial);
    Ok(params)
}

/// 128 random bits, positive (RFC 5280 section 4.1.2.2).
fn serial() -> Result<SerialNumber, String> {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| "no randomness from the operating system".to_owned())?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn new_key() -> Result<KeyPair, AuthorityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(make)
}

fn make(error: rcgen::Error) -> AuthorityError {
    AuthorityError::Make(error.to_string())
}

fn der(pem: &str, what: &'static str) -> Result<CertificateDer<'static>, AuthorityError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| AuthorityError::State {
        what,
        cause: e.to_string(),
    })
}

fn check_issued_by(intermediate: &str, root: &str) -> Result<(), AuthorityError> {
    let bad = |cause: String| AuthorityError::State {
        what: "intermediate",
        cause,
    };
    let (lower, upper) = (der(intermediate, "intermediate")?, der(root, "root")?);
    Root::new(upper.clone()).map_err(bad)?;
    let (_, lower) = x509_parser::parse_x509_certificate(&lower).map_err(|e| bad(e.to_string()))?;
    let (_, upper) = x509_parser::parse_x509_certificate(&upper).map_err(|e| bad(e.to_string()))?;
    lower
        .verify_signature(Some(upper.public_key()))
        .map_err(|_| bad("it was not issued by the stored root".to_owned()))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// X.509 has whole seconds.
fn whole(time: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds(time))
}
