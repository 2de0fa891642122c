//! `upstreams.yaml` → servers on loopback that play it and keep what they saw.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ripstop_testkit::upstream::{self, Conversation, Step, Upstream};
use serde::Deserialize;

use super::message::{self, Fields};

/// How one upstream answers requests for a path: the first attempt by the first reply, the last reply ever after.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    /// A prefix of the request's target.
    #[serde(default)]
    path: String,
    replies: Vec<Reply>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reply {
    /// 200 if not given; 0 gives no response at all, only what `then` says.
    #[serde(default)]
    status: Option<u16>,
    /// Before the response.
    #[serde(default)]
    interim: Vec<u16>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// The upstream's name if not given; `{body}` is the request's.
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    chunks: Option<Vec<String>>,
    #[serde(default)]
    trailers: BTreeMap<String, String>,
    /// The whole response as it goes on the wire, in place of the above.
    #[serde(default)]
    raw: Option<String>,
    /// Seconds before the response.
    #[serde(default)]
    delay: f64,
    /// Seconds between its head and its body.
    #[serde(default)]
    pause: f64,
    #[serde(default)]
    then: Then,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Then {
    #[default]
    Keep,
    Close,
    Reset,
    /// Gives back every byte.
    Echo,
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
}

#[derive(Default)]
struct Log {
    seen: Mutex<Vec<Seen>>,
    /// Requests that a row of an upstream has answered since the last [`Scripted::take`].
    attempts: Mutex<BTreeMap<(String, usize), usize>>,
}

impl Scripted {
    /// Starts each upstream that has rows, or none given: then it answers 200 with its name. An empty list of rows
    /// means that nothing listens there.
    pub(crate) fn start(
        upstreams: impl Iterator<Item = (String, SocketAddr)>,
        mut scripts: BTreeMap<String, Vec<Row>>,
    ) -> Scripted {
        let log = Arc::new(Log::default());
        let mut servers = Vec::new();
        for (name, address) in upstreams {
            let default = || {
                vec![Row {
                    path: String::new(),
                    replies: vec![Reply::default()],
                }]
            };
            let rows = scripts.remove(&name).unwrap_or_else(default);
            if rows.is_empty() {
                continue;
            }
            let listener = TcpListener::bind(address).expect("a reserved port");
            let log = log.clone();
            let serve =
                move |conversation: &mut Conversation| serve(conversation, &name, &rows, &log);
            servers.push(Upstream::tcp_on(listener, serve));
        }
        Scripted {
            log,
            _servers: servers,
        }
    }

    /// What was seen since the last call; the next request meets the first replies again.
    pub(crate) fn take(&self) -> Vec<Seen> {
        lock(&self.log.attempts).clear();
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

fn serve(conversation: &mut Conversation, name: &str, rows: &[Row], log: &Log) -> io::Result<()> {
    while let Some(request) = conversation.request()? {
        let target = request.target();
        let found = rows.iter().position(|row| target.starts_with(&row.path));
        let reply = found.map(|index| {
            let mut attempts = lock(&log.attempts);
            let attempt = attempts.entry((name.to_owned(), index)).or_default();
            let replies = &rows[index].replies;
            let reply = replies.get(*attempt).or(replies.last());
            *attempt += 1;
            reply.cloned().unwrap_or_default()
        });
        let chunked = request.header("transfer-encoding").is_some();
        lock(&log.seen).push(Seen {
            upstream: name.to_owned(),
            line: String::from_utf8_lossy(&request.head)
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned(),
            headers: request.headers(),
            body: request.body.clone(),
            trailers: if chunked {
                message::trailers(&request.raw_body)
            } else {
                Fields::new()
            },
        });
        // A path that no row is for is a mistake in the case: 599 shows it.
        let reply = reply.unwrap_or(Reply {
            status: Some(599),
            ..Reply::default()
        });
        if answer(conversation, name, &request, &reply)? {
            return Ok(());
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
        Then::Keep => Ok(false),
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
    let sent = String::from_utf8_lossy(&request.body);
    let body = reply
        .body
        .as_deref()
        .unwrap_or(name)
        .replace("{body}", &sent);
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
