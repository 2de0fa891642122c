//! One exchange on an upstream HTTP/2 connection: a request head and body out, response heads and a body in.

use std::net::SocketAddr;
use std::task::{Context, Poll};

use ripstop_h2::{Code, FieldWriter, Unopened};
use ripstop_model::reason::Reason;
use ripstop_model::seam::Ends;

use super::flow::{Inflow, Outflow};
use super::link::{Broken, Stream};
use super::session::Lease;
use super::spelling;
use crate::error::{Error, Retry};
use crate::exchange::{Body, Part, Upstream};
use crate::headers::{Headers, Known};
use crate::http1::{Accepted, Framing, Upgrade};
use crate::message::{Method, RequestHead, ResponseHead, Version};

/// One attempt on a stream of its own. Dropped before its end, the stream is cancelled.
pub struct Http2 {
    lease: Lease,
    method: Method,
    /// Once the request was begun.
    stream: Option<Stream>,
    out: Outflow,
    /// Once the response has begun.
    intake: Option<Inflow>,
    /// Why the request could not even be sent.
    failed: Option<Error>,
}

impl Http2 {
    pub(crate) fn new(lease: Lease) -> Http2 {
        Http2 {
            lease,
            method: Method::Get,
            stream: None,
            out: Outflow::default(),
            intake: None,
            failed: None,
        }
    }

    fn broke(&self, error: Broken) -> Error {
        let answered = self.intake.is_some();
        let (kind, retry) = match self.lease.fault() {
            Some(fault) if !answered => (fault, Retry::Unknown),
            _ => judge(&error, answered, self.lease.is_reused()),
        };
        Error::new(kind, retry).because(error)
    }
}

/// What an error of a stream or its connection means at this point.
fn judge(broken: &Broken, answered: bool, reused: bool) -> (Reason, Retry) {
    if answered {
        return (Reason::UpstreamClosedMidResponse, Retry::Never);
    }
    match broken {
        // Streams beyond the last one that the server says it took (RFC 9113 section 6.8), and refused ones (section 8.7),
        // were not processed.
        Broken::GoneAway(_) | Broken::Reset(Code::REFUSED_STREAM) => {
            (Reason::UpstreamRefusedStream, Retry::Unprocessed)
        }
        Broken::Unopened(Unopened::Full | Unopened::GoingAway) => {
            (Reason::UpstreamRefusedStream, Retry::Unprocessed)
        }
        Broken::Unopened(Unopened::Invalid) => (Reason::BadRequest, Retry::Never),
        Broken::Reset(_) => (Reason::UpstreamReset, Retry::Unknown),
        Broken::Ended(_) if reused => (Reason::UpstreamClosedReused, Retry::Unknown),
        Broken::Ended(_) => (Reason::UpstreamClosed, Retry::Unknown),
        Broken::Violation(_) => (Reason::UpstreamProtocol, Retry::Unknown),
    }
}

impl Http2 {
    /// Until it is known whether the server takes extended CONNECT.
    pub(crate) async fn begun(&self) {
        self.lease.begun().await;
    }

    /// Opens a WebSocket by extended CONNECT (RFC 8441).
    fn shake(&mut self, head: &RequestHead) {
        if !self.lease.takes_extended_connect() {
            self.failed = Some(Error::terminal(Reason::UpgradeNotAllowed));
            return;
        }
        self.method = Method::Connect;
        let write = |writer: &mut FieldWriter<'_>| head.write_handshake(writer);
        match self.lease.start(false, false, false, write) {
            Ok(stream) => {
                self.stream = Some(stream);
                self.out = Outflow::new(false);
            }
            // Nothing of it left the process.
            Err(unopened) => self.failed = Some(self.broke(unopened.into())),
        }
    }
}

impl Body for Http2 {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(Part<'_>),
    ) -> Poll<Result<(), Error>> {
        let intake = self.intake.as_mut().filter(|intake| !intake.is_done());
        let (Some(intake), Some(stream)) = (intake, &self.stream) else {
            return Poll::Pending;
        };
        let received = std::task::ready!(intake.poll_receive(stream, cx, sink));
        Poll::Ready(received.map_err(|error| self.broke(error)))
    }

