//! A proxy that is told to end (R4.2): it fails readiness, says so to its clients, and serves whoever has not heard yet.

use std::net::TcpListener;

use ripstop_proxy::admin::{self, Face};
use std::time::Duration;

use ripstop_testkit::http;
use ripstop_testkit::upstream::{Step, Upstream, response_with};
use ripstop_testkit::wait;

use crate::kit::{TO_A, bootstrap, client, start};

#[test]
fn draining_finishes_requests_and_closes_the_idle() {
    let up = Upstream::http(|_| {
        let mut steps = vec![Step::Wait(Duration::from_millis(300))];
        steps.extend(response_with(200, &[("x-late", "1")], "finished"));
        steps
    });
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    let mut idle = client(&running);
    let mut busy = client(&running);
    busy.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    wait::until_true(wait::GENEROUS, "the request", || up.requests().len() == 1);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(running.drain());
    assert!(!running.ready());
    assert!(idle.closed());
    let response = busy.response().unwrap();
    assert_eq!(response.text(), "finished");
    assert_eq!(response.header("connection"), Some("close"));
}

/// Stragglers, who have not heard of the drain, are served on connections that end with their answer.
#[test]
fn stragglers_are_served_and_readiness_fails() {
    let up = Upstream::always(200, "served");
    let busy = Upstream::http(|_| {
        let mut steps = vec![Step::Wait(Duration::from_secs(1))];
        steps.extend(response_with(200, &[], "finished"));
        steps
    });
    let routes = format!(
        "              - match: {{prefix: /busy}}\n                route: {{cluster: busy}}\n{TO_A}"
    );
    let clusters: [(&str, &[u16], &str); 2] =
        [("a", &[up.port()], ""), ("busy", &[busy.port()], "")];
    let running = start(&bootstrap("", &routes, &clusters), 1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let readiness = listener.local_addr().unwrap();
    let _pages = admin::serve(admin::Options {
        shared: running.shared.clone(),
        listeners: vec![(listener, Face::Readiness)],
        levels: None,
        node: Default::default(),
        is_static: true,
    })
    .unwrap();
    let ready = || http::get(readiness, "a", "/healthz/ready").unwrap().status;
    assert_eq!(ready(), 200);
    let mut holder = client(&running);
    holder.send(b"GET /busy HTTP/1.1\r\nhost: a\r\n\r\n");
    wait::until_true(wait::GENEROUS, "the request", || busy.requests().len() == 1);
    std::thread::scope(|scope| {
        let drained = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(running.drain());
        });
        wait::until_true(wait::GENEROUS, "the drain", || ready() == 503);
        let mut straggler = client(&running);
        let response = straggler.get("a", "/");
        assert_eq!(response.text(), "served");
        assert_eq!(response.header("connection"), Some("close"));
        assert!(straggler.closed());
        assert_eq!(holder.response().unwrap().text(), "finished");
        drained.join().unwrap();
    });
}
