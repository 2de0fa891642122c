//! What a parsed request means: its one authority and target, its framing and what it asks of the connection.
//!
//! Admission changes the head: hop-by-hop headers are gone and Host says what the target says, so everything after it
//! sees only what will be forwarded.

use ripstop_model::normalize;

use super::error::{Error, Problem};
use super::framing::{self, Framing};
use crate::headers::scan::same_token;
use crate::headers::{Headers, Known, Span, is_token};
use crate::message::{Method, RequestHead, Scheme, TargetForm, Version};

/// What the listener allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    pub scheme: Scheme,
    pub connect: bool,
    /// Pass `Upgrade: websocket`; anything else is always stripped and the request served.
    pub websocket: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            scheme: Scheme::Http,
            connect: false,
            websocket: true,
        }
    }
}

/// A protocol that may take the connection over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    WebSocket,
    Connect,
}

/// What the proxy must know to serve an admitted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Admitted {
    pub framing: Framing,
    /// The client wants the connection to live on.
    pub keep_alive: bool,
    pub upgrade: Option<Upgrade>,
    /// The client waits for 100 before it sends the body; the header is forwarded and 1xx come back (R15.5).
    pub expect_continue: bool,
}

/// Checks an HTTP/1 request and brings it into the form that is forwarded. An error is answered and the connection
/// closed; nothing of the request goes upstream.
pub fn admit(head: &mut RequestHead, rules: &Rules) -> Result<Admitted, Error> {
    admit_inner(head, rules).map_err(Error::downstream)
}

fn admit_inner(head: &mut RequestHead, rules: &Rules) -> Result<Admitted, Problem> {
    head.scheme = rules.scheme;
    // Framing first: it decides whether anything after this head can be trusted.
    let framing = framing::of_request(&head.headers, head.version)?;
    refuse_methods(head.method, rules.connect)?;
    resolve_target(head)?;
    let expect_continue = expectation(head)?;
    let mut admitted = Admitted {
        framing,
        keep_alive: head.version == Version::Http11,
        upgrade: None,
        expect_continue,
    };
    if head.headers.has_any(Known::HOP_BY_HOP) {
        connection(head, rules, &mut admitted);
    }
    if head.method == Method::Connect {
        if framing != Framing::None {
            return Err(Problem::BodyForbidden);
        }
        admitted.upgrade = Some(Upgrade::Connect);
    }
    Ok(admitted)
}

/// Checks an HTTP/2 request that [`RequestHead::take_over`] took over (RFC 9113 section 8), so that it could also be
/// written as HTTP/1. `ended`: the request has no body.
pub fn admit_h2(head: &mut RequestHead, rules: &Rules, ended: bool) -> Result<Admitted, Error> {
    admit_h2_inner(head, rules, ended).map_err(Error::downstream)
}

fn admit_h2_inner(head: &mut RequestHead, rules: &Rules, ended: bool) -> Result<Admitted, Problem> {
    const FORBIDDEN: u64 = Known::HOP_BY_HOP & !Known::Te.bit();
    head.scheme = rules.scheme;
    // Only extended CONNECT (RFC 8441) has a path, and the codec takes it only where it is offered.
    let websocket = head.method == Method::Connect && head.form != TargetForm::Authority;
    let forbidden = match websocket {
        true => FORBIDDEN & !Known::Upgrade.bit(),
        false => FORBIDDEN,
    };
    if head.headers.has_any(forbidden) || head.headers.all(Known::Te).any(|te| te != b"trailers") {
        return Err(Problem::ConnectionHeaderInHttp2);
    }
    let declared = framing::of_request(&head.headers, Version::Http11)?;
    if websocket {
        handshake(head, rules, ended)?;
    }
    refuse_methods(head.method, rules.connect)?;
    // `:authority` and Host must agree where both are there (RFC 9113 section 8.3.1).
    let hosts = head.headers.all(Known::Host).count();
    if hosts > 1 {
        return Err(Problem::HostRepeated);
    }
    if head.authority_sent.is_empty() {
        match head.headers.text(Known::Host).map(str::to_owned) {
            None => return Err(Problem::HostMissing),
            Some(host) => head.authority_sent = head.headers.intern(host.as_bytes()),
        }
    }
    normalize_authority(head)?;
    if let Some(host) = head.headers.text(Known::Host) {
        let host = normalize::authority(host, head.scheme.default_port())?;
        if host != head.authority() {
            return Err(Problem::HostRepeated);
        }
        head.headers.remove(Known::Host);
    }
    let misformed = match head.form {
        TargetForm::Origin => !head.path().starts_with('/'),
        // RFC 9110 section 9.3.7: the whole server is a target of OPTIONS alone.
        TargetForm::Asterisk => head.method != Method::Options,
        TargetForm::Absolute | TargetForm::Authority => false,
    };
    if misformed {
        return Err(Problem::TargetForm);
    }
    let framing = match (declared, ended) {
        // What follows is not a body, but the connection; a length would be told to a server that waits for so much.
        (Framing::Length(1..), _) if websocket => return Err(Problem::Length),
        _ if websocket => Framing::None,
        (Framing::Length(1..), true) => return Err(Problem::Length),
        (Framing::None, false) => Framing::Chunked,
        (_, true) => Framing::None,
        (declared, false) => declared,
    };
    Ok(Admitted {
        framing,
        keep_alive: true,
        upgrade: match websocket {
            true => Some(Upgrade::WebSocket),
            false => (head.method == Method::Connect).then_some(Upgrade::Connect),
        },
        expect_continue: expectation(head)?,
    })
}

