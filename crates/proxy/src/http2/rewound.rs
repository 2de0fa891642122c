//! A stream of which some bytes were already read → one that yields them first.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use ripstop_model::reason::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::Stream;

#[derive(Debug)]
pub(super) struct Rewound {
    early: Vec<u8>,
    used: usize,
    stream: Stream,
    fault: Fault,
}

/// What TLS said of a connection that broke; `h2` keeps of an error only its text.
pub(super) type Fault = Rc<Cell<Option<Reason>>>;

impl Rewound {
    pub(super) fn new(early: Vec<u8>, stream: Stream) -> Rewound {
        Rewound {
            early,
            used: 0,
            stream,
            fault: Fault::default(),
        }
    }

    pub(super) fn fault(&self) -> Fault {
        self.fault.clone()
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = self.early.get(self.used..).unwrap_or_default();
        if rest.is_empty() {
            let read = Pin::new(&mut self.stream).poll_read(cx, buf);
            if let Poll::Ready(Err(error)) = &read
                && let Some(reason) = crate::tls::reason(error)
            {
                self.fault.set(Some(reason));
            }
            return read;
        }
        let count = rest.len().min(buf.remaining());
        buf.put_slice(rest.get(..count).unwrap_or_default());
        self.used += count;
        if self.used == self.early.len() {
            self.early = Vec::new();
            self.used = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
