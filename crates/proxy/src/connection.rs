//! An accepted connection in → its listener, its chain, and the protocol that serves it.
//!
//! The order: original destination (which listener), first bytes (which protocol), chain, TLS, what the chain ends in.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use ripstop_identity::alpn::{self, Carried};
use ripstop_model::authz::Caller;
use ripstop_model::reason::Reason;
use ripstop_model::snapshot::Name;
use ripstop_model::snapshot::http::Codec;
use ripstop_model::snapshot::listener::{Direction, Terminal, TransportProtocol};
use tokio::net::TcpStream;

use crate::downstream;
use crate::http2;
use crate::listener::{self, chain};
use crate::live::{Chain, Listener, Tables};
use crate::message::Scheme;
use crate::refusal;
use crate::stream::Stream;
use crate::worker::{Registration, Worker};

/// What is known of a downstream connection; every request on it refers to it.
pub struct Connection {
    /// Counts the process's connections.
    pub id: u64,
    pub opened: tokio::time::Instant,
    pub worker: Rc<Worker>,
    pub listener: Name,
    pub chain: RefCell<Arc<Chain>>,
    /// The version of the tables that `chain` is from.
    pub(crate) version: Cell<u64>,
    pub direction: Direction,
    /// The peer of the socket.
    pub peer: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    /// Where it wanted to go: the original destination, or `local`.
    pub destination: SocketAddr,
    pub tls: Option<TlsFacts>,
    /// Judged again when policies change.
    pub caller: Caller,
    /// Every request is answered with this: the connection leads nowhere.
    pub refusal: Option<Reason>,
    pub(crate) registration: RefCell<Option<Registration>>,
}

/// What TLS told of a connection that the proxy terminated.
#[derive(Debug, Clone, Default)]
pub struct TlsFacts {
    pub server_name: Arc<str>,
    pub alpn: Option<Arc<str>>,
    /// Names of the verified certificate, URI SANs first; `None`: no certificate.
    pub principals: Option<Arc<[String]>>,
    /// The peer's leaf and chain, DER, for `x-forwarded-client-cert`.
    pub certificates: Arc<[Vec<u8>]>,
    /// Of the leaf, lower-case hex.
    pub leaf_sha256: Option<Arc<str>>,
    pub subject: Option<Arc<str>>,
    pub version: &'static str,
}

/// What the first bytes told before a chain was chosen.
#[derive(Debug, Clone, Default)]
pub struct Hello {
    /// The bytes are a TLS ClientHello.
    pub tls: bool,
    /// Lower case.
    pub server_name: Option<String>,
    /// Offered in the ClientHello, or found by HTTP detection (`http/1.1`, `h2c`).
    pub alpn: Vec<String>,
}

impl Connection {
    /// The chain that serves the next request: the running configuration's version of the one the connection came in by.
    /// A connection whose chain is gone keeps the one it has.
    pub fn chain(&self, view: &Tables) -> Arc<Chain> {
        if self.version.get() != view.version {
            self.version.set(view.version);
            let name = self.chain.borrow().config.name.clone();
            let fresh = view
                .listeners
                .get(&self.listener)
                .and_then(|listener| listener.chain(&name));
            if let Some(fresh) = fresh {
                self.chain.replace(fresh.clone());
            }
        }
        self.chain.borrow().clone()
    }

    /// The scheme that requests on this connection have.
    pub fn scheme(&self) -> Scheme {
        match self.tls {
            Some(_) => Scheme::Https,
            None => Scheme::Http,
        }
    }

    pub fn is_draining(&self) -> bool {
        self.worker.shared.drain.phase().is_draining()
    }

    /// Whether the connection's listener was removed: it then ends as soon as it is idle.
    pub fn is_orphaned(&self, view: &Tables) -> bool {
        !view.listeners.contains_key(&self.listener)
    }

    /// Still allowed by the network-level policies that run now.
    pub fn is_allowed(&self, view: &Tables) -> bool {
        self.chain(view)
            .judge
            .judge(&self.caller, None)
            .is_allowed()
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, name: Name, stream: TcpStream, peer: SocketAddr) {
    let view = worker.view();
    let Some(accepting) = view.listeners.get(&name).cloned() else {
        return;
    };
    let Ok(local) = stream.local_addr().map(listener::canonical) else {
        return;
    };
    let config = &accepting.config;
    let original = (config.inspect.original_dst || config.use_original_dst)
        .then(|| listener::original_destination(&stream))
        .flatten()
        .map(listener::canonical);
    let destination = original.unwrap_or(local);
    let handed = if config.use_original_dst && original.is_some() {
        match handover(&worker, &accepting, destination).await {
            Ok(listener) => listener,
            Err(reason) => {
                drop(view);
                let told = refusal::Told {
                    peer,
                    local,
                    destination,
                    reason,
                };
                return refusal::serve(worker, &accepting, stream, told).await;
            }
        }
    } else {
        accepting
    };
    drop(view);
    let _active = handed.stats.connection();
    let hello = Hello::default();
    open(worker, handed, stream, peer, local, destination, hello).await;
}

/// The listener that serves an original destination: bound to it, to its port on the wildcard, or the accepting one. An
/// address of the mesh that nobody serves is refused with a reason of its own.
async fn handover(
    worker: &Rc<Worker>,
    accepting: &Arc<Listener>,
    destination: SocketAddr,
) -> Result<Arc<Listener>, Reason> {
    let find = |view: &Tables| {
        view.by_address.get(&destination).cloned().or_else(|| {
            let wildcard = match destination {
                SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], destination.port())),
                SocketAddr::V6(_) => SocketAddr::from(([0u16; 8], destination.port())),
            };
            view.by_address.get(&wildcard).cloned()
        })
    };
    if let Some(found) = find(&worker.view()) {
        return Ok(found);
    }
    if let Some(demand) = &worker.shared.demand {
        match demand.listener(destination).await {
            crate::Answer::Ready => {
                return find(&worker.view()).ok_or(Reason::ServiceUnknown);
            }
            crate::Answer::Outside => {}
            crate::Answer::Unknown => return Err(Reason::ServiceUnknown),
            crate::Answer::TimedOut => return Err(Reason::DiscoveryTimeout),
        }
    }
    Ok(accepting.clone())
}

