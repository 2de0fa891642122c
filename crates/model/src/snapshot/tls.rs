//! TLS contexts of listeners and clusters (`extensions.transport_sockets.tls.v3`).

use std::fmt;
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
    /// Verify against the host that was asked for (SNI) when `sans` is empty. For an automatic SNI; a given one is named
    /// in `sans`.
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
    pub auto_sni: AutoSni,
    pub alpn: Vec<String>,
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
}

/// Where the SNI comes from when not from [`UpstreamTls::sni`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AutoSni {
    #[default]
    No,
    /// The request's authority (`UpstreamHttpProtocolOptions.auto_sni`: the same for every transport of a cluster).
    Authority,
    /// The endpoint's hostname (`UpstreamTlsContext.auto_host_sni`).
    EndpointHost,
}

/// A named piece of TLS configuration (`Secret`): static in a bootstrap, or served by SDS.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    pub name: Name,
    pub body: SecretBody,
}

#[derive(Clone, PartialEq, Eq)]
pub enum SecretBody {
    Certificate { chain: Pem, key: Pem },
    Validation(Validation),
}

/// Keys are never printed.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.body {
            SecretBody::Certificate { .. } => "certificate",
            SecretBody::Validation(_) => "validation",
        };
        write!(f, "Secret({}, {kind})", self.name)
    }
}
