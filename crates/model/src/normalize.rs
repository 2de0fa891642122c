//! One spelling for what a request names: a path or an authority as received in, the form policies and routes match out.
//!
//! The path follows Envoy's order and meaning: escaped slashes, then RFC 3986 normalisation (dot segments, unreserved
//! characters decoded once, backslash as slash), then merged slashes. Whatever the options, a path that two readers
//! could decode differently (malformed escapes, NUL, overlong UTF-8) is an error. Input that is already normal is
//! returned as it is, without allocation.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use crate::snapshot::http::{EscapedSlashes, PathOptions};

/// A path in its normal form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Path<'a> {
    /// Match and forward this.
    Forward(Cow<'a, str>),
    /// Answer 307 with this path and the request's query.
    Redirect(String),
}

/// Every one of these is 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PathError {
    #[error("the path does not start with a slash")]
    NoSlash,
    #[error("the path has a `%` that is not followed by two hex digits")]
    MalformedEscape,
    #[error("the path holds a NUL byte")]
    Nul,
    #[error("the path holds an overlong UTF-8 sequence")]
    OverlongUtf8,
    #[error("the path holds an escaped slash or backslash, which this listener refuses")]
    EscapedSlash,
}

/// Normalises a path (without its query).
pub fn path<'a>(path: &'a str, options: &PathOptions) -> Result<Path<'a>, PathError> {
    let seen = survey(path.as_bytes())?;
    if seen.is_plain() {
        return Ok(Path::Forward(Cow::Borrowed(path)));
    }
    let mut text = Cow::Borrowed(path);
    let mut redirect = false;
    if seen.escaped_slash {
        match options.escaped_slashes {
            EscapedSlashes::KeepUnchanged => {}
            EscapedSlashes::Reject => return Err(PathError::EscapedSlash),
            action => {
                text = Cow::Owned(unescape_slashes(&text));
                redirect = action == EscapedSlashes::UnescapeAndRedirect;
            }
        }
    }
    if options.normalize {
        text = Cow::Owned(resolve_dots(&decode_unreserved(&text)));
    }
    if options.merge_slashes && text.contains("//") {
        text = Cow::Owned(merge_slashes(&text));
    }
    Ok(match text {
        Cow::Owned(text) if redirect => Path::Redirect(text),
        Cow::Owned(text) if text != path => Path::Forward(Cow::Owned(text)),
        _ => Path::Forward(Cow::Borrowed(path)),
    })
}

/// The most generous reading an application could give a path: every escape decoded once, `;parameters` dropped,
/// backslashes as slashes, slashes merged, dot segments resolved. A rule that denies must match the normal form *or*
/// this; a rule that allows must match both, or the spelling decides. Bytes that are not UTF-8 become U+FFFD.
pub fn application_reading(path: &str) -> Cow<'_, str> {
    let plain = survey(path.as_bytes()).is_ok_and(|seen| seen.is_plain() && !seen.escape);
    if plain && !path.contains(';') {
        return Cow::Borrowed(path);
    }
    let decoded = decode_if(path.as_bytes(), |_| true);
    let decoded = String::from_utf8_lossy(&decoded).replace('\\', "/");
    let mut bare = String::with_capacity(decoded.len());
    for (index, segment) in decoded.split('/').enumerate() {
        if index > 0 {
            bare.push('/');
        }
        bare.push_str(segment.split(';').next().unwrap_or_default());
    }
    Cow::Owned(resolve_dots(&merge_slashes(&bare)))
}

/// What a first look at a path found.
#[derive(Default)]
struct Seen {
    escape: bool,
    escaped_slash: bool,
    /// An escape of an unreserved character.
    decodable: bool,
    backslash: bool,
    double_slash: bool,
    dot_segment: bool,
}

impl Seen {
    /// No option would change this path.
    fn is_plain(&self) -> bool {
        !(self.escaped_slash
            || self.decodable
            || self.backslash
            || self.double_slash
            || self.dot_segment)
    }
}