/// Extended CONNECT becomes the GET that opens a WebSocket on HTTP/1; no other protocol is known.
fn handshake(head: &mut RequestHead, rules: &Rules, ended: bool) -> Result<(), Problem> {
    let mut protocols = head.headers.all(Known::Upgrade);
    match (protocols.next(), protocols.next()) {
        (_, Some(_)) => return Err(Problem::ConnectionHeaderInHttp2),
        (Some(b"websocket"), None) if rules.websocket && !ended => {}
        _ => return Err(Problem::Connect),
    }
    drop(protocols);
    head.set_method("GET");
    Ok(())
}

fn refuse_methods(method: Method, connect: bool) -> Result<(), Problem> {
    match method {
        Method::Trace => Err(Problem::Trace),
        Method::Connect if !connect => Err(Problem::Connect),
        _ => Ok(()),
    }
}

/// Finds the one authority and the path: an absolute target wins over Host (RFC 9112 section 3.2.2), which must be
/// right all the same.
fn resolve_target(head: &mut RequestHead) -> Result<(), Problem> {
    let mut hosts = head.headers.all_spans(Known::Host);
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Problem::HostRepeated);
    }
    drop(hosts);
    if host.is_none() && head.version != Version::Http10 {
        return Err(Problem::HostMissing);
    }
    if let Some(host) = host {
        head.authority_sent = host;
        normalize_authority(head)?;
    }
    let text = head.target.of(head.headers.buffer());
    if head.method == Method::Connect {
        head.form = TargetForm::Authority;
        head.authority_sent = head.target;
        normalize_authority(head)?;
        let target = head.str(head.target);
        let host_end = target.rfind(']').unwrap_or_default();
        // The authority form always names its port.
        if !target.get(host_end..).unwrap_or_default().contains(':') {
            return Err(Problem::TargetForm);
        }
        return host_follows(head);
    }
    match text {
        [b'/', ..] => {
            head.form = TargetForm::Origin;
            head.split_target(head.target);
            Ok(())
        }
        b"*" if head.method == Method::Options => {
            head.form = TargetForm::Asterisk;
            head.path = head.target;
            Ok(())
        }
        _ => absolute(head),
    }
}

/// `http://host[:port]/path?query`.
fn absolute(head: &mut RequestHead) -> Result<(), Problem> {
    let text = head.target.of(head.headers.buffer());
    let scheme_end = memchr::memmem::find(text, b"://").ok_or(Problem::TargetForm)?;
    let scheme = text.get(..scheme_end).unwrap_or_default();
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return Err(Problem::TargetForm);
    }
    let start = scheme_end + 3;
    let rest = text.get(start..).unwrap_or_default();
    let length = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    let starts_with_slash = rest.get(length) == Some(&b'/');
    let base = head.target.start() + start;
    let origin = Span::new(base + length, head.target.end());
    head.form = TargetForm::Absolute;
    head.authority_sent = Span::new(base, base + length);
    normalize_authority(head)?;
    if starts_with_slash {
        head.split_target(origin);
    } else {
        // `http://host?query`: an empty path is `/`.
        let path = format!("/{}", head.str(origin));
        let whole = head.headers.intern(path.as_bytes());
        head.split_target(whole);
    }
    host_follows(head)
}

/// Makes the Host header say what the target says.
fn host_follows(head: &mut RequestHead) -> Result<(), Problem> {
    let authority = head.authority_sent.of(head.headers.buffer()).to_vec();
    if head.headers.get(Known::Host) != Some(&authority) {
        head.headers.set(Known::Host, authority);
    }
    Ok(())
}

