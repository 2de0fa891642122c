//! The bodies of one stream: pieces in, DATA and trailers out within the windows; and back.

use std::task::{Context, Poll, ready};

use ripstop_h2::FieldWriter;

use super::link::{Broken, Stream};
use super::spelling;
use crate::exchange::Part;
use crate::headers::{Headers, Known};

/// What goes out.
#[derive(Default)]
pub(super) struct Outflow {
    pending: Vec<u8>,
    /// How much of it is with the connection.
    sent: usize,
    /// Inner `None`: no trailers.
    end: Option<Option<Headers>>,
    done: bool,
}

impl Outflow {
    /// `ended`: the message ended with its head.
    pub(super) fn new(ended: bool) -> Outflow {
        Outflow {
            done: ended,
            ..Outflow::default()
        }
    }

    /// What there is room for is with the connection at once; the rest waits.
    pub(super) fn push(&mut self, stream: &Stream, part: Part<'_>) {
        if self.done {
            return;
        }
        let free = self.pending.is_empty() && self.end.is_none();
        match part {
            Part::Data(data) => {
                let sent = if free { stream.send(data, false) } else { 0 };
                let rest = data.get(sent..).unwrap_or_default();
                if !rest.is_empty() {
                    if self.pending.capacity() == 0 {
                        self.pending = stream.worker().take_buffer();
                    }
                    self.pending.extend_from_slice(rest);
                }
            }
            Part::Trailers(trailers) => match free && send_trailers(stream, trailers) {
                true => self.done = true,
                false => self.end = Some(Some(trailers.clone())),
            },
            Part::End => self.end = Some(None),
        }
    }

    pub(super) fn backlog(&self) -> usize {
        self.pending.len() - self.sent
    }

    /// Whether everything, the end included, is with the connection.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Gives up what is not sent.
    pub(super) fn abandon(&mut self) {
        *self = Outflow::new(true);
    }

    pub(super) fn poll_flush(
        &mut self,
        stream: &Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        while !self.done {
            let rest = self.pending.get(self.sent..).unwrap_or_default();
            if rest.is_empty() {
                self.sent = 0;
                if self.pending.capacity() > 0 {
                    let buffer = std::mem::take(&mut self.pending);
                    stream.worker().give_buffer(buffer);
                }
                let Some(end) = self.end.take() else {
                    return Poll::Ready(Ok(()));
                };
                if let Some(broken) = stream.broken() {
                    return Poll::Ready(Err(broken));
                }
                match end {
                    None => {
                        stream.send(&[], true);
                    }
                    Some(trailers) => {
                        stream.trailers(|writer| write(stream, &trailers, writer))?;
                    }
                }
                self.done = true;
                break;
            }
            let wanted = rest.len();
            let last = matches!(self.end, Some(None));
            let count = stream.send(rest, last);
            self.sent += count;
            if count == wanted {
                self.done = last;
                continue;
            }
            if count == 0 {
                return Poll::Ready(Err(ready!(stream.poll_broken(cx))));
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn write(stream: &Stream, trailers: &Headers, writer: &mut FieldWriter<'_>) {
    match stream.is_spelt() {
        true => spelling::trailers(trailers, &mut Vec::new(), writer),
        false => trailers.write_fields(writer, Known::HOP_BY_HOP),
    }
}

/// `false`: they are not sent, and trying again tells why.
fn send_trailers(stream: &Stream, trailers: &Headers) -> bool {
    stream.trailers(|writer| write(stream, trailers, writer)) == Ok(true)
}

/// What comes in.
#[derive(Default)]
pub(super) struct Inflow {
    done: bool,
}

impl Inflow {
    /// `ended`: the message ended with its head.
    pub(super) fn new(ended: bool) -> Inflow {
        Inflow { done: ended }
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// The next pieces. The window opens again as pieces are taken, and they are taken only while there is room for them.
    pub(super) fn poll_receive(
        &mut self,
        stream: &Stream,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(Part<'_>),
    ) -> Poll<Result<(), Broken>> {
        self.done = ready!(stream.poll_body(cx, sink))?;
        Poll::Ready(Ok(()))
    }
}
