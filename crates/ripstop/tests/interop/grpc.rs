//! The client cases of the gRPC interoperability test, with grpcio on both ends.

use ripstop_testkit::wait;

use crate::between::{Between, PATIENCE, Report, Server, client, sidecars};

const SCRIPT: &str = "grpc_interop.py";

const CASES: [&str; 14] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "custom_metadata",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "unimplemented_service",
    "cancel_after_begin",
    "cancel_after_first_response",
    "timeout_on_sleeping_server",
];

fn all_passed(report: &Report) {
    assert_eq!(report.passed, CASES, "{}", report.said);
}

#[test]
fn all_cases_pass_through_the_proxy() {
    let server = Server::start(SCRIPT);
    let between = Between::ripstop(server.addr(), true);
    all_passed(&client(SCRIPT, between.addr()));
    // What a client gives up is given up on the other side as well.
    wait::until_true(PATIENCE, "the server to hear of the cancellation", || {
        server.process.stdout().contains("cancelled FullDuplexCall")
    });
}

#[test]
fn all_cases_pass_through_a_pair_of_sidecars() {
    all_passed(&sidecars(SCRIPT, "grpc"));
}
