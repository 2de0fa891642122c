//! One function per parser: bytes that a stranger sent in, a panic out if a property does not hold. The suite feeds them a
//! corpus and seeded mutations of it (`crates/ripstop/tests/fuzz.rs`), cargo-fuzz whatever it finds (`fuzz/`).

use std::borrow::Cow;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ripstop_host::dns;
use ripstop_host::workload::{Addresses, HostResolver};
use ripstop_model::discovery::{Kind, Resource};
use ripstop_model::normalize;
use ripstop_model::seam::{Lookup, Names};
use ripstop_model::snapshot::Snapshot;
use ripstop_model::snapshot::http::{EscapedSlashes, PathOptions};
use ripstop_model::snapshot::listener::Terminal;
use ripstop_proxy::detect::{self, First};
use ripstop_proxy::headers::Headers;
use ripstop_proxy::http1::body::{Decoder, Encoder, Piece};
use ripstop_proxy::http1::{
    Asked, Framing, Limits, Progress, RequestParser, ResponseParser, Rules, accept, admit, write,
};
use ripstop_proxy::listener::proxy_protocol;
use ripstop_proxy::live::Live;
use ripstop_proxy::message::{RequestHead, ResponseHead};
use ripstop_proxy::tls::Secrets;
use ripstop_proxy::tls::hello::{self, Sniff};
use ripstop_proxy::{Options, Running};
use ripstop_telemetry::Registry;
use ripstop_wire::decode;
use ripstop_wire::resource;

pub(crate) type Target = fn(&[u8]);

/// Every target, by the name of its corpus folder.
pub(crate) const TARGETS: &[(&str, Target)] = &[
    ("http1_request", http1_request),
    ("http1_response", http1_response),
    ("chunked_body", chunked_body),
    ("path", path),
    ("tls_hello", tls_hello),
    ("detection", detection),
    ("proxy_protocol", proxy_protocol),
    ("dns", dns),
    ("xds", xds),
    ("downstream", downstream),
    ("upstream", upstream),
];

const LIMITS: Limits = Limits {
    max_head_bytes: 4096,
    max_headers: 20,
};

/// What a body decoder made of its input: data, trailers, and how much it took.
type Body = (Vec<u8>, Option<Headers>, usize);

/// `Ok(None)`: there is more to come.
fn body(framing: Framing, input: &[u8], step: usize) -> Result<Option<Body>, ()> {
    let mut decoder = Decoder::new(framing, LIMITS);
    let mut data = Vec::new();
    let mut at = 0;
    loop {
        let end = input.len().min(at + step);
        loop {
            let (used, piece) = decoder.next(&input[at..end]).map_err(drop)?;
            at += used;
            match piece {
                Piece::Data(piece) => data.extend_from_slice(piece),
                Piece::More => break,
                Piece::End => return Ok(Some((data, decoder.trailers(), at))),
            }
        }
        if at == input.len() {
            return Ok(None);
        }
    }
}

/// A whole request as it would be forwarded, and how much of the input it took. `Err(None)`: there is more to come.
fn forwarded(input: &[u8], step: usize) -> Result<(Vec<u8>, usize), Option<String>> {
    let mut parser = RequestParser::default();
    let mut head = RequestHead::default();
    let mut at = 0;
    loop {
        let end = input.len().min(at + step);
        let progress = parser.parse(&input[at..end], &mut head, &LIMITS);
        match progress.map_err(|error| Some(error.to_string()))? {
            Progress::Complete { consumed } => {
                at += consumed;
                break;
            }
            Progress::Partial if end == input.len() => return Err(None),
            Progress::Partial => at = end,
        }
    }
    let admitted = admit(&mut head, &Rules::default()).map_err(|error| Some(error.to_string()))?;
    let normal = head.normalize(&PATHS);
    normal.map_err(|error| Some(error.to_string()))?;
    let taken = body(admitted.framing, &input[at..], step).map_err(|()| Some("body".to_owned()))?;
    let (data, trailers, used) = taken.ok_or(None)?;
    let mut out = Vec::new();
    write::request(&head, admitted.framing, admitted.upgrade, &mut out);
    let mut encoder = Encoder::new(admitted.framing);
    encoder.data(&data, &mut out).expect("as long as announced");
    encoder
        .end(trailers.as_ref(), &mut out)
        .expect("as long as announced");
    // An HTTP/1.0 request without Host goes on with an empty one, which only its receiver can judge.
    if head.authority_sent().is_empty() {
        return Err(None);
    }
    Ok((out, at + used))
}

const PATHS: PathOptions = PathOptions {
    normalize: true,
    merge_slashes: true,
    escaped_slashes: EscapedSlashes::KeepUnchanged,
};

