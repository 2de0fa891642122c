//! Frames of HTTP/2 as a test writes them, right or wrong → what the peer makes of them (RFC 9113), over one plain
//! connection. The counterpart of [`crate::http::Client`]: it hides nothing and checks nothing.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a read may take unless [`Connection::patience`] says otherwise.
const READ_LIMIT: Duration = Duration::from_secs(20);

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (RFC 9113 section 6).
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Frame flags.
pub mod flag {
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

/// Error codes (RFC 9113 section 7).
pub mod code {
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    pub const STREAM_CLOSED: u32 = 5;
    pub const FRAME_SIZE_ERROR: u32 = 6;
    pub const REFUSED_STREAM: u32 = 7;
    pub const CANCEL: u32 = 8;
    pub const COMPRESSION_ERROR: u32 = 9;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// One frame, its length as the payload has it.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a payload of less than 4 GiB");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A field block in HPACK: every field a literal without indexing, no Huffman code (RFC 7541 section 6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        text(name.as_bytes(), &mut bytes);
        text(value.as_bytes(), &mut bytes);
    }
    bytes
}

/// A string literal of HPACK.
pub fn text(value: &[u8], out: &mut Vec<u8>) {
    integer(value.len(), 7, 0, out);
    out.extend_from_slice(value);
}

/// An integer with a prefix of `bits` (RFC 7541 section 5.1).
pub fn integer(value: usize, bits: u8, first: u8, out: &mut Vec<u8>) {
    let most = (1usize << bits) - 1;
    if value < most {
        return out.push(first | value as u8);
    }
    out.push(first | most as u8);
    let mut rest = value - most;
    while rest >= 128 {
        out.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    out.push(rest as u8);
}

/// HEADERS with a whole field block.
pub fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(
        kind::HEADERS,
        flags | flag::END_HEADERS,
        stream,
        &block(fields),
    )
}

/// The four pseudo-header fields of a GET.
pub const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "a.test"),
    (":path", "/"),
];

/// The same of a POST.
pub const POST: [(&str, &str); 4] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "a.test"),
    (":path", "/"),
];

/// A whole request without a body.
pub fn get(stream: u32) -> Vec<u8> {
    headers(stream, flag::END_STREAM, &GET)
}

pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// SETTINGS with identifiers and values.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (identifier, value) in values {
        payload.extend_from_slice(&identifier.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    frame(kind::SETTINGS, 0, 0, &payload)
}

/// A frame that came.
#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM or GOAWAY.
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            kind::RST_STREAM => 0,
            kind::GOAWAY => 4,
            _ => return None,
        };
        let bytes = self.payload.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }

    /// The `:status` of a response's HEADERS: the first field of its block.
    pub fn status(&self) -> Option<u16> {
        /// Entries 8 to 14 of HPACK's static table.
        const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
        let mut block = self.payload.as_slice();
        // Changes of the dynamic table's size may come first.
        while let [0x20..=0x3f, rest @ ..] = block {
            block = rest;
        }
        match block {
            [first @ 0x88..=0x8e, ..] => Some(INDEXED[usize::from(first - 0x88)]),
            [0x08 | 0x18 | 0x48, length, rest @ ..] => {
                let value = rest.get(..usize::from(length & 0x7f))?;
                match length & 0x80 {
                    0 => std::str::from_utf8(value).ok()?.parse().ok(),
                    _ => huffman_digits(value),
                }
            }
            _ => None,
        }
    }
}

/// Three digits in HPACK's Huffman code: 0 to 2 have five bits, the others six.
fn huffman_digits(bytes: &[u8]) -> Option<u16> {
    let bits = bytes
        .iter()
        .fold(0u64, |all, byte| all << 8 | u64::from(*byte));
    let mut left = bytes.len() * 8;
    let mut number = 0;
    for _ in 0..3 {
        let five = (bits >> left.checked_sub(5)?) & 31;
        let digit = match five {
            0..=2 => {
                left -= 5;
                five
            }
            _ => {
                left = left.checked_sub(6)?;
                ((bits >> left) & 63).checked_sub(0b01_1001)? + 3
            }
        };
        number = number * 10 + u16::try_from(digit).ok()?;
    }
    Some(number)
}