fn survey(path: &[u8]) -> Result<Seen, PathError> {
    if path.first() != Some(&b'/') {
        return Err(PathError::NoSlash);
    }
    let mut seen = Seen::default();
    let mut previous = 0;
    let mut at = 0;
    while let Some(byte) = path.get(at) {
        match byte {
            b'%' => {
                let decoded = escape_at(path, at).ok_or(PathError::MalformedEscape)?;
                seen.escape = true;
                match decoded {
                    0 => return Err(PathError::Nul),
                    b'/' | b'\\' => seen.escaped_slash = true,
                    lead if lead >= 0xc0 => refuse_overlong(path, at, lead)?,
                    other if is_unreserved(other) => seen.decodable = true,
                    _ => {}
                }
                at += 2;
            }
            b'/' if previous == b'/' => seen.double_slash = true,
            // A segment that starts with a dot is looked at closely later.
            b'.' if previous == b'/' => seen.dot_segment = true,
            b'\\' => seen.backslash = true,
            0 => return Err(PathError::Nul),
            _ => {}
        }
        previous = *byte;
        at += 1;
    }
    Ok(seen)
}

/// The byte that `%xx` at this place stands for.
fn escape_at(path: &[u8], at: usize) -> Option<u8> {
    let digit = |byte: &u8| (*byte as char).to_digit(16);
    match path.get(at..at + 3)? {
        [b'%', high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
        _ => None,
    }
}

/// Escaped UTF-8 that spells an ASCII or shorter character in more bytes than it needs (RFC 3629 section 3).
fn refuse_overlong(path: &[u8], at: usize, lead: u8) -> Result<(), PathError> {
    let Some(next) = escape_at(path, at + 3) else {
        return Ok(());
    };
    let overlong = match lead {
        0xc0 | 0xc1 => (0x80..0xc0).contains(&next),
        0xe0 => (0x80..0xa0).contains(&next),
        0xf0 => (0x80..0x90).contains(&next),
        0xf8..=0xff => (0x80..0xc0).contains(&next),
        _ => false,
    };
    if overlong {
        return Err(PathError::OverlongUtf8);
    }
    Ok(())
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Decodes the escapes whose byte the closure wants, each once.
fn decode_if(path: &[u8], wanted: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(byte) = path.get(at) {
        match escape_at(path, at) {
            Some(decoded) if wanted(decoded) => {
                out.push(decoded);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

/// Only ASCII is decoded, so the text stays UTF-8.
fn ascii(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_default()
}

fn decode_unreserved(path: &str) -> String {
    ascii(decode_if(path.as_bytes(), is_unreserved)).replace('\\', "/")
}

fn unescape_slashes(path: &str) -> String {
    ascii(decode_if(path.as_bytes(), |byte| {
        matches!(byte, b'/' | b'\\')
    }))
}

/// RFC 3986 section 5.2.4. Empty segments count, so `/a//../b` is `/a/b`; nothing climbs above the root.
fn resolve_dots(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut open = false;
    for segment in path.split('/').skip(1) {
        open = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                segments.pop();
            }
            name => segments.push(name),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if open || segments.is_empty() {
        out.push('/');
    }
    out
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for letter in path.chars() {
        if letter != '/' || !out.ends_with('/') {
            out.push(letter);
        }
    }
    out
}

/// Every one of these is 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AuthorityError {
    #[error("the host is empty")]
    Empty,
    #[error("the authority carries user information (`user@host`)")]
    UserInfo,
    #[error("the authority names more than one host")]
    List,
    #[error("the host holds a byte that no host name has")]
    HostByte,
    #[error("the host has an empty label")]
    EmptyLabel,
    #[error("the bracketed host is not an IPv6 address")]
    Ipv6,
    #[error("the port is not a number from 1 to 65535")]
    Port,
}

/// Normalises `host[:port]`: lower case, no trailing dot, IPv6 in its shortest form, the scheme's default port and an
/// empty port dropped.
pub fn authority(authority: &str, default_port: u16) -> Result<Cow<'_, str>, AuthorityError> {
    if is_plain(authority, default_port) {
        return Ok(Cow::Borrowed(authority));
    }
    let bytes = authority.as_bytes();
    let (host_end, bracketed) = match bytes.first() {
        None => return Err(AuthorityError::Empty),
        Some(b'[') => match authority.find(']') {
            Some(at) => (at + 1, true),
            None => return Err(AuthorityError::Ipv6),
        },
        Some(_) => (authority.find(':').unwrap_or(bytes.len()), false),
    };
    let (host, rest) = authority.split_at(host_end);
    let refused = |byte: &u8| match byte {
        b'@' => Some(AuthorityError::UserInfo),
        b',' | b' ' | b'\t' => Some(AuthorityError::List),
        _ => None,
    };
    if let Some(error) = bytes.iter().find_map(refused) {
        return Err(error);
    }
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => None,
        None => return Err(AuthorityError::HostByte),
        Some("") => None,
        Some(digits) => Some(port(digits)?),
    };
    let shown = port.filter(|port| *port != default_port);
    if bracketed {
        return ipv6(authority, host, shown);
    }
    let name = host_name(host)?;
    let lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
    // The digits are already the port's shortest form unless they start with a zero.
    let rest_is_normal = match shown {
        None => rest.is_empty(),
        Some(_) => !rest.starts_with(":0"),
    };
    if lower && name.len() == host.len() && rest_is_normal {
        return Ok(Cow::Borrowed(authority));
    }
    let mut out = name.to_ascii_lowercase();
    push_port(&mut out, shown);
    Ok(Cow::Owned(out))
}

/// The usual case in one pass: lower-case labels, and a port only if it is not the default.
fn is_plain(authority: &str, default_port: u16) -> bool {
    let mut previous = b'.';
    for (at, byte) in authority.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => {}
            b'.' if previous != b'.' => {}
            b':' if previous != b'.' => {
                let digits = authority.get(at + 1..).unwrap_or_default();
                return !digits.starts_with('0')
                    && port(digits).is_ok_and(|port| port != default_port);
            }
            _ => return false,
        }
        previous = byte;
    }
    previous != b'.'
}

fn push_port(out: &mut String, port: Option<u16>) {
    if let Some(port) = port {
        out.push(':');
        out.push_str(&port.to_string());
    }
}

fn port(digits: &str) -> Result<u16, AuthorityError> {
    if digits.len() > 5 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(AuthorityError::Port);
    }
    match digits.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(AuthorityError::Port),
    }
}

/// The name without its trailing dot; letters, digits, `-`, `_`, `.` and `~` only.
fn host_name(host: &str) -> Result<&str, AuthorityError> {
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.is_empty() {
        return Err(AuthorityError::Empty);
    }
    let mut previous = b'.';
    for byte in name.bytes() {
        match byte {
            b'.' if previous == b'.' => return Err(AuthorityError::EmptyLabel),
            byte if is_unreserved(byte) => {}
            _ => return Err(AuthorityError::HostByte),
        }
        previous = byte;
    }
    if previous == b'.' {
        return Err(AuthorityError::EmptyLabel);
    }
    Ok(name)
}

fn ipv6<'a>(
    authority: &'a str,
    host: &str,
    port: Option<u16>,
) -> Result<Cow<'a, str>, AuthorityError> {
    let inside = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .ok_or(AuthorityError::Ipv6)?;
    let address: Ipv6Addr = inside.parse().map_err(|_| AuthorityError::Ipv6)?;
    let mut out = format!("[{address}]");
    push_port(&mut out, port);
    Ok(match out == authority {
        true => Cow::Borrowed(authority),
        false => Cow::Owned(out),
    })
}

#[cfg(test)]
mod tests;
