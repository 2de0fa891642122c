//! HTTP/1 between two ripstop sidecars, many requests on one connection: both ends see what they see when each request
//! has a connection of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ripstop_proxy::Running;
use ripstop_testkit::http::Client;
use ripstop_testkit::upstream::{Request, Step, Upstream, response};

use crate::http2::{MESH_CHAIN, MESH_CLUSTER};
use crate::kit::{H2, H2Server, Mesh, Reply, TO_A, bootstrap, reaches, start, start_as, stat};

const SHARED: &str = "ripstop-h2, istio-http/1.1";
const SEPARATE: &str = "istio-http/1.1";

/// A client's sidecar and a server's.
struct Pair {
    client: Running,
    server: Running,
}

impl Pair {
    /// `accepted`: what the server's sidecar accepts. `limits`: further settings of the client's cluster.
    fn start(up: &Upstream, accepted: &str, limits: &str) -> Pair {
        let mesh = Mesh::new();
        let manager = "          upgrade_configs: [{upgrade_type: websocket}]\n          http_protocol_options: {accept_http_10: true}";
        let chain = MESH_CHAIN.replace("istio-h2, istio-http/1.1, h2, http/1.1", accepted);
        let inbound = bootstrap(manager, TO_A, &[("a", &[up.port()], "")]).replace(
            "    filter_chains:\n    - filters:",
            &format!("    filter_chains:\n    - {}\n      filters:", chain.trim()),
        );
        let server = start_as(&inbound, 1, Some(mesh.identity("server")));
        let port = server.address("l").unwrap().port();
        let settings = format!("{MESH_CLUSTER}{limits}");
        let outbound = bootstrap(manager, TO_A, &[("a", &[port], &settings)]);
        let client = start_as(&outbound, 1, Some(mesh.identity("client")));
        Pair { client, server }
    }

    fn address(&self) -> SocketAddr {
        self.client.address("l").unwrap()
    }

    /// Connections from the client's sidecar to the server's.
    fn connections(&self) -> i64 {
        stat(&self.server, "http.l.downstream_cx_total").unwrap_or_default()
    }
}

fn answer(request: &Request) -> Vec<Step> {
    let text: &[u8] = match request.target().as_str() {
        "/missing" => b"HTTP/1.1 404 Nicht Gefunden\r\nSERVER: x\r\ncontent-Length: 2\r\nX-ODD: 1\r\nx-odd: 2\r\n\r\nno",
        "/silent" => b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
        "/empty" => b"HTTP/1.1 204 No Content\r\nX-One: 1\r\n\r\n",
        "/fresh" => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nETag: \"a\"\r\n\r\n",
        "/head" => b"HTTP/1.1 200 OK\r\nContent-LENGTH: 7\r\n\r\n",
        "/chunked" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\nx-MORE: 2\r\n\r\n",
        "/early" => b"HTTP/1.1 103 Early Hints\r\nLINK: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
        "/old" => {
            let text = b"HTTP/1.0 200 OK\r\nX-Old: 1\r\n\r\nuntil the end";
            return vec![Step::Write(text.to_vec()), Step::Close];
        }
        _ => b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello",
    };
    vec![Step::Write(text.to_vec())]
}

const REQUESTS: &[&str] = &[
    "GET /plain HTTP/1.1\r\nhOsT: A.test\r\nX-ODD: 1\r\naccept: */*\r\nx-odd: 2\r\nConnection: close\r\n\r\n",
    "GET /a?b=<c>&d=`e` HTTP/1.1\r\nX-First: 1\r\nConnection: close\r\nUSER-AGENT: x\r\nHOST: a:80\r\n\r\n",
    "GET http://b.test/abs HTTP/1.1\r\nHost: b.test\r\nX-Last:\r\nConnection: close\r\n\r\n",
    "GET /ten HTTP/1.0\r\nX-Ten: 1\r\nHost: a\r\n\r\n",
    "PURGE /own-method HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: a\r\nContent-LENGTH: 3\r\nConnection: close\r\n\r\nabc",
    "POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "POST /pieces HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\nx-MORE: 2\r\n\r\n",
    "GET /missing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "GET /silent HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "GET /empty HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "GET /fresh HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "HEAD /head HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "GET /chunked HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close, TE\r\n\r\n",
    "GET /early HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "GET /old HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
];

