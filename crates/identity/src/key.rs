//! A workload's P-256 key (memory only) → its CSR, and together with the signed chain the pair that TLS presents.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use ripstop_model::spiffe::Spiffe;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize, Zeroizing};

use crate::peer::Peer;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("cannot make a P-256 key: {0}")]
    Generate(String),
    #[error("cannot write the certificate request: {0}")]
    Request(String),
    #[error("the certificate chain is empty")]
    EmptyChain,
    #[error("certificate {index} of the chain is not readable PEM: {cause}")]
    Chain { index: usize, cause: String },
    #[error(
        "the private key is not readable: {0}; give an unencrypted PKCS#8, PKCS#1 or SEC1 key in PEM"
    )]
    PrivateKey(String),
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    #[error("the leaf certificate is not readable: {0}")]
    Leaf(String),
}

/// A private key that has no certificate yet. Its encoding is wiped on drop.
pub struct Key {
    pair: KeyPair,
}

impl Key {
    pub fn generate() -> Result<Key, KeyError> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map(|pair| Key { pair })
            .map_err(|e| KeyError::Generate(e.to_string()))
    }

    /// A PKCS#10 request in PEM that names `identity` as its only SAN, as Istio's agents write it.
    pub fn csr(&self, identity: &Spiffe) -> Result<String, KeyError> {
        let failed = |e: rcgen::Error| KeyError::Request(e.to_string());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let uri = identity.to_string().try_into().map_err(failed)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params
            .serialize_request(&self.pair)
            .and_then(|csr| csr.pem())
            .map_err(failed)
    }

    /// Joins the key with the chain that was signed for it, leaf first.
    pub fn certify<S: AsRef<str>>(&self, chain: &[S]) -> Result<Certified, KeyError> {
        let key = Zeroizing::new(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(
            self.pair.serialize_der(),
        )));
        Certified::assemble(read_chain(chain)?, &key)
    }

    /// PKCS#8 PEM, for a stock Envoy that takes its key from the agent beside it over a Unix socket.
    pub fn private_key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.pair.serialize_pem())
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.pair.zeroize();
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(P-256)")
    }
}

/// A certificate chain with its private key, ready for TLS.
#[derive(Debug)]
pub struct Certified {
    pub(crate) key: Arc<CertifiedKey>,
    leaf: Peer,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Certified {
    /// From configuration: a PEM chain (leaf first) and a PEM key.
    pub fn from_pem(chain: &str, key: &str) -> Result<Certified, KeyError> {
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map(Zeroizing::new)
            .map_err(|e| KeyError::PrivateKey(e.to_string()))?;
        Certified::assemble(read_chain(&[chain])?, &key)
    }

    fn assemble(
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'_>,
    ) -> Result<Certified, KeyError> {
        let leaf = chain.first().ok_or(KeyError::EmptyChain)?;
        let peer = Peer::parse(leaf).map_err(|e| KeyError::Leaf(e.to_string()))?;
        let (not_before, not_after) = peer.validity();
        let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(key)
            .map_err(|e| KeyError::PrivateKey(e.to_string()))?;
        let key = CertifiedKey::new(chain, signer);
        key.keys_match().map_err(|_| KeyError::Mismatch)?;
        Ok(Certified {
            key: Arc::new(key),
            leaf: peer,
            not_before,
            not_after,
        })
    }

    /// The leaf, as a peer would see it.
    pub fn leaf(&self) -> &Peer {
        &self.leaf
    }

    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Leaf first, as it is sent.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }
}

fn read_chain<S: AsRef<str>>(chain: &[S]) -> Result<Vec<CertificateDer<'static>>, KeyError> {
    let mut out = Vec::new();
    for pem in chain {
        for der in CertificateDer::pem_slice_iter(pem.as_ref().as_bytes()) {
            let index = out.len();
            out.push(der.map_err(|e| KeyError::Chain {
                index,
                cause: e.to_string(),
            })?);
        }
    }
    Ok(out)
}
