//! The ALPN tokens of the mesh wire and the lists that each kind of connection offers, most preferred first.
//!
//! Istio's sidecars select the inbound filter chain by these tokens, so their spelling is a contract.

/// HTTP/1.0 inside mesh mTLS.
pub const ISTIO_HTTP_10: &[u8] = b"istio-http/1.0";
/// HTTP/1.1 inside mesh mTLS.
pub const ISTIO_HTTP_11: &[u8] = b"istio-http/1.1";
/// HTTP/2 inside mesh mTLS.
pub const ISTIO_H2: &[u8] = b"istio-h2";
/// Opaque bytes inside mesh mTLS, after a preamble with the peer's metadata.
pub const ISTIO_PEER_EXCHANGE: &[u8] = b"istio-peer-exchange";
/// Opaque bytes inside mesh mTLS.
pub const ISTIO: &[u8] = b"istio";
/// HTTP/2 framing between two ripstop sidecars that carries the case and order of HTTP/1 field names.
pub const RIPSTOP_H2: &[u8] = b"ripstop-h2";
pub const HTTP_11: &[u8] = b"http/1.1";
pub const H2: &[u8] = b"h2";

/// What a sidecar offers when it sends HTTP/1.1 to a mesh peer.
pub const MESH_HTTP1: &[&[u8]] = &[ISTIO_HTTP_11, ISTIO, HTTP_11];
/// What a sidecar offers when it sends HTTP/1.1 to a mesh peer and requests may share a connection.
pub const MESH_SHARED: &[&[u8]] = &[RIPSTOP_H2, ISTIO_HTTP_11, ISTIO, HTTP_11];
/// What a sidecar offers when it sends HTTP/2 to a mesh peer.
pub const MESH_HTTP2: &[&[u8]] = &[ISTIO_H2, ISTIO, H2];
/// What a sidecar offers when it sends opaque TCP to a mesh peer.
pub const MESH_TCP: &[&[u8]] = &[ISTIO_PEER_EXCHANGE, ISTIO];
/// What an inbound sidecar listener accepts on its HTTP chain, as Istio's inbound listener lists it.
pub const INBOUND_HTTP: &[&[u8]] = &[
    RIPSTOP_H2,
    ISTIO_H2,
    ISTIO_HTTP_11,
    ISTIO_HTTP_10,
    H2,
    HTTP_11,
];
/// What a listener accepts that serves HTTP and TCP of the mesh alike and goes by the token that was chosen.
pub const INBOUND: &[&[u8]] = &[
    RIPSTOP_H2,
    ISTIO_H2,
    ISTIO_HTTP_11,
    ISTIO_HTTP_10,
    ISTIO_PEER_EXCHANGE,
    ISTIO,
    H2,
    HTTP_11,
];
/// What an inbound sidecar listener accepts on its TCP chain.
pub const INBOUND_TCP: &[&[u8]] = &[ISTIO_PEER_EXCHANGE, ISTIO];

/// What follows the handshake, read from the negotiated ALPN token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    Http1,
    Http2,
    /// Opaque bytes behind the metadata preamble.
    TcpWithMetadata,
    Tcp,
}

/// What the token announces; `None` for tokens the mesh does not know (the protocol is then detected).
pub fn carried(token: &[u8]) -> Option<Carried> {
    Some(match token {
        t if t == ISTIO_HTTP_11 || t == ISTIO_HTTP_10 || t == HTTP_11 => Carried::Http1,
        t if t == ISTIO_H2 || t == H2 || t == RIPSTOP_H2 => Carried::Http2,
        t if t == ISTIO_PEER_EXCHANGE => Carried::TcpWithMetadata,
        t if t == ISTIO => Carried::Tcp,
        _ => return None,
    })
}

/// A client that offers one of these speaks mesh mTLS; any other TLS is the application's own and passes through in
/// PERMISSIVE mode.
pub fn is_mesh(token: &[u8]) -> bool {
    [
        ISTIO_HTTP_10,
        ISTIO_HTTP_11,
        ISTIO_H2,
        ISTIO_PEER_EXCHANGE,
        ISTIO,
        RIPSTOP_H2,
    ]
    .contains(&token)
}

/// As rustls configurations hold the list.
pub fn list(tokens: &[&[u8]]) -> Vec<Vec<u8>> {
    tokens.iter().map(|t| t.to_vec()).collect()
}
