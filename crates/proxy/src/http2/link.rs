//! One connection on the codec, shared by the task that drives it and the exchanges on its streams: what came is sorted by
//! stream, what they say gathers in one output that is written once per wake-up.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use ripstop_h2::{
    Code, Config, Connection, Event, FieldWriter, Head, HeadKind, Role, StreamId, Unopened,
    Violation,
};
use rustc_hash::FxHashMap;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::rewound::Rewound;
use super::spelling;
use crate::exchange::Part;
use crate::headers::Headers;
use crate::message::{RequestHead, ResponseHead};
use crate::worker::Worker;

/// Reads per wake-up, so that one connection does not keep the others of its worker waiting.
const READS: usize = 4;
/// Interim heads of one stream that nobody has looked at yet; what is beyond is dropped. Whoever looks gives up before.
const HEADS: usize = 128;
/// Streams that are opened before the server has said how many it takes.
const UNTOLD: usize = 100;
/// The ping that asks whether the client has heard that the connection ends.
const FAREWELL: [u8; 8] = *b"farewell";
const KEEPALIVE: [u8; 8] = *b"areyouup";

/// Why a stream cannot go on.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Broken {
    #[error("the stream was reset: {0}")]
    Reset(Code),
    /// The peer broke a rule on this stream, or on the connection.
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error("the peer went away before it took the stream: {0}")]
    GoneAway(Code),
    #[error("the connection ended: {0}")]
    Ended(io::ErrorKind),
    #[error(transparent)]
    Unopened(#[from] Unopened),
}

/// How a message ends after its data.
enum End {
    Plain,
    Trailers(Headers),
}

/// What came for a stream and was not taken yet.
#[derive(Default)]
struct Slot {
    head: Option<(ResponseHead, bool)>,
    /// Those behind it.
    heads: VecDeque<(ResponseHead, bool)>,
    data: Vec<u8>,
    end: Option<End>,
    broken: Option<Broken>,
    waker: Option<Waker>,
}

impl Slot {
    fn wake(&mut self) -> bool {
        match self.waker.take() {
            Some(waker) => {
                waker.wake();
                true
            }
            None => false,
        }
    }

    /// A response head, whether final or not.
    fn answer(&mut self, worker: &Worker, kind: HeadKind, head: &Head, end: bool) {
        if kind == HeadKind::Interim && self.heads.len() >= HEADS {
            return;
        }
        let mut response = worker.take_response();
        response.take_over(head);
        match &self.head {
            None => self.head = Some((response, end)),
            Some(_) => self.heads.push_back((response, end)),
        }
    }

    fn trail(&mut self, head: &Head, spelt: bool) {
        let mut trailers = Headers::new();
        trailers.take_over(head);
        // Trailers that are not what they say are none.
        if spelt && spelling::of_trailers(&mut trailers).is_err() {
            trailers.clear();
        }
        self.end = Some(End::Trailers(trailers));
    }

    fn take(&mut self, worker: &Worker, data: &[u8], end: bool) {
        if self.data.capacity() == 0 && !data.is_empty() {
            self.data = worker.take_buffer();
        }
        self.data.extend_from_slice(data);
        if end {
            self.end = Some(End::Plain);
        }
    }

    /// What nobody took goes back to where it came from.
    fn give_back(self, worker: &Worker) {
        if let Some((head, _)) = self.head {
            worker.give_response(head);
        }
        if self.data.capacity() > 0 {
            worker.give_buffer(self.data);
        }
    }
}

/// A request that nobody serves yet.
pub(super) struct Asked {
    pub(super) stream: Stream,
    pub(super) head: RequestHead,
    /// It has no body.
    pub(super) ended: bool,
    /// Its head is larger than may be, and not all of it is here.
    pub(super) oversized: bool,
}

struct Inner {
    codec: Connection,
    slots: FxHashMap<StreamId, Slot>,
    asked: VecDeque<(StreamId, RequestHead, bool, bool)>,
    /// Heads of requests that were malformed, to be recorded.
    malformed: Vec<RequestHead>,
    ended: Option<Broken>,
    /// The peer has been told what the last stream is.
    told: bool,
    ponged: bool,
    /// Nothing more is read; what there is to say is said.
    closing: bool,
    /// Writing waits for the streams that were woken.
    postponed: bool,
}

