//! Pooled connections that their server ends while a request is on its way (R5.1, R5.2).

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ripstop_testkit::http::Client;
use ripstop_testkit::upstream::{Step, Upstream, response};
use ripstop_testkit::wait;

use crate::kit::{TO_A, bootstrap, client, start};

#[test]
fn a_pooled_connection_that_ended_costs_a_get_nothing() {
    let up = Upstream::http(|request| match request.number % 2 {
        0 => response(200, "kept"),
        // Takes the request and closes without a byte.
        _ => vec![Step::Close],
    });
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    let mut client = client(&running);
    for _ in 0..4 {
        assert_eq!(client.get("a", "/").status, 200);
    }
}

#[test]
fn a_replay_takes_a_fresh_connection() {
    // Every connection answers once, and then takes one request and closes without a byte.
    let up = Upstream::tcp(|conversation| {
        conversation.request()?;
        for step in response(200, "once") {
            conversation.play(&step)?;
        }
        conversation.request()?;
        conversation.play(&Step::Close)?;
        Ok(())
    });
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 1);
    // Several pooled connections, each of them good for nothing.
    let mut clients: Vec<Client> = (0..4).map(|_| client(&running)).collect();
    for client in &mut clients {
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.response().unwrap().status, 200);
    }
    for client in &mut clients {
        assert_eq!(client.get("a", "/").status, 200);
    }
}

/// At the limit of connections a replay is given its turn, but no connection that may end like the one before.
#[test]
fn a_replay_that_waits_its_turn_takes_a_fresh_connection() {
    // As above, but slowly.
    let up = Upstream::tcp(|conversation| {
        const MOMENT: Step = Step::Wait(Duration::from_millis(300));
        conversation.request()?;
        conversation.play(&MOMENT)?;
        for step in response(200, "once") {
            conversation.play(&step)?;
        }
        conversation.request()?;
        conversation.play(&MOMENT)?;
        conversation.play(&Step::Close)?;
        Ok(())
    });
    let one = "    circuit_breakers: {thresholds: [{max_connections: 1}]}\n";
    let running = start(&bootstrap("", TO_A, &[("a", &[up.port()], one)]), 1);
    let (mut first, mut second) = (client(&running), client(&running));
    assert_eq!(first.get("a", "/").status, 200);
    // By the connection that ends; meanwhile another waits, is served by a new one, and hands that on.
    first.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    wait::until_true(wait::GENEROUS, "it is sent", || up.requests().len() == 2);
    second.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(second.response().unwrap().status, 200);
    assert_eq!(first.response().unwrap().status, 200);
    assert_eq!(up.connections(), 3);
}

/// An application that closes a connection after it was idle for so long, and counts what it was asked.
struct Impatient {
    address: SocketAddr,
    seen: Arc<Mutex<HashMap<String, usize>>>,
}

impl Impatient {
    fn start(idle: Duration) -> Impatient {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let told = seen.clone();
        // Ends with the process: it holds nothing but loopback sockets.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = told.clone();
                std::thread::spawn(move || answer(stream, idle, &seen));
            }
        });
        Impatient { address, seen }
    }
}

fn answer(mut stream: TcpStream, idle: Duration, seen: &Mutex<HashMap<String, usize>>) {
    stream.set_read_timeout(Some(idle)).unwrap();
    let mut text = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        while let Some(end) = text.windows(4).position(|w| w == b"\r\n\r\n") {
            let head: Vec<u8> = text.drain(..end + 4).collect();
            let line = String::from_utf8_lossy(&head);
            let line = line.lines().next().unwrap_or_default().to_owned();
            *seen.lock().unwrap().entry(line).or_default() += 1;
            let sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            if sent.is_err() {
                return;
            }
        }
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => text.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
}

/// R5.1, scaled down: clients that come back just when the application closes their connections.
#[test]
fn clients_in_step_with_idle_timeouts_see_no_503_and_no_duplicates() {
    const IDLE: Duration = Duration::from_millis(1000);
    let app = Impatient::start(IDLE);
    let running = start(&bootstrap("", TO_A, &[("a", &[app.address.port()], "")]), 2);
    let address = running.address("l").unwrap();
    let failed = |method: &'static str| -> usize {
        let callers: Vec<_> = (0..40)
            .map(|caller| std::thread::spawn(move || come_back(address, method, caller, IDLE)))
            .collect();
        callers
            .into_iter()
            .map(|caller| caller.join().unwrap())
            .sum()
    };
    assert_eq!(failed("GET"), 0);
    // A request that may have been processed is not sent again: a rare one is answered with 503.
    let posts = failed("POST");
    assert!(posts <= 1, "{posts} of 160 failed");
    let seen = app.seen.lock().unwrap();
    let twice: Vec<_> = seen
        .iter()
        .filter(|(line, count)| line.starts_with("POST") && **count > 1)
        .collect();
    assert!(twice.is_empty(), "{twice:?}");
}

/// Four requests on one connection, from a little before the application's limit to a little after it; how many failed.
fn come_back(address: SocketAddr, method: &str, caller: u64, idle: Duration) -> usize {
    let mut client = Client::connect(address);
    let mut failed = 0;
    for round in 0..4 {
        let began = Instant::now();
        let path = format!("/{caller}/{round}");
        let status = client.request(method, "a", &path, &[], b"").unwrap().status;
        failed += usize::from(status != 200);
        let around = idle + Duration::from_micros(200 * (caller % 20));
        std::thread::sleep(around.saturating_sub(Duration::from_millis(2) + began.elapsed()));
    }
    failed
}
