//! `upstreams.yaml` → servers on loopback that play it and keep what they saw.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::socket::{self, Backlog};
use ripstop_testkit::upstream::{self, Conversation, Step, Upstream};
use serde::Deserialize;
use tokio::task::AbortHandle;

use super::bootstrap;
use super::http2;
use super::message::{self, Fields};

/// One upstream of `upstreams.yaml`: rows, or a mapping with what else is to be said.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Server {
    Rows(Vec<Row>),
    Of(Box<Spoken>),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spoken {
    #[serde(default)]
    rows: Option<Vec<Row>>,
    #[serde(default)]
    speaks: Speaks,
    /// The certificate that it shows (`pki.rs`); no TLS if not given.
    #[serde(default)]
    cert: Option<String>,
    #[serde(default)]
    alpn: Vec<String>,
    /// Seconds after which a connection carries nothing back any more, though it stays open.
    #[serde(default)]
    mute_after: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Speaks {
    #[default]
    Http1,
    Http2,
    /// Nothing: the kernel answers no connection, as if nobody were at home.
    Nothing,
    /// Lines: each is logged and answered with the upstream's name, or with what the first row of that path says.
    Lines,
}

/// How one upstream answers requests for a path: the first attempt by the first reply, the last reply ever after.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    /// A prefix of the request's target.
    #[serde(default)]
    path: String,
    replies: Vec<Reply>,
    /// Not logged: health checks come when they like. Its replies go on from request to request.
    #[serde(default)]
    quiet: bool,
    /// Only for requests that have these headers.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Only for requests whose body has this in it.
    #[serde(default)]
    sent: String,
    /// Only once this path has been asked for, of this upstream.
    #[serde(default)]
    after: Option<String>,
}

impl Row {
    fn is_for(&self, seen: &Seen, target: &str) -> bool {
        let has = |(name, value): (&String, &String)| {
            let mut headers = seen.headers.iter();
            headers.any(|(n, v)| n.eq_ignore_ascii_case(name) && v == value)
        };
        let sent = String::from_utf8_lossy(&seen.body);
        target.starts_with(&self.path) && sent.contains(&self.sent) && self.headers.iter().all(has)
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reply {
    /// 200 if not given; 0 gives no response at all, only what `then` says.
    #[serde(default)]
    pub(crate) status: Option<u16>,
    /// Before the response.
    #[serde(default)]
    pub(crate) interim: Vec<u16>,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// The upstream's name if not given; `{body}` is the request's.
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    chunks: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) trailers: BTreeMap<String, String>,
    /// The whole response as it goes on the wire, in place of the above.
    #[serde(default)]
    raw: Option<String>,
    /// Seconds before the response.
    #[serde(default)]
    pub(crate) delay: f64,
    /// Seconds between its head and its body.
    #[serde(default)]
    pub(crate) pause: f64,
    #[serde(default)]
    pub(crate) then: Then,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Then {
    #[default]
    Keep,
    Close,
    Reset,
    /// Gives back every byte.
    Echo,
    /// Of HTTP/2: the stream is refused.
    Refuse,
}

impl Reply {
    /// The body.
    pub(crate) fn text(&self, name: &str, sent: &[u8]) -> String {
        match &self.chunks {
            Some(chunks) => chunks.concat(),
            None => {
                let sent = String::from_utf8_lossy(sent);
                self.body
                    .as_deref()
                    .unwrap_or(name)
                    .replace("{body}", &sent)
            }
        }
    }
}

/// What was agreed on before the first request, by the port of the connection that follows.
#[derive(Debug, Default)]
pub(crate) struct Facts(Mutex<BTreeMap<u16, Fields>>);

impl Facts {
    pub(crate) fn add(&self, port: u16, facts: Fields) {
        lock(&self.0).insert(port, facts);
    }

    pub(crate) fn of(&self, port: u16) -> Fields {
        lock(&self.0).get(&port).cloned().unwrap_or_default()
    }
}

/// One request as an upstream saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) upstream: String,
    /// `GET /path HTTP/1.1`.
    pub(crate) line: String,
    pub(crate) headers: Fields,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Fields,
}

/// The upstreams of a case.
pub(crate) struct Scripted {
    log: Arc<Log>,
    _servers: Vec<Upstream>,
    tasks: Vec<AbortHandle>,
    pipes: Vec<PathBuf>,
    _silent: Vec<(TcpListener, Vec<TcpStream>)>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        for pipe in &self.pipes {
            let _removed = std::fs::remove_file(pipe);
        }
    }
}

