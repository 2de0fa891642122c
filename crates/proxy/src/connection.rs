//! An accepted connection in → its listener, its chain, and the protocol that serves it.
//!
//! The order: original destination (which listener), first bytes (which protocol), chain, TLS, what the chain ends in.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ripstop_identity::alpn::{self, Carried};
use ripstop_model::authz::{Caller, Verdict};
use ripstop_model::reason::Reason;
use ripstop_model::snapshot::Name;
use ripstop_model::snapshot::http::Codec;
use ripstop_model::snapshot::listener::{Direction, Terminal, TransportProtocol};
use tokio::net::TcpStream;

use crate::admission::Place;
use crate::detect::probe::Decision;
use crate::downstream;
use crate::http2;
use crate::listener::{self, chain, proxy_protocol};
use crate::live::{Chain, Listener, Tables};
use crate::message::Scheme;
use crate::refusal::{self, Refusal};
use crate::stream::Stream;
use crate::worker::{Registration, Worker};
use crate::{detect, tcp};

/// What is known of a downstream connection; every request on it refers to it.
pub struct Connection {
    /// Counts the process's connections.
    pub id: u64,
    pub opened: tokio::time::Instant,
    /// 0 to 1, by chance: see [`Connection::end`].
    pub(crate) chance: f64,
    pub worker: Rc<Worker>,
    pub listener: Name,
    pub chain: RefCell<Arc<Chain>>,
    /// The version of the tables that `chain` is from.
    pub(crate) version: Cell<u64>,
    pub direction: Direction,
    /// Bytes of a request's body that may be kept (`per_connection_buffer_limit_bytes`).
    pub buffer_limit: u32,
    /// The peer of the socket.
    pub peer: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    /// Where it wanted to go: the original destination, or `local`.
    pub destination: SocketAddr,
    /// The listener asks where that was; where it does not, a client wanted what it connected to.
    pub asks: bool,
    pub tls: Option<TlsFacts>,
    /// Judged again when policies change.
    pub caller: Caller,
    /// Every request is answered with this: the connection leads nowhere.
    pub refusal: Option<Refusal>,
    /// The application noted a cause for what it sends here.
    pub(crate) caused: Cell<bool>,
    pub(crate) registration: RefCell<Option<Registration>>,
}

impl Connection {
    /// When one that may live for `most` ends: 10 % earlier or later, so that the connections of a moment do not all end
    /// together (R32.1).
    pub(crate) fn end(&self, most: Duration) -> tokio::time::Instant {
        self.opened + most.mul_f64(0.9 + 0.2 * self.chance)
    }
}

impl Drop for Connection {
    /// Whoever serves a connection owns its stream behind this, so the socket is still open here.
    fn drop(&mut self) {
        if self.caused.get()
            && let Some(attributor) = &self.worker.shared.attributor
        {
            attributor.forget(self);
        }
    }
}

/// What TLS told of a connection that the proxy terminated.
#[derive(Debug, Clone, Default)]
pub struct TlsFacts {
    pub server_name: Arc<str>,
    pub alpn: Option<Arc<str>>,
    /// Names of the verified certificate, URI SANs first; `None`: no certificate.
    pub principals: Option<Arc<[String]>>,
    /// Of the verified certificate.
    pub dns_names: Arc<[String]>,
    /// The peer's leaf and chain, DER, for `x-forwarded-client-cert`.
    pub certificates: Arc<[Vec<u8>]>,
    /// Of the leaf, lower-case hex.
    pub leaf_sha256: Option<Arc<str>>,
    pub subject: Option<Arc<str>>,
    pub version: &'static str,
    /// The URI in the certificate that the peer was shown.
    pub own: Option<Arc<str>>,
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

impl Hello {
    /// Plain HTTP, as `http_inspector` tells it.
    pub(crate) fn of_http(protocol: &str) -> Hello {
        Hello {
            tls: false,
            server_name: None,
            alpn: vec![protocol.to_owned()],
        }
    }
}

impl Connection {
    /// Where clusters that pass connections on send this one: to its own listener it would come back for ever.
    pub fn original(&self) -> Option<SocketAddr> {
        (self.asks || self.destination != self.local).then_some(self.destination)
    }

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

    /// Whether it is to end when the process drains. What a sidecar's application asks of others goes on until the
    /// application has exited (R4.2).
    pub fn drains(&self) -> bool {
        self.worker.shared.sockets.is_none() || self.direction != Direction::Outbound
    }

    pub fn is_draining(&self) -> bool {
        self.worker.shared.drain.phase().is_draining() && self.drains()
    }

    /// Whether the connection's listener was removed: it then ends as soon as it is idle.
    pub fn is_orphaned(&self, view: &Tables) -> bool {
        !view.listeners.contains_key(&self.listener)
    }

    /// Still allowed by the network-level policies that run now.
    pub fn is_allowed(&self, view: &Tables) -> bool {
        self.denied(view).is_none()
    }

