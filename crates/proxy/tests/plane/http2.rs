//! HTTP/2 on either side of the data plane, in this process, on loopback; and mesh mTLS between two of them.

use std::time::{Duration, Instant, SystemTime};

use crate::kit::{self, H2, H2Server, Reply, TO_A, bootstrap, start, start_as};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request, StatusCode};
use ripstop_testkit::http::Client;
use ripstop_testkit::upstream::{Step, Upstream, response};
use ripstop_testkit::wait;

pub(crate) async fn client(running: &ripstop_proxy::Running) -> SendRequest<Bytes> {
    let address = running.address("l").expect("bound");
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://a.test{path}"))
        .body(())
        .unwrap()
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

pub(crate) async fn ask(
    client: &mut SendRequest<Bytes>,
    request: Request<()>,
    body: Option<&[u8]>,
) -> Result<Answer, h2::Error> {
    let mut ready = client.clone().ready().await?;
    let (response, mut stream) = ready.send_request(request, body.is_none())?;
    if let Some(body) = body {
        let body = Bytes::copy_from_slice(body);
        tokio::spawn(async move {
            let mut left = body;
            while !left.is_empty() {
                stream.reserve_capacity(left.len());
                let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await
                else {
                    return;
                };
                let piece = left.split_to(room.min(left.len()));
                if stream.send_data(piece, false).is_err() {
                    return;
                }
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sent", "all".parse().unwrap());
            let _ = stream.send_trailers(trailers);
        });
    }
    let (head, mut stream) = tokio::time::timeout(wait::GENEROUS, response)
        .await
        .expect("no response")?
        .into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        let _ = stream.flow_control().release_capacity(data.len());
        body.extend_from_slice(&data);
    }
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body,
        trailers: stream.trailers().await?,
    })
}

pub(crate) fn run<F: Future<Output = ()>>(test: F) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

#[test]
fn an_http2_client_reaches_an_http1_server() {
    let up = Upstream::http(|request| {
        let body = format!(
            "{} {} cookie={} te={}",
            request.method(),
            String::from_utf8_lossy(&request.body).len(),
            request.header("cookie").unwrap_or_default(),
            request.header("transfer-encoding").unwrap_or_default(),
        );
        vec![Step::Write(
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\nx-t: 1\r\n\r\n", body.len())
                .into_bytes(),
        )]
    });
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    run(async {
        let mut client = client(&running).await;
        let request = Request::get("http://a.test/x?y=1")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(())
            .unwrap();
        let answer = ask(&mut client, request, None).await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(
            String::from_utf8_lossy(&answer.body),
            "GET 0 cookie=a=1; b=2 te="
        );
        assert_eq!(answer.trailers.unwrap()["x-t"], "1");
        assert!(answer.headers.contains_key("date"));
        let big = vec![b'x'; 1 << 20];
        let post = Request::post("http://a.test/up").body(()).unwrap();
        let answer = ask(&mut client, post, Some(&big)).await.unwrap();
        assert_eq!(
            String::from_utf8_lossy(&answer.body),
            format!("POST {} cookie= te=chunked", 1 << 20)
        );
    });
    assert_eq!(up.requests()[0].header("host").as_deref(), Some("a.test"));
}

#[test]
fn an_http1_client_reaches_an_http2_server_over_one_connection() {
    let up = H2Server::start(|request, body| {
        Reply::text(&format!("{} {}", request.uri().path(), body.len()))
            .trailer("x-t", "1")
            .after(Duration::from_millis(20))
    });
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], H2)]), 1);
    let address = running.address("l").unwrap();
    let clients: Vec<_> = (0..20)
        .map(|n| {
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                let path = format!("/{n}");
                let body = "x".repeat(n * 1000);
                let response = client.request("POST", "a", &path, &[], body.as_bytes());
                response.unwrap().text()
            })
        })
        .collect();
    for (n, client) in clients.into_iter().enumerate() {
        assert_eq!(client.join().unwrap(), format!("/{n} {}", n * 1000));
    }
    assert_eq!(up.connections(), 1);
}

