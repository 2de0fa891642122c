//! The head of a message: fields in the order they came → the same, checked by RFC 9113 section 8, in memory that is used
//! again.

use crate::violation::Malformed;

/// What a name means to HTTP/2 itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Regular,
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    Status,
    ContentLength,
    Te,
    /// Belongs to a connection of HTTP/1 (RFC 9113 section 8.2.2).
    Connection,
    /// Neither a lower-case token nor a pseudo-header field that exists.
    Invalid,
}

pub(crate) fn classify(name: &[u8]) -> Class {
    match name {
        [b':', ..] => match name {
            b":method" => Class::Method,
            b":scheme" => Class::Scheme,
            b":authority" => Class::Authority,
            b":path" => Class::Path,
            b":protocol" => Class::Protocol,
            b":status" => Class::Status,
            _ => Class::Invalid,
        },
        _ if !is_name(name) => Class::Invalid,
        b"content-length" => Class::ContentLength,
        b"te" => Class::Te,
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
            Class::Connection
        }
        _ => Class::Regular,
    }
}

/// Bytes of names: those of a token (RFC 9110 section 5.6.2), in lower case.
#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
static NAME_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(
            byte as u8,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_'
                | b'`' | b'|' | b'~' | b'0'..=b'9' | b'a'..=b'z'
        );
        byte += 1;
    }
    table
};

fn is_name(name: &[u8]) -> bool {
    let fits = |byte: &u8| {
        NAME_BYTES
            .get(usize::from(*byte))
            .copied()
            .unwrap_or_default()
    };
    !name.is_empty() && name.iter().all(fits)
}

/// No control bytes but the tab, no whitespace around (RFC 9113 section 8.2.1, RFC 9110 section 5.5).
pub(crate) fn is_value(value: &[u8]) -> bool {
    !has_control(value) && !is_padded(value)
}

fn has_control(value: &[u8]) -> bool {
    value.iter().fold(false, |bad, byte| {
        bad | (*byte < 0x20 && *byte != b'\t') | (*byte == 0x7f)
    })
}

fn is_padded(value: &[u8]) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    blank(value.first()) || blank(value.last())
}

/// Whose rules a head is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Kind {
    #[default]
    Request,
    Response,
    Trailers,
}

/// Bytes of memory that are kept from head to head.
const KEPT: usize = 16 * 1024;

#[derive(Debug, Clone, Copy, Default)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    fn of(self, text: &[u8]) -> &[u8] {
        let start = self.start as usize;
        text.get(start..start + self.len as usize)
            .unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy)]
struct Line {
    name: Span,
    value: Span,
}

/// A field as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    pub name: &'a [u8],
    pub value: &'a [u8],
}

/// A head that keeps RFC 9113's rules.
#[derive(Debug, Default)]
pub struct Head {
    text: Vec<u8>,
    lines: Vec<Line>,
    kind: Kind,
    method: Option<Span>,
    scheme: Option<Span>,
    authority: Option<Span>,
    path: Option<Span>,
    protocol: Option<Span>,
    status: Option<u16>,
    length: Option<u64>,
    weight: usize,
    most: usize,
    /// Some field came.
    touched: bool,
    regular: bool,
    malformed: Option<Malformed>,
}

impl Head {
    /// The pseudo-header fields; empty where there was none.
    pub fn method(&self) -> &[u8] {
        self.pseudo(self.method)
    }

    pub fn scheme(&self) -> &[u8] {
        self.pseudo(self.scheme)
    }

    /// `None`: the request named none, which is not the same as an empty one.
    pub fn authority(&self) -> Option<&[u8]> {
        self.authority.map(|span| span.of(&self.text))
    }

    pub fn path(&self) -> &[u8] {
        self.pseudo(self.path)
    }

    /// `:protocol` of an extended CONNECT (RFC 8441).
    pub fn protocol(&self) -> Option<&[u8]> {
        self.protocol.map(|span| span.of(&self.text))
    }

    /// A response's; 0 for other heads.
    pub fn status(&self) -> u16 {
        self.status.unwrap_or_default()
    }

    /// What `content-length` says.
    pub fn content_length(&self) -> Option<u64> {
        self.length
    }

