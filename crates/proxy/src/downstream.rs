//! A client's HTTP/1 connection: bytes in, one request after another through [`crate::http`], responses out.
//!
//! Between requests the connection owns no buffer: what it waits with is this struct and its place in the worker's list.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use ripstop_model::reason::Reason;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::attempt::earliest;
use crate::connection::Connection;
use crate::error::Error;
use crate::exchange::{Body, Downstream, Part};
use crate::http::{self, HEAD_TIME, Proxy, Refusal};
use crate::http1::body::{Decoder, Encoder, Piece};
use crate::http1::write::{self, Connection as ConnectionHeader};
use crate::http1::{
    self, Admitted, Framing, Limits, Problem, Progress, RequestParser, Rules, Upgrade,
    downstream_framing,
};
use crate::http2::{self, PREFACE};
use crate::live::Tables;
use crate::message::{Method, RequestHead, ResponseHead, Version};
use crate::stream::{Outbox, Stream};
use crate::worker::Timer;

/// Pipelined bytes that are held while a request is being served.
const PIPELINED: usize = 64 * 1024;
/// How long the last bytes of a response that broke off may take.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a new connection may take to ask for something while the process drains: whoever opened it had not heard.
const FRESH: Duration = Duration::from_secs(1);
/// So many bytes of HTTP/2's preface tell it from every HTTP/1 request (`PRI ` is nobody's method).
const TELLING: usize = 4;

/// One HTTP/1 connection and the request it is at.
pub struct Http1 {
    connection: Rc<Connection>,
    stream: Stream,
    intake: Intake,
    outbox: Outbox,
    encoder: Option<Encoder>,
    /// Raw bytes in both directions.
    tunnel: bool,
    shutdown: bool,
    aborted: bool,
}

/// The arriving half.
struct Intake {
    /// Bytes that came and are not used yet.
    input: Vec<u8>,
    /// Too few bytes to tell HTTP/1 from HTTP/2.
    begun: Vec<u8>,
    parser: RequestParser,
    head: RequestHead,
    admitted: Admitted,
    decoder: Decoder,
    limits: Limits,
    /// The connection serves another request after this one.
    keep_alive: bool,
    served: u32,
}

/// What became of waiting for a request.
enum Arrival {
    Request,
    /// Closed, drained or idle for too long: nothing is owed.
    Gone,
    /// The bytes are HTTP/2's.
    Preface,
}

/// Serves HTTP/1 to the connection's end.
pub async fn serve(connection: Rc<Connection>, stream: Stream) {
    Http1::new(connection, stream).run(false).await;
}

/// As [`serve`]; hands the connection to HTTP/2 if it begins with that protocol's preface.
pub async fn serve_either(connection: Rc<Connection>, stream: Stream) {
    Http1::new(connection, stream).run(true).await;
}

impl Http1 {
    fn new(connection: Rc<Connection>, stream: Stream) -> Http1 {
        Http1 {
            connection,
            stream,
            intake: Intake {
                input: Vec::new(),
                begun: Vec::new(),
                parser: RequestParser::default(),
                head: RequestHead::default(),
                admitted: Admitted::default(),
                decoder: Decoder::new(Framing::None, Limits::default()),
                limits: Limits::default(),
                keep_alive: true,
                served: 0,
            },
            outbox: Outbox::default(),
            encoder: None,
            tunnel: false,
            shutdown: false,
            aborted: false,
        }
    }

    async fn run(mut self, may_be_http2: bool) {
        let mut timer = Timer::default();
        let mut preface = may_be_http2;
        loop {
            match self.arrival(&mut timer, preface).await {
                Ok(Arrival::Request) => {
                    // Boxed, so that a connection that waits does not hold the room a request needs.
                    Box::pin(http::serve(&self.connection.clone(), &mut self, &mut timer)).await;
                }
                Ok(Arrival::Gone) => return,
                Ok(Arrival::Preface) => {
                    let early = std::mem::take(&mut self.intake.input);
                    return http2::server::serve(self.connection, self.stream, early).await;
                }
                Err(reason) => {
                    self.intake.keep_alive = false;
                    http::refuse(&self.connection.clone(), &mut self, reason, Refusal::Answer);
                }
            }
            preface = false;
            self.intake.served += 1;
            if self.aborted {
                // What the client was told so far it may have; that it is not all, the reset says.
                let _told = tokio::time::timeout(LAST_WORDS, self.flushed()).await;
                self.stream.reset_on_close();
                return;
            }
            if self.flushed().await.is_err() || self.tunnel {
                return;
            }
            if !self.intake.keep_alive || !self.intake.decoder.is_done() {
                return self.linger().await;
            }
            self.rest();
        }
    }