/// However a request is cut, it is the same; what is forwarded is accepted, taken whole, and stays as it is.
pub(crate) fn http1_request(data: &[u8]) {
    let Some((step, input)) = data.split_first() else {
        return;
    };
    let whole = forwarded(input, usize::MAX / 2);
    let pieces = forwarded(input, usize::from(*step).max(1));
    assert_eq!(whole, pieces);
    if let Ok((once, _)) = whole {
        let (twice, used) = forwarded(&once, usize::MAX / 2).expect("what is forwarded is right");
        assert_eq!(used, once.len());
        assert_eq!(text(&twice), text(&once));
    }
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// What a response is to a client, whatever was asked.
fn answered(input: &[u8], step: usize) -> Result<Option<Vec<u8>>, ()> {
    let mut parser = ResponseParser::default();
    let mut head = ResponseHead::default();
    let mut at = 0;
    loop {
        let end = input.len().min(at + step);
        match parser
            .parse(&input[at..end], &mut head, &LIMITS)
            .map_err(drop)?
        {
            Progress::Complete { consumed } => {
                at += consumed;
                break;
            }
            Progress::Partial if end == input.len() => return Ok(None),
            Progress::Partial => at = end,
        }
    }
    let accepted = accept(&mut head, Asked::default()).map_err(drop)?;
    let Some((data, trailers, _)) = body(accepted.framing, &input[at..], step)? else {
        return Ok(None);
    };
    let mut out = Vec::new();
    write::response(
        &head,
        accepted.framing,
        write::Connection::Persist,
        &mut out,
    );
    let mut encoder = Encoder::new(accepted.framing);
    encoder.data(&data, &mut out).expect("as long as announced");
    encoder
        .end(trailers.as_ref(), &mut out)
        .expect("as long as announced");
    Ok(Some(out))
}

pub(crate) fn http1_response(data: &[u8]) {
    let Some((step, input)) = data.split_first() else {
        return;
    };
    let whole = answered(input, usize::MAX / 2);
    assert_eq!(whole, answered(input, usize::from(*step).max(1)));
    if let Ok(Some(once)) = whole {
        let twice = answered(&once, usize::MAX / 2);
        assert_eq!(twice, Ok(Some(once)), "what is forwarded is right");
    }
}

pub(crate) fn chunked_body(data: &[u8]) {
    let Some((step, input)) = data.split_first() else {
        return;
    };
    let whole = body(Framing::Chunked, input, usize::MAX / 2);
    assert_eq!(
        whole,
        body(Framing::Chunked, input, usize::from(*step).max(1))
    );
}

/// A normal path is its own normal form and hides nothing; the reading of a generous application is stable too.
pub(crate) fn path(data: &[u8]) {
    let Ok(input) = std::str::from_utf8(data) else {
        return;
    };
    for escaped_slashes in [
        EscapedSlashes::KeepUnchanged,
        EscapedSlashes::Reject,
        EscapedSlashes::UnescapeAndForward,
    ] {
        let options = PathOptions {
            escaped_slashes,
            ..PATHS
        };
        let Ok(normalize::Path::Forward(normal)) = normalize::path(input, &options) else {
            continue;
        };
        assert!(
            normal.starts_with('/') && !normal.contains("//"),
            "{normal}"
        );
        assert!(!normal.contains('\\'), "{normal}");
        let dots = normal
            .split('/')
            .any(|segment| matches!(segment, "." | ".."));
        assert!(!dots, "{normal}");
        let again = normalize::path(&normal, &options);
        assert_eq!(again, Ok(normalize::Path::Forward(normal.as_ref().into())));
        assert!(normalize::application_reading(&normal).starts_with('/'));
    }
    if let Ok(authority) = normalize::authority(input, 80) {
        let again = normalize::authority(&authority, 80);
        assert_eq!(again.as_deref(), Ok(authority.as_ref()));
    }
}

/// A verdict stands whatever follows, or what is spoken would hang on how the bytes happened to arrive.
pub(crate) fn tls_hello(data: &[u8]) {
    let last = hello::sniff(data);
    for cut in cuts(data) {
        match hello::sniff(&data[..cut]) {
            Sniff::Partial => {}
            verdict => assert_eq!(verdict, last, "at {cut}"),
        }
    }
}

pub(crate) fn detection(data: &[u8]) {
    let last = detect::first(data);
    for cut in cuts(data) {
        match detect::first(&data[..cut]) {
            First::Partial => {}
            verdict => assert_eq!(verdict, last, "at {cut}"),
        }
    }
    let _ = detect::greeting(data);
}

/// What a proxy before this one says of its client is read to its end, and not a byte more: the client's own come next.
pub(crate) fn proxy_protocol(data: &[u8]) {
    let read = |mut rest: &[u8]| {
        let told = {
            let mut reading = std::pin::pin!(proxy_protocol::read(&mut rest));
            let mut context = Context::from_waker(Waker::noop());
            reading.as_mut().poll(&mut context)
        };
        let Poll::Ready(told) = told else {
            panic!("bytes in memory are there");
        };
        (told.map_err(|error| error.kind()), rest.len())
    };
    let (told, rest) = read(data);
    let header = data.len() - rest;
    if told.is_ok() {
        assert_eq!(read(&data[..header]), (told, 0));
    }
    for cut in cuts(data).filter(|cut| *cut < header) {
        assert_eq!(
            read(&data[..cut]).0,
            Err(ErrorKind::UnexpectedEof),
            "at {cut}"
        );
    }
}

/// Some places to cut; all of them where that costs little.
fn cuts(data: &[u8]) -> impl Iterator<Item = usize> {
    (1..data.len()).step_by(1 + data.len() / 256)
}

/// Nothing in a spawned task or on a worker's thread may panic; who feeds it would not hear of it otherwise.
static PANICKED: AtomicBool = AtomicBool::new(false);

fn listen_for_panics() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // A target's own verdict is its thread's, and told by it.
            let thread = std::thread::current();
            let name = thread.name().unwrap_or_default();
            let own = name == "main" || TARGETS.iter().any(|(target, _)| *target == name);
            PANICKED.fetch_or(!own, Ordering::SeqCst);
            before(panic);
        }));
    });
}

