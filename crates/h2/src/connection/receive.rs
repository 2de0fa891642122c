//! Bytes of the peer → frames, checked one by one → events.

use std::time::Duration;

use super::{Connection, Event, HeadKind, Role};
use crate::PREFACE;
use crate::frame::{HEADER, Header, Kind, MAX_FRAME, StreamId};
use crate::guard::Waste;
use crate::violation::{Code, Violation};

/// How far reading has come.
#[derive(Debug)]
pub(super) struct Incoming {
    /// Bytes of the client's preface that are still to come.
    preface: usize,
    /// The first SETTINGS have come.
    pub(super) begun: bool,
    /// The beginning of a frame whose end has not come; of DATA, never more than its header.
    pub(super) partial: Vec<u8>,
    /// A DATA frame whose header has come.
    pub(super) data: Option<Data>,
    pub(super) block: super::blocks::Block,
    /// What the last GOAWAY said beside its code.
    pub(super) debug: Vec<u8>,
    /// A limit that was passed by sending.
    overdrawn: Option<Violation>,
}

/// What is left of a DATA frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Data {
    pub(super) stream: StreamId,
    pub(super) left: usize,
    pub(super) padding: usize,
    pub(super) end: bool,
    /// It is for nobody: its stream is over.
    pub(super) skipped: bool,
}

impl Incoming {
    pub(super) fn new(role: Role) -> Incoming {
        Incoming {
            preface: match role {
                Role::Client => 0,
                Role::Server => PREFACE.len(),
            },
            begun: false,
            partial: Vec::new(),
            data: None,
            block: super::blocks::Block::default(),
            debug: Vec::new(),
            overdrawn: None,
        }
    }

    pub(super) fn is_begun(&self) -> bool {
        self.begun
    }

    pub(super) fn overdrawn(&mut self, outcome: Result<(), Violation>) {
        self.overdrawn = self.overdrawn.or(outcome.err());
    }
}

/// An event without what it borrows.
pub(super) enum Found {
    Head {
        stream: StreamId,
        kind: HeadKind,
        end: bool,
    },
    Data {
        stream: StreamId,
        end: bool,
    },
    Reset {
        stream: StreamId,
        code: Code,
    },
    Broken {
        stream: StreamId,
        violation: Violation,
    },
    GoAway {
        last: StreamId,
        code: Code,
    },
    Pong([u8; 8]),
    Settings,
    SettingsTaken,
}

/// What a rule that is broken costs.
pub(super) enum Breach {
    Stream(StreamId, Violation),
    Connection(Violation),
}

impl From<Violation> for Breach {
    fn from(violation: Violation) -> Breach {
        Breach::Connection(violation)
    }
}

pub(super) type Outcome = Result<Option<Found>, Breach>;

