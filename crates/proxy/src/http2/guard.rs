//! The bytes of an HTTP/2 connection as they pass → whether its peer sends more of what carries nothing than it may.
//! Sans-io, and before the codec: frames are counted by their heads, whatever the codec would make of them.
//!
//! Limits and counters are Envoy's (`Http2ProtocolOptions`). What a busy peer must send it earns: a stream, or a frame of
//! DATA in either direction, pays for PINGs and WINDOW_UPDATEs. So a flood ends within its first thousand frames, and
//! no amount of real traffic comes near a limit.

use ripstop_model::reason::Reason;
use ripstop_model::snapshot::cluster::FloodLimits;
use tokio::time::Instant;

use super::PREFACE;

/// Why a connection must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flood {
    /// PING, SETTINGS, GOAWAY and frames of unknown types (CVE-2019-9512, CVE-2019-9515, CVE-2020-11080).
    Control,
    /// Frames without a payload that end nothing (CVE-2019-9518).
    Empty,
    Priority,
    WindowUpdate,
    /// Requests that are reset before they are answered (CVE-2023-44487).
    Reset,
    /// A head in more pieces than its limit has room for (CVE-2024-27316, CVE-2024-28182).
    Head,
    /// A head that does not get finished.
    SlowHead,
    /// What the codec counts itself: streams that it had to reset (CVE-2025-8671), tiny frames of DATA that nobody takes,
    /// a head that is many times its limit once decoded (CVE-2016-6581).
    Codec,
}

impl Flood {
    pub fn reason(self) -> Reason {
        match self {
            Flood::Control => Reason::FloodControl,
            Flood::Empty => Reason::FloodEmpty,
            Flood::Priority => Reason::FloodPriority,
            Flood::WindowUpdate => Reason::FloodWindowUpdate,
            Flood::Reset => Reason::FloodReset,
            Flood::Head => Reason::FloodHead,
            Flood::SlowHead => Reason::FloodSlowHead,
            Flood::Codec => Reason::FloodCodec,
        }
    }
}

/// What the frames show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Violation {
    Flood(Flood),
    /// A frame whose type has another size (RFC 9113 section 4.2).
    FrameSize,
}

/// Tokens: so many at once, and so many more each second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    left: f64,
    most: f64,
    per_second: f64,
    since: Instant,
}

impl Allowance {
    pub(super) fn new(most: u32, per_second: u32, now: Instant) -> Allowance {
        Allowance {
            left: most.into(),
            most: most.into(),
            per_second: per_second.into(),
            since: now,
        }
    }

    /// Uses one up; whether there was one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.since).as_secs_f64() * self.per_second;
        self.since = now;
        self.left = (self.left + gained).min(self.most) - 1.0;
        self.left >= 0.0
    }

    pub(super) fn earn(&mut self) {
        self.left = (self.left + 1.0).min(self.most);
    }

    /// More than a quarter is gone.
    pub(super) fn is_waning(&self) -> bool {
        self.left < self.most * 0.75
    }
}

/// Frame types (RFC 9113 section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// The largest payload that a frame may have unless the other side allows more (RFC 9113 section 6.5.2).
const FRAME: usize = 16 * 1024;

/// The head of a frame.
#[derive(Debug, Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
}

impl Head {
    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn size_is_wrong(self) -> bool {
        match self.kind {
            DATA | HEADERS if self.has(PADDED) => self.length == 0,
            PRIORITY => self.length != 5,
            RST_STREAM | WINDOW_UPDATE => self.length != 4,
            SETTINGS if self.has(ACK) => self.length != 0,
            SETTINGS => !self.length.is_multiple_of(6),
            PING => self.length != 8,
            GOAWAY => self.length < 8,
            _ => false,
        }
    }
}

/// Finds the heads of frames in a stream of bytes.
#[derive(Debug, Default)]
struct Scanner {
    head: [u8; 9],
    have: usize,
    /// Of a payload, or of the preface.
    skip: usize,
}

impl Scanner {
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        let rest = bytes.get(skipped..)?;
        let wanted = self.head.len() - self.have;
        let taken = rest.get(..wanted).unwrap_or(rest);
        *bytes = rest.get(taken.len()..).unwrap_or_default();
        for (to, from) in self.head.iter_mut().skip(self.have).zip(taken) {
            *to = *from;
        }
        self.have += taken.len();
        if self.have < self.head.len() {
            return None;
        }
        self.have = 0;
        let [a, b, c, kind, flags, ..] = self.head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.skip = length;
        Some(Head {
            length,
            kind,
            flags,
        })
    }

    /// In the middle of a frame's head.
    fn is_within_head(&self) -> bool {
        self.have > 0
    }
}

