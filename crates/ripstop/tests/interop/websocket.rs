//! WebSocket messages of every kind, with the `websockets` library on both ends.

use crate::between::{Between, Server, client, sidecars};

const SCRIPT: &str = "websocket.py";
/// How many cases the client plays.
const CASES: usize = 17;

#[test]
fn what_passes_with_envoy_between_passes_with_ripstop_between() {
    let server = Server::start(SCRIPT);
    let envoy = client(SCRIPT, Between::envoy(server.addr(), false).addr());
    let ripstop = client(SCRIPT, Between::ripstop(server.addr(), false).addr());
    assert_eq!(ripstop.count(), CASES, "{}", ripstop.said);
    let lost = envoy
        .passed
        .iter()
        .filter(|case| !ripstop.passed.contains(case));
    assert_eq!(lost.count(), 0, "{}", ripstop.said);
    assert_eq!(ripstop.passed.len(), CASES, "{}", ripstop.said);
}

#[test]
fn everything_passes_through_a_pair_of_sidecars() {
    let report = sidecars(SCRIPT, "http");
    assert_eq!(report.passed.len(), CASES, "{}", report.said);
}
