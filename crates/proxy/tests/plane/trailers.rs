//! What the trailers of a gRPC call decide: whether it is tried again, and what is learnt of who served it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use http::Request;
use ripstop_proxy::Running;

use crate::http2::{Answer, ask, client, run};
use crate::kit::{H2, H2Server, Reply, TO_A, bootstrap, reaches, start, stat};

/// Of a call, with a message or without.
fn reply(message: &str, status: &'static str) -> Reply {
    Reply::text(message)
        .header("content-type", "application/grpc")
        .trailer("grpc-status", status)
}

/// Calls `path` with these further fields.
async fn call(running: &Running, path: &str, fields: &[(&str, &str)]) -> Answer {
    let mut request = Request::post(format!("http://a.test{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let mut client = client(running).await;
    let body: &[u8] = b"\0\0\0\0\x01x";
    ask(&mut client, request.body(()).unwrap(), Some(body))
        .await
        .expect("an answer")
}

const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc")];

fn status(answer: &Answer) -> &str {
    let trailers = answer.trailers.as_ref().unwrap_or(&answer.headers);
    trailers
        .get("grpc-status")
        .map_or("", |value| value.to_str().unwrap())
}

/// A server that answers the first call of each path as the path says, and later ones well.
fn scripted() -> H2Server {
    let seen: Mutex<HashMap<String, usize>> = Mutex::default();
    H2Server::start(move |request, _| {
        let mut seen = seen.lock().unwrap();
        let count = seen.entry(request.uri().path().to_owned()).or_default();
        *count += 1;
        match (request.uri().path(), *count) {
            ("/always", _) | ("/unavailable" | "/plain", 1) => reply("", "14"),
            ("/other", 1) => reply("", "13"),
            ("/message", 1) => reply("\0\0\0\0\x01x", "14"),
            ("/late", 1) => reply("", "14").pause(Duration::from_secs(2)),
            ("/pushed", 1) => reply("", "14").trailer("grpc-retry-pushback-ms", "150"),
            ("/never", 1) => reply("", "14").trailer("grpc-retry-pushback-ms", "-1"),
            _ => reply("\0\0\0\0\x01y", "0"),
        }
    })
}

#[test]
fn a_status_in_trailers_that_no_message_comes_before_is_tried_again() {
    let up = scripted();
    let routes = "              - match: {prefix: /}\n                route: {cluster: a, timeout: 30s, retry_policy: {retry_on: 'unavailable,cancelled', num_retries: 1}}\n";
    let running = start(&bootstrap("", routes, &[("a", &[up.port()], H2)]), 1);
    let grpc = GRPC[0];
    run(async {
        // path, fields, requests that the server sees, the status that the client gets
        for (path, fields, requests, wanted) in [
            ("/unavailable", &[grpc][..], 2, "0"),
            ("/always", &[grpc], 2, "14"),
            ("/other", &[grpc], 1, "13"),
            // A message has gone to the client.
            ("/message", &[grpc], 1, "14"),
            ("/pushed", &[grpc], 2, "0"),
            ("/never", &[grpc], 1, "14"),
            // What is no call has no status.
            ("/plain", &[], 1, "14"),
        ] {
            let before = up.requests();
            let began = Instant::now();
            let answer = call(&running, path, fields).await;
            assert_eq!(
                (answer.status.as_u16(), status(&answer)),
                (200, wanted),
                "{path}"
            );
            assert_eq!(up.requests() - before, requests, "{path}");
            if path == "/pushed" {
                assert!(began.elapsed() >= Duration::from_millis(150));
            }
        }
    });
    reaches(&running, "cluster.a.upstream_rq_retry", 3);
    reaches(&running, "cluster.a.upstream_rq_retry_success", 2);
    reaches(&running, "cluster.a.upstream_rq_retry_limit_exceeded", 1);
}

/// A server that opens a stream early and speaks late: its head is not kept for the trailers.
#[test]
fn a_head_is_not_held_for_long() {
    let up = scripted();
    let routes = "              - match: {prefix: /}\n                route: {cluster: a, timeout: 30s, retry_policy: {retry_on: unavailable, num_retries: 1}}\n";
    let running = start(&bootstrap("", routes, &[("a", &[up.port()], H2)]), 1);
    run(async {
        let mut ready = client(&running).await.ready().await.unwrap();
        let request =
            Request::post("http://a.test/late").header("content-type", "application/grpc");
        let began = Instant::now();
        let (response, _) = ready.send_request(request.body(()).unwrap(), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let head = began.elapsed();
        assert!(head < Duration::from_secs(1), "{head:?}");
        assert!(body.data().await.is_none());
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "14");
    });
    assert_eq!(up.requests(), 1);
}

/// A call that failed with a message or without counts as the HTTP status that its own stands for.
#[test]
fn who_fails_in_trailers_is_ejected() {
    let up = H2Server::start(|request, _| match request.uri().path() {
        "/internal" => reply("\0\0\0\0\x01x", "13"),
        "/unavailable" => reply("\0\0\0\0\x01x", "14"),
        "/missing" => reply("", "5"),
        _ => reply("\0\0\0\0\x01x", "0"),
    });
    let settings = format!(
        "{H2}    outlier_detection: {{consecutive_5xx: 3, consecutive_gateway_failure: 2, enforcing_consecutive_gateway_failure: 100, interval: 300s, base_ejection_time: 300s, max_ejection_percent: 100}}\n    common_lb_config: {{healthy_panic_threshold: {{value: 0.0}}}}\n"
    );
    for (paths, ejected) in [
        (&["/missing", "/missing", "/missing", "/missing"][..], 0),
        (&["/internal", "/internal", "/ok", "/internal"], 0),
        (&["/unavailable", "/internal", "/unavailable"], 1),
        (&["/unavailable", "/unavailable"], 1),
        (&["/internal", "/internal", "/internal"], 1),
    ] {
        let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], &settings)]), 1);
        run(async {
            for path in paths {
                assert_eq!(call(&running, path, GRPC).await.status, 200, "{paths:?}");
            }
            let name = "cluster.a.outlier_detection.ejections_enforced_total";
            assert_eq!(stat(&running, name), Some(ejected), "{paths:?}");
            let next = status(&call(&running, "/ok", GRPC).await).to_owned();
            assert_eq!(next, if ejected == 1 { "14" } else { "0" }, "{paths:?}");
        });
    }
}