    /// Why the network-level policies that run now deny it, if they do.
    pub fn denied(&self, view: &Tables) -> Option<Refusal> {
        match self.chain(view).judge.judge(&self.caller, None) {
            Verdict::Allowed => None,
            Verdict::Denied { reason, policy } => Some(Refusal {
                reason,
                resource: policy.and_then(|policy| policy.resource.clone()),
                cause: None,
            }),
        }
    }
}

/// An accepted connection whose chain is not known yet.
struct Arrival {
    opened: tokio::time::Instant,
    worker: Rc<Worker>,
    listener: Arc<Listener>,
    /// The client, also where another proxy speaks for it.
    peer: SocketAddr,
    /// The other end of the connection.
    direct: IpAddr,
    local: SocketAddr,
    destination: SocketAddr,
    asks: bool,
}

/// How long a PROXY header may take where the listener sets no limit.
const PREAMBLE: Duration = Duration::from_secs(15);

/// Serves one connection to its end.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    name: Name,
    mut stream: TcpStream,
    mut peer: SocketAddr,
    _place: Place,
) {
    let opened = tokio::time::Instant::now();
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
    // Peers meet on transport addresses (decisions.md, 1); what the client wanted is this workload.
    let own = worker.shared.addresses.iter();
    let own = own
        .filter(|_| config.direction == Direction::Inbound)
        .find(|ip| ip.is_ipv4() == local.is_ipv4());
    let reached = own.map_or(local, |ip| SocketAddr::new(*ip, local.port()));
    let mut destination = original.unwrap_or(reached);
    let direct = peer.ip();
    if config.inspect.proxy_protocol {
        let limit = config.inspect.timeout.unwrap_or(PREAMBLE);
        let told = tokio::time::timeout(limit, proxy_protocol::read(&mut stream)).await;
        match told {
            Ok(Ok(Some(told))) => (peer, destination) = (told.source, told.destination),
            Ok(Ok(None)) => {}
            // Whoever may speak for others has to say so first: nothing can be said in return.
            Ok(Err(_)) | Err(_) => return,
        }
    }
    let asks = config.inspect.original_dst || config.use_original_dst;
    let told = refusal::Told {
        opened,
        peer,
        local,
        destination,
    };
    let listener = if config.use_original_dst {
        if original.is_none_or(|original| original == local) {
            // Dialled at the capturing socket itself: passing it on would dial it again.
            let reason = Refusal::from(Reason::ListenerNotFound);
            return refusal::close(&worker, &accepting, &told, &reason);
        }
        match handover(&worker, &accepting, destination).await {
            Ok(listener) => listener,
            Err(reason) => {
                drop(view);
                let resource = accepting.config.resource.clone();
                let refusal = Refusal {
                    resource: resource.filter(|_| reason == Reason::NotRegistered),
                    ..Refusal::from(reason)
                };
                return refusal::serve(worker, &accepting, stream, told, refusal).await;
            }
        }
    } else {
        accepting
    };
    drop(view);
    let stats = Arc::clone(&listener);
    let _active = stats.stats.connection();
    let arrival = Arrival {
        opened,
        worker,
        listener,
        peer,
        direct,
        local,
        destination,
        asks,
    };
    arrival.serve(stream).await;
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
            crate::Answer::Outside if accepting.leads_nowhere() => {
                return Err(Reason::NotRegistered);
            }
            crate::Answer::Outside => {}
            crate::Answer::Unknown => return Err(Reason::ServiceUnknown),
            crate::Answer::TimedOut => return Err(Reason::DiscoveryTimeout),
        }
    }
    Ok(accepting.clone())
}

impl Arrival {
    /// Closed without an answer.
    fn close(&self, refusal: &Refusal) {
        let told = refusal::Told {
            opened: self.opened,
            peer: self.peer,
            local: self.local,
            destination: self.destination,
        };
        refusal::close(&self.worker, &self.listener, &told, refusal);
    }

    /// Finds out what is spoken where nobody declared it, then serves.
    async fn serve(self, stream: TcpStream) {
        let mut inspect = self.listener.config.inspect.clone();
        if !inspect.tls && !inspect.http {
            return self.open(stream, Hello::default()).await;
        }
        let opaque = self.as_opaque().await;
        if let Some(limit) = self.listener.handshake_limit() {
            // Nobody serves a client that stays silent, and nobody hears of it.
            inspect.timeout = inspect.timeout.or(Some(limit));
            inspect.continue_on_timeout = true;
        }
        let secured = self.listener.chains.iter().any(|chain| chain.tls.is_some());
        let place = detect::Place {
            destination: self.destination,
            caller: secured.then_some(self.peer.ip()),
        };
        let tunnels = || self.serves_tunnels();
        let decision =
            detect::probe::decide(&self.worker, &inspect, &stream, place, opaque, tunnels);
        match decision.await {
            Decision::Choose(hello) => self.open(stream, hello).await,
            Decision::Opaque(opened) => tcp::serve_opened(Stream::Tcp(stream), opened).await,
            Decision::Gone => {}
        }
    }

