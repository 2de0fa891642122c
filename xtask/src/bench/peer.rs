//! What runs inside a measured mesh: servers that hardly do anything, and the client that times them.
//!
//! `cargo xtask bench-peer serve KIND PORT`, `… dial ROUNDS TARGET…`, `… use HOST…`, `… relay PORT TO`, `… pour PORT MIB`,
//! `… drink PORT`, `… hold COUNT PORT` and `… ask RATE SECONDS PORT`. A target is
//! `NAME=KIND=HOST:PORT`; each round dials a server of this process's own beside every target. One line of output per
//! dial: `NAME µs`, or `NAME hang`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// A dial that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections that ask.
const CALLERS: u32 = 20;
/// Between dials: what the last one left to be closed is closed by then.
const PAUSE: Duration = Duration::from_millis(3);

pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<ExitCode> {
    match arguments {
        ["serve", kind, port] => {
            let listener = TcpListener::bind(("0.0.0.0", port.parse()?))?;
            serve(kind.parse()?, &listener)?;
        }
        ["dial", rounds, targets @ ..] => {
            let targets: Vec<Target> = targets
                .iter()
                .map(|target| target.parse())
                .collect::<anyhow::Result<_>>()?;
            dial(rounds.parse()?, &targets)?;
            linger()?;
        }
        ["use", hosts @ ..] => {
            for host in hosts {
                get(host).with_context(|| format!("{host} does not answer"))?;
            }
            linger()?;
        }
        ["pour", port, mib] => pour(
            &TcpListener::bind(("127.0.0.1", port.parse()?))?,
            mib.parse()?,
        )?,
        ["drink", port] => println!("{}", drink(port.parse()?)?),
        ["relay", port, to] => super::relay::run(port.parse()?, to.parse()?)?,
        ["hold", count, port] => {
            let _held = hold(count.parse()?, port.parse()?)?;
            linger()?;
        }
        ["ask", rate, seconds, port] => ask(rate.parse()?, seconds.parse()?, port.parse()?)?,
        _ => bail!("bench-peer takes serve, dial, use, pour, drink, hold, ask or relay"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Sends so much to everybody that asks with a byte.
fn pour(listener: &TcpListener, mib: usize) -> anyhow::Result<()> {
    let bytes = vec![b'x'; 1 << 20];
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut asked = [0];
        if stream.read_exact(&mut asked).is_err() {
            continue;
        }
        for _ in 0..mib {
            if stream.write_all(&bytes).is_err() {
                break;
            }
        }
    }
    Ok(())
}

/// Asks, and counts what comes.
fn drink(port: u16) -> anyhow::Result<usize> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"?")?;
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(total),
            count => total += count,
        }
    }
}

/// So many connections that have each had an answer and wait.
fn hold(count: usize, port: u16) -> anyhow::Result<Vec<TcpStream>> {
    let connection = |at: usize| -> anyhow::Result<TcpStream> {
        let mut stream = keep_alive(port)?;
        exchange(&mut stream).with_context(|| format!("connection {at}"))?;
        Ok(stream)
    };
    (1..=count).map(connection).collect()
}

fn keep_alive(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// One request, and all of its answer, whose body is `hello`.
fn exchange(stream: &mut TcpStream) -> anyhow::Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n")?;
    let mut answer = Vec::with_capacity(1024);
    let mut buffer = [0; 1024];
    while !answer.ends_with(b"\r\n\r\nhello") {
        let count = stream.read(&mut buffer)?;
        if count == 0 || answer.len() > 16 * 1024 {
            bail!("no `hello`: {}", String::from_utf8_lossy(&answer));
        }
        answer.extend_from_slice(buffer.get(..count).unwrap_or_default());
    }
    Ok(())
}

/// Asks so many times a second, whatever the answers take, and says of each how long it took since it was due: who comes
/// late because another was slow has waited for it too.
fn ask(rate: u32, seconds: u32, port: u16) -> anyhow::Result<()> {
    let start = Instant::now() + Duration::from_millis(50);
    let caller = move |first: u32| -> anyhow::Result<Vec<Duration>> {
        let mut stream = keep_alive(port)?;
        exchange(&mut stream)?;
        let turns = (first..rate * seconds).step_by(CALLERS as usize);
        turns
            .map(|turn| {
                let due = start + Duration::from_secs(1) * turn / rate;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                exchange(&mut stream)?;
                Ok(due.elapsed())
            })
            .collect()
    };
    let threads: Vec<_> = (0..CALLERS)
        .map(|first| std::thread::spawn(move || caller(first)))
        .collect();
    let mut output = io::stdout().lock();
    for thread in threads {
        let took = thread.join().ok().context("a caller panicked")?;
        for took in took? {
            writeln!(output, "{:.1}", took.as_secs_f64() * 1e6)?;
        }
    }
    Ok(())
}

