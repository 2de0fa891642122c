//! The first bytes of either side → what is spoken. Sans-io; [`probe`] drives it.
//!
//! On a port whose protocol nobody declared, the client's bytes and the server's are waited for at once, so that a
//! server that speaks first (MySQL, SMTP, SSH) is never stalled (R11). What is learnt of a port is remembered for a
//! while; it saves waiting or probing and never outranks a declaration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use crate::headers::scan::is_target_byte;
use crate::tls::hello::{self, ClientHello, Sniff};

pub(crate) mod probe;

/// What the client's first bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum First {
    /// Could still become something else than opaque bytes.
    Partial,
    Tls(ClientHello),
    Http1,
    /// HTTP/1 that asks for a tunnel: who does not serve that passes the connection on as it is.
    Connect,
    /// The preface of RFC 9113 section 3.4.
    Http2,
    Opaque,
    /// Its half ended without a byte; it may still want to hear the server.
    Ended,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A request line is looked at up to here; what is longer is not HTTP on a port that nobody declared.
pub const MOST: usize = 8 * 1024;
/// Methods are short words in capitals; longer ones need a declared port.
const LONGEST_METHOD: usize = 24;

/// Reads the bytes a client has sent so far.
pub fn first(bytes: &[u8]) -> First {
    match hello::sniff(bytes) {
        Sniff::Hello(hello) => return First::Tls(hello),
        Sniff::Partial => return First::Partial,
        // It began as TLS: whoever terminates it will say what is wrong.
        Sniff::Malformed => return First::Tls(ClientHello::default()),
        Sniff::NotTls => {}
    }
    if bytes.starts_with(PREFACE) {
        return First::Http2;
    }
    if PREFACE.starts_with(bytes) {
        return First::Partial;
    }
    request_line(bytes)
}

/// `METHOD SP target SP HTTP/1.x CRLF` (RFC 9112 section 3), as far as it has arrived. What is no such line is not HTTP, and is
/// passed on as it is (R11.3). A line that ends with a bare LF is one: many servers read it, so this proxy refuses it.
fn request_line(bytes: &[u8]) -> First {
    let line = match bytes.iter().position(|b| *b == b'\n') {
        Some(end) => bytes.get(..end).unwrap_or_default(),
        None => bytes,
    };
    let complete = line.len() < bytes.len();
    let mut parts = line.splitn(2, |b| *b == b' ');
    let method = parts.next().unwrap_or_default();
    if method.is_empty()
        || method.len() > LONGEST_METHOD
        || !method.iter().all(u8::is_ascii_uppercase)
    {
        return First::Opaque;
    }
    let Some(rest) = parts.next() else {
        return if complete {
            First::Opaque
        } else {
            First::Partial
        };
    };
    let target_may_start =
        matches!(rest.first(), None | Some(b'/' | b'*' | b'h' | b'H')) || method == b"CONNECT";
    if !target_may_start || line.iter().any(|b| *b < b' ' && *b != b'\r') {
        return First::Opaque;
    }
    if complete {
        let rest = rest.strip_suffix(b"\r").unwrap_or(rest);
        let target = rest
            .strip_suffix(b" HTTP/1.1")
            .or_else(|| rest.strip_suffix(b" HTTP/1.0"));
        return match target {
            Some(target) if is_target(method, target) => match method {
                b"CONNECT" => First::Connect,
                _ => First::Http1,
            },
            Some(_) | None => First::Opaque,
        };
    }
    if bytes.len() >= MOST {
        First::Opaque
    } else {
        First::Partial
    }
}

/// In one of the four forms of RFC 9112 section 3.2.
fn is_target(method: &[u8], target: &[u8]) -> bool {
    let begins = |scheme: &[u8]| {
        let start = target.get(..scheme.len()).unwrap_or_default();
        start.eq_ignore_ascii_case(scheme)
    };
    let formed = match method {
        b"CONNECT" => target.contains(&b':'),
        b"OPTIONS" if target == b"*" => true,
        _ => target.starts_with(b"/") || begins(b"http://") || begins(b"https://"),
    };
    formed && target.iter().copied().all(is_target_byte)
}

/// What a server that speaks first speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    Partial,
    /// A SETTINGS frame on stream 0 (RFC 9113 section 3.4): HTTP/2, whose client has yet to speak.
    Http2,
    Opaque,
}

/// Reads the bytes a server has sent so far.
pub fn greeting(bytes: &[u8]) -> Greeting {
    const SETTINGS: u8 = 4;
    // Length below 2^14, type, no flags, stream 0.
    let expected = [
        Some(0),
        None,
        None,
        Some(SETTINGS),
        Some(0),
        Some(0),
        Some(0),
        Some(0),
        Some(0),
    ];
    for (byte, expected) in bytes.iter().zip(expected) {
        if expected.is_some_and(|expected| expected != *byte) {
            return Greeting::Opaque;
        }
    }
    match (bytes.len() < expected.len(), bytes) {
        (true, _) => Greeting::Partial,
        // Settings are six bytes each.
        (false, [_, high, low, ..]) if (usize::from(*high) << 8 | usize::from(*low)) % 6 == 0 => {
            Greeting::Http2
        }
        _ => Greeting::Opaque,
    }
}

