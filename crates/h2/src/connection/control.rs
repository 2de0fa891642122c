//! SETTINGS, PING, GOAWAY, WINDOW_UPDATE, RST_STREAM and PRIORITY → what they change.

use super::Connection;
use super::receive::{Breach, Found, Outcome};
use crate::frame::{self, Header, StreamId, split_u31};
use crate::guard::Waste;
use crate::stream::Half;
use crate::violation::{Code, Violation};

/// What is kept of GOAWAY's debug data.
const DEBUG: usize = 256;

impl Connection {
    pub(super) fn settings(&mut self, header: Header, payload: &[u8]) -> Outcome {
        if header.has(frame::ACK) {
            if !payload.is_empty() {
                return Err(Violation::FrameLength.into());
            }
            if !self.incoming.begun {
                return Err(Violation::FirstFrame.into());
            }
            self.waste(Waste::Settings)?;
            let first = std::mem::take(&mut self.unacknowledged);
            return Ok(first.then_some(Found::SettingsTaken));
        }
        self.waste(Waste::Settings)?;
        let before = self.peer.window;
        let client = self.is_server();
        self.peer.apply(payload, client)?;
        self.encoder.resize(self.peer.table);
        let change = i64::from(self.peer.window) - i64::from(before);
        if change != 0 {
            self.windows_changed(change)?;
        }
        self.incoming.begun = true;
        frame::settings_ack(&mut self.out);
        self.answer()?;
        Ok(Some(Found::Settings))
    }

    /// SETTINGS_INITIAL_WINDOW_SIZE changes the windows of all streams (RFC 9113 section 6.9.2).
    fn windows_changed(&mut self, by: i64) -> Result<(), Violation> {
        for (id, stream) in &mut self.streams {
            if !stream.send.enlarge(by) {
                return Err(Violation::WindowOverflow);
            }
            if by > 0 && stream.blocked && !stream.queued {
                stream.queued = true;
                self.waiting.push_back(*id);
            }
        }
        Ok(())
    }

    pub(super) fn ping_frame(&mut self, header: Header, payload: &[u8]) -> Outcome {
        let (Some(payload), 8) = (payload.first_chunk::<8>(), payload.len()) else {
            return Err(Violation::FrameLength.into());
        };
        self.waste(Waste::Ping)?;
        if header.has(frame::ACK) {
            return Ok(Some(Found::Pong(*payload)));
        }
        frame::ping(&mut self.out, true, payload);
        self.answer()?;
        Ok(None)
    }

    pub(super) fn goaway(&mut self, payload: &[u8]) -> Outcome {
        let (last, rest) = split_u31(payload).ok_or(Violation::FrameLength)?;
        let (code, debug) = rest
            .split_first_chunk::<4>()
            .ok_or(Violation::FrameLength)?;
        self.waste(Waste::Settings)?;
        // It may be lowered, never raised (RFC 9113 section 6.8).
        let last = self.heard.map_or(last, |heard| heard.min(last));
        self.heard = Some(last);
        self.incoming.debug.clear();
        let debug = debug.get(..debug.len().min(DEBUG)).unwrap_or_default();
        self.incoming.debug.extend_from_slice(debug);
        let code = Code(u32::from_be_bytes(*code));
        Ok(Some(Found::GoAway { last, code }))
    }

    pub(super) fn window(&mut self, header: Header, payload: &[u8]) -> Outcome {
        let (Some((by, _)), 4) = (split_u31(payload), payload.len()) else {
            return Err(Violation::FrameLength.into());
        };
        self.waste(Waste::Window)?;
        let id = header.stream;
        if id == 0 {
            if by == 0 {
                return Err(Violation::WindowZero.into());
            }
            return match self.send.enlarge(i64::from(by)) {
                true => Ok(None),
                false => Err(Violation::WindowOverflow.into()),
            };
        }
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_over()) else {
            return self.stray_control(id);
        };
        if by == 0 {
            return Err(Breach::Stream(id, Violation::WindowZero));
        }
        if !stream.send.enlarge(i64::from(by)) {
            return Err(Breach::Stream(id, Violation::WindowOverflow));
        }
        if stream.blocked && !stream.queued {
            stream.queued = true;
            self.waiting.push_back(id);
        }
        Ok(None)
    }

    /// A frame that carries nothing, for a stream that is not open: fine if it once was.
    fn stray_control(&mut self, id: StreamId) -> Outcome {
        let idle = match self.is_remote(id) {
            true => id > self.last_remote,
            false => id >= self.next_local,
        };
        if idle {
            return Err(Violation::IdleStream.into());
        }
        self.waste(Waste::Stray)?;
        Ok(None)
    }

    pub(super) fn reset_frame(&mut self, header: Header, payload: &[u8]) -> Outcome {
        let (Some(code), 4) = (payload.first_chunk::<4>(), payload.len()) else {
            return Err(Violation::FrameLength.into());
        };
        let id = header.stream;
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_over()) else {
            return self.stray_control(id);
        };
        stream.reset = true;
        stream.remote = Half::Ended;
        let unanswered = stream.local == Half::Head;
        self.close(id);
        if unanswered && self.is_server() {
            self.waste(Waste::Reset)?;
        }
        let code = Code(u32::from_be_bytes(*code));
        Ok(Some(Found::Reset { stream: id, code }))
    }

    pub(super) fn priority(&mut self, header: Header, payload: &[u8]) -> Outcome {
        self.waste(Waste::Priority)?;
        let id = header.stream;
        let open = self
            .streams
            .get(&id)
            .is_some_and(|stream| !stream.is_over());
        let violation = match (split_u31(payload), payload.len()) {
            (Some((parent, _)), 5) if parent != id => return Ok(None),
            (Some(_), 5) => Violation::SelfDependency,
            _ => Violation::FrameLength,
        };
        // An error of a stream that is not open cannot be told by a reset.
        Err(match open {
            true => Breach::Stream(id, violation),
            false => Breach::Connection(violation),
        })
    }
}
