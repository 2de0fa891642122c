//! What floods cost, and what others feel of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ripstop_testkit::frames::{
    self, Connection, block, code, flag, frame, headers, kind, settings, window_update,
};
use ripstop_testkit::http::Client;

use super::Lab;

/// Connections that flood, one after the other, and how often each would repeat its frames.
const ATTACKERS: usize = 20;
const TIMES: usize = 10_000;

/// One connection's flood: what it begins with and what it repeats, for the nth time.
type Flood = (&'static str, fn() -> Vec<u8>, fn(u32) -> Vec<u8>);

const FLOODS: &[Flood] = &[
    ("PING", Vec::new, |_| frame(kind::PING, 0, 0, &[0; 8])),
    ("SETTINGS", Vec::new, |_| settings(&[(9, 1); 100])),
    ("PRIORITY", Vec::new, |_| {
        frame(kind::PRIORITY, 0, 3, &[0; 5])
    }),
    ("unknown frames", Vec::new, |_| frame(0xbe, 0, 0, b"grease")),
    ("WINDOW_UPDATE", Vec::new, |_| window_update(0, 1)),
    (
        "empty DATA",
        || headers(1, 0, &frames::POST),
        |_| frame(kind::DATA, 0, 1, &[]),
    ),
    (
        "CONTINUATION",
        || frame(kind::HEADERS, 0, 1, &block(&frames::GET)),
        |_| frame(kind::CONTINUATION, 0, 1, &block(&[("x", "y")]).repeat(200)),
    ),
    ("resets", Vec::new, |n| {
        [
            frames::get(n * 2 + 1),
            frames::reset(n * 2 + 1, code::CANCEL),
        ]
        .concat()
    }),
    ("HPACK bombs", Vec::new, |n| {
        let mut bomb = block(&frames::GET);
        bomb.push(0x40);
        frames::text(b"x", &mut bomb);
        frames::text(&[b'a'; 4000], &mut bomb);
        bomb.extend([0xbe; 3000]);
        frame(
            kind::HEADERS,
            flag::END_HEADERS | flag::END_STREAM,
            n * 2 + 1,
            &bomb,
        )
    }),
];

/// The slowest but one in a hundred.
fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() * 99 / 100]
}

/// Requests of a bystander, one after the other, until told to stop; how long each took.
fn bystander(lab: &Lab, least: usize, over: &AtomicBool) -> Vec<Duration> {
    let mut client = Client::connect(lab.address);
    let mut times = Vec::new();
    while times.len() < least || !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        assert_eq!(client.get("a", "/").text(), "fine");
        times.push(begun.elapsed());
    }
    times
}

#[test]
fn floods_cost_little_and_others_feel_nothing() {
    let lab = Lab::alone();
    let over = AtomicBool::new(true);
    bystander(&lab, 200, &over);
    let calm = p99(bystander(&lab, 500, &over));
    for (what, before, repeated) in FLOODS {
        let (memory, cpu) = (lab.memory(), lab.cpu());
        let over = AtomicBool::new(false);
        let felt = std::thread::scope(|scope| {
            let felt = scope.spawn(|| bystander(&lab, 200, &over));
            for _ in 0..ATTACKERS {
                let mut flood = Connection::client(lab.address);
                flood.write_patience(Duration::from_secs(2));
                flood.send(&before());
                let mut times = 0;
                while times < TIMES as u32 {
                    let batch: Vec<u8> = (times..times + 50).flat_map(repeated).collect();
                    if !flood.send(&batch) {
                        break;
                    }
                    times += 50;
                }
                assert_ne!(flood.end(), frames::Fate::Silent, "{what}");
            }
            over.store(true, Ordering::Relaxed);
            felt.join().expect("the bystander is served")
        });
        let (grown, spent) = (lab.memory() - memory, lab.cpu() - cpu);
        let felt = p99(felt);
        println!("{what}: {grown} KiB, {spent:?} of CPU, p99 {felt:?} (calm {calm:?})");
        assert!(grown < 8 * 1024, "{what}: {grown} KiB");
        // A debug build on a shared machine: a flood that were served to its end would take many times as long.
        assert!(spent < Duration::from_secs(4), "{what}: {spent:?}");
        assert!(
            felt < 2 * calm + Duration::from_millis(100),
            "{what}: {felt:?} after {calm:?}"
        );
    }
}

/// Half a head, or nothing, from many connections: closed in time, and what they held is small.
#[test]
fn many_slow_connections_hold_little() {
    let timeouts = [
        "request_headers_timeout: 1s",
        "common_http_protocol_options: {idle_timeout: 2s}",
    ];
    let lab = Lab::start(&timeouts.join("\n          "));
    let mut warm = Client::connect(lab.address);
    assert_eq!(warm.get("a", "/").text(), "fine");
    let memory = lab.memory();
    let mut slow: Vec<Client> = (0..400).map(|_| Client::connect(lab.address)).collect();
    for (index, client) in slow.iter_mut().enumerate() {
        if index % 2 == 0 {
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ");
        }
    }
    assert_eq!(Client::connect(lab.address).get("a", "/").text(), "fine");
    for (index, mut client) in slow.into_iter().enumerate() {
        if index % 2 == 0 {
            assert_eq!(client.response().expect("an answer").status, 408);
        }
        assert!(client.closed(), "{index}");
    }
    let grown = lab.memory() - memory;
    println!("400 slow connections: {grown} KiB");
    assert!(grown < 16 * 1024, "{grown} KiB");
}

/// A hundred large responses that nobody reads, over either version, from several connections.
#[test]
fn responses_that_nobody_reads_hold_little() {
    let lab = Lab::start("codec_type: AUTO");
    let mut other = Client::connect(lab.address);
    assert_eq!(other.get("a", "/big").body.len(), 1 << 20);
    let memory = lab.memory();
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let mut connection = Connection::silent(lab.address);
        connection.send(frames::PREFACE);
        connection.send(&settings(&[(4, 0)]));
        let big = [
            frames::GET[0],
            frames::GET[1],
            frames::GET[2],
            (":path", "/big"),
        ];
        for index in 0..100 {
            connection.send(&headers(index * 2 + 1, flag::END_STREAM, &big));
            connection.send(&window_update(index * 2 + 1, 1));
        }
        assert_eq!(connection.fate(199), frames::Fate::Answered(200));
        stalled.push(connection);
    }
    let mut pipelined = Client::connect(lab.address);
    pipelined.send(
        "GET /big HTTP/1.1\r\nhost: a\r\n\r\n"
            .repeat(100)
            .as_bytes(),
    );
    assert_eq!(other.get("a", "/big").body.len(), 1 << 20);
    let grown = lab.memory() - memory;
    println!("500 unread mebibytes: {grown} KiB");
    assert!(grown < 40 * 1024, "{grown} KiB");
    assert_eq!(other.get("a", "/").text(), "fine");
}
