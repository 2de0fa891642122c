//! Limits of a cluster: exact over workers and over pushes, waited for within bounds, and given back whatever comes (R19).

use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ripstop_model::snapshot::route::Priority;
use ripstop_proxy::Running;
use ripstop_testkit::frames::{Connection, get};
use ripstop_testkit::http::{Client, Response};
use ripstop_testkit::upstream::{Step, Upstream, response};
use ripstop_testkit::wait;

use crate::kit::{H2, H2Server, Reply, TO_A, bootstrap, client, reaches, snapshot, start, stat};

/// A server that answers nobody before it is let.
struct Held {
    up: Upstream,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Held {
    fn start() -> Held {
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let shut = gate.clone();
        let up = Upstream::http(move |_| {
            let open = shut.0.lock().unwrap();
            let _open = shut.1.wait_while(open, |open| !*open).unwrap();
            response(200, "ok")
        });
        Held { up, gate }
    }

    fn let_go(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.let_go();
    }
}

fn limited(limits: &str) -> String {
    format!("    circuit_breakers: {{thresholds: [{{{limits}}}]}}\n")
}

fn ask(running: &Running) -> JoinHandle<Response> {
    let address = running.address("l").unwrap();
    std::thread::spawn(move || Client::connect(address).get("a", "/"))
}

fn refused(answer: &Response, reason: &str) {
    assert_eq!(answer.header("x-ripstop-reason"), Some(reason));
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("x-envoy-overloaded"), Some("true"));
}

/// R19.1: of a limit of 5 never 6, on however many workers, and also while another configuration of the cluster comes.
#[test]
fn a_limit_of_five_is_five_over_workers_and_pushes() {
    let held = Held::start();
    let text = |patience: &str| {
        let settings = limited("max_requests: 5");
        bootstrap("", TO_A, &[("a", &[held.up.port()], &settings)])
            .replace("connect_timeout: 1s", patience)
    };
    let running = start(&text("connect_timeout: 1s"), 3);
    let callers: Vec<_> = (0..16).map(|_| ask(&running)).collect();
    wait::until_true(wait::GENEROUS, "eleven answers", || {
        callers.iter().filter(|caller| caller.is_finished()).count() == 11
    });
    wait::until_true(wait::GENEROUS, "five requests", || {
        held.up.requests().len() == 5
    });
    assert!(
        running
            .apply(snapshot(&text("connect_timeout: 2s")))
            .is_empty()
    );
    let changed = || {
        let tables = running.shared.live.tables();
        tables.clusters["a"].config.connect_timeout == Duration::from_secs(2)
    };
    wait::until_true(wait::GENEROUS, "the push", changed);
    refused(&client(&running).get("a", "/"), "circuit_open:max_requests");
    held.let_go();
    let answers: Vec<_> = callers.into_iter().map(|c| c.join().unwrap()).collect();
    let (served, others): (Vec<_>, Vec<_>) = answers.iter().partition(|a| a.status == 200);
    assert_eq!(served.len(), 5);
    for other in others {
        refused(other, "circuit_open:max_requests");
    }
    reaches(&running, "cluster.a.upstream_rq_active", 0);
    assert_eq!(client(&running).get("a", "/").status, 200);
}

/// R19.1: nothing is a limit too.
#[test]
fn none_at_all_may_be_allowed() {
    let up = Upstream::always(200, "never");
    let route =
        "              - match: {prefix: /}\n                route: {cluster: a, timeout: 0.2s}\n";
    for (limit, reason) in [
        ("max_connections: 0", "circuit_open:max_connections"),
        ("max_pending_requests: 0", "circuit_open:max_pending"),
        ("max_requests: 0", "circuit_open:max_requests"),
    ] {
        let settings = limited(limit);
        let running = start(&bootstrap("", route, &[("a", &[up.port()], &settings)]), 2);
        refused(&client(&running).get("a", "/"), reason);
        assert_eq!(
            stat(&running, "cluster.a.upstream_rq_pending_overflow"),
            Some(1)
        );
    }
    assert_eq!(up.connections(), 0);
}

/// R19.2: who waits for a connection waits among so many, and then gets one; nobody is told that the upstream failed.
#[test]
fn over_the_limit_is_a_queue_with_an_end() {
    let held = Held::start();
    let settings = limited("max_connections: 2, max_pending_requests: 3");
    let running = start(
        &bootstrap("", TO_A, &[("a", &[held.up.port()], &settings)]),
        2,
    );
    let mut callers = vec![ask(&running), ask(&running)];
    wait::until_true(wait::GENEROUS, "two at once", || {
        held.up.requests().len() == 2
    });
    callers.extend((0..3).map(|_| ask(&running)));
    reaches(&running, "cluster.a.upstream_rq_pending_active", 3);
    refused(&client(&running).get("a", "/"), "circuit_open:max_pending");
    assert_eq!((held.up.requests().len(), held.up.open()), (2, 2));
    held.let_go();
    for caller in callers {
        assert_eq!(caller.join().unwrap().status, 200);
    }
    assert!(held.up.open() <= 2);
    reaches(&running, "cluster.a.upstream_rq_pending_active", 0);
}