impl Connection {
    /// The next event in `input`, which is advanced; `None`: all of it was used, and more is needed. An error ends the
    /// connection: the output says so to the peer, and what comes after is not read. `now`: since any fixed moment.
    pub fn next<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i [u8],
        now: Duration,
    ) -> Result<Option<Event<'a>>, Violation> {
        if let Some(violation) = self.failed {
            return Err(violation);
        }
        self.now = now;
        let mut piece: &[u8] = &[];
        let found = match self.advance(input, &mut piece) {
            Ok(found) => found,
            Err(Breach::Connection(violation)) => return Err(self.fail(violation)),
            Err(Breach::Stream(stream, violation)) => {
                self.breach(stream, violation)
                    .map_err(|flood| self.fail(flood))?;
                Some(Found::Broken { stream, violation })
            }
        };
        Ok(found.map(|found| match found {
            Found::Head { stream, kind, end } => Event::Head {
                stream,
                kind,
                head: &self.head,
                end,
            },
            Found::Data { stream, end } => Event::Data {
                stream,
                data: piece,
                end,
            },
            Found::Reset { stream, code } => Event::Reset { stream, code },
            Found::Broken { stream, violation } => Event::Broken { stream, violation },
            Found::GoAway { last, code } => Event::GoAway {
                last,
                code,
                debug: &self.incoming.debug,
            },
            Found::Pong(payload) => Event::Pong(payload),
            Found::Settings => Event::Settings,
            Found::SettingsTaken => Event::SettingsTaken,
        }))
    }

    /// A stream error: the stream is reset, and that is counted.
    fn breach(&mut self, stream: StreamId, violation: Violation) -> Result<(), Violation> {
        self.waste(Waste::Error)?;
        match self.streams.get(&stream) {
            // There is nothing left to reset.
            Some(known) if known.is_over() => return Err(violation),
            Some(_) => self.reset_stream(stream, violation.code()),
            None => {
                self.queue_reset(stream, violation.code());
                self.remember(stream, true);
            }
        }
        self.answers_fit()
    }

    fn advance<'i>(&mut self, input: &mut &'i [u8], piece: &mut &'i [u8]) -> Outcome {
        if let Some(violation) = self.incoming.overdrawn {
            return Err(violation.into());
        }
        self.preface(input)?;
        loop {
            if self.incoming.data.is_some() {
                if let Some(found) = self.data_bytes(input, piece) {
                    return Ok(Some(found));
                }
                if self.incoming.data.is_some() {
                    return Ok(None);
                }
            }
            if input.is_empty() {
                return Ok(None);
            }
            let Some(header) = self.header(input)? else {
                return Ok(None);
            };
            let found = match header.kind {
                Kind::Data => match self.data_header(header, input)? {
                    true => continue,
                    false => return Ok(None),
                },
                _ => match self.payload(header, input)? {
                    Some(found) => found,
                    None => return Ok(None),
                },
            };
            if let Some(found) = found {
                return Ok(Some(found));
            }
        }
    }

    fn preface(&mut self, input: &mut &[u8]) -> Result<(), Breach> {
        let left = self.incoming.preface;
        if left == 0 {
            return Ok(());
        }
        let wanted = PREFACE.get(PREFACE.len() - left..).unwrap_or_default();
        let count = left.min(input.len());
        let (came, rest) = input.split_at_checked(count).unwrap_or_default();
        if wanted.get(..count) != Some(came) {
            return Err(Violation::Preface.into());
        }
        *input = rest;
        self.incoming.preface -= count;
        Ok(())
    }

    /// The header of the next frame, once it is whole; it stays where it is.
    fn header(&mut self, input: &mut &[u8]) -> Result<Option<Header>, Breach> {
        let partial = &mut self.incoming.partial;
        let header = match partial.first_chunk::<HEADER>() {
            Some(bytes) => Header::parse(bytes),
            None if partial.is_empty() && input.len() >= HEADER => {
                match input.first_chunk::<HEADER>() {
                    Some(bytes) => Header::parse(bytes),
                    None => return Ok(None),
                }
            }
            None => {
                if !move_up_to(partial, input, HEADER) {
                    return Ok(None);
                }
                match partial.first_chunk::<HEADER>() {
                    Some(bytes) => Header::parse(bytes),
                    None => return Ok(None),
                }
            }
        };
        self.check_header(&header)?;
        Ok(Some(header))
    }

    fn check_header(&mut self, header: &Header) -> Result<(), Breach> {
        if !self.incoming.begun && header.kind != Kind::Settings {
            return Err(Violation::FirstFrame.into());
        }
        if header.length > MAX_FRAME {
            return Err(Violation::FrameTooLong.into());
        }
        let continues = header.kind == Kind::Continuation;
        match (self.incoming.block.stream(), continues) {
            (Some(open), true) if open == header.stream => {}
            (Some(_), _) => return Err(Violation::BlockInterrupted.into()),
            (None, true) => return Err(Violation::Continuation.into()),
            (None, false) => {}
        }
        let named = header.stream != 0;
        match header.kind {
            Kind::Data | Kind::Headers | Kind::Priority | Kind::Reset | Kind::Continuation => {
                if !named {
                    return Err(Violation::StreamMissing.into());
                }
            }
            Kind::Settings | Kind::Ping | Kind::GoAway => {
                if named {
                    return Err(Violation::StreamNamed.into());
                }
            }
            Kind::Push => return Err(Violation::Push.into()),
            Kind::Window | Kind::Unknown => {}
        }
        Ok(())
    }

    /// A frame other than DATA, once it is whole: taken out of the input or of what was kept of it.
    fn payload(
        &mut self,
        header: Header,
        input: &mut &[u8],
    ) -> Result<Option<Option<Found>>, Breach> {
        let length = HEADER + header.length;
        if self.incoming.partial.is_empty()
            && let Some((frame, rest)) = input.split_at_checked(length)
        {
            *input = rest;
            let payload = frame.get(HEADER..).unwrap_or_default();
            return self.frame(header, payload).map(Some);
        }
        if !move_up_to(&mut self.incoming.partial, input, length) {
            return Ok(None);
        }
        let mut frame = std::mem::take(&mut self.incoming.partial);
        let payload = frame.get(HEADER..).unwrap_or_default();
        let found = self.frame(header, payload);
        frame.clear();
        self.incoming.partial = frame;
        found.map(Some)
    }

    fn frame(&mut self, header: Header, payload: &[u8]) -> Outcome {
        match header.kind {
            Kind::Headers => self.headers(header, payload),
            Kind::Continuation => self.continuation(header, payload),
            Kind::Priority => self.priority(header, payload),
            Kind::Reset => self.reset_frame(header, payload),
            Kind::Settings => self.settings(header, payload),
            Kind::Ping => self.ping_frame(header, payload),
            Kind::GoAway => self.goaway(payload),
            Kind::Window => self.window(header, payload),
            Kind::Unknown => {
                self.waste(Waste::Unknown)?;
                Ok(None)
            }
            // Both have gone other ways.
            Kind::Data | Kind::Push => Ok(None),
        }
    }
}

/// Fills `kept` up to `length` from the input. Says whether it is that long now.
pub(super) fn move_up_to(kept: &mut Vec<u8>, input: &mut &[u8], length: usize) -> bool {
    let wanted = length.saturating_sub(kept.len()).min(input.len());
    let (some, rest) = input.split_at_checked(wanted).unwrap_or_default();
    kept.extend_from_slice(some);
    *input = rest;
    kept.len() >= length
}
