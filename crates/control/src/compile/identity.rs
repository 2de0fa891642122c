//! PeerAuthentication → which transports a workload accepts; the TLS contexts of the mesh and of TLS origination.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ripstop_identity::alpn;
use ripstop_model::intent::destination_rule::{ClientTls, TlsMode};
use ripstop_model::intent::peer_authentication::{MtlsMode, MutualTls, PeerAuthentication};
use ripstop_model::intent::registry::{Backing, Port};
use ripstop_model::protocol::Protocol as AppProtocol;
use ripstop_model::snapshot::Resource;
use ripstop_model::snapshot::cluster::Protocol;
use ripstop_model::snapshot::matching::StringMatch;
use ripstop_model::snapshot::tls::{
    AutoSni, Certificate, DownstreamTls, Pem, Roots, SanKind, SanMatch, TlsVersion, UpstreamTls,
    Validation,
};
use serde::{Deserialize, Serialize};

use crate::registry::Member;
use crate::view::{Declared, Known, Mesh, View};

/// The SDS names of a sidecar's own certificate and of the mesh's roots (D5).
const OWN: &str = "default";
const ROOTS: &str = "ROOTCA";
/// Istio's SDS name of the roots that the system trusts: a stock Envoy does not find them by itself.
const SYSTEM_ROOTS: &str = "file-root:system";

/// The transport match of auto-mTLS, by its Envoy name.
pub(super) const TLS_MODE_ISTIO: &str = "tlsMode-istio";

/// The endpoint metadata that asks for it.
pub(super) fn tls_mode() -> BTreeMap<String, String> {
    BTreeMap::from([("tlsMode".to_owned(), "istio".to_owned())])
}

/// What a port accepts: plain text alone, both, mesh mTLS alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Disable,
    Permissive,
    Strict,
}

fn mode_of(mtls: Option<&MutualTls>) -> Option<Mode> {
    match mtls?.mode? {
        MtlsMode::Unset => None,
        MtlsMode::Disable => Some(Mode::Disable),
        MtlsMode::Permissive => Some(Mode::Permissive),
        MtlsMode::Strict => Some(Mode::Strict),
    }
}

/// Mesh, then namespace, then workload, then port; each that is set overrides the wider one, of several at one level the oldest
/// counts (B11). A selector in the root namespace selects nothing.
pub(crate) fn mode(
    mesh: &Mesh,
    namespace: &str,
    labels: &BTreeMap<String, String>,
    port: u16,
) -> Mode {
    decided(mesh, namespace, labels, port).0
}

/// The mode with the PeerAuthentication that says so; `None`: nobody does.
pub(super) fn decided(
    mesh: &Mesh,
    namespace: &str,
    labels: &BTreeMap<String, String>,
    port: u16,
) -> (Mode, Option<Resource>) {
    let root = mesh.settings.root_namespace.as_str();
    let rules = &mesh.peer_authentications;
    let says = |rule: &Declared<PeerAuthentication>, mtls: Option<&MutualTls>, part: &str| {
        let resource = || rule.resource("PeerAuthentication", part.to_owned());
        mode_of(mtls).map(|mode| (mode, Some(resource())))
    };
    let wide = |of: &str| {
        rules
            .iter()
            .find(|rule| rule.namespace == of && rule.spec.selector.is_none())
            .and_then(|rule| says(rule, rule.spec.mtls.as_ref(), ""))
    };
    let own = rules.iter().find(|rule| {
        rule.namespace == namespace
            && namespace != root
            && rule
                .spec
                .selector
                .as_ref()
                .is_some_and(|selector| selector.matches(labels))
    });
    let mut decided = wide(root).unwrap_or((Mode::Permissive, None));
    if namespace != root {
        decided = wide(namespace).unwrap_or(decided);
    }
    if let Some(own) = own {
        decided = says(own, own.spec.mtls.as_ref(), "").unwrap_or(decided);
        let for_port = own.spec.port_level_mtls.get(&port.to_string());
        let part = format!("portLevelMtls[{port}]");
        decided = says(own, for_port, &part).unwrap_or(decided);
    }
    decided
}

