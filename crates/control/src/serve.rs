//! Options → a running control plane: its sockets, its timers, its sources.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use ripstop_identity::ca::Lifetimes;
use ripstop_identity::tls::{self, ServerOptions, Versions};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use ripstop_wire::certificate;
use ripstop_wire::xds::service as xds;
use tonic::service::Routes;

use crate::api;
use crate::ca::{Ca, CaError, Issuing};
use crate::plane::{Caller, Listening, Plane};
use crate::push::Ads;
use crate::settings::Settings;
use crate::source::{self, Change, SourceError};
use crate::state::{State, StateError};

/// The API's socket in the state directory.
pub const SOCKET: &str = "control.sock";
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Requests in flight get this long when the control plane stops.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub struct Options {
    /// Files, folders or URLs of resources, watched.
    pub sources: Vec<String>,
    /// Created (0700) when it is not there.
    pub state: PathBuf,
    /// Plain-text xDS: loopback only. Port 0 takes a free one; see [`Running::listening`].
    pub xds: Option<SocketAddr>,
    /// xDS, CreateCertificate and the join API over TLS.
    pub xds_tls: Option<SocketAddr>,
    /// `/ready` and `/metrics`.
    pub monitoring: Option<SocketAddr>,
    pub settings: Settings,
    pub lifetimes: Lifetimes,
}

impl Options {
    /// With everything off but the API's socket.
    pub fn new(state: impl Into<PathBuf>) -> Options {
        Options {
            sources: Vec::new(),
            state: state.into(),
            xds: None,
            xds_tls: None,
            monitoring: None,
            settings: Settings::default(),
            lifetimes: Lifetimes::default(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("plain-text xDS is for loopback only, {0} is not: use --xds-tls for other hosts")]
    NotLoopback(SocketAddr),
    #[error("cannot listen on {address} ({what}): {cause}{}", hint(cause))]
    Listen {
        what: &'static str,
        address: String,
        cause: io::Error,
    },
    #[error("TLS: {0}")]
    Tls(String),
    #[error("interrupted while starting")]
    Interrupted,
}

fn hint(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::AddrInUse => "; stop what listens there or choose another port",
        io::ErrorKind::PermissionDenied => {
            "; choose a port above 1023 or run with the right to bind it"
        }
        io::ErrorKind::InvalidInput => {
            "; a Unix socket's path has at most 107 bytes: choose a shorter --state directory"
        }
        _ => "",
    }
}

/// A control plane that runs until it is stopped or dropped.
pub struct Running {
    plane: Arc<Plane>,
    listening: Listening,
    monitoring: Option<SocketAddr>,
    socket: PathBuf,
    changes: mpsc::Sender<Change>,
    sources: BTreeMap<String, JoinHandle<()>>,
    tasks: JoinSet<()>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Running {
    /// The handle that the API itself works with.
    pub fn plane(&self) -> &Arc<Plane> {
        &self.plane
    }

    /// Where xDS is served.
    pub fn listening(&self) -> Listening {
        self.listening
    }

    pub fn monitoring(&self) -> Option<SocketAddr> {
        self.monitoring
    }

    /// The API's Unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Replaces the list of sources; those that stay are not read again.
    pub async fn set_sources(&mut self, urls: &[String]) -> Result<(), StartError> {
        let wanted: BTreeSet<&String> = urls.iter().collect();
        let mut opened = Vec::new();
        for url in &wanted {
            if !self.sources.contains_key(*url) {
                opened.push(((*url).clone(), source::open(url)?));
            }
        }
        self.sources.retain(|url, task| {
            let keep = wanted.contains(url);
            if !keep {
                task.abort();
            }
            keep
        });
        for (url, source) in opened {
            self.sources.insert(url, source.watch(self.changes.clone()));
        }
        let names: BTreeSet<Arc<str>> = self
            .sources
            .keys()
            .map(|url| url.strip_prefix("file://").unwrap_or(url).into())
            .collect();
        let plane = self.plane.clone();
        tokio::task::spawn_blocking(move || plane.keep_sources(&names))
            .await
            .map_err(|_| StartError::Interrupted)??;
        Ok(())
    }

    /// Closes the sockets, lets requests in flight end, and returns when everything has stopped.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        for task in self.sources.values() {
            task.abort();
        }
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(GRACE, drained).await.is_err() {
            self.tasks.shutdown().await;
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in self.sources.values() {
            task.abort();
        }
    }
}

/// Opens the state, the CA and the sockets, and reads every source once before it returns: a proxy that connects at once sees the
/// whole configuration.
pub async fn start(options: Options) -> Result<Running, StartError> {
    if let Some(address) = options.xds
        && !address.ip().is_loopback()
    {
        return Err(StartError::NotLoopback(address));
    }
    let (directory, settings, lifetimes) = (
        options.state.clone(),
        options.settings.clone(),
        options.lifetimes,
    );
    let plane = tokio::task::spawn_blocking(move || -> Result<Plane, StartError> {
        let state = State::open(&directory)?;
        let ca = Ca::open(
            &state,
            &settings.trust_domain,
            &settings.root_namespace,
            lifetimes,
            SystemTime::now(),
        )?;
        Ok(Plane::open(state, ca, settings)?)
    })
    .await
    .map_err(|_| StartError::Interrupted)??;
    let plane = Arc::new(plane);
    let socket = options.state.join(SOCKET);
    let unix = bind_unix(&socket)?;
    let xds = bind("plain-text xDS", options.xds).await?;
    let xds_tls = bind("xDS over TLS", options.xds_tls).await?;
    let monitoring = bind("monitoring", options.monitoring).await?;
    let listening = Listening {
        xds: local(&xds),
        xds_tls: local(&xds_tls),
    };
    plane.set_listening(listening);
    let (changes, mut incoming) = mpsc::channel(16);
    let mut running = Running {
        plane: plane.clone(),
        listening,
        monitoring: local(&monitoring),
        socket,
        changes,
        sources: BTreeMap::new(),
        tasks: JoinSet::new(),
        stop: tokio::sync::watch::Sender::new(false),
    };
    running.set_sources(&options.sources).await?;
    // A source answers within a disk read; what it cannot read is an answer too.
    let mut answered = BTreeSet::new();
    while answered.len() < running.sources.len() {
        let Some(change) = incoming.recv().await else {
            break;
        };
        answered.insert(change.source().clone());
        apply(&plane, change).await;
    }
    let stopped = running.stop.subscribe();
    let tasks = &mut running.tasks;
    tasks.spawn(follow(plane.clone(), incoming, stopped.clone()));
    tasks.spawn(leases(plane.clone(), stopped.clone()));
    tasks.spawn(authority(plane.clone(), stopped.clone()));
    tasks.spawn(serve_unix(unix, api::admin(plane.clone()), stopped.clone()));
    if let Some(listener) = xds {
        tasks.spawn(serve_plain(
            listener,
            xds_routes(&plane, false),
            stopped.clone(),
        ));
    }
    if let Some(listener) = xds_tls {
        let routes = xds_routes(&plane, true).merge(api::join(plane.clone()));
        let server = tls_server(&plane)?;
        tasks.spawn(serve_tls(listener, server, routes, stopped.clone()));
    }
    if let Some(listener) = monitoring {
        tasks.spawn(serve_plain(listener, monitoring_routes(plane), stopped));
    }
    Ok(running)
}

fn local(listener: &Option<TcpListener>) -> Option<SocketAddr> {
    listener
        .as_ref()
        .and_then(|listener| listener.local_addr().ok())
}

async fn bind(
    what: &'static str,
    address: Option<SocketAddr>,
) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = address else {
        return Ok(None);
    };
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(cause) => Err(StartError::Listen {
            what,
            address: address.to_string(),
            cause,
        }),
    }
}

