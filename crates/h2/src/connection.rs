//! One connection, of either role: bytes in → events; commands in → bytes out.

mod blocks;
mod control;
mod data;
mod receive;
mod send;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use crate::PREFACE;
use crate::frame::{self, HEADER, MAX_STREAM, StreamId};
use crate::guard::{Guards, Waste, Watch};
use crate::head::Head;
use crate::hpack::{Decoder, Encoder, TABLE};
use crate::settings::{self, DEFAULT_WINDOW, Settings};
use crate::stream::Stream;
use crate::violation::{Code, Violation};
use crate::window::{Inbound, Outbound};
use receive::Incoming;

/// Streams that ended lately: of those, frames that come are an error or were on their way.
const REMEMBERED: usize = 1_024;

/// Written output is dropped once it is this much.
const COMPACT: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

/// What this side allows its peer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Bytes in flight on a stream, and on the connection; at most 2^31-1.
    pub stream_window: u32,
    pub connection_window: u32,
    /// Streams that the peer opens at once.
    pub streams: u32,
    /// The largest header list, counted as RFC 9113 section 6.5.2 does.
    pub header_list: u32,
    /// Offer CONNECT with `:protocol` (RFC 8441).
    pub extended_connect: bool,
    /// Bytes of DATA that wait in the output before [`Connection::send`] takes no more.
    pub output: usize,
    pub guards: Guards,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            stream_window: DEFAULT_WINDOW,
            connection_window: DEFAULT_WINDOW,
            streams: 100,
            header_list: 64 * 1024,
            extended_connect: false,
            output: 128 * 1024,
            guards: Guards::default(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadKind {
    Request,
    /// 1xx: another response follows.
    Interim,
    Response,
    Trailers,
}

/// What the peer did.
#[derive(Debug)]
pub enum Event<'a> {
    /// A whole head. `end`: the message ends with it.
    Head {
        stream: StreamId,
        kind: HeadKind,
        head: &'a Head,
        end: bool,
    },
    /// A piece of a body; to be given back by [`Connection::consumed`].
    Data {
        stream: StreamId,
        data: &'a [u8],
        end: bool,
    },
    /// The peer gave a stream up.
    Reset { stream: StreamId, code: Code },
    /// The peer broke a rule, and the stream was reset for it. It may be one that was never shown.
    Broken {
        stream: StreamId,
        violation: Violation,
    },
    /// The peer opens no more streams, or takes none after `last`.
    GoAway {
        last: StreamId,
        code: Code,
        debug: &'a [u8],
    },
    /// The answer to [`Connection::ping`].
    Pong([u8; 8]),
    /// The peer's settings came; [`Connection::room`] may have changed.
    Settings,
    /// The peer has taken over this side's settings.
    SettingsTaken,
}

/// Why no stream could be opened. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unopened {
    #[error("as many streams are open as the server allows")]
    Full,
    #[error("the connection takes no more streams: open another")]
    GoingAway,
    #[error("a header cannot be carried by HTTP/2: its name or value holds a forbidden byte")]
    Invalid,
}

/// Ids of one connection are few and odd or even: multiplying spreads them well enough.
#[derive(Debug, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(26);
    }
}

type Streams = HashMap<StreamId, Stream, BuildHasherDefault<IdHasher>>;

