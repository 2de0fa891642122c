//! The bodies of one stream: pieces in, DATA and trailers out within the windows; and back.

use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;

use super::has_padded_value;
use crate::exchange::Part;
use crate::headers::{Headers, InvalidField, Known};

/// Why a stream cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the stream was reset: {0}")]
    Reset(Reason),
    #[error(transparent)]
    Failed(#[from] h2::Error),
}

impl Broken {
    pub(super) fn reason(&self) -> Option<Reason> {
        match self {
            Broken::Reset(reason) => Some(*reason),
            Broken::Failed(error) => error.reason(),
        }
    }
}

/// What goes out.
pub(super) struct Outflow {
    pub(super) stream: SendStream<Bytes>,
    pending: BytesMut,
    /// Inner `None`: no trailers.
    end: Option<Option<HeaderMap>>,
    done: bool,
}

impl Outflow {
    /// `ended`: the message ended with its head.
    pub(super) fn new(stream: SendStream<Bytes>, ended: bool) -> Outflow {
        Outflow {
            stream,
            pending: BytesMut::new(),
            end: None,
            done: ended,
        }
    }

    pub(super) fn push(&mut self, part: Part<'_>) -> Result<(), InvalidField> {
        if self.done {
            return Ok(());
        }
        match part {
            Part::Data(data) => self.pending.extend_from_slice(data),
            Part::Trailers(trailers) => {
                self.end = Some(Some(trailers.to_map(Known::HOP_BY_HOP)?));
            }
            Part::End => self.end = Some(None),
        }
        Ok(())
    }

    pub(super) fn backlog(&self) -> usize {
        self.pending.len()
    }

    /// Whether everything, the end included, is with the connection.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Gives up what is not sent.
    pub(super) fn abandon(&mut self) {
        self.done = true;
        self.pending = BytesMut::new();
        self.end = None;
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while !self.done {
            let wanted = self.pending.len();
            if wanted == 0 {
                match self.end.take() {
                    None => return Poll::Ready(Ok(())),
                    Some(None) => self.stream.send_data(Bytes::new(), true)?,
                    Some(Some(trailers)) => self.stream.send_trailers(trailers)?,
                }
                self.done = true;
                break;
            }
            self.stream.reserve_capacity(wanted);
            let room = self.stream.capacity();
            if room == 0 {
                match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => return Poll::Ready(Err(error.into())),
                    None => {
                        let reason = ready!(self.stream.poll_reset(cx))?;
                        return Poll::Ready(Err(Broken::Reset(reason)));
                    }
                }
            }
            let piece = self.pending.split_to(room.min(wanted)).freeze();
            let last = self.pending.is_empty() && matches!(self.end, Some(None));
            self.stream.send_data(piece, last)?;
            self.done = last;
        }
        Poll::Ready(Ok(()))
    }
}

/// What comes in.
pub(super) struct Inflow {
    stream: RecvStream,
    data_ended: bool,
    done: bool,
}

impl Inflow {
    pub(super) fn new(stream: RecvStream) -> Inflow {
        let done = stream.is_end_stream();
        Inflow {
            stream,
            data_ended: done,
            done,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// The next piece. The window opens again as pieces are taken, and they are taken only while there is room for them.
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(Part<'_>),
    ) -> Poll<Result<(), h2::Error>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // A stream that is already gone needs no window.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    sink(Part::Data(&data));
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => self.data_ended = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx))?;
        self.done = true;
        match trailers {
            Some(map) => {
                if has_padded_value(&map) {
                    return Poll::Ready(Err(Reason::PROTOCOL_ERROR.into()));
                }
                let mut trailers = Headers::new();
                trailers.extend_from_map(&map);
                sink(Part::Trailers(&trailers));
            }
            None => sink(Part::End),
        }
        Poll::Ready(Ok(()))
    }
}
