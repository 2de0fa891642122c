//! One probe of one member, by the way its traffic goes: the same source, the same TLS.

use std::io;
use std::sync::{Mutex, PoisonError};

use ripstop_model::snapshot::cluster::Probe;
use ripstop_wire::health::{self, Unhealthy};
use ripstop_wire::xds::stream::channel;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Outcome;
use crate::Shared;
use crate::balance::Member;
use crate::cluster::Cluster;
use crate::http1::{Limits, Progress, ResponseParser};
use crate::message::ResponseHead;
use crate::pool::{self, Opening};
use crate::stream::Stream;
use crate::tls::Carries;

/// Bytes of an answer that are looked at.
const ENOUGH: usize = 64 * 1024;
/// Of a probe that cannot say more.
const WELL: Outcome = Outcome::Passed { degraded: false };

/// Without a time limit: that is the caller's.
pub(super) async fn run(
    cluster: &Cluster,
    shared: &Shared,
    member: &Member,
    probe: &Probe,
) -> Outcome {
    let (carries, authority) = match probe {
        Probe::Http { host, .. } => (Carries::Http1, host),
        Probe::Tcp { .. } => (Carries::Tcp, &String::new()),
        Probe::Grpc { authority, .. } => (Carries::Http2, authority),
    };
    let authority = match authority.as_str() {
        "" => member
            .endpoint
            .hostname
            .as_deref()
            .unwrap_or(&cluster.config.name),
        named => named,
    };
    let to = Opening {
        shared,
        cluster,
        member,
        authority,
        application: false,
    };
    let Ok((stream, _)) = pool::open(to, carries).await else {
        return Outcome::Silent;
    };
    let outcome = match probe {
        Probe::Http { path, expected, .. } => get(stream, authority, path).await.map(|head| {
            let passed = match expected.as_slice() {
                [] => head.status == 200,
                ranges => ranges.iter().any(|range| range.contains(&head.status)),
            };
            let degraded = head.headers.first_named("x-envoy-degraded").is_some();
            passed.then_some(Outcome::Passed { degraded })
        }),
        Probe::Tcp { send, receive } => exchange(stream, send, receive).await.map(|()| Some(WELL)),
        Probe::Grpc { service, .. } => return grpc(stream, authority, service).await,
    };
    match outcome {
        Ok(passed) => passed.unwrap_or(Outcome::Refused),
        Err(_) => Outcome::Silent,
    }
}

/// What `path` is answered with.
async fn get(mut stream: Stream, host: &str, path: &str) -> io::Result<ResponseHead> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: ripstop/HC\r\nconnection: close\r\n\r\n"
    );
    if host
        .bytes()
        .chain(path.bytes())
        .any(|byte| !byte.is_ascii_graphic())
    {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    answer(&mut stream).await
}

/// The final response that arrives, as far as its body.
pub(crate) async fn answer(
    stream: &mut (impl tokio::io::AsyncRead + Unpin),
) -> io::Result<ResponseHead> {
    let mut parser = ResponseParser::default();
    let mut head = ResponseHead::default();
    let mut buffer = [0u8; 2048];
    loop {
        let read = stream.read(&mut buffer).await?;
        let mut input = buffer.get(..read).unwrap_or_default();
        if input.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !input.is_empty() {
            let progress = parser
                .parse(input, &mut head, &Limits::default())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            match progress {
                Progress::Partial => break,
                Progress::Complete { consumed } if (100..200).contains(&head.status) => {
                    head.clear();
                    input = input.get(consumed..).unwrap_or_default();
                }
                Progress::Complete { .. } => return Ok(head),
            }
        }
    }
}

/// Sends, and waits until what is expected has come, in that order, with anything between.
async fn exchange(mut stream: Stream, send: &[u8], receive: &[Vec<u8>]) -> io::Result<()> {
    if !send.is_empty() {
        stream.write_all(send).await?;
        stream.flush().await?;
    }
    let mut came = Vec::new();
    while !has_in_order(&came, receive) {
        let mut buffer = [0u8; 2048];
        let read = stream.read(&mut buffer).await?;
        if read == 0 || came.len() > ENOUGH {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        came.extend_from_slice(buffer.get(..read).unwrap_or_default());
    }
    Ok(())
}

fn has_in_order(came: &[u8], wanted: &[Vec<u8>]) -> bool {
    let mut rest = came;
    wanted.iter().all(|block| {
        let found = memchr::memmem::find(rest, block);
        let after = found.and_then(|at| rest.get(at + block.len()..));
        after.is_some_and(|after| {
            rest = after;
            true
        })
    })
}

/// `grpc.health.v1.Health/Check` on this one connection.
async fn grpc(stream: Stream, authority: &str, service: &str) -> Outcome {
    let once = Mutex::new(Some(stream));
    let channel = channel(authority, move || {
        let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset)) }
    });
    match health::check(channel, service).await {
        Ok(()) => WELL,
        Err(Unhealthy::NotServing | Unhealthy::Unimplemented) => Outcome::Refused,
        Err(Unhealthy::Failed(_)) => Outcome::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::has_in_order;

    #[test]
    fn blocks_are_found_in_their_order() {
        let wanted = [b"ab".to_vec(), b"cd".to_vec()];
        assert!(has_in_order(b"xabycdz", &wanted));
        assert!(!has_in_order(b"cdab", &wanted));
        assert!(!has_in_order(b"abc", &wanted));
        assert!(has_in_order(b"", &[]));
    }
}
