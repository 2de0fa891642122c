//! A connection that leads nowhere in, and why → the reason as an HTTP answer, or the connection's end.
//!
//! An address of the mesh without a listener is either unknown to the control plane or not answered for in time
//! (decisions.md, 2). A client that speaks HTTP is told which; any other is closed.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use ripstop_model::authz::Caller;
use ripstop_model::defaults::envoy;
use ripstop_model::reason::Reason;
use ripstop_model::snapshot::Resource;
use ripstop_model::snapshot::cluster::Http2;
use ripstop_model::snapshot::http::{
    AccessLog, Codec, ForwardClientCert, Http1Options, HttpLimits, HttpProxy, HttpTimeouts,
    PathOptions, RequestId, RouteSource, ServerHeader, StripPort, Underscores,
};
use ripstop_model::snapshot::listener::{ChainMatch, Direction, FilterChain, Terminal};
use ripstop_model::snapshot::route::RouteConfig;
use ripstop_telemetry::record::{Kind, Known, Record, Reporter, Service, unknown_workload};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::connection::{self, Connection};
use crate::downstream;
use crate::live::Listener;
use crate::stream::Stream;
use crate::worker::Worker;

/// How long a client may take to say what it wants before it is closed: it may wait for the server to speak.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of the connection.
#[derive(Debug, Clone, Copy)]
pub struct Told {
    pub opened: Instant,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub destination: SocketAddr,
}

/// Why it is refused, and what decided that.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub reason: Reason,
    pub resource: Option<Resource>,
    /// What was wrong, where there is more to say.
    pub cause: Option<String>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Refusal {
        Refusal {
            reason,
            resource: None,
            cause: None,
        }
    }
}

/// Writes down a connection that ends without an answer.
pub(crate) fn close(worker: &Worker, listener: &Listener, told: &Told, refusal: &Refusal) {
    let reporter = match listener.config.direction {
        Direction::Inbound => Reporter::Destination,
        Direction::Outbound | Direction::Unspecified => Reporter::Source,
    };
    let resource = refusal.resource.as_ref().map(ToString::to_string);
    // As Envoy writes causes: without spaces.
    let cause = refusal.cause.as_ref().map(|cause| {
        let cause = cause.replace(char::is_whitespace, "_");
        format!("{}{{{cause}}}", refusal.reason)
    });
    let took = told.opened.elapsed();
    let mut record = Record::new(reporter, Kind::Tcp, SystemTime::now() - took);
    record.timings.total = took;
    record.decide(refusal.reason, resource.as_deref());
    record.termination_details = cause.as_deref();
    record.downstream_local = Some(told.destination);
    record.downstream_remote = Some(told.peer);
    record.downstream_direct = Some(told.peer);
    record.hostname = Some(&worker.shared.node);
    let own = worker.shared.workload.as_deref();
    let own = own.unwrap_or(unknown_workload());
    match reporter {
        Reporter::Destination => record.destination = own,
        Reporter::Source | Reporter::Waypoint => record.source = own,
    }
    if refusal.reason == Reason::NotRegistered {
        record.service = black_hole();
    }
    let draw = worker.random();
    let logs = listener.logs.iter().filter(|log| log.wants(&record, draw));
    let mut telemetry = worker.telemetry.borrow_mut();
    telemetry.shard.opened(&record);
    telemetry.finish(&record, logs.map(|log| &log.log));
}

/// What Istio's metrics call the destination of what may not leave.
pub(crate) fn black_hole() -> &'static Known<Service> {
    static BLACK_HOLE: LazyLock<Known<Service>> = LazyLock::new(|| {
        Known::new(Service {
            host: "BlackHoleCluster".to_owned(),
            name: "BlackHoleCluster".to_owned(),
            namespace: String::new(),
        })
    });
    &BLACK_HOLE
}

/// Answers until the client leaves.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    accepting: &Arc<Listener>,
    stream: TcpStream,
    told: Told,
    refusal: Refusal,
) {
    if !speaks_http(&stream).await {
        return close(&worker, accepting, &told, &refusal);
    }
    let connection = Rc::new(Connection {
        id: worker.shared.counters.accepted(),
        opened: told.opened,
        chance: worker.chance(),
        listener: accepting.config.name.clone(),
        chain: RefCell::new(accepting.refusing.clone()),
        version: Cell::new(worker.view().version),
        direction: accepting.config.direction,
        buffer_limit: 0,
        peer: told.peer,
        local: told.local,
        destination: told.destination,
        asks: false,
        tls: None,
        caller: Caller {
            principals: None,
            direct_ip: told.peer.ip(),
            remote_ip: told.peer.ip(),
            destination: told.destination,
            sni: Arc::from(""),
        },
        refusal: Some(refusal),
        caused: Cell::new(false),
        registration: RefCell::new(None),
        worker,
    });
    connection::register(&connection).await;
    downstream::serve(connection, Stream::Tcp(stream)).await;
}