/// R19.2: nobody waits for ever: the request's own limits end it, and the reason is what it waited for.
#[test]
fn waiting_for_a_connection_ends() {
    let held = Held::start();
    let routes = "              - match: {prefix: /first}\n                route: {cluster: a, timeout: 0s, idle_timeout: 60s}\n              - match: {prefix: /short}\n                route: {cluster: a, timeout: 0.3s}\n              - match: {prefix: /}\n                route: {cluster: a, timeout: 0s, idle_timeout: 0.3s}\n";
    let settings = limited("max_connections: 1");
    let running = start(
        &bootstrap("", routes, &[("a", &[held.up.port()], &settings)]),
        1,
    );
    let mut first = client(&running);
    first.send(b"GET /first HTTP/1.1\r\nhost: a\r\n\r\n");
    wait::until_true(wait::GENEROUS, "the first", || {
        held.up.requests().len() == 1
    });
    for path in ["/short", "/idle"] {
        let began = Instant::now();
        refused(
            &client(&running).get("a", path),
            "circuit_open:max_connections",
        );
        assert!(began.elapsed() < Duration::from_secs(10), "{path}");
    }
    held.let_go();
    assert_eq!(first.response().unwrap().status, 200);
}

/// Whatever becomes of an attempt, its member, its cluster and its limits are as before it.
#[test]
fn failed_attempts_are_counted_no_longer_than_they_last() {
    let up = Upstream::http(|request| match request.target().as_str() {
        "/reset" => vec![Step::Reset],
        "/close" => vec![Step::Close],
        "/half" => vec![
            Step::Write(b"HTTP/1.1 200 OK\r\nconte".to_vec()),
            Step::Close,
        ],
        "/wrong" => vec![Step::Write(b"SMTP ready\r\n\r\n".to_vec())],
        "/cut" => vec![
            Step::Write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc".to_vec()),
            Step::Close,
        ],
        "/switch" => vec![Step::Write(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
                .to_vec(),
        )],
        "/slow" => vec![Step::Wait(Duration::from_millis(800)), Step::Close],
        "/early" => response(413, "enough"),
        _ => response(503, ""),
    });
    let two = H2Server::start(|_, _| Reply::reset(h2::Reason::REFUSED_STREAM));
    let dead = ripstop_testkit::port::reserve();
    let routes = "              - match: {prefix: /dead}\n                route: {cluster: dead}\n              - match: {prefix: /two}\n                route: {cluster: two, retry_policy: {retry_on: refused-stream, num_retries: 2}}\n              - match: {prefix: /again}\n                route: {cluster: a, retry_policy: {retry_on: 5xx, num_retries: 3, retry_back_off: {base_interval: 0.001s}}}\n              - match: {prefix: /slow}\n                route: {cluster: a, timeout: 0.5s, retry_policy: {retry_on: 5xx, num_retries: 1, per_try_timeout: 0.1s}}\n              - match: {prefix: /}\n                route: {cluster: a}\n";
    let clusters: [(&str, &[u16], &str); 3] = [
        ("a", &[up.port()], ""),
        ("dead", &[dead.number()], ""),
        ("two", &[two.port()], H2),
    ];
    let running = start(&bootstrap("", routes, &clusters), 1);
    let at_rest = |path: &str| {
        wait::until_true(wait::GENEROUS, path, || {
            let tables = running.shared.live.tables();
            tables.clusters.values().all(|cluster| {
                let breaker = cluster.breaker(Priority::Default);
                let roster = cluster.roster();
                breaker.active_requests() == 0
                    && breaker.pending_requests() == 0
                    && roster.members().all(|member| member.load.active() == 0)
                    // All the retries there may be can be made.
                    && (0..3).map(|_| breaker.retry(None)).collect::<Vec<_>>().iter().all(Option::is_some)
            })
        });
    };
    let paths = [
        "/dead", "/two", "/reset", "/close", "/half", "/wrong", "/switch", "/again", "/slow",
        "/none",
    ];
    for path in paths {
        let answer = client(&running).get("a", path);
        assert!(answer.status >= 500, "{path}: {}", answer.status);
        at_rest(path);
    }
    // The client hears of it, or is gone itself.
    let mut cut = client(&running);
    cut.send(b"GET /cut HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(cut.response().is_err());
    at_rest("/cut");
    let mut upload = client(&running);
    upload.send(b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc");
    drop(upload);
    at_rest("a client that left while it sent");
    let mut gone = client(&running);
    let before = up.requests().len();
    gone.send(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n");
    wait::until_true(wait::GENEROUS, "the request", || {
        up.requests().len() > before
    });
    drop(gone);
    at_rest("a client that left while it waited");
    let mut stream = Connection::client(running.address("l").unwrap());
    stream.send(&get(1));
    let _ = stream.fate(1);
    stream.send(&ripstop_testkit::frames::reset(1, 8));
    drop(stream);
    at_rest("an HTTP/2 client that left");
}