    /// Gives back everything that only a request needs.
    fn rest(&mut self) {
        let worker = &self.connection.worker;
        self.outbox.clear(worker);
        worker.give_head(std::mem::take(&mut self.intake.head));
        if self.intake.input.is_empty() && self.intake.input.capacity() > 0 {
            worker.give_buffer(std::mem::take(&mut self.intake.input));
        }
        self.encoder = None;
    }

    async fn flushed(&mut self) -> Result<(), Error> {
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Waits for the next request head.
    async fn arrival(&mut self, timer: &mut Timer, preface: bool) -> Result<Arrival, Reason> {
        let mut since = None;
        std::future::poll_fn(|cx| self.poll_arrival(cx, timer, preface, &mut since)).await
    }

    fn poll_arrival(
        &mut self,
        cx: &mut Context<'_>,
        timer: &mut Timer,
        preface: bool,
        since: &mut Option<(bool, Instant)>,
    ) -> Poll<Result<Arrival, Reason>> {
        let Http1 {
            connection,
            stream,
            intake,
            ..
        } = self;
        let worker = &connection.worker;
        let view = worker.view();
        let chain = connection.chain(&view);
        let Some(proxy) = &chain.http else {
            return Poll::Ready(Ok(Arrival::Gone));
        };
        let limits = &proxy.config.limits;
        intake.limits = Limits {
            max_head_bytes: limits.max_request_headers_bytes as usize,
            max_headers: limits.max_request_headers as usize,
        };
        if !intake.input.is_empty() {
            let bytes = std::mem::take(&mut intake.input);
            let outcome = intake.feed(connection, proxy, &bytes, preface);
            worker.give_buffer(bytes);
            if let Some(outcome) = outcome {
                return Poll::Ready(outcome);
            }
        }
        loop {
            let polled = worker.poll_read(stream, cx, |bytes| match bytes.is_empty() {
                true => Some(Ok(Arrival::Gone)),
                false => intake.feed(connection, proxy, bytes, preface),
            });
            match polled {
                Poll::Ready(Ok(None)) => {}
                Poll::Ready(Ok(Some(outcome))) => return Poll::Ready(outcome),
                Poll::Ready(Err(_)) => return Poll::Ready(Ok(Arrival::Gone)),
                Poll::Pending => break,
            }
        }
        let waiting = intake.parser.is_idle();
        let resting = waiting && rests(connection, &view);
        let fresh = intake.served == 0 && connection.opened.elapsed() < FRESH;
        if resting && !fresh {
            return Poll::Ready(Ok(Arrival::Gone));
        }
        let timeouts = &proxy.config.timeouts;
        let timeout = match waiting {
            true => timeouts.idle,
            false => Some(match (timeouts.request_headers, timeouts.idle) {
                (Some(limit), _) => limit,
                (None, Some(idle)) => idle.min(HEAD_TIME),
                (None, None) => HEAD_TIME,
            }),
        };
        // A head's time begins with its first byte, however long the connection rested before.
        let start = match *since {
            Some((was_waiting, start)) if was_waiting == waiting => start,
            _ => {
                let now = Instant::now();
                *since = Some((waiting, now));
                now
            }
        };
        let oldest = timeouts.max_connection_duration.filter(|_| waiting);
        let deadline = earliest([
            timeout.map(|timeout| start + timeout),
            oldest.map(|oldest| connection.end(oldest)),
        ]);
        timer.set(match resting {
            true => Some(connection.opened + FRESH),
            false => deadline,
        });
        match timer.poll_expired(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) if waiting => Poll::Ready(Ok(Arrival::Gone)),
            Poll::Ready(()) => Poll::Ready(Err(Reason::RequestHeadTimeout)),
        }
    }

    fn close_or_keep(&self) -> ConnectionHeader {
        ConnectionHeader::to_client(self.intake.head.version, self.intake.keep_alive)
    }

