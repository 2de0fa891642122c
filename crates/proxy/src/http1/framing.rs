//! Where a message ends: a head in, one [`Framing`] out, every doubt an error (RFC 9112 section 6, read strictly).

use super::error::Problem;
use crate::headers::{Headers, Known};
use crate::message::{Method, Version};

/// How a body is delimited on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// No body: the message ends with its head.
    #[default]
    None,
    /// Exactly this many bytes.
    Length(u64),
    Chunked,
    /// Until the peer closes; responses only.
    UntilClose,
}

/// The framing that the two headers declare; `None` if there is neither.
fn declared(headers: &Headers, version: Version) -> Result<Option<Framing>, Problem> {
    if headers.has(Known::TransferEncoding) {
        if headers.has(Known::ContentLength) {
            return Err(Problem::LengthAndCoding);
        }
        if version == Version::Http10 {
            return Err(Problem::CodingInHttp10);
        }
        let mut codings = headers.all(Known::TransferEncoding);
        return match (codings.next(), codings.next()) {
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => {
                Ok(Some(Framing::Chunked))
            }
            _ => Err(Problem::Coding),
        };
    }
    if !headers.has(Known::ContentLength) {
        return Ok(None);
    }
    let mut lengths = headers.all(Known::ContentLength);
    match (lengths.next(), lengths.next()) {
        (Some(length), None) => Ok(Some(Framing::Length(decimal(length)?))),
        _ => Err(Problem::LengthRepeated),
    }
}

/// Digits only, no sign, no list, no more than a `u64` holds.
fn decimal(digits: &[u8]) -> Result<u64, Problem> {
    if digits.is_empty() {
        return Err(Problem::Length);
    }
    digits.iter().try_fold(0u64, |sum, byte| match byte {
        b'0'..=b'9' => sum
            .checked_mul(10)
            .and_then(|sum| sum.checked_add(u64::from(byte - b'0')))
            .ok_or(Problem::Length),
        b',' => Err(Problem::LengthRepeated),
        _ => Err(Problem::Length),
    })
}

/// The framing of a request's body.
pub fn of_request(headers: &Headers, version: Version) -> Result<Framing, Problem> {
    Ok(declared(headers, version)?.unwrap_or(Framing::None))
}

/// The framing of the body of a response with this status to a request with this method. What is declared is checked
/// even where no body follows.
pub fn of_response(
    headers: &Headers,
    version: Version,
    status: u16,
    asked: Method,
) -> Result<Framing, Problem> {
    let declared = declared(headers, version)?;
    match (status, asked) {
        // RFC 9110 sections 8.6 and 6.4.1: neither header belongs here; an empty length harms nobody.
        (100..200 | 204, _) => match declared {
            None | Some(Framing::Length(0)) => Ok(Framing::None),
            Some(_) => Err(Problem::BodyForbidden),
        },
        // Here the headers tell what a GET would have got.
        (304, _) | (_, Method::Head) => Ok(Framing::None),
        // 205 has no content either, but is framed as usual (RFC 9110 section 15.3.6).
        _ => Ok(declared.unwrap_or(Framing::UntilClose)),
    }
}
