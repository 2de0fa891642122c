//! One exchange on an upstream HTTP/1 connection: a request head and body out, response heads and a body in.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ripstop_model::reason::Reason;
use ripstop_model::seam::Ends;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::downstream::decode;
use crate::error::{Error, Retry};
use crate::exchange::{Body, Part, Upstream};
use crate::headers::Headers;
use crate::http1::body::{Decoder, Encoder};
use crate::http1::write;
use crate::http1::{
    self, Accepted, Asked, Framing, Limits, Problem, Progress, ResponseParser, Upgrade,
};
use crate::http2::client::Http2;
use crate::message::{RequestHead, ResponseHead};
use crate::pool::{Key, Ticket};
use crate::stream::{Outbox, Stream};
use crate::worker::Worker;

/// One attempt on an HTTP/1 connection.
pub struct Http1 {
    worker: Rc<Worker>,
    cluster: Arc<Cluster>,
    key: Key,
    stream: Stream,
    local: Option<SocketAddr>,
    ticket: Ticket,
    served: u32,
    opened: Instant,
    /// The end of its last exchange.
    since: Instant,
    outbox: Outbox,
    encoder: Option<Encoder>,
    reply: Reply,
    shutdown: bool,
}

/// The arriving half.
#[derive(Default)]
struct Reply {
    /// Bytes that came and are not used yet.
    input: Vec<u8>,
    parser: ResponseParser,
    decoder: Decoder,
    asked: Asked,
    accepted: Accepted,
    limits: Limits,
    /// Bytes of a single read; `None`: as many as come.
    most: Option<usize>,
    answered: bool,
    tunnel: bool,
    /// The connection has served a request before: its end may then be no fault of the upstream (R5.1).
    reused: bool,
}

impl Http1 {
    /// A connection that was just opened.
    pub fn new(
        worker: Rc<Worker>,
        cluster: Arc<Cluster>,
        key: Key,
        stream: Stream,
        ticket: Ticket,
    ) -> Http1 {
        let now = Instant::now();
        Http1 {
            worker,
            cluster,
            key,
            local: stream.local(),
            stream,
            ticket,
            served: 0,
            opened: now,
            since: now,
            outbox: Outbox::default(),
            encoder: None,
            reply: Reply::default(),
            shutdown: false,
        }
    }

    /// Its place among the cluster's connections, for another one.
    pub(crate) fn into_ticket(self) -> Ticket {
        self.ticket
    }

    pub(crate) fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn has_served(&self) -> bool {
        self.served > 0
    }

    /// How long it has been idle, and open.
    pub(crate) fn ages(&self, now: Instant) -> (Duration, Duration) {
        (
            now.saturating_duration_since(self.since),
            now.saturating_duration_since(self.opened),
        )
    }

    /// Whether an idle connection can be used again: nothing came since the last response, not even its end (R5.2).
    /// `strict` asks the kernel instead of the last event.
    pub(crate) fn is_silent(&mut self, strict: bool) -> bool {
        match strict {
            true => !self.stream.is_readable_now(),
            false => !self.stream.is_readable(),
        }
    }

    /// After a switch of protocols what goes up is raw bytes too.
    fn switch(&mut self, outcome: Result<Accepted, Error>) -> Result<Accepted, Error> {
        if matches!(&outcome, Ok(accepted) if accepted.tunnel) {
            self.encoder = Some(Encoder::new(Framing::UntilClose));
        }
        outcome
    }
}

impl Reply {
    /// What the end of the connection means at this point.
    fn ended(&self, error: Option<io::Error>) -> Error {
        let refused = error.as_ref().and_then(crate::tls::reason);
        let kind = match (&error, self.answered) {
            (_, true) => Reason::UpstreamClosedMidResponse,
            // With TLS 1.3 a server says only now that it does not accept our certificate.
            _ if refused.is_some() => refused.unwrap_or(Reason::TlsFailure),
            _ if self.reused && self.parser.is_idle() => Reason::UpstreamClosedReused,
            // Half a head is no HTTP.
            (None, false) if !self.parser.is_idle() => Reason::UpstreamProtocol,
            // However it ended, FIN or RST: Envoy's "connection termination".
            _ => Reason::UpstreamClosed,
        };
        let retry = match self.answered {
            true => Retry::Never,
            false => Retry::Unknown,
        };
        match error {
            Some(error) => Error::new(kind, retry).because(error),
            None => Error::new(kind, retry),
        }
    }

