//! Message heads, parsed strictly: bytes as they arrive in, a [`RequestHead`] or [`ResponseHead`] out.
//!
//! A head that arrives whole is parsed where it lies and copied once. A head that arrives in pieces is gathered in the
//! head's own buffer and parsing goes on from the byte where it stopped, so no byte is looked at twice and the caller
//! may forget what it fed.

use std::ops::ControlFlow;

use super::error::{Error, Problem};
use crate::headers::scan::{find_control, find_not_target, find_not_token};
use crate::headers::{Field, Headers, Known, Span};
use crate::message::{Method, RequestHead, ResponseHead, Version};

/// How large a head may be. What is over the limit is 431 to a client, 502 for an upstream's response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes from the start line to the empty line, both included. Also bounds trailers.
    pub max_head_bytes: usize,
    /// Header lines.
    pub max_headers: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_head_bytes: 64 << 10,
            max_headers: 256,
        }
    }
}

/// How far a parser came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// All input was taken over; feed what comes next.
    Partial,
    /// The head is complete; its bytes end here, and what follows in the input is the body.
    Complete { consumed: usize },
}

/// Where the scanner stands: between tokens, or in one that began at `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Begin,
    Method,
    Target,
    RequestVersion,
    StatusVersion,
    StatusCode,
    Reason,
    Line,
    Name,
    BeforeValue,
    Value,
}

/// The scanner over one head.
#[derive(Debug, Default)]
pub(super) struct Scan {
    state: State,
    at: usize,
    start: usize,
    name: Span,
    /// What the start line holds: method and target, or status and reason.
    first: Span,
    second: Span,
    status: u16,
    version: Version,
}

/// `Break` ends this call: out of input (`None`) or done at this offset.
type Step = ControlFlow<Option<usize>>;

impl Scan {
    /// A scan that begins with field lines: trailers.
    pub(super) fn of_fields() -> Scan {
        Scan {
            state: State::Line,
            ..Scan::default()
        }
    }

    /// Goes as far as the input allows. The end of the head, or `None` for more input.
    fn advance(
        &mut self,
        text: &[u8],
        request: bool,
        fields: &mut Fields<'_>,
    ) -> Result<Option<usize>, Problem> {
        loop {
            let step = match self.state {
                State::Begin => self.begin(text, request)?,
                State::Method => self.method(text)?,
                State::Target => self.target(text)?,
                State::RequestVersion => self.version(text, true)?,
                State::StatusVersion => self.version(text, false)?,
                State::StatusCode => self.status_code(text)?,
                State::Reason => self.reason(text)?,
                State::Line | State::Name | State::BeforeValue | State::Value => {
                    self.field_lines(text, fields)?
                }
            };
            if let ControlFlow::Break(end) = step {
                return Ok(end);
            }
        }
    }

    /// One empty line before a request is forgiven (RFC 9112 section 2.2).
    fn begin(&mut self, text: &[u8], request: bool) -> Result<Step, Problem> {
        match text.get(self.at) {
            None => return Ok(Step::Break(None)),
            Some(b'\r') if request && self.at == 0 => match text.get(1) {
                None => return Ok(Step::Break(None)),
                Some(b'\n') => {
                    self.at = 2;
                    return Ok(Step::Continue(()));
                }
                Some(_) => return Err(Problem::BareCr),
            },
            Some(_) => {}
        }
        self.start = self.at;
        self.state = match request {
            true => State::Method,
            false => State::StatusVersion,
        };
        Ok(Step::Continue(()))
    }

    /// Moves to the byte that `find` finds from here on, and answers it.
    #[inline]
    fn run(&mut self, text: &[u8], find: impl Fn(&[u8]) -> Option<usize>) -> Option<u8> {
        let rest = text.get(self.at..).unwrap_or_default();
        match find(rest) {
            Some(length) => {
                self.at += length;
                rest.get(length).copied()
            }
            None => {
                self.at = text.len();
                None
            }
        }
    }

    fn method(&mut self, text: &[u8]) -> Result<Step, Problem> {
        match self.run(text, find_not_token) {
            None => return Ok(Step::Break(None)),
            Some(b' ') if self.at > self.start => {}
            Some(b'\n') => return Err(Problem::BareLf),
            Some(_) => return Err(Problem::StartLine),
        }
        self.first = Span::new(self.start, self.at);
        self.at += 1;
        self.start = self.at;
        self.state = State::Target;
        Ok(Step::Continue(()))
    }

    fn target(&mut self, text: &[u8]) -> Result<Step, Problem> {
        match self.run(text, find_not_target) {
            None => return Ok(Step::Break(None)),
            Some(b' ') if self.at > self.start => {}
            Some(b' ' | b'\r') => return Err(Problem::StartLine),
            Some(b'\n') => return Err(Problem::BareLf),
            Some(_) => return Err(Problem::TargetByte),
        }
        self.second = Span::new(self.start, self.at);
        self.at += 1;
        self.state = State::RequestVersion;
        Ok(Step::Continue(()))
    }

