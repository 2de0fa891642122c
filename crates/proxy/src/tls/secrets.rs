//! Secrets by name, inline or in files → certificate slots and what is demanded of peers.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use ripstop_identity::bundle::{BundleError, Roots};
use ripstop_identity::key::KeyError;
use ripstop_identity::tls as identity;
use ripstop_identity::verify::{Anchors, Demand, ValidationError};
use ripstop_identity::{Certified, Slot, Trust};
use ripstop_model::snapshot::Name;
use ripstop_model::snapshot::tls::{
    Certificate, Pem, Roots as RootsSource, Secret, SecretBody, Validation,
};

/// The secrets that are the proxy's own identity (Istio's names for them).
pub(super) const OWN_CERTIFICATE: &str = "default";
pub(super) const OWN_ROOTS: &str = "ROOTCA";

/// Who this proxy is to others. Both are swapped at run time, under every connection made later.
#[derive(Debug, Clone)]
pub struct Identity {
    pub certificate: Arc<Slot>,
    pub trust: Arc<Trust>,
}

/// Certificates and validation contexts by name. Asked while tables are compiled, never on the data path.
#[derive(Debug, Default)]
pub struct Secrets {
    identity: Option<Identity>,
    named: ArcSwap<Named>,
    /// Read once: some systems have hundreds.
    system: OnceLock<Arc<Roots>>,
}

#[derive(Debug, Default, Clone)]
struct Named {
    certificates: HashMap<Name, Arc<Slot>>,
    validations: HashMap<Name, Validation>,
}

/// Why a TLS context cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("a listener's TLS context needs a certificate")]
    NoCertificate,
    #[error(
        "secret `{0}` is not known: name it in the bootstrap's static secrets, or give the proxy an identity"
    )]
    UnknownSecret(Name),
    #[error("secret `{0}` refers to a secret itself")]
    NestedSecret(Name),
    #[error("{path}: {source}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("a certificate chain or key is not text in PEM")]
    NotText,
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Roots(#[from] BundleError),
    #[error("the system's roots cannot be read: {0}")]
    System(io::Error),
    #[error(transparent)]
    Validation(#[from] ValidationError),
    #[error("the lowest TLS version is above the highest")]
    Versions,
    #[error("the SNI `{0}` is no host name")]
    Sni(String),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

impl Secrets {
    pub fn new(identity: Option<Identity>) -> Secrets {
        Secrets {
            identity,
            named: ArcSwap::default(),
            system: OnceLock::new(),
        }
    }

    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Gives a secret its value. A certificate is in force at once, a validation context for what is compiled from now on.
    pub fn set(&self, secret: &Secret) -> Result<(), ConfigError> {
        match &secret.body {
            SecretBody::Certificate { chain, key } => {
                let certified = certified(chain, key)?;
                if let Some(slot) = self.named.load().certificates.get(&secret.name) {
                    slot.set(certified);
                    return Ok(());
                }
                let slot = Slot::with(certified);
                self.change(|named| {
                    named.certificates.insert(secret.name.clone(), slot.clone());
                });
            }
            SecretBody::Validation(validation) => self.change(|named| {
                let validation = validation.clone();
                named.validations.insert(secret.name.clone(), validation);
            }),
        }
        Ok(())
    }

    fn change(&self, with: impl Fn(&mut Named)) {
        self.named.rcu(|named| {
            let mut fresh = Named::clone(named);
            with(&mut fresh);
            fresh
        });
    }

    pub(super) fn certificate(&self, source: &Certificate) -> Result<Arc<Slot>, ConfigError> {
        match source {
            Certificate::Pair { chain, key } => Ok(Slot::with(certified(chain, key)?)),
            Certificate::Secret(name) => {
                match (self.named.load().certificates.get(name), &self.identity) {
                    (Some(slot), _) => Ok(slot.clone()),
                    (None, Some(identity)) if &**name == OWN_CERTIFICATE => {
                        Ok(identity.certificate.clone())
                    }
                    (None, _) => Err(ConfigError::UnknownSecret(name.clone())),
                }
            }
        }
    }

    pub(super) fn demand(&self, validation: &Validation) -> Result<Demand, ConfigError> {
        let RootsSource::Secret(name) = &validation.roots else {
            let anchors = self.anchors(&validation.roots)?;
            return Ok(Demand::of_validation(validation, anchors)?);
        };
        let named = self.named.load().validations.get(name).cloned();
        match (named, &self.identity) {
            (Some(secret), _) => {
                // What the context asks for itself comes on top of the secret (`combined_validation_context`).
                let mut merged = secret;
                if matches!(merged.roots, RootsSource::Secret(_)) {
                    return Err(ConfigError::NestedSecret(name.clone()));
                }
                merged.sans.extend(validation.sans.iter().cloned());
                merged.host_name |= validation.host_name;
                merged
                    .certificate_hashes
                    .extend(validation.certificate_hashes.iter().cloned());
                merged
                    .spki_hashes
                    .extend(validation.spki_hashes.iter().cloned());
                merged.accept_untrusted |= validation.accept_untrusted;
                let anchors = self.anchors(&merged.roots)?;
                Ok(Demand::of_validation(&merged, anchors)?)
            }
            (None, Some(identity)) if &**name == OWN_ROOTS => {
                let anchors = Anchors::Mesh(identity.trust.clone());
                Ok(Demand::of_validation(validation, anchors)?)
            }
            (None, _) => Err(ConfigError::UnknownSecret(name.clone())),
        }
    }

    fn anchors(&self, roots: &RootsSource) -> Result<Anchors, ConfigError> {
        match roots {
            RootsSource::None => Ok(Anchors::None),
            RootsSource::Bundle(pem) => {
                let roots = Roots::from_pem(&read(pem)?)?;
                Ok(Anchors::Roots(Arc::new(roots)))
            }
            RootsSource::System => {
                let roots = match self.system.get() {
                    Some(roots) => roots.clone(),
                    None => {
                        let read = identity::system_roots().map_err(ConfigError::System)?;
                        self.system.get_or_init(|| Arc::new(read)).clone()
                    }
                };
                Ok(Anchors::Roots(roots))
            }
            RootsSource::Secret(name) => Err(ConfigError::NestedSecret(name.clone())),
        }
    }
}

fn certified(chain: &Pem, key: &Pem) -> Result<Certified, ConfigError> {
    Ok(Certified::from_pem(&read(chain)?, &read(key)?)?)
}

fn read(pem: &Pem) -> Result<String, ConfigError> {
    let bytes = match pem {
        Pem::Inline(bytes) => bytes.clone(),
        Pem::File(path) => std::fs::read(path).map_err(|source| ConfigError::File {
            path: path.clone(),
            source,
        })?,
    };
    String::from_utf8(bytes).map_err(|_| ConfigError::NotText)
}

/// Whether both are this proxy's own: its workload certificate, and the roots of its mesh.
pub(super) fn are_own(certificate: Option<&Certificate>, validation: &Validation) -> bool {
    let is_own = |name: &Name, own: &str| **name == *own;
    matches!(certificate, Some(Certificate::Secret(name)) if is_own(name, OWN_CERTIFICATE))
        && matches!(&validation.roots, RootsSource::Secret(name) if is_own(name, OWN_ROOTS))
}
