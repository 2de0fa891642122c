//! The steps of a case, sent to the program that runs now → what was answered and what the upstreams saw.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ripstop_testkit::wait;

use super::case::{Case, Request, Step};
use super::http2;
use super::message::{Answer, Reader};
use super::script::Seen;
use super::transport::{Wire, connect};

/// What came of one request.
#[derive(Debug)]
pub(crate) struct Played {
    /// Where in `requests.yaml`.
    pub(crate) at: String,
    pub(crate) request: Request,
    /// The error's kind when the connection ended or stayed silent without an answer.
    pub(crate) answer: Result<Answer, io::ErrorKind>,
    /// What came back through the tunnel.
    pub(crate) tunnel: Option<Vec<u8>>,
    /// In the order of arrival; of requests made together, with the first of them.
    pub(crate) seen: Vec<Seen>,
    pub(crate) took: Duration,
}

/// What came of a case.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) played: Vec<Played>,
    /// By name, as the case lists them; nothing where the program has none of that name.
    pub(crate) counters: Vec<(String, Option<u64>)>,
}

/// Plays all steps, then reads the counters.
pub(crate) fn play(case: &Case, admin: SocketAddr) -> Outcome {
    Outcome {
        played: steps(case),
        counters: counters(case, admin),
    }
}

fn counters(case: &Case, admin: SocketAddr) -> Vec<(String, Option<u64>)> {
    if case.counters.is_empty() {
        return Vec::new();
    }
    let page = ripstop_testkit::http::get(admin, "admin", "/stats").expect("the admin's counters");
    let page = page.text();
    let value = |name: &String| {
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(name.as_str())?.strip_prefix(": "));
        line.and_then(|value| value.trim().parse().ok())
    };
    case.counters
        .iter()
        .map(|name| (name.clone(), value(name)))
        .collect()
}

fn steps(case: &Case) -> Vec<Played> {
    let mut played = Vec::new();
    case.upstreams.begin();
    for (index, step) in case.steps.iter().enumerate() {
        let at = format!("#{}", index + 1);
        match step {
            Step::One(request) => {
                std::thread::sleep(Duration::from_secs_f64(request.after));
                let mut connection = None;
                for n in 0..request.times.unwrap_or(1) {
                    let mut one = send(case, &mut connection, request, n, &at);
                    settle(case, request);
                    one.seen = case.upstreams.take();
                    if !request.also.is_empty() {
                        one.seen.sort_by(|a, b| a.upstream.cmp(&b.upstream));
                    }
                    played.push(one);
                }
            }
            Step::Together(together) => {
                let mut group: Vec<Played> = std::thread::scope(|scope| {
                    let at = &at;
                    let threads: Vec<_> = together
                        .iter()
                        .map(|request| {
                            scope.spawn(move || {
                                std::thread::sleep(Duration::from_secs_f64(request.after));
                                send(case, &mut None, request, 0, at)
                            })
                        })
                        .collect();
                    threads
                        .into_iter()
                        .map(|thread| thread.join().expect("no panic"))
                        .collect()
                });
                let mut seen = case.upstreams.take();
                seen.sort_by(|a, b| (&a.line, &a.upstream).cmp(&(&b.line, &b.upstream)));
                group[0].seen = seen;
                played.append(&mut group);
            }
        }
    }
    played
}

/// Waits for what the upstreams see without the client waiting for it.
fn settle(case: &Case, request: &Request) {
    for (upstream, count) in &request.also {
        // Comparing tells which of the two never sent it.
        let _seen = wait::within(Duration::from_secs(5), || {
            (case.upstreams.count(upstream) >= *count).then_some(())
        });
    }
}

type Connection = Option<(Wire, Reader)>;

fn send(case: &Case, connection: &mut Connection, request: &Request, n: usize, at: &str) -> Played {
    let start = Instant::now();
    let at = match request.times {
        Some(_) => format!("{at}.{n}"),
        None => at.to_owned(),
    };
    let mut tunnel = None;
    let answer = exchange(case, connection, request, n, &mut tunnel);
    let ended = match &answer {
        Ok(answer) => answer.cut || answer.header("connection") == Some("close"),
        Err(_) => true,
    };
    if ended || request.times.is_none() || request.lines.is_some() {
        *connection = None;
    }
    Played {
        at,
        request: request.clone(),
        answer: answer.map_err(|error| error.kind()),
        tunnel,
        seen: Vec::new(),
        took: start.elapsed(),
    }
}

