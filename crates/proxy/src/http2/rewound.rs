//! A stream of which some bytes were already read → one that yields them first, and whose frames are counted as they pass.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use ripstop_model::reason::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::guard::{Guard, Violation};
use crate::stream::Stream;

#[derive(Debug)]
pub(super) struct Rewound {
    early: Vec<u8>,
    used: usize,
    stream: Stream,
    guard: Guard,
    watch: Rc<Watch>,
}

/// What is known of a connection below its codec.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// What TLS said of a connection that broke.
    fault: Cell<Option<Reason>>,
    /// Nothing more is read.
    violation: Cell<Option<Violation>>,
    unfinished: Cell<Option<Instant>>,
}

impl Watch {
    pub(super) fn fault(&self) -> Option<Reason> {
        self.fault.get()
    }

    pub(super) fn violation(&self) -> Option<Violation> {
        self.violation.get()
    }

    /// Since when the peer has owed the rest of a head.
    pub(super) fn unfinished(&self) -> Option<Instant> {
        self.unfinished.get()
    }
}

impl Rewound {
    pub(super) fn new(early: Vec<u8>, stream: Stream, guard: Guard) -> Rewound {
        Rewound {
            early,
            used: 0,
            stream,
            guard,
            watch: Rc::default(),
        }
    }

    pub(super) fn watch(&self) -> Rc<Watch> {
        self.watch.clone()
    }

    /// Bytes not yet counted go to the codec only if they may.
    fn pass(&mut self, fresh: &[u8]) -> bool {
        let now = Instant::now();
        let verdict = self.guard.received(fresh, now);
        self.watch.unfinished.set(self.guard.unfinished());
        self.watch.violation.set(verdict.err());
        verdict.is_ok()
    }

    fn read_early(&mut self, buf: &mut ReadBuf<'_>) {
        let rest = self.early.get(self.used..).unwrap_or_default();
        let count = rest.len().min(buf.remaining());
        buf.put_slice(rest.get(..count).unwrap_or_default());
        self.used += count;
        if self.used == self.early.len() {
            self.early = Vec::new();
            self.used = 0;
        }
    }
}

impl AsyncRead for Rewound {
    /// After a violation nothing comes any more; whoever drives the codec looks at [`Watch::violation`] next.
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.watch.violation().is_some() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if self.early.is_empty() {
            match Pin::new(&mut self.stream).poll_read(cx, buf) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    if let Some(reason) = crate::tls::reason(&error) {
                        self.watch.fault.set(Some(reason));
                    }
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => return Poll::Pending,
            }
        } else {
            self.read_early(buf);
        }
        if self.pass(buf.filled().get(before..).unwrap_or_default()) {
            return Poll::Ready(Ok(()));
        }
        buf.set_filled(before);
        Poll::Pending
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = &written {
            self.guard.sent(buf.get(..*count).unwrap_or_default());
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