#[track_caller]
fn nobody_panicked() {
    assert!(!PANICKED.load(Ordering::SeqCst), "something panicked");
}

/// Nobody's names.
struct Nobody;

impl Names for Nobody {
    async fn lookup(&self, _name: &str) -> Lookup {
        Lookup::Unavailable
    }
}

/// The resolver of a workload, on loopback, and a client of it.
fn resolver() -> &'static Mutex<(UdpSocket, SocketAddr)> {
    static RESOLVER: OnceLock<Mutex<(UdpSocket, SocketAddr)>> = OnceLock::new();
    RESOLVER.get_or_init(|| {
        listen_for_panics();
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port on loopback");
        socket.set_nonblocking(true).expect("a socket");
        let address = socket.local_addr().expect("a bound socket");
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let sockets = dns::Sockets {
                    datagrams: vec![socket],
                    streams: Vec::new(),
                };
                let zone = dns::Zone {
                    addresses: Addresses {
                        v4: Some(Ipv4Addr::new(10, 88, 0, 1)),
                        v6: None,
                    },
                    host_ports: true,
                    resolver: HostResolver {
                        nameservers: Vec::new(),
                        search: Vec::new(),
                        hostname: "fuzz".to_owned(),
                    },
                    mesh: Vec::new(),
                };
                dns::serve_with(sockets, zone, Arc::new(Nobody), Vec::new()).expect("a resolver");
                std::future::pending::<()>().await;
            });
        });
        let client = UdpSocket::bind("127.0.0.1:0").expect("a free port on loopback");
        let patience = Some(Duration::from_secs(20));
        client.set_read_timeout(patience).expect("a socket");
        Mutex::new((client, address))
    })
}

/// `localhost IN A`, which is answered at once.
const KNOWN: &[u8] =
    b"\xab\xcd\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x09localhost\x00\x00\x01\x00\x01";

/// Whatever is asked, the next question is answered.
pub(crate) fn dns(data: &[u8]) {
    let resolver = resolver().lock().unwrap_or_else(PoisonError::into_inner);
    let (client, address) = &*resolver;
    client.send_to(data, address).expect("loopback");
    client.send_to(KNOWN, address).expect("loopback");
    let mut answer = [0; 4096];
    loop {
        let (length, _) = client
            .recv_from(&mut answer)
            .expect("an answer to what is known");
        if length >= 12 && answer[..2] == KNOWN[..2] && answer[7] == 1 {
            break;
        }
    }
    nobody_panicked();
}