/// Every byte that comes back.
fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    steady(&String::from_utf8(all).unwrap())
}

/// Without the values that differ from request to request.
fn steady(text: &str) -> String {
    const CHANGING: [&str; 4] = [
        "date",
        "x-request-id",
        "x-envoy-upstream-service-time",
        "traceparent",
    ];
    let lines = text.split("\r\n").map(|line| match line.split_once(':') {
        Some((name, _)) if CHANGING.contains(&name) => name,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\r\n")
}

#[test]
fn both_ends_see_what_they_see_over_connections_of_their_own() {
    let (own, common) = (Upstream::http(answer), Upstream::http(answer));
    let separate = Pair::start(&own, SEPARATE, "");
    let shared = Pair::start(&common, SHARED, "");
    for request in REQUESTS {
        let wanted = ask(separate.address(), request);
        assert!(wanted.starts_with("HTTP/1.1 "), "{request:?}: {wanted:?}");
        assert_eq!(ask(shared.address(), request), wanted, "{request:?}");
    }
    let seen = |up: &Upstream| {
        let text = |bytes: &[u8]| steady(&String::from_utf8_lossy(bytes));
        up.requests()
            .iter()
            .map(|request| (text(&request.head), text(&request.raw_body)))
            .collect::<Vec<_>>()
    };
    assert_eq!(seen(&own).len(), REQUESTS.len());
    assert_eq!(seen(&common).len(), REQUESTS.len());
    for (shared, separate) in seen(&common).iter().zip(&seen(&own)) {
        assert_eq!(shared, separate);
    }
    assert_eq!(shared.connections(), 1);
}

#[test]
fn requests_share_a_connection_until_told_otherwise() {
    let up = Upstream::always(200, "fine");
    let shared = Pair::start(&up, SHARED, "");
    let limit = "    circuit_breakers: {thresholds: [{max_connections: 100}]}\n";
    let limited = Pair::start(&up, SHARED, limit);
    for pair in [&shared, &limited] {
        let address = pair.address();
        assert_eq!(Client::connect(address).get("a", "/").text(), "fine");
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(move || {
                    let mut client = Client::connect(address);
                    for _ in 0..20 {
                        assert_eq!(client.get("a", "/").text(), "fine");
                    }
                });
            }
        });
        reaches(&pair.server, "http.l.downstream_rq_total", 401);
    }
    assert_eq!(shared.connections(), 1);
    assert!(limited.connections() > 1, "{}", limited.connections());
}

/// Nobody knows yet whether the other side shares; it is asked once.
#[test]
fn the_first_requests_open_one_connection() {
    const FIRST: usize = 80;
    let up = Upstream::always(200, "fine");
    for (accepted, most) in [(SHARED, 2), (SEPARATE, FIRST as i64 + 1)] {
        let pair = Pair::start(&up, accepted, "");
        let address = pair.address();
        let together = std::sync::Barrier::new(FIRST);
        std::thread::scope(|scope| {
            for _ in 0..FIRST {
                scope.spawn(|| {
                    let mut client = Client::connect(address);
                    together.wait();
                    assert_eq!(client.get("a", "/").text(), "fine");
                    assert_eq!(client.get("a", "/").text(), "fine");
                });
            }
        });
        let connections = pair.connections();
        assert!((1..=most).contains(&connections), "{connections}");
    }
}

