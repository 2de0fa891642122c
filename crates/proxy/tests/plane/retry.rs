//! Which requests are tried again, where, how often, and what they carry (R10.1, R10.2, R10.3).

use std::sync::Arc;
use std::time::{Duration, Instant};

use ripstop_model::snapshot::http::RouteSource;
use ripstop_model::snapshot::retry::RetryScope;
use ripstop_model::snapshot::route::Action;
use ripstop_proxy::Running;
use ripstop_testkit::http::Client;
use ripstop_testkit::upstream::{Step, Upstream, response};

use crate::kit::{bootstrap, client, edit, options, serve, start, stat};

#[test]
fn retries_go_elsewhere_and_bodies_are_sent_again() {
    let bad = Upstream::always(503, "bad");
    let good = Upstream::http(|request| response(200, &String::from_utf8_lossy(&request.body)));
    let routes = "              - match: {prefix: /}\n                route:\n                  cluster: a\n                  retry_policy:\n                    retry_on: 5xx\n                    num_retries: 1\n                    retry_host_predicate:\n                    - name: previous\n                      typed_config: {\"@type\": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}\n                    host_selection_retry_max_attempts: 5\n";
    let running = start(
        &bootstrap("", routes, &[("a", &[bad.port(), good.port()], "")]),
        1,
    );
    let mut client = client(&running);
    for _ in 0..10 {
        let response = client.request("POST", "a", "/", &[], b"again").unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "again"));
    }
    assert!(!bad.requests().is_empty());
}

/// One route with this retry policy (YAML flow style) and these further settings.
fn retrying(policy: &str, more: &str) -> String {
    format!(
        "              - match: {{prefix: /}}\n                route: {{cluster: a, retry_policy: {policy}{more}}}\n"
    )
}

/// As [`start`], with the retry policies made ripstop's implicit ones.
fn start_implicit(text: &str) -> Running {
    let mut options = options(text, 1);
    edit(&mut options.snapshot, |proxy| {
        let RouteSource::Inline(routes) = &mut proxy.routes else {
            return;
        };
        for host in &mut Arc::make_mut(routes).hosts {
            for route in &mut Arc::make_mut(host).routes {
                if let Action::Forward(forward) = &mut Arc::make_mut(route).action
                    && let Some(retry) = &mut forward.retry
                {
                    Arc::make_mut(retry).scope = RetryScope::Implicit;
                }
            }
        }
    });
    serve(options)
}

#[test]
fn implicit_retries_spare_what_may_have_been_done() {
    let up = Upstream::http(|_| vec![Step::Reset]);
    let policy = retrying("{retry_on: 'reset,connect-failure', num_retries: 1}", "");
    let running = start_implicit(&bootstrap("", &policy, &[("a", &[up.port()], "")]));
    for (method, made) in [("GET", 2), ("PUT", 2), ("POST", 1), ("PATCH", 1)] {
        let before = up.requests().len();
        let mut client = client(&running);
        let response = client.request(method, "a", "/", &[], b"").unwrap();
        assert_eq!(response.status, 503, "{method}");
        assert_eq!(up.requests().len() - before, made, "{method}");
    }
    // Nobody has accepted it: any method may go on to the next.
    let (good, dead) = (
        Upstream::always(200, "good"),
        ripstop_testkit::port::reserve(),
    );
    let ports = [dead.number(), good.port()];
    let policy = retrying(
        "{retry_on: connect-failure, num_retries: 1, retry_host_predicate: [{name: envoy.retry_host_predicates.previous_hosts}]}",
        "",
    );
    let running = start_implicit(&bootstrap("", &policy, &[("a", &ports, "")]));
    for _ in 0..8 {
        let response = client(&running).request("POST", "a", "/", &[], b"paid");
        assert_eq!(response.unwrap().status, 200);
    }
    assert_eq!(good.requests().len(), 8);
}