#[test]
fn grpc_passes_with_its_trailers_and_its_errors() {
    let up = H2Server::start(|request, body| {
        assert_eq!(request.headers()["te"], "trailers");
        Reply::text(&format!("echo {}", body.len()))
            .header("content-type", "application/grpc")
            .trailer("grpc-status", "5")
    });
    let grpc = || {
        Request::post("http://a.test/svc/Method")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap()
    };
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], H2)]), 1);
    // Two messages, of three bytes and of none.
    let messages = b"\0\0\0\0\x03abc\0\0\0\0\0";
    run(async {
        let mut client = client(&running).await;
        let answer = ask(&mut client, grpc(), Some(messages)).await.unwrap();
        assert_eq!(answer.body, b"echo 13");
        assert_eq!(answer.trailers.unwrap()["grpc-status"], "5");
    });
    wait::until_true(wait::GENEROUS, "the counted messages", || {
        let page = running.shared.registry.prometheus(SystemTime::now());
        page.lines().any(|line| {
            line.starts_with("istio_request_messages_total{")
                && line.contains("grpc_response_status=\"5\"")
                && line.ends_with(" 2")
        })
    });
    // Nobody there: what the proxy says itself it says as gRPC.
    let port = ripstop_testkit::port::reserve().number();
    let running = start(&bootstrap("", TO_A, &[("a", &[port], H2)]), 1);
    run(async {
        let mut client = client(&running).await;
        let answer = ask(&mut client, grpc(), Some(b"1")).await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["grpc-status"], "14");
        assert_eq!(answer.headers["x-ripstop-reason"], "connect_failure");
        let plain = ask(&mut client, get("/"), None).await.unwrap();
        assert_eq!(plain.status, 503);
    });
}

#[test]
fn one_stream_of_many_may_fail() {
    let up = H2Server::start(|request, _| match request.uri().path() {
        "/reset" => Reply::reset(h2::Reason::INTERNAL_ERROR),
        path => Reply::text(path),
    });
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], H2)]), 1);
    run(async {
        let mut client = client(&running).await;
        let answer = ask(&mut client, get("/reset"), None).await.unwrap();
        assert_eq!(answer.status, 503);
        assert_eq!(answer.headers["x-ripstop-reason"], "upstream_reset");
        let answer = ask(&mut client, get("/fine"), None).await.unwrap();
        assert_eq!(answer.body, b"/fine");
    });
    assert_eq!(up.connections(), 1);
}

#[test]
fn refused_streams_are_tried_again() {
    let up = H2Server::start({
        let asked = std::sync::atomic::AtomicUsize::new(0);
        move |request, body| match asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => Reply::reset(h2::Reason::REFUSED_STREAM),
            _ => Reply::text(&format!("{} {}", request.method(), body.len())),
        }
    });
    let routes = "              - match: {prefix: /}\n                route: {cluster: a, retry_policy: {retry_on: refused-stream}}\n";
    let running = start(&bootstrap("", routes, &[("a", &[up.port()], H2)]), 1);
    run(async {
        let mut client = client(&running).await;
        let post = Request::post("http://a.test/").body(()).unwrap();
        let answer = ask(&mut client, post, Some(b"once")).await.unwrap();
        assert_eq!(answer.body, b"POST 4");
    });
}

#[test]
fn a_server_that_goes_away_is_left_for_a_new_connection() {
    let up = H2Server::start(|request, _| match request.uri().path() {
        "/last" => Reply::text("last").goaway(),
        _ => Reply::text("more"),
    });
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], H2)]), 1);
    run(async {
        let mut client = client(&running).await;
        for _ in 0..3 {
            let answer = ask(&mut client, get("/last"), None).await.unwrap();
            assert_eq!(answer.body, b"last");
            let answer = ask(&mut client, get("/"), None).await.unwrap();
            assert_eq!(answer.body, b"more", "{:?}", answer.headers);
        }
    });
    assert!(up.connections() >= 2);
}

#[test]
fn a_client_that_cancels_cancels_upstream() {
    let up = H2Server::start(|_, _| Reply::text("late").after(Duration::from_secs(60)));
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], H2)]), 1);
    run(async {
        let client = client(&running).await;
        let mut ready = client.ready().await.unwrap();
        let (response, mut stream) = ready.send_request(get("/"), true).unwrap();
        wait_for(|| up.requests() == 1).await;
        stream.send_reset(h2::Reason::CANCEL);
        drop(response);
        wait_for(|| up.resets() == 1).await;
    });
}

async fn wait_for(done: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + wait::GENEROUS;
    while !done() {
        assert!(std::time::Instant::now() < deadline, "waited in vain");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn large_bodies_flow_both_ways_at_once() {
    let up = H2Server::start(|_, body| Reply::bytes(body.to_vec()));
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], H2)]), 2);
    run(async {
        let mut client = client(&running).await;
        let big: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
        let post = Request::post("http://a.test/").body(()).unwrap();
        let answer = ask(&mut client, post, Some(&big)).await.unwrap();
        assert!(answer.body == big, "{} bytes", answer.body.len());
    });
}

