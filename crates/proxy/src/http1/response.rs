//! What a parsed response means, held to the same rules as a request: a doubtful one is 502 and its connection is not
//! used again.

use super::error::{Error, Problem};
use super::framing::{self, Framing};
use super::request::{Upgrade, options};
use crate::headers::{Headers, Known};
use crate::message::{Method, ResponseHead, Version};

/// What the request was, as far as the response's meaning depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    pub method: Method,
    pub upgrade: Option<Upgrade>,
}

/// What the proxy must know to pass a response on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accepted {
    pub framing: Framing,
    /// The upstream's connection can serve another request after this body.
    pub keep_alive: bool,
    /// 1xx: forward it (not to HTTP/1.0) and read the next head.
    pub interim: bool,
    /// The connection is a byte stream from here on. Only after an upgrade that was asked for: bytes after any other
    /// response are read as HTTP.
    pub tunnel: bool,
    /// Seconds the upstream keeps the idle connection (`Keep-Alive: timeout=N`, R5.3).
    pub idle_timeout: Option<u64>,
}

/// Checks an HTTP/1 response and removes what belongs to the upstream's connection.
pub fn accept(head: &mut ResponseHead, asked: Asked) -> Result<Accepted, Error> {
    accept_inner(head, asked).map_err(Error::upstream)
}

fn accept_inner(head: &mut ResponseHead, asked: Asked) -> Result<Accepted, Problem> {
    let tunnel = match (head.status, asked.upgrade) {
        // It says to what it switches (RFC 9110 section 15.2.2), and that is what was asked for.
        (101, Some(Upgrade::WebSocket)) if is_websocket(&head.headers) => true,
        (101, _) => return Err(Problem::UpgradeUnasked),
        (200..300, Some(Upgrade::Connect)) => true,
        _ => false,
    };
    let framing = match tunnel {
        // RFC 9110 section 9.3.6: both headers mean nothing in a successful answer to CONNECT; a doubt all the same.
        true if head.headers.has(Known::TransferEncoding) => return Err(Problem::BodyForbidden),
        true => Framing::None,
        false => framing::of_response(&head.headers, head.version, head.status, asked.method)?,
    };
    let mut accepted = Accepted {
        framing,
        keep_alive: head.version == Version::Http11,
        interim: (100..200).contains(&head.status) && !tunnel,
        tunnel,
        idle_timeout: None,
    };
    if head.headers.has_any(Known::HOP_BY_HOP) {
        accepted.keep_alive = options(&mut head.headers).keep_alive(head.version);
        accepted.idle_timeout = head.headers.text(Known::KeepAlive).and_then(idle_timeout);
        let upgrade = match tunnel {
            true => Known::Upgrade.bit(),
            false => 0,
        };
        head.headers.remove_all(Known::HOP_BY_HOP & !upgrade);
    }
    if tunnel || framing == Framing::UntilClose {
        accepted.keep_alive = false;
    }
    if tunnel || accepted.interim || head.status == 204 {
        head.headers.remove(Known::ContentLength);
    }
    Ok(accepted)
}

fn is_websocket(headers: &Headers) -> bool {
    let mut tokens = headers.all(Known::Upgrade);
    let first = tokens.next();
    first.is_some_and(|token| token.eq_ignore_ascii_case(b"websocket")) && tokens.next().is_none()
}

/// `timeout=5, max=100`.
fn idle_timeout(value: &str) -> Option<u64> {
    value.split(',').find_map(|part| {
        let (name, seconds) = part.split_once('=')?;
        match name.trim().eq_ignore_ascii_case("timeout") {
            true => seconds.trim().parse().ok(),
            false => None,
        }
    })
}

/// How a response's body goes to a client of this version, and whether the connection must end with it. `known` is the
/// framing it came with (from HTTP/2: its `content-length`, or [`Framing::UntilClose`] where there is none).
pub fn downstream_framing(known: Framing, client: Version) -> (Framing, bool) {
    match (known, client) {
        (Framing::None | Framing::Length(_), _) => (known, false),
        (Framing::Chunked | Framing::UntilClose, Version::Http10) => (Framing::UntilClose, true),
        (Framing::Chunked | Framing::UntilClose, _) => (Framing::Chunked, false),
    }
}