/// Sans-io HTTP/2. See the crate's documentation for how it is driven.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    config: Config,
    incoming: Incoming,
    decoder: Decoder,
    encoder: Encoder,
    head: Head,
    streams: Streams,
    /// Those of them that are not over, by who opened them.
    open_remote: u32,
    open_local: u32,
    /// The last stream that the peer opened, and the next that this side opens.
    last_remote: StreamId,
    next_local: StreamId,
    /// Streams that are over, the latest last, and whether frames for them may still be on their way; and the highest that
    /// is not known any more.
    past: VecDeque<(StreamId, bool)>,
    forgotten: StreamId,
    send: Outbound,
    receive: Inbound,
    peer: Settings,
    /// This side's SETTINGS are not acknowledged yet.
    unacknowledged: bool,
    out: Vec<u8>,
    /// How much of `out` was written.
    written: usize,
    /// The last DATA frame in `out`: of which stream, and where. Stream 0: there is none.
    last_data: (StreamId, usize),
    /// How many answers are in `out`.
    answers: u32,
    /// Streams with something to send and no room, the longest waiting first.
    waiting: VecDeque<StreamId>,
    lower: Vec<u8>,
    watch: Watch,
    /// What the peer was last told in GOAWAY.
    told: Option<StreamId>,
    /// What the peer said in GOAWAY.
    heard: Option<StreamId>,
    /// The connection failed; nothing more is read.
    failed: Option<Violation>,
    now: Duration,
}

impl Connection {
    /// The preface of this side is in the output.
    pub fn new(role: Role, config: Config) -> Connection {
        let stream_window = config.stream_window.min(MAX_STREAM);
        let connection_window = config.connection_window.clamp(DEFAULT_WINDOW, MAX_STREAM);
        let config = Config {
            stream_window,
            connection_window,
            ..config
        };
        let mut out = Vec::new();
        if role == Role::Client {
            out.extend_from_slice(PREFACE);
        }
        let mut ours = Vec::with_capacity(5);
        match role {
            Role::Client => ours.push((settings::ENABLE_PUSH, 0)),
            Role::Server => ours.push((settings::MAX_CONCURRENT_STREAMS, config.streams)),
        }
        ours.push((settings::INITIAL_WINDOW_SIZE, stream_window));
        ours.push((settings::MAX_HEADER_LIST_SIZE, config.header_list));
        if config.extended_connect && role == Role::Server {
            ours.push((settings::ENABLE_CONNECT_PROTOCOL, 1));
        }
        frame::settings(&mut out, &ours);
        if connection_window > DEFAULT_WINDOW {
            frame::window(&mut out, 0, connection_window - DEFAULT_WINDOW);
        }
        Connection {
            role,
            config,
            incoming: Incoming::new(role),
            decoder: Decoder::new(TABLE),
            encoder: Encoder::new(),
            head: Head::default(),
            streams: Streams::default(),
            open_remote: 0,
            open_local: 0,
            last_remote: 0,
            next_local: 1,
            past: VecDeque::new(),
            forgotten: 0,
            send: Outbound::new(DEFAULT_WINDOW),
            receive: Inbound::new(connection_window),
            peer: Settings::default(),
            unacknowledged: true,
            out,
            written: 0,
            last_data: (0, 0),
            answers: 0,
            waiting: VecDeque::new(),
            lower: Vec::new(),
            watch: Watch::new(&config.guards),
            told: None,
            heard: None,
            failed: None,
            now: Duration::ZERO,
        }
    }

    /// What is to be written.
    pub fn output(&self) -> &[u8] {
        self.out.get(self.written..).unwrap_or_default()
    }

    /// Bytes of it.
    pub fn waits(&self) -> usize {
        self.out.len() - self.written
    }

    /// So much of the output was written.
    pub fn written(&mut self, bytes: usize) {
        let before = self.waits();
        if bytes >= before {
            self.out.clear();
            self.written = 0;
            self.last_data = (0, 0);
            self.answers = 0;
            return;
        }
        self.written += bytes;
        // Answers are spread over the output; which of them went does not matter.
        let left = (before - bytes) as u64 * u64::from(self.answers) / before as u64;
        self.answers = u32::try_from(left).unwrap_or_default();
        if self.written >= COMPACT {
            self.out.drain(..self.written);
            self.last_data = match self.last_data {
                (id, start) if start >= self.written => (id, start - self.written),
                _ => (0, 0),
            };
            self.written = 0;
        }
    }

    /// Memory for the output while it has none of its own, so that a connection that waits holds none.
    pub fn lend(&mut self, memory: Vec<u8>) {
        if self.out.capacity() == 0 {
            self.out = memory;
            self.out.clear();
        }
    }

