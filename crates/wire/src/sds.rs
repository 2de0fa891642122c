//! Secrets for a stock Envoy, over a Unix socket: what `ripstop agent` serves beside it.
//!
//! Whoever can open the socket gets the key: its folder must belong to Envoy's user alone.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use ripstop_model::discovery::{Kind, Resource};
use ripstop_model::snapshot::Name;
use ripstop_model::snapshot::tls::Secret;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Status, Streaming};

use crate::node::Node;
use crate::resource::{self, Encoded};
use crate::xds::server::{Event, View};
use crate::xds::service::{Caller, Plane, Proxy, Refusal, serve_delta, serve_full};

/// The secrets to serve, by name (`default`, `ROOTCA`). A new value is pushed to every stream that asked for what changed.
pub type Secrets = watch::Receiver<Arc<BTreeMap<Name, Arc<Secret>>>>;

/// Serves until `stop` resolves. A secret that is asked for before it exists is sent when it does.
pub async fn serve(
    listener: UnixListener,
    secrets: Secrets,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let service = Service {
        plane: Arc::new(Agent { secrets }),
    };
    tonic::transport::Server::builder()
        .add_service(SecretDiscoveryServiceServer::new(service))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
        .await
        .map_err(|error| ServeError(crate::causes(&error)))
}

#[derive(Debug, thiserror::Error)]
#[error("serving secrets ended: {0}")]
pub struct ServeError(String);

struct Service {
    plane: Arc<Agent>,
}

#[tonic::async_trait]
impl SecretDiscoveryService for Service {
    type DeltaSecretsStream = ReceiverStream<Result<pb::DeltaDiscoveryResponse, Status>>;
    type StreamSecretsStream = ReceiverStream<Result<pb::DiscoveryResponse, Status>>;

    async fn delta_secrets(
        &self,
        request: tonic::Request<Streaming<pb::DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::DeltaSecretsStream>, Status> {
        Ok(tonic::Response::new(serve_delta(&self.plane, request)))
    }

    async fn stream_secrets(
        &self,
        request: tonic::Request<Streaming<pb::DiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::StreamSecretsStream>, Status> {
        Ok(tonic::Response::new(serve_full(&self.plane, request)))
    }

    async fn fetch_secrets(
        &self,
        _: tonic::Request<pb::DiscoveryRequest>,
    ) -> Result<tonic::Response<pb::DiscoveryResponse>, Status> {
        Err(Status::unimplemented(
            "secrets are streamed: use StreamSecrets or DeltaSecrets",
        ))
    }
}

struct Agent {
    secrets: Secrets,
}

impl Plane for Agent {
    type Proxy = Reader;

    fn connect(&self, _: Caller, _: Node) -> Result<Reader, Refusal> {
        Ok(Reader {
            secrets: self.secrets.clone(),
        })
    }
}

/// One stream.
struct Reader {
    secrets: Secrets,
}

impl View for Reader {
    fn resource(&mut self, kind: Kind, name: &Name) -> Option<Encoded> {
        if kind != Kind::Secret {
            return None;
        }
        let secret = self.secrets.borrow().get(name).cloned()?;
        Some(resource::encode(&Resource::Secret(secret)))
    }

    fn names(&mut self, kind: Kind) -> Vec<Name> {
        if kind == Kind::Secret {
            self.secrets.borrow().keys().cloned().collect()
        } else {
            Vec::new()
        }
    }
}

impl Proxy for Reader {
    fn event(&mut self, event: Event) {
        if let Event::Rejected {
            resources, message, ..
        } = event
        {
            let names: Vec<&str> = resources.iter().map(|(name, _)| &**name).collect();
            tracing::warn!(?names, message, "the proxy rejected its secrets");
        }
    }

    async fn changed(&mut self) {
        if self.secrets.changed().await.is_err() {
            // Nobody will change them any more; the stream lives on with what it has.
            std::future::pending().await
        }
    }
}