/// The state file's lock says that no other control plane lives here, so a socket that is there is a left-over.
fn bind_unix(path: &Path) -> Result<UnixListener, StartError> {
    let failed = |cause| StartError::Listen {
        what: "API",
        address: path.display().to_string(),
        cause,
    };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

fn tls_server(plane: &Arc<Plane>) -> Result<tls::Server, StartError> {
    let ca = plane.ca();
    tls::Server::new(ServerOptions {
        alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        // A stock Envoy offers TLS 1.2 unless it is told otherwise.
        versions: Versions::Tls12And13,
        ..ServerOptions::mesh_optional(ca.own().clone(), ca.trust().clone())
    })
    .map_err(|error| StartError::Tls(error.to_string()))
}

/// `secure`: on the TLS port, where streams prove who they are and certificates are signed.
fn xds_routes(plane: &Arc<Plane>, secure: bool) -> Router {
    let ads = xds::service(Arc::new(Ads {
        plane: plane.clone(),
        secure,
    }));
    let mut routes = Routes::new(ads);
    if secure {
        let issuing = Arc::new(Issuing(plane.clone()));
        routes = routes.add_service(certificate::Service::new(issuing));
    }
    routes
        .prepare()
        .into_axum_router()
        .fallback(|| async { StatusCode::NOT_FOUND })
}

type Stopped = tokio::sync::watch::Receiver<bool>;

/// Resolves when the control plane stops.
async fn ended(mut stopped: Stopped) {
    // An error means that `Running` is gone.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn apply(plane: &Arc<Plane>, change: Change) {
    let plane = plane.clone();
    let applied = tokio::task::spawn_blocking(move || plane.change(change)).await;
    if let Ok(Err(error)) = applied {
        tracing::error!(%error, "a change of configuration is not in force");
    }
}

async fn follow(plane: Arc<Plane>, mut incoming: mpsc::Receiver<Change>, stopped: Stopped) {
    let end = ended(stopped);
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => return,
            change = incoming.recv() => match change {
                Some(change) => apply(&plane, change).await,
                None => return,
            }
        }
    }
}

