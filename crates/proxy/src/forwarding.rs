//! Who a request is from and what it is called: forwarding headers, internal headers, request id, trace context, as Envoy's
//! connection manager writes them.

use std::fmt::Write;
use std::net::IpAddr;

use ripstop_model::snapshot::http::{HttpProxy, StripPort, Underscores, Xfcc};
use ripstop_model::snapshot::listener::Direction;

use crate::connection::Connection;
use crate::headers::Known;
use crate::message::RequestHead;

/// What was found out about the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// The client's address: of the socket, or from `x-forwarded-for` where that is trusted.
    pub remote: IpAddr,
    /// Came straight from outside.
    pub edge: bool,
    /// Of the configured internal addresses: it may steer what is done with its requests.
    pub internal: bool,
}

/// Headers of Envoy's that describe a request, and are not taken from the edge.
const DESCRIBING: &[&str] = &[
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-original-path",
];

/// Headers of Envoy's that steer a request, and are taken from internal clients only.
const STEERING: &[&str] = &[
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-ip-tags",
    "x-envoy-max-retries",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-timeout-ms",
];

/// Brings the request's own headers into the form that everything behind the connection manager sees.
pub fn enter(connection: &Connection, proxy: &HttpProxy, head: &mut RequestHead) -> Sender {
    let sender = client(connection, proxy, head);
    if proxy.underscores == Underscores::Drop {
        head.headers.retain(|field| !field.name.contains(&b'_'));
    }
    if head.headers.has(Known::Envoy) {
        head.headers.remove_named("x-envoy-internal");
        let describing = if sender.edge { DESCRIBING } else { &[] };
        let steering = if sender.internal { &[] } else { STEERING };
        for name in describing.iter().chain(steering) {
            head.headers.remove_named(name);
        }
    }
    if sender.internal {
        head.headers.set_named("x-envoy-internal", "true");
    }
    // Whoever is not of the mesh does not speak its language.
    let stranger =
        connection.direction == Direction::Inbound && connection.caller.principals.is_none();
    if (sender.edge || stranger) && head.headers.has(Known::Ripstop) {
        head.headers.remove(Known::Ripstop);
    }
    if sender.edge {
        head.headers
            .set_named("x-envoy-external-address", sender.remote.to_string());
    }
    if !head.headers.has(Known::XForwardedProto) || (sender.edge && proxy.xff_trusted_hops == 0) {
        head.headers
            .set(Known::XForwardedProto, connection.scheme().as_str());
    }
    client_certificate(connection, proxy, head);
    request_id(connection, proxy, sender.edge, head);
    if let Some(via) = &proxy.via {
        let all = match head.headers.joined("via") {
            Some(before) => format!("{before}, {via}"),
            None => via.clone(),
        };
        head.headers.set_named("via", all);
    }
    sender
}

/// The authority as the listener wants it: without a port that only repeats the listener's, and a name for the HTTP/1.0
/// client that gave none: the listener's, or the address that it meant.
pub fn settle_authority(connection: &Connection, proxy: &HttpProxy, head: &mut RequestHead) {
    if head.authority().is_empty() {
        match &proxy.http1.default_host {
            Some(host) => head.set_authority(host),
            None => head.set_authority(&connection.destination.to_string()),
        }
    }
    if proxy.strip_port == StripPort::No {
        return;
    }
    let Some((host, port)) = head.authority_sent().rsplit_once(':') else {
        return;
    };
    let port: Option<u16> = port.parse().ok();
    let strip = match proxy.strip_port {
        StripPort::No => false,
        StripPort::Matching => port == Some(connection.local.port()),
        StripPort::Any => port.is_some(),
    };
    if strip {
        let host = host.to_owned();
        head.set_authority(&host);
    }
}

/// Finds the client's address; appends the peer's to `x-forwarded-for` at the edge.
fn client(connection: &Connection, proxy: &HttpProxy, head: &mut RequestHead) -> Sender {
    let peer = connection.peer.ip();
    let hops = proxy.xff_trusted_hops as usize;
    let listed = |head: &RequestHead, from_end: usize| -> Option<IpAddr> {
        let list = head.headers.joined("x-forwarded-for")?;
        list.rsplit(',').nth(from_end)?.trim().parse().ok()
    };
    let is_internal = |ip: IpAddr| proxy.internal.iter().any(|net| net.contains(&ip));
    if !proxy.use_remote_address {
        // A list of several was written by several, and says nothing certain about the first.
        let alone = listed(head, 0).is_some() && listed(head, 1).is_none();
        let remote = listed(head, hops).unwrap_or(peer);
        return Sender {
            remote,
            edge: false,
            internal: alone && hops == 0 && is_internal(remote),
        };
    }
    let first = !head.headers.has(Known::XForwardedFor);
    let remote = match hops {
        0 => peer,
        // The nearest of the trusted proxies is the peer itself.
        hops => listed(head, hops - 1).unwrap_or(peer),
    };
    if !proxy.skip_xff_append {
        let list = match head.headers.joined("x-forwarded-for") {
            Some(list) => format!("{list},{peer}"),
            None => peer.to_string(),
        };
        head.headers.set(Known::XForwardedFor, list);
    }
    let internal = first && is_internal(remote);
    Sender {
        remote,
        edge: !internal,
        internal,
    }
}

