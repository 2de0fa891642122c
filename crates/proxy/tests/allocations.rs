//! A warm connection → how often a request and its answer ask the allocator for memory.
//!
//! All of this process is counted: the client and the server here use memory of their own stacks alone.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ripstop_proxy::Options;
use ripstop_telemetry::metrics::{Limits, Registry};
use ripstop_testkit::wait;

struct Counting;

static ASKED: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const REQUEST: &[u8] = b"GET /some/path?a=b HTTP/1.1\r\nHost: somewhere.example\r\nUser-Agent: counting\r\nAccept: */*\r\n\r\n";
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello";
/// For the future that serves the request: 4 KiB which a connection that waits for its next one does not keep.
const MOST: f64 = 1.05;
const WARM_UP: usize = 200;
const REQUESTS: usize = 1000;

#[test]
fn a_request_on_a_warm_connection_asks_for_memory_once() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let upstream = server.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in server.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    let running = ripstop_proxy::run(options(upstream)).expect("threads");
    wait::until_true(wait::GENEROUS, "ready", || running.ready());
    let mut client = TcpStream::connect(running.address("l").expect("bound")).expect("listening");
    client
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a socket");
    for _ in 0..WARM_UP {
        ask(&mut client);
    }
    let before = ASKED.load(Ordering::Relaxed);
    for _ in 0..REQUESTS {
        ask(&mut client);
    }
    let asked = ASKED.load(Ordering::Relaxed) - before;
    // What once a second costs is among them.
    let each = asked as f64 / REQUESTS as f64;
    assert!(each <= MOST, "{each} allocations a request");
}

fn answer(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    let mut held = 0;
    while let Ok(count) = stream.read(&mut buffer[held..]) {
        held += count;
        if count == 0 || held == buffer.len() {
            return;
        }
        if buffer[..held].ends_with(b"\r\n\r\n") {
            held = 0;
            if stream.write_all(ANSWER).is_err() {
                return;
            }
        }
    }
}

fn ask(client: &mut TcpStream) {
    client.write_all(REQUEST).expect("the proxy reads");
    let mut buffer = [0; 4096];
    let mut held = 0;
    while !buffer[..held].ends_with(b"\r\n\r\nhello") {
        let count = client.read(&mut buffer[held..]).expect("an answer");
        assert!(count > 0, "{}", String::from_utf8_lossy(&buffer[..held]));
        held += count;
    }
}

fn options(upstream: SocketAddr) -> Options {
    let text = format!(
        "static_resources:
  listeners:
  - name: l
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: l
          route_config:
            virtual_hosts:
            - name: all
              domains: ['*']
              routes: [{{match: {{prefix: /}}, route: {{cluster: c, retry_policy: {{retry_on: connect-failure, num_retries: 2}}}}}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: c
    type: STATIC
    outlier_detection: {{consecutive_5xx: 5}}
    load_assignment: {{cluster_name: c, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}
",
        upstream.port()
    );
    let parsed = ripstop_wire::bootstrap::parse(&text).unwrap_or_else(|error| panic!("{error}"));
    Options {
        workers: 1,
        snapshot: Arc::new(parsed.snapshot()),
        demand: None,
        sidecar: None,
        node: "test".into(),
        registry: Registry::new(Limits::default()),
        spans: None,
        workload: None,
        identity: None,
        secrets: Vec::new(),
        drain_time: Duration::from_secs(5),
        most: ripstop_proxy::admission::Most::UNLIMITED,
    }
}