/// Whether callers may open mesh mTLS to a member's port.
pub(super) fn accepts_mtls(view: &View<'_>, member: &Member, target: u16) -> bool {
    mode(view.mesh, &member.namespace, &member.labels, target) != Mode::Disable
}

/// `outbound_.<port>_.<subset>_.<host>`, which gateways between networks read.
pub(super) fn sni(port: u16, subset: &str, host: &str) -> String {
    format!("outbound_.{port}_.{subset}_.{host}")
}

fn tokens(list: &[&[u8]]) -> Vec<String> {
    list.iter()
        .map(|token| String::from_utf8_lossy(token).into_owned())
        .collect()
}

/// Istio's ALPN override filter is not in a stock Envoy, so the cluster says what it carries. An undeclared port may carry either:
/// it announces opaque bytes, and a ripstop proxy announces HTTP instead when it has seen HTTP.
fn mesh_alpn(view: &View<'_>, app: AppProtocol, protocol: &Protocol) -> Vec<String> {
    if app == AppProtocol::Auto || !app.is_http() {
        // The metadata preamble behind `istio-peer-exchange` is not spoken by a stock Envoy.
        return tokens(if view.client.stock {
            &[alpn::ISTIO]
        } else {
            alpn::MESH_TCP
        });
    }
    match protocol {
        Protocol::Http2(_) => tokens(alpn::MESH_HTTP2),
        Protocol::Http1(_) => tokens(alpn::MESH_HTTP1),
        Protocol::Downstream { .. } | Protocol::Alpn { .. } => {
            let mut both = tokens(alpn::MESH_HTTP2);
            both.retain(|token| token.starts_with("istio-"));
            both.extend(tokens(alpn::MESH_HTTP1));
            both
        }
    }
}

fn own_certificate() -> Certificate {
    Certificate::Secret(OWN.into())
}

fn roots(sans: Vec<SanMatch>) -> Validation {
    Validation {
        roots: Roots::Secret(ROOTS.into()),
        sans,
        host_name: false,
        certificate_hashes: Vec::new(),
        spki_hashes: Vec::new(),
        accept_untrusted: false,
    }
}

fn uri(value: StringMatch) -> SanMatch {
    SanMatch {
        kind: SanKind::Uri,
        value,
    }
}

/// Mesh mTLS toward a service: its members' identities and no others.
pub(super) fn upstream(
    view: &View<'_>,
    known: &Known,
    app: AppProtocol,
    protocol: &Protocol,
    sni: String,
) -> UpstreamTls {
    let sans = if known.subject_alt_names.is_empty() {
        identities(view, known)
    } else {
        known.subject_alt_names.clone()
    };
    UpstreamTls {
        certificate: Some(own_certificate()),
        validation: roots(
            sans.into_iter()
                .map(|san| uri(StringMatch::exact(san)))
                .collect(),
        ),
        sni: Some(sni),
        auto_sni: AutoSni::No,
        alpn: mesh_alpn(view, app, protocol),
        min_version: TlsVersion::V1_2,
        max_version: TlsVersion::V1_3,
    }
}

/// Who may answer for a service: the accounts of its workloads and of its listed endpoints. While nobody is
/// known, any identity of the mesh: there is then nobody to dial either.
fn identities(view: &View<'_>, known: &Known) -> Vec<String> {
    let mut accounts: BTreeSet<(&str, &str)> = known
        .accounts
        .iter()
        .map(|account| (known.namespace.as_str(), account.as_str()))
        .collect();
    if let Backing::Endpoints(entries) = &known.backing {
        for entry in entries {
            if let Some(account) = &entry.service_account {
                accounts.insert((&known.namespace, account));
            }
        }
    }
    let domain = &view.mesh.settings.trust_domain;
    accounts
        .into_iter()
        .map(|(namespace, account)| format!("spiffe://{domain}/ns/{namespace}/sa/{account}"))
        .collect()
}