/// The next frame of a stream of bytes. `UnexpectedEof` at its end.
pub fn read(from: &mut impl Read) -> io::Result<Frame> {
    let mut head = [0; 9];
    from.read_exact(&mut head)?;
    let [a, b, c, kind, flags, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    from.read_exact(&mut payload)?;
    Ok(Frame {
        kind,
        flags,
        stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
        payload,
    })
}

/// What became of a stream or of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The response's status.
    Answered(u16),
    /// The stream alone, with this code.
    Reset(u32),
    /// The connection, with this code.
    GoneAway(u32),
    /// The connection, without a word.
    Closed,
    /// Nothing, for as long as the connection's patience lasts.
    Silent,
}

/// No stream is the last one yet, and nothing is wrong.
const ANNOUNCED: [u8; 8] = [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// One connection.
pub struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// A client that has said its preface and an empty SETTINGS.
    pub fn client(addr: SocketAddr) -> Connection {
        let mut connection = Connection::silent(addr);
        connection.send(PREFACE);
        connection.send(&settings(&[]));
        connection
    }

    /// A client that has said nothing yet. Panics when nothing listens there.
    pub fn silent(addr: SocketAddr) -> Connection {
        let stream = TcpStream::connect_timeout(&addr, READ_LIMIT)
            .unwrap_or_else(|error| panic!("cannot connect to {addr}: {error}"));
        Connection::on(stream)
    }

    /// Either side of a connection that is there.
    pub fn on(stream: TcpStream) -> Connection {
        stream.set_nodelay(true).expect("a connected socket");
        stream
            .set_read_timeout(Some(READ_LIMIT))
            .expect("a limit above zero");
        Connection { stream }
    }

    /// Changes how long a read may take.
    pub fn patience(&mut self, limit: Duration) {
        self.stream
            .set_read_timeout(Some(limit))
            .expect("a limit above zero");
    }

    /// Sends bytes as they are; whether the peer still takes them.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// How long a write may wait for room; [`Connection::send`] fails after it.
    pub fn write_patience(&mut self, limit: Duration) {
        self.stream
            .set_write_timeout(Some(limit))
            .expect("a limit above zero");
    }

    /// The next frame. `UnexpectedEof` at the connection's end.
    pub fn read(&mut self) -> io::Result<Frame> {
        read(&mut self.stream)
    }

    /// Reads until something decides about the stream: its response, its end or the connection's. Passed over are 1xx, and
    /// GOAWAY where it only announces an end (RFC 9113 section 6.8).
    pub fn fate(&mut self, stream: u32) -> Fate {
        loop {
            let frame = match self.read() {
                Ok(frame) => frame,
                Err(error) => {
                    return match error.kind() {
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Fate::Silent,
                        _ => Fate::Closed,
                    };
                }
            };
            match frame.kind {
                kind::GOAWAY if frame.payload.starts_with(&ANNOUNCED) => {}
                kind::GOAWAY => return Fate::GoneAway(frame.code().unwrap_or_default()),
                kind::RST_STREAM if frame.stream == stream => {
                    return Fate::Reset(frame.code().unwrap_or_default());
                }
                kind::HEADERS if frame.stream == stream => match frame.status() {
                    Some(100..200) => {}
                    status => return Fate::Answered(status.unwrap_or_default()),
                },
                _ => {}
            }
        }
    }

    /// How the connection ends, whatever happens to its streams before.
    pub fn end(&mut self) -> Fate {
        loop {
            match self.fate(0) {
                Fate::Answered(_) | Fate::Reset(_) => {}
                end => return end,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_in_huffman_code() {
        // RFC 7541, appendices B and C.6.
        assert_eq!(huffman_digits(&[0x64, 0x02]), Some(302));
        assert_eq!(huffman_digits(&[0x64, 0x0e, 0xff]), Some(307));
        assert_eq!(huffman_digits(&[0x69, 0x90, 0xff]), Some(431));
        assert_eq!(huffman_digits(&[0x68, 0x0f, 0x7f]), Some(408));
    }

    #[test]
    fn integers_with_a_prefix() {
        let mut out = Vec::new();
        integer(1337, 5, 0, &mut out);
        assert_eq!(out, [31, 154, 10]);
        assert_eq!(
            frame(kind::PING, 0, 0, &[0; 8])[..9],
            [0, 0, 8, 6, 0, 0, 0, 0, 0]
        );
    }
}
