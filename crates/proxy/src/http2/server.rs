//! A client's HTTP/2 connection: bytes in, each stream a request through [`crate::http`], responses out.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use ripstop_h2::{Budget, Code, Config, FieldWriter, Guards, Role, StreamId};
use ripstop_identity::alpn;
use ripstop_model::reason::Reason;
use ripstop_model::snapshot::http::HttpProxy;
use tokio::time::Instant;

use super::crew::Crew;
use super::flow::{Inflow, Outflow};
use super::guard::{Flood, Guard, Violation};
use super::keepalive::Keepalive;
use super::link::{self, Asked, Broken, Link};
use super::refused::Refused;
use super::rewound::{Rewound, Watch};
use super::spelling;
use super::streams::{Entered, Streams};
use super::websocket;
use super::{SEND_BUFFER, windows};
use crate::connection::Connection;
use crate::error::Error;
use crate::exchange::{Body, Downstream, Part};
use crate::headers::Known;
use crate::http::{self, HEAD_TIME, Refusal};
use crate::http1::{Admitted, Framing, Rules, Upgrade, admit_h2};
use crate::message::{Method, RequestHead, ResponseHead};
use crate::relay::BACKLOG;
use crate::stream::Stream;
use crate::worker::Timer;

/// Between the connection's start and the end of its preface.
const PREFACE_TIME: Duration = Duration::from_secs(10);
/// How long a connection that was told to go away may stay without streams.
const GOODBYE: Duration = Duration::from_secs(10);
/// How long a connection that ends for a flood may take to be told so.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long, and how much of, a request is still read that was answered before its end.
const LINGER: Duration = Duration::from_secs(1);
const SPILT: usize = 256 * 1024;
/// Resets that the client provoked (CVE-2025-8671).
const LOCAL_RESETS: f32 = 500.0;
/// So much may come with a response's head.
const BESIDE_HEAD: usize = 16 * 1024;
/// A response whose client does not read is given up after this where no stream idle timeout is set.
const STALLED: Duration = Duration::from_secs(300);

/// Serves HTTP/2 to the connection's end. `early`: what was already read of it.
pub async fn serve(connection: Rc<Connection>, stream: Stream, early: Vec<u8>) {
    let view = connection.worker.view();
    let chain = connection.chain(&view);
    let Some(proxy) = &chain.http else {
        return;
    };
    let config = proxy.config.clone();
    drop((view, chain));
    let now = Instant::now();
    let spelt = is_spelt(&connection);
    // The names are there twice; whoever sends them has counted them as HTTP/1 does.
    let most = match spelt {
        true => config.limits.max_request_headers_bytes.saturating_mul(2),
        false => config.limits.max_request_headers_bytes,
    };
    let guard = Guard::of_client(config.http2.floods, most, now);
    let mut io = Rewound::new(early, stream, guard);
    let (stream_window, connection_window) = windows(&config.http2, spelt);
    let settings = Config {
        stream_window,
        connection_window,
        streams: config.http2.max_concurrent_streams,
        extended_connect: config.http2.allow_connect,
        header_list: most,
        output: SEND_BUFFER,
        guards: guards(),
    };
    let link = Link::new(connection.worker.clone(), Role::Server, settings, spelt);
    let mut driver = Driver {
        keepalive: config
            .http2
            .keepalive
            .map(|alive| Keepalive::new(alive, now)),
        judged: connection.worker.view().version,
        streams: Rc::new(Streams::new(&config, spelt, now)),
        watch: io.watch(),
        opened: now,
        end: config
            .timeouts
            .max_connection_duration
            .map(|most| connection.end(most)),
        served: 0,
        closing: None,
        broken: None,
        timer: Timer::default(),
        config,
        connection,
        link,
    };
    std::future::poll_fn(|cx| driver.poll(cx, &mut io)).await;
}

/// Both sides agreed on how HTTP/1 comes in frames.
fn is_spelt(connection: &Connection) -> bool {
    let token = connection.tls.as_ref().and_then(|tls| tls.alpn.as_deref());
    token.is_some_and(|token| token.as_bytes() == alpn::RIPSTOP_H2)
}