    /// Half-closes and reads on for a moment (`delayed_close_timeout`), so that the client can read the last response:
    /// closing with unread bytes would reset the connection and take it along (RFC 9112 section 9.6).
    async fn linger(&mut self) {
        let worker = self.connection.worker.clone();
        let chain = self.connection.chain(&worker.view());
        let proxy = chain.http.as_ref();
        let Some(limit) = proxy.and_then(|proxy| proxy.config.timeouts.delayed_close) else {
            return;
        };
        let read_on = async {
            let shut = std::future::poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx));
            if shut.await.is_err() {
                return;
            }
            loop {
                let read = std::future::poll_fn(|cx| {
                    worker.poll_read(&mut self.stream, cx, |bytes| !bytes.is_empty())
                });
                if !matches!(read.await, Ok(true)) {
                    return;
                }
            }
        };
        // Whoever sends on after that gets a reset.
        let _ = tokio::time::timeout(limit, read_on).await;
    }
}

impl Intake {
    /// Parses what arrived; `None` while the head is incomplete. What follows the head is kept in `input`.
    fn feed(
        &mut self,
        connection: &Connection,
        proxy: &Proxy,
        bytes: &[u8],
        preface: bool,
    ) -> Option<Result<Arrival, Reason>> {
        let worker = &connection.worker;
        let keep = |bytes: &[u8]| {
            let mut input = worker.take_buffer();
            input.extend_from_slice(bytes);
            input
        };
        if self.parser.is_idle() {
            if preface {
                if !self.begun.is_empty() {
                    let mut all = std::mem::take(&mut self.begun);
                    all.extend_from_slice(bytes);
                    return self.feed(connection, proxy, &all, preface);
                }
                let beginning = bytes.get(..TELLING).unwrap_or(bytes);
                if PREFACE.starts_with(beginning) && bytes.len() < TELLING {
                    self.begun = keep(bytes);
                    return None;
                }
                if PREFACE.starts_with(beginning) {
                    self.input = keep(bytes);
                    return Some(Ok(Arrival::Preface));
                }
            }
            self.head = worker.take_head();
        }
        match self.parser.parse(bytes, &mut self.head, &self.limits) {
            Ok(Progress::Partial) => None,
            Err(error) => Some(Err(error.reason())),
            Ok(Progress::Complete { consumed }) => {
                if let Some(rest) = bytes.get(consumed..).filter(|rest| !rest.is_empty()) {
                    self.input = keep(rest);
                }
                Some(self.admit(connection, proxy).map(|()| Arrival::Request))
            }
        }
    }

    fn admit(&mut self, connection: &Connection, proxy: &Proxy) -> Result<(), Reason> {
        let rules = Rules {
            scheme: connection.scheme(),
            connect: proxy.may_upgrade(Upgrade::Connect),
            websocket: proxy.may_upgrade(Upgrade::WebSocket),
        };
        self.admitted = http1::admit(&mut self.head, &rules).map_err(|error| error.reason())?;
        self.decoder = Decoder::new(self.admitted.framing, self.limits);
        let most = proxy.config.limits.max_requests_per_connection;
        let limit = proxy.config.timeouts.max_connection_duration;
        self.keep_alive = self.admitted.keep_alive
            && limit.is_none_or(|limit| Instant::now() < connection.end(limit))
            && (most == 0 || self.served + 1 < most)
            && !connection.is_draining();
        Ok(())
    }
}

/// Whether an idle connection ends now: the process drains or its listener is gone.
fn rests(connection: &Connection, view: &Tables) -> bool {
    connection.is_draining() || connection.is_orphaned(view)
}

/// Feeds bytes to a decoder and hands its pieces on. How much was used, and whether the body is complete.
pub(crate) fn decode(
    decoder: &mut Decoder,
    bytes: &[u8],
    sink: &mut dyn FnMut(Part<'_>),
) -> Result<(usize, bool), Problem> {
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let (used, piece) = decoder.next(rest)?;
        at += used;
        match piece {
            Piece::Data(data) => sink(Part::Data(data)),
            Piece::More => return Ok((at, false)),
            Piece::End => {
                match decoder.trailers() {
                    Some(trailers) => sink(Part::Trailers(&trailers)),
                    None => sink(Part::End),
                }
                return Ok((at, true));
            }
        }
    }
}

