use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// Sockets of this process' own namespace.
#[derive(Default)]
struct Here {
    made: AtomicUsize,
}

impl Sockets for Here {
    fn stream(&self, family: Family) -> crate::Pending<'_, io::Result<OwnedFd>> {
        self.made.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let domain = match family {
                Family::V4 => socket2::Domain::IPV4,
                Family::V6 => socket2::Domain::IPV6,
            };
            Ok(socket2::Socket::new(domain, socket2::Type::STREAM, None)?.into())
        })
    }
}

fn probe(port: u16, path: Option<&str>) -> Probe {
    Probe {
        addresses: Vec::new(),
        port,
        path: path.map(str::to_owned),
        interval: Duration::from_millis(30),
        timeout: Duration::from_secs(2),
    }
}

async fn becomes(receiver: &mut watch::Receiver<bool>, wanted: bool) {
    tokio::time::timeout(PATIENCE, receiver.wait_for(|ready| *ready == wanted))
        .await
        .unwrap()
        .unwrap();
}

/// A port nobody listens on.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Answers every connection with the next of `answers`, the last one for ever; tells what it was asked.
fn serve(listener: TcpListener, answers: Vec<&'static str>) -> std::sync::mpsc::Receiver<String> {
    let (asked, requests) = std::sync::mpsc::sync_channel(64);
    std::thread::spawn(move || {
        for (index, stream) in listener.incoming().enumerate() {
            let Ok(mut stream) = stream else { return };
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                request.extend_from_slice(&byte);
            }
            let answer = answers.get(index).or(answers.last()).unwrap();
            // The prober may have given up.
            let _ = stream.write_all(answer.as_bytes());
            if asked.send(String::from_utf8(request).unwrap()).is_err() {
                return;
            }
        }
    });
    requests
}

#[tokio::test]
async fn a_port_that_opens_is_ready_and_one_that_closes_is_not() {
    let port = free_port();
    let mut ready = watch(probe(port, None), Arc::new(Here::default()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!*ready.borrow());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port))
        .await
        .unwrap();
    let accepting = tokio::spawn(async move {
        loop {
            drop(listener.accept().await);
        }
    });
    becomes(&mut ready, true).await;
    accepting.abort();
    becomes(&mut ready, false).await;
}

#[tokio::test]
async fn the_addresses_are_tried_in_order_and_the_one_that_answers_is_kept() {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let mut probe = probe(listener.local_addr().unwrap().port(), None);
    probe.addresses = vec!["127.0.0.9".parse().unwrap()];
    let sockets = Here::default();
    let mut targets = targets(&probe);
    assert_eq!(targets.len(), 3);
    assert!(once(&probe, &sockets, &mut targets).await.unwrap());
    assert_eq!(sockets.made.load(Ordering::Relaxed), 3);
    assert_eq!(targets[0], listener.local_addr().unwrap());
    assert!(once(&probe, &sockets, &mut targets).await.unwrap());
    assert_eq!(sockets.made.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn http_statuses_from_200_to_399_are_ready() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = serve(
        listener,
        vec![
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
            "not http at all\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.0 302 Found\r\nlocation: /x\r\n\r\n",
        ],
    );
    let sockets = Here::default();
    let probe = probe(port, Some("/health z"));
    let mut targets = targets(&probe);
    assert!(!once(&probe, &sockets, &mut targets).await.unwrap());
    let error = once(&probe, &sockets, &mut targets).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(once(&probe, &sockets, &mut targets).await.unwrap());
    let request = requests.recv_timeout(PATIENCE).unwrap();
    assert!(
        request.starts_with("GET /health%20z HTTP/1.1\r\nhost: localhost\r\n"),
        "{request}"
    );
}

#[tokio::test]
async fn one_bad_answer_is_forgiven_three_are_not() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    const OK: &str = "HTTP/1.1 200 OK\r\n\r\n";
    const BAD: &str = "HTTP/1.1 500 Oops\r\n\r\n";
    let requests = serve(listener, vec![OK, BAD, BAD, OK, BAD, BAD, BAD]);
    let mut ready = watch(probe(port, Some("/")), Arc::new(Here::default()));
    becomes(&mut ready, true).await;
    becomes(&mut ready, false).await;
    for _ in 0..7 {
        requests.recv_timeout(PATIENCE).unwrap();
    }
}

#[test]
fn probes_are_quick_while_starting_and_steady_afterwards() {
    let interval = Duration::from_secs(1);
    let mut standing = Standing::new();
    let mut pauses = Vec::new();
    for _ in 0..12 {
        pauses.push(standing.take(Outcome::Refused, interval));
    }
    assert_eq!(pauses[0], FIRST);
    assert!(pauses.is_sorted());
    assert_eq!(pauses[11], SLOWEST);
    assert_eq!(standing.take(Outcome::Passed, interval), interval);
    assert_eq!(standing.take(Outcome::Failed, interval), interval);
    assert!(standing.ready);
    assert_eq!(standing.take(Outcome::Refused, interval), FIRST);
    assert!(!standing.ready);
}
