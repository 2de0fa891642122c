//! A script in → a server on loopback that plays it, and every byte that its clients sent.
//!
//! [`Upstream::http`] answers HTTP/1 requests, one connection after another on threads of their own; it parses only
//! what it needs to find the end of a request, and records the bytes as they came, so that a test can assert on case,
//! order and framing. [`Upstream::tcp`] hands over the whole conversation.

use socket2::SockRef;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// No test waits longer than this for a silent peer.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// One thing that the server does.
#[derive(Debug, Clone)]
pub enum Step {
    Write(Vec<u8>),
    Wait(Duration),
    /// Ends our half; what the client still sends is read and recorded until it closes.
    HalfClose,
    /// Closes in order (FIN).
    Close,
    /// Closes with RST.
    Reset,
}

/// A canonical response with a Content-Length.
pub fn response(status: u16, body: &str) -> Vec<Step> {
    response_with(status, &[], body)
}

/// The same, with further headers.
pub fn response_with(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<Step> {
    let mut text = format!(
        "HTTP/1.1 {status} Scripted\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.push_str(body);
    vec![Step::Write(text.into_bytes())]
}

/// One recorded request.
#[derive(Debug, Clone)]
pub struct Request {
    /// Counts connections from 0.
    pub connection: usize,
    /// Counts requests of all connections from 0.
    pub number: usize,
    /// From the request line to the empty line, both included, as received.
    pub head: Vec<u8>,
    /// The body's bytes with any chunk framing taken off.
    pub body: Vec<u8>,
    /// The body as it was on the wire.
    pub raw_body: Vec<u8>,
}

impl Request {
    pub fn method(&self) -> String {
        self.line().split(' ').next().unwrap_or_default().to_owned()
    }

    pub fn target(&self) -> String {
        self.line().split(' ').nth(1).unwrap_or_default().to_owned()
    }

    /// The first header of that name, whatever its case.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers()
            .into_iter()
            .find(|(header, _)| header.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// All headers in their order and their case.
    pub fn headers(&self) -> Vec<(String, String)> {
        headers(&self.head)
    }

    fn line(&self) -> String {
        let text = String::from_utf8_lossy(&self.head);
        text.lines().next().unwrap_or_default().to_owned()
    }
}

/// A scripted server. Dropping it stops accepting and closes every connection.
pub struct Upstream {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    connections: AtomicUsize,
    open: AtomicUsize,
    requests: Mutex<Vec<Request>>,
    received: Mutex<Vec<Vec<u8>>>,
    /// By connection; gone once the connection has ended.
    streams: Mutex<BTreeMap<usize, TcpStream>>,
}

impl Upstream {
    /// Answers each request with the steps that `script` gives for it; keeps the connection unless a step ends it or
    /// the request asked for `connection: close`.
    pub fn http(script: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static) -> Upstream {
        Upstream::http_on(free(), script)
    }

    /// The same on a listener of the caller's.
    pub fn http_on(
        listener: TcpListener,
        script: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static,
    ) -> Upstream {
        Upstream::tcp_on(listener, move |conversation| {
            while let Some(request) = conversation.request()? {
                let last = request
                    .header("connection")
                    .is_some_and(|value| value.eq_ignore_ascii_case("close"));
                for step in script(&request) {
                    if conversation.play(&step)? {
                        return Ok(());
                    }
                }
                if last {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Always the same answer.
    pub fn always(status: u16, body: &str) -> Upstream {
        let body = body.to_owned();
        Upstream::http(move |_| response(status, &body))
    }

    /// Gives each connection to `serve`, which reads, writes, resets as it likes; the connection closes when it
    /// returns. An error ends that connection only.
    pub fn tcp(
        serve: impl Fn(&mut Conversation) -> io::Result<()> + Send + Sync + 'static,
    ) -> Upstream {
        Upstream::tcp_on(free(), serve)
    }

    /// The same on a listener of the caller's.
    pub fn tcp_on(
        listener: TcpListener,
        serve: impl Fn(&mut Conversation) -> io::Result<()> + Send + Sync + 'static,
    ) -> Upstream {
        let addr = listener.local_addr().expect("a bound listener");
        let shared = Arc::new(Shared::default());
        let acceptor = std::thread::spawn({
            let shared = Arc::clone(&shared);
            let serve = Arc::new(serve);
            move || {
                while let Ok((stream, _)) = listener.accept() {
                    if shared.stopped.load(Ordering::Acquire) {
                        break;
                    }
                    start(&shared, stream, &serve);
                }
            }
        });
        Upstream {
            addr,
            shared,
            acceptor: Some(acceptor),
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Every complete request so far, in the order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Acquire)
    }

    /// How many connections are open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }

    /// Every byte received so far, by connection.
    pub fn received(&self) -> Vec<Vec<u8>> {
        lock(&self.shared.received).clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        for stream in lock(&self.shared.streams).values() {
            let _gone = stream.shutdown(Shutdown::Both);
        }
        // The acceptor sits in accept; a connection of our own lets it see the flag.
        let woken = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
        if let (Ok(_), Some(acceptor)) = (woken, self.acceptor.take()) {
            let _ended = acceptor.join();
        }
    }
}

fn start(
    shared: &Arc<Shared>,
    stream: TcpStream,
    serve: &Arc<impl Fn(&mut Conversation) -> io::Result<()> + Send + Sync + 'static>,
) {
    let connection = shared.connections.fetch_add(1, Ordering::AcqRel);
    shared.open.fetch_add(1, Ordering::AcqRel);
    lock(&shared.received).push(Vec::new());
    let _best_effort = stream.set_nodelay(true);
    let _best_effort = stream.set_read_timeout(Some(READ_LIMIT));
    if let Ok(clone) = stream.try_clone() {
        lock(&shared.streams).insert(connection, clone);
    }
    let shared = Arc::clone(shared);
    let serve = Arc::clone(serve);
    std::thread::spawn(move || {
        let mut conversation = Conversation {
            connection,
            stream,
            shared: Arc::clone(&shared),
            ahead: Vec::new(),
            reset: false,
        };
        let _ended_early = serve(&mut conversation);
        lock(&shared.streams).remove(&connection);
        if !conversation.reset {
            let _gone = conversation.stream.shutdown(Shutdown::Both);
        }
        drop(conversation);
        shared.open.fetch_sub(1, Ordering::AcqRel);
    });
}

/// One connection, seen from the server; what is read through it is recorded.
pub struct Conversation {
    pub connection: usize,
    stream: TcpStream,
    shared: Arc<Shared>,
    /// Read from the socket, not yet consumed by [`Conversation::request`].
    ahead: Vec<u8>,
    reset: bool,
}

impl Conversation {
    pub fn peer(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    pub fn local(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Makes the close that follows an RST.
    pub fn reset(&mut self) -> io::Result<()> {
        self.reset = true;
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))
    }

    /// Plays one step; true when it ended the connection.
    pub fn play(&mut self, step: &Step) -> io::Result<bool> {
        match step {
            Step::Write(bytes) => self.stream.write_all(bytes)?,
            Step::Wait(time) => std::thread::sleep(*time),
            Step::HalfClose => {
                self.stream.shutdown(Shutdown::Write)?;
                io::copy(self, &mut io::sink())?;
                return Ok(true);
            }
            Step::Close => return Ok(true),
            Step::Reset => {
                self.reset()?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The next HTTP/1 request, or nothing when the client closed before a first byte of one.
    pub fn request(&mut self) -> io::Result<Option<Request>> {
        let Some(head_len) = self.fill_until(|ahead| find(ahead, b"\r\n\r\n").map(|at| at + 4))?
        else {
            return Ok(None);
        };
        let head: Vec<u8> = self.ahead.drain(..head_len).collect();
        let fields = headers(&head);
        let value = |name: &str| {
            fields
                .iter()
                .find(|(n, _)| n.eq_ignore_ascii_case(name))
                .map(|(_, v)| v.as_str())
        };
        let (body, raw_body) = if value("transfer-encoding")
            .is_some_and(|v| v.to_ascii_lowercase().contains("chunked"))
        {
            let raw = self.take(|ahead| unchunk(ahead).map(|(_, used)| used))?;
            (unchunk(&raw).map(|(body, _)| body).unwrap_or_default(), raw)
        } else {
            let length: usize = value("content-length")
                .and_then(|v| v.parse().ok())
                .unwrap_or(0);
            let raw = self.take(|ahead| (ahead.len() >= length).then_some(length))?;
            (raw.clone(), raw)
        };
        let mut requests = lock(&self.shared.requests);
        let request = Request {
            connection: self.connection,
            number: requests.len(),
            head,
            body,
            raw_body,
        };
        requests.push(request.clone());
        Ok(Some(request))
    }

    fn take(&mut self, end: impl Fn(&[u8]) -> Option<usize>) -> io::Result<Vec<u8>> {
        match self.fill_until(end)? {
            Some(length) => Ok(self.ahead.drain(..length).collect()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn fill_until(&mut self, end: impl Fn(&[u8]) -> Option<usize>) -> io::Result<Option<usize>> {
        loop {
            if let Some(length) = end(&self.ahead) {
                return Ok(Some(length));
            }
            let mut buffer = [0; 16 * 1024];
            let read = self.read(&mut buffer)?;
            if read == 0 {
                return Ok(None);
            }
            self.ahead.extend_from_slice(&buffer[..read]);
        }
    }
}

impl Read for Conversation {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        lock(&self.shared.received)[self.connection].extend_from_slice(&buffer[..read]);
        Ok(read)
    }
}

impl Write for Conversation {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn free() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a free port on loopback")
}

/// A panic of one connection's script must not hide what the others recorded.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

/// The header lines of a head, whose first line is skipped.
pub(crate) fn headers(head: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(head);
    text.split("\r\n")
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

/// The body of a complete chunked message and how many bytes it took; nothing when it is not complete.
pub(crate) fn unchunk(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let line_end = at + find(bytes.get(at..)?, b"\r\n")?;
        let line = String::from_utf8_lossy(&bytes[at..line_end]);
        let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        at = line_end + 2;
        if size == 0 {
            // Trailers, if any, end with an empty line.
            let rest = bytes.get(at..)?;
            let end = if rest.starts_with(b"\r\n") {
                2
            } else {
                find(rest, b"\r\n\r\n")? + 4
            };
            return Some((body, at + end));
        }
        body.extend_from_slice(bytes.get(at..at + size)?);
        at += size + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Client;

    #[test]
    fn records_bytes_and_plays_steps() {
        let upstream = Upstream::http(|request| match request.number {
            0 => response(200, "first"),
            1 => vec![Step::Write(
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
                    .to_vec(),
            )],
            _ => vec![Step::Reset],
        });
        let mut client = Client::connect(upstream.addr());
        client.send(b"POST /x HTTP/1.1\r\nHoSt: a\r\ncontent-length: 3\r\n\r\nabc");
        assert_eq!(client.response().expect("an answer").body, b"first");
        client.send(
            b"POST /y HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nz\r\n0\r\n\r\n",
        );
        assert_eq!(client.response().expect("an answer").body, b"ab");
        client.send(b"GET /z HTTP/1.1\r\nHost: a\r\n\r\n");
        let error = client.response().expect_err("a reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");

        let requests = upstream.requests();
        assert_eq!(requests.len(), 3);
        assert_eq!(requests[0].headers()[0], ("HoSt".into(), "a".into()));
        assert_eq!(
            (requests[0].method(), requests[0].target()),
            ("POST".into(), "/x".into())
        );
        assert_eq!(requests[0].body, b"abc");
        assert_eq!(
            (requests[1].body.as_slice(), requests[1].raw_body.as_slice()),
            (&b"z"[..], &b"1\r\nz\r\n0\r\n\r\n"[..])
        );
        assert_eq!(upstream.connections(), 1);
    }

    #[test]
    fn a_server_may_speak_first() {
        let upstream = Upstream::tcp(|conversation| {
            conversation.write_all(b"220 hello\r\n")?;
            let mut buffer = [0; 4];
            conversation.read_exact(&mut buffer)
        });
        let mut stream = TcpStream::connect(upstream.addr()).expect("a connection");
        let mut greeting = [0; 11];
        stream.read_exact(&mut greeting).expect("a greeting");
        assert_eq!(&greeting, b"220 hello\r\n");
        stream.write_all(b"QUIT").expect("room");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("an orderly end");
        assert_eq!(upstream.received()[0], b"QUIT");
    }
}