/// Whether the first byte could begin an HTTP/1 request.
async fn speaks_http(stream: &TcpStream) -> bool {
    let mut first = [0u8; 1];
    let peeked = tokio::time::timeout(PATIENCE, stream.peek(&mut first)).await;
    matches!(peeked, Ok(Ok(1))) && first.iter().all(u8::is_ascii_uppercase)
}

/// The chain of such connections; what it answers goes to the accepting listener's log.
pub(crate) fn chain(logs: &[AccessLog]) -> FilterChain {
    let proxy = HttpProxy {
        stat_prefix: "refused".to_owned(),
        codec: Codec::Http1,
        routes: RouteSource::Inline(Arc::new(RouteConfig {
            name: "refused".into(),
            hosts: Vec::new(),
            headers: Default::default(),
            internal_only_headers: Vec::new(),
            most_specific_headers_win: false,
            ignore_port: false,
            max_direct_response: 0,
        })),
        filters: Vec::new(),
        path: PathOptions {
            normalize: true,
            merge_slashes: true,
            escaped_slashes: Default::default(),
        },
        timeouts: HttpTimeouts {
            idle: Some(Duration::from_secs(60)),
            ..envoy::HTTP_TIMEOUTS
        },
        limits: HttpLimits {
            max_requests_per_connection: 1,
            ..envoy::HTTP_LIMITS
        },
        http1: Http1Options::default(),
        http2: Http2 { ..envoy::HTTP2 },
        upgrades: Vec::new(),
        server_header: ServerHeader::PassThrough,
        via: None,
        use_remote_address: false,
        xff_trusted_hops: 0,
        skip_xff_append: true,
        internal: Vec::new(),
        request_id: RequestId {
            generate: true,
            preserve_external: true,
            set_in_response: false,
        },
        client_cert: ForwardClientCert::default(),
        strip_port: StripPort::No,
        underscores: Underscores::Allow,
        tracing: None,
        access_logs: logs.to_vec(),
    };
    FilterChain {
        name: "refused".into(),
        matches: ChainMatch::default(),
        tls: None,
        handshake_timeout: None,
        authz: Vec::new(),
        peer_exchange: false,
        terminal: Terminal::Http(Arc::new(proxy)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use ripstop_model::snapshot::listener::{self, Inspect};
    use ripstop_telemetry::Registry;
    use tokio::net::TcpListener;

    use super::*;
    use crate::logs::Logs;

    fn accepting() -> Arc<Listener> {
        let config = listener::Listener {
            name: "outbound".into(),
            address: "127.0.0.1:15001".parse().unwrap(),
            bind: false,
            direction: Direction::Outbound,
            inspect: Inspect {
                original_dst: true,
                tls: false,
                http: false,
                proxy_protocol: false,
                timeout: None,
                continue_on_timeout: false,
            },
            use_original_dst: true,
            chains: Vec::new(),
            default_chain: None,
            buffer_limit: 0,
            access_logs: Vec::new(),
            resource: None,
        };
        let listener = Listener::new(
            Arc::new(config),
            None,
            None,
            &Logs::default(),
            &ripstop_telemetry::Stats::default(),
            &crate::tls::Secrets::default(),
        );
        Arc::new(listener)
    }

    /// What a client that sends this gets.
    fn told(sent: &'static [u8], reason: Reason) -> String {
        let running = crate::run(crate::Options {
            workers: 1,
            snapshot: Arc::default(),
            demand: None,
            sidecar: None,
            node: "test".into(),
            registry: Registry::new(ripstop_telemetry::metrics::Limits::default()),
            spans: None,
            workload: None,
            secrets: Vec::new(),
            identity: None,
            drain_time: Duration::ZERO,
            most: crate::admission::Most::UNLIMITED,
        })
        .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let worker = Worker::new(7, running.shared.clone());
            let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = socket.local_addr().unwrap();
            let client = std::thread::spawn(move || {
                let mut stream = std::net::TcpStream::connect(address).unwrap();
                stream.write_all(sent).unwrap();
                let mut text = String::new();
                // A reset is as good an end as any for a client that is refused.
                let _ = stream.read_to_string(&mut text);
                text
            });
            let (stream, peer) = socket.accept().await.unwrap();
            let told = Told {
                opened: Instant::now(),
                peer,
                local: address,
                destination: "240.240.0.9:80".parse().unwrap(),
            };
            serve(worker, &accepting(), stream, told, reason.into()).await;
            client.join().unwrap()
        })
    }

    #[test]
    fn http_clients_are_told_why() {
        let answer = told(
            b"GET / HTTP/1.1\r\nhost: gone\r\n\r\n",
            Reason::ServiceUnknown,
        );
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(
            answer.contains("x-ripstop-reason: service_unknown\r\n"),
            "{answer}"
        );
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }

    #[test]
    fn others_are_closed() {
        assert_eq!(told(b"\x16\x03\x01", Reason::DiscoveryTimeout), "");
    }
}