fn normalize_authority(head: &mut RequestHead) -> Result<(), Problem> {
    let sent = head.authority_sent.of(head.headers.buffer());
    // Bytes beyond ASCII are refused by the same rule as in text.
    let sent = std::str::from_utf8(sent)
        .map_err(|_| Problem::Authority(normalize::AuthorityError::HostByte))?;
    head.authority = match normalize::authority(sent, head.scheme.default_port())? {
        std::borrow::Cow::Borrowed(_) => head.authority_sent,
        std::borrow::Cow::Owned(normal) => head.headers.intern(normal.as_bytes()),
    };
    Ok(())
}

/// `Expect` (RFC 9110 section 10.1.1): ignored in HTTP/1.0.
fn expectation(head: &mut RequestHead) -> Result<bool, Problem> {
    if !head.headers.has(Known::Expect) {
        return Ok(false);
    }
    if head.version == Version::Http10 {
        head.headers.remove(Known::Expect);
        return Ok(false);
    }
    let wanted = |value: &[u8]| value.eq_ignore_ascii_case(b"100-continue");
    match head.headers.all(Known::Expect).all(wanted) {
        true => Ok(true),
        false => Err(Problem::Expectation),
    }
}

/// Reads and removes what belongs to the connection.
fn connection(head: &mut RequestHead, rules: &Rules, admitted: &mut Admitted) {
    let options = options(&mut head.headers);
    admitted.keep_alive = options.keep_alive(head.version);
    let mut upgrades = head.headers.all(Known::Upgrade);
    let websocket = matches!((upgrades.next(), upgrades.next()),
        (Some(token), None) if token.eq_ignore_ascii_case(b"websocket"));
    drop(upgrades);
    let trailers = head
        .headers
        .all(Known::Te)
        .any(|te| te.eq_ignore_ascii_case(b"trailers"));
    // RFC 6455 section 4.1: GET, HTTP/1.1, no body to mistake for frames.
    if websocket
        && options.upgrade
        && rules.websocket
        && head.version == Version::Http11
        && head.method == Method::Get
        && admitted.framing == Framing::None
    {
        admitted.upgrade = Some(Upgrade::WebSocket);
    }
    let kept = match admitted.upgrade {
        Some(Upgrade::WebSocket) => Known::Upgrade.bit(),
        _ => 0,
    };
    head.headers.remove_all(Known::HOP_BY_HOP & !kept);
    if trailers {
        // The one hop-by-hop header that HTTP/2 knows: kept for an HTTP/2 upstream, the HTTP/1 writer drops it.
        head.headers.append(Known::Te, "trailers");
    }
}

/// What `Connection` says.
#[derive(Debug, Default)]
pub(super) struct Options {
    close: bool,
    persist: bool,
    pub(super) upgrade: bool,
}

impl Options {
    /// RFC 9112 section 9.3.
    pub(super) fn keep_alive(&self, version: Version) -> bool {
        !self.close && (version != Version::Http10 || self.persist)
    }
}

/// Reads `Connection` and removes the headers it names, but never those by which the mesh finds, knows or traces a
/// request: a client may not choose what its peer gets to see of them.
pub(super) fn options(headers: &mut Headers) -> Options {
    const NEVER_REMOVED: u64 = Known::bits(&[
        Known::Host,
        Known::ContentLength,
        Known::ContentType,
        Known::Authorization,
        Known::Cookie,
        Known::SetCookie,
        Known::Forwarded,
        Known::XForwardedFor,
        Known::XForwardedProto,
        Known::XForwardedHost,
        Known::XForwardedPort,
        Known::XRealIp,
        Known::ForwardedClientCert,
        Known::XRequestId,
        Known::Traceparent,
        Known::Tracestate,
        Known::Baggage,
        Known::B3,
        Known::B3Multi,
        Known::Envoy,
        Known::Ripstop,
    ]);
    let mut options = Options::default();
    let mut named: Vec<String> = Vec::new();
    for value in headers.all(Known::Connection) {
        if same_token(b"keep-alive", value) {
            options.persist = true;
            continue;
        }
        for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if token.eq_ignore_ascii_case(b"close") {
                options.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                options.persist = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                options.upgrade = true;
            } else if is_token(token)
                && (Known::of(token).bit() & (NEVER_REMOVED | Known::HOP_BY_HOP)) == 0
            {
                named.push(String::from_utf8_lossy(token).into_owned());
            }
        }
    }
    for name in named {
        headers.remove_named(&name);
    }
    options
}