    /// `HTTP/1.0` or `HTTP/1.1`, for a request with its line end.
    fn version(&mut self, text: &[u8], request: bool) -> Result<Step, Problem> {
        const EXPECTED: &[u8; 10] = b"HTTP/1.1\r\n";
        let wanted = match request {
            true => EXPECTED.len(),
            false => 8,
        };
        let seen = text.get(self.at..).unwrap_or_default();
        let seen = seen.get(..wanted).unwrap_or(seen);
        let mut expected = EXPECTED.iter().zip(seen).enumerate();
        let differs =
            expected.find(|(index, (want, byte))| want != byte && !(*index == 7 && **byte == b'0'));
        match differs {
            Some((5..8, _)) => return Err(Problem::Version),
            Some((8, (_, b'\n'))) => return Err(Problem::BareLf),
            Some((9, _)) => return Err(Problem::BareCr),
            Some(_) => return Err(Problem::StartLine),
            None if seen.len() < wanted => return Ok(Step::Break(None)),
            None => {}
        }
        if seen.get(7) == Some(&b'0') {
            self.version = Version::Http10;
        }
        self.at += wanted;
        self.state = match request {
            true => State::Line,
            false => State::StatusCode,
        };
        Ok(Step::Continue(()))
    }

    /// ` 200`, and the space before the reason, which may be missing together with the reason.
    fn status_code(&mut self, text: &[u8]) -> Result<Step, Problem> {
        let rest = text.get(self.at..).unwrap_or_default();
        for (index, byte) in rest.iter().take(5).enumerate() {
            match (index, byte) {
                (0, b' ') | (1, b'1'..=b'5') | (2 | 3, b'0'..=b'9') | (4, b' ' | b'\r') => {}
                (4, b'\n') => return Err(Problem::BareLf),
                (0, _) => return Err(Problem::StartLine),
                _ => return Err(Problem::Status),
            }
        }
        let [_, a, b, c, after, ..] = rest else {
            return Ok(Step::Break(None));
        };
        let digits = [a, b, c].map(|digit| u16::from(digit - b'0'));
        self.status = digits.iter().fold(0, |code, digit| code * 10 + digit);
        self.at += if *after == b' ' { 5 } else { 4 };
        self.start = self.at;
        self.state = State::Reason;
        Ok(Step::Continue(()))
    }

    fn reason(&mut self, text: &[u8]) -> Result<Step, Problem> {
        let Some(end) = self.line_end(text)? else {
            return Ok(Step::Break(None));
        };
        self.second = Span::new(self.start, end);
        self.at = end + 2;
        self.state = State::Line;
        Ok(Step::Continue(()))
    }

    /// Moves over text without control bytes to CR LF; where the CR is.
    #[inline]
    fn line_end(&mut self, text: &[u8]) -> Result<Option<usize>, Problem> {
        if self.run(text, find_control).is_none() {
            return Ok(None);
        }
        match (text.get(self.at), text.get(self.at + 1)) {
            (Some(b'\r'), Some(b'\n')) => Ok(Some(self.at)),
            (Some(b'\r'), None) => Ok(None),
            (Some(b'\r'), Some(_)) => Err(Problem::BareCr),
            (Some(b'\n'), _) => Err(Problem::BareLf),
            _ => Err(Problem::ControlByte),
        }
    }

    /// Field lines up to the empty line.
    fn field_lines(&mut self, text: &[u8], fields: &mut Fields<'_>) -> Result<Step, Problem> {
        loop {
            if self.state == State::Line {
                while let Some((name, value, end)) = usual_line(text, self.at) {
                    fields.push(text, name, value, end)?;
                    self.at = end + 2;
                }
                match text.get(self.at) {
                    None => return Ok(Step::Break(None)),
                    Some(b'\r') => {
                        return match text.get(self.at + 1) {
                            None => Ok(Step::Break(None)),
                            Some(b'\n') => Ok(Step::Break(Some(self.at + 2))),
                            Some(_) => Err(Problem::BareCr),
                        };
                    }
                    Some(b'\n') => return Err(Problem::BareLf),
                    Some(b' ' | b'\t') => return Err(Problem::ObsFold),
                    Some(_) => {}
                }
                self.start = self.at;
                self.state = State::Name;
            }
            if self.state == State::Name {
                match self.run(text, find_not_token) {
                    None => return Ok(Step::Break(None)),
                    Some(b':') if self.at > self.start => {}
                    Some(b' ' | b'\t') => return Err(Problem::SpaceBeforeColon),
                    Some(b'\n') => return Err(Problem::BareLf),
                    Some(b'\r') => return Err(Problem::NoColon),
                    Some(_) => return Err(Problem::HeaderName),
                }
                self.name = Span::new(self.start, self.at);
                self.at += 1;
                self.state = State::BeforeValue;
            }
            if self.state == State::BeforeValue {
                loop {
                    match text.get(self.at) {
                        None => return Ok(Step::Break(None)),
                        Some(b' ' | b'\t') => self.at += 1,
                        Some(_) => break,
                    }
                }
                self.start = self.at;
                self.state = State::Value;
            }
            let Some(end) = self.line_end(text)? else {
                return Ok(Step::Break(None));
            };
            fields.push(text, self.name, self.start, end)?;
            self.at = end + 2;
            self.state = State::Line;
        }
    }
}

