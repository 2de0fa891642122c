//! What the streams of a client's connection tell it: who is active, what waits for the client's windows, and who gave up
//! → when the connection ends, and what else may be read for its streams.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;

use ripstop_h2::StreamId;
use ripstop_model::snapshot::http::HttpProxy;
use tokio::time::Instant;

use super::SHARED_STREAMS;
use super::guard::{Allowance, Flood};

/// Bytes of responses that wait for a client, per stream and over all streams of its connection: what comes from
/// upstream is not read beyond that (CVE-2019-9517).
const WAITING: usize = 128 * 1024;
const WAITING_OVERALL: usize = 1024 * 1024;
/// The same of a connection that HTTP/1 requests share: one that stalls must not cost the others theirs.
const WAITING_SHARED: usize = WAITING * SHARED_STREAMS as usize;
/// So much of each response when all that may wait does: a stream whose window is open goes on, however many others
/// stall.
const TRICKLE: usize = 4 * 1024;

/// What the streams of a connection tell it.
pub(super) struct Streams {
    pub(super) active: Cell<u32>,
    /// Bytes of responses that wait for the client's windows.
    waiting: Cell<usize>,
    /// So many may.
    most_waiting: usize,
    /// When the last one ended.
    pub(super) idle_since: Cell<Instant>,
    /// For requests that are reset before they are answered.
    patience: Cell<Allowance>,
    /// The last stream that was looked at.
    pub(super) newest: Cell<StreamId>,
    /// A quarter of the patience is gone: the client is asked to go on by another connection. Streams up to this one were open
    /// by then, and may end as they like: they are no more than may be open at once.
    pub(super) spared: Cell<Option<StreamId>>,
    /// Why the connection ends, where the client is to blame.
    pub(super) flood: Cell<Option<Flood>>,
    pub(super) waker: RefCell<Option<Waker>>,
}

impl Streams {
    pub(super) fn new(config: &HttpProxy, shared: bool, now: Instant) -> Streams {
        let floods = config.http2.floods;
        Streams {
            active: Cell::new(0),
            waiting: Cell::new(0),
            most_waiting: match shared {
                true => WAITING_SHARED,
                false => WAITING_OVERALL,
            },
            idle_since: Cell::new(now),
            patience: Cell::new(Allowance::new(floods.resets, floods.resets_per_second, now)),
            newest: Cell::new(0),
            spared: Cell::new(None),
            flood: Cell::new(None),
            waker: RefCell::new(None),
        }
    }

    /// The client reset a request before it was answered. One client may be many callers that gave up, and what it shares
    /// with others is theirs too (decisions/0010): it is replaced in good order first, and cut only if that goes unheard.
    pub(super) fn reset(&self, stream: StreamId, now: Instant) {
        if self.spared.get().is_some_and(|last| stream <= last) {
            return;
        }
        let mut patience = self.patience.get();
        if !patience.take(now) {
            self.flood.set(Some(Flood::Reset));
        } else if patience.is_waning() && self.spared.get().is_none() {
            self.spared.set(Some(self.newest.get()));
        }
        self.patience.set(patience);
    }

    /// A request was answered.
    pub(super) fn answered(&self) {
        let mut patience = self.patience.get();
        patience.earn();
        self.patience.set(patience);
    }
}

/// A stream among those of its connection.
pub(super) struct Entered {
    pub(super) streams: Rc<Streams>,
    /// Its part of what waits.
    pub(super) waiting: usize,
}

impl Entered {
    pub(super) fn new(streams: &Rc<Streams>) -> Entered {
        streams.active.set(streams.active.get() + 1);
        Entered {
            streams: streams.clone(),
            waiting: 0,
        }
    }

    pub(super) fn note(&mut self, waiting: usize) {
        let others = self.streams.waiting.get() - self.waiting;
        self.streams.waiting.set(others + waiting);
        self.waiting = waiting;
    }

    /// What may be read for it at once.
    pub(super) fn room(&self) -> usize {
        match self.streams.waiting.get() >= self.streams.most_waiting {
            true => TRICKLE,
            false => WAITING.saturating_sub(self.waiting).max(TRICKLE),
        }
    }

    /// As much waits as may.
    pub(super) fn is_full(&self) -> bool {
        self.waiting >= WAITING
            || (self.waiting > 0 && self.streams.waiting.get() >= self.streams.most_waiting)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.note(0);
        let streams = &self.streams;
        streams.active.set(streams.active.get() - 1);
        streams.idle_since.set(Instant::now());
        if let Some(waker) = streams.waker.take() {
            waker.wake();
        }
    }
}
