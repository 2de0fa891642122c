//! SPIFFE identities as the mesh writes them: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
//!
//! Identity strings are compared as strings, never compiled to patterns (R28.2). The parser takes only what the
//! SPIFFE-ID standard (section 2) allows, so `..`, empty segments, percent signs and upper-case trust domains are refused.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A parsed workload identity; [`fmt::Display`] gives the URI.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spiffe {
    pub trust_domain: Arc<str>,
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    #[error("`{0}` does not start with spiffe://")]
    Scheme(String),
    #[error(
        "`{0}`: a trust domain is lower-case letters, digits, dots, dashes and underscores, at most 255"
    )]
    TrustDomain(String),
    #[error("`{0}` is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Shape(String),
    #[error(
        "`{0}` has a segment with characters other than letters, digits, dots, dashes and underscores"
    )]
    Segment(String),
}

impl Spiffe {
    pub fn new(
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
    ) -> Result<Spiffe, SpiffeError> {
        format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}").parse()
    }

    /// As AuthorizationPolicy writes a principal: without the scheme.
    pub fn principal(&self) -> String {
        format!(
            "{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

impl fmt::Display for Spiffe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

impl FromStr for Spiffe {
    type Err = SpiffeError;

    fn from_str(uri: &str) -> Result<Spiffe, SpiffeError> {
        let rest = uri
            .strip_prefix("spiffe://")
            .ok_or_else(|| SpiffeError::Scheme(uri.to_owned()))?;
        let mut parts = rest.split('/');
        let trust_domain = parts.next().unwrap_or_default();
        let domain_byte =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if trust_domain.is_empty()
            || trust_domain.len() > 255
            || !trust_domain.bytes().all(domain_byte)
        {
            return Err(SpiffeError::TrustDomain(uri.to_owned()));
        }
        let (Some("ns"), Some(namespace), Some("sa"), Some(service_account), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(SpiffeError::Shape(uri.to_owned()));
        };
        for segment in [namespace, service_account] {
            let byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            if segment.is_empty()
                || segment == "."
                || segment == ".."
                || !segment.bytes().all(byte)
                || segment.len() > 253
            {
                return Err(SpiffeError::Segment(uri.to_owned()));
            }
        }
        Ok(Spiffe {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let id: Spiffe = "spiffe://cluster.local/ns/default/sa/orders"
            .parse()
            .unwrap();
        assert_eq!(
            id.to_string(),
            "spiffe://cluster.local/ns/default/sa/orders"
        );
        assert_eq!(id.principal(), "cluster.local/ns/default/sa/orders");
    }

    #[test]
    fn refused() {
        for bad in [
            "https://a/ns/b/sa/c",
            "spiffe:///ns/b/sa/c",
            "spiffe://A/ns/b/sa/c",
            "spiffe://a/ns/b/sa/c/",
            "spiffe://a/ns/b/sa/..",
            "spiffe://a/ns/b/sa/c%2f",
            "spiffe://a/ns/b\0/sa/c",
            "spiffe://a/ns//sa/c",
            "spiffe://a/ns/b/sa/c?q",
            "spiffe://a:1/ns/b/sa/c",
        ] {
            assert!(bad.parse::<Spiffe>().is_err(), "{bad}");
        }
    }
}
