//! How HTTP/1 spelt the names of a head ↔ one field between two ripstop sidecars, so that what shares a connection in
//! HTTP/2's framing arrives as it would have over HTTP/1.
//!
//! HTTP/2 wants names in lower case and says the host apart (RFC 9113 sections 8.2.1 and 8.3.1). Where both sides agreed
//! on `ripstop-h2`, [`HEADER`] lists the names in their order and their case, `Host` among them; of a response its
//! reason phrase follows behind a semicolon. A client's names hardly ever change, so HPACK makes one byte of it. What has
//! no such field did not come by HTTP/1.

use ripstop_h2::FieldWriter;

use crate::headers::scan::find_control;
use crate::headers::{Headers, Known, Span};
use crate::message::{RequestHead, ResponseHead, Version};

pub(crate) const HEADER: &str = "x-ripstop-spelling";

/// A head whose names are not those that its spelling lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Misspelt;

fn list(headers: &Headers, except: u64, out: &mut Vec<u8>) {
    out.clear();
    for field in headers.iter() {
        if field.known.bit() & except == 0 && !is_spelling(field.name) {
            if !out.is_empty() {
                out.push(b',');
            }
            out.extend_from_slice(field.name);
        }
    }
}

fn is_spelling(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(HEADER.as_bytes())
}

fn fields(headers: &Headers, except: u64, writer: &mut FieldWriter<'_>) {
    for field in headers.iter() {
        if field.known.bit() & except == 0 && !is_spelling(field.name) {
            writer.field(field.name, field.value);
        }
    }
}

pub(super) fn request(head: &RequestHead, list_of: &mut Vec<u8>, writer: &mut FieldWriter<'_>) {
    head.write_pseudo(writer, &head.path_and_query());
    fields(&head.headers, Known::HOP_BY_HOP | Known::Host.bit(), writer);
    // The host is said apart, and has a place among the others.
    list(&head.headers, Known::HOP_BY_HOP, list_of);
    writer.field(HEADER.as_bytes(), list_of);
}

pub(super) fn response(head: &ResponseHead, list_of: &mut Vec<u8>, writer: &mut FieldWriter<'_>) {
    head.write_pseudo(writer);
    fields(&head.headers, Known::HOP_BY_HOP, writer);
    list(&head.headers, Known::HOP_BY_HOP, list_of);
    let reason = head.reason().trim_ascii();
    if find_control(reason).is_none() {
        list_of.push(b';');
        list_of.extend_from_slice(reason);
    }
    writer.field(HEADER.as_bytes(), list_of);
}

pub(super) fn trailers(trailers: &Headers, list_of: &mut Vec<u8>, writer: &mut FieldWriter<'_>) {
    fields(trailers, Known::HOP_BY_HOP, writer);
    list(trailers, Known::HOP_BY_HOP, list_of);
    writer.field(HEADER.as_bytes(), list_of);
}

/// Spells a request as its client did.
pub(super) fn of_request(head: &mut RequestHead) -> Result<(), Misspelt> {
    let Some(names) = head.headers.cut(HEADER) else {
        return Ok(());
    };
    head.version = Version::Http11;
    match head.headers.respell(names, head.authority_sent) {
        true => Ok(()),
        false => Err(Misspelt),
    }
}

/// Spells a response as its server did.
pub(super) fn of_response(head: &mut ResponseHead) -> Result<(), Misspelt> {
    let Some(spelling) = head.headers.cut(HEADER) else {
        return Ok(());
    };
    head.version = Version::Http11;
    let text = spelling.of(head.headers.buffer());
    let end = memchr::memchr(b';', text).unwrap_or(text.len());
    let middle = spelling.start() + end;
    head.reason = Span::new((middle + 1).min(spelling.end()), spelling.end());
    let names = Span::new(spelling.start(), middle);
    match head.headers.respell(names, Span::default()) {
        true => Ok(()),
        false => Err(Misspelt),
    }
}

pub(super) fn of_trailers(trailers: &mut Headers) -> Result<(), Misspelt> {
    let Some(names) = trailers.cut(HEADER) else {
        return Ok(());
    };
    match trailers.respell(names, Span::default()) {
        true => Ok(()),
        false => Err(Misspelt),
    }
}