/// What [`Guard`] counts by the configured limits, the codec need not count again.
pub(super) fn guards() -> Guards {
    Guards {
        resets: Budget::UNLIMITED,
        errors: Budget::new(LOCAL_RESETS, LOCAL_RESETS / 10.0),
        pings: Budget::UNLIMITED,
        settings: Budget::UNLIMITED,
        empty_data: Budget::UNLIMITED,
        priorities: Budget::UNLIMITED,
        windows: Budget::UNLIMITED,
        unknown: Budget::UNLIMITED,
        continuations: u32::MAX,
        ..Guards::default()
    }
}

/// One connection's life.
struct Driver {
    link: Rc<Link>,
    connection: Rc<Connection>,
    config: std::sync::Arc<HttpProxy>,
    streams: Rc<Streams>,
    watch: Rc<Watch>,
    keepalive: Option<Keepalive>,
    /// The version of the tables by which the connection was last allowed.
    judged: u64,
    opened: Instant,
    /// No further request comes by it then (`max_connection_duration`).
    end: Option<Instant>,
    served: u32,
    /// Since when the client has been told to go away.
    closing: Option<Instant>,
    /// And for what; such a connection is not waited for.
    broken: Option<Violation>,
    timer: Timer,
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>, io: &mut Rewound) -> Poll<()> {
        self.streams.waker.replace(Some(cx.waker().clone()));
        let driven = self.link.poll(cx, io);
        while let Some(head) = self.link.take_malformed() {
            self.record_malformed(head);
        }
        while let Some(asked) = self.link.accept() {
            self.served += 1;
            let stream = asked.stream.id();
            self.streams.newest.set(stream);
            if asked.stream.broken().is_some() {
                // Nobody waits for the answer any more, so nobody is asked for it.
                self.streams.reset(stream, Instant::now());
                self.connection.worker.give_head(asked.head);
                continue;
            }
            let entered = Entered::new(&self.streams);
            let call = Call {
                connection: self.connection.clone(),
                asked,
                entered,
            };
            Crew::serve(&self.connection.worker, call);
        }
        if let Poll::Ready(ended) = driven {
            if let Err(error) = ended {
                tracing::debug!(peer = %self.connection.peer, %error, "HTTP/2 connection failed");
                let flood = matches!(error, Broken::Violation(violation) if violation.is_flood());
                if flood && self.broken.is_none() {
                    let stats = &self.connection.worker.shared.totals.http2;
                    stats.flood(Flood::Codec).inc();
                }
            }
            return Poll::Ready(());
        }
        let now = Instant::now();
        if self.broken.is_none()
            && let Some(violation) = self.violation(now)
        {
            self.break_off(violation);
            self.closing = Some(now);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.closing.is_none() && self.is_over(now) {
            if self.streams.spared.get().is_some() {
                let stats = &self.connection.worker.shared.totals.http2;
                stats.replaced_for_resets.inc();
            }
            self.link.shut_down();
            self.closing = Some(now);
            cx.waker().wake_by_ref();
        }
        let link = &self.link;
        let keepalive = self.keepalive.as_mut();
        let gone = keepalive.map(|alive| alive.poll_gone(link, cx));
        if matches!(gone, Some(Poll::Ready(()))) {
            return Poll::Ready(());
        }
        self.timer.set(self.deadline());
        match self.timer.poll_expired(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) if self.closing.is_some() => Poll::Ready(()),
            Poll::Ready(()) if !self.link.is_begun() => {
                tracing::debug!(peer = %self.connection.peer, "the HTTP/2 preface did not come");
                Poll::Ready(())
            }
            Poll::Ready(()) if self.violation(Instant::now()).is_some() => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(()) => {
                self.link.shut_down();
                self.closing = Some(now);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    /// What the client does that no connection may go on with.
    fn violation(&self, now: Instant) -> Option<Violation> {
        let slow = self.head_deadline().is_some_and(|end| now >= end);
        let flood = self.streams.flood.get();
        let flood = flood.or(slow.then_some(Flood::SlowHead));
        self.watch.violation().or(flood.map(Violation::Flood))
    }

    /// Ends the connection and every request on it; the client is told the code.
    fn break_off(&mut self, violation: Violation) {
        let connection = &self.connection;
        let code = match violation {
            Violation::FrameSize => Code::FRAME_SIZE_ERROR,
            Violation::Flood(flood) => {
                let (reason, stats) = (flood.reason(), &connection.worker.shared.totals.http2);
                tracing::debug!(peer = %connection.peer, %reason, "HTTP/2 connection ended");
                stats.flood(flood).inc();
                self.streams.flood.set(Some(flood));
                Code::ENHANCE_YOUR_CALM
            }
        };
        self.broken = Some(violation);
        self.link.break_off(code, "");
    }

    /// A request that the codec refused is counted and logged all the same.
    fn record_malformed(&mut self, head: RequestHead) {
        let mut down = Refused(head);
        let connection = &self.connection;
        http::refuse(connection, &mut down, Reason::BadRequest, Refusal::Silence);
        connection.worker.give_head(down.0);
        self.streams.reset(StreamId::MAX, Instant::now());
    }

    fn head_deadline(&self) -> Option<Instant> {
        let most = self.config.timeouts.request_headers.unwrap_or(HEAD_TIME);
        self.watch.unfinished().map(|since| since + most)
    }

    /// Whether no further request is to come by this connection.
    fn is_over(&mut self, now: Instant) -> bool {
        let connection = &self.connection;
        let view = connection.worker.view();
        if view.version != self.judged {
            self.judged = view.version;
            if !connection.is_allowed(&view) {
                return true;
            }
        }
        let most = self.config.limits.max_requests_per_connection;
        connection.is_draining()
            || self.streams.spared.get().is_some()
            || (most > 0 && self.served >= most)
            || (self.streams.active.get() == 0 && connection.is_orphaned(&view))
            || self.end.is_some_and(|end| now >= end)
    }

    fn deadline(&self) -> Option<Instant> {
        let idle = self.streams.active.get() == 0;
        let since = self.streams.idle_since.get();
        let head = self.head_deadline();
        match self.closing {
            Some(closing) if self.broken.is_some() => Some(closing + FAREWELL),
            Some(closing) => idle.then(|| since.max(closing) + GOODBYE),
            None if !self.link.is_begun() => Some(self.opened + PREFACE_TIME),
            None => {
                let idle = match idle {
                    true => self.config.timeouts.idle.map(|most| since + most),
                    false => None,
                };
                idle.into_iter().chain(self.end).chain(head).min()
            }
        }
    }
}

/// A request that is to be served.
pub(super) struct Call {
    connection: Rc<Connection>,
    asked: Asked,
    entered: Entered,
}

/// Serves one stream.
pub(super) async fn exchange(call: Call, timer: &mut Timer) {
    let Call {
        connection,
        asked,
        entered,
    } = call;
    let view = connection.worker.view();
    let chain = connection.chain(&view);
    drop(view);
    let Some(proxy) = &chain.http else {
        return;
    };
    let Asked {
        stream,
        mut head,
        ended,
        oversized,
    } = asked;
    if stream.broken().is_some() {
        return entered.streams.reset(stream.id(), Instant::now());
    }
    join_cookies(&mut head);
    let rules = Rules {
        scheme: connection.scheme(),
        connect: proxy.may_upgrade(Upgrade::Connect),
        // By extended CONNECT (RFC 8441), which is not taken where it is not offered.
        websocket: proxy.may_upgrade(Upgrade::WebSocket),
    };
    let most = proxy.config.limits.max_request_headers as usize;
    let admitted = match head.headers.len() > most {
        _ if oversized => Err(Reason::RequestHeadTooLarge),
        true => Err(Reason::TooManyRequestHeaders),
        false => admit_h2(&mut head, &rules, ended).map_err(|error| error.reason()),
    };
    let admitted = match stream.is_spelt() {
        true => admitted.and_then(|admitted| match spelling::of_request(&mut head) {
            Ok(()) => Ok(admitted),
            Err(spelling::Misspelt) => Err(Reason::BadRequest),
        }),
        false => admitted,
    };
    if let Ok(Admitted {
        upgrade: Some(Upgrade::WebSocket),
        ..
    }) = &admitted
    {
        websocket::key(&mut head, || connection.worker.random());
    }
    let mut down = Http2 {
        head,
        admitted: *admitted.as_ref().unwrap_or(&Admitted::default()),
        stream,
        intake: Inflow::new(ended),
        reply: Reply::Awaited,
        entered,
        failed: false,
        deserted: false,
        provoked: false,
        spilt: 0,
    };
    match admitted {
        Ok(_) => http::serve(&connection, &mut down, timer).await,
        // A malformed message is an error of its stream (RFC 9113 section 8.1.1).
        Err(reason @ Reason::BadRequest) => {
            http::refuse(&connection, &mut down, reason, Refusal::Silence);
            down.reset(Code::PROTOCOL_ERROR);
            // A reset that the client provoked is as one of its own (CVE-2025-8671).
            down.provoked = true;
        }
        Err(reason) => http::refuse(&connection, &mut down, reason, Refusal::Answer),
    }
    match down.is_reset_unanswered() {
        true => down.entered.streams.reset(down.stream.id(), Instant::now()),
        false => down.entered.streams.answered(),
    }
    let limit = proxy.config.timeouts.stream_idle.unwrap_or(STALLED);
    timer.set(Some(Instant::now() + limit));
    std::future::poll_fn(|cx| match down.poll_flush(cx) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => timer.poll_expired(cx),
    })
    .await;
    timer.set(Some(Instant::now() + LINGER));
    std::future::poll_fn(|cx| match down.poll_rest(cx) {
        Poll::Ready(()) => Poll::Ready(()),
        Poll::Pending => timer.poll_expired(cx),
    })
    .await;
    down.conclude();
    connection.worker.give_head(down.head);
}

/// The crumbs of a cookie are one field for everyone else (RFC 9113 section 8.2.3).
fn join_cookies(head: &mut RequestHead) {
    if head.headers.all(Known::Cookie).nth(1).is_none() {
        return;
    }
    let mut joined = Vec::new();
    for crumb in head.headers.all(Known::Cookie) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(crumb);
    }
    head.headers.set(Known::Cookie, joined);
}

