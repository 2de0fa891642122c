//! One exchange on an upstream HTTP/2 connection: a request head and body out, response heads and a body in.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use h2::Reason as Code;
use h2::client::ResponseFuture;
use ripstop_model::reason::Reason;
use ripstop_model::seam::Ends;

use super::flow::{Inflow, Outflow};
use super::has_padded_value;
use super::session::Lease;
use crate::error::{Error, Retry};
use crate::exchange::{Body, Part, Upstream};
use crate::headers::Known;
use crate::http1::{Accepted, Framing, Upgrade};
use crate::message::{Method, RequestHead, ResponseHead};

/// One attempt on a stream of its own. Dropped before its end, the stream is cancelled.
pub struct Http2 {
    lease: Lease,
    method: Method,
    out: Option<Outflow>,
    response: Option<ResponseFuture>,
    intake: Option<Inflow>,
    /// Why the request could not even be sent.
    failed: Option<Error>,
}

impl Http2 {
    pub(crate) fn new(lease: Lease) -> Http2 {
        Http2 {
            lease,
            method: Method::Get,
            out: None,
            response: None,
            intake: None,
            failed: None,
        }
    }

    fn broke(&self, error: h2::Error) -> Error {
        let answered = self.intake.is_some();
        let (kind, retry) = match self.lease.fault() {
            Some(fault) if !answered => (fault, Retry::Unknown),
            _ => judge(&error, answered, self.lease.is_reused()),
        };
        Error::new(kind, retry).because(error)
    }
}

/// What an error of a stream or its connection means at this point.
fn judge(error: &h2::Error, answered: bool, reused: bool) -> (Reason, Retry) {
    if answered {
        return (Reason::UpstreamClosedMidResponse, Retry::Never);
    }
    // Streams beyond the last one that the server says it took (RFC 9113 section 6.8), and refused ones (section 8.7),
    // were not processed.
    let refused = error.reason() == Some(Code::REFUSED_STREAM);
    if error.is_remote() && (error.is_go_away() || (error.is_reset() && refused)) {
        return (Reason::UpstreamRefusedStream, Retry::Unprocessed);
    }
    if error.is_reset() && error.is_remote() {
        return (Reason::UpstreamReset, Retry::Unknown);
    }
    match error.get_io() {
        Some(_) if reused => (Reason::UpstreamClosedReused, Retry::Unknown),
        Some(_) => (Reason::UpstreamClosed, Retry::Unknown),
        None => (Reason::UpstreamProtocol, Retry::Unknown),
    }
}

impl Body for Http2 {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(Part<'_>),
    ) -> Poll<Result<(), Error>> {
        let Some(intake) = self.intake.as_mut().filter(|intake| !intake.is_done()) else {
            return Poll::Pending;
        };
        let received = std::task::ready!(intake.poll_receive(cx, sink));
        Poll::Ready(received.map_err(|error| self.broke(error)))
    }