#[derive(Default)]
struct Log {
    seen: Mutex<Vec<Seen>>,
    /// Requests that a row of an upstream has answered since the last [`Scripted::take`]; of a quiet row, since the start.
    attempts: Mutex<BTreeMap<(String, usize, bool), usize>>,
    /// Paths that some row waits for, and that have been asked for since the start.
    past: Mutex<BTreeSet<(String, String)>>,
}

impl Scripted {
    /// Starts each upstream that has rows, or none given: then it answers 200 with its name. An empty list of rows
    /// means that nothing listens there.
    pub(crate) fn start(
        upstreams: impl Iterator<Item = (String, SocketAddr)>,
        mut scripts: BTreeMap<String, Server>,
        piped: &BTreeSet<String>,
    ) -> Scripted {
        let log = Arc::new(Log::default());
        let (mut servers, mut tasks) = (Vec::new(), Vec::new());
        let (mut pipes, mut silent) = (Vec::new(), Vec::new());
        for (name, address) in upstreams {
            if piped.contains(&name) {
                let path = bootstrap::pipe(address.port());
                // Of a run that was killed.
                let _removed = std::fs::remove_file(&path);
                let listener = UnixListener::bind(&path).expect("a path for a socket");
                listener.set_nonblocking(true).expect("a socket's mode");
                let piping = http2::pipe(listener, address);
                tasks.push(http2::runtime().spawn(piping).abort_handle());
                pipes.push(path);
            }
            let (rows, spoken) = match scripts.remove(&name) {
                Some(Server::Rows(rows)) => (Some(rows), None),
                Some(Server::Of(spoken)) => (spoken.rows.clone(), Some(spoken)),
                None => (None, None),
            };
            let rows = rows.unwrap_or_else(|| {
                vec![Row {
                    path: String::new(),
                    replies: vec![Reply::default()],
                    quiet: false,
                    headers: BTreeMap::new(),
                    sent: String::new(),
                    after: None,
                }]
            });
            if rows.is_empty() {
                continue;
            }
            let mut listener = TcpListener::bind(address).expect("a reserved port");
            let speaks = spoken
                .as_ref()
                .map_or(Speaks::Http1, |spoken| spoken.speaks);
            if speaks == Speaks::Nothing {
                silent.push(silence(listener, address));
                continue;
            }
            let facts = Arc::new(Facts::default());
            if let Some(Spoken {
                cert: Some(cert),
                alpn,
                ..
            }) = spoken.as_deref()
            {
                let behind = TcpListener::bind("127.0.0.1:0").expect("a port");
                let onward = behind.local_addr().expect("an address");
                let front = std::mem::replace(&mut listener, behind);
                front.set_nonblocking(true).expect("a socket's mode");
                let (cert, alpn) = (cert.clone(), alpn.clone());
                let front = http2::front(front, onward, cert, alpn, facts.clone());
                tasks.push(http2::runtime().spawn(front).abort_handle());
            }
            if let Some(after) = spoken.as_deref().and_then(|spoken| spoken.mute_after) {
                let behind = TcpListener::bind("127.0.0.1:0").expect("a port");
                let onward = behind.local_addr().expect("an address");
                let front = std::mem::replace(&mut listener, behind);
                front.set_nonblocking(true).expect("a socket's mode");
                let muting = http2::mute(front, onward, Duration::from_secs_f64(after));
                tasks.push(http2::runtime().spawn(muting).abort_handle());
            }
            let log = log.clone();
            if speaks == Speaks::Http2 {
                listener.set_nonblocking(true).expect("a socket's mode");
                let script = move |seen: Seen| {
                    let target = seen.line.split(' ').nth(1).unwrap_or_default().to_owned();
                    log.reply(&rows, seen, &target)
                };
                let serving = http2::serve(listener, name, facts, Arc::new(script));
                tasks.push(http2::runtime().spawn(serving).abort_handle());
                continue;
            }
            let serve = move |conversation: &mut Conversation| match speaks {
                Speaks::Lines => lines(conversation, &name, &rows, &log, &facts),
                _ => serve(conversation, &name, &rows, &log, &facts),
            };
            servers.push(Upstream::tcp_on(listener, serve));
        }
        Scripted {
            log,
            _servers: servers,
            tasks,
            pipes,
            _silent: silent,
        }
    }