/// `x-forwarded-client-cert` (`forward_client_cert_details`): never taken over from a peer that did not prove who it is.
fn client_certificate(connection: &Connection, proxy: &HttpProxy, head: &mut RequestHead) {
    let verified = connection
        .tls
        .as_ref()
        .and_then(|tls| tls.principals.as_deref());
    let mode = proxy.client_cert.mode;
    if mode == Xfcc::AlwaysForwardOnly {
        return;
    }
    let Some(names) = verified else {
        head.headers.remove(Known::ForwardedClientCert);
        return;
    };
    let fresh = || {
        let mut element = String::new();
        if let Some(own) = connection.tls.as_ref().and_then(|tls| tls.own.as_deref()) {
            let _ = write!(element, "By={own};");
        }
        if let Some(hash) = connection
            .tls
            .as_ref()
            .and_then(|tls| tls.leaf_sha256.as_deref())
        {
            let _ = write!(element, "Hash={hash}");
        }
        let certificates = connection.tls.as_ref().map(|tls| &*tls.certificates);
        let certificates = certificates.unwrap_or_default();
        if proxy.client_cert.cert
            && let Some(leaf) = certificates.first()
        {
            let _ = write!(element, ";Cert=\"{}\"", encoded(leaf));
        }
        if proxy.client_cert.chain {
            let chain: String = certificates.iter().map(|one| encoded(one)).collect();
            let _ = write!(element, ";Chain=\"{chain}\"");
        }
        if proxy.client_cert.subject
            && let Some(subject) = connection
                .tls
                .as_ref()
                .and_then(|tls| tls.subject.as_deref())
        {
            let _ = write!(element, ";Subject=\"{subject}\"");
        }
        if proxy.client_cert.uri {
            let uris = names.iter().filter(|name| name.contains("://"));
            for uri in uris {
                let _ = write!(element, ";URI={uri}");
            }
        }
        if proxy.client_cert.dns {
            let names = connection.tls.as_ref().map(|tls| &*tls.dns_names);
            for name in names.unwrap_or_default() {
                let _ = write!(element, ";DNS={name}");
            }
        }
        element.trim_start_matches(';').to_owned()
    };
    match mode {
        Xfcc::Sanitize => {
            head.headers.remove(Known::ForwardedClientCert);
        }
        Xfcc::ForwardOnly | Xfcc::AlwaysForwardOnly => {}
        Xfcc::AppendForward => {
            let list = match head.headers.joined("x-forwarded-client-cert") {
                Some(list) => format!("{list},{}", fresh()),
                None => fresh(),
            };
            head.headers.set(Known::ForwardedClientCert, list);
        }
        Xfcc::SanitizeSet => head.headers.set(Known::ForwardedClientCert, fresh()),
    }
}

/// A certificate as `Cert` and `Chain` hold it: PEM, percent-encoded.
fn encoded(der: &[u8]) -> String {
    let mut out = String::new();
    for c in ripstop_identity::peer::pem(der).chars() {
        match c {
            '\n' => out.push_str("%0A"),
            ' ' => out.push_str("%20"),
            '+' => out.push_str("%2B"),
            '/' => out.push_str("%2F"),
            '=' => out.push_str("%3D"),
            c => out.push(c),
        }
    }
    out
}

/// `x-request-id`: made here unless the request has one that may be kept.
fn request_id(connection: &Connection, proxy: &HttpProxy, edge: bool, head: &mut RequestHead) {
    let settings = proxy.request_id;
    if !settings.generate {
        return;
    }
    let keep = head.headers.has(Known::XRequestId) && (!edge || settings.preserve_external);
    if !keep {
        let worker = &connection.worker;
        let id = uuid(worker.random(), worker.random());
        head.headers.set(Known::XRequestId, id);
    }
}

/// A version 4 UUID (RFC 9562 section 5.4).
fn uuid(high: u64, low: u64) -> [u8; 36] {
    let bits = (u128::from(high) << 64) | u128::from(low);
    let bits = bits & !(0xf << 76) | (4 << 76);
    let bits = bits & !(0x3 << 62) | (2 << 62);
    let mut out = [b'-'; 36];
    let mut nibble = 32;
    for (index, place) in out.iter_mut().enumerate() {
        if matches!(index, 8 | 13 | 18 | 23) {
            continue;
        }
        nibble -= 1;
        let digit = ((bits >> (nibble * 4)) & 0xf) as u8;
        *place = match digit {
            0..=9 => b'0' + digit,
            _ => b'a' + digit - 10,
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::uuid;

    #[test]
    fn identifiers_are_version_4() {
        let text = String::from_utf8(uuid(u64::MAX, 0x0123_4567_89ab_cdef).to_vec()).unwrap();
        assert_eq!(text, "ffffffff-ffff-4fff-8123-456789abcdef");
    }
}
