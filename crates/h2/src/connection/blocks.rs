//! HEADERS and CONTINUATION → heads of requests and responses, trailers.

use super::receive::{Breach, Found, Outcome};
use super::{Connection, HeadKind};
use crate::frame::{self, Header, MAX_FRAME, StreamId, split_u31};
use crate::guard::Waste;
use crate::head::Kind;
use crate::hpack::Undecoded;
use crate::stream::Half;
use crate::violation::{Code, Malformed, Violation};

/// A field block whose end has not come.
#[derive(Debug, Default)]
pub(super) struct Block {
    open: Option<Open>,
    bytes: Vec<u8>,
    frames: u32,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    stream: StreamId,
    end: bool,
    dependent: bool,
}

impl Block {
    pub(super) fn stream(&self) -> Option<StreamId> {
        self.open.map(|open| open.stream)
    }
}

impl Connection {
    pub(super) fn headers(&mut self, header: Header, payload: &[u8]) -> Outcome {
        let mut block = payload;
        if header.has(frame::PADDED) {
            let (padding, rest) = block.split_first().ok_or(Violation::FrameLength)?;
            let length = rest.len().checked_sub(usize::from(*padding));
            block = length
                .and_then(|length| rest.get(..length))
                .ok_or(Violation::Padding)?;
        }
        let mut dependent = false;
        if header.has(frame::PRIORITY) {
            let (parent, rest) = split_u31(block).ok_or(Violation::FrameLength)?;
            let (_weight, rest) = rest.split_first().ok_or(Violation::FrameLength)?;
            dependent = parent == header.stream;
            block = rest;
        }
        let open = Open {
            stream: header.stream,
            end: header.has(frame::END_STREAM),
            dependent,
        };
        if header.has(frame::END_HEADERS) {
            return self.block(open, block);
        }
        self.incoming.block.open = Some(open);
        self.incoming.block.frames = 0;
        self.gather(block)?;
        Ok(None)
    }

    pub(super) fn continuation(&mut self, header: Header, payload: &[u8]) -> Outcome {
        self.incoming.block.frames += 1;
        if self.incoming.block.frames > self.config.guards.continuations {
            return Err(Violation::ContinuationFlood.into());
        }
        self.gather(payload)?;
        if !header.has(frame::END_HEADERS) {
            return Ok(None);
        }
        let Some(open) = self.incoming.block.open.take() else {
            return Err(Violation::Continuation.into());
        };
        let mut bytes = std::mem::take(&mut self.incoming.block.bytes);
        let outcome = self.block(open, &bytes);
        bytes.clear();
        // One long block must not hold memory for the rest of the connection's life.
        if bytes.capacity() <= 4 * MAX_FRAME {
            self.incoming.block.bytes = bytes;
        }
        outcome
    }

    fn gather(&mut self, fragment: &[u8]) -> Result<(), Violation> {
        let most = self.config.header_list as usize * self.config.guards.block_bytes;
        let bytes = &mut self.incoming.block.bytes;
        if bytes.len() + fragment.len() > most.max(MAX_FRAME) {
            return Err(Violation::BlockFlood);
        }
        bytes.extend_from_slice(fragment);
        Ok(())
    }

    /// A whole field block. It is decoded whatever its stream's state is: the next one builds on it.
    fn block(&mut self, open: Open, block: &[u8]) -> Outcome {
        let id = open.stream;
        let known = self.streams.get(&id).filter(|stream| !stream.reset);
        let server = self.is_server();
        let fresh = known.is_none() && server && self.is_remote(id) && id > self.last_remote;
        let kind = match known {
            Some(stream) => stream.next_head(server),
            None if fresh => Kind::Request,
            None => Kind::Trailers,
        };
        let most = self.config.header_list as usize;
        let endless = most.saturating_mul(self.config.guards.decoded_bytes);
        self.decoder
            .decode(block, kind, most, endless, &mut self.head)
            .map_err(|undecoded| match undecoded {
                Undecoded::Corrupt => Violation::Compression,
                Undecoded::Endless => Violation::ListFlood,
            })?;
        if fresh {
            return self.asked(open);
        }
        if known_is_none(&self.streams, id) {
            return self.stray_head(id);
        }
        if open.dependent {
            return Err(Breach::Stream(id, Violation::SelfDependency));
        }
        self.continued(open, kind)
    }