/// A resource from a control plane: decoded, written again the same, applied beside what runs. The first byte is its kind.
pub(crate) fn xds(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    let kind = Kind::ALL[usize::from(*kind) % Kind::ALL.len()];
    let Ok(decoded) = decode::resource(kind, bytes) else {
        return;
    };
    let written = resource::encode(&decoded.value).bytes;
    let again = decode::resource(kind, &written).expect("what was written is right");
    assert_eq!(resource::encode(&again.value).bytes, written);
    let mut snapshot = Snapshot::default();
    match decoded.value {
        Resource::Cluster(cluster) => drop(snapshot.clusters.insert(cluster.name.clone(), cluster)),
        Resource::Route(route) => drop(snapshot.routes.insert(route.name.clone(), route)),
        Resource::Endpoints(endpoints) => {
            drop(snapshot.endpoints.insert(endpoints.name.clone(), endpoints));
        }
        Resource::Listener(mut listener) => {
            // No sockets and no files.
            let inner = Arc::make_mut(&mut listener);
            inner.bind = false;
            inner.access_logs.clear();
            for chain in inner.chains.iter_mut().chain(&mut inner.default_chain) {
                match &mut Arc::make_mut(chain).terminal {
                    Terminal::Http(proxy) => Arc::make_mut(proxy).access_logs.clear(),
                    Terminal::Tcp(proxy) => Arc::make_mut(proxy).access_logs.clear(),
                }
            }
            drop(snapshot.listeners.insert(listener.name.clone(), listener));
        }
        Resource::Ranges(_) | Resource::Host(_) | Resource::Secret(_) => return,
    }
    let registry = Registry::new(Default::default());
    let live = Live::new(1, Default::default(), registry, Secrets::default());
    live.apply(Arc::new(snapshot));
    assert_eq!(live.version(), 1);
}

/// A proxy on loopback: `/` is answered by itself, `/up/` by whoever listens on that port, over the version its name says.
fn proxy(up: u16) -> Running {
    listen_for_panics();
    let cluster = |name: &str, protocol: &str| {
        format!(
            r#"
  - name: {name}
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{{protocol}: {{}}}}
    load_assignment:
      cluster_name: {name}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {up}}}}}}}}}]}}]"#
        )
    };
    let clusters = [
        cluster("h1", "http_protocol_options"),
        cluster("h2", "http2_protocol_options"),
    ]
    .concat();
    let text = format!(
        r#"
static_resources:
  listeners:
  - name: l
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: l
          http_filters:
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{prefix: /h1}}
                route: {{cluster: h1, timeout: 1s}}
              - match: {{prefix: /h2}}
                route: {{cluster: h2, timeout: 1s}}
              - match: {{prefix: /}}
                direct_response: {{status: 200, body: {{inline_string: fine}}}}
  clusters:{clusters}
"#
    );
    let parsed = ripstop_wire::bootstrap::parse(&text).unwrap_or_else(|error| panic!("{error}"));
    ripstop_proxy::run(Options {
        workers: 1,
        snapshot: Arc::new(parsed.snapshot()),
        demand: None,
        sidecar: None,
        node: "fuzz".into(),
        registry: Registry::new(Default::default()),
        spans: None,
        workload: None,
        identity: None,
        secrets: Vec::new(),
        drain_time: Duration::ZERO,
        most: ripstop_proxy::admission::Most::UNLIMITED,
    })
    .expect("threads")
}

/// Sends bytes to a proxy that tells versions apart itself, and reads until it closes.
fn converse(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("a proxy that serves");
    let patience = Some(Duration::from_secs(20));
    stream.set_read_timeout(patience).expect("a socket");
    // A proxy that has seen enough reads no more.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        let silent = std::io::ErrorKind::WouldBlock;
        assert_ne!(
            error.kind(),
            silent,
            "the connection neither answers nor ends"
        );
    }
    answer
}

/// A connection to a proxy, from its first byte: the HTTP/1 and HTTP/2 servers, with HPACK, behind detection by preface.
pub(crate) fn downstream(data: &[u8]) {
    static PROXY: OnceLock<SocketAddr> = OnceLock::new();
    let address = PROXY.get_or_init(|| {
        let running = proxy(9);
        let address = running.address("l").expect("bound");
        // It serves as long as the process lives.
        std::mem::forget(running);
        address
    });
    converse(*address, data);
    let fine = converse(
        *address,
        b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    );
    assert!(fine.ends_with(b"fine"), "{}", text(&fine));
    nobody_panicked();
}

/// What an upstream says: the HTTP/1 and HTTP/2 clients. The first byte tells which is asked.
pub(crate) fn upstream(data: &[u8]) {
    static PROXY: OnceLock<(SocketAddr, Arc<Mutex<Vec<u8>>>)> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    let Some((version, said)) = data.split_first() else {
        return;
    };
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (address, script) = PROXY.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let port = listener.local_addr().expect("a bound socket").port();
        let script: Arc<Mutex<Vec<u8>>> = Arc::default();
        let says = script.clone();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let said = says.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(&said);
                let _ = stream.shutdown(Shutdown::Write);
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            }
        });
        let running = proxy(port);
        let address = running.address("l").expect("bound");
        std::mem::forget(running);
        (address, script)
    });
    *script.lock().unwrap_or_else(PoisonError::into_inner) = said.to_vec();
    let path = if version % 2 == 0 { "/h1" } else { "/h2" };
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    converse(*address, request.as_bytes());
    let fine = converse(
        *address,
        b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    );
    assert!(fine.ends_with(b"fine"), "{}", text(&fine));
    nobody_panicked();
}
