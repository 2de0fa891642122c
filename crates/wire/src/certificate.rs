//! Istio's certificate API, `istio.v1.auth.IstioCertificateService/CreateCertificate`, both sides. The two messages are
//! written by hand: no published crate carries them.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use envoy_types::pb::google::protobuf::Struct;
use prost::Message;
use ripstop_model::seam::{SignError, Signer};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use crate::xds::service::{Caller, caller};
use crate::xds::stream::{authorized, describe};

const PATH: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

#[derive(Clone, PartialEq, Message)]
struct CertificateRequest {
    /// PEM.
    #[prost(string, tag = "1")]
    csr: String,
    /// Seconds.
    #[prost(int64, tag = "3")]
    validity_duration: i64,
    #[prost(message, optional, tag = "4")]
    metadata: Option<Struct>,
}

#[derive(Clone, PartialEq, Message)]
struct CertificateResponse {
    /// PEM, leaf first, root last.
    #[prost(string, repeated, tag = "1")]
    cert_chain: Vec<String>,
}

/// A [`Signer`] behind a gRPC channel.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    /// Where the channel carries no certificate that says who asks.
    bearer: Option<String>,
}

impl Client {
    pub fn new(channel: Channel, bearer: Option<String>) -> Client {
        Client { channel, bearer }
    }
}

/// A chain of this many bytes is far more than any real one.
const MAX_RESPONSE: usize = 1 << 20;
/// A CSR of this many bytes too.
const MAX_REQUEST: usize = 64 << 10;

impl Signer for Client {
    async fn sign(&self, csr_pem: &str, ttl: Duration) -> Result<Vec<String>, SignError> {
        let message = CertificateRequest {
            csr: csr_pem.to_owned(),
            validity_duration: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: None,
        };
        let mut grpc =
            tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_RESPONSE);
        let unavailable =
            |error: tonic::transport::Error| SignError::Unavailable(crate::causes(&error));
        grpc.ready().await.map_err(unavailable)?;
        let codec: ProstCodec<CertificateRequest, CertificateResponse> = ProstCodec::default();
        let path = http::uri::PathAndQuery::from_static(PATH);
        match grpc
            .unary(authorized(message, self.bearer.as_deref()), path, codec)
            .await
        {
            Ok(response) => Ok(response.into_inner().cert_chain),
            Err(status) => Err(match status.code() {
                Code::InvalidArgument
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::Unimplemented => SignError::Refused(status.message().to_owned()),
                _ => SignError::Unavailable(describe(&status)),
            }),
        }
    }
}

/// An authority: decides who asks and signs.
pub trait Authority: Send + Sync + 'static {
    /// Answers the chain, leaf first, root last, each PEM.
    fn create(
        &self,
        caller: Caller,
        csr_pem: &str,
        ttl: Duration,
    ) -> impl Future<Output = Result<Vec<String>, Refusal>> + Send;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No or a wrong credential.
    #[error("{0}")]
    Unauthenticated(String),
    /// The CSR is not acceptable.
    #[error("{0}")]
    Invalid(String),
    /// The authority cannot sign now.
    #[error("{0}")]
    Unavailable(String),
}

/// The gRPC service, to be added to a tonic router.
pub struct Service<A> {
    authority: Arc<A>,
}

impl<A> Service<A> {
    pub fn new(authority: Arc<A>) -> Service<A> {
        Service { authority }
    }
}

impl<A> Clone for Service<A> {
    fn clone(&self) -> Service<A> {
        Service {
            authority: Arc::clone(&self.authority),
        }
    }
}

impl<A> NamedService for Service<A> {
    const NAME: &'static str = "istio.v1.auth.IstioCertificateService";
}

type Reply<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl<A: Authority> tonic::codegen::Service<http::Request<Body>> for Service<A> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Reply<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != PATH {
                return Ok(Status::unimplemented("only CreateCertificate is served").into_http());
            }
            let codec: ProstCodec<CertificateResponse, CertificateRequest> = ProstCodec::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_REQUEST);
            Ok(grpc.unary(service, request).await)
        })
    }
}

impl<A: Authority> UnaryService<CertificateRequest> for Service<A> {
    type Response = CertificateResponse;
    type Future = Reply<tonic::Response<CertificateResponse>, Status>;

    fn call(&mut self, request: tonic::Request<CertificateRequest>) -> Self::Future {
        let authority = Arc::clone(&self.authority);
        Box::pin(async move {
            let caller = caller(&request);
            let message = request.into_inner();
            let ttl =
                Duration::from_secs(u64::try_from(message.validity_duration).unwrap_or_default());
            match authority.create(caller, &message.csr, ttl).await {
                Ok(cert_chain) => Ok(tonic::Response::new(CertificateResponse { cert_chain })),
                Err(refusal) => Err(match refusal {
                    Refusal::Unauthenticated(text) => Status::unauthenticated(text),
                    Refusal::Invalid(text) => Status::invalid_argument(text),
                    Refusal::Unavailable(text) => Status::unavailable(text),
                }),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::stream::channel;

    struct Echo;

    impl Authority for Echo {
        async fn create(
            &self,
            caller: Caller,
            csr_pem: &str,
            ttl: Duration,
        ) -> Result<Vec<String>, Refusal> {
            match caller.bearer.as_deref() {
                Some("secret") => Ok(vec![csr_pem.to_owned(), ttl.as_secs().to_string()]),
                _ => Err(Refusal::Unauthenticated("who are you?".into())),
            }
        }
    }

    #[tokio::test]
    async fn over_loopback() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(Service::new(Arc::new(Echo)));
        let server = tokio::spawn(server.serve_with_incoming(incoming));
        let connect = channel("ca", move || tokio::net::TcpStream::connect(address));
        let signed = Client::new(connect.clone(), Some("secret".into()))
            .sign("csr", Duration::from_secs(60))
            .await;
        assert_eq!(signed.unwrap(), ["csr", "60"]);
        let refused = Client::new(connect, None)
            .sign("csr", Duration::from_secs(60))
            .await;
        assert_eq!(refused, Err(SignError::Refused("who are you?".into())));
        server.abort();
        let gone = channel("ca", move || async {
            Err::<tokio::net::TcpStream, _>(std::io::Error::other("no route"))
        });
        let error = Client::new(gone, None)
            .sign("csr", Duration::ZERO)
            .await
            .unwrap_err();
        assert!(
            matches!(&error, SignError::Unavailable(text) if text.contains("no route")),
            "{error}"
        );
    }
}