/// One stream's exchange.
struct Http2 {
    head: RequestHead,
    admitted: Admitted,
    stream: link::Stream,
    intake: Inflow,
    reply: Reply,
    entered: Entered,
    /// The client reset the stream or went away.
    failed: bool,
    /// And that before it was answered.
    deserted: bool,
    /// This side reset it, for what the client sent.
    provoked: bool,
    /// Bytes of the request that nobody wanted.
    spilt: usize,
}

enum Reply {
    Awaited,
    Flowing(Outflow),
    /// Reset from this side.
    Over,
}

impl Http2 {
    fn reset(&mut self, code: Code) {
        match std::mem::replace(&mut self.reply, Reply::Over) {
            Reply::Awaited => self.stream.reset(code),
            Reply::Flowing(out) if !out.is_done() => self.stream.reset(code),
            Reply::Flowing(_) | Reply::Over => {}
        }
    }

    fn fail(&mut self) {
        self.failed = true;
        self.deserted |= matches!(self.reply, Reply::Awaited);
    }

    /// The client's end is the request's, whichever side ended it.
    fn gone(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        let flood = self.entered.streams.flood.get();
        Error::terminal(flood.map_or(Reason::DownstreamClosed, Flood::reason)).because(source)
    }

    fn is_reset_unanswered(&self) -> bool {
        self.provoked || self.deserted
    }