    /// HEADERS for a stream that is not open.
    fn stray_head(&mut self, id: StreamId) -> Outcome {
        if !self.is_remote(id) {
            return match id < self.next_local {
                true => self.stray(id),
                // A server opens no streams, and a client none of the server's.
                false => Err(Violation::StreamId.into()),
            };
        }
        match self.is_server() && id <= self.last_remote && self.was_open(id) {
            true => self.stray(id),
            // Passed over, or this peer opens none.
            false => Err(Violation::StreamId.into()),
        }
    }

    /// A frame that carries something, for a stream that was open. If this side reset it, the frame was on its way;
    /// otherwise the peer itself had ended the stream.
    pub(super) fn stray(&mut self, id: StreamId) -> Outcome {
        self.waste(Waste::Stray)?;
        let known = self.streams.get(&id);
        let expected = match known {
            Some(stream) => stream.reset && stream.remote != Half::Ended,
            None => id <= self.forgotten || self.past.contains(&(id, true)),
        };
        match expected {
            true => Ok(None),
            false => Err(Violation::ClosedStream.into()),
        }
    }

    /// Whether the stream was opened rather than passed over.
    fn was_open(&self, id: StreamId) -> bool {
        self.streams.contains_key(&id)
            || id <= self.forgotten
            || self.past.iter().any(|(past, _)| *past == id)
    }

    /// A request on a stream of its own.
    fn asked(&mut self, open: Open) -> Outcome {
        let id = open.stream;
        self.last_remote = id;
        self.watch.opened_stream();
        // What comes after this side's last word is not taken, and told so by that word.
        if self.told.is_some_and(|told| id > told) {
            return self.refuse(id);
        }
        let crowded =
            self.streams.len() >= (self.config.streams as usize).saturating_mul(2).max(16);
        if self.open_remote >= self.config.streams || crowded {
            return Err(Breach::Stream(id, Violation::TooManyStreams));
        }
        if open.dependent {
            return Err(Breach::Stream(id, Violation::SelfDependency));
        }
        if let Some(malformed) = self.head.malformed() {
            return Err(Breach::Stream(id, malformed.into()));
        }
        if self.head.protocol().is_some() && !self.config.extended_connect {
            return Err(Breach::Stream(id, Malformed::PseudoForeign.into()));
        }
        let mut stream = self.stream();
        if !self.head.is_oversized() {
            let asked = stream.asked(&self.head, open.end);
            asked.map_err(|malformed| Breach::Stream(id, malformed.into()))?;
        } else {
            stream.remote = if open.end { Half::Ended } else { Half::Body };
        }
        self.streams.insert(id, stream);
        self.open_remote += 1;
        Ok(Some(Found::Head {
            stream: id,
            kind: HeadKind::Request,
            end: open.end,
        }))
    }

    /// The peer may ask again elsewhere: nothing was processed (RFC 9113 section 8.7).
    fn refuse(&mut self, id: StreamId) -> Outcome {
        self.queue_reset(id, Code::REFUSED_STREAM);
        self.remember(id, true);
        self.answers_fit()?;
        Ok(None)
    }

    /// A response, an interim one, or trailers.
    fn continued(&mut self, open: Open, kind: Kind) -> Outcome {
        let id = open.stream;
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(None);
        };
        if stream.remote == Half::Ended {
            return Err(Breach::Stream(id, Violation::ClosedStream));
        }
        if let Some(malformed) = self.head.malformed() {
            return Err(Breach::Stream(id, malformed.into()));
        }
        if self.head.is_oversized() {
            return Err(Breach::Stream(id, Violation::HeaderList));
        }
        let outcome = match kind {
            Kind::Response => stream
                .answered(&self.head, open.end)
                .map(|interim| match interim {
                    true => HeadKind::Interim,
                    false => HeadKind::Response,
                }),
            Kind::Request | Kind::Trailers => stream.trailed(open.end).map(|()| HeadKind::Trailers),
        };
        let kind = outcome.map_err(|malformed| Breach::Stream(id, malformed.into()))?;
        if stream.is_over() {
            self.close(id);
        }
        Ok(Some(Found::Head {
            stream: id,
            kind,
            end: open.end,
        }))
    }
}

/// No stream that is still open to its peer.
fn known_is_none(streams: &super::Streams, id: StreamId) -> bool {
    streams.get(&id).is_none_or(|stream| stream.reset)
}