pub(super) struct Link {
    worker: Rc<Worker>,
    /// Heads say how HTTP/1 spelt them; both sides are ripstops.
    spelt: bool,
    inner: RefCell<Inner>,
    driver: RefCell<Option<Waker>>,
    opened: Instant,
}

/// What became of bytes that were read.
enum Fed {
    More { woke: bool },
    End,
    Failed(Violation),
}

impl Link {
    pub(super) fn new(worker: Rc<Worker>, role: Role, config: Config, spelt: bool) -> Rc<Link> {
        Rc::new(Link {
            worker,
            spelt,
            inner: RefCell::new(Inner {
                codec: Connection::new(role, config),
                slots: FxHashMap::default(),
                asked: VecDeque::new(),
                malformed: Vec::new(),
                ended: None,
                told: false,
                ponged: false,
                closing: false,
                postponed: false,
            }),
            driver: RefCell::new(None),
            opened: Instant::now(),
        })
    }

    /// Makes the driver look at the output.
    pub(super) fn nudge(&self) {
        if let Some(waker) = self.driver.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Drives the connection: reads, sorts, writes. Ready at its end.
    pub(super) fn poll(&self, cx: &mut Context<'_>, io: &mut Rewound) -> Poll<Result<(), Broken>> {
        self.driver.replace(Some(cx.waker().clone()));
        let mut woke = false;
        for turn in 0..READS {
            if self.inner.borrow().closing {
                break;
            }
            match self.worker.poll_read(io, cx, |bytes| self.feed(bytes)) {
                Poll::Pending => break,
                Poll::Ready(Ok(Fed::More { woke: some })) => woke |= some,
                Poll::Ready(Ok(Fed::End)) => {
                    return self.end(Broken::Ended(io::ErrorKind::UnexpectedEof));
                }
                Poll::Ready(Ok(Fed::Failed(violation))) => {
                    // What can be written at once says why.
                    let _told = self.poll_write(cx, io);
                    return self.end(violation.into());
                }
                Poll::Ready(Err(error)) => return self.end(Broken::Ended(error.kind())),
            }
            if turn + 1 == READS {
                cx.waker().wake_by_ref();
            }
        }
        if self.postpones(woke) {
            // The streams run before the next turn; what they say goes with what there is.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match self.poll_write(cx, io) {
            Poll::Ready(Err(error)) => return self.end(Broken::Ended(error.kind())),
            Poll::Ready(Ok(())) if self.is_finished() => {
                return self.end(Broken::Ended(io::ErrorKind::NotConnected));
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        Poll::Pending
    }

    /// Whether what there is to write should wait for streams that were woken: once, and only if there is something.
    fn postpones(&self, woke: bool) -> bool {
        let inner = &mut *self.inner.borrow_mut();
        inner.postponed = woke && !inner.postponed && inner.codec.waits() > 0;
        inner.postponed
    }

    fn is_finished(&self) -> bool {
        let inner = self.inner.borrow();
        inner.closing || (inner.told && inner.slots.is_empty() && inner.asked.is_empty())
    }

    fn poll_write(&self, cx: &mut Context<'_>, io: &mut Rewound) -> Poll<io::Result<()>> {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        while inner.codec.waits() > 0 {
            match Pin::new(&mut *io).poll_write(cx, inner.codec.output()) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => inner.codec.written(count),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        // Whoever waited for room may go on.
        while let Some(stream) = inner.codec.ready() {
            if let Some(slot) = inner.slots.get_mut(&stream) {
                slot.wake();
            }
        }
        if inner.codec.waits() > 0 {
            return Poll::Pending;
        }
        if let Some(memory) = inner.codec.reclaim() {
            self.worker.give_buffer(memory);
        }
        Pin::new(io).poll_flush(cx)
    }

    /// Nothing more comes and nothing more goes.
    fn end(&self, broken: Broken) -> Poll<Result<(), Broken>> {
        let mut inner = self.inner.borrow_mut();
        let orderly = inner.told && inner.slots.is_empty();
        let closed = matches!(broken, Broken::Ended(_)) && inner.slots.is_empty();
        inner.fail(&broken);
        inner.closing = true;
        Poll::Ready(match orderly || closed {
            true => Ok(()),
            false => Err(broken),
        })
    }

    fn feed(&self, mut bytes: &[u8]) -> Fed {
        if bytes.is_empty() {
            return Fed::End;
        }
        let now = self.opened.elapsed();
        let mut inner = self.inner.borrow_mut();
        inner.lend(&self.worker);
        let inner = &mut *inner;
        let mut woke = false;
        loop {
            match inner.codec.next(&mut bytes, now) {
                Ok(None) => break,
                Ok(Some(event)) => {
                    let (slots, worker) = (&mut inner.slots, &self.worker);
                    match event {
                        Event::Head {
                            stream,
                            kind: HeadKind::Request,
                            head,
                            end,
                        } => {
                            let mut request = worker.take_head();
                            request.take_over(head);
                            slots.insert(stream, Slot::default());
                            let asked = (stream, request, end, head.is_oversized());
                            inner.asked.push_back(asked);
                        }
                        Event::Head {
                            stream,
                            kind,
                            head,
                            end,
                        } => {
                            if let Some(slot) = slots.get_mut(&stream) {
                                match kind {
                                    HeadKind::Trailers => slot.trail(head, self.spelt),
                                    _ => slot.answer(worker, kind, head, end),
                                }
                                woke |= slot.wake();
                            }
                        }
                        Event::Data { stream, data, end } => {
                            if let Some(slot) = slots.get_mut(&stream) {
                                slot.take(worker, data, end);
                                woke |= slot.wake();
                            }
                        }
                        Event::Reset { stream, code } => {
                            if let Some(slot) = slots.get_mut(&stream) {
                                slot.broken = Some(Broken::Reset(code));
                                woke |= slot.wake();
                            }
                        }
                        Event::Broken { stream, violation } => match slots.get_mut(&stream) {
                            Some(slot) => {
                                slot.broken = Some(violation.into());
                                woke |= slot.wake();
                            }
                            None if matches!(violation, Violation::Malformed(_)) => {
                                let mut request = worker.take_head();
                                request.take_over(inner.codec.head());
                                inner.malformed.push(request);
                            }
                            None => {}
                        },
                        Event::GoAway { last, code, .. } => {
                            for (_, slot) in slots.iter_mut().filter(|(id, _)| **id > last) {
                                slot.broken.get_or_insert(Broken::GoneAway(code));
                                woke |= slot.wake();
                            }
                        }
                        Event::Pong(FAREWELL) => {
                            let last = inner.codec.last_remote();
                            inner.codec.go_away(Some(last), Code::NO_ERROR, "");
                            inner.told = true;
                        }
                        Event::Pong(_) => inner.ponged = true,
                        Event::Settings | Event::SettingsTaken => {}
                    }
                }
                Err(violation) => return Fed::Failed(violation),
            }
        }
        // Windows may have opened.
        while let Some(stream) = inner.codec.ready() {
            if let Some(slot) = inner.slots.get_mut(&stream) {
                woke |= slot.wake();
            }
        }
        Fed::More { woke }
    }

    pub(super) fn is_spelt(&self) -> bool {
        self.spelt
    }

    pub(super) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// The next request.
    pub(super) fn accept(self: &Rc<Link>) -> Option<Asked> {
        let (id, head, ended, oversized) = self.inner.borrow_mut().asked.pop_front()?;
        let stream = Stream {
            link: self.clone(),
            id,
        };
        Some(Asked {
            stream,
            head,
            ended,
            oversized,
        })
    }

    /// A request that was malformed, and is reset already.
    pub(super) fn take_malformed(&self) -> Option<RequestHead> {
        self.inner.borrow_mut().malformed.pop()
    }

    /// Whether the peer's preface has come.
    pub(super) fn is_begun(&self) -> bool {
        self.inner.borrow().codec.is_begun()
    }

    pub(super) fn takes_extended_connect(&self) -> bool {
        self.inner.borrow().codec.takes_extended_connect()
    }

    /// Tells the client to open no more streams; those it has go on.
    pub(super) fn shut_down(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.lend(&self.worker);
        inner.codec.go_away(None, Code::NO_ERROR, "");
        inner.codec.ping(FAREWELL);
    }

    /// Ends the connection and every stream on it.
    pub(super) fn break_off(&self, code: Code, why: &str) {
        let mut inner = self.inner.borrow_mut();
        inner.lend(&self.worker);
        let last = inner.codec.last_remote();
        inner.codec.go_away(Some(last), code, why);
        inner.closing = true;
        inner.fail(&Broken::Ended(io::ErrorKind::ConnectionAborted));
    }

    /// The peer is there no more, or not worth hearing.
    pub(super) fn give_up(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.closing = true;
        inner.fail(&Broken::Ended(io::ErrorKind::TimedOut));
    }

    /// Nobody but its driver holds the connection, and nothing is left to say.
    pub(super) fn is_abandoned(self: &Rc<Link>) -> bool {
        Rc::strong_count(self) == 1
    }

    pub(super) fn ping(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.lend(&self.worker);
        inner.ponged = false;
        inner.codec.ping(KEEPALIVE);
        drop(inner);
        self.nudge();
    }

    pub(super) fn is_ponged(&self) -> bool {
        self.inner.borrow().ponged
    }

    /// No more streams can be opened.
    pub(super) fn is_closed(&self) -> bool {
        let inner = self.inner.borrow();
        inner.ended.is_some() || inner.closing || inner.codec.is_going_away()
    }

    /// Streams that this side may have at once.
    pub(super) fn most_streams(&self) -> usize {
        let inner = self.inner.borrow();
        match inner.codec.allowed_streams() {
            Some(most) => most as usize,
            None if inner.codec.is_begun() => usize::MAX,
            None => UNTOLD,
        }
    }

    /// Opens a stream with a request.
    pub(super) fn request(
        self: &Rc<Link>,
        ended: bool,
        head_only: bool,
        connect: bool,
        write: impl FnOnce(&mut FieldWriter<'_>),
    ) -> Result<Stream, Unopened> {
        let mut inner = self.inner.borrow_mut();
        inner.lend(&self.worker);
        let id = inner.codec.request(ended, head_only, connect, write)?;
        inner.slots.insert(id, Slot::default());
        drop(inner);
        self.nudge();
        Ok(Stream {
            link: self.clone(),
            id,
        })
    }
}

impl Inner {
    fn lend(&mut self, worker: &Worker) {
        if self.codec.needs_memory() {
            self.codec.lend(worker.take_buffer());
        }
    }

    fn fail(&mut self, broken: &Broken) {
        self.ended.get_or_insert_with(|| broken.clone());
        for slot in self.slots.values_mut() {
            slot.broken.get_or_insert_with(|| broken.clone());
            slot.wake();
        }
    }
}

/// One stream. Dropped before its end, it is cancelled.
pub(super) struct Stream {
    link: Rc<Link>,
    id: StreamId,
}

impl Stream {
    fn with<R>(&self, act: impl FnOnce(&mut Connection, &mut Slot) -> R) -> Option<R> {
        let mut inner = self.link.inner.borrow_mut();
        inner.lend(&self.link.worker);
        let inner = &mut *inner;
        let slot = inner.slots.get_mut(&self.id)?;
        let before = inner.codec.waits();
        let acted = act(&mut inner.codec, slot);
        if before == 0 && inner.codec.waits() > 0 {
            self.link.nudge();
        }
        Some(acted)
    }

    pub(super) fn id(&self) -> StreamId {
        self.id
    }

    /// See [`super::spelling`].
    pub(super) fn is_spelt(&self) -> bool {
        self.link.spelt
    }

    /// What serves it.
    pub(super) fn worker(&self) -> &Worker {
        &self.link.worker
    }

    /// Why the stream cannot go on, once it cannot.
    pub(super) fn broken(&self) -> Option<Broken> {
        let inner = self.link.inner.borrow();
        match inner.slots.get(&self.id) {
            Some(slot) => slot.broken.clone(),
            None => inner.ended.clone(),
        }
    }

    /// Ready once the stream is broken.
    pub(super) fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<Broken> {
        match self.broken() {
            Some(broken) => Poll::Ready(broken),
            None => {
                self.wait(cx);
                Poll::Pending
            }
        }
    }

    /// The task is woken when anything of the stream changes.
    pub(super) fn wait(&self, cx: &mut Context<'_>) {
        let mut inner = self.link.inner.borrow_mut();
        if let Some(slot) = inner.slots.get_mut(&self.id) {
            match &mut slot.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => slot.waker = Some(cx.waker().clone()),
            }
        }
    }

    /// The next response head, and whether the message ends with it.
    pub(super) fn poll_head(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(ResponseHead, bool), Broken>> {
        let next = |slot: &mut Slot| {
            let head = slot.head.take();
            slot.head = slot.heads.pop_front();
            head
        };
        let head = self.with(|_, slot| next(slot)).flatten();
        match head {
            Some(head) => Poll::Ready(Ok(head)),
            None => self.poll_broken(cx).map(Err),
        }
    }

    /// What came of the body. Says whether that was all.
    pub(super) fn poll_body(
        &self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(Part<'_>),
    ) -> Poll<Result<bool, Broken>> {
        let taken = self.with(|codec, slot| {
            let data = std::mem::take(&mut slot.data);
            codec.consumed(self.id, data.len());
            let end = slot.end.take();
            (data, end)
        });
        let (data, end) = taken.unwrap_or_default();
        if data.is_empty() && end.is_none() {
            return self.poll_broken(cx).map(Err);
        }
        if !data.is_empty() {
            sink(Part::Data(&data));
            self.link.worker.give_buffer(data);
        }
        match &end {
            None => {}
            Some(End::Plain) => sink(Part::End),
            Some(End::Trailers(trailers)) => sink(Part::Trailers(trailers)),
        }
        Poll::Ready(Ok(end.is_some()))
    }

    /// The trailers, if they are all that is left of the message; `None`: there is more, or the stream is over. Nothing is
    /// taken.
    pub(super) fn poll_ahead(&self, cx: &mut Context<'_>) -> Poll<Option<Headers>> {
        let ahead = self.with(|_, slot| match &slot.end {
            Some(End::Trailers(trailers)) if slot.data.is_empty() => Some(Some(trailers.clone())),
            None if slot.data.is_empty() => None,
            Some(_) | None => Some(None),
        });
        match ahead.flatten() {
            Some(ahead) => Poll::Ready(ahead),
            None => self.poll_broken(cx).map(|_broken| None),
        }
    }

    /// Sends what there is room for; see [`Connection::send`].
    pub(super) fn send(&self, data: &[u8], end: bool) -> usize {
        self.with(|codec, _| codec.send(self.id, data, end))
            .unwrap_or_default()
    }

    /// `false`: the stream is gone.
    pub(super) fn respond(
        &self,
        interim: bool,
        end: bool,
        write: impl FnOnce(&mut FieldWriter<'_>),
    ) -> Result<bool, Unopened> {
        self.with(|codec, _| codec.respond(self.id, interim, end, write))
            .unwrap_or(Ok(false))
    }

    pub(super) fn trailers(
        &self,
        write: impl FnOnce(&mut FieldWriter<'_>),
    ) -> Result<bool, Unopened> {
        self.with(|codec, _| codec.trailers(self.id, write))
            .unwrap_or(Ok(false))
    }

    pub(super) fn reset(&self, code: Code) {
        self.with(|codec, _| codec.reset(self.id, code));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut inner = self.link.inner.borrow_mut();
        inner.lend(&self.link.worker);
        if let Some(slot) = inner.slots.remove(&self.id) {
            slot.give_back(&self.link.worker);
        }
        let before = inner.codec.waits();
        inner.codec.forget(self.id);
        let more = before == 0 && inner.codec.waits() > 0;
        drop(inner);
        // Whoever waits for the last stream's end is told by its owner.
        if more {
            self.link.nudge();
        }
    }
}
