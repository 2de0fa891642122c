//! The client's side of an ADS stream on a gRPC channel.

use std::future::Future;
use std::io;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::metadata::MetadataValue;
pub use tonic::transport::Channel;
use tonic::transport::{Endpoint, Uri};

use super::{Protocol, Request, Response, message};

/// Bytes of one response; a mesh of tens of thousands of endpoints fits.
const MAX_RESPONSE: usize = 64 << 20;
/// Requests that may wait for the network.
const QUEUE: usize = 64;

/// A channel over connections that `connect` makes (plain, TLS, a Unix socket). Connects on first use, again after a loss.
pub fn channel<C, F, I>(authority: &str, connect: C) -> Channel
where
    C: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<I>> + Send + 'static,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connect = Arc::new(connect);
    let uri = Uri::builder()
        .scheme("http")
        .authority(authority)
        .path_and_query("/")
        .build();
    Endpoint::from(uri.unwrap_or_else(|_| Uri::from_static("http://control/")))
        .http2_keep_alive_interval(std::time::Duration::from_secs(5))
        .keep_alive_timeout(std::time::Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let connect = Arc::clone(&connect);
            async move { connect().await.map(TokioIo::new) }
        }))
}

#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("the control plane refused the stream: {0}")]
    Refused(String),
    #[error("the stream to the control plane ended: {0}")]
    Ended(String),
}

/// An open stream.
pub struct Stream {
    requests: Requests,
    responses: Responses,
}

enum Requests {
    Delta(mpsc::Sender<pb::DeltaDiscoveryRequest>),
    Full(mpsc::Sender<pb::DiscoveryRequest>),
}

enum Responses {
    Delta(Streaming<pb::DeltaDiscoveryResponse>),
    Full(Streaming<pb::DiscoveryResponse>),
}

impl Stream {
    /// Opens a stream; `bearer` is sent as `authorization` where the channel carries no certificate.
    /// The first request must follow at once: a server may wait for it before it answers at all.
    pub async fn open(
        channel: Channel,
        protocol: Protocol,
        bearer: Option<&str>,
        first: Request,
    ) -> Result<Stream, StreamError> {
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE);
        let refused = |status: tonic::Status| StreamError::Refused(describe(&status));
        match protocol {
            Protocol::Delta => {
                let (sender, receiver) = mpsc::channel(QUEUE);
                let _ = sender.send(message::to_delta(first)).await;
                let request = authorized(ReceiverStream::new(receiver), bearer);
                let responses = client
                    .delta_aggregated_resources(request)
                    .await
                    .map_err(refused)?
                    .into_inner();
                Ok(Stream {
                    requests: Requests::Delta(sender),
                    responses: Responses::Delta(responses),
                })
            }
            Protocol::Full => {
                let (sender, receiver) = mpsc::channel(QUEUE);
                let _ = sender.send(message::to_full(first)).await;
                let request = authorized(ReceiverStream::new(receiver), bearer);
                let responses = client
                    .stream_aggregated_resources(request)
                    .await
                    .map_err(refused)?
                    .into_inner();
                Ok(Stream {
                    requests: Requests::Full(sender),
                    responses: Responses::Full(responses),
                })
            }
        }
    }

    pub async fn send(&mut self, request: Request) -> Result<(), StreamError> {
        let sent = match &self.requests {
            Requests::Delta(sender) => sender.send(message::to_delta(request)).await.is_ok(),
            Requests::Full(sender) => sender.send(message::to_full(request)).await.is_ok(),
        };
        if sent {
            Ok(())
        } else {
            Err(StreamError::Ended("it was closed".to_owned()))
        }
    }

    /// The next response. Cancel-safe.
    pub async fn receive(&mut self) -> Result<Response, StreamError> {
        let ended = |status: tonic::Status| StreamError::Ended(describe(&status));
        let closed = || StreamError::Ended("the control plane closed it".to_owned());
        match &mut self.responses {
            Responses::Delta(stream) => Ok(message::from_delta_response(
                stream.message().await.map_err(ended)?.ok_or_else(closed)?,
            )),
            Responses::Full(stream) => Ok(message::from_full_response(
                stream.message().await.map_err(ended)?.ok_or_else(closed)?,
            )),
        }
    }
}

pub(crate) fn authorized<T>(message: T, bearer: Option<&str>) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if let Some(value) =
        bearer.and_then(|token| MetadataValue::try_from(format!("Bearer {token}")).ok())
    {
        request.metadata_mut().insert("authorization", value);
    }
    request
}

/// A status with the cause under it, which tonic keeps in `source`.
pub(crate) fn describe(status: &tonic::Status) -> String {
    let cause =
        std::error::Error::source(status).map(|cause| format!(": {}", crate::causes(cause)));
    format!(
        "{:?}: {}{}",
        status.code(),
        status.message(),
        cause.unwrap_or_default()
    )
}
