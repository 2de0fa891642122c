//! Bodies that are far larger than what the proxy may hold.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use ripstop_testkit::frames::{self, Connection, Fate, code, flag, frame, headers, kind};

use super::{Lab, Turn};

/// Of one body. The suite's kit keeps what it sees, so these go past it.
const SIZE: usize = 1 << 30;
const PIECE: usize = 256 * 1024;

/// Reads the whole body of a POST before it answers; answers a GET with as much.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || converse(stream));
        }
    });
    address
}

fn converse(stream: TcpStream) -> Option<()> {
    let mut reader = BufReader::with_capacity(PIECE, stream.try_clone().ok()?);
    let mut writer = stream;
    loop {
        let (mut line, mut first, mut chunked) = (String::new(), String::new(), false);
        let mut length = 0;
        loop {
            line.clear();
            reader
                .read_line(&mut line)
                .ok()
                .filter(|count| *count > 0)?;
            let lower = line.to_ascii_lowercase();
            if first.is_empty() {
                first = lower;
            } else if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            } else if lower.starts_with("transfer-encoding:") {
                chunked = true;
            } else if lower == "\r\n" {
                break;
            }
        }
        let counted = match chunked {
            true => unchunk(&mut reader)?,
            false => std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink()).ok()?,
        };
        if first.starts_with("get") {
            write!(writer, "HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n").ok()?;
            let piece = vec![0; PIECE];
            for _ in 0..SIZE / PIECE {
                writer.write_all(&piece).ok()?;
            }
        } else {
            let said = counted.to_string();
            let length = said.len();
            write!(
                writer,
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{said}"
            )
            .ok()?;
        }
    }
}

fn unchunk(reader: &mut impl BufRead) -> Option<u64> {
    let (mut all, mut line) = (0, String::new());
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let size = u64::from_str_radix(line.trim(), 16).ok()?;
        std::io::copy(&mut reader.by_ref().take(size + 2), &mut std::io::sink()).ok()?;
        all += size;
        if size == 0 {
            return Some(all);
        }
    }
}

/// A response's head, and `length` bytes of its body.
fn response(mut stream: &TcpStream) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
    let (_, rest) = head.split_once("content-length: ").expect("a length");
    let length: usize = rest
        .lines()
        .next()
        .and_then(|l| l.parse().ok())
        .expect("a number");
    let mut body = Vec::new();
    let mut rest = stream.take(length as u64);
    if length < 100 {
        rest.read_to_end(&mut body).expect("a body");
    } else {
        let counted = std::io::copy(&mut rest, &mut std::io::sink());
        assert_eq!(counted.expect("a body"), length as u64);
    }
    (head, body)
}

#[test]
fn bodies_of_any_size_take_little_memory() {
    let server = server();
    let lab = Lab::written(Turn::shared(), &[], &[], |bootstrap, upstream| {
        bootstrap.replace(&upstream.to_string(), &server.port().to_string())
    });
    let mut client = TcpStream::connect(lab.address).expect("the proxy");
    let piece = vec![0; PIECE];
    // Programs grow by what they run for the first time.
    client
        .write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx")
        .expect("sent");
    assert_eq!(response(&client).1, b"1");
    let before = lab.memory();
    lab.forget_peak();
    write!(
        client,
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {SIZE}\r\n\r\n"
    )
    .expect("sent");
    for _ in 0..SIZE / PIECE {
        client.write_all(&piece).expect("taken");
    }
    assert_eq!(response(&client).1, SIZE.to_string().as_bytes());
    let uploaded = lab.peak() - before;
    write!(
        client,
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .expect("sent");
    for _ in 0..SIZE / PIECE {
        write!(client, "{PIECE:x}\r\n").expect("taken");
        client.write_all(&piece).expect("taken");
        client.write_all(b"\r\n").expect("taken");
    }
    client.write_all(b"0\r\n\r\n").expect("taken");
    assert_eq!(response(&client).1, SIZE.to_string().as_bytes());
    let chunked = lab.peak() - before;
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect("sent");
    assert!(response(&client).0.starts_with("http/1.1 200"));
    let all = lab.peak() - before;
    println!("{SIZE} bytes: {uploaded} KiB up, {chunked} KiB in chunks, {all} KiB down");
    assert!(all < 8 * 1024, "{all} KiB");
}

/// Of bodies that the server does not take no more comes than the windows allow, which are settings.
#[test]
fn a_body_that_nobody_takes_waits_with_its_client() {
    // It never reads.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let windows = "http2_protocol_options: {initial_stream_window_size: 65536, initial_connection_window_size: 1048576}";
    let lab = Lab::written(Turn::shared(), &[], &[], |bootstrap, upstream| {
        bootstrap
            .replace(&upstream.to_string(), &port.to_string())
            .replace("codec_type: AUTO", windows)
    });
    let before = lab.memory();
    let mut clients = Vec::new();
    for index in 0..10 {
        let mut client = Connection::client(lab.address);
        // As much as the connection's window allows, on as many streams as that takes; and then what none allows.
        for stream in (1..).step_by(2).take(16) {
            client.send(&headers(stream, 0, &frames::POST));
            let piece = frame(kind::DATA, 0, stream, &[0; 16 * 1024 - 1]);
            client.send(&piece.repeat(4));
        }
        if index % 2 == 1 {
            client.send(&frame(kind::DATA, 0, 1, &[0; 16 * 1024]));
            assert!(matches!(
                client.fate(1),
                Fate::Reset(code::FLOW_CONTROL_ERROR) | Fate::GoneAway(code::FLOW_CONTROL_ERROR)
            ));
        }
        clients.push(client);
    }
    let grown = lab.memory() - before;
    println!("160 bodies that nobody takes: {grown} KiB");
    assert!(grown < 24 * 1024, "{grown} KiB");
    drop(clients);
    let mut other = Connection::client(lab.address);
    other.send(&headers(
        1,
        flag::END_STREAM,
        &[
            (":method", "TRACE"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/"),
        ],
    ));
    assert_eq!(other.fate(1), Fate::Answered(405));
}