#[test]
fn a_websocket_has_a_connection_of_its_own() {
    let up = Upstream::tcp(|conversation| {
        conversation.request()?;
        let switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello";
        conversation.play(&Step::Write(switched.to_vec()))?;
        Ok(())
    });
    let pair = Pair::start(&up, SHARED, "");
    let mut client = Client::connect(pair.address());
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n");
    let answer = client.any_response(false).unwrap();
    assert_eq!(answer.status, 101);
    assert_eq!(client.bytes(5).unwrap(), b"hello");
}

#[test]
fn who_leaves_takes_nobody_along() {
    let up = Upstream::http(|request| match request.target().as_str() {
        "/slow" => vec![Step::Wait(Duration::from_secs(20))],
        _ => response(200, "fine"),
    });
    let pair = Pair::start(&up, SHARED, "");
    let mut stays = Client::connect(pair.address());
    assert_eq!(stays.get("a", "/").text(), "fine");
    for _ in 0..3 {
        let mut leaves = Client::connect(pair.address());
        leaves.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(stays.get("a", "/").text(), "fine");
        drop(leaves);
        assert_eq!(stays.get("a", "/").text(), "fine");
    }
    reaches(&pair.server, "http.l.downstream_rq_active", 0);
    assert_eq!(pair.connections(), 1);
}

/// Thousands of callers give up while others share their connection: nobody is cut with them. The connection they wear
/// out is replaced before its budget is gone.
#[test]
fn those_who_give_up_take_nobody_along() {
    let up = Upstream::http(|request| match request.target().as_str() {
        "/slow" => vec![Step::Wait(Duration::from_millis(300))],
        "/late" => {
            let mut steps = vec![Step::Wait(Duration::from_millis(400))];
            steps.extend(response(200, "late"));
            steps
        }
        _ => response(200, "fine"),
    });
    let pair = Pair::start(&up, SHARED, "");
    let address = pair.address();
    assert_eq!(Client::connect(address).get("a", "/").text(), "fine");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let steady = ["/", "/late"].map(|path| {
            let over = &over;
            scope.spawn(move || {
                let mut client = Client::connect(address);
                let mut served = 0;
                while !over.load(Ordering::Relaxed) || served < 10 {
                    let answer = client.get("a", path);
                    assert_eq!(answer.status, 200, "{path}, after {served}: {answer:?}");
                    served += 1;
                }
            })
        });
        let leaving = (0..25).map(|index| {
            scope.spawn(move || {
                for _ in 0..100 {
                    let mut leaves = TcpStream::connect(address).unwrap();
                    leaves
                        .write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
                        .unwrap();
                    std::thread::sleep(Duration::from_millis(index % 5));
                }
            })
        });
        for thread in leaving.collect::<Vec<_>>() {
            thread.join().unwrap();
        }
        over.store(true, Ordering::Relaxed);
        for thread in steady {
            thread.join().unwrap();
        }
    });
    reaches(&pair.server, "http.l.downstream_rq_active", 0);
    assert_eq!(stat(&pair.server, "http2.inbound_reset_flood"), Some(0));
    let connections = pair.connections();
    // On a slow machine time alone may pay for them all.
    let told = stat(&pair.server, "http2.inbound_reset_goaway");
    assert!((1..=40).contains(&connections), "{connections}, {told:?}");
}