/// Ends leases in time.
async fn leases(plane: Arc<Plane>, stopped: Stopped) {
    const LONGEST: Duration = Duration::from_secs(1);
    let end = ended(stopped);
    tokio::pin!(end);
    loop {
        let at = plane.clone();
        let next = tokio::task::spawn_blocking(move || at.tick(Instant::now())).await;
        let wait = match next {
            Ok(Ok(Some(deadline))) => deadline
                .saturating_duration_since(Instant::now())
                .min(LONGEST),
            Ok(Ok(None)) => LONGEST,
            Ok(Err(error)) => {
                tracing::error!(%error, "cannot write down that a workload is gone");
                LONGEST
            }
            Err(_) => return,
        };
        tokio::select! {
            () = &mut end => return,
            () = tokio::time::sleep(wait.max(Duration::from_millis(20))) => {}
        }
    }
}

/// Rotates the CA's intermediate and the control plane's own certificate.
async fn authority(plane: Arc<Plane>, stopped: Stopped) {
    const LONGEST: Duration = Duration::from_secs(3600);
    const RETRY: Duration = Duration::from_secs(10);
    let end = ended(stopped);
    tokio::pin!(end);
    loop {
        let now = SystemTime::now();
        let due = plane
            .ca()
            .next_due(now)
            .duration_since(now)
            .unwrap_or_default();
        tokio::select! {
            () = &mut end => return,
            () = tokio::time::sleep(due.min(LONGEST)) => {}
        }
        let now = SystemTime::now();
        if plane.ca().next_due(now) > now {
            continue;
        }
        let at = plane.clone();
        let renewed = tokio::task::spawn_blocking(move || {
            at.ca().rotate(at.state(), now)?;
            at.ca().renew_own(now)
        });
        if let Ok(Err(error)) = renewed.await {
            tracing::error!(%error, "the certificate authority cannot renew itself");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// One connection, HTTP/1 or HTTP/2, until it ends or the control plane stops.
async fn connection<I>(io: I, routes: Router, stopped: Stopped)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = Builder::new(TokioExecutor::new());
    // A host that lost its power or its network closes nothing.
    let (interval, patience) = crate::registry::KEEPALIVE;
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(interval)
        .keep_alive_timeout(patience);
    let service = TowerToHyperService::new(routes);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
    tokio::pin!(serving);
    tokio::select! {
        result = serving.as_mut() => {
            if let Err(error) = result {
                tracing::debug!(%error, "connection ended");
            }
            return;
        }
        () = ended(stopped) => serving.as_mut().graceful_shutdown(),
    }
    // ADS streams do not end by themselves.
    let _ = timeout(GRACE / 2, serving).await;
}

async fn serve_unix(listener: UnixListener, routes: Router, stopped: Stopped) {
    let mut connections = JoinSet::new();
    let end = ended(stopped.clone());
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, routes.clone(), stopped.clone()));
                }
                Err(error) => hesitate(error).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn serve_plain(listener: TcpListener, routes: Router, stopped: Stopped) {
    let mut connections = JoinSet::new();
    let end = ended(stopped.clone());
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    connections.spawn(connection(stream, routes.clone(), stopped.clone()));
                }
                Err(error) => hesitate(error).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn serve_tls(listener: TcpListener, server: tls::Server, routes: Router, stopped: Stopped) {
    let mut connections = JoinSet::new();
    let end = ended(stopped.clone());
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let _ = stream.set_nodelay(true);
                    let (server, routes, stopped) = (server.clone(), routes.clone(), stopped.clone());
                    connections.spawn(async move {
                        let acceptor = TlsAcceptor::from(server.config().clone());
                        let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
                            Ok(Ok(stream)) => stream,
                            Ok(Err(error)) => {
                                tracing::info!(%peer, %error, "TLS handshake refused");
                                return;
                            }
                            Err(_) => return,
                        };
                        let identity = match server.peer(stream.get_ref().1, SystemTime::now()) {
                            Ok(peer) => peer.and_then(|peer| peer.spiffe().cloned()),
                            Err(rejection) => {
                                tracing::info!(%peer, reason = rejection.as_str(), "client certificate refused");
                                return;
                            }
                        };
                        let known = xds::Caller { peer: Some(peer), identity: identity.clone(), bearer: None };
                        let caller = Caller { identity, ..Caller::default() };
                        let routes = routes.layer(Extension(known)).layer(Extension(caller));
                        connection(stream, routes, stopped).await;
                    });
                }
                Err(error) => hesitate(error).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    while connections.join_next().await.is_some() {}
}

/// Out of descriptors: accepting again at once would only spin.
async fn hesitate(error: io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

fn monitoring_routes(plane: Arc<Plane>) -> Router {
    let ready = plane.clone();
    Router::new()
        .route(
            "/ready",
            get(move || async move {
                if ready.ca().is_ready(SystemTime::now()) {
                    (StatusCode::OK, "ready\n")
                } else {
                    (
                        StatusCode::SERVICE_UNAVAILABLE,
                        "the certificate authority cannot sign\n",
                    )
                }
            }),
        )
        .route(
            "/metrics",
            get(move || async move {
                let text = crate::status::metrics(&plane);
                ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
            }),
        )
}