fn exchange(
    case: &Case,
    connection: &mut Connection,
    request: &Request,
    n: usize,
    tunnel: &mut Option<Vec<u8>>,
) -> io::Result<Answer> {
    let open = || {
        let preamble = request.preamble.as_deref();
        connect(case.listener(request.listener()), request.from, preamble)
    };
    if request.http2 {
        let answer = http2::ask(open()?, request.tls.as_ref(), request, &n.to_string())?;
        *tunnel = answer.1;
        return Ok(answer.0);
    }
    if connection.is_none() {
        let stream = match open() {
            // The kernel may tell of an end so early that connecting is what failed.
            Err(error)
                if request.lines.is_some() && error.kind() == io::ErrorKind::ConnectionReset =>
            {
                return Ok(Answer {
                    line: "TCP tcp".to_owned(),
                    cut: true,
                    ..Answer::default()
                });
            }
            opened => opened?,
        };
        let wire = Wire::over(stream, request.tls.as_ref())?;
        let reader = Reader::new(wire.clone());
        *connection = Some((wire, reader));
    }
    let Some((stream, reader)) = connection else {
        return Err(io::ErrorKind::NotConnected.into());
    };
    if let Some(lines) = &request.lines {
        return talk(stream, reader, request, lines);
    }
    let bytes = bytes(request, n);
    match request.pause {
        0.0 => stream.write_all(&bytes)?,
        pause => {
            // The head in two halves, for one who may not take long over it.
            let (first, second) = bytes.split_at(bytes.len() / 2);
            stream.write_all(first)?;
            std::thread::sleep(Duration::from_secs_f64(pause));
            // It may have been ended meanwhile, and the answer says why.
            let _ended = stream.write_all(second);
        }
    }
    let mut answer =
        reader.answer(bytes.starts_with(b"HEAD ") || bytes.starts_with(b"CONNECT "))?;
    if let Some(linger) = request.linger {
        std::thread::sleep(Duration::from_secs_f64(linger));
        let end = if reader.is_ended()? { "ended" } else { "open" };
        answer
            .headers
            .push(("(connection)".to_owned(), end.to_owned()));
    }
    if let Some(text) = &request.tunnel
        && answer.status() == "101"
    {
        stream.write_all(text.as_bytes())?;
        *tunnel = Some(reader.bytes(text.len())?);
    }
    Ok(answer)
}

/// Lines of a protocol that is not HTTP.
fn talk(
    stream: &mut Wire,
    reader: &mut Reader,
    request: &Request,
    lines: &[String],
) -> io::Result<Answer> {
    let mut answer = Answer {
        line: "TCP tcp".to_owned(),
        ..Answer::default()
    };
    for line in lines {
        std::thread::sleep(Duration::from_secs_f64(request.pause));
        let sent = stream.write_all(format!("{line}\n").as_bytes());
        let back = reader.text(Some(1))?;
        if sent.is_err() || back.is_empty() {
            answer.cut = true;
            return Ok(answer);
        }
        answer.body.extend(back);
    }
    if request.until_end {
        answer.body.extend(reader.text(None)?);
    }
    if let Some(linger) = request.linger {
        std::thread::sleep(Duration::from_secs_f64(linger));
        let end = if reader.is_ended()? { "ended" } else { "open" };
        answer
            .headers
            .push(("(connection)".to_owned(), end.to_owned()));
    }
    Ok(answer)
}

/// The request as it goes on the wire.
fn bytes(request: &Request, n: usize) -> Vec<u8> {
    let n = n.to_string();
    if let Some(raw) = &request.raw {
        return raw.replace("{n}", &n).into_bytes();
    }
    let host = request.host.as_deref().unwrap_or("oracle.test");
    let mut text = format!("{} HTTP/1.1\r\nhost: {host}\r\n", request.request);
    for (name, value) in &request.headers {
        let values = value
            .as_array()
            .map_or(std::slice::from_ref(value), Vec::as_slice);
        for value in values {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            text.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    if let Some(body) = &request.body {
        text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
    } else if let Some(chunks) = &request.chunks {
        text.push_str("transfer-encoding: chunked\r\n\r\n");
        for chunk in chunks {
            text.push_str(&format!("{:x}\r\n{chunk}\r\n", chunk.len()));
        }
        text.push_str("0\r\n");
        for (name, value) in &request.trailers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
    } else {
        text.push_str("\r\n");
    }
    text.replace("{n}", &n).into_bytes()
}