    /// Takes bytes of a response head; `None` while it is incomplete. What follows the head is kept in `input`.
    fn feed(
        &mut self,
        worker: &Worker,
        bytes: &[u8],
        head: &mut ResponseHead,
    ) -> Option<Result<Accepted, Error>> {
        let malformed =
            |error: http1::Error| Error::new(error.reason(), Retry::Unknown).because(error);
        let consumed = match self.parser.parse(bytes, head, &self.limits) {
            Ok(Progress::Partial) => return None,
            Err(error) => return Some(Err(malformed(error))),
            Ok(Progress::Complete { consumed }) => consumed,
        };
        if let Some(rest) = bytes.get(consumed..).filter(|rest| !rest.is_empty()) {
            self.input = worker.take_buffer();
            self.input.extend_from_slice(rest);
        }
        let mut accepted = match http1::accept(head, self.asked) {
            Ok(accepted) => accepted,
            Err(error) => return Some(Err(malformed(error))),
        };
        if accepted.framing == Framing::Length(0) {
            // Over with its head: no piece of it will come that could say so.
            accepted.framing = Framing::None;
        }
        if !accepted.interim {
            self.answered = true;
            self.accepted = accepted;
            self.tunnel = accepted.tunnel;
            let framing = match accepted.tunnel {
                true => Framing::UntilClose,
                false => accepted.framing,
            };
            self.decoder = Decoder::new(framing, self.limits);
        }
        Some(Ok(accepted))
    }
}

impl Body for Box<Http1> {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(Part<'_>),
    ) -> Poll<Result<(), Error>> {
        let malformed = |problem: Problem| {
            let kind = match problem {
                Problem::Truncated => Reason::UpstreamClosedMidResponse,
                _ => Reason::UpstreamProtocol,
            };
            Error::terminal(kind).because(problem)
        };
        let Http1 {
            worker,
            stream,
            reply,
            ..
        } = &mut **self;
        if reply.decoder.is_done() {
            return Poll::Pending;
        }
        if !reply.input.is_empty() {
            let decoded = decode(&mut reply.decoder, &reply.input, sink);
            let (used, _) = decoded.map_err(malformed)?;
            reply.input.drain(..used);
            return Poll::Ready(Ok(()));
        }
        let most = reply.most.unwrap_or(usize::MAX);
        let polled = worker.poll_read_most(stream, cx, most, |bytes| {
            if bytes.is_empty() {
                reply.decoder.close().map_err(malformed)?;
                sink(Part::End);
                return Ok(());
            }
            let (used, _) = decode(&mut reply.decoder, bytes, sink).map_err(malformed)?;
            if let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
                // More than the response: what is not empty at the end is not used again.
                if reply.input.capacity() == 0 {
                    reply.input = worker.take_buffer();
                }
                reply.input.extend_from_slice(rest);
            }
            Ok(())
        });
        polled.map(|read| match read {
            Ok(outcome) => outcome,
            Err(error) => Err(self.reply.ended(Some(error))),
        })
    }

    fn push(&mut self, part: Part<'_>) -> Result<(), Error> {
        let Some(mut encoder) = self.encoder.take() else {
            return Ok(());
        };
        let out = self.outbox.buffer(&self.worker);
        let wrong = |error| Error::terminal(Reason::BadRequest).because(error);
        match part {
            Part::Data(data) => {
                encoder.data(data, out).map_err(wrong)?;
                self.encoder = Some(encoder);
            }
            Part::Trailers(trailers) => encoder.end(Some(trailers), out).map_err(wrong)?,
            Part::End => encoder.end(None, out).map_err(wrong)?,
        }
        self.shutdown |= self.reply.tunnel && part.is_end();
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match std::task::ready!(self.outbox.poll_flush(&self.worker, &mut self.stream, cx)) {
            Ok(()) if self.shutdown => {
                let done = std::task::ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
                self.shutdown = false;
                Poll::Ready(done.map_err(|error| self.reply.ended(Some(error))))
            }
            Ok(()) => Poll::Ready(Ok(())),
            // The upstream may have answered before it stopped reading: reading tells.
            Err(_) if !self.reply.answered => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(self.reply.ended(Some(error)))),
        }
    }

    fn backlog(&self) -> usize {
        self.outbox.len()
    }
}

