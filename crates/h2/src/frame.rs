//! Frames (RFC 9113 sections 4 and 6): nine bytes ↔ a header, and frames appended to a buffer.

use crate::violation::Code;

/// Names a stream; 0 is the connection itself.
pub type StreamId = u32;

/// What every peer accepts (RFC 9113 section 4.2), and all that this side does.
pub(crate) const MAX_FRAME: usize = 16_384;
pub(crate) const HEADER: usize = 9;

pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;
pub(crate) const PRIORITY: u8 = 0x20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Headers,
    Priority,
    Reset,
    Settings,
    Push,
    Ping,
    GoAway,
    Window,
    Continuation,
    Unknown,
}

impl Kind {
    fn of(byte: u8) -> Kind {
        match byte {
            0 => Kind::Data,
            1 => Kind::Headers,
            2 => Kind::Priority,
            3 => Kind::Reset,
            4 => Kind::Settings,
            5 => Kind::Push,
            6 => Kind::Ping,
            7 => Kind::GoAway,
            8 => Kind::Window,
            9 => Kind::Continuation,
            _ => Kind::Unknown,
        }
    }

    fn byte(self) -> u8 {
        match self {
            Kind::Data => 0,
            Kind::Headers => 1,
            Kind::Priority => 2,
            Kind::Reset => 3,
            Kind::Settings => 4,
            Kind::Push => 5,
            Kind::Ping => 6,
            Kind::GoAway => 7,
            Kind::Window => 8,
            Kind::Continuation => 9,
            Kind::Unknown => u8::MAX,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) length: usize,
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) stream: StreamId,
}

impl Header {
    /// The reserved bit is ignored.
    pub(crate) fn parse(bytes: &[u8; HEADER]) -> Header {
        let [a, b, c, kind, flags, s0, s1, s2, s3] = *bytes;
        Header {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind: Kind::of(kind),
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & MAX_STREAM,
        }
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The largest stream identifier, and the largest window.
pub(crate) const MAX_STREAM: u32 = 0x7fff_ffff;

/// The first four bytes as a number without its reserved bit, and what follows.
pub(crate) fn split_u31(payload: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = payload.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*number) & MAX_STREAM, rest))
}

/// `length` must be what a frame can have.
pub(crate) fn header(kind: Kind, flags: u8, stream: StreamId, length: usize) -> [u8; HEADER] {
    let [_, a, b, c] = (length as u32).to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    [a, b, c, kind.byte(), flags, s0, s1, s2, s3]
}

fn write(out: &mut Vec<u8>, kind: Kind, flags: u8, stream: StreamId, payload: &[u8]) {
    out.extend_from_slice(&header(kind, flags, stream, payload.len()));
    out.extend_from_slice(payload);
}

pub(crate) fn data(out: &mut Vec<u8>, stream: StreamId, payload: &[u8], end: bool) {
    let flags = if end { END_STREAM } else { 0 };
    write(out, Kind::Data, flags, stream, payload);
}

/// Makes the DATA frame that begins at `start` the last one of its stream. `false`: there is none.
pub(crate) fn end_data(out: &mut [u8], start: usize, stream: StreamId) -> bool {
    let head = out
        .get_mut(start..)
        .and_then(|rest| rest.first_chunk_mut::<HEADER>());
    let Some(head) = head else {
        return false;
    };
    let read = Header::parse(head);
    let [_, _, _, _, flags, ..] = head;
    let found = read.kind == Kind::Data && read.stream == stream;
    if found {
        *flags |= END_STREAM;
    }
    found
}

pub(crate) fn reset(out: &mut Vec<u8>, stream: StreamId, code: Code) {
    write(out, Kind::Reset, 0, stream, &code.0.to_be_bytes());
}

pub(crate) fn window(out: &mut Vec<u8>, stream: StreamId, by: u32) {
    write(out, Kind::Window, 0, stream, &by.to_be_bytes());
}

pub(crate) fn ping(out: &mut Vec<u8>, ack: bool, payload: &[u8; 8]) {
    let flags = if ack { ACK } else { 0 };
    write(out, Kind::Ping, flags, 0, payload);
}

pub(crate) fn settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    out.extend_from_slice(&header(Kind::Settings, 0, 0, settings.len() * 6));
    for (name, value) in settings {
        out.extend_from_slice(&name.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub(crate) fn settings_ack(out: &mut Vec<u8>) {
    write(out, Kind::Settings, ACK, 0, &[]);
}

pub(crate) fn goaway(out: &mut Vec<u8>, last: StreamId, code: Code, why: &str) {
    out.extend_from_slice(&header(Kind::GoAway, 0, 0, 8 + why.len()));
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
    out.extend_from_slice(why.as_bytes());
}

/// Turns what was appended after `start` (room for a header, then a field block) into HEADERS and, where it is longer than
/// a frame, CONTINUATION.
pub(crate) fn headers(out: &mut Vec<u8>, start: usize, stream: StreamId, end: bool) {
    let length = out.len().saturating_sub(start + HEADER);
    let end = if end { END_STREAM } else { 0 };
    let whole = length <= MAX_FRAME;
    let flags = end | if whole { END_HEADERS } else { 0 };
    let first = header(Kind::Headers, flags, stream, length.min(MAX_FRAME));
    if let Some(place) = out.get_mut(start..start + HEADER) {
        place.copy_from_slice(&first);
    }
    if whole {
        return;
    }
    let rest = out.split_off(start + HEADER + MAX_FRAME);
    let mut pieces = rest.chunks(MAX_FRAME).peekable();
    while let Some(piece) = pieces.next() {
        let flags = match pieces.peek() {
            Some(_) => 0,
            None => END_HEADERS,
        };
        write(out, Kind::Continuation, flags, stream, piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_as_it_was_written() {
        for byte in 0..=255u8 {
            let kind = Kind::of(byte);
            let written = header(kind, byte, 0x1234_5678, 0x00ab_cdef);
            let read = Header::parse(&written);
            assert_eq!(read.length, 0x00ab_cdef);
            assert_eq!(
                (read.kind, read.flags, read.stream),
                (kind, byte, 0x1234_5678)
            );
        }
    }

    #[test]
    fn a_long_block_is_continued() {
        let mut out = vec![0; HEADER];
        out.extend((0..MAX_FRAME * 2 + 5).map(|at| at as u8));
        headers(&mut out, 0, 3, true);
        let mut rest = &out[..];
        let mut seen = Vec::new();
        let mut block = Vec::new();
        while let Some((head, tail)) = rest.split_first_chunk::<HEADER>() {
            let head = Header::parse(head);
            block.extend_from_slice(&tail[..head.length]);
            rest = &tail[head.length..];
            seen.push((head.kind, head.flags, head.length));
        }
        assert_eq!(
            seen,
            [
                (Kind::Headers, END_STREAM, MAX_FRAME),
                (Kind::Continuation, 0, MAX_FRAME),
                (Kind::Continuation, END_HEADERS, 5)
            ]
        );
        assert!(block.iter().enumerate().all(|(at, byte)| *byte == at as u8));
    }
}