    /// Nothing more will be said: a response that is not whole by now never will be, and a request whose rest nobody
    /// wants is stopped (RFC 9113 section 8.1).
    fn conclude(&mut self) {
        match &mut self.reply {
            Reply::Flowing(out) if out.is_done() => {
                if !self.intake.is_done() && !self.failed {
                    self.stream.reset(Code::NO_ERROR);
                }
            }
            Reply::Flowing(_) | Reply::Awaited => self.reset(Code::INTERNAL_ERROR),
            Reply::Over => {}
        }
    }

    /// Takes what is still on its way of a request that was answered early: many clients make an error of the reset that
    /// would stop it, and most have little left to send.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let whole = matches!(&self.reply, Reply::Flowing(out) if out.is_done());
        while whole && !self.intake.is_done() && self.spilt < SPILT && !self.failed {
            let mut count = 0;
            let received = self
                .intake
                .poll_receive(&self.stream, cx, &mut |part| count += part.len().max(1));
            self.spilt += count;
            match std::task::ready!(received) {
                Ok(()) => {}
                Err(_) => self.fail(),
            }
        }
        Poll::Ready(())
    }

    /// Starts the response; `ended`: it has no body.
    fn begin(&mut self, head: &ResponseHead, framing: Framing, ended: bool) {
        if !matches!(self.reply, Reply::Awaited) {
            return;
        }
        // Where a response ends with its head, that says it all (and it is what Envoy writes).
        let length = match framing {
            _ if head.headers.has(Known::ContentLength) => None,
            Framing::Length(0) if !self.stream.is_spelt() => None,
            Framing::Length(length) => Some(length),
            _ => None,
        };
        let write = |writer: &mut FieldWriter<'_>| {
            write_head(&self.stream, head, writer);
            if let Some(length) = length {
                let mut digits = itoa::Buffer::new();
                writer.field(b"content-length", digits.format(length).as_bytes());
            }
        };
        self.reply = match self.stream.respond(false, ended, write) {
            Ok(true) => Reply::Flowing(Outflow::new(ended)),
            Ok(false) => {
                self.fail();
                Reply::Over
            }
            Err(_) => {
                self.stream.reset(Code::INTERNAL_ERROR);
                Reply::Over
            }
        };
    }
}

