//! What the integration tests share: bootstraps, proxies in this process, an HTTP/2 server, a mesh's authority.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use ripstop_identity::ca::Lifetimes;
use ripstop_identity::{Authority, Key, Slot, Trust};
use ripstop_model::snapshot::Snapshot;
use ripstop_model::snapshot::http::HttpProxy;
use ripstop_model::snapshot::listener::Terminal;
use ripstop_proxy::{Identity, Options, Running, stats};
use ripstop_telemetry::Registry;
use ripstop_testkit::frames::{self, flag, kind};
use ripstop_testkit::http::Client;
use ripstop_testkit::upstream::Upstream;
use ripstop_testkit::wait;

/// A listener `l` whose table is `routes` (YAML, indented by twelve), and clusters on the given ports.
pub(crate) fn bootstrap(hcm: &str, routes: &str, clusters: &[(&str, &[u16], &str)]) -> String {
    let filters = format!(
        r#"    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: l
{hcm}
          http_filters:
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            name: r
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
{routes}
"#
    );
    with_listener(&filters, clusters)
}

/// As [`bootstrap`], with everything of the listener but its name and address.
pub(crate) fn with_listener(listener: &str, clusters: &[(&str, &[u16], &str)]) -> String {
    let mut text = format!(
        "static_resources:\n  listeners:\n  - name: l\n    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}\n{listener}  clusters:\n"
    );
    for (name, ports, settings) in clusters {
        let endpoints: String = ports
            .iter()
            .map(|port| {
                format!(
                    "          - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}\n"
                )
            })
            .collect();
        text.push_str(&format!(
            "  - name: {name}\n    type: STATIC\n    connect_timeout: 1s\n{settings}    load_assignment:\n      cluster_name: {name}\n      endpoints:\n      - lb_endpoints:\n{endpoints}"
        ));
    }
    text
}

pub(crate) fn snapshot(text: &str) -> Arc<Snapshot> {
    let parsed = ripstop_wire::bootstrap::parse(text).unwrap_or_else(|error| panic!("{error}"));
    Arc::new(parsed.snapshot())
}

pub(crate) fn options(text: &str, workers: usize) -> Options {
    Options {
        workers,
        snapshot: snapshot(text),
        demand: None,
        sidecar: None,
        node: "test".into(),
        registry: Registry::new(ripstop_telemetry::metrics::Limits::default()),
        spans: None,
        workload: None,
        identity: None,
        secrets: Vec::new(),
        drain_time: Duration::from_secs(5),
        most: ripstop_proxy::admission::Most::UNLIMITED,
    }
}

pub(crate) fn start(text: &str, workers: usize) -> Running {
    serve(options(text, workers))
}

pub(crate) fn start_as(text: &str, workers: usize, identity: Option<Identity>) -> Running {
    serve(Options {
        identity,
        ..options(text, workers)
    })
}

pub(crate) fn serve(options: Options) -> Running {
    let running = ripstop_proxy::run(options).expect("threads");
    assert!(
        running.listen_errors.is_empty(),
        "{:?}",
        running.listen_errors
    );
    wait::until_true(wait::GENEROUS, "ready", || running.ready());
    running
}

/// Changes the connection managers of a snapshot in ways that no bootstrap can say.
pub(crate) fn edit(snapshot: &mut Arc<Snapshot>, change: impl Fn(&mut HttpProxy)) {
    let snapshot = Arc::make_mut(snapshot);
    for held in snapshot.listeners.values_mut() {
        for chain in &mut Arc::make_mut(held).chains {
            if let Terminal::Http(proxy) = &mut Arc::make_mut(chain).terminal {
                change(Arc::make_mut(proxy));
            }
        }
    }
}

/// A client of the listener `l`.
pub(crate) fn client(running: &Running) -> Client {
    Client::connect(running.address("l").expect("bound"))
}

/// Every request to the cluster `a`.
pub(crate) const TO_A: &str =
    "              - match: {prefix: /}\n                route: {cluster: a}\n";

