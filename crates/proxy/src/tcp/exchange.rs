//! What members of the mesh tell each other of themselves before opaque bytes: four bytes of magic, two of length, and
//! [`crate::peer`]'s introduction, to which the client adds the trace that the connection belongs to. Behind ALPN
//! `istio-peer-exchange`, which only those offer and accept who do this.

use std::time::Duration;

use ripstop_model::snapshot::endpoint::Workload;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::peer;
use crate::stream::Stream;
use crate::worker::Worker;

const MAGIC: &[u8; 4] = b"RSPX";
/// A longer introduction is not believed.
const LONGEST: usize = 1024;
/// Both sides speak as soon as the handshake is over.
const PATIENCE: Duration = Duration::from_secs(5);

/// The key of the trace context among those of an introduction.
const TRACE: &str = "traceparent";

/// What the other side said.
pub(super) struct Told {
    pub(super) workload: Workload,
    pub(super) traceparent: Option<String>,
}

/// Introduces this workload and reads who the other one is. `None`: it did not say; the connection goes on all the same
/// unless what it said cannot be told from the bytes that follow.
pub(super) async fn with(
    worker: &Worker,
    stream: &mut Stream,
    traceparent: Option<&str>,
) -> Option<Told> {
    let mut own = worker
        .shared
        .introduction
        .as_deref()
        .unwrap_or_default()
        .to_owned();
    if let Some(traceparent) = traceparent {
        own.push_str(&format!(";{TRACE}={traceparent}"));
    }
    if own.len() > LONGEST {
        own.clear();
    }
    let mut message = MAGIC.to_vec();
    message.extend_from_slice(&(own.len() as u16).to_be_bytes());
    message.extend_from_slice(own.as_bytes());
    let exchange = async {
        stream.write_all(&message).await.ok()?;
        stream.flush().await.ok()?;
        let mut head = [0u8; 6];
        stream.read_exact(&mut head).await.ok()?;
        let [a, b, c, d, high, low] = head;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if [a, b, c, d] != *MAGIC || length > LONGEST {
            return None;
        }
        let mut text = vec![0u8; length];
        stream.read_exact(&mut text).await.ok()?;
        let text = std::str::from_utf8(&text).ok()?;
        let mut parts = text.split(';').filter_map(|part| part.split_once('='));
        let traceparent = parts.find(|(key, _)| *key == TRACE);
        Some(Told {
            workload: peer::read(text)?,
            traceparent: traceparent.map(|(_, value)| value.to_owned()),
        })
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .ok()
        .flatten()
}
