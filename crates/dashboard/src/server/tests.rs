//! The dashboard in process, over real sockets.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use ripstop_testkit::http::Client;
use ripstop_testkit::wait;
use tokio::task::spawn_blocking;

use super::*;
use crate::picture::{Control, Edge, Look, Service, Traffic};

const PATIENCE: Duration = Duration::from_secs(20);

/// A mesh whose traffic grows with every look.
#[derive(Clone, Default)]
struct Mesh {
    looks: Arc<AtomicUsize>,
}

impl Source for Mesh {
    async fn look(&mut self) -> Look {
        let looks = self.looks.fetch_add(1, Ordering::SeqCst) + 1;
        let users = Service {
            name: "<img src=x onerror=alert(1)>".into(),
            ..Service::default()
        };
        Look {
            mesh: "shop".into(),
            version: "1.0".into(),
            control: Ok(Control {
                revision: 7,
                services: vec![users],
                ..Control::default()
            }),
            traffic: Traffic::Measured(vec![Edge {
                requests_per_second: looks as f64,
                ..Edge::default()
            }]),
        }
    }
}

const LIMITS: Limits = Limits {
    interval: Duration::from_millis(20),
    streams: 2,
    still: Duration::from_secs(30),
};

async fn served(limits: Limits) -> (SocketAddr, Mesh, Running) {
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mesh = Mesh::default();
    let running = start(listener, vec!["meshbox".into()], mesh.clone(), limits);
    (address, mesh, running)
}

/// A stream of events whose head has been read.
fn stream(address: SocketAddr) -> Client {
    let mut client = Client::connect(address);
    client.send(b"GET /api/events HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let head = upto(&mut client, "\r\n\r\n");
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.contains("text/event-stream"),
        "{head}"
    );
    client
}

/// What comes up to and with `end`.
fn upto(client: &mut Client, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        text.extend(client.bytes(1).expect("more"));
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn parts_are_json_and_the_whole_is_all_of_them() {
    let (address, _, running) = served(LIMITS).await;
    spawn_blocking(move || {
        let mut client = Client::connect(address);
        let part = client.get("localhost", "/api/services");
        assert_eq!(
            (part.status, part.header("content-type")),
            (200, Some("application/json"))
        );
        let part: serde_json::Value = serde_json::from_str(&part.text()).unwrap();
        assert_eq!(part["items"][0]["name"], "<img src=x onerror=alert(1)>");
        let whole = client.get("meshbox", "/api");
        let whole: serde_json::Value = serde_json::from_str(&whole.text()).unwrap();
        assert_eq!(whole["mesh"]["revision"], 7);
        assert_eq!(whole["services"], part);
        let lost = client.get("localhost", "/api/nothing");
        assert_eq!(lost.status, 404);
        assert!(lost.text().contains("/api/traffic"), "{}", lost.text());
    })
    .await
    .unwrap();
    running.stop().await;
}

#[tokio::test]
async fn the_page_is_served_and_protected() {
    let (address, mesh, running) = served(LIMITS).await;
    spawn_blocking(move || {
        let mut client = Client::connect(address);
        for path in ["/", "/app.js", "/style.css"] {
            let file = client.get("localhost", path);
            assert_eq!(file.status, 200, "{path}");
            assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
            let policy = file.header("content-security-policy").unwrap();
            assert!(
                policy.starts_with("default-src 'none'") && !policy.contains("unsafe"),
                "{policy}"
            );
        }
        let page = client.request("HEAD", "localhost", "/", &[], b"").unwrap();
        assert_eq!((page.status, page.body.len()), (200, 0));
    })
    .await
    .unwrap();
    assert_eq!(mesh.looks.load(Ordering::SeqCst), 0, "files need no look");
    running.stop().await;
}

#[tokio::test]
async fn strangers_are_refused() {
    let (address, _, running) = served(LIMITS).await;
    spawn_blocking(move || {
        let mut client = Client::connect(address);
        let rebound = client.get("evil.example", "/api");
        assert_eq!(rebound.status, 421);
        assert!(
            rebound.text().contains("\"error\":\"this Host"),
            "{}",
            rebound.text()
        );
        let other = [("origin", "http://evil.example")];
        let other = client
            .request("GET", "localhost", "/api", &other, b"")
            .unwrap();
        assert_eq!(other.status, 403);
        assert_eq!(other.header("access-control-allow-origin"), None);
        let write = client
            .request("POST", "localhost", "/api", &[], b"")
            .unwrap();
        assert_eq!(
            (write.status, write.header("allow")),
            (405, Some("GET, HEAD"))
        );
    })
    .await
    .unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_stream_begins_with_everything_and_goes_on_with_what_changes() {
    let (address, mesh, running) = served(LIMITS).await;
    spawn_blocking(move || {
        let mut stream = stream(address);
        let first = upto(&mut stream, "event: mesh");
        for part in [
            "retry: 2000",
            "event: traffic",
            "event: services",
            "event: sources",
        ] {
            assert!(first.contains(part), "{part} is not in {first}");
        }
        let second = upto(&mut stream, "event: mesh");
        assert!(second.contains("event: traffic"), "{second}");
        assert!(!second.contains("event: services"), "{second}");
    })
    .await
    .unwrap();
    // The reader has gone: before long nobody looks any more.
    let looks = || mesh.looks.load(Ordering::SeqCst);
    let mut before = usize::MAX;
    while before != looks() {
        before = looks();
        sleep(LIMITS.interval * 20).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn streams_are_bounded_and_end_with_the_server() {
    let (address, _, running) = served(LIMITS).await;
    let open = spawn_blocking(move || {
        let open = [stream(address), stream(address)];
        let refused = Client::connect(address).get("localhost", "/api/events");
        assert_eq!(
            (refused.status, refused.header("retry-after")),
            (503, Some("10"))
        );
        let [kept, closed] = open;
        drop(closed);
        let mut second = None;
        wait::until_true(PATIENCE, "the closed one's place", || {
            let mut client = Client::connect(address);
            client.send(b"GET /api/events HTTP/1.1\r\nhost: localhost\r\n\r\n");
            let is_stream = upto(&mut client, "\r\n\r\n").starts_with("HTTP/1.1 200 ");
            second = is_stream.then_some(client);
            is_stream
        });
        [kept, second.unwrap()]
    })
    .await
    .unwrap();
    timeout(PATIENCE, running.stop()).await.expect("an end");
    spawn_blocking(move || {
        for mut stream in open {
            let rest = upto(&mut stream, "0\r\n\r\n");
            assert!(rest.ends_with("\r\n0\r\n\r\n"));
            assert!(stream.closed());
        }
    })
    .await
    .unwrap();
    assert!(
        TcpStream::connect(address).is_err(),
        "nothing listens any more"
    );
}

#[tokio::test]
async fn who_says_nothing_is_closed() {
    let still = Duration::from_millis(100);
    let (address, _, running) = served(Limits { still, ..LIMITS }).await;
    spawn_blocking(move || {
        let mut silent = TcpStream::connect(address).unwrap();
        silent.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    })
    .await
    .unwrap();
    running.stop().await;
}

#[tokio::test]
async fn an_address_in_use_says_what_to_do() {
    let first = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let error = bind(first.local_addr().unwrap()).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("already in use") && text.contains("choose another port"),
        "{text}"
    );
    let error = bind("192.0.2.1:0".parse().unwrap()).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("an address that this machine has"),
        "{error}"
    );
}
