//! One exchange on an upstream HTTP/1 connection: a request head and body out, response heads and a body in.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use ripstop_model::reason::Reason;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::downstream::decode;
use crate::error::{Error, Retry};
use crate::exchange::{Body, Part, Upstream};
use crate::http1::body::{Decoder, Encoder};
use crate::http1::write;
use crate::http1::{
    self, Accepted, Asked, Framing, Limits, Problem, Progress, ResponseParser, Upgrade,
};
use crate::message::{RequestHead, ResponseHead};
use crate::pool::{Idle, Key, Ticket};
use crate::stream::{Outbox, Stream};
use crate::worker::Worker;

/// One attempt on an HTTP/1 connection.
pub struct Http1 {
    worker: Rc<Worker>,
    cluster: Arc<Cluster>,
    key: Key,
    stream: Stream,
    ticket: Ticket,
    served: u32,
    opened: Instant,
    outbox: Outbox,
    encoder: Option<Encoder>,
    reply: Reply,
    shutdown: bool,
}

/// The arriving half.
struct Reply {
    /// Bytes that came and are not used yet.
    input: Vec<u8>,
    parser: ResponseParser,
    decoder: Decoder,
    asked: Asked,
    accepted: Accepted,
    limits: Limits,
    answered: bool,
    tunnel: bool,
    /// The connection has served a request before: its end may then be no fault of the upstream (R5.1).
    reused: bool,
}

impl Http1 {
    /// Starts an exchange on a connection that nobody else uses.
    pub fn new(worker: Rc<Worker>, cluster: Arc<Cluster>, key: Key, idle: Idle) -> Http1 {
        Http1 {
            worker,
            cluster,
            key,
            stream: idle.stream,
            ticket: idle.ticket,
            served: idle.served,
            opened: idle.opened,
            outbox: Outbox::default(),
            encoder: None,
            reply: Reply {
                input: Vec::new(),
                parser: ResponseParser::default(),
                decoder: Decoder::new(Framing::None, Limits::default()),
                asked: Asked::default(),
                accepted: Accepted::default(),
                limits: Limits::default(),
                answered: false,
                tunnel: false,
                reused: idle.served > 0,
            },
            shutdown: false,
        }
    }

    pub fn local(&self) -> Option<SocketAddr> {
        self.stream.local()
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
        let kind = match (&error, self.answered) {
            (_, true) => Reason::UpstreamClosedMidResponse,
            _ if self.reused && self.parser.is_idle() => Reason::UpstreamClosedReused,
            (Some(error), _) if error.kind() == io::ErrorKind::ConnectionReset => {
                Reason::UpstreamReset
            }
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
        let accepted = match http1::accept(head, self.asked) {
            Ok(accepted) => accepted,
            Err(error) => return Some(Err(malformed(error))),
        };
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

impl Body for Http1 {
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
        } = self;
        if reply.decoder.is_done() {
            return Poll::Pending;
        }
        if !reply.input.is_empty() {
            let decoded = decode(&mut reply.decoder, &reply.input, sink);
            let (used, _) = decoded.map_err(malformed)?;
            reply.input.drain(..used);
            return Poll::Ready(Ok(()));
        }
        let polled = worker.poll_read(stream, cx, |bytes| {
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

impl Upstream for Http1 {
    fn send(&mut self, head: &RequestHead, framing: Framing, upgrade: Option<Upgrade>) {
        self.reply.asked = Asked {
            method: head.method(),
            upgrade,
        };
        let out = self.outbox.buffer(&self.worker);
        write::request(head, framing, upgrade, out);
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
        } = self;
        if !reply.input.is_empty() {
            let bytes = std::mem::take(&mut reply.input);
            let outcome = reply.feed(worker, &bytes, head);
            worker.give_buffer(bytes);
            if let Some(outcome) = outcome {
                return Poll::Ready(self.switch(outcome));
            }
        }
        loop {
            let polled = worker.poll_read(stream, cx, |bytes| match bytes.is_empty() {
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

    fn is_reused(&self) -> bool {
        self.reply.reused
    }

    fn is_request_sent(&self) -> bool {
        self.encoder.is_none() && self.outbox.is_empty()
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
        let served = self.served + 1;
        if clean && (most == 0 || served < most) {
            let idle = Idle::new(self.stream, self.ticket, served, self.opened);
            worker
                .pools
                .put(&self.cluster, self.key, idle, Instant::now());
        }
    }
}