/// A handshake that the application refuses: what the client sends in the belief that it was taken is read as HTTP, by
/// each proxy on the way, or not at all.
#[test]
fn nothing_is_smuggled_behind_a_refused_upgrade() {
    const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";
    const SECOND: &str =
        "GET /second HTTP/1.1\r\nHost: a\r\nx-envoy-original-path: /forged\r\n\r\n";
    for (status, refusal) in [
        (200, &b"HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nno"[..]),
        (426, b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno"),
    ] {
        for accepted in [SHARED, SEPARATE] {
            let up = Upstream::http(move |request| match request.target().as_str() {
                "/ws" => vec![Step::Write(refusal.to_vec())],
                _ => response(200, "fine"),
            });
            let pair = Pair::start(&up, accepted, "");
            for (smuggled, outcome) in [(SECOND, 200), ("\u{81}\u{5}hello", 400)] {
                let mut client = Client::connect(pair.address());
                client.send(HANDSHAKE.as_bytes());
                client.send(smuggled.as_bytes());
                assert_eq!(client.response().unwrap().status, status);
                assert_eq!(client.response().unwrap().status, outcome, "{smuggled:?}");
            }
            // A request of its own to the other sidecar too, written anew by each.
            reaches(&pair.server, "http.l.downstream_rq_total", 3);
            let seen = up.requests();
            let targets: Vec<String> = seen.iter().map(Request::target).collect();
            assert_eq!(targets, ["/ws", "/second", "/ws"]);
            assert!(seen[1].header("x-request-id").is_some());
            let bytes: Vec<u8> = up.received().concat();
            assert!(!bytes.windows(5).any(|window| window == b"hello"));
        }
    }
}

/// Callers that do not read what they asked for, and uploads that the application does not take: each waits by itself, on the
/// connection that it shares with everybody.
#[test]
fn who_stalls_holds_up_nobody() {
    const LARGE: usize = 20 << 20;
    let up = Upstream::tcp(|conversation| {
        loop {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                conversation.read_exact(&mut byte)?;
                head.push(byte[0]);
            }
            let steps = match &head[..8] {
                // The rest of it is not read.
                b"POST /un" => vec![Step::Wait(Duration::from_secs(15)), Step::Close],
                b"POST / H" => {
                    conversation.read_exact(&mut [0; 1000])?;
                    response(200, "fine")
                }
                b"GET /lar" => response(200, &"x".repeat(LARGE)),
                _ => response(200, "fine"),
            };
            for step in steps {
                if conversation.play(&step)? {
                    return Ok(());
                }
            }
        }
    });
    let pair = Pair::start(&up, SHARED, "");
    let mut steady = Client::connect(pair.address());
    assert_eq!(steady.get("a", "/").text(), "fine");
    let readers = stalled_readers(pair.address());
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(steady.get("a", "/").text(), "fine");
    }
    let body = "x".repeat(LARGE);
    let writers: Vec<TcpStream> = std::thread::scope(|scope| {
        let writing: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut writer = TcpStream::connect(pair.address()).unwrap();
                    let patience = Some(Duration::from_millis(500));
                    writer.set_write_timeout(patience).unwrap();
                    let head = format!(
                        "POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"
                    );
                    writer.write_all(head.as_bytes()).unwrap();
                    assert!(writer.write_all(body.as_bytes()).is_err(), "all was taken");
                    writer
                })
            })
            .collect();
        writing
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    for _ in 0..20 {
        let answer = steady.request("POST", "a", "/", &[], &[b'x'; 1000]);
        assert_eq!(answer.unwrap().text(), "fine");
    }
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(pair.connections(), 1);
    drop((readers, writers));
}

/// Clients that ask for much and read nothing. Each answer is more than all buffers on its way take, and a few are more than
/// a window of the connection was.
fn stalled_readers(address: SocketAddr) -> Vec<Client> {
    let readers = (0..8).map(|_| {
        let mut reader = Client::connect(address);
        reader.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
        reader
    });
    let readers = readers.collect();
    // Until whatever can be under way is.
    std::thread::sleep(Duration::from_millis(500));
    readers
}

/// The same where it is HTTP/2 because the upstream speaks it: the windows are Envoy's, but for a stream's where none is set.
#[test]
fn who_stalls_over_http2_holds_up_nobody() {
    let large = vec![b'x'; 20 << 20];
    let up = H2Server::start(move |request, _| match request.uri().path() {
        "/large" => Reply::bytes(large.clone()),
        _ => Reply::text("fine"),
    });
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], H2)]), 1);
    let address = running.address("l").unwrap();
    let mut steady = Client::connect(address);
    assert_eq!(steady.get("a", "/").text(), "fine");
    let stalled = stalled_readers(address);
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(steady.get("a", "/").text(), "fine");
    }
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(up.connections(), 1);
    drop(stalled);
}