    /// The connection as the chain for opaque plain bytes would serve it, if there is one and it allows it.
    async fn as_opaque(&self) -> Option<Rc<Connection>> {
        let chain = self.chain(&Hello::default())?;
        if chain.tls.is_some() || chain.tcp.is_none() {
            return None;
        }
        let connection = self.connection(chain.clone(), None, &Hello::default());
        register(&connection).await;
        let allowed = chain.judge.judge(&connection.caller, None).is_allowed();
        allowed.then_some(connection)
    }

    /// Whether plain HTTP/1 here may be CONNECT.
    fn serves_tunnels(&self) -> bool {
        let chain = self.chain(&Hello::of_http("http/1.1"));
        let http = chain.as_ref().and_then(|chain| chain.http.as_ref());
        http.is_some_and(|http| http.serves_tunnels(&self.worker.view()))
    }

    fn chain(&self, hello: &Hello) -> Option<Arc<Chain>> {
        let alpn: Vec<&str> = hello.alpn.iter().map(String::as_str).collect();
        let facts = chain::Facts {
            destination: self.destination,
            source: self.peer,
            direct_source: self.direct,
            server_name: hello.server_name.as_deref().unwrap_or_default(),
            transport: match hello.tls {
                true => TransportProtocol::Tls,
                false => TransportProtocol::RawBuffer,
            },
            alpn: &alpn,
        };
        chain::find(&self.listener, &facts).cloned()
    }

    fn connection(
        &self,
        chain: Arc<Chain>,
        tls: Option<TlsFacts>,
        hello: &Hello,
    ) -> Rc<Connection> {
        let caller = Caller {
            principals: tls.as_ref().and_then(|tls| tls.principals.clone()),
            direct_ip: self.direct,
            remote_ip: self.peer.ip(),
            destination: self.destination,
            sni: tls
                .as_ref()
                .map(|tls| tls.server_name.clone())
                .or_else(|| hello.server_name.as_deref().map(Arc::from))
                .unwrap_or_else(|| Arc::from("")),
        };
        Rc::new(Connection {
            id: self.worker.shared.counters.accepted(),
            opened: tokio::time::Instant::now(),
            chance: self.worker.chance(),
            listener: self.listener.config.name.clone(),
            version: Cell::new(self.worker.view().version),
            direction: self.listener.config.direction,
            buffer_limit: self.listener.config.buffer_limit,
            chain: RefCell::new(chain),
            peer: self.peer,
            local: self.local,
            destination: self.destination,
            asks: self.asks,
            tls,
            caller,
            refusal: None,
            caused: Cell::new(false),
            registration: RefCell::new(None),
            worker: self.worker.clone(),
        })
    }

    /// Chooses the chain, terminates TLS and hands the stream to what the chain ends in.
    async fn open(self, stream: TcpStream, hello: Hello) {
        let listener = &self.listener;
        let Some(chain) = self.chain(&hello) else {
            listener.stats.no_chain.inc();
            let only_tls = listener.handshake_limit().is_some();
            let refusal = match !hello.tls && only_tls {
                true => Refusal {
                    resource: listener.config.resource.clone(),
                    ..Refusal::from(Reason::MtlsRequired)
                },
                false => Refusal::from(Reason::ListenerNotFound),
            };
            return self.close(&refusal);
        };
        let (stream, tls) = match &chain.tls {
            None => (Stream::Tcp(stream), None),
            Some(terminator) => match terminator.accept(stream).await {
                Ok((stream, facts)) => (stream, Some(facts)),
                Err(error) => {
                    listener.stats.handshake_failed(error.kind);
                    return self.close(&Refusal {
                        cause: error.source.map(|cause| cause.to_string()),
                        ..Refusal::from(error.kind)
                    });
                }
            },
        };
        let connection = self.connection(chain.clone(), tls, &hello);
        register(&connection).await;
        let denied = connection.denied(&connection.worker.view());
        if let Some(refusal) = denied {
            return match &chain.tcp {
                Some(_) => tcp::refuse(&connection, &refusal),
                None => self.close(&refusal),
            };
        }
        let http = chain.http.as_ref();
        let _active = http.map(|http| http.stats.connection(connection.tls.is_some()));
        match &chain.config.terminal {
            Terminal::Http(proxy) => match http_version(proxy.codec, &connection) {
                Codec::Http2 => http2::server::serve(connection, stream, Vec::new()).await,
                Codec::Http1 => downstream::serve(connection, stream).await,
                Codec::Auto => downstream::serve_either(connection, stream).await,
            },
            Terminal::Tcp(_) => tcp::serve(&connection, stream).await,
        }
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
        let registration = connection.worker.register(cx.waker(), connection.drains());
        connection.registration.replace(Some(registration));
        std::task::Poll::Ready(())
    })
    .await;
}
