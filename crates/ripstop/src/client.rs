//! Calls of the control plane's HTTP/JSON API: over its Unix socket, or over TLS to another host with a join token.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use ripstop_control::api::message::Refusal;
use ripstop_identity::bundle::{Bundle, Root, Roots, Trust};
use ripstop_identity::tls::{self, ClientOptions};
use ripstop_identity::token::TokenFile;
use ripstop_identity::verify::{self, Demand};
use ripstop_model::spiffe::Spiffe;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// For one call, connecting included.
const PATIENCE: Duration = Duration::from_secs(10);
const MAX_ANSWER: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nobody answers: it may be starting again, so that trying again may help.
    #[error("the control plane at {at} does not answer: {cause}; {remedy}")]
    Unreachable {
        at: String,
        cause: String,
        remedy: &'static str,
    },
    /// It answers and says no.
    #[error("{message}")]
    Refused { status: StatusCode, message: String },
    #[error(
        "the control plane at {at} is not the one the token was made by: {cause}; make a new token with `ripstop token create`"
    )]
    Stranger { at: String, cause: String },
    #[error(
        "the control plane at {at} answered what this version does not understand: {cause}; use the same version of ripstop on both sides"
    )]
    Answer { at: String, cause: String },
}

impl Error {
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Error::Unreachable { .. })
    }
}

/// How to reach one control plane. Each call is a connection of its own.
#[derive(Clone)]
pub(crate) struct Client {
    way: Way,
    bearer: Option<String>,
}

#[derive(Clone)]
enum Way {
    Socket(PathBuf),
    Tls { address: String, tls: tls::Client },
}

impl Client {
    /// As the owner of the mesh.
    pub(crate) fn local(socket: &Path) -> Client {
        Client {
            way: Way::Socket(socket.to_owned()),
            bearer: None,
        }
    }

    /// As the bearer of a join token. The root that the token names is looked for in what the control plane presents, and
    /// the control plane's identity is verified against that root, before any secret is sent.
    pub(crate) async fn join(address: &str, token: &TokenFile) -> Result<Client, Error> {
        let roots = timeout(PATIENCE, presented(address, token))
            .await
            .map_err(|_| unreachable(address, "no answer in time"))??;
        let tls = verified(address, token, roots)?;
        Ok(Client {
            way: Way::Tls {
                address: address.to_owned(),
                tls,
            },
            bearer: Some(token.secret.clone()),
        })
    }

    /// `HOST:PORT` of a control plane that is reached over the network.
    pub(crate) fn address(&self) -> Option<&str> {
        match &self.way {
            Way::Socket(_) => None,
            Way::Tls { address, .. } => Some(address),
        }
    }

    /// The same control plane, with another secret.
    pub(crate) fn with_bearer(&self, bearer: String) -> Client {
        Client {
            way: self.way.clone(),
            bearer: Some(bearer),
        }
    }

