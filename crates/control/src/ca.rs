//! The mesh's certificate authority as it is run: its state in the store, its keys in a private file, its own server certificate,
//! and the rotation of both.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ripstop_identity::ca::{self, AuthorityError, Lifetimes, SignRefusal};
use ripstop_identity::key::KeyError;
use ripstop_identity::verify::CLOCK_SKEW;
use ripstop_identity::{Authority, Key, Slot, Trust};
use ripstop_model::spiffe::{Spiffe, SpiffeError};

use ripstop_wire::certificate::{self, Refusal};
use ripstop_wire::xds::service;

use crate::plane::{Caller, Plane, PlaneError};
use crate::state::{State, StateError, Table};

/// The control plane's service account, in the root namespace: what proxies expect behind the TLS port.
pub const SERVICE_ACCOUNT: &str = "ripstop-control";

const KEYS: &str = "ca.key";
const STATE: &str = "state";
/// Of the control plane's own certificate.
const OWN_TTL: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(
        "the state directory belongs to trust domain `{stored}`, not `{asked}`: give that trust domain, or another --state directory"
    )]
    TrustDomain { stored: String, asked: String },
    #[error(
        "the state directory has the CA's certificates but not its keys (ca.key): restore the file, or move state.redb away to start with a new CA"
    )]
    KeysMissing,
    #[error(
        "the state directory has the CA's keys (ca.key) but {} does not know its certificates: it was emptied, replaced or removed. \
         Restore it from a copy, or move ca.key away to start with a new CA (workloads then have to join again)",
        .0.display()
    )]
    StateMissing(PathBuf),
    #[error(
        "ca.key is not readable: {0}; restore the file, or move it and state.redb away to start with a new CA"
    )]
    Keys(String),
    #[error("cannot make the control plane's own certificate: {0}")]
    Own(String),
}

impl From<KeyError> for CaError {
    fn from(error: KeyError) -> CaError {
        CaError::Own(error.to_string())
    }
}

impl From<SignRefusal> for CaError {
    fn from(error: SignRefusal) -> CaError {
        CaError::Own(error.to_string())
    }
}

impl From<SpiffeError> for CaError {
    fn from(error: SpiffeError) -> CaError {
        CaError::Own(error.to_string())
    }
}

pub struct Ca {
    authority: Mutex<Authority>,
    trust: Arc<Trust>,
    own: Arc<Slot>,
    identity: Spiffe,
}

impl Ca {
    /// Restores the authority, or makes one where there was none. Blocks on the disk.
    pub fn open(
        state: &State,
        trust_domain: &str,
        root_namespace: &str,
        lifetimes: Lifetimes,
        now: SystemTime,
    ) -> Result<Ca, CaError> {
        // Null from when an authority begins to be made until it is there.
        let stored: Option<Option<ca::State>> = state
            .all(Table::Authority)?
            .into_iter()
            .find_map(|(key, value)| (key == STATE).then_some(value));
        let begun = stored.is_some();
        let authority = match stored.flatten() {
            Some(stored) if stored.trust_domain != trust_domain => {
                return Err(CaError::TrustDomain {
                    stored: stored.trust_domain,
                    asked: trust_domain.to_owned(),
                });
            }
            Some(stored) => {
                let bytes = state.read_secret(KEYS)?.ok_or(CaError::KeysMissing)?;
                let keys =
                    serde_json::from_slice(&bytes).map_err(|e| CaError::Keys(e.to_string()))?;
                Authority::restore(&stored, &keys, lifetimes)?
            }
            None if !begun && state.has_secret(KEYS)? => {
                return Err(CaError::StateMissing(state.file().to_owned()));
            }
            None => {
                // Whoever is killed before the keys have their certificates may begin again.
                state.put(Table::Authority, STATE, &None::<ca::State>)?;
                let authority = Authority::create(trust_domain, lifetimes, now)?;
                write(state, &authority)?;
                authority
            }
        };
        let ca = Ca {
            trust: Trust::new(authority.bundle()?),
            authority: Mutex::new(authority),
            own: Slot::empty(),
            identity: Spiffe::new(trust_domain, root_namespace, SERVICE_ACCOUNT)?,
        };
        ca.rotate(state, now)?;
        ca.renew_own(now)?;
        Ok(ca)
    }

