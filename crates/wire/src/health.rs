//! The client of gRPC's health checking protocol (`grpc.health.v1.Health/Check`), for active checks and readiness probes.

use prost::Message;
use tonic::Code;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use crate::xds::stream::describe;

#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct CheckResponse {
    /// 0 unknown, 1 serving, 2 not serving, 3 service unknown.
    #[prost(int32, tag = "1")]
    status: i32,
}

const PATH: &str = "/grpc.health.v1.Health/Check";
const SERVING: i32 = 1;
/// Bytes of an answer, which is a single number.
const MAX_RESPONSE: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unhealthy {
    /// The server answered that the service is not serving, or does not know it.
    #[error("the service is not serving")]
    NotServing,
    /// The server does not implement the protocol.
    #[error("the server does not implement grpc.health.v1.Health")]
    Unimplemented,
    #[error("the check failed: {0}")]
    Failed(String),
}

/// Asks whether `service` serves; empty: the server as a whole. The time limit is the caller's.
pub async fn check(channel: Channel, service: &str) -> Result<(), Unhealthy> {
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_RESPONSE);
    grpc.ready()
        .await
        .map_err(|error| Unhealthy::Failed(crate::causes(&error)))?;
    let request = tonic::Request::new(CheckRequest {
        service: service.to_owned(),
    });
    let codec: ProstCodec<CheckRequest, CheckResponse> = ProstCodec::default();
    match grpc
        .unary(request, PathAndQuery::from_static(PATH), codec)
        .await
    {
        Ok(response) if response.get_ref().status == SERVING => Ok(()),
        Ok(_) => Err(Unhealthy::NotServing),
        Err(status) => Err(match status.code() {
            Code::NotFound => Unhealthy::NotServing,
            Code::Unimplemented => Unhealthy::Unimplemented,
            _ => Unhealthy::Failed(describe(&status)),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{Future, Ready, ready};
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tonic::body::Body;
    use tonic::codegen::{Service, http};
    use tonic::server::{Grpc, NamedService, UnaryService};
    use tonic::{Request, Response, Status};

    use super::*;
    use crate::xds::stream::channel;

    /// Knows `up` and `down`.
    #[derive(Clone)]
    struct Fake;

    impl UnaryService<CheckRequest> for Fake {
        type Response = CheckResponse;
        type Future = Ready<Result<Response<CheckResponse>, Status>>;

        fn call(&mut self, request: Request<CheckRequest>) -> Self::Future {
            ready(match request.get_ref().service.as_str() {
                "up" => Ok(Response::new(CheckResponse { status: 1 })),
                "down" => Ok(Response::new(CheckResponse { status: 2 })),
                _ => Err(Status::not_found("no such service")),
            })
        }
    }

    impl NamedService for Fake {
        const NAME: &'static str = "grpc.health.v1.Health";
    }

    impl Service<http::Request<Body>> for Fake {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            Box::pin(async move {
                let codec: ProstCodec<CheckResponse, CheckRequest> = ProstCodec::default();
                Ok(Grpc::new(codec).unary(Fake, request).await)
            })
        }
    }

    #[tokio::test]
    async fn answers() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder()
            .add_service(Fake)
            .serve_with_incoming(incoming);
        let server = tokio::spawn(server);
        let target = channel("app", move || tokio::net::TcpStream::connect(address));
        assert_eq!(check(target.clone(), "up").await, Ok(()));
        assert_eq!(
            check(target.clone(), "down").await,
            Err(Unhealthy::NotServing)
        );
        assert_eq!(check(target, "other").await, Err(Unhealthy::NotServing));
        server.abort();
        let gone = channel("app", || async {
            Err::<tokio::net::TcpStream, _>(std::io::Error::other("no route"))
        });
        assert!(matches!(check(gone, "up").await, Err(Unhealthy::Failed(_))));
    }
}