fn write_head(stream: &link::Stream, head: &ResponseHead, writer: &mut FieldWriter<'_>) {
    match stream.is_spelt() {
        true => {
            let mut list = stream.worker().take_buffer();
            spelling::response(head, &mut list, writer);
            stream.worker().give_buffer(list);
        }
        false => head.write_h2(writer),
    }
}

impl Body for Http2 {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(Part<'_>),
    ) -> Poll<Result<(), Error>> {
        if !self.intake.is_done() {
            let received = self.intake.poll_receive(&self.stream, cx, sink);
            let received = std::task::ready!(received);
            return Poll::Ready(received.map_err(|error| {
                self.fail();
                self.gone(error)
            }));
        }
        match &self.reply {
            Reply::Awaited => {}
            Reply::Flowing(out) if !out.is_done() => {}
            Reply::Flowing(_) | Reply::Over => return Poll::Pending,
        }
        let broken = std::task::ready!(self.stream.poll_broken(cx));
        self.fail();
        Poll::Ready(Err(self.gone(broken)))
    }

    fn push(&mut self, part: Part<'_>) -> Result<(), Error> {
        if let Reply::Flowing(out) = &mut self.reply {
            out.push(&self.stream, part);
            self.entered.note(out.backlog());
        }
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Reply::Flowing(out) = &mut self.reply else {
            return Poll::Ready(Ok(()));
        };
        let flushed = out.poll_flush(&self.stream, cx);
        self.entered.note(out.backlog());
        flushed.map_err(|broken| {
            self.fail();
            self.gone(broken)
        })
    }

    fn backlog(&self) -> usize {
        match self.entered.is_full() {
            true => BACKLOG,
            false => self.entered.waiting,
        }
    }
}

impl Downstream for Http2 {
    fn request(&self) -> &RequestHead {
        &self.head
    }

    fn request_mut(&mut self) -> &mut RequestHead {
        &mut self.head
    }

    fn admitted(&self) -> Admitted {
        self.admitted
    }

    fn is_request_complete(&self) -> bool {
        self.intake.is_done()
    }

    fn inform(&mut self, head: &ResponseHead) {
        if matches!(self.reply, Reply::Awaited) {
            // A client that is gone is found out by what follows.
            let _gone = self
                .stream
                .respond(true, false, |writer| write_head(&self.stream, head, writer));
        }
    }

    fn respond(&mut self, head: &ResponseHead, framing: Framing) {
        let bodiless = self.head.method() == Method::Head || matches!(head.status, 204 | 304);
        let ended = bodiless || framing == Framing::None;
        match self.admitted.upgrade {
            Some(Upgrade::WebSocket) if (200..300).contains(&head.status) => {
                self.begin(&websocket::unanswered(head), framing, ended);
            }
            _ => self.begin(head, framing, ended),
        }
    }

    fn upgrade(&mut self, head: &ResponseHead) {
        match self.admitted.upgrade {
            Some(Upgrade::WebSocket) => {
                self.begin(&websocket::answer(head), Framing::UntilClose, false);
            }
            _ => self.begin(head, Framing::UntilClose, false),
        }
    }

    fn abort(&mut self) {
        self.reset(Code::INTERNAL_ERROR);
    }

    fn room(&self) -> usize {
        match self.reply {
            Reply::Flowing(_) => self.entered.room(),
            // What comes with the head waits beside it, uncounted.
            Reply::Awaited | Reply::Over => BESIDE_HEAD,
        }
    }
}