    fn push(&mut self, part: Part<'_>) -> Result<(), Error> {
        match &mut self.out {
            Some(out) => out
                .push(part)
                .map_err(|error| Error::terminal(Reason::BadRequest).because(error)),
            None => Ok(()),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Some(out) = &mut self.out else {
            return Poll::Ready(Ok(()));
        };
        match std::task::ready!(out.poll_flush(cx)) {
            Ok(()) => {}
            // The server wants no more of the request (RFC 9113 section 8.1) or is gone: reading tells which.
            Err(broken) => {
                tracing::trace!(code = ?broken.reason(), "upstream stopped reading");
                out.abandon();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn backlog(&self) -> usize {
        self.out.as_ref().map_or(0, Outflow::backlog)
    }
}

impl Upstream for Http2 {
    fn send(&mut self, head: &RequestHead, framing: Framing, _upgrade: Option<Upgrade>) {
        self.method = head.method();
        let ended = framing == Framing::None;
        let mut request = match head.to_http() {
            Ok(request) => request,
            Err(error) => {
                self.failed = Some(Error::terminal(Reason::BadRequest).because(error));
                return;
            }
        };
        if let Framing::Length(length) = framing
            && !head.headers.has(Known::ContentLength)
        {
            request
                .headers_mut()
                .insert(::http::header::CONTENT_LENGTH, length.into());
        }
        match self.lease.start(request, ended) {
            Ok((response, stream)) => {
                self.response = Some(response);
                self.out = Some(Outflow::new(stream, ended));
            }
            Err(error) => {
                // Nothing of it left the process.
                let kind = Reason::UpstreamRefusedStream;
                self.failed = Some(Error::new(kind, Retry::Unprocessed).because(error));
            }
        }
    }

    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<Accepted, Error>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let Some(response) = &mut self.response else {
            return Poll::Pending;
        };
        if let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
            let (parts, ()) = interim.into_parts();
            *head = ResponseHead::from_http(&parts);
            return Poll::Ready(check(&parts, head).map(|()| Accepted {
                interim: true,
                keep_alive: true,
                ..Accepted::default()
            }));
        }
        let answer = match std::task::ready!(Pin::new(response).poll(cx)) {
            Ok(answer) => answer,
            Err(error) => return Poll::Ready(Err(self.broke(error))),
        };
        self.response = None;
        let (parts, stream) = answer.into_parts();
        *head = ResponseHead::from_http(&parts);
        let intake = Inflow::new(stream);
        let ended = intake.is_done();
        let accepted = check(&parts, head).and_then(|()| accept(head, self.method, ended));
        self.intake = Some(intake);
        Poll::Ready(accepted)
    }

    fn limit(&mut self, _most: usize) {
        // DATA comes by the frame, and what waits is bounded by the windows.
    }

    fn is_reused(&self) -> bool {
        self.lease.is_reused()
    }

    fn is_request_sent(&self) -> bool {
        self.out.as_ref().is_some_and(Outflow::is_done)
    }

    fn carried(&self) -> Option<(Ends, u64)> {
        None
    }

    fn local(&self) -> Option<SocketAddr> {
        self.lease.local()
    }

    fn finish(self) {}
}

fn malformed<T>(what: &str) -> Result<T, Error> {
    let source = format!("the upstream's HTTP/2 response {what}");
    Err(Error::new(Reason::UpstreamProtocol, Retry::Unknown).because(source))
}

/// What no head may have, an interim one neither (RFC 9113 sections 8.2 and 8.6).
fn check(parts: &::http::response::Parts, head: &ResponseHead) -> Result<(), Error> {
    if head.status == 101 {
        return malformed("has status 101");
    }
    if head.headers.has_any(Known::HOP_BY_HOP) {
        return malformed("has a connection header");
    }
    if has_padded_value(&parts.headers) {
        return malformed("has a field whose value begins or ends with whitespace");
    }
    Ok(())
}

/// Checks a response head as HTTP/1 would have it: it may have to be written as that.
fn accept(head: &mut ResponseHead, method: Method, ended: bool) -> Result<Accepted, Error> {
    let tunnel = method == Method::Connect && (200..300).contains(&head.status);
    let mut lengths = head.headers.all(Known::ContentLength);
    let length = match (lengths.next(), lengths.next()) {
        (None, _) => None,
        (Some(length), None) => {
            let digits = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(length).ok().filter(|_| digits);
            match number.and_then(|number| number.parse().ok()) {
                Some(length) => Some(length),
                None => return malformed("has a malformed content-length"),
            }
        }
        (Some(_), Some(_)) => return malformed("repeats content-length"),
    };
    drop(lengths);
    let ended = ended || method == Method::Head || matches!(head.status, 204 | 304);
    let framing = match (ended, length) {
        (true, _) => Framing::None,
        (false, Some(length)) if !tunnel => Framing::Length(length),
        (false, _) => Framing::UntilClose,
    };
    Ok(Accepted {
        framing,
        keep_alive: true,
        interim: false,
        tunnel,
        idle_timeout: None,
    })
}
