//! The canonical writer: heads in, the one spelling we send out. Order and case of header names are kept (R15.1).

use ripstop_model::reason::Reason;

use super::framing::Framing;
use super::request::Upgrade;
use crate::headers::{FieldRef, Headers, Known, Line};
use crate::message::{Method, RequestHead, ResponseHead, TargetForm, Version};

/// What the writer says itself about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Connection {
    /// Nothing: HTTP/1.1's default is to persist.
    #[default]
    Persist,
    Close,
    /// Said aloud to an HTTP/1.0 client that asked for it.
    KeepAlive,
    Upgrade,
}

impl Connection {
    /// For a response to a client of this version.
    pub fn to_client(version: Version, keep_alive: bool) -> Connection {
        match (keep_alive, version) {
            (false, _) => Connection::Close,
            (true, Version::Http10) => Connection::KeepAlive,
            (true, _) => Connection::Persist,
        }
    }

    fn line(self) -> &'static [u8] {
        match self {
            Connection::Persist => b"",
            Connection::Close => b"connection: close\r\n",
            Connection::KeepAlive => b"connection: keep-alive\r\n",
            Connection::Upgrade => b"connection: Upgrade\r\n",
        }
    }
}

/// Appends a request head for an HTTP/1.1 upstream.
pub fn request(head: &RequestHead, framing: Framing, upgrade: Option<Upgrade>, out: &mut Vec<u8>) {
    out.extend_from_slice(head.method_span.of(head.headers.buffer()));
    out.push(b' ');
    let text = head.headers.buffer();
    match (head.form, head.query) {
        (TargetForm::Authority, _) => out.extend_from_slice(head.authority_sent.of(text)),
        (_, None) => out.extend_from_slice(head.path.of(text)),
        (_, Some(query)) => {
            out.extend_from_slice(head.path.of(text));
            out.push(b'?');
            out.extend_from_slice(query.of(text));
        }
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    if !head.headers.has(Known::Host) {
        out.extend_from_slice(b"host: ");
        out.extend_from_slice(head.authority_sent.of(text));
        out.extend_from_slice(b"\r\n");
    }
    let connection = match upgrade {
        Some(Upgrade::WebSocket) => Connection::Upgrade,
        Some(Upgrade::Connect) | None => Connection::Persist,
    };
    fields(&head.headers, framing, connection, out);
}

/// Appends a response head; what we write is always HTTP/1.1 (RFC 9110 section 6.2), framed for the client's version.
pub fn response(head: &ResponseHead, framing: Framing, connection: Connection, out: &mut Vec<u8>) {
    status_line(head.status, head.reason(), out);
    fields(&head.headers, framing, connection, out);
}

fn status_line(status: u16, reason: &[u8], out: &mut Vec<u8>) {
    if status == 200 && (reason.is_empty() || reason == b"OK") {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    let known = http::StatusCode::from_u16(status).ok();
    match (reason, known.and_then(|code| code.canonical_reason())) {
        (b"", Some(canonical)) => out.extend_from_slice(canonical.as_bytes()),
        (reason, _) => out.extend_from_slice(reason),
    }
    out.extend_from_slice(b"\r\n");
}

/// The field lines, our own framing and connection lines, and the empty line.
fn fields(headers: &Headers, framing: Framing, connection: Connection, out: &mut Vec<u8>) {
    const SPECIAL: u64 = Known::HOP_BY_HOP | Known::ContentLength.bit();
    let mut digits = itoa::Buffer::new();
    let length = match framing {
        Framing::Length(length) => Some(digits.format(length).as_bytes()),
        Framing::None | Framing::Chunked | Framing::UntilClose => None,
    };
    let special = |field: FieldRef<'_>| match (field.known, framing) {
        // Without a body (HEAD, 304) it tells what there would be.
        (Known::ContentLength, Framing::None) => Line::Keep,
        (Known::ContentLength, _) => match length {
            Some(length) if length != field.value => Line::Value(length),
            Some(_) => Line::Keep,
            None => Line::Drop,
        },
        (Known::Upgrade, _) if connection == Connection::Upgrade => Line::Keep,
        _ => Line::Drop,
    };
    if headers.has_any(SPECIAL) {
        headers.write_lines(out, SPECIAL, special);
    } else {
        headers.write_lines(out, 0, |_| Line::Keep);
    }
    match (framing, length) {
        (Framing::Chunked, _) => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        (_, Some(length)) if !headers.has(Known::ContentLength) => {
            out.extend_from_slice(b"content-length: ");
            out.extend_from_slice(length);
            out.extend_from_slice(b"\r\n");
        }
        _ => {}
    }
    out.extend_from_slice(connection.line());
    out.extend_from_slice(b"\r\n");
}

/// Appends a whole response of the proxy's own.
pub fn local_response(
    head: &mut ResponseHead,
    reason: Reason,
    body: &str,
    asked: Method,
    connection: Connection,
    out: &mut Vec<u8>,
) {
    if !head.headers.has(Known::ContentType) && !body.is_empty() {
        head.headers.append(Known::ContentType, "text/plain");
    }
    head.headers.set_named("x-ripstop-reason", reason.as_str());
    if matches!(head.status, 204 | 304) {
        response(head, Framing::None, connection, out);
        return;
    }
    response(head, Framing::Length(body.len() as u64), connection, out);
    if asked != Method::Head {
        out.extend_from_slice(body.as_bytes());
    }
}
