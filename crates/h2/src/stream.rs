//! The state of one stream (RFC 9113 section 5.1): what each side has said so far → what may come next.

use crate::head::{Head, Kind};
use crate::violation::{Malformed, Violation};
use crate::window::{Inbound, Outbound};

/// What one side has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Half {
    /// No final head yet.
    Head,
    Body,
    /// END_STREAM.
    Ended,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) local: Half,
    pub(crate) remote: Half,
    /// Either side ended it by RST_STREAM.
    pub(crate) reset: bool,
    pub(crate) send: Outbound,
    pub(crate) receive: Inbound,
    /// DATA that the owner holds.
    pub(crate) held: u32,
    /// What the peer still has to send by its content-length.
    expected: Option<u64>,
    /// Of the request: it was HEAD, so that no response has content.
    pub(crate) head_only: bool,
    pub(crate) connect: bool,
    /// There was more to send than there was room for.
    pub(crate) blocked: bool,
    /// In the queue of those that wait to send.
    pub(crate) queued: bool,
}

impl Stream {
    pub(crate) fn new(send: Outbound, receive: Inbound) -> Stream {
        Stream {
            local: Half::Head,
            remote: Half::Head,
            reset: false,
            send,
            receive,
            held: 0,
            expected: None,
            head_only: false,
            connect: false,
            blocked: false,
            queued: false,
        }
    }

    /// Neither side has anything more to say.
    pub(crate) fn is_over(&self) -> bool {
        self.reset || (self.local == Half::Ended && self.remote == Half::Ended)
    }

    pub(crate) fn may_send(&self) -> bool {
        !self.reset && self.local == Half::Body
    }

    /// A request came.
    pub(crate) fn asked(&mut self, head: &Head, end: bool) -> Result<(), Malformed> {
        self.head_only = head.method() == b"HEAD";
        self.connect = head.method() == b"CONNECT" && head.protocol().is_none();
        self.remote = Half::Body;
        self.expected = head.content_length();
        self.ended(end)
    }

    /// A response came; says whether it is an interim one.
    pub(crate) fn answered(&mut self, head: &Head, end: bool) -> Result<bool, Malformed> {
        let status = head.status();
        if status < 200 {
            return match end {
                true => Err(Malformed::InterimEnd),
                false => Ok(true),
            };
        }
        self.remote = Half::Body;
        self.expected = match status {
            204 | 304 => Some(0),
            _ if self.head_only => Some(0),
            // Such a length means nothing (RFC 9110 section 9.3.6).
            200..=299 if self.connect => None,
            _ => head.content_length(),
        };
        self.ended(end).map(|()| false)
    }

    pub(crate) fn trailed(&mut self, end: bool) -> Result<(), Malformed> {
        match end {
            true => self.ended(true),
            false => Err(Malformed::TrailersOpen),
        }
    }

    /// What kind of head comes next.
    pub(crate) fn next_head(&self, server: bool) -> Kind {
        match (self.remote, server) {
            (Half::Head, true) => Kind::Request,
            (Half::Head, false) => Kind::Response,
            (Half::Body | Half::Ended, _) => Kind::Trailers,
        }
    }

    /// So much content is to come in a frame, which may be the last.
    pub(crate) fn content(&mut self, bytes: usize, end: bool) -> Result<(), Violation> {
        match self.remote {
            Half::Head => return Err(Malformed::BodyEarly.into()),
            Half::Body => {}
            Half::Ended => return Err(Violation::ClosedStream),
        }
        if let Some(expected) = &mut self.expected {
            *expected = expected
                .checked_sub(bytes as u64)
                .ok_or(Malformed::BodyLength)?;
            if end && *expected != 0 {
                return Err(Malformed::BodyLength.into());
            }
        }
        Ok(())
    }

    fn ended(&mut self, end: bool) -> Result<(), Malformed> {
        if !end {
            return Ok(());
        }
        match self.expected {
            None | Some(0) => {
                self.remote = Half::Ended;
                Ok(())
            }
            Some(_) => Err(Malformed::BodyLength),
        }
    }
}