#[test]
fn a_retry_says_so_and_is_not_retried_again() {
    let up = Upstream::http(|_| response(503, ""));
    let policy = retrying("{retry_on: gateway-error, num_retries: 1}", "");
    let running = start_implicit(&bootstrap("", &policy, &[("a", &[up.port()], "")]));
    let mut client = client(&running);
    client.get("a", "/");
    let attempts: Vec<_> = up
        .requests()
        .iter()
        .map(|request| request.header("x-ripstop-attempt"))
        .collect();
    assert_eq!(attempts, [None, Some("1".to_owned())]);
    // The hop before is trying again already.
    let nested = client.request("GET", "a", "/", &[("x-ripstop-attempt", "1")], b"");
    assert_eq!(nested.unwrap().status, 503);
    assert_eq!(up.requests().len(), 3);
}

/// R10.3: of two proxies in a row the second tries again for the first request alone, not for the first one's retry.
#[test]
fn of_two_hops_one_tries_again() {
    let up = Upstream::http(|_| response(503, ""));
    let policy = retrying("{retry_on: gateway-error, num_retries: 1}", "");
    let second = start_implicit(&bootstrap("", &policy, &[("a", &[up.port()], "")]));
    let port = second.address("l").unwrap().port();
    let first = start_implicit(&bootstrap("", &policy, &[("a", &[port], "")]));
    assert_eq!(client(&first).get("a", "/").status, 503);
    let attempts: Vec<_> = up
        .requests()
        .iter()
        .map(|request| request.header("x-ripstop-attempt"))
        .collect();
    let again = Some("1".to_owned());
    assert_eq!(attempts, [None, again.clone(), again]);
}

/// R10.2: of 40 requests at once to an upstream that always fails, at most a fifth are tried again at a time.
#[test]
fn implicit_retries_have_a_budget() {
    let up = Upstream::http(|_| {
        let mut steps = vec![Step::Wait(Duration::from_millis(400))];
        steps.extend(response(503, ""));
        steps
    });
    let text = |settings: &str| {
        let policy = retrying(
            "{retry_on: gateway-error, num_retries: 1, retry_back_off: {base_interval: 0.001s}}",
            "",
        );
        bootstrap("", &policy, &[("a", &[up.port()], settings)])
    };
    let amplified = |running: &Running| {
        let before = up.requests().len();
        let address = running.address("l").unwrap();
        let callers: Vec<_> = (0..40)
            .map(|_| std::thread::spawn(move || Client::connect(address).get("a", "/").status))
            .collect();
        for caller in callers {
            assert_eq!(caller.join().unwrap(), 503);
        }
        up.requests().len() - before - 40
    };
    let running = start_implicit(&text(""));
    let retries = amplified(&running);
    assert!((1..=8).contains(&retries), "{retries} retries of 40");
    assert!(stat(&running, "cluster.a.upstream_rq_retry_overflow") >= Some(32));
    // What the user asked for is limited by what the user said alone.
    let lenient = "    circuit_breakers: {thresholds: [{max_retries: 1000}]}\n";
    assert_eq!(amplified(&start(&text(lenient), 1)), 40);
    let budget = "    circuit_breakers: {thresholds: [{retry_budget: {budget_percent: {value: 10}, min_retry_concurrency: 1}}]}\n";
    let retries = amplified(&start(&text(budget), 1));
    assert!((1..=4).contains(&retries), "{retries} retries of 40");
}

/// R10.2: in a chain of three services whose leaf always fails, the two hops that retry make less than 1.3 calls of the
/// leaf per request (two naive retries at each: nine).
#[test]
fn a_chain_of_retrying_hops_does_not_amplify() {
    let leaf = Upstream::http(|_| vec![Step::Wait(Duration::from_millis(400)), Step::Reset]);
    let hop = |port: u16| {
        let on = ripstop_model::defaults::RIPSTOP.retry.on;
        let retries = ripstop_model::defaults::RIPSTOP.retry.retries;
        let policy = format!(
            "{{retry_on: '{on}', num_retries: {retries}, retry_back_off: {{base_interval: 0.001s}}}}"
        );
        start_implicit(&bootstrap(
            "",
            &retrying(&policy, ""),
            &[("a", &[port], "")],
        ))
    };
    let second = hop(leaf.port());
    let leaf_at = second.address("l").unwrap();
    // Calls the leaf without a thought of its mesh, and hands on what comes.
    let middle = Upstream::http(move |_| {
        let answer = ripstop_testkit::http::get(leaf_at, "leaf", "/").unwrap();
        response(answer.status, "")
    });
    let first = hop(middle.port());
    let address = first.address("l").unwrap();
    let callers: Vec<_> = (0..60)
        .map(|_| std::thread::spawn(move || Client::connect(address).get("a", "/").status))
        .collect();
    for caller in callers {
        assert_eq!(caller.join().unwrap(), 503);
    }
    let calls = leaf.requests().len();
    assert!(
        (60..78).contains(&calls),
        "{calls} calls of the leaf for 60 requests"
    );
}