    fn push(&mut self, part: Part<'_>) -> Result<(), Error> {
        if let Some(stream) = &self.stream {
            self.out.push(stream, part);
        }
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Some(stream) = &self.stream else {
            return Poll::Ready(Ok(()));
        };
        match std::task::ready!(self.out.poll_flush(stream, cx)) {
            Ok(()) => {}
            // The server wants no more of the request (RFC 9113 section 8.1) or is gone: reading tells which.
            Err(broken) => {
                tracing::trace!(%broken, "upstream stopped reading");
                self.out.abandon();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn backlog(&self) -> usize {
        self.out.backlog()
    }
}

impl Upstream for Http2 {
    fn send(&mut self, head: &RequestHead, framing: Framing, upgrade: Option<Upgrade>) {
        // A client on HTTP/1 reads from a 200 that the upgrade was left out (RFC 9110 section 7.8).
        if upgrade == Some(Upgrade::WebSocket) && head.version == Version::Http2 {
            return self.shake(head);
        }
        self.method = head.method();
        let ended = framing == Framing::None;
        let length = match framing {
            _ if head.headers.has(Known::ContentLength) => None,
            Framing::Length(length) => Some(length),
            // As over HTTP/1: where a body could be expected, that there is none is said.
            Framing::None if self.lease.is_spelt() && self.method.may_have_body() => Some(0),
            _ => None,
        };
        let connect = self.method == Method::Connect;
        let head_only = self.method == Method::Head;
        let write = |writer: &mut FieldWriter<'_>| {
            match self.lease.is_spelt() {
                true => {
                    let worker = self.lease.worker();
                    let mut list = worker.take_buffer();
                    spelling::request(head, &mut list, writer);
                    worker.give_buffer(list);
                }
                false => head.write_h2(writer),
            }
            if let Some(length) = length {
                let mut digits = itoa::Buffer::new();
                writer.field(b"content-length", digits.format(length).as_bytes());
            }
        };
        match self.lease.start(ended, head_only, connect, write) {
            Ok(stream) => {
                self.stream = Some(stream);
                self.out = Outflow::new(ended);
            }
            // Nothing of it left the process.
            Err(unopened) => self.failed = Some(self.broke(unopened.into())),
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
        let (Some(stream), None) = (&self.stream, &self.intake) else {
            return Poll::Pending;
        };
        let (response, ended) = match std::task::ready!(stream.poll_head(cx)) {
            Ok(response) => response,
            Err(error) => return Poll::Ready(Err(self.broke(error))),
        };
        stream
            .worker()
            .give_response(std::mem::replace(head, response));
        if stream.is_spelt() && spelling::of_response(head).is_err() {
            return Poll::Ready(malformed("has other names than it says"));
        }
        if head.status < 200 {
            return Poll::Ready(check(head).map(|()| Accepted {
                interim: true,
                keep_alive: true,
                ..Accepted::default()
            }));
        }
        let accepted = check(head).and_then(|()| accept(head, self.method, ended));
        self.intake = Some(Inflow::new(ended));
        Poll::Ready(accepted)
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<Option<Headers>> {
        match &self.stream {
            Some(stream) => stream.poll_ahead(cx),
            None => Poll::Ready(None),
        }
    }

    fn limit(&mut self, _most: usize) {
        // DATA comes by the frame, and what waits is bounded by the windows.
    }

    fn is_reused(&self) -> bool {
        self.lease.is_reused()
    }

    fn is_request_sent(&self) -> bool {
        self.stream.is_some() && self.out.is_done()
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

/// What the codec lets pass and no head may have, an interim one neither.
fn check(head: &ResponseHead) -> Result<(), Error> {
    match head.headers.has_any(Known::HOP_BY_HOP) {
        true => malformed("has a connection header"),
        false => Ok(()),
    }
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