    /// Nothing has been asked yet.
    pub(crate) fn begin(&self) {
        lock(&self.log.attempts).clear();
        lock(&self.log.past).clear();
        lock(&self.log.seen).clear();
    }

    /// What was seen since the last call; the next request meets the first replies again.
    pub(crate) fn take(&self) -> Vec<Seen> {
        lock(&self.log.attempts).retain(|(_, _, quiet), _| *quiet);
        std::mem::take(&mut *lock(&self.log.seen))
    }

    /// How often an upstream has been asked since the last [`Scripted::take`].
    pub(crate) fn count(&self, upstream: &str) -> usize {
        lock(&self.log.seen)
            .iter()
            .filter(|seen| seen.upstream == upstream)
            .count()
    }
}

/// Fills the queue of connections that nobody accepts: the kernel drops what comes after.
fn silence(listener: TcpListener, address: SocketAddr) -> (TcpListener, Vec<TcpStream>) {
    let none = Backlog::new(0).expect("a small backlog");
    socket::listen(&listener, none).expect("a shorter queue");
    let at_once = Duration::from_millis(100);
    let filling = || TcpStream::connect_timeout(&address, at_once).ok();
    (listener, std::iter::from_fn(filling).collect())
}

impl Log {
    /// Keeps what was seen; what is replied to it. A path that no row is for is a mistake in the case: 599 shows it.
    fn reply(&self, rows: &[Row], seen: Seen, target: &str) -> Reply {
        let upstream = &seen.upstream;
        let mut past = lock(&self.past);
        if rows.iter().any(|row| row.after.as_deref() == Some(target)) {
            past.insert((upstream.clone(), target.to_owned()));
        }
        let is_past = |path: &String| past.contains(&(upstream.clone(), path.clone()));
        let found = rows
            .iter()
            .position(|row| row.is_for(&seen, target) && row.after.as_ref().is_none_or(is_past));
        drop(past);
        let reply = found.map(|index| {
            let mut attempts = lock(&self.attempts);
            let key = (seen.upstream.clone(), index, rows[index].quiet);
            let attempt = attempts.entry(key).or_default();
            let replies = &rows[index].replies;
            let reply = replies.get(*attempt).or(replies.last());
            *attempt += 1;
            reply.cloned().unwrap_or_default()
        });
        if !found.is_some_and(|index| rows[index].quiet) {
            lock(&self.seen).push(seen);
        }
        reply.unwrap_or(Reply {
            status: Some(599),
            ..Reply::default()
        })
    }
}