/// The account of one connection.
#[derive(Debug)]
pub(super) struct Guard {
    limits: FloodLimits,
    inbound: Scanner,
    outbound: Scanner,
    control: Allowance,
    streams: u64,
    data_sent: u64,
    priorities: u64,
    window_updates: u64,
    resets: u64,
    /// In a row.
    empty: u32,
    /// Frames of the field block that is not complete.
    pieces: usize,
    /// So many it may have.
    most_pieces: usize,
    /// Since when a head has not been whole.
    unfinished: Option<Instant>,
}

impl Guard {
    /// Of a connection whose peer is a client: it says the preface.
    pub(super) fn of_client(limits: FloodLimits, max_head: u32, now: Instant) -> Guard {
        let mut guard = Guard::of_server(limits, max_head, now);
        std::mem::swap(&mut guard.inbound, &mut guard.outbound);
        guard
    }

    /// Of one whose peer is a server. `max_head`: bytes of a field section. As many full frames as that takes, a quarter more, and no fewer than six.
    pub(super) fn of_server(limits: FloodLimits, max_head: u32, now: Instant) -> Guard {
        let frames = max_head as usize / FRAME;
        Guard {
            most_pieces: 1 + (frames + frames / 4).max(5),
            control: Allowance::new(limits.control_frames, limits.control_frames / 10, now),
            limits,
            inbound: Scanner::default(),
            outbound: Scanner {
                skip: PREFACE.len(),
                ..Scanner::default()
            },
            streams: 0,
            data_sent: 0,
            priorities: 0,
            window_updates: 0,
            resets: 0,
            empty: 0,
            pieces: 0,
            unfinished: None,
        }
    }

    /// Accounts for what came.
    pub(super) fn received(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Violation> {
        while let Some(head) = self.inbound.next(&mut bytes) {
            if head.size_is_wrong() {
                return Err(Violation::FrameSize);
            }
            self.count(head, now).map_err(Violation::Flood)?;
        }
        // The payload of a block's last frame counts too: its fields may come byte by byte.
        let within_block = self.pieces > 0 || (self.inbound.skip > 0 && self.ends_block());
        self.unfinished = match within_block || self.inbound.is_within_head() {
            true => self.unfinished.or(Some(now)),
            false => None,
        };
        Ok(())
    }

    /// Accounts for what was sent.
    pub(super) fn sent(&mut self, mut bytes: &[u8]) {
        while let Some(head) = self.outbound.next(&mut bytes) {
            match head.kind {
                DATA => self.data_sent += 1,
                // What a client opens; a response's head counts once more.
                HEADERS => self.streams += 1,
                _ => continue,
            }
            self.control.earn();
        }
    }

    /// Since when the peer has owed the rest of a head.
    pub(super) fn unfinished(&self) -> Option<Instant> {
        self.unfinished
    }

    fn ends_block(&self) -> bool {
        let [_, _, _, kind, ..] = self.inbound.head;
        matches!(kind, HEADERS | CONTINUATION | PUSH_PROMISE)
    }

    fn count(&mut self, head: Head, now: Instant) -> Result<(), Flood> {
        let limits = &self.limits;
        let carries_nothing = head.length == 0
            && match head.kind {
                DATA => !head.has(END_STREAM),
                HEADERS => !head.has(END_STREAM) && !head.has(END_HEADERS),
                CONTINUATION => !head.has(END_HEADERS),
                _ => false,
            };
        match head.kind {
            DATA | HEADERS | CONTINUATION if carries_nothing => {
                self.empty += 1;
                if self.empty > limits.empty_frames {
                    return Err(Flood::Empty);
                }
            }
            DATA => {
                self.empty = 0;
                self.control.earn();
            }
            HEADERS => {
                self.empty = 0;
                self.streams += 1;
                self.control.earn();
            }
            CONTINUATION => self.empty = 0,
            RST_STREAM => {
                self.resets += 1;
                // What they end is counted elsewhere; more than one for each stream end nothing.
                if self.resets > self.streams && !self.control.take(now) {
                    return Err(Flood::Control);
                }
            }
            PRIORITY => {
                self.priorities += 1;
                let most = u64::from(limits.priority_frames).saturating_mul(1 + self.streams);
                if self.priorities > most {
                    return Err(Flood::Priority);
                }
            }
            WINDOW_UPDATE => {
                self.window_updates += 1;
                let per_data = u64::from(limits.window_updates).saturating_mul(self.data_sent);
                let most = (self.streams + per_data)
                    .saturating_mul(2)
                    .saturating_add(5);
                if self.window_updates > most {
                    return Err(Flood::WindowUpdate);
                }
            }
            _ => {
                if !self.control.take(now) {
                    return Err(Flood::Control);
                }
            }
        }
        if matches!(head.kind, HEADERS | CONTINUATION | PUSH_PROMISE) {
            self.pieces = match head.has(END_HEADERS) {
                true => 0,
                false => self.pieces + 1,
            };
            if self.pieces > self.most_pieces {
                return Err(Flood::Head);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
