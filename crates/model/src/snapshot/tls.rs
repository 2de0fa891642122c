//! TLS contexts of listeners and clusters (`extensions.transport_sockets.tls.v3`).

use std::path::PathBuf;

use super::Name;
use super::matching::StringMatch;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pem {
    Inline(Vec<u8>),
    File(PathBuf),
}

/// Where a certificate with its key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certificate {
    /// SDS by name. The sidecar's own workload certificate is `default`.
    Secret(Name),
    Pair {
        chain: Pem,
        key: Pem,
    },
}

/// Where the roots that verify a peer come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// SDS by name. The mesh's trust bundle is `ROOTCA`.
    Secret(Name),
    Bundle(Pem),
    System,
    /// The peer is not verified.
    None,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validation {
    pub roots: Roots,
    /// Empty: any name that chains to the roots.
    pub sans: Vec<SanMatch>,
    /// Verify against the host that was asked for (SNI) when `sans` is empty.
    pub host_name: bool,
    /// Hex SHA-256 of accepted certificates; empty: any.
    pub certificate_hashes: Vec<String>,
    /// Base64 SHA-256 of accepted public keys; empty: any.
    pub spki_hashes: Vec<String>,
    /// `trust_chain_verification: ACCEPT_UNTRUSTED`.
    pub accept_untrusted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SanMatch {
    pub kind: SanKind,
    pub value: StringMatch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanKind {
    Any,
    Uri,
    Dns,
    Ip,
    Email,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    #[default]
    V1_2,
    V1_3,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownstreamTls {
    pub certificates: Vec<Certificate>,
    /// `None`: the client is not asked for a certificate.
    pub validation: Option<Validation>,
    pub require_client_certificate: bool,
    pub alpn: Vec<String>,
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    pub certificate: Option<Certificate>,
    pub validation: Validation,
    pub sni: Option<String>,
    /// Take the SNI from the request's authority (`auto_host_sni`, `auto_sni`).
    pub auto_sni: bool,
    pub alpn: Vec<String>,
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
}