/// The balancer learns of it: who fails in its trailers, or asks to be left alone there, is avoided.
#[test]
fn who_fails_in_trailers_is_avoided() {
    for (bad, pushback) in [("14", None), ("8", Some("5000"))] {
        let bad = H2Server::start(move |_, _| {
            let reply = reply("\0\0\0\0\x01x", bad);
            match pushback {
                Some(wait) => reply.trailer("grpc-retry-pushback-ms", wait),
                None => reply,
            }
        });
        let good = H2Server::start(|_, _| reply("\0\0\0\0\x01x", "0"));
        let settings = format!(
            "{H2}    metadata: {{filter_metadata: {{ripstop: {{peakEwmaDecayMs: 600000}}}}}}\n"
        );
        let ports = [bad.port(), good.port()];
        let running = start(&bootstrap("", TO_A, &[("a", &ports, &settings)]), 1);
        run(async {
            let mut client = client(&running).await;
            for _ in 0..200 {
                let request = Request::post("http://a.test/").header(GRPC[0].0, GRPC[0].1);
                let answer = ask(&mut client, request.body(()).unwrap(), Some(b""))
                    .await
                    .unwrap();
                assert_eq!(answer.status, 200);
            }
        });
        // Of two draws both fall on it a quarter of the time; half of the calls would be its part.
        assert!(bad.requests() < 75, "{} of 200", bad.requests());
    }
}
