//! A query of the app → the answer of one of the host's resolvers, byte for byte.
//!
//! Only the id is ours on the way: every attempt has a random one and a socket of its own on a port the kernel picks at
//! random, and an answer counts only from the address asked, with that id and that question (RFC 5452, 9.1).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message::Transport;

/// Per attempt; glibc's own is 5 s for all, so two resolvers can be tried before it gives up.
const PATIENCE: Duration = Duration::from_millis(2000);
/// Rounds over the resolvers.
const ROUNDS: usize = 2;
const HEADER: usize = 12;

pub(super) struct Upstreams {
    servers: Vec<SocketAddr>,
}

impl Upstreams {
    pub(super) fn new(servers: Vec<SocketAddr>) -> Upstreams {
        Upstreams { servers }
    }

    /// Asks in order, over the transport the app used; a truncated answer goes back as it is and brings the app's own
    /// query over TCP. A resolver that cannot be asked by datagram at all is asked over TCP.
    pub(super) async fn ask(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let mut last = None;
        for server in self
            .servers
            .iter()
            .cycle()
            .take(self.servers.len() * ROUNDS)
        {
            match timeout(PATIENCE, ask_one(*server, query, transport)).await {
                // The next resolver may do better; if none does, this is the answer.
                Ok(Ok(answer)) if failure(&answer) => last = Some(answer),
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%server, %error, "outside resolver"),
                Err(_) => tracing::debug!(%server, "outside resolver is silent"),
            }
        }
        last
    }
}

async fn ask_one(server: SocketAddr, query: &[u8], transport: Transport) -> io::Result<Vec<u8>> {
    let id = random_id()?;
    let mut asked = query.to_vec();
    asked
        .get_mut(..2)
        .ok_or(io::ErrorKind::InvalidData)?
        .copy_from_slice(&id);
    let mut answer = match transport {
        Transport::Datagram => match by_datagram(server, &asked).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                shortened(by_stream(server, &asked).await?, query)
            }
            other => other?,
        },
        Transport::Stream => by_stream(server, &asked).await?,
    };
    let original = query.get(..2).ok_or(io::ErrorKind::InvalidData)?;
    answer
        .get_mut(..2)
        .ok_or(io::ErrorKind::InvalidData)?
        .copy_from_slice(original);
    Ok(answer)
}

async fn by_datagram(server: SocketAddr, asked: &[u8]) -> io::Result<Vec<u8>> {
    let any = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(asked).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // A forgery may come before the answer: pass it over and wait on.
        if answers(&buffer[..length], asked) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn by_stream(server: SocketAddr, asked: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&framed(asked)).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    if answers(&answer, asked) {
        Ok(answer)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Puts the two-byte length of TCP before a message.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(&message[..usize::from(length)]);
    framed
}

/// An answer got by TCP may not fit the app's datagram: then only its header and question go back, marked truncated.
fn shortened(mut answer: Vec<u8>, query: &[u8]) -> Vec<u8> {
    const PLAIN: usize = 512;
    let question = question(query).map_or(HEADER, |question| HEADER + question.len());
    if answer.len() > PLAIN && answer.len() >= question {
        answer.truncate(question);
        answer[2] |= 0x02;
        answer[6..HEADER].fill(0);
    }
    answer
}

/// Whether `answer` is a response with the id and the question of `asked`, letter case aside.
fn answers(answer: &[u8], asked: &[u8]) -> bool {
    let response = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    let same = answer.get(..2) == asked.get(..2);
    let (Some(theirs), Some(ours)) = (question(answer), question(asked)) else {
        // FORMERR and the like may come without a question.
        return response && same && answer.len() == HEADER;
    };
    response && same && theirs.eq_ignore_ascii_case(ours)
}

/// The bytes of the only question; it is never compressed, since nothing comes before it.
fn question(message: &[u8]) -> Option<&[u8]> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut at = HEADER;
    loop {
        match *message.get(at)? {
            0 => return message.get(HEADER..at + 5),
            label if label < 64 => at += usize::from(label) + 1,
            _ => return None,
        }
    }
}

/// SERVFAIL or REFUSED.
fn failure(answer: &[u8]) -> bool {
    answer
        .get(3)
        .is_some_and(|flags| matches!(flags & 0x0f, 2 | 5))
}

fn random_id() -> io::Result<[u8; 2]> {
    let mut id = [0u8; 2];
    // SAFETY: fills a live buffer of the length told.
    let filled = unsafe { libc::getrandom(id.as_mut_ptr().cast(), id.len(), 0) };
    if filled == 2 {
        Ok(id)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01";

    #[test]
    fn only_an_answer_to_this_query_counts() {
        let mut answer = QUERY.to_vec();
        assert!(!answers(&answer, QUERY), "a query is no answer");
        answer[2] |= 0x80;
        answer[13] = b'E';
        assert!(answers(&answer, QUERY));
        answer[0] = 0;
        assert!(!answers(&answer, QUERY), "another id");
        let mut other = QUERY.to_vec();
        other[2] |= 0x80;
        other[14] = b'y';
        assert!(!answers(&other, QUERY), "another question");
        assert!(!answers(&[], QUERY));
    }

    #[test]
    fn an_answer_too_long_for_a_datagram_is_marked() {
        let mut long = QUERY.to_vec();
        long[2] |= 0x80;
        long[7] = 40;
        long.resize(900, 1);
        let short = shortened(long, QUERY);
        assert_eq!(short.len(), QUERY.len());
        assert_eq!((short[2] & 0x02, &short[6..12]), (0x02, &[0u8; 6][..]));
    }
}
