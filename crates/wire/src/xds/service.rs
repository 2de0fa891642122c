//! The server's side of ADS on gRPC: each stream drives a [`Session`] over what a [`Plane`] shows its proxy.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use ripstop_model::spiffe::Spiffe;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::server::{Event, Session, View};
use super::{Protocol, Request, Response, message};
use crate::node::Node;

/// Who is at the other end, as the transport knows: put it into the connection's info (tonic's `Connected`).
#[derive(Debug, Clone, Default)]
pub struct Caller {
    pub peer: Option<SocketAddr>,
    /// Of the verified client certificate.
    pub identity: Option<Spiffe>,
    /// Filled in from the `authorization` header.
    pub bearer: Option<String>,
}

/// A control plane: shows each proxy its part.
pub trait Plane: Send + Sync + 'static {
    type Proxy: Proxy;
    /// A proxy introduces itself with the first request of a stream. The error text goes to the proxy.
    fn connect(&self, caller: Caller, node: Node) -> Result<Self::Proxy, Refusal>;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No or a wrong credential.
    #[error("{0}")]
    Unauthenticated(String),
    /// The identity may not ask for this node.
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    Unavailable(String),
}

/// One connected proxy. Dropped when its stream ends.
pub trait Proxy: View + Send + 'static {
    /// Which of the two protocols its stream speaks; told once, first.
    fn speaks(&mut self, _protocol: Protocol) {}
    fn event(&mut self, event: Event);
    /// Resolves when what the view shows may have changed since the last response. Cancel-safe.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;
}

/// Requests of one proxy that may wait; a client that sends faster than it reads is slowed down.
const QUEUE: usize = 32;
/// Bytes of one request.
const MAX_REQUEST: usize = 8 << 20;

/// The gRPC service, to be added to a tonic router.
pub fn service<P: Plane>(plane: Arc<P>) -> AggregatedDiscoveryServiceServer<Ads<P>> {
    AggregatedDiscoveryServiceServer::new(Ads { plane }).max_decoding_message_size(MAX_REQUEST)
}

pub struct Ads<P> {
    plane: Arc<P>,
}

#[tonic::async_trait]
impl<P: Plane> AggregatedDiscoveryService for Ads<P> {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<pb::DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream =
        ReceiverStream<Result<pb::DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<pb::DiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(tonic::Response::new(serve_full(&self.plane, request)))
    }

    async fn delta_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<pb::DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(tonic::Response::new(serve_delta(&self.plane, request)))
    }
}

/// Serves one state-of-the-world stream, of ADS or of a single type.
pub(crate) fn serve_full<P: Plane>(
    plane: &Arc<P>,
    request: tonic::Request<Streaming<pb::DiscoveryRequest>>,
) -> ReceiverStream<Result<pb::DiscoveryResponse, Status>> {
    let caller = caller(&request);
    let inbound = Inbound {
        stream: request.into_inner(),
        convert: message::from_full,
    };
    let plane = Arc::clone(plane);
    drive(
        plane,
        caller,
        Protocol::Full,
        inbound,
        message::to_full_response,
    )
}

/// Serves one delta stream.
pub(crate) fn serve_delta<P: Plane>(
    plane: &Arc<P>,
    request: tonic::Request<Streaming<pb::DeltaDiscoveryRequest>>,
) -> ReceiverStream<Result<pb::DeltaDiscoveryResponse, Status>> {
    let caller = caller(&request);
    let inbound = Inbound {
        stream: request.into_inner(),
        convert: message::from_delta,
    };
    let plane = Arc::clone(plane);
    drive(
        plane,
        caller,
        Protocol::Delta,
        inbound,
        message::to_delta_response,
    )
}

/// Reads who calls from the transport and the `authorization` header.
pub(crate) fn caller<T>(request: &tonic::Request<T>) -> Caller {
    let mut caller = request
        .extensions()
        .get::<Caller>()
        .cloned()
        .unwrap_or_default();
    if caller.peer.is_none() {
        caller.peer = request.remote_addr();
    }
    let header = request
        .metadata()
        .get("authorization")
        .and_then(|value| value.to_str().ok());
    caller.bearer = header
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(str::to_owned);
    caller
}

struct Inbound<M> {
    stream: Streaming<M>,
    convert: fn(M) -> Request,
}

impl<M> Inbound<M> {
    async fn next(&mut self) -> Result<Option<Request>, Status> {
        Ok(self.stream.message().await?.map(self.convert))
    }
}

fn drive<P: Plane, M: Send + 'static, R: Send + 'static>(
    plane: Arc<P>,
    caller: Caller,
    protocol: Protocol,
    mut inbound: Inbound<M>,
    convert: fn(Response) -> R,
) -> ReceiverStream<Result<R, Status>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let outcome = converse(&*plane, caller, protocol, &mut inbound, &sender, convert).await;
        if let Err(status) = outcome {
            // Nobody listens any more when the proxy itself went away.
            let _ = sender.send(Err(status)).await;
        }
    });
    ReceiverStream::new(receiver)
}

async fn converse<P: Plane, M, R>(
    plane: &P,
    caller: Caller,
    protocol: Protocol,
    inbound: &mut Inbound<M>,
    outbound: &mpsc::Sender<Result<R, Status>>,
    convert: fn(Response) -> R,
) -> Result<(), Status> {
    let Some(first) = inbound.next().await? else {
        return Ok(());
    };
    let node = first.node.clone().ok_or_else(|| {
        Status::invalid_argument("the first request of a stream must carry the node")
    })?;
    let mut proxy = plane
        .connect(caller, node)
        .map_err(|refusal| match refusal {
            Refusal::Unauthenticated(text) => Status::unauthenticated(text),
            Refusal::Forbidden(text) => Status::permission_denied(text),
            Refusal::Unavailable(text) => Status::unavailable(text),
        })?;
    proxy.speaks(protocol);
    let mut session = Session::new(protocol);
    let mut next = Some(first);
    loop {
        if let Some(request) = next.take() {
            for event in session.receive(request) {
                proxy.event(event);
            }
        }
        while let Some(response) = session.next_response(&mut proxy) {
            if outbound.send(Ok(convert(response))).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            request = inbound.next() => match request? {
                Some(request) => next = Some(request),
                None => return Ok(()),
            },
            () = proxy.changed() => {}
            () = outbound.closed() => return Ok(()),
        }
    }
}
