//! One connection's misfortune stays its own.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ripstop_model::seam::Family;
use ripstop_proxy::{Pending, Sidecar, Sockets};
use ripstop_testkit::frames::{self, Connection, Fate, flag};
use ripstop_testkit::wait;

use crate::kit::{bootstrap, client, options, serve};

/// Dialling the application panics.
struct Broken;

impl Sockets for Broken {
    fn stream(&self, _family: Family) -> Pending<'_, io::Result<OwnedFd>> {
        panic!("a bug in a connection's task")
    }
}

#[test]
fn a_panic_ends_its_connection_only() {
    let routes = "              - match: {path: /fine}\n                direct_response: {status: 200, body: {inline_string: fine}}\n              - match: {prefix: /}\n                route: {cluster: a}\n";
    let text = bootstrap("", routes, &[("a", &[9], "")]).replace(
        "    filter_chains:",
        "    traffic_direction: INBOUND\n    filter_chains:",
    );
    let mut options = options(&text, 1);
    options.sidecar = Some(Sidecar {
        adopted: Vec::new(),
        sockets: Arc::new(Broken),
        addresses: Vec::new(),
        source: None,
        causes: None,
    });
    let running = serve(options);
    let mut bystander = client(&running);
    assert_eq!(bystander.get("a", "/fine").text(), "fine");
    for _ in 0..3 {
        let mut victim = client(&running);
        assert!(victim.request("GET", "a", "/", &[], b"").is_err());
        assert_eq!(bystander.get("a", "/fine").text(), "fine");
    }
    // Over HTTP/2 it is the stream's: its neighbours are served.
    let fine = [
        frames::GET[0],
        frames::GET[1],
        frames::GET[2],
        (":path", "/fine"),
    ];
    let mut victim = Connection::client(running.address("l").unwrap());
    for stream in [1, 5] {
        victim.send(&frames::get(stream));
        assert!(!matches!(
            victim.fate(stream),
            Fate::Answered(_) | Fate::Silent
        ));
        victim.send(&frames::headers(stream + 2, flag::END_STREAM, &fine));
        assert_eq!(victim.fate(stream + 2), Fate::Answered(200));
    }
    assert_eq!(bystander.get("a", "/fine").text(), "fine");
    drop(victim);
    wait::until_true(wait::GENEROUS, "the victims are gone", || {
        running.shared.connections() == 1
    });
}