/// The value of a counter or gauge; `None` while there is none of that name.
pub(crate) fn stat(running: &Running, name: &str) -> Option<i64> {
    stats::refresh(&running.shared);
    let text = running.shared.registry.stats().text(name);
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(": ")?;
        (found == name).then(|| value.parse().unwrap())
    })
}

#[track_caller]
pub(crate) fn reaches(running: &Running, name: &str, value: i64) {
    wait::until_true(wait::GENEROUS, name, || stat(running, name) == Some(value));
}

/// A mesh's authority.
pub(crate) struct Mesh(Authority);

impl Mesh {
    pub(crate) fn new() -> Mesh {
        let authority = Authority::create("cluster.local", Lifetimes::default(), SystemTime::now());
        Mesh(authority.unwrap())
    }

    pub(crate) fn identity(&self, account: &str) -> Identity {
        let id = format!("spiffe://cluster.local/ns/default/sa/{account}")
            .parse()
            .unwrap();
        let key = Key::generate().unwrap();
        let chain = self.0.sign(
            &key.csr(&id).unwrap(),
            &id,
            Duration::from_secs(3600),
            SystemTime::now(),
        );
        Identity {
            certificate: Slot::with(key.certify(&chain.unwrap()).unwrap()),
            trust: Trust::new(self.0.bundle().unwrap()),
        }
    }
}

/// A cluster's settings: HTTP/2 by prior knowledge.
pub(crate) const H2: &str = "    typed_extension_protocol_options:\n      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n        explicit_http_config: {http2_protocol_options: {}}\n";

/// An HTTP/2 server that answers each request with the same frames, right or wrong.
pub(crate) struct Frames(Upstream);

impl Frames {
    /// The frames are written for stream 1; a request gets them under its own number.
    pub(crate) fn start(frames: Vec<u8>) -> Frames {
        Frames(Upstream::tcp(move |conversation| {
            let mut preface = [0; frames::PREFACE.len()];
            conversation.read_exact(&mut preface)?;
            conversation.write_all(&frames::settings(&[]))?;
            loop {
                let frame = frames::read(conversation)?;
                match frame.kind {
                    kind::SETTINGS if frame.flags & flag::ACK == 0 => {
                        conversation.write_all(&frames::frame(
                            kind::SETTINGS,
                            flag::ACK,
                            0,
                            &[],
                        ))?;
                    }
                    kind::HEADERS => conversation.write_all(&on_stream(&frames, frame.stream))?,
                    _ => {}
                }
            }
        }))
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.port()
    }

    pub(crate) fn connections(&self) -> usize {
        self.0.connections()
    }
}

fn on_stream(frames: &[u8], stream: u32) -> Vec<u8> {
    let mut bytes = frames.to_vec();
    let mut at = 0;
    while let Some([a, b, c, _, _, number @ ..]) = bytes.get(at..at + 9) {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if *number == [0, 0, 0, 1] {
            bytes[at + 5..at + 9].copy_from_slice(&stream.to_be_bytes());
        }
        at += 9 + length;
    }
    bytes
}

/// What an [`H2Server`] answers.
pub(crate) struct Reply {
    head: Response<()>,
    body: Vec<u8>,
    trailers: HeaderMap,
    after: Duration,
    pause: Duration,
    reset: Option<h2::Reason>,
    goaway: bool,
}

impl Reply {
    pub(crate) fn bytes(body: Vec<u8>) -> Reply {
        Reply {
            head: Response::new(()),
            body,
            trailers: HeaderMap::new(),
            after: Duration::ZERO,
            pause: Duration::ZERO,
            reset: None,
            goaway: false,
        }
    }

    pub(crate) fn text(body: &str) -> Reply {
        Reply::bytes(body.as_bytes().to_vec())
    }

    pub(crate) fn reset(reason: h2::Reason) -> Reply {
        let mut reply = Reply::text("");
        reply.reset = Some(reason);
        reply
    }