    /// Whether [`Connection::lend`] would take any.
    pub fn needs_memory(&self) -> bool {
        self.out.capacity() == 0
    }

    /// The last head that came, whole or not: what a broken request was.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The output's memory, if there is nothing in it.
    pub fn reclaim(&mut self) -> Option<Vec<u8>> {
        let idle = self.out.is_empty() && self.out.capacity() > 0;
        idle.then(|| std::mem::take(&mut self.out))
    }

    /// The streams that neither side has ended.
    pub fn open_streams(&self) -> usize {
        self.open_remote as usize + self.open_local as usize
    }

    /// How many more streams this side may open now.
    pub fn room(&self) -> usize {
        if self.heard.is_some() || self.failed.is_some() || self.next_local > MAX_STREAM {
            return 0;
        }
        let most = self.peer.streams.unwrap_or(u32::MAX);
        most.saturating_sub(self.open_local) as usize
    }

    /// As many streams as the peer allows at once; `None` if it has not said.
    pub fn allowed_streams(&self) -> Option<u32> {
        self.peer.streams
    }

    /// The peer has said that it takes no more streams, or the connection failed.
    pub fn is_going_away(&self) -> bool {
        self.heard.is_some() || self.failed.is_some()
    }

    /// The last stream that the peer opened.
    pub fn last_remote(&self) -> StreamId {
        self.last_remote
    }

    /// Whether the peer may send anything at all yet: its preface has come.
    pub fn is_begun(&self) -> bool {
        self.incoming.is_begun()
    }

    /// The peer takes CONNECT with `:protocol` (RFC 8441).
    pub fn takes_extended_connect(&self) -> bool {
        self.peer.extended_connect
    }

    fn is_server(&self) -> bool {
        self.role == Role::Server
    }

    fn is_remote(&self, stream: StreamId) -> bool {
        (stream % 2 == 1) == self.is_server()
    }

    /// The stream was open and is no more; what its owner still holds stays counted until it forgets the stream.
    fn close(&mut self, stream: StreamId) {
        match self.is_remote(stream) {
            true => self.open_remote = self.open_remote.saturating_sub(1),
            false => self.open_local = self.open_local.saturating_sub(1),
        }
    }

    /// Resets a stream from this side.
    fn reset_stream(&mut self, id: StreamId, code: Code) {
        if let Some(stream) = self.streams.get_mut(&id) {
            if stream.is_over() {
                return;
            }
            stream.reset = true;
            self.close(id);
        }
        self.queue_reset(id, code);
    }

    fn queue_reset(&mut self, id: StreamId, code: Code) {
        frame::reset(&mut self.out, id, code);
        self.answers += 1;
    }

    /// The stream is over. `late`: this side reset it, so that frames for it may still be on their way.
    fn remember(&mut self, id: StreamId, late: bool) {
        if self.past.len() == REMEMBERED
            && let Some((oldest, _)) = self.past.pop_front()
        {
            self.forgotten = self.forgotten.max(oldest);
        }
        self.past.push_back((id, late));
    }

    /// The connection is at its end: says why to the peer, once.
    fn fail(&mut self, violation: Violation) -> Violation {
        if self.failed.is_none() {
            self.failed = Some(violation);
            let last = self.last_remote;
            frame::goaway(&mut self.out, last, violation.code(), violation.name());
            self.told = Some(last);
        }
        violation
    }

    fn answer(&mut self) -> Result<(), Violation> {
        self.answers += 1;
        self.answers_fit()
    }

    fn answers_fit(&self) -> Result<(), Violation> {
        match self.answers > self.config.guards.answers {
            true => Err(Violation::UnreadAnswers),
            false => Ok(()),
        }
    }

    fn waste(&mut self, what: Waste) -> Result<(), Violation> {
        self.watch.waste(what, self.now)
    }
}

/// Room for a frame's header, to be filled in when its length is known.
const PLACE: [u8; HEADER] = [0; HEADER];