#[test]
fn the_deadline_includes_every_attempt() {
    let up = Upstream::http(|_| {
        let mut steps = vec![Step::Wait(Duration::from_millis(250))];
        steps.extend(response(503, ""));
        steps
    });
    let policy = retrying(
        "{retry_on: 5xx, num_retries: 50, retry_back_off: {base_interval: 0.001s}}",
        ", timeout: 0.8s",
    );
    let running = start(&bootstrap("", &policy, &[("a", &[up.port()], "")]), 1);
    let began = Instant::now();
    let response = client(&running).get("a", "/");
    assert_eq!(response.status, 504);
    assert_eq!(
        response.header("x-ripstop-reason"),
        Some("upstream_timeout")
    );
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!((2..=5).contains(&up.requests().len()));
    // A gRPC caller's own deadline counts in the same way, where the route lets it.
    let policy = retrying(
        "{retry_on: 5xx, num_retries: 50, retry_back_off: {base_interval: 0.001s}}",
        ", timeout: 30s, max_stream_duration: {grpc_timeout_header_max: 0s}",
    );
    let running = start(&bootstrap("", &policy, &[("a", &[up.port()], "")]), 1);
    let began = Instant::now();
    let headers = [
        ("content-type", "application/grpc"),
        ("grpc-timeout", "600m"),
    ];
    let response = client(&running).request("POST", "a", "/", &headers, b"");
    assert_eq!(
        response.unwrap().header("x-ripstop-reason"),
        Some("max_stream_duration")
    );
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_try_that_stalls_is_given_up() {
    let up = Upstream::http(|request| match request.number {
        0 => vec![Step::Wait(Duration::from_secs(20))],
        _ => response(200, "second"),
    });
    let policy = retrying(
        "{retry_on: reset, num_retries: 1, per_try_idle_timeout: 0.2s}",
        ", timeout: 30s",
    );
    let running = start(&bootstrap("", &policy, &[("a", &[up.port()], "")]), 1);
    assert_eq!(client(&running).get("a", "/").text(), "second");
    let stalled = Upstream::http(|_| vec![Step::Wait(Duration::from_secs(20))]);
    let policy = retrying("{per_try_idle_timeout: 0.2s}", ", timeout: 30s");
    let running = start(&bootstrap("", &policy, &[("a", &[stalled.port()], "")]), 1);
    let response = client(&running).get("a", "/");
    assert_eq!(response.status, 504);
    assert_eq!(
        response.header("x-ripstop-reason"),
        Some("per_try_idle_timeout")
    );
}

#[test]
fn retries_leave_the_priority_that_failed() {
    let (bad, good) = (Upstream::always(503, "bad"), Upstream::always(200, "good"));
    let policy = retrying(
        "{retry_on: 5xx, num_retries: 1, retry_priority: {name: envoy.retry_priorities.previous_priorities, typed_config: {'@type': type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig, update_frequency: 1}}}",
        "",
    );
    let group = |port: u16, priority: u32| {
        format!(
            "{{priority: {priority}, lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}"
        )
    };
    let text = bootstrap("", &policy, &[("a", &[1], "")]);
    let (head, _) = text.split_once("      endpoints:\n").unwrap();
    let text = format!(
        "{head}      endpoints: [{}, {}]\n",
        group(bad.port(), 0),
        group(good.port(), 1)
    );
    let running = start(&text, 1);
    let mut client = client(&running);
    for _ in 0..10 {
        assert_eq!(client.get("a", "/").text(), "good");
    }
    assert_eq!((bad.requests().len(), good.requests().len()), (10, 10));
}
