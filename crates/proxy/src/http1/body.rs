//! Bodies: framed bytes in, pieces of data out ([`Decoder`]), and data in, canonical framing out ([`Encoder`]).
//!
//! Data is never copied by the decoder: a piece is a slice of the input. Chunk sizes, extensions and trailers are bounded.

use super::error::Problem;
use super::framing::Framing;
use super::head::{Limits, Progress, Scan, feed};
use crate::headers::{Headers, Known};

/// Extension bytes that one body may carry in all: they mean nothing to us and must not be a way to spend our time.
const MAX_EXTENSION_BYTES: usize = 16 << 10;

/// What the decoder found.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    Data(&'a [u8]),
    /// The input is used up.
    More,
    /// The body is complete; what follows belongs to the next message. Trailers, if any, are in [`Decoder::trailers`].
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// `left` bytes of a body with a length.
    Length {
        left: u64,
    },
    UntilClose,
    /// In a size line: digits so far and their value.
    Size {
        digits: u8,
        value: u64,
    },
    /// After `;`.
    Extension {
        size: u64,
    },
    /// After the CR of a size line.
    SizeLf {
        size: u64,
    },
    Chunk {
        left: u64,
    },
    ChunkCr,
    ChunkLf,
    /// After the last chunk.
    Trailers,
    Done,
}

/// Takes the framing off a body.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    extension_bytes: usize,
    trailers: Option<Box<(Scan, Headers)>>,
    limits: Limits,
}

const SIZE: State = State::Size {
    digits: 0,
    value: 0,
};

/// Of a message without a body.
impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new(Framing::None, Limits::default())
    }
}

impl Decoder {
    pub fn new(framing: Framing, limits: Limits) -> Decoder {
        Decoder {
            state: match framing {
                Framing::None | Framing::Length(0) => State::Done,
                Framing::Length(left) => State::Length { left },
                Framing::Chunked => SIZE,
                Framing::UntilClose => State::UntilClose,
            },
            extension_bytes: 0,
            trailers: None,
            limits,
        }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The next piece, and how many bytes of the input it and the framing before it took. Call again with the rest of
    /// the input until it answers `More` or `End`. After an error the connection must be closed.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Piece<'a>), Problem> {
        let mut at = 0;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            let data = match self.state {
                State::Done => return Ok((at, Piece::End)),
                _ if rest.is_empty() => return Ok((at, Piece::More)),
                State::UntilClose => rest,
                State::Length { left } => {
                    let data = first(rest, left);
                    self.state = match left - data.len() as u64 {
                        0 => State::Done,
                        left => State::Length { left },
                    };
                    data
                }
                State::Chunk { left } => {
                    let data = first(rest, left);
                    self.state = match left - data.len() as u64 {
                        0 => State::ChunkCr,
                        left => State::Chunk { left },
                    };
                    data
                }
                State::Trailers => {
                    at += self.trailer_section(rest)?;
                    continue;
                }
                _ => {
                    at += self.size_line(rest)?;
                    continue;
                }
            };
            return Ok((at + data.len(), Piece::Data(data)));
        }
    }

    /// What lies between two chunks' data: `CR LF size [;extensions] CR LF`.
    fn size_line(&mut self, input: &[u8]) -> Result<usize, Problem> {
        for (index, byte) in input.iter().enumerate() {
            self.state = match (self.state, byte) {
                (State::ChunkCr, b'\r') => State::ChunkLf,
                (State::ChunkLf, b'\n') => SIZE,
                (State::ChunkCr | State::ChunkLf, _) => return Err(Problem::ChunkEnd),
                (State::Size { digits: 1.., value }, b'\r') => State::SizeLf { size: value },
                (State::Size { digits: 1.., value }, b';') => State::Extension { size: value },
                (State::Size { digits, value }, byte) => match (*byte as char).to_digit(16) {
                    Some(digit) if digits < 16 => State::Size {
                        digits: digits + 1,
                        value: value << 4 | u64::from(digit),
                    },
                    _ => return Err(Problem::ChunkSize),
                },
                (State::Extension { size }, b'\r') => State::SizeLf { size },
                (State::Extension { .. }, b'\n') => return Err(Problem::BareLf),
                (State::Extension { .. }, 0..0x20 | 0x7f) if *byte != b'\t' => {
                    return Err(Problem::ControlByte);
                }
                (State::Extension { size }, _) => {
                    self.extension_bytes += 1;
                    if self.extension_bytes > MAX_EXTENSION_BYTES {
                        let limit = MAX_EXTENSION_BYTES;
                        return Err(Problem::ChunkExtensions { limit });
                    }
                    State::Extension { size }
                }
                (State::SizeLf { size: 0 }, b'\n') => State::Trailers,
                (State::SizeLf { size }, b'\n') => State::Chunk { left: size },
                (State::SizeLf { .. }, _) => return Err(Problem::BareCr),
                (other, _) => other,
            };
            if matches!(self.state, State::Chunk { .. } | State::Trailers) {
                return Ok(index + 1);
            }
        }
        Ok(input.len())
    }

    fn trailer_section(&mut self, input: &[u8]) -> Result<usize, Problem> {
        if self.trailers.is_none() && input.starts_with(b"\r\n") {
            self.state = State::Done;
            return Ok(2);
        }
        let fresh = || Box::new((Scan::of_fields(), Headers::new()));
        let (scan, headers) = &mut **self.trailers.get_or_insert_with(fresh);
        match feed(scan, input, headers, false, &self.limits) {
            Ok(Progress::Partial) => Ok(input.len()),
            Ok(Progress::Complete { consumed }) => {
                headers.remove_all(NOT_IN_TRAILERS);
                self.state = State::Done;
                Ok(consumed)
            }
            Err(Problem::HeadTooLarge { limit }) => Err(Problem::TrailersTooLarge { limit }),
            Err(problem) => Err(problem),
        }
    }

    /// The connection ended. Right for a body that lasts until then, and after the end.
    pub fn close(&mut self) -> Result<(), Problem> {
        match self.state {
            State::UntilClose | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(Problem::Truncated),
        }
    }

    /// The trailers of a complete chunked body, without those that may not stand there (RFC 9110 section 6.5.1).
    pub fn trailers(&mut self) -> Option<Headers> {
        if self.state != State::Done {
            return None;
        }
        let (_, headers) = *self.trailers.take()?;
        (!headers.is_empty()).then_some(headers)
    }
}