    /// The regular fields, in order.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = Field<'_>> {
        self.lines.iter().map(|line| Field {
            name: line.name.of(&self.text),
            value: line.value.of(&self.text),
        })
    }

    /// Bytes of all names and values: what a copy needs room for.
    pub fn text_len(&self) -> usize {
        self.text.len()
    }

    /// There was more than may be. What is here is what came before the limit; only a request is shown like this, so that
    /// it can be answered.
    pub fn is_oversized(&self) -> bool {
        self.weight > self.most
    }

    fn pseudo(&self, span: Option<Span>) -> &[u8] {
        span.map(|span| span.of(&self.text)).unwrap_or_default()
    }

    pub(crate) fn begin(&mut self, kind: Kind, most: usize) {
        let (mut text, mut lines) = (
            std::mem::take(&mut self.text),
            std::mem::take(&mut self.lines),
        );
        text.clear();
        lines.clear();
        // One large head must not hold memory for the rest of the connection's life.
        text.shrink_to(KEPT);
        *self = Head {
            text,
            lines,
            kind,
            most,
            ..Head::default()
        };
    }

    /// As RFC 9113 section 6.5.2 counts.
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    pub(crate) fn is_untouched(&self) -> bool {
        !self.touched
    }

    /// `sound`: the value is one that a field can have.
    pub(crate) fn add(&mut self, name: &[u8], value: &[u8], class: Class, sound: bool) {
        self.touched = true;
        self.weight += name.len() + value.len() + 32;
        if self.malformed.is_some() || self.is_oversized() {
            return;
        }
        if let Err(malformed) = self.admit(name, value, class, sound) {
            self.malformed = Some(malformed);
        }
    }

    fn admit(
        &mut self,
        name: &[u8],
        value: &[u8],
        class: Class,
        sound: bool,
    ) -> Result<(), Malformed> {
        if class == Class::Invalid && name.first() != Some(&b':') {
            return Err(Malformed::Name);
        }
        if !sound {
            return Err(match has_control(value) {
                true => Malformed::Value,
                false => Malformed::PaddedValue,
            });
        }
        let request = self.kind == Kind::Request;
        match class {
            Class::Regular => {}
            Class::ContentLength if self.kind != Kind::Trailers => {
                if self.length.is_some() {
                    return Err(Malformed::ContentLength);
                }
                self.length = Some(decimal(value).ok_or(Malformed::ContentLength)?);
            }
            Class::ContentLength => {}
            Class::Te if request && value == b"trailers" => {}
            Class::Te => return Err(Malformed::Te),
            Class::Connection => return Err(Malformed::ConnectionField),
            _ if name.first() != Some(&b':') => return Err(Malformed::Name),
            _ => return self.admit_pseudo(value, class),
        }
        self.regular = true;
        let name = self.store(name);
        let value = self.store(value);
        self.lines.push(Line { name, value });
        Ok(())
    }

    fn admit_pseudo(&mut self, value: &[u8], class: Class) -> Result<(), Malformed> {
        if self.regular {
            return Err(Malformed::PseudoLate);
        }
        let fits = match class {
            Class::Status => self.kind == Kind::Response,
            Class::Invalid => false,
            _ => self.kind == Kind::Request,
        };
        if !fits {
            return Err(Malformed::PseudoForeign);
        }
        if class == Class::Status {
            let status = match value {
                [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9'] => decimal(value),
                _ => None,
            };
            let status = status.and_then(|status| u16::try_from(status).ok());
            // 101 has no meaning here (RFC 9113 section 8.6).
            let status = status.filter(|status| *status != 101);
            return match self.status.replace(status.ok_or(Malformed::PseudoValue)?) {
                None => Ok(()),
                Some(_) => Err(Malformed::PseudoRepeated),
            };
        }
        let sound = match class {
            Class::Method | Class::Protocol => is_token(value),
            Class::Scheme => is_scheme(value),
            Class::Path => is_target(value),
            // No scheme that is served has an empty one (RFC 9110 section 4.2.1).
            _ => !value.is_empty(),
        };
        if !sound {
            return Err(Malformed::PseudoValue);
        }
        let span = self.store(value);
        let place = match class {
            Class::Method => &mut self.method,
            Class::Scheme => &mut self.scheme,
            Class::Path => &mut self.path,
            Class::Protocol => &mut self.protocol,
            _ => &mut self.authority,
        };
        match place.replace(span) {
            None => Ok(()),
            Some(_) => Err(Malformed::PseudoRepeated),
        }
    }

    /// What must be there is (RFC 9113 sections 8.3.1, 8.3.2 and 8.5, RFC 8441 section 4).
    pub(crate) fn finish(&mut self) {
        if self.malformed.is_some() || self.is_oversized() {
            return;
        }
        let complete = match self.kind {
            Kind::Trailers => true,
            Kind::Response => self.status.is_some(),
            Kind::Request if self.method() == b"CONNECT" && self.protocol.is_none() => {
                if self.scheme.is_some() || self.path.is_some() {
                    self.malformed = Some(Malformed::PseudoForeign);
                }
                self.authority()
                    .is_some_and(|authority| !authority.is_empty())
            }
            Kind::Request => {
                if self.protocol.is_some() && self.method() != b"CONNECT" {
                    self.malformed = Some(Malformed::PseudoForeign);
                }
                self.method.is_some() && self.scheme.is_some() && self.path.is_some()
            }
        };
        if !complete {
            self.malformed = Some(Malformed::PseudoMissing);
        }
    }

    pub(crate) fn malformed(&self) -> Option<Malformed> {
        self.malformed
    }

    fn store(&mut self, text: &[u8]) -> Span {
        let start = self.text.len() as u32;
        self.text.extend_from_slice(text);
        Span {
            start,
            len: text.len() as u32,
        }
    }
}

fn is_token(value: &[u8]) -> bool {
    let fits = |byte: &u8| {
        byte.is_ascii_uppercase()
            || NAME_BYTES
                .get(usize::from(*byte))
                .copied()
                .unwrap_or_default()
    };
    !value.is_empty() && value.iter().all(fits)
}

/// RFC 3986 section 3.1.
fn is_scheme(value: &[u8]) -> bool {
    let rest = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    value.first().is_some_and(u8::is_ascii_alphabetic) && value.iter().all(rest)
}

/// Visible ASCII without `#`: what an HTTP/1 request line could carry.
fn is_target(value: &[u8]) -> bool {
    !value.is_empty()
        && value
            .iter()
            .all(|byte| byte.is_ascii_graphic() && *byte != b'#')
}

/// Digits only, no more than a `u64` holds.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, byte| match byte {
        b'0'..=b'9' => sum.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}