    pub(crate) fn header(mut self, name: &'static str, value: &'static str) -> Reply {
        let name = HeaderName::from_static(name);
        let value = HeaderValue::from_static(value);
        self.head.headers_mut().append(name, value);
        self
    }

    pub(crate) fn trailer(mut self, name: &'static str, value: &'static str) -> Reply {
        self.trailers.append(name, HeaderValue::from_static(value));
        self
    }

    pub(crate) fn after(mut self, pause: Duration) -> Reply {
        self.after = pause;
        self
    }

    /// Between its head and what follows.
    pub(crate) fn pause(mut self, pause: Duration) -> Reply {
        self.pause = pause;
        self
    }

    pub(crate) fn goaway(mut self) -> Reply {
        self.goaway = true;
        self
    }
}

/// An HTTP/2 server by prior knowledge on a thread of its own; ends when dropped.
pub(crate) struct H2Server {
    port: u16,
    counts: Arc<Counts>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    requests: AtomicUsize,
    resets: AtomicUsize,
}

impl H2Server {
    pub(crate) fn start(
        answer: impl Fn(&Request<()>, &[u8]) -> Reply + Send + Sync + 'static,
    ) -> H2Server {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let counts = Arc::new(Counts::default());
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let (told, answer) = (counts.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let stream = tokio::select! {
                        accepted = listener.accept() => accepted.unwrap().0,
                        _ = &mut stopped => return,
                    };
                    told.connections.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(converse(stream, told.clone(), answer.clone()));
                }
            });
        });
        H2Server {
            port,
            counts,
            _stop: stop,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// Streams that the client reset before they were answered.
    pub(crate) fn resets(&self) -> usize {
        self.counts.resets.load(Ordering::SeqCst)
    }
}

async fn converse<A>(stream: tokio::net::TcpStream, counts: Arc<Counts>, answer: Arc<A>)
where
    A: Fn(&Request<()>, &[u8]) -> Reply + Send + Sync + 'static,
{
    stream.set_nodelay(true).unwrap();
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    let (leave, mut left) = tokio::sync::mpsc::channel(1);
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            Some(()) = left.recv() => {
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(Ok((request, respond))) = accepted else {
            return;
        };
        tokio::spawn(exchange(
            request,
            respond,
            counts.clone(),
            answer.clone(),
            leave.clone(),
        ));
    }
}

async fn exchange<A>(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    counts: Arc<Counts>,
    answer: Arc<A>,
    leave: tokio::sync::mpsc::Sender<()>,
) where
    A: Fn(&Request<()>, &[u8]) -> Reply,
{
    let (parts, mut stream) = request.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let Ok(data) = data else {
            counts.resets.fetch_add(1, Ordering::SeqCst);
            return;
        };
        let _ = stream.flow_control().release_capacity(data.len());
        body.extend_from_slice(&data);
    }
    let _ = stream.trailers().await;
    counts.requests.fetch_add(1, Ordering::SeqCst);
    let bodiless = parts.method == http::Method::HEAD;
    let reply = answer(&Request::from_parts(parts, ()), &body);
    tokio::select! {
        () = tokio::time::sleep(reply.after) => {}
        _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => {
            counts.resets.fetch_add(1, Ordering::SeqCst);
            return;
        }
    }
    if let Some(reason) = reply.reset {
        respond.send_reset(reason);
        return;
    }
    if reply.goaway {
        let _ = leave.try_send(());
    }
    let Ok(mut out) = respond.send_response(reply.head, bodiless) else {
        return;
    };
    if bodiless {
        return;
    }
    if !reply.pause.is_zero() {
        tokio::time::sleep(reply.pause).await;
    }
    let mut left = Bytes::from(reply.body);
    while !left.is_empty() {
        out.reserve_capacity(left.len());
        let Some(Ok(room)) = std::future::poll_fn(|cx| out.poll_capacity(cx)).await else {
            return;
        };
        let piece = left.split_to(room.min(left.len()));
        if out.send_data(piece, false).is_err() {
            return;
        }
    }
    let _ = out.send_trailers(reply.trailers);
}