/// A whole line of the usual form, `Name: value\r\n`: its name, where its value starts, where its CR is. Whatever is
/// unusual or incomplete is `None` and left to the careful way.
#[inline]
fn usual_line(text: &[u8], at: usize) -> Option<(Span, usize, usize)> {
    let rest = text.get(at..)?;
    let colon = find_not_token(rest)?;
    let [b':', b' ', value @ ..] = rest.get(colon..)? else {
        return None;
    };
    if colon == 0 || matches!(value.first(), Some(b' ' | b'\t')) {
        return None;
    }
    let length = find_control(value)?;
    let [b'\r', b'\n', ..] = value.get(length..)? else {
        return None;
    };
    let start = at + colon + 2;
    Some((Span::new(at, at + colon), start, start + length))
}

/// Where the scanner puts field lines.
struct Fields<'a> {
    list: &'a mut Vec<Field>,
    present: &'a mut u64,
    max: usize,
}

impl Fields<'_> {
    #[inline]
    fn push(&mut self, text: &[u8], name: Span, start: usize, cr: usize) -> Result<(), Problem> {
        if self.list.len() >= self.max {
            return Err(Problem::TooManyHeaders { limit: self.max });
        }
        let mut end = cr;
        while let Some(b' ' | b'\t') = text.get(end.wrapping_sub(1))
            && end > start
        {
            end -= 1;
        }
        let known = Known::of(name.of(text));
        // One space after the colon and none before CR LF: as the writer writes it.
        let canonical = end == cr && start == name.end() + 2 && text.get(start - 1) == Some(&b' ');
        let field = Field::read(name, Span::new(start, end), known, canonical)
            .ok_or(Problem::HeaderName)?;
        self.list.push(field);
        *self.present |= known.bit();
        Ok(())
    }
}

/// Feeds `input` to a scan whose text is gathered in `headers`.
pub(super) fn feed(
    scan: &mut Scan,
    input: &[u8],
    headers: &mut Headers,
    request: bool,
    limits: &Limits,
) -> Result<Progress, Problem> {
    let limit = limits.max_head_bytes;
    let (text, list, present) = headers.parts_mut();
    let mut fields = Fields {
        list,
        present,
        max: limits.max_headers,
    };
    let gathered = text.len();
    let allowed = limit.saturating_sub(gathered);
    let taken = input.get(..allowed).unwrap_or(input);
    let end = if gathered == 0 {
        let end = scan.advance(taken, request, &mut fields)?;
        text.extend_from_slice(taken.get(..end.unwrap_or(taken.len())).unwrap_or_default());
        end
    } else {
        text.extend_from_slice(taken);
        let end = scan.advance(text, request, &mut fields)?;
        if let Some(end) = end {
            text.truncate(end);
        }
        end
    };
    match end {
        Some(end) => Ok(Progress::Complete {
            consumed: end.saturating_sub(gathered),
        }),
        None if text.len() >= limit => Err(Problem::HeadTooLarge { limit }),
        None => Ok(Progress::Partial),
    }
}

/// Parses request heads, one after another: after `Complete` it is ready for the next.
#[derive(Debug, Default)]
pub struct RequestParser {
    scan: Scan,
}

impl RequestParser {
    /// Feeds bytes; `head` must be cleared before a head's first bytes and left alone until it is complete.
    pub fn parse(
        &mut self,
        input: &[u8],
        head: &mut RequestHead,
        limits: &Limits,
    ) -> Result<Progress, Error> {
        let progress = feed(&mut self.scan, input, &mut head.headers, true, limits)
            .map_err(Error::downstream)?;
        if let Progress::Complete { .. } = progress {
            let scan = std::mem::take(&mut self.scan);
            head.version = scan.version;
            head.method_span = scan.first;
            head.method = Method::of(scan.first.of(head.headers.buffer()));
            head.target = scan.second;
        }
        Ok(progress)
    }

    /// Nothing of a head has arrived (an empty line before it does not count): the peer may close without loss.
    pub fn is_idle(&self) -> bool {
        self.scan.state == State::Begin
    }
}

/// Parses response heads, one after another.
#[derive(Debug, Default)]
pub struct ResponseParser {
    scan: Scan,
}

impl ResponseParser {
    /// As [`RequestParser::parse`].
    pub fn parse(
        &mut self,
        input: &[u8],
        head: &mut ResponseHead,
        limits: &Limits,
    ) -> Result<Progress, Error> {
        let progress = feed(&mut self.scan, input, &mut head.headers, false, limits)
            .map_err(Error::upstream)?;
        if let Progress::Complete { .. } = progress {
            let scan = std::mem::take(&mut self.scan);
            head.version = scan.version;
            head.status = scan.status;
            head.reason = scan.second;
        }
        Ok(progress)
    }

    /// Nothing of a response has arrived: a request on a reused connection that ends here was perhaps never seen.
    pub fn is_idle(&self) -> bool {
        self.scan.state == State::Begin
    }
}
