//! DATA frames → pieces of bodies, as they come: a frame need not be whole.

use super::Connection;
use super::receive::{Breach, Data, Found, move_up_to};
use crate::frame::{self, HEADER, Header};
use crate::guard::Waste;
use crate::stream::Half;
use crate::violation::Violation;

impl Connection {
    /// Everything about the frame but its bytes. `false`: more input is needed.
    pub(super) fn data_header(
        &mut self,
        header: Header,
        input: &mut &[u8],
    ) -> Result<bool, Breach> {
        let padded = header.has(frame::PADDED);
        if padded && header.length == 0 {
            return Err(Violation::FrameLength.into());
        }
        let partial = &mut self.incoming.partial;
        let needed = HEADER + usize::from(padded);
        if !move_up_to(partial, input, needed) {
            return Ok(false);
        }
        let padding = match padded {
            true => usize::from(partial.get(HEADER).copied().unwrap_or_default()),
            false => 0,
        };
        partial.clear();
        let around = padding + usize::from(padded);
        let Some(content) = header.length.checked_sub(around) else {
            return Err(Violation::Padding.into());
        };
        let id = header.stream;
        let end = header.has(frame::END_STREAM);
        if !self.receive.take(header.length) {
            return Err(Violation::WindowExceeded.into());
        }
        self.incoming.data = Some(Data {
            stream: id,
            left: content,
            padding,
            end,
            skipped: true,
        });
        let around = u32::try_from(around).unwrap_or_default();
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.reset) else {
            self.free(header.length as u32);
            return self.stray_data(header);
        };
        let fits = stream.receive.take(header.length);
        let broken = match fits {
            true => stream.content(content, end).err(),
            false => Some(Violation::WindowExceeded),
        };
        if let Some(violation) = broken {
            self.free(header.length as u32);
            return Err(Breach::Stream(id, violation));
        }
        // Padding is nobody's: its part of the windows opens again at once.
        let update = stream.receive.free(around);
        stream.held += content as u32;
        if let Some(by) = update.filter(|_| !end) {
            frame::window(&mut self.out, id, by);
        }
        self.free(around);
        if let Some(data) = &mut self.incoming.data {
            data.skipped = false;
        }
        match content == 0 && !end {
            true => self.waste(Waste::EmptyData)?,
            false => self.watch.received_data(),
        }
        Ok(true)
    }

    fn stray_data(&mut self, header: Header) -> Result<bool, Breach> {
        let id = header.stream;
        let idle = match self.is_remote(id) {
            true => id > self.last_remote,
            false => id >= self.next_local,
        };
        if idle {
            return Err(Violation::IdleStream.into());
        }
        self.stray(id).map(|_| true)
    }

    /// What there is of the frame's bytes. `None`: nothing to show; the frame may be over.
    pub(super) fn data_bytes<'i>(
        &mut self,
        input: &mut &'i [u8],
        piece: &mut &'i [u8],
    ) -> Option<Found> {
        let data = self.incoming.data.as_mut()?;
        let count = data.left.min(input.len());
        let (some, rest) = input.split_at_checked(count).unwrap_or_default();
        *input = rest;
        data.left -= count;
        if data.left == 0 {
            let padding = data.padding.min(input.len());
            *input = input.get(padding..).unwrap_or_default();
            data.padding -= padding;
        }
        let over = data.left == 0 && data.padding == 0;
        let data = *data;
        if over {
            self.incoming.data = None;
        }
        if data.skipped {
            return None;
        }
        let id = data.stream;
        // The owner may have reset it in the middle of the frame.
        let stream = self.streams.get_mut(&id).filter(|stream| !stream.reset)?;
        let end = over && data.end;
        if end {
            stream.remote = Half::Ended;
            if stream.is_over() {
                self.close(id);
            }
        }
        if some.is_empty() && !end {
            return None;
        }
        *piece = some;
        Some(Found::Data { stream: id, end })
    }
}
