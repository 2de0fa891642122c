//! The strictness table, both sides, and the properties of parser, decoder and writer.

mod properties;
mod strictness;

use super::body::{Decoder, Piece};
use super::{
    Accepted, Admitted, Asked, Error, Framing, Limits, Peer, Progress, RequestParser,
    ResponseParser, Rules, accept, admit,
};
use crate::headers::Headers;
use crate::message::{RequestHead, ResponseHead};
use ripstop_model::snapshot::http::{EscapedSlashes, PathOptions};

const PATHS: PathOptions = PathOptions {
    normalize: true,
    merge_slashes: true,
    escaped_slashes: EscapedSlashes::KeepUnchanged,
};

/// A message taken in: its head, what it means, its body, its trailers, and how many bytes of the input it took.
struct Taken<H, M> {
    head: H,
    meaning: M,
    body: Vec<u8>,
    trailers: Option<Headers>,
    used: usize,
}

/// Runs a body decoder over the input, in pieces of at most `step` bytes.
fn body(
    framing: Framing,
    limits: Limits,
    input: &[u8],
    step: usize,
) -> Result<(Vec<u8>, Option<Headers>, usize), super::Problem> {
    let mut decoder = Decoder::new(framing, limits);
    let mut data = Vec::new();
    let mut at = 0;
    loop {
        let end = input.len().min(at + step);
        loop {
            let (used, piece) = decoder.next(&input[at..end])?;
            at += used;
            match piece {
                Piece::Data(piece) => data.extend_from_slice(piece),
                Piece::More => break,
                Piece::End => return Ok((data, decoder.trailers(), at)),
            }
        }
        if at == input.len() {
            decoder.close()?;
            return Ok((data, decoder.trailers(), at));
        }
    }
}

fn request_with(
    input: &[u8],
    step: usize,
    limits: Limits,
    rules: &Rules,
) -> Result<Option<Taken<RequestHead, Admitted>>, Error> {
    let mut parser = RequestParser::default();
    let mut head = RequestHead::default();
    let mut at = 0;
    while at < input.len() {
        let end = input.len().min(at + step);
        match parser.parse(&input[at..end], &mut head, &limits)? {
            Progress::Partial => at = end,
            Progress::Complete { consumed } => {
                at += consumed;
                let admitted = admit(&mut head, rules)?;
                head.normalize(&PATHS).map_err(Error::downstream)?;
                let (body, trailers, used) = body(admitted.framing, limits, &input[at..], step)
                    .map_err(Error::downstream)?;
                let used = at + used;
                return Ok(Some(Taken {
                    head,
                    meaning: admitted,
                    body,
                    trailers,
                    used,
                }));
            }
        }
    }
    Ok(None)
}

fn request(input: &[u8]) -> Result<Option<Taken<RequestHead, Admitted>>, Error> {
    request_with(input, usize::MAX / 2, Limits::default(), &Rules::default())
}

fn response_with(
    input: &[u8],
    step: usize,
    asked: Asked,
) -> Result<Option<Taken<ResponseHead, Accepted>>, Error> {
    let limits = Limits::default();
    let mut parser = ResponseParser::default();
    let mut head = ResponseHead::default();
    let mut at = 0;
    while at < input.len() {
        let end = input.len().min(at + step);
        match parser.parse(&input[at..end], &mut head, &limits)? {
            Progress::Partial => at = end,
            Progress::Complete { consumed } => {
                at += consumed;
                let accepted = accept(&mut head, asked)?;
                let (body, trailers, used) = body(accepted.framing, limits, &input[at..], step)
                    .map_err(|problem| Error {
                        peer: Peer::Upstream,
                        problem,
                    })?;
                let used = at + used;
                return Ok(Some(Taken {
                    head,
                    meaning: accepted,
                    body,
                    trailers,
                    used,
                }));
            }
        }
    }
    Ok(None)
}

fn response(input: &[u8]) -> Result<Option<Taken<ResponseHead, Accepted>>, Error> {
    response_with(input, usize::MAX / 2, Asked::default())
}
