//! A peer's leaf certificate → the names that policy, labels, logs and `x-forwarded-client-cert` take from it.

use std::sync::Arc;
use std::time::SystemTime;

use ripstop_model::spiffe::Spiffe;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use crate::x509;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the certificate is not readable X.509: {0}")]
pub struct PeerError(pub String);

/// Cheap to clone; parsed once per connection.
#[derive(Debug, Clone)]
pub struct Peer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spiffe: Option<Spiffe>,
    principal: String,
    uri_sans: Vec<String>,
    dns_sans: Vec<String>,
    ip_sans: Vec<std::net::IpAddr>,
    email_sans: Vec<String>,
    subject: String,
    issuer: String,
    serial: String,
    sha256: [u8; 32],
    spki_sha256: [u8; 32],
    not_before: SystemTime,
    not_after: SystemTime,
    der: CertificateDer<'static>,
}

/// A certificate as PEM.
pub fn pem(der: &[u8]) -> String {
    x509::pem("CERTIFICATE", der)
}

impl Peer {
    pub fn parse(der: &CertificateDer<'_>) -> Result<Peer, PeerError> {
        let (rest, cert) =
            x509_parser::parse_x509_certificate(der).map_err(|e| PeerError(e.to_string()))?;
        if !rest.is_empty() {
            return Err(PeerError("bytes after the certificate".to_owned()));
        }
        let (mut uri_sans, mut dns_sans, mut ip_sans, mut email_sans) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let names = cert
            .subject_alternative_name()
            .map_err(|e| PeerError(e.to_string()))?;
        for name in names
            .map(|n| n.value.general_names.as_slice())
            .unwrap_or_default()
        {
            match name {
                GeneralName::URI(uri) => uri_sans.push((*uri).to_owned()),
                GeneralName::DNSName(dns) => dns_sans.push((*dns).to_owned()),
                GeneralName::RFC822Name(mail) => email_sans.push((*mail).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    if let Ok(v4) = <[u8; 4]>::try_from(*bytes) {
                        ip_sans.push(v4.into());
                    } else if let Ok(v6) = <[u8; 16]>::try_from(*bytes) {
                        ip_sans.push(v6.into());
                    }
                }
                _ => {}
            }
        }
        let spiffe = match uri_sans.as_slice() {
            [only] => only.parse::<Spiffe>().ok(),
            _ => None,
        };
        Ok(Peer {
            inner: Arc::new(Inner {
                principal: spiffe.as_ref().map(Spiffe::principal).unwrap_or_default(),
                spiffe,
                uri_sans,
                dns_sans,
                ip_sans,
                email_sans,
                subject: x509::rfc2253(cert.subject()),
                issuer: cert.issuer().to_string(),
                serial: x509::hex(cert.raw_serial()),
                sha256: x509::sha256(der),
                spki_sha256: x509::sha256(cert.public_key().raw),
                not_before: x509::at(cert.validity().not_before),
                not_after: x509::at(cert.validity().not_after),
                der: der.clone().into_owned(),
            }),
        })
    }

    /// The identity, if the certificate has exactly one URI SAN and that is one.
    pub fn spiffe(&self) -> Option<&Spiffe> {
        self.inner.spiffe.as_ref()
    }

    /// `source.principal`: the identity without its scheme; empty without an identity.
    pub fn principal(&self) -> &str {
        &self.inner.principal
    }

    pub fn uri_sans(&self) -> &[String] {
        &self.inner.uri_sans
    }

    pub fn dns_sans(&self) -> &[String] {
        &self.inner.dns_sans
    }

    pub fn ip_sans(&self) -> &[std::net::IpAddr] {
        &self.inner.ip_sans
    }

    pub fn email_sans(&self) -> &[String] {
        &self.inner.email_sans
    }

    /// RFC 2253 form, for XFCC's `Subject`.
    pub fn subject(&self) -> &str {
        &self.inner.subject
    }

    pub fn issuer(&self) -> &str {
        &self.inner.issuer
    }

    /// Hexadecimal.
    pub fn serial(&self) -> &str {
        &self.inner.serial
    }

    /// SHA-256 of the DER: XFCC's `Hash` in lower-case hexadecimal.
    pub fn sha256_hex(&self) -> String {
        x509::hex(&self.inner.sha256)
    }

    pub fn sha256(&self) -> &[u8; 32] {
        &self.inner.sha256
    }

    /// SHA-256 of the SubjectPublicKeyInfo (RFC 7469 pins).
    pub fn spki_sha256(&self) -> &[u8; 32] {
        &self.inner.spki_sha256
    }

    /// Not before, not after.
    pub fn validity(&self) -> (SystemTime, SystemTime) {
        (self.inner.not_before, self.inner.not_after)
    }

    pub fn der(&self) -> &CertificateDer<'static> {
        &self.inner.der
    }

    pub fn pem(&self) -> String {
        x509::pem("CERTIFICATE", &self.inner.der)
    }

    /// The PEM percent-encoded as XFCC's `Cert` carries it (everything but unreserved characters, RFC 3986 section 2.3).
    pub fn pem_percent_encoded(&self) -> String {
        let mut out = String::with_capacity(self.inner.der.len() * 2);
        for byte in self.pem().bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    out.push(byte as char)
                }
                _ => {
                    out.push('%');
                    out.push_str(&x509::hex(&[byte]).to_ascii_uppercase());
                }
            }
        }
        out
    }
}