#[test]
fn a_flood_of_resets_ends_the_connection() {
    let up = Upstream::always(200, "x");
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    run(async {
        let flood = client(&running).await;
        let mut sent = 0;
        for _ in 0..20_000 {
            let Ok(mut ready) = flood.clone().ready().await else {
                break;
            };
            let Ok((_, mut stream)) = ready.send_request(get("/"), true) else {
                break;
            };
            stream.send_reset(h2::Reason::CANCEL);
            sent += 1;
            tokio::task::yield_now().await;
        }
        assert!(sent < 20_000, "the connection was never closed");
        // Others are served all the same.
        let mut other = client(&running).await;
        let answer = ask(&mut other, get("/"), None).await.unwrap();
        assert_eq!(answer.status, 200);
        drop(flood);
    });
}

#[test]
fn either_version_is_told_by_its_first_bytes() {
    let up = Upstream::always(200, "x");
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    let mut slow = Client::connect(running.address("l").unwrap());
    // Begins as the preface of HTTP/2 does.
    slow.send(b"P");
    std::thread::sleep(Duration::from_millis(50));
    slow.send(b"R");
    std::thread::sleep(Duration::from_millis(50));
    slow.send(b"OPFIND / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(slow.response().unwrap().status, 200);
    run(async {
        use tokio::io::AsyncWriteExt;
        let address = running.address("l").unwrap();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
            stream.write_all(&[*byte]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // An empty SETTINGS frame is answered by the server's own.
        stream
            .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
            .await
            .unwrap();
        let mut head = [0u8; 9];
        use tokio::io::AsyncReadExt;
        tokio::time::timeout(wait::GENEROUS, stream.read_exact(&mut head))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(head[3], 4);
    });
}

#[test]
fn informational_responses_cross_both_ways() {
    const HINT: &[u8] = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
    let up = Upstream::http(|_| {
        let mut steps = vec![Step::Write(HINT.to_vec())];
        steps.extend(response(200, "whole"));
        steps
    });
    let inner = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    let port = inner.address("l").unwrap().port();
    // HTTP/1 to HTTP/2 in one proxy and back to HTTP/1 in the other.
    let outer = start(&bootstrap("", TO_A, &[("a", &[port], H2)]), 1);
    let mut client = Client::connect(outer.address("l").unwrap());
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let hint = client.any_response(false).unwrap();
    assert_eq!((hint.status, hint.header("link")), (103, Some("</a.css>")));
    let whole = client.response().unwrap();
    assert_eq!((whole.status, whole.text().as_str()), (200, "whole"));
}

#[test]
fn what_only_http1_has_is_left_behind() {
    let up = H2Server::start(|request, _| {
        let query = request.uri().query().unwrap_or_default();
        Reply::text(&format!("{query} {:?}", request.headers().get("te")))
    });
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], H2)]), 1);
    let mut client = Client::connect(running.address("l").unwrap());
    let answer = client
        .request(
            "GET",
            "a",
            "/?q=<`>",
            &[
                ("TE", "trailers, deflate;q=0.5"),
                ("Connection", "TE, X-Mine"),
                ("X-Mine", "1"),
                ("Upgrade", "h2c"),
            ],
            b"",
        )
        .unwrap();
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (200, "q=%3C%60%3E None")
    );
    for (method, status) in [("HEAD", 200), ("OPTIONS", 200), ("TRACE", 405)] {
        let answer = client.request(method, "a", "/", &[], b"").unwrap();
        assert_eq!(answer.status, status, "{method}");
    }
}

#[test]
fn a_client_that_does_not_read_holds_little_and_stops_nobody() {
    let up = Upstream::http(|_| response(200, &"x".repeat(1 << 20)));
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    run(async {
        let stalled = client(&running).await;
        let mut held = Vec::new();
        for _ in 0..50 {
            let mut ready = stalled.clone().ready().await.unwrap();
            let (response, _) = ready.send_request(get("/"), true).unwrap();
            // The head is taken, the body is not.
            held.push(response.await.unwrap());
        }
        let mut other = client(&running).await;
        let answer = ask(&mut other, get("/"), None).await.unwrap();
        assert_eq!(answer.body.len(), 1 << 20);
        // Whoever comes back gets everything.
        let readers = held.into_iter().map(|response| {
            tokio::spawn(async move {
                let mut body = response.into_body();
                let mut count = 0;
                while let Some(data) = body.data().await {
                    let data = data.unwrap();
                    count += data.len();
                    let _ = body.flow_control().release_capacity(data.len());
                }
                count
            })
        });
        for reader in readers.collect::<Vec<_>>() {
            assert_eq!(reader.await.unwrap(), 1 << 20);
        }
    });
}

#[test]
fn draining_says_goaway_and_finishes_what_runs() {
    let up = H2Server::start(|request, _| match request.uri().path() {
        "/slow" => Reply::text("done").after(Duration::from_millis(300)),
        _ => Reply::text("quick"),
    });
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], H2)]), 1);
    run(async {
        let mut client = client(&running).await;
        let mut second = client.clone();
        let slow = tokio::spawn(async move { ask(&mut second, get("/slow"), None).await });
        wait_for(|| up.requests() == 1).await;
        running.drain().await;
        assert_eq!(slow.await.unwrap().unwrap().body, b"done");
        assert!(ask(&mut client, get("/"), None).await.is_err());
    });
}