impl Upstream for Box<Http1> {
    fn send(&mut self, head: &RequestHead, framing: Framing, upgrade: Option<Upgrade>) {
        self.reply.asked = Asked {
            method: head.method(),
            upgrade,
        };
        let out = self.outbox.buffer(&self.worker);
        // Where a body could be expected, that there is none is said (RFC 9110 section 8.6).
        let said = match framing {
            Framing::None if head.method().may_have_body() => Framing::Length(0),
            framing => framing,
        };
        write::request(head, said, upgrade, out);
        self.encoder = (framing != Framing::None).then(|| Encoder::new(framing));
    }

    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<Accepted, Error>> {
        if self.reply.parser.is_idle() {
            head.clear();
        }
        let Http1 {
            worker,
            stream,
            reply,
            ..
        } = &mut **self;
        if !reply.input.is_empty() {
            let bytes = std::mem::take(&mut reply.input);
            let outcome = reply.feed(worker, &bytes, head);
            worker.give_buffer(bytes);
            if let Some(outcome) = outcome {
                return Poll::Ready(self.switch(outcome));
            }
        }
        loop {
            let most = reply.most.unwrap_or(usize::MAX);
            let polled = worker.poll_read_most(stream, cx, most, |bytes| match bytes.is_empty() {
                true => Some(Err(reply.ended(None))),
                false => reply.feed(worker, bytes, head),
            });
            match polled {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(None)) => {}
                Poll::Ready(Ok(Some(outcome))) => return Poll::Ready(self.switch(outcome)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(reply.ended(Some(error)))),
            }
        }
    }

    fn poll_ahead(&mut self, _: &mut Context<'_>) -> Poll<Option<Headers>> {
        Poll::Ready(None)
    }

    fn limit(&mut self, most: usize) {
        self.reply.most = Some(most);
    }

    fn is_reused(&self) -> bool {
        self.reply.reused
    }

    fn is_request_sent(&self) -> bool {
        self.encoder.is_none() && self.outbox.is_empty()
    }

    fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    fn carried(&self) -> Option<(Ends, u64)> {
        let ends = Ends {
            local: self.stream.peer()?,
            remote: self.local?,
        };
        Some((ends, self.outbox.total()))
    }

    fn finish(mut self) {
        let worker = self.worker.clone();
        let clean = self.reply.answered
            && self.reply.accepted.keep_alive
            && !self.reply.tunnel
            && self.reply.decoder.is_done()
            && self.reply.input.is_empty()
            && self.encoder.is_none()
            && self.outbox.is_empty();
        self.outbox.clear(&worker);
        if self.reply.input.capacity() > 0 {
            worker.give_buffer(std::mem::take(&mut self.reply.input));
        }
        let most = self.cluster.config.max_requests_per_connection;
        self.served += 1;
        let stays = self.ticket.stays(&self.key.address);
        if clean && stays && (most == 0 || self.served < most) {
            self.reply = Reply {
                reused: true,
                ..Reply::default()
            };
            self.since = Instant::now();
            worker.pools.put(self);
        }
    }
}

/// One attempt, whichever protocol it is made over.
pub enum Leg {
    Http1(Box<Http1>),
    Http2(Box<Http2>),
}

macro_rules! either {
    ($leg:expr, $up:ident => $what:expr) => {
        match $leg {
            Leg::Http1($up) => $what,
            Leg::Http2($up) => $what,
        }
    };
}

impl Body for Leg {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(Part<'_>),
    ) -> Poll<Result<(), Error>> {
        either!(self, up => up.poll_receive(cx, sink))
    }

    fn push(&mut self, part: Part<'_>) -> Result<(), Error> {
        either!(self, up => up.push(part))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        either!(self, up => up.poll_flush(cx))
    }

    fn backlog(&self) -> usize {
        either!(self, up => up.backlog())
    }
}

impl Upstream for Leg {
    fn send(&mut self, head: &RequestHead, framing: Framing, upgrade: Option<Upgrade>) {
        either!(self, up => up.send(head, framing, upgrade));
    }

    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<Accepted, Error>> {
        either!(self, up => up.poll_response(cx, head))
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<Option<Headers>> {
        either!(self, up => up.poll_ahead(cx))
    }

    fn limit(&mut self, most: usize) {
        either!(self, up => up.limit(most));
    }

    fn is_reused(&self) -> bool {
        either!(self, up => up.is_reused())
    }

    fn is_request_sent(&self) -> bool {
        either!(self, up => up.is_request_sent())
    }

    fn local(&self) -> Option<SocketAddr> {
        either!(self, up => up.local())
    }

    fn carried(&self) -> Option<(Ends, u64)> {
        either!(self, up => up.carried())
    }

    fn finish(self) {
        either!(self, up => up.finish());
    }
}