impl Body for Http1 {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(Part<'_>),
    ) -> Poll<Result<(), Error>> {
        let Http1 {
            connection,
            stream,
            intake,
            ..
        } = self;
        let malformed = |problem: Problem| Error::terminal(Reason::BadRequest).because(problem);
        let done = intake.decoder.is_done();
        if !done && !intake.input.is_empty() {
            let decoded = decode(&mut intake.decoder, &intake.input, sink);
            let (used, _) = decoded.map_err(malformed)?;
            intake.input.drain(..used);
            return Poll::Ready(Ok(()));
        }
        if done && intake.input.len() >= PIPELINED {
            return Poll::Pending;
        }
        let worker = &connection.worker;
        let polled = worker.poll_read(stream, cx, |bytes| {
            if bytes.is_empty() {
                let whole = !done && intake.decoder.close().is_ok();
                if !whole {
                    return Err(Error::terminal(Reason::DownstreamClosed));
                }
                sink(Part::End);
                return Ok(());
            }
            let used = match done {
                true => 0,
                false => {
                    decode(&mut intake.decoder, bytes, sink)
                        .map_err(malformed)?
                        .0
                }
            };
            if let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
                if intake.input.capacity() == 0 {
                    intake.input = worker.take_buffer();
                }
                intake.input.extend_from_slice(rest);
            }
            Ok(())
        });
        polled.map(|read| match read {
            Ok(outcome) => outcome,
            Err(error) => Err(Error::terminal(Reason::DownstreamClosed).because(error)),
        })
    }

    fn push(&mut self, part: Part<'_>) -> Result<(), Error> {
        let out = self.outbox.buffer(&self.connection.worker);
        let wrong = |error| Error::terminal(Reason::UpstreamProtocol).because(error);
        match part {
            Part::Data(data) => match &mut self.encoder {
                Some(encoder) => encoder.data(data, out).map_err(wrong),
                None => Ok(()),
            },
            Part::Trailers(_) | Part::End => {
                let trailers = match part {
                    Part::Trailers(trailers) => Some(trailers),
                    Part::Data(_) | Part::End => None,
                };
                self.shutdown |= self.tunnel;
                match self.encoder.take() {
                    Some(encoder) => encoder.end(trailers, out).map_err(wrong),
                    None => Ok(()),
                }
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let worker = self.connection.worker.clone();
        let closed = |error| Error::terminal(Reason::DownstreamClosed).because(error);
        std::task::ready!(self.outbox.poll_flush(&worker, &mut self.stream, cx)).map_err(closed)?;
        if self.shutdown {
            std::task::ready!(Pin::new(&mut self.stream).poll_shutdown(cx)).map_err(closed)?;
            self.shutdown = false;
        }
        Poll::Ready(Ok(()))
    }

    fn backlog(&self) -> usize {
        self.outbox.len()
    }
}

impl Downstream for Http1 {
    fn request(&self) -> &RequestHead {
        &self.intake.head
    }

    fn request_mut(&mut self) -> &mut RequestHead {
        &mut self.intake.head
    }

    fn admitted(&self) -> Admitted {
        self.intake.admitted
    }

    fn is_request_complete(&self) -> bool {
        self.intake.decoder.is_done()
    }

    fn inform(&mut self, head: &ResponseHead) {
        if self.intake.head.version == Version::Http11 {
            let out = self.outbox.buffer(&self.connection.worker);
            write::response(head, Framing::None, ConnectionHeader::Persist, out);
        }
    }

    fn respond(&mut self, head: &ResponseHead, framing: Framing) {
        let (framing, must_close) = downstream_framing(framing, self.intake.head.version);
        // A request that is still coming in when its response begins may never end.
        self.intake.keep_alive &=
            !must_close && self.intake.decoder.is_done() && !self.connection.is_draining();
        let bodiless =
            self.intake.head.method() == Method::Head || matches!(head.status, 204 | 304);
        let connection = self.close_or_keep();
        let out = self.outbox.buffer(&self.connection.worker);
        if bodiless {
            write::response(head, Framing::None, connection, out);
            self.encoder = None;
            return;
        }
        // A response without a body says so: otherwise the client would wait for the connection's end.
        let framing = match framing {
            Framing::None => Framing::Length(0),
            framing => framing,
        };
        write::response(head, framing, connection, out);
        self.encoder = Some(Encoder::new(framing));
    }

    fn upgrade(&mut self, head: &ResponseHead) {
        let connection = match self.intake.admitted.upgrade {
            Some(Upgrade::WebSocket) => ConnectionHeader::Upgrade,
            Some(Upgrade::Connect) | None => ConnectionHeader::Persist,
        };
        let out = self.outbox.buffer(&self.connection.worker);
        write::response(head, Framing::None, connection, out);
        self.encoder = Some(Encoder::new(Framing::UntilClose));
        self.intake.decoder = Decoder::new(Framing::UntilClose, self.intake.limits);
        self.tunnel = true;
        self.intake.keep_alive = false;
    }

    fn abort(&mut self) {
        self.aborted = true;
    }

    fn room(&self) -> usize {
        usize::MAX
    }
}
