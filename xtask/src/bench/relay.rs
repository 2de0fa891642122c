//! Bytes in, the same bytes out: what any proxy pays at least. One thread, one epoll, two system calls a message.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(0);
const BUFFER: usize = 64 * 1024;

/// One direction's source, and what could not be written to it.
struct End {
    stream: TcpStream,
    peer: usize,
    waiting: Vec<u8>,
}

/// Relays what comes to `port` to `to`, until the process is killed.
pub(super) fn run(port: u16, to: u16) -> anyhow::Result<()> {
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(local(port))?;
    let registry = poll.registry().try_clone()?;
    registry.register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(256);
    let mut ends: HashMap<usize, End> = HashMap::new();
    let mut next = 1;
    let mut buffer = vec![0; BUFFER];
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut client, _)) = listener.accept() {
                    let mut server = TcpStream::connect(local(to))?;
                    client.set_nodelay(true)?;
                    server.set_nodelay(true)?;
                    let both = Interest::READABLE | Interest::WRITABLE;
                    registry.register(&mut client, Token(next), both)?;
                    registry.register(&mut server, Token(next + 1), both)?;
                    let end = |stream, peer| End {
                        stream,
                        peer,
                        waiting: Vec::new(),
                    };
                    ends.insert(next, end(client, next + 1));
                    ends.insert(next + 1, end(server, next));
                    next += 2;
                }
                continue;
            }
            let token = event.token().0;
            let moved = match event.is_writable() {
                true => write_waiting(&mut ends, token),
                false => Ok(()),
            };
            if moved
                .and_then(|()| relay(&mut ends, token, &mut buffer, event.is_read_closed()))
                .is_err()
                && let Some(end) = ends.remove(&token)
            {
                ends.remove(&end.peer);
            }
        }
    }
}

fn write_waiting(ends: &mut HashMap<usize, End>, token: usize) -> io::Result<()> {
    let Some(end) = ends.get_mut(&token) else {
        return Ok(());
    };
    while !end.waiting.is_empty() {
        match end.stream.write(&end.waiting) {
            Ok(count) => drop(end.waiting.drain(..count)),
            Err(error)
                if error.kind() == ErrorKind::WouldBlock
                    || error.kind() == ErrorKind::NotConnected =>
            {
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// `closed`: the end has been announced with what is to be read, and will not be again.
fn relay(
    ends: &mut HashMap<usize, End>,
    token: usize,
    buffer: &mut [u8],
    closed: bool,
) -> io::Result<()> {
    loop {
        let Some(end) = ends.get_mut(&token) else {
            return Ok(());
        };
        let peer = end.peer;
        let count = match end.stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error)
                if error.kind() == ErrorKind::WouldBlock
                    || error.kind() == ErrorKind::NotConnected =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if let (Some(to), Some(data)) = (ends.get_mut(&peer), buffer.get(..count)) {
            to.waiting.extend_from_slice(data);
        }
        write_waiting(ends, peer)?;
        if count < buffer.len() && !closed {
            return Ok(());
        }
    }
}