/// Who speaks first on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    Client,
    Server,
}

/// Where a habit was observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub destination: SocketAddr,
    /// Where mesh TLS and plain text are both accepted: by whose connections, since members of the mesh speak first
    /// there whatever the application does.
    pub caller: Option<IpAddr>,
}

impl Place {
    /// Sidecars of this host meet on loopback addresses of their own, and use them as sources too.
    pub fn is_of_a_sidecar(&self) -> bool {
        self.caller.is_some_and(|caller| {
            caller.is_loopback() && caller != Ipv4Addr::LOCALHOST && caller != Ipv6Addr::LOCALHOST
        })
    }
}

/// What one worker has learnt of places. Bounded, and forgotten after a while.
#[derive(Debug, Default)]
pub struct Learnt {
    known: Vec<(Place, Habit, Instant)>,
}

const KNOWN: usize = 256;
const BELIEVED: Duration = Duration::from_secs(120);

impl Learnt {
    pub fn of(&self, place: Place, now: Instant) -> Option<Habit> {
        let found = self.known.iter().find(|(known, _, _)| *known == place);
        found
            .filter(|(_, _, at)| now.duration_since(*at) < BELIEVED)
            .map(|(_, habit, _)| *habit)
    }

    pub fn learn(&mut self, place: Place, habit: Habit, now: Instant) {
        self.known
            .retain(|(known, _, at)| *known != place && now.duration_since(*at) < BELIEVED);
        if self.known.len() >= KNOWN {
            self.known.remove(0);
        }
        self.known.push((place, habit, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients() {
        for (bytes, want) in [
            (&b"GET / HTTP/1.1\r\n"[..], First::Http1),
            (b"OPTIONS * HTTP/1.0\r\nHost: a\r\n", First::Http1),
            (b"GET http://a/ HTTP/1.1\n", First::Http1),
            (b"CONNECT a:1 HTTP/1.1\r\n", First::Connect),
            (b"GET HTTPS://a/ HTTP/1.1\r\n", First::Http1),
            (b"GET /a b HTTP/1.1\r\n", First::Opaque),
            (b"GET  / HTTP/1.1\r\n", First::Opaque),
            (b"GET /\xff HTTP/1.1\r\n", First::Opaque),
            (b"GET /\xff", First::Partial),
            (b"GET hello HTTP/1.1\r\n", First::Opaque),
            (b"GET * HTTP/1.1\r\n", First::Opaque),
            (b"GET / HTTP/1.2\r\n", First::Opaque),
            (b"GET /\r\n", First::Opaque),
            (b"CONNECT a HTTP/1.1\r\n", First::Opaque),
            (b"GET / HTT", First::Partial),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", First::Http2),
            (b"PRI * HTTP/2.0\r\n", First::Partial),
            (b"P", First::Partial),
            (b"GET / HTTP/2.0\r\n", First::Opaque),
            (b"PING\r\n", First::Opaque),
            (b"*1\r\n$4\r\nPING\r\n", First::Opaque),
            (b"SELECT 1\n", First::Opaque),
            (b"get k\r\n", First::Opaque),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", First::Opaque),
            (b"EHLO a\r\n", First::Opaque),
            (b"GET /\x01", First::Opaque),
            (b"\x16\x03", First::Partial),
        ] {
            assert_eq!(first(bytes), want, "{:?}", String::from_utf8_lossy(bytes));
        }
        let mut long = b"GET /".to_vec();
        long.resize(MOST, b'a');
        assert_eq!(first(&long), First::Opaque);
    }

    #[test]
    fn servers() {
        for (bytes, want) in [
            (&b"220 mail ESMTP\r\n"[..], Greeting::Opaque),
            (b"J\0\0\0\n8.0.32\0", Greeting::Opaque),
            (b"SSH-2.0-x\r\n", Greeting::Opaque),
            (b"\0\0\x0c\x04\0\0\0\0\0\0\x03\0\0\0\x64", Greeting::Http2),
            (b"\0\0\0\x04\0\0\0\0\0", Greeting::Http2),
            (b"\0\0\0\x04", Greeting::Partial),
            (b"\0\0\x05\x04\0\0\0\0\0", Greeting::Opaque),
            (b"\0\0\0\x01\0\0\0\0\0", Greeting::Opaque),
        ] {
            assert_eq!(greeting(bytes), want, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_learnt_expires_and_is_bounded() {
        let now = Instant::now();
        let at = |port: u16| Place {
            destination: SocketAddr::from(([127, 0, 0, 1], port)),
            caller: None,
        };
        let mut learnt = Learnt::default();
        learnt.learn(at(1), Habit::Server, now);
        assert_eq!(learnt.of(at(1), now), Some(Habit::Server));
        assert_eq!(learnt.of(at(1), now + BELIEVED), None);
        let called = Place {
            caller: Some([127, 88, 0, 1].into()),
            ..at(1)
        };
        assert_eq!(learnt.of(called, now), None, "callers differ");
        assert!(called.is_of_a_sidecar() && !at(1).is_of_a_sidecar());
        for port in 0..1000 {
            learnt.learn(at(port), Habit::Client, now);
        }
        assert_eq!(learnt.known.len(), KNOWN);
    }
}