/// A cluster that speaks mesh mTLS, and a chain that demands it.
pub(crate) const MESH_CLUSTER: &str = r#"    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: outbound_.80_._.a.default.svc.cluster.local
        common_tls_context:
          alpn_protocols: [istio-peer-exchange, istio]
          tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}
          tls_certificate_sds_secret_configs: [{name: default}]
          combined_validation_context:
            default_validation_context:
              match_typed_subject_alt_names:
              - {san_type: URI, matcher: {exact: "spiffe://cluster.local/ns/default/sa/server"}}
            validation_context_sds_secret_config: {name: ROOTCA}
"#;
pub(crate) const MESH_CHAIN: &str = r#"      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            alpn_protocols: [istio-h2, istio-http/1.1, h2, http/1.1]
            tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}
            tls_certificate_sds_secret_configs: [{name: default}]
            combined_validation_context:
              default_validation_context: {}
              validation_context_sds_secret_config: {name: ROOTCA}
"#;
const XFCC: &str = "          forward_client_cert_details: SANITIZE_SET\n          set_current_client_cert_details: {uri: true}\n";

#[test]
fn two_sidecars_speak_mtls_in_either_version() {
    let mesh = kit::Mesh::new();
    let up = Upstream::http(|request| {
        response(
            200,
            &request
                .header("x-forwarded-client-cert")
                .unwrap_or_default(),
        )
    });
    let inbound = bootstrap(XFCC, TO_A, &[("a", &[up.port()], "")]);
    let inbound = inbound.replace(
        "    filter_chains:\n    - filters:",
        &format!(
            "    filter_chains:\n    - {}\n      filters:",
            MESH_CHAIN.trim_start().trim_end()
        ),
    );
    let server = start_as(&inbound, 1, Some(mesh.identity("server")));
    let port = server.address("l").unwrap().port();
    for protocol in ["", H2] {
        let settings = format!("{MESH_CLUSTER}{protocol}");
        let outbound = bootstrap("", TO_A, &[("a", &[port], &settings)]);
        let proxy = start_as(&outbound, 1, Some(mesh.identity("client")));
        let mut client = Client::connect(proxy.address("l").unwrap());
        for _ in 0..3 {
            let answer = client.get("a", "/");
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert!(
                answer
                    .text()
                    .contains("URI=spiffe://cluster.local/ns/default/sa/client")
            );
        }
        // Somebody else's certificate, from the same mesh's point of view: untrusted, both ways.
        let foreign = start_as(&outbound, 1, Some(kit::Mesh::new().identity("client")));
        let answer = Client::connect(foreign.address("l").unwrap()).get("a", "/");
        assert_eq!(answer.status, 503);
        assert_eq!(
            answer.header("x-ripstop-reason"),
            Some("tls_untrusted_peer")
        );
    }
    // A client that trusts anybody and is trusted by nobody: with TLS 1.3 it hears of that only when it reads.
    let start_of = MESH_CLUSTER
        .find("          combined_validation_context")
        .unwrap();
    let trusting = &MESH_CLUSTER[..start_of];
    for protocol in ["", H2] {
        let settings = format!("{trusting}{protocol}");
        let outbound = bootstrap("", TO_A, &[("a", &[port], &settings)]);
        let foreign = start_as(&outbound, 1, Some(kit::Mesh::new().identity("client")));
        let answer = Client::connect(foreign.address("l").unwrap()).get("a", "/");
        assert_eq!(answer.status, 503);
        assert_eq!(
            answer.header("x-ripstop-reason"),
            Some("tls_untrusted_peer")
        );
    }
    // Plain text where mTLS is demanded.
    let mut plain = Client::connect(server.address("l").unwrap());
    plain.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(plain.response().is_err());
    // Nothing at all, or a ClientHello that stops: for as long as a handshake may take, whatever detection may.
    let patient = inbound
        .replace(
            "    filter_chains:\n    - ",
            "    listener_filters_timeout: 0s\n    listener_filters: [{name: tls, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}]\n    filter_chains:\n    - transport_socket_connect_timeout: 0.3s\n      ",
        );
    let server = start_as(&patient, 1, Some(mesh.identity("server")));
    for said in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01"] {
        let begun = Instant::now();
        let mut silent = Client::connect(server.address("l").unwrap());
        silent.send(said);
        assert!(silent.response().is_err());
        assert!(begun.elapsed() < Duration::from_secs(8), "{said:?}");
    }
}
