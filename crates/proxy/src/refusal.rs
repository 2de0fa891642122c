//! A connection that leads nowhere in, and why → the reason as an HTTP answer, or the connection's end.
//!
//! An address of the mesh without a listener is either unknown to the control plane or not answered for in time
//! (decisions.md, 2). A client that speaks HTTP is told which; any other is closed.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ripstop_model::authz::Caller;
use ripstop_model::defaults::envoy;
use ripstop_model::reason::Reason;
use ripstop_model::snapshot::cluster::Http2;
use ripstop_model::snapshot::http::{
    AccessLog, Codec, ForwardClientCert, Http1Options, HttpLimits, HttpProxy, HttpTimeouts,
    PathOptions, RequestId, RouteSource, ServerHeader, StripPort, Underscores,
};
use ripstop_model::snapshot::listener::{ChainMatch, FilterChain, Terminal};
use ripstop_model::snapshot::route::RouteConfig;
use tokio::net::TcpStream;

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
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub destination: SocketAddr,
    pub reason: Reason,
}

/// Answers until the client leaves.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    accepting: &Arc<Listener>,
    stream: TcpStream,
    told: Told,
) {
    tracing::debug!(destination = %told.destination, reason = %told.reason, "connection leads nowhere");
    if !speaks_http(&stream).await {
        return;
    }
    let connection = Rc::new(Connection {
        id: worker.shared.counters.accepted(),
        opened: tokio::time::Instant::now(),
        listener: accepting.config.name.clone(),
        chain: RefCell::new(accepting.refusing.clone()),
        version: Cell::new(worker.view().version),
        direction: accepting.config.direction,
        peer: told.peer,
        local: told.local,
        destination: told.destination,
        tls: None,
        caller: Caller {
            principals: None,
            direct_ip: told.peer.ip(),
            remote_ip: told.peer.ip(),
            destination: told.destination,
            sni: Arc::from(""),
        },
        refusal: Some(told.reason),
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

    use ripstop_model::snapshot::listener::{self, Direction, Inspect};
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
                peer,
                local: address,
                destination: "240.240.0.9:80".parse().unwrap(),
                reason,
            };
            serve(worker, &accepting(), stream, told).await;
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