/// Who speaks first, and how.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// The server, as SMTP does.
    Server,
    /// The client, as Redis does.
    Client,
    Http,
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Kind> {
        match text {
            "server" => Ok(Kind::Server),
            "client" => Ok(Kind::Client),
            "http" => Ok(Kind::Http),
            _ => bail!("`{text}` is no kind of server"),
        }
    }
}

struct Target {
    name: String,
    kind: Kind,
    place: String,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Target> {
        let mut parts = text.splitn(3, '=');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(name), Some(kind), Some(place)) => Ok(Target {
                name: name.to_owned(),
                kind: kind.parse()?,
                place: place.to_owned(),
            }),
            _ => bail!("`{text}` is not NAME=KIND=HOST:PORT"),
        }
    }
}

fn serve(kind: Kind, listener: &TcpListener) -> io::Result<()> {
    for stream in listener.incoming() {
        let stream = stream?;
        // A peer that has gone is no reason to end.
        std::thread::spawn(move || converse(kind, stream));
    }
    Ok(())
}

fn converse(kind: Kind, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if let Kind::Server = kind {
        stream.write_all(b"220 bench ESMTP\r\n")?;
    }
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        match kind {
            Kind::Server => stream.write_all(b"250 OK\r\n")?,
            Kind::Client => stream.write_all(b"+PONG\r\n")?,
            Kind::Http if line == "\r\n" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n")?;
            }
            Kind::Http => {}
        }
        line.clear();
    }
    Ok(())
}

/// From the first packet until the server's first line is here.
fn first_line(kind: Kind, address: SocketAddr) -> io::Result<Duration> {
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    match kind {
        Kind::Server => {}
        Kind::Client => stream.write_all(b"PING\r\n")?,
        Kind::Http => stream.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n")?,
    }
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let took = start.elapsed();
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if let Kind::Server = kind {
        // As a real client would: one that never answers a greeting is not remembered for it.
        stream.write_all(b"QUIT\r\n")?;
        BufReader::new(&stream).read_line(&mut line)?;
    }
    Ok(took)
}

fn dial(rounds: usize, targets: &[Target]) -> anyhow::Result<()> {
    let mut known = Vec::new();
    for target in targets {
        let own = TcpListener::bind("127.0.0.1:0")?;
        let beside = own.local_addr()?;
        let kind = target.kind;
        std::thread::spawn(move || serve(kind, &own));
        // The first use of a service asks for it; that is another figure.
        let start = Instant::now();
        let address = resolve(&target.place)?;
        first_line(kind, address).with_context(|| format!("{} does not answer", target.name))?;
        say(&format!("{}/first", target.name), start.elapsed());
        known.push((target, address, beside));
    }
    for _ in 0..rounds {
        for (target, address, beside) in &known {
            for (name, address) in [
                (target.name.clone(), address),
                (format!("{}/direct", target.name), beside),
            ] {
                std::thread::sleep(PAUSE);
                match first_line(target.kind, *address) {
                    Ok(took) => say(&name, took),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        println!("{name} hang");
                    }
                    Err(error) => return Err(error).with_context(|| name),
                }
            }
        }
    }
    Ok(())
}

fn resolve(place: &str) -> anyhow::Result<SocketAddr> {
    let mut addresses = place
        .to_socket_addrs()
        .with_context(|| format!("{place} cannot be resolved"))?;
    addresses
        .next()
        .with_context(|| format!("{place} has no address"))
}

fn say(name: &str, took: Duration) {
    println!("{name} {:.1}", took.as_secs_f64() * 1e6);
}

/// `HOST` is looked up only; `http://HOST[:PORT]/PATH` is fetched too.
fn get(place: &str) -> anyhow::Result<()> {
    let Some(rest) = place.strip_prefix("http://") else {
        resolve(&format!("{place}:80"))?;
        return Ok(());
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let at = if host.contains(':') {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let mut stream = TcpStream::connect_timeout(&resolve(&at)?, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("{place}: `{status}`");
    }
    Ok(())
}

/// Says that all is done, and stays until the measuring process wants nothing more of the mesh.
fn linger() -> io::Result<()> {
    println!("done");
    io::stdout().flush()?;
    let mut nothing = String::new();
    io::stdin().read_line(&mut nothing)?;
    Ok(())
}
