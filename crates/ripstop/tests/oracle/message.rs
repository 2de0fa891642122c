//! Bytes of HTTP/1 → heads, bodies and trailers as they were, also of messages that were cut short.

use std::io::{self, Read};

use super::transport::Wire;

pub(crate) type Fields = Vec<(String, String)>;

/// A response.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    /// Interim responses that came before.
    pub(crate) interim: Vec<String>,
    /// `HTTP/1.1 200 OK`.
    pub(crate) line: String,
    pub(crate) headers: Fields,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Fields,
    /// The connection ended before the message did.
    pub(crate) cut: bool,
}

impl Answer {
    pub(crate) fn status(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        field(&self.headers, name)
    }
}

pub(crate) fn field<'f>(fields: &'f Fields, name: &str) -> Option<&'f str> {
    let found = fields
        .iter()
        .find(|(field, _)| field.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}

/// What arrives on a connection.
pub(crate) struct Reader {
    stream: Wire,
    ahead: Vec<u8>,
}

impl Reader {
    pub(crate) fn new(stream: Wire) -> Reader {
        Reader {
            stream,
            ahead: Vec::new(),
        }
    }

    /// The next final response (101 is one); an error when the connection ends before its head has.
    pub(crate) fn answer(&mut self, to_head: bool) -> io::Result<Answer> {
        let mut interim = Vec::new();
        loop {
            let mut answer = self.head()?;
            if answer.status().starts_with('1') && answer.status() != "101" {
                interim.push(answer.line);
                continue;
            }
            answer.interim = interim;
            let bodiless = to_head || matches!(answer.status(), "101" | "204" | "304");
            if !bodiless {
                self.body(&mut answer)?;
            }
            return Ok(answer);
        }
    }

    /// Exactly so many bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.ahead.len() < count {
            self.more()?
                .then_some(())
                .ok_or(io::ErrorKind::UnexpectedEof)?;
        }
        Ok(self.ahead.drain(..count).collect())
    }

    /// Whatever comes until the end, or until so many lines.
    pub(crate) fn text(&mut self, lines: Option<usize>) -> io::Result<Vec<u8>> {
        let count = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
        while lines.is_none_or(|lines| count(&self.ahead) < lines) && self.more()? {}
        Ok(std::mem::take(&mut self.ahead))
    }

    /// Whether the connection has ended, without waiting for it; for TCP without TLS.
    pub(crate) fn is_ended(&mut self) -> io::Result<bool> {
        self.stream.patience(std::time::Duration::from_millis(20))?;
        let ended = match self.more() {
            Ok(more) => !more,
            Err(error) => !matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            ),
        };
        self.stream.patience(super::transport::PATIENCE)?;
        Ok(ended)
    }

    fn head(&mut self) -> io::Result<Answer> {
        let end = loop {
            if let Some(end) = find(&self.ahead, b"\r\n\r\n") {
                break end;
            }
            self.more()?
                .then_some(())
                .ok_or(io::ErrorKind::UnexpectedEof)?;
        };
        let head: Vec<u8> = self.ahead.drain(..end + 4).collect();
        let text = String::from_utf8_lossy(&head);
        let (line, rest) = text.split_once("\r\n").unwrap_or((&text, ""));
        Ok(Answer {
            line: line.to_owned(),
            headers: fields(rest),
            ..Answer::default()
        })
    }

    fn body(&mut self, answer: &mut Answer) -> io::Result<()> {
        if answer.header("transfer-encoding").is_some() {
            while let Some(size) = self.line()? {
                let size = size.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
                if size == 0 {
                    while let Some(line) = self.line()? {
                        if line.is_empty() {
                            return Ok(());
                        }
                        answer.trailers.extend(fields(&line));
                    }
                    break;
                }
                while self.ahead.len() < size + 2 && self.more()? {}
                let here = size.min(self.ahead.len());
                answer.body.extend(self.ahead.drain(..here));
                if self.ahead.len() < 2 {
                    break;
                }
                self.ahead.drain(..2);
            }
            answer.cut = true;
            return Ok(());
        }
        let length = answer
            .header("content-length")
            .and_then(|length| length.parse().ok());
        while self.ahead.len() < length.unwrap_or(usize::MAX) && self.more()? {}
        let here = self.ahead.len().min(length.unwrap_or(usize::MAX));
        answer.body = self.ahead.drain(..here).collect();
        answer.cut = length.is_some_and(|length| here < length);
        Ok(())
    }

    fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = find(&self.ahead, b"\r\n") {
                let line: Vec<u8> = self.ahead.drain(..end + 2).collect();
                return Ok(Some(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            if !self.more()? {
                return Ok(None);
            }
        }
    }

    /// False at the end. A reset after bytes is an end: which of the two it is, is the kernel's.
    fn more(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(read) => {
                self.ahead.extend_from_slice(&buffer[..read]);
                Ok(read > 0)
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Header lines.
pub(crate) fn fields(text: &str) -> Fields {
    text.split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

/// The trailers of a chunked body as it was on the wire.
pub(crate) fn trailers(raw: &[u8]) -> Fields {
    let text = String::from_utf8_lossy(raw);
    match text.rfind("\r\n0\r\n") {
        Some(at) => fields(&text[at + 5..]),
        None => fields(text.strip_prefix("0\r\n").unwrap_or_default()),
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