/// The server side of mesh mTLS: any identity of the trust domain, a certificate demanded.
pub(super) fn downstream(view: &View<'_>, alpn: Vec<String>) -> Arc<DownstreamTls> {
    let domain = format!("spiffe://{}/", view.mesh.settings.trust_domain);
    Arc::new(DownstreamTls {
        certificates: vec![own_certificate()],
        validation: Some(roots(vec![uri(StringMatch::prefix(domain))])),
        require_client_certificate: true,
        alpn,
        min_version: TlsVersion::V1_2,
        max_version: TlsVersion::V1_3,
    })
}

/// ALPN tokens of an inbound chain: those that announce HTTP inside mesh mTLS, and those that announce opaque bytes.
pub(super) fn inbound_http(view: &View<'_>) -> Vec<String> {
    let known = [alpn::ISTIO_H2, alpn::ISTIO_HTTP_11, alpn::ISTIO_HTTP_10];
    match view.client.stock {
        true => tokens(&known),
        // Before the others: who offers it would rather share a connection.
        false => tokens(&[&[alpn::RIPSTOP_H2], &known[..]].concat()),
    }
}

pub(super) fn inbound_tcp(view: &View<'_>) -> Vec<String> {
    if view.client.stock {
        tokens(&[alpn::ISTIO])
    } else {
        tokens(alpn::INBOUND_TCP)
    }
}

fn named(name: &str) -> SanMatch {
    SanMatch {
        kind: if name.contains("://") {
            SanKind::Uri
        } else {
            SanKind::Dns
        },
        value: StringMatch::exact(name),
    }
}

/// TLS that a DestinationRule asks for toward somebody who is not of the mesh. Verified unless the user said not to.
pub(super) fn origination(
    view: &View<'_>,
    known: &Known,
    port: &Port,
    protocol: &Protocol,
    tls: &ClientTls,
) -> UpstreamTls {
    let skip = tls.insecure_skip_verify.unwrap_or(false);
    let pem = |path: &String| Pem::File(path.into());
    let pair = match (&tls.client_certificate, &tls.private_key) {
        (Some(chain), Some(key)) if tls.mode == TlsMode::Mutual => Some(Certificate::Pair {
            chain: pem(chain),
            key: pem(key),
        }),
        _ => None,
    };
    let names = if tls.subject_alt_names.is_empty() {
        &known.subject_alt_names
    } else {
        &tls.subject_alt_names
    };
    // Opaque bytes have no authority to take a name from.
    let sni = tls
        .sni
        .clone()
        .or_else(|| (!port.protocol.is_http()).then(|| known.host.to_string()));
    let mut sans: Vec<SanMatch> = names.iter().map(|name| named(name)).collect();
    if sans.is_empty() {
        // Without a fixed name the host that was asked for is verified.
        sans.extend(sni.iter().map(|name| named(name)));
    }
    if skip {
        sans.clear();
    }
    UpstreamTls {
        certificate: pair,
        validation: Validation {
            roots: match (&tls.ca_certificates, skip) {
                (_, true) => Roots::None,
                (Some(path), false) => Roots::Bundle(pem(path)),
                (None, false) if view.client.stock => Roots::Secret(SYSTEM_ROOTS.into()),
                (None, false) => Roots::System,
            },
            host_name: !skip && sans.is_empty(),
            sans,
            certificate_hashes: Vec::new(),
            spki_hashes: Vec::new(),
            accept_untrusted: false,
        },
        auto_sni: if sni.is_some() {
            AutoSni::No
        } else {
            AutoSni::Authority
        },
        sni,
        alpn: match protocol {
            Protocol::Http2(_) => tokens(&[alpn::H2]),
            Protocol::Http1(_) if port.protocol.is_http() => tokens(&[alpn::HTTP_11]),
            Protocol::Http1(_) => Vec::new(),
            Protocol::Downstream { .. } | Protocol::Alpn { .. } => {
                tokens(&[alpn::H2, alpn::HTTP_11])
            }
        },
        min_version: TlsVersion::V1_2,
        max_version: TlsVersion::V1_3,
    }
}
