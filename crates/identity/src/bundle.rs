//! Root certificates per trust domain: what a peer's chain must end in, and the swap of that knowledge at run time.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use serde::{Deserialize, Serialize};

use crate::x509;

/// SHA-256 of a root's DER; what a join token pins. Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    pub fn of(der: &[u8]) -> Fingerprint {
        Fingerprint(x509::sha256(der))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&x509::hex(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = BundleError;

    fn from_str(text: &str) -> Result<Fingerprint, BundleError> {
        x509::unhex(text)
            .map(Fingerprint)
            .ok_or(BundleError::Fingerprint)
    }
}

impl From<Fingerprint> for String {
    fn from(print: Fingerprint) -> String {
        print.to_string()
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = BundleError;

    fn try_from(text: String) -> Result<Fingerprint, BundleError> {
        text.parse()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    #[error("no certificate in the PEM text: a trust bundle needs at least one root")]
    Empty,
    #[error("certificate {index} is not readable PEM: {cause}")]
    Pem { index: usize, cause: String },
    #[error("certificate {index} cannot be a root: {cause}")]
    Root { index: usize, cause: String },
    #[error("more than {} certificates: give the roots only", Bundle::MAX_ROOTS)]
    TooMany,
    #[error("a fingerprint is 64 hexadecimal digits (SHA-256 of the root's DER)")]
    Fingerprint,
}

/// One root certificate, parsed.
#[derive(Clone)]
pub struct Root {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    fingerprint: Fingerprint,
    not_after: SystemTime,
}

impl Root {
    pub fn new(der: CertificateDer<'static>) -> Result<Root, String> {
        let anchor = webpki::anchor_from_trusted_cert(&der)
            .map_err(|e| e.to_string())?
            .to_owned();
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|e| e.to_string())?;
        let not_after = x509::at(parsed.validity().not_after);
        let fingerprint = Fingerprint::of(&der);
        Ok(Root {
            anchor,
            fingerprint,
            not_after,
            der,
        })
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({})", self.fingerprint)
    }
}

/// The roots of one or more certificate authorities, with the anchors in the form chain building wants.
#[derive(Debug, Clone, Default)]
pub struct Roots {
    roots: Vec<Root>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl Roots {
    /// All certificates of a PEM text, in order, duplicates dropped.
    pub fn from_pem(pem: &str) -> Result<Roots, BundleError> {
        let mut roots = Roots::default();
        for (index, der) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
            let der = der.map_err(|e| BundleError::Pem {
                index,
                cause: e.to_string(),
            })?;
            roots.add(Root::new(der).map_err(|cause| BundleError::Root { index, cause })?);
            if roots.roots.len() > Bundle::MAX_ROOTS {
                return Err(BundleError::TooMany);
            }
        }
        if roots.roots.is_empty() {
            Err(BundleError::Empty)
        } else {
            Ok(roots)
        }
    }

    /// What of a large, foreign PEM text (the operating system's store) is usable; odd entries are left out.
    pub fn usable_from_pem(pem: &str) -> Roots {
        let mut roots = Roots::default();
        for der in CertificateDer::pem_slice_iter(pem.as_bytes()).flatten() {
            if let Ok(root) = Root::new(der) {
                roots.add(root);
            }
        }
        roots
    }

    pub fn add(&mut self, root: Root) {
        if !self.roots.iter().any(|r| r.fingerprint == root.fingerprint) {
            self.anchors.push(root.anchor.clone());
            self.roots.push(root);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Root> {
        self.roots.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    pub fn to_pem(&self) -> String {
        self.roots
            .iter()
            .map(|r| x509::pem("CERTIFICATE", &r.der))
            .collect()
    }
}

impl PartialEq for Roots {
    fn eq(&self, other: &Roots) -> bool {
        self.roots
            .iter()
            .map(Root::fingerprint)
            .eq(other.roots.iter().map(Root::fingerprint))
    }
}

impl Eq for Roots {}

/// Trust domain → roots. A peer is verified against the roots of the domain it names, and no others
/// (SPIFFE Federation, section 4).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundle {
    domains: BTreeMap<Arc<str>, Roots>,
}

impl Bundle {
    /// Roots per trust domain.
    pub const MAX_ROOTS: usize = 64;

    /// One trust domain with the roots of a PEM text.
    pub fn from_pem(trust_domain: &str, pem: &str) -> Result<Bundle, BundleError> {
        let mut bundle = Bundle::default();
        bundle.insert(trust_domain, Roots::from_pem(pem)?);
        Ok(bundle)
    }

    /// Replaces the roots of one trust domain.
    pub fn insert(&mut self, trust_domain: &str, roots: Roots) {
        self.domains.insert(trust_domain.into(), roots);
    }

    /// Another name for a trust domain (Istio's `trustDomainAliases`): its own entry with the same roots.
    pub fn alias(&mut self, trust_domain: &str, alias: &str) {
        if let Some(roots) = self.domains.get(trust_domain).cloned() {
            self.domains.insert(alias.into(), roots);
        }
    }

    pub fn roots(&self, trust_domain: &str) -> Option<&Roots> {
        self.domains.get(trust_domain)
    }

    pub fn domains(&self) -> impl Iterator<Item = (&str, &Roots)> {
        self.domains.iter().map(|(d, r)| (&**d, r))
    }

    /// Every root of every domain, as Istio's `ROOTCA` secret carries them.
    pub fn to_pem(&self) -> String {
        let mut all = Roots::default();
        for root in self.domains.values().flat_map(Roots::iter) {
            all.add(root.clone());
        }
        all.to_pem()
    }
}

/// The bundle in force. Configurations hold this, so a new bundle takes effect at the next handshake without rebuilding
/// them, and sessions made under an older one are not resumed.
#[derive(Debug)]
pub struct Trust {
    bundle: ArcSwap<Bundle>,
    epoch: AtomicU64,
}

impl Trust {
    pub fn new(bundle: Bundle) -> Arc<Trust> {
        Arc::new(Trust {
            bundle: ArcSwap::from_pointee(bundle),
            epoch: AtomicU64::new(0),
        })
    }

    /// Answers whether anything changed.
    pub fn replace(&self, bundle: Bundle) -> bool {
        if **self.bundle.load() == bundle {
            return false;
        }
        self.bundle.store(Arc::new(bundle));
        self.epoch.fetch_add(1, Ordering::Release);
        true
    }

    pub fn bundle(&self) -> Arc<Bundle> {
        self.bundle.load_full()
    }

    /// Grows with every change of the bundle.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
}