    pub(crate) async fn fetch<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.answer(Method::GET, path, Bytes::new()).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        self.answer(Method::POST, path, json(body)).await
    }

    /// For calls that are answered without a body.
    pub(crate) async fn put(&self, path: &str, body: &impl Serialize) -> Result<(), Error> {
        let (status, text) = self.call(Method::PUT, path, json(body)).await?;
        self.accepted(status, &text)
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<(), Error> {
        let (status, text) = self.call(Method::DELETE, path, Bytes::new()).await?;
        self.accepted(status, &text)
    }

    /// Sends `text` as it is; the status is the caller's to judge.
    pub(crate) async fn put_text(
        &self,
        path: &str,
        text: String,
    ) -> Result<(StatusCode, Bytes), Error> {
        self.call(Method::PUT, path, text.into()).await
    }

    pub(crate) fn read<T: DeserializeOwned>(&self, text: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(text).map_err(|error| Error::Answer {
            at: self.at(),
            cause: error.to_string(),
        })
    }

    async fn answer<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, Error> {
        let (status, text) = self.call(method, path, body).await?;
        self.accepted(status, &text)?;
        self.read(&text)
    }

    fn accepted(&self, status: StatusCode, text: &[u8]) -> Result<(), Error> {
        if status.is_success() {
            return Ok(());
        }
        let message = match serde_json::from_slice::<Refusal>(text) {
            Ok(refusal) => refusal.error,
            Err(_) => format!(
                "the control plane at {} answered {status}: {}",
                self.at(),
                String::from_utf8_lossy(text)
            ),
        };
        Err(Error::Refused { status, message })
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Error> {
        let exchange = async {
            match &self.way {
                Way::Socket(socket) => {
                    let stream = UnixStream::connect(socket).await;
                    let stream = stream.map_err(|error| self.unreachable(error))?;
                    self.exchange(stream, method, path, body).await
                }
                Way::Tls { address, tls } => {
                    let stream = connect(address).await?;
                    let name = server_name(address)?;
                    let stream = TlsConnector::from(tls.config().clone())
                        .connect(name.clone(), stream)
                        .await;
                    let stream = stream.map_err(|error| self.refused_handshake(error))?;
                    let peer = tls.peer(stream.get_ref().1, &name, SystemTime::now());
                    peer.map_err(|rejection| Error::Stranger {
                        at: self.at(),
                        cause: rejection.to_string(),
                    })?;
                    self.exchange(stream, method, path, body).await
                }
            }
        };
        timeout(PATIENCE, exchange)
            .await
            .unwrap_or_else(|_| Err(self.unreachable("no answer in time")))
    }

    async fn exchange<S>(
        &self,
        stream: S,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unreachable(error))?;
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "control")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(bearer) = &self.bearer {
            request = request.header(header::AUTHORIZATION, format!("Bearer {bearer}"));
        }
        let invalid = |error: hyper::http::Error| Error::Refused {
            status: StatusCode::BAD_REQUEST,
            message: format!("`{path}` cannot be asked for: {error}"),
        };
        let request = request.body(Full::new(body)).map_err(invalid)?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await;
        let body = body.map_err(|error| self.unreachable(error))?;
        Ok((status, body.to_bytes()))
    }

    fn at(&self) -> String {
        match &self.way {
            Way::Socket(path) => path.display().to_string(),
            Way::Tls { address, .. } => address.clone(),
        }
    }

    fn unreachable(&self, cause: impl ToString) -> Error {
        match &self.way {
            Way::Socket(path) => Error::Unreachable {
                at: path.display().to_string(),
                cause: cause.to_string(),
                remedy: "start the mesh with `ripstop up FILE`, or name another with --state DIR",
            },
            Way::Tls { address, .. } => unreachable(address, cause),
        }
    }

    fn refused_handshake(&self, error: std::io::Error) -> Error {
        match verify::Rejection::of_io(&error) {
            Some(rejection) => Error::Stranger {
                at: self.at(),
                cause: rejection.to_string(),
            },
            None => self.unreachable(error),
        }
    }
}

fn json(body: &impl Serialize) -> Bytes {
    // Our own message types: strings, numbers and lists of them, which always serialise.
    serde_json::to_vec(body).unwrap_or_default().into()
}

fn unreachable(address: &str, cause: impl ToString) -> Error {
    Error::Unreachable {
        at: address.to_owned(),
        cause: cause.to_string(),
        remedy: "check the address, and that the control plane listens there (`ripstop up --xds-tls ADDR` or `ripstop control`)",
    }
}

async fn connect(address: &str) -> Result<TcpStream, Error> {
    TcpStream::connect(address)
        .await
        .map_err(|error| unreachable(address, error))
}

fn server_name(address: &str) -> Result<rustls_pki_types::ServerName<'static>, Error> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    rustls_pki_types::ServerName::try_from(host)
        .map_err(|error| unreachable(address, format!("it has no host name: {error}")))
}

/// The roots that `address` presents and that the token names; nothing but a handshake is sent.
async fn presented(address: &str, token: &TokenFile) -> Result<Roots, Error> {
    let stranger = |cause: String| Error::Stranger {
        at: address.to_owned(),
        cause,
    };
    let look = tls::Client::new(ClientOptions::outside(Demand::Nothing, None))
        .map_err(|error| stranger(error.to_string()))?;
    let name = server_name(address)?;
    let stream = TlsConnector::from(look.config().clone())
        .connect(name, connect(address).await?)
        .await
        .map_err(|error| unreachable(address, error))?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let mut roots = Roots::default();
    for certificate in chain {
        if let Ok(root) = Root::new(certificate.clone().into_owned())
            && root.fingerprint() == token.root_sha256
        {
            roots.add(root);
        }
    }
    if roots.is_empty() {
        return Err(stranger(format!(
            "it does not present the root {}",
            token.root_sha256
        )));
    }
    Ok(roots)
}

/// Demands the control plane's identity under those roots.
fn verified(address: &str, token: &TokenFile, roots: Roots) -> Result<tls::Client, Error> {
    let stranger = |cause: String| Error::Stranger {
        at: address.to_owned(),
        cause,
    };
    let mut bundle = Bundle::default();
    bundle.insert(&token.trust_domain, roots);
    let control: Spiffe = token
        .control_identity
        .parse()
        .map_err(|error| stranger(format!("{}: {error}", token.control_identity)))?;
    let demand = Demand::Mesh {
        trust: Trust::new(bundle),
        identities: vec![verify::exactly(&control)],
    };
    tls::Client::new(ClientOptions {
        alpn: vec![b"http/1.1".to_vec()],
        ..ClientOptions::outside(demand, None)
    })
    .map_err(|error| stranger(error.to_string()))
}