fn serve(
    conversation: &mut Conversation,
    name: &str,
    rows: &[Row],
    log: &Log,
    facts: &Facts,
) -> io::Result<()> {
    let facts = facts.of(conversation.peer()?.port());
    while let Some(request) = conversation.request()? {
        let chunked = request.header("transfer-encoding").is_some();
        let mut headers = facts.clone();
        headers.extend(request.headers());
        let seen = Seen {
            upstream: name.to_owned(),
            line: String::from_utf8_lossy(&request.head)
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned(),
            headers,
            body: request.body.clone(),
            trailers: if chunked {
                message::trailers(&request.raw_body)
            } else {
                Fields::new()
            },
        };
        let reply = log.reply(rows, seen, &request.target());
        if answer(conversation, name, &request, &reply)? {
            return Ok(());
        }
    }
    Ok(())
}

fn lines(
    conversation: &mut Conversation,
    name: &str,
    rows: &[Row],
    log: &Log,
    facts: &Facts,
) -> io::Result<()> {
    let facts = facts.of(conversation.peer()?.port());
    let mut line = Vec::new();
    let mut byte = [0];
    while conversation.read(&mut byte)? > 0 {
        if byte[0] != b'\n' {
            line.push(byte[0]);
            continue;
        }
        let text = String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned();
        let seen = Seen {
            upstream: name.to_owned(),
            line: text.clone(),
            headers: facts.clone(),
            body: Vec::new(),
            trailers: Fields::new(),
        };
        let reply = log.reply(rows, seen, &text);
        std::thread::sleep(Duration::from_secs_f64(reply.delay));
        if reply.status != Some(0) {
            let text = reply.text(name, text.as_bytes());
            conversation.write_all(format!("{text}\n").as_bytes())?;
        }
        match reply.then {
            Then::Close => return Ok(()),
            Then::Reset => {
                conversation.play(&Step::Reset)?;
                return Ok(());
            }
            _ => {}
        }
    }
    Ok(())
}

/// True when the connection is over.
fn answer(
    conversation: &mut Conversation,
    name: &str,
    request: &upstream::Request,
    reply: &Reply,
) -> io::Result<bool> {
    std::thread::sleep(Duration::from_secs_f64(reply.delay));
    for status in &reply.interim {
        write!(conversation, "HTTP/1.1 {status} Interim\r\n\r\n")?;
    }
    if let Some(raw) = &reply.raw {
        conversation.write_all(raw.as_bytes())?;
    } else if reply.status != Some(0) {
        respond(conversation, name, request, reply)?;
    }
    match reply.then {
        Then::Keep | Then::Refuse => Ok(false),
        Then::Close => Ok(true),
        Then::Reset => conversation.play(&Step::Reset),
        Then::Echo => {
            let mut buffer = [0; 4096];
            loop {
                let read = conversation.read(&mut buffer)?;
                if read == 0 {
                    return Ok(true);
                }
                conversation.write_all(&buffer[..read])?;
            }
        }
    }
}

fn respond(
    conversation: &mut Conversation,
    name: &str,
    request: &upstream::Request,
    reply: &Reply,
) -> io::Result<()> {
    let status = reply.status.unwrap_or(200);
    let bodiless = matches!(status, 101 | 204 | 304);
    let body = reply.text(name, &request.body);
    let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if reply.chunks.is_some() {
        head.push_str("transfer-encoding: chunked\r\n");
    } else if !bodiless && !reply.headers.contains_key("content-length") {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let mut rest = String::new();
    if let Some(chunks) = &reply.chunks {
        for chunk in chunks {
            rest.push_str(&format!("{:x}\r\n{chunk}\r\n", chunk.len()));
        }
        rest.push_str("0\r\n");
        for (name, value) in &reply.trailers {
            rest.push_str(&format!("{name}: {value}\r\n"));
        }
        rest.push_str("\r\n");
    } else if !bodiless && request.method() != "HEAD" {
        rest.push_str(&body);
    }
    if reply.pause == 0.0 {
        head.push_str(&rest);
        return conversation.write_all(head.as_bytes());
    }
    conversation.write_all(head.as_bytes())?;
    std::thread::sleep(Duration::from_secs_f64(reply.pause));
    conversation.write_all(rest.as_bytes())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