/// Chooses the chain, terminates TLS and hands the stream to what the chain ends in.
async fn open(
    worker: Rc<Worker>,
    listener: Arc<Listener>,
    stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    destination: SocketAddr,
    hello: Hello,
) {
    let alpn: Vec<&str> = hello.alpn.iter().map(String::as_str).collect();
    let facts = chain::Facts {
        destination,
        source: peer,
        direct_source: peer.ip(),
        server_name: hello.server_name.as_deref().unwrap_or_default(),
        transport: match hello.tls {
            true => TransportProtocol::Tls,
            false => TransportProtocol::RawBuffer,
        },
        alpn: &alpn,
    };
    let Some(chain) = chain::find(&listener, &facts).cloned() else {
        listener.stats.no_chain.inc();
        refuse(&listener, peer, Reason::ListenerNotFound);
        return;
    };
    let (stream, tls) = match &chain.tls {
        None => (Stream::Tcp(stream), None),
        Some(terminator) => match terminator.accept(stream).await {
            Ok((stream, facts)) => (stream, Some(facts)),
            Err(error) => {
                tracing::debug!(listener = %listener.config.name, %peer, %error, "TLS refused");
                refuse(&listener, peer, error.kind);
                return;
            }
        },
    };
    let caller = Caller {
        principals: tls.as_ref().and_then(|tls| tls.principals.clone()),
        direct_ip: peer.ip(),
        remote_ip: peer.ip(),
        destination,
        sni: tls
            .as_ref()
            .map(|tls| tls.server_name.clone())
            .or_else(|| hello.server_name.as_deref().map(Arc::from))
            .unwrap_or_else(|| Arc::from("")),
    };
    let connection = Rc::new(Connection {
        id: worker.shared.counters.accepted(),
        opened: tokio::time::Instant::now(),
        listener: listener.config.name.clone(),
        version: Cell::new(worker.view().version),
        direction: listener.config.direction,
        chain: RefCell::new(chain.clone()),
        peer,
        local,
        destination,
        tls,
        caller,
        refusal: None,
        registration: RefCell::new(None),
        worker,
    });
    register(&connection).await;
    if !chain.judge.judge(&connection.caller, None).is_allowed() {
        refuse(&listener, peer, Reason::AuthzDenied);
        return;
    }
    let http = chain.http.as_ref();
    let _active = http.map(|http| http.stats.connection(connection.tls.is_some()));
    match &chain.config.terminal {
        Terminal::Http(proxy) => match http_version(proxy.codec, &connection) {
            Codec::Http2 => http2::server::serve(connection, stream, Vec::new()).await,
            Codec::Http1 => downstream::serve(connection, stream).await,
            Codec::Auto => downstream::serve_either(connection, stream).await,
        },
        Terminal::Tcp(_) => refuse(&listener, peer, Reason::UnsupportedVersion),
    }
}

/// The version of HTTP that a connection must speak; [`Codec::Auto`]: as its first bytes say. What was agreed by ALPN
/// holds.
fn http_version(codec: Codec, connection: &Connection) -> Codec {
    let token = connection.tls.as_ref().and_then(|tls| tls.alpn.as_deref());
    match (
        codec,
        token.and_then(|token| alpn::carried(token.as_bytes())),
    ) {
        (Codec::Auto, Some(Carried::Http1)) => Codec::Http1,
        (Codec::Auto, Some(Carried::Http2)) => Codec::Http2,
        (codec, _) => codec,
    }
}

pub(crate) async fn register(connection: &Rc<Connection>) {
    std::future::poll_fn(|cx| {
        let registration = connection.worker.register(cx.waker());
        connection.registration.replace(Some(registration));
        std::task::Poll::Ready(())
    })
    .await;
}

fn refuse(listener: &Listener, peer: SocketAddr, reason: Reason) {
    tracing::debug!(listener = %listener.config.name, %peer, %reason, "connection refused");
}