/// Fields that frame, route, authenticate or describe a message: too late in a trailer.
const NOT_IN_TRAILERS: u64 = Known::HOP_BY_HOP
    | Known::bits(&[
        Known::Host,
        Known::ContentLength,
        Known::Trailer,
        Known::Expect,
        Known::ContentType,
        Known::ContentEncoding,
        Known::ContentRange,
        Known::Authorization,
        Known::ProxyAuthorization,
        Known::ProxyAuthenticate,
        Known::Cookie,
        Known::SetCookie,
        Known::Location,
        Known::Forwarded,
        Known::XForwardedFor,
        Known::XForwardedProto,
        Known::XForwardedHost,
        Known::XForwardedPort,
        Known::XRealIp,
        Known::ForwardedClientCert,
        Known::XHttpMethodOverride,
        Known::Envoy,
        Known::Ripstop,
    ]);

/// At most `left` bytes of the input.
fn first(input: &[u8], left: u64) -> &[u8] {
    let length = usize::try_from(left).unwrap_or(usize::MAX);
    input.get(..length).unwrap_or(input)
}

/// Puts the canonical framing around a body.
#[derive(Debug, Clone, Copy)]
pub struct Encoder {
    left: Framing,
}

/// The data does not have the length the head promised; the connection must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LengthError {
    #[error("the body is longer than its Content-Length")]
    Longer,
    #[error("the body is shorter than its Content-Length by {missing} bytes")]
    Shorter { missing: u64 },
}

/// The line before a chunk's data, for writers that send data without copying it.
#[derive(Debug, Clone, Copy)]
pub struct ChunkHead {
    bytes: [u8; 18],
    start: usize,
}

impl ChunkHead {
    fn new(size: usize) -> ChunkHead {
        let mut bytes = *b"0000000000000000\r\n";
        let mut start = 16;
        let mut rest = size;
        for (index, place) in bytes.iter_mut().enumerate().take(16).rev() {
            let digit = (rest & 15) as u8;
            *place = if digit < 10 {
                b'0' + digit
            } else {
                b'a' + digit - 10
            };
            start = index;
            rest >>= 4;
            if rest == 0 {
                break;
            }
        }
        ChunkHead { bytes, start }
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

impl Encoder {
    pub fn new(framing: Framing) -> Encoder {
        Encoder { left: framing }
    }

    /// Accounts for `size` bytes of data that the caller sends itself. `Some`: send this line before and CR LF after.
    pub fn announce(&mut self, size: usize) -> Result<Option<ChunkHead>, LengthError> {
        match &mut self.left {
            _ if size == 0 => Ok(None),
            Framing::None => Err(LengthError::Longer),
            Framing::UntilClose => Ok(None),
            Framing::Chunked => Ok(Some(ChunkHead::new(size))),
            Framing::Length(left) => {
                *left = left.checked_sub(size as u64).ok_or(LengthError::Longer)?;
                Ok(None)
            }
        }
    }

    /// Appends data with its framing.
    pub fn data(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), LengthError> {
        match self.announce(data.len())? {
            None => out.extend_from_slice(data),
            Some(head) => {
                out.reserve(data.len() + 20);
                out.extend_from_slice(head.as_bytes());
                out.extend_from_slice(data);
                out.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    /// Appends the end of the body. Trailers go out only with chunked framing; elsewhere HTTP/1 has no place for them.
    pub fn end(self, trailers: Option<&Headers>, out: &mut Vec<u8>) -> Result<(), LengthError> {
        match self.left {
            Framing::Length(missing @ 1..) => Err(LengthError::Shorter { missing }),
            Framing::None | Framing::Length(_) | Framing::UntilClose => Ok(()),
            Framing::Chunked => {
                out.extend_from_slice(b"0\r\n");
                if let Some(trailers) = trailers {
                    trailers.write_lines(out, NOT_IN_TRAILERS, |_| crate::headers::Line::Drop);
                }
                out.extend_from_slice(b"\r\n");
                Ok(())
            }
        }
    }
}
