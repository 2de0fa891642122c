//! Hosts that lose their power, their cable, their address or their control plane: left in time, and back by themselves.

use std::time::{Duration, Instant};

use ripstop_testkit::wait;

use crate::lab::{Calls, Lab, PATIENCE, STRICT, callers, relay, with_rights};

/// What R22.2 grants, and what a loaded machine takes beside.
const LEFT: Duration = Duration::from_secs(15 + 5);

#[test]
fn a_host_without_power_is_left_and_comes_back() {
    with_rights(
        "losses::a_host_without_power_is_left_and_comes_back",
        || {
            let lab = Lab::new(callers()[0], &["a", "b", "c"]);
            let (a, b, c) = (lab.host("a"), lab.host("b"), lab.host("c"));
            a.write("config/mesh.yaml", STRICT);
            let _control = a.control(&[]);
            a.invite(b, "users", &[]);
            a.invite(c, "client", &["--ttl", "20s"]);
            let users = relay(b, a, "users", "80:8080");
            a.ready("users-0.default");
            let mut calls = Calls::begin(c, a, "http://users/x", "GET");
            let address = |ps: String| -> String {
                let line = ps
                    .lines()
                    .find(|line| line.contains("users-0.default"))
                    .unwrap()
                    .to_owned();
                line.split_whitespace().nth(2).unwrap().to_owned()
            };
            let before = address(a.ps());
            // Nobody says goodbye, and nothing closes a connection.
            lab.cable("b", false);
            let cut = Instant::now();
            b.kill_all();
            drop(users);
            a.listed("users-0.default", "lost");
            let took = cut.elapsed();
            eprintln!("left after {took:?}");
            assert!(took < LEFT, "{took:?}");
            calls.hear("failure <HTTPError 503");
            // The same command: the token was good for one join, and this is none.
            lab.cable("b", true);
            let _users = relay(b, a, "users", "80:8080");
            a.ready("users-0.default");
            calls.hear("answer users");
            assert_eq!(address(a.ps()), before);
            let (made, _) = calls.end();
            assert!(made > 10);
        },
    );
}

#[test]
fn a_host_that_gets_another_address_is_followed() {
    with_rights(
        "losses::a_host_that_gets_another_address_is_followed",
        || {
            let lab = Lab::new(callers()[0], &["a", "b", "c"]);
            let (a, b, c) = (lab.host("a"), lab.host("b"), lab.host("c"));
            a.write("config/mesh.yaml", STRICT);
            let _control = a.control(&[]);
            a.invite(b, "users", &[]);
            a.invite(c, "client", &[]);
            let mut users = relay(b, a, "users", "80:8080");
            a.ready("users-0.default");
            let mut calls = Calls::begin(c, a, "http://users/x", "GET");
            b.ip(&["address", "del", "10.9.0.2/24", "dev", "eth0"]);
            b.ip(&["address", "add", "10.9.0.200/24", "dev", "eth0"]);
            let moved = Instant::now();
            wait::until_true(PATIENCE, "the control plane to know", || {
                a.ps().contains("(10.9.0.200)")
            });
            calls.hear("answer users");
            eprintln!("answers again after {:?}", moved.elapsed());
            assert!(users.exited().is_none(), "nothing was started again");
            calls.end();
        },
    );
}

#[test]
fn a_control_plane_that_dies_costs_no_call() {
    with_rights("losses::a_control_plane_that_dies_costs_no_call", || {
        let lab = Lab::new(callers()[0], &["a", "b", "c"]);
        let (a, b, c) = (lab.host("a"), lab.host("b"), lab.host("c"));
        a.write("config/mesh.yaml", STRICT);
        let mut control = a.control(&[]);
        a.invite(b, "users", &["--uses", "2"]);
        a.invite(c, "client", &[]);
        let _users = relay(b, a, "users", "80:8080");
        a.ready("users-0.default");
        let calls = Calls::begin(c, a, "http://users/x", "POST");
        control.kill();
        // Whoever comes back while there is none waits for it.
        let mut second = relay(b, a, "users", "80:8080");
        assert!(!second.wait(PATIENCE).success());
        assert!(
            second.stderr().contains("does not answer"),
            "{}",
            second.report()
        );
        let _control = a.control(&[]);
        a.ready("users-0.default");
        let second = relay(b, a, "users", "80:8080");
        a.ready("users-1.default");
        drop(second);
        drop(_control);
        let mut impatient = relay(b, a, "users", "80:8080");
        impatient.line_with("waiting for the control plane", PATIENCE);
        assert_eq!(
            impatient.terminate(PATIENCE).code(),
            Some(128 + libc::SIGTERM)
        );
        let mut waiting = relay(b, a, "users", "80:8080");
        waiting.line_with("waiting for the control plane", PATIENCE);
        let _control = a.control(&[]);
        a.ready("users-1.default");
        let (made, failed) = calls.end();
        assert!(made > 20 && failed == 0, "{failed} of {made}");
    });
}

#[test]
fn an_instance_that_is_stopped_costs_no_call() {
    with_rights("losses::an_instance_that_is_stopped_costs_no_call", || {
        for caller in callers() {
            let lab = Lab::new(caller, &["a", "b"]);
            let (a, b) = (lab.host("a"), lab.host("b"));
            a.write("config/mesh.yaml", STRICT);
            let _control = a.control(&[]);
            a.invite(b, "users", &["--uses", "2"]);
            a.invite(a, "client", &[]);
            let _stays = relay(b, a, "users", "80:8080");
            a.ready("users-0.default");
            let mut goes = relay(b, a, "users", "80:8080");
            a.ready("users-1.default");
            // A POST is sent again by nobody once it may have been heard.
            let calls = Calls::begin(a, a, "http://users/x", "POST");
            for _ in 0..3 {
                assert_eq!(
                    goes.terminate(PATIENCE).code(),
                    Some(128 + libc::SIGTERM),
                    "{}",
                    goes.report()
                );
                assert!(!a.ps().contains("users-1.default"));
                goes = relay(b, a, "users", "80:8080");
                a.ready("users-1.default");
            }
            let (made, failed) = calls.end();
            assert!(made > 20 && failed == 0, "{failed} of {made}");
        }
    });
}