    fn authority(&self) -> MutexGuard<'_, Authority> {
        // Nothing is left half done in there.
        self.authority
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs for an identity that the caller has attested.
    pub fn sign(
        &self,
        csr_pem: &str,
        identity: &Spiffe,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Vec<String>, SignRefusal> {
        self.authority().sign(csr_pem, identity, ttl, now)
    }

    /// Rotates the intermediate when it is due, and stores it before anything is signed with it. Blocks on the disk.
    pub fn rotate(&self, state: &State, now: SystemTime) -> Result<bool, CaError> {
        let mut authority = self.authority();
        let rotated = authority.rotate(now)?;
        if rotated {
            write(state, &authority)?;
        }
        Ok(rotated)
    }

    /// A fresh certificate for the TLS port.
    pub fn renew_own(&self, now: SystemTime) -> Result<(), CaError> {
        let key = Key::generate()?;
        let csr = key.csr(&self.identity)?;
        let chain = self.sign(&csr, &self.identity, OWN_TTL, now)?;
        self.own.set(key.certify(&chain)?);
        Ok(())
    }

    /// When [`Ca::rotate`] or [`Ca::renew_own`] is due next.
    pub fn next_due(&self, now: SystemTime) -> SystemTime {
        let rotation = self.authority().next_rotation();
        let own = self.own.current().map_or(now, |own| {
            // Certificates begin before they are made.
            let made = own.not_before() + CLOCK_SKEW;
            made + own.not_after().duration_since(made).unwrap_or_default() / 2
        });
        rotation.min(own)
    }

    pub fn is_ready(&self, now: SystemTime) -> bool {
        self.authority().is_ready(now)
    }

    /// Of the signing certificate.
    pub fn expires(&self) -> SystemTime {
        self.authority().expiry().1
    }

    pub fn roots_pem(&self) -> String {
        self.trust.bundle().to_pem()
    }

    pub fn fingerprint(&self) -> ripstop_identity::Fingerprint {
        self.authority().fingerprint()
    }

    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// The certificate that the TLS port shows.
    pub fn own(&self) -> &Arc<Slot> {
        &self.own
    }

    pub fn identity(&self) -> &Spiffe {
        &self.identity
    }
}

/// CreateCertificate on the TLS port.
pub(crate) struct Issuing(pub(crate) Arc<Plane>);

impl certificate::Authority for Issuing {
    async fn create(
        &self,
        caller: service::Caller,
        csr_pem: &str,
        ttl: Duration,
    ) -> Result<Vec<String>, Refusal> {
        let (plane, csr) = (self.0.clone(), csr_pem.to_owned());
        let caller = Caller {
            local: false,
            identity: caller.identity,
            bearer: caller.bearer,
        };
        // Istio's agents leave the lifetime out.
        let ttl = if ttl.is_zero() { OWN_TTL } else { ttl };
        let signed =
            tokio::task::spawn_blocking(move || plane.create_certificate(&csr, ttl, &caller));
        let outcome = signed.await.unwrap_or(Err(PlaneError::Ended));
        outcome.map_err(|error| {
            let text = error.to_string();
            match error {
                PlaneError::Sign(SignRefusal::SignerExpired | SignRefusal::Make(_))
                | PlaneError::State(_)
                | PlaneError::Ended => Refusal::Unavailable(text),
                PlaneError::Sign(_) => Refusal::Invalid(text),
                _ => Refusal::Unauthenticated(text),
            }
        })
    }
}

/// Keys first: certificates without keys are worth nothing, keys without certificates are merely unused.
fn write(state: &State, authority: &Authority) -> Result<(), CaError> {
    let keys =
        serde_json::to_vec(&authority.secrets()).map_err(|e| CaError::Keys(e.to_string()))?;
    state.write_secret(KEYS, &keys)?;
    state.put(Table::Authority, STATE, &authority.state())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn open(state: &State, domain: &str) -> Result<Ca, CaError> {
        Ca::open(
            state,
            domain,
            "istio-system",
            Lifetimes::default(),
            SystemTime::now(),
        )
    }

    #[test]
    fn the_authority_survives_a_restart_and_signs_the_attested_identity() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let root = open(&state, "cluster.local").unwrap().fingerprint();
        let ca = open(&state, "cluster.local").unwrap();
        assert_eq!(ca.fingerprint(), root);
        let identity = Spiffe::new("cluster.local", "default", "orders").unwrap();
        let key = Key::generate().unwrap();
        let csr = key.csr(&identity).unwrap();
        let chain = ca
            .sign(
                &csr,
                &identity,
                Duration::from_secs(3600),
                SystemTime::now(),
            )
            .unwrap();
        assert_eq!(
            key.certify(&chain).unwrap().leaf().spiffe(),
            Some(&identity)
        );
        assert!(ca.next_due(SystemTime::now()) > SystemTime::now());
    }

    #[test]
    fn another_trust_domain_or_missing_keys_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        open(&state, "cluster.local").unwrap();
        assert!(matches!(
            open(&state, "other.mesh"),
            Err(CaError::TrustDomain { .. })
        ));
        std::fs::remove_file(dir.path().join(KEYS)).unwrap();
        assert!(matches!(
            open(&state, "cluster.local"),
            Err(CaError::KeysMissing)
        ));
    }

    #[test]
    fn keys_outlive_a_state_file_that_was_emptied_or_removed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(State::FILE);
        open(&State::open(dir.path()).unwrap(), "cluster.local").unwrap();
        let keys = std::fs::read(dir.path().join(KEYS)).unwrap();
        let damages: [fn(&Path); 2] = [
            |file| std::fs::write(file, b"").unwrap(),
            |file| std::fs::remove_file(file).unwrap(),
        ];
        for damage in damages {
            damage(&file);
            // Nor does the next start, which finds what this one made of the file.
            for _ in 0..2 {
                let Err(error) = open(&State::open(dir.path()).unwrap(), "cluster.local") else {
                    panic!("a new authority");
                };
                let text = error.to_string();
                assert!(
                    text.contains("state.redb") && text.contains("move ca.key away"),
                    "{text}"
                );
                assert_eq!(std::fs::read(dir.path().join(KEYS)).unwrap(), keys);
            }
        }
        std::fs::remove_file(dir.path().join(KEYS)).unwrap();
        open(&State::open(dir.path()).unwrap(), "cluster.local").unwrap();
    }

    #[test]
    fn who_was_killed_while_making_an_authority_begins_again() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        state
            .put(Table::Authority, STATE, &None::<ca::State>)
            .unwrap();
        state.write_secret(KEYS, b"of no certificate").unwrap();
        open(&state, "cluster.local").unwrap();
    }
}
