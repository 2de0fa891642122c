//! Commands of the owner → frames in the output.

use super::{Connection, PLACE, Role, Unopened};
use crate::frame::{self, MAX_FRAME, MAX_STREAM, StreamId};
use crate::guard::Waste;
use crate::hpack::FieldWriter;
use crate::settings::DEFAULT_WINDOW;
use crate::stream::{Half, Stream};
use crate::violation::Code;
use crate::window::{Inbound, Outbound};

/// DATA frames that the peer's windows make smaller than this are counted.
const TINY: usize = 256;

impl Connection {
    /// Opens a stream with a request. `write` gives its fields, pseudo-header fields first. `head_only`: the method is
    /// HEAD; `connect`: it is CONNECT without `:protocol`.
    pub fn request(
        &mut self,
        end: bool,
        head_only: bool,
        connect: bool,
        write: impl FnOnce(&mut FieldWriter<'_>),
    ) -> Result<StreamId, Unopened> {
        if self.role != Role::Client || self.is_going_away() || self.next_local > MAX_STREAM {
            return Err(Unopened::GoingAway);
        }
        if self.room() == 0 {
            return Err(Unopened::Full);
        }
        let id = self.next_local;
        if !self.head_frames(id, end, write) {
            return Err(Unopened::Invalid);
        }
        self.next_local += 2;
        let mut stream = self.stream();
        stream.head_only = head_only;
        stream.connect = connect;
        stream.local = if end { Half::Ended } else { Half::Body };
        self.streams.insert(id, stream);
        self.open_local += 1;
        self.watch.opened_stream();
        Ok(id)
    }

    pub(super) fn stream(&self) -> Stream {
        let size = self.config.stream_window;
        let inbound = match self.unacknowledged {
            // Until the peer has read otherwise, it may send as much as by default.
            true => Inbound::grown(DEFAULT_WINDOW, size),
            false => Inbound::new(size),
        };
        Stream::new(Outbound::new(self.peer.window), inbound)
    }

    /// Sends a response. `interim`: another follows. `Ok(false)`: the stream is gone, or already answered.
    pub fn respond(
        &mut self,
        id: StreamId,
        interim: bool,
        end: bool,
        write: impl FnOnce(&mut FieldWriter<'_>),
    ) -> Result<bool, Unopened> {
        let Some(stream) = self.streams.get(&id) else {
            return Ok(false);
        };
        if stream.reset || stream.local != Half::Head || self.failed.is_some() {
            return Ok(false);
        }
        if !self.head_frames(id, end && !interim, write) {
            return Err(Unopened::Invalid);
        }
        if !interim {
            self.sent(id, if end { Half::Ended } else { Half::Body });
        }
        Ok(true)
    }

    /// Ends a message with trailers. Everything before them must have been sent.
    pub fn trailers(
        &mut self,
        id: StreamId,
        write: impl FnOnce(&mut FieldWriter<'_>),
    ) -> Result<bool, Unopened> {
        let sending = self.streams.get(&id).is_some_and(Stream::may_send);
        if !sending || self.failed.is_some() {
            return Ok(false);
        }
        if !self.head_frames(id, true, write) {
            return Err(Unopened::Invalid);
        }
        self.sent(id, Half::Ended);
        Ok(true)
    }

    /// `false`: a field was invalid and nothing was written.
    fn head_frames(
        &mut self,
        id: StreamId,
        end: bool,
        write: impl FnOnce(&mut FieldWriter<'_>),
    ) -> bool {
        let start = self.out.len();
        self.out.extend_from_slice(&PLACE);
        let mut writer = FieldWriter::new(&mut self.encoder, &mut self.out, &mut self.lower);
        write(&mut writer);
        if !writer.finish() {
            self.out.truncate(start);
            return false;
        }
        frame::headers(&mut self.out, start, id, end);
        true
    }

    fn sent(&mut self, id: StreamId, half: Half) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.local = half;
        if stream.is_over() {
            self.close(id);
        }
    }

    /// How much of a body may be sent at once now.
    pub fn capacity(&self, id: StreamId) -> usize {
        match self.streams.get(&id) {
            Some(stream) if stream.may_send() && self.failed.is_none() => stream
                .send
                .room()
                .min(self.send.room())
                .min(self.output_room()),
            _ => 0,
        }
    }

    fn output_room(&self) -> usize {
        self.config.output.saturating_sub(self.waits())
    }

    /// Sends what there is room for and says how much that was. `end`: the message ends with `data`; then its end is sent
    /// together with the last byte. A stream that wanted more is named by [`Connection::ready`] once there is room.
    pub fn send(&mut self, id: StreamId, mut data: &[u8], end: bool) -> usize {
        let mut room = self.capacity(id);
        let output = self.output_room();
        let sending = self.streams.get(&id).is_some_and(Stream::may_send);
        if !sending || self.failed.is_some() {
            return 0;
        }
        if data.is_empty() && end && self.end_last(id) {
            return 0;
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return 0;
        };
        let mut count = 0;
        let mut ended = false;
        loop {
            let size = data.len().min(MAX_FRAME).min(room);
            if size == 0 && !(data.is_empty() && end) {
                break;
            }
            let (piece, rest) = data.split_at_checked(size).unwrap_or((data, &[]));
            ended = rest.is_empty() && end;
            self.last_data = (id, self.out.len());
            frame::data(&mut self.out, id, piece, ended);
            self.watch.sent_data(size >= TINY);
            data = rest;
            room -= size;
            count += size;
            if data.is_empty() {
                break;
            }
        }
        stream.send.take(count);
        stream.blocked = !data.is_empty();
        self.send.take(count);
        if !data.is_empty() {
            if count > 0 && count < TINY.min(output) {
                // Whether that is too many is told when the peer is next heard.
                self.incoming
                    .overdrawn(self.watch.waste(Waste::Tiny, self.now));
            }
            if !stream.queued {
                stream.queued = true;
                self.waiting.push_back(id);
            }
        }
        if ended {
            self.sent(id, Half::Ended);
        }
        count
    }

    /// Makes the last DATA of the stream its end, if no byte of it was written yet: that spares both sides a frame.
    fn end_last(&mut self, id: StreamId) -> bool {
        let (stream, start) = self.last_data;
        if stream != id || start < self.written {
            return false;
        }
        let ended = frame::end_data(&mut self.out, start, id);
        if ended {
            self.sent(id, Half::Ended);
        }
        ended
    }

    /// A stream that wanted to send more than there was room for, and has room now.
    pub fn ready(&mut self) -> Option<StreamId> {
        let full = self.send.room() == 0 || self.output_room() == 0;
        while let Some(id) = self.waiting.front().copied() {
            let Some(stream) = self.streams.get_mut(&id) else {
                self.waiting.pop_front();
                continue;
            };
            let open = stream.may_send();
            if open && stream.send.room() > 0 {
                if full {
                    return None;
                }
                stream.queued = false;
                self.waiting.pop_front();
                return Some(id);
            }
            // One without a window of its own is queued again by the window.
            stream.queued = false;
            self.waiting.pop_front();
        }
        None
    }

    /// The owner is done with so many bytes of a stream's DATA: the windows open again.
    pub fn consumed(&mut self, id: StreamId, bytes: usize) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if self.failed.is_some() {
            return;
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(stream.held);
        stream.held -= bytes;
        if stream.remote != Half::Ended
            && !stream.reset
            && let Some(by) = stream.receive.free(bytes)
        {
            frame::window(&mut self.out, id, by);
        }
        self.free(bytes);
    }

    pub(super) fn free(&mut self, bytes: u32) {
        if let Some(by) = self.receive.free(bytes)
            && self.failed.is_none()
        {
            frame::window(&mut self.out, 0, by);
        }
    }

    /// Ends a stream at once; nothing happens if it is over.
    pub fn reset(&mut self, id: StreamId, code: Code) {
        if self.failed.is_none() && self.streams.contains_key(&id) {
            self.reset_stream(id, code);
            // The owner's own resets are no answers to anything.
            self.answers = self.answers.saturating_sub(1);
        }
    }

    /// The owner has no more interest in a stream, and consumes nothing more of it. One that is not over is cancelled.
    pub fn forget(&mut self, id: StreamId) {
        self.reset(id, Code::CANCEL);
        if let Some(stream) = self.streams.remove(&id) {
            let late = stream.reset && stream.remote != Half::Ended;
            self.remember(id, late);
            self.free(stream.held);
        }
    }

    /// Asks whether the peer is there; answered by [`super::Event::Pong`].
    pub fn ping(&mut self, payload: [u8; 8]) {
        frame::ping(&mut self.out, false, &payload);
    }

    /// Tells the peer that no stream after `last` is taken: first `None`, so that streams on their way still are, and once
    /// a round trip has passed [`Connection::last_remote`] (RFC 9113 section 6.8).
    pub fn go_away(&mut self, last: Option<StreamId>, code: Code, why: &str) {
        let last = last.unwrap_or(MAX_STREAM);
        if self.failed.is_some() || self.told.is_some_and(|told| told <= last) {
            return;
        }
        self.told = Some(last);
        frame::goaway(&mut self.out, last, code, why);
    }
}
