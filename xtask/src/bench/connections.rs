//! What connections cost: memory while they wait, CPU time while TLS begins; and how long a proxy takes until it listens.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, ensure};

use super::Spread;
use super::process::{Running, cpu, pinned, rss};
use super::report::{Bar, Report};
use super::subject::{Ground, ROOMY, Shape, Subject};

const STARTS: usize = 5;
/// Connections that wait, where each proxy has them, and how many MiB it may have then.
const HELD: [(usize, Shape, &str, f64, &str); 2] = [
    (1_000, Shape::Hop, "HTTP/1.1 connections", 14.0, "14 MiB"),
    (
        10_000,
        Shape::TcpPair,
        "mTLS connections, and as many to clients or servers,",
        200.0,
        "200 MiB",
    ),
];
/// Descriptors for what is not a connection.
const SPARE: usize = 500;
const IDLE_MIB: f64 = 8.0;
const HANDSHAKE_SECONDS: u32 = 3;

pub(super) fn measure(root: &Path, ripstop: &Path, report: &mut Report) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let program = [ripstop.into()];
    let ground = Ground::new(root, &program, folder.path())?;
    let _backend = ground.backend()?;
    starts(&ground, report)?;
    for held in HELD {
        hold(&ground, held, report)?;
    }
    handshakes(&ground, report)
}

fn starts(ground: &Ground<'_>, report: &mut Report) -> anyhow::Result<()> {
    report.section(&format!(
        "from its start until a proxy listens, ms, median of {STARTS}; one listener, one cluster"
    ));
    let mut times: Vec<(&str, Vec<f64>)> = Vec::new();
    for _ in 0..STARTS {
        for (at, subject) in ground.subjects(Shape::Hop)?.into_iter().enumerate() {
            if times.len() <= at {
                times.push((subject.name, Vec::new()));
            }
            if let Some((_, times)) = times.get_mut(at) {
                times.push(subject.ready.as_secs_f64() * 1e3);
            }
        }
    }
    for (name, times) in times {
        println!("  {name:<16} {:>8.1}", Spread::of(times).median());
    }
    Ok(())
}

fn hold(
    ground: &Ground<'_>,
    (count, shape, title, most, text): (usize, Shape, &str, f64, &'static str),
    report: &mut Report,
) -> anyhow::Result<()> {
    let possible = count.min(descriptors()? / 2 - SPARE);
    let (count, title) = (possible, format!("{possible} {title} that wait"));
    report.section(&format!("MiB of a proxy with {title} (VmRSS)"));
    println!("  {:<16} {:>8} {:>8}", "", "before", "with");
    for subject in ground.subjects(shape)? {
        // nginx is told how many it may have and takes the memory for them at once; the relay is no proxy.
        if ["nginx", "relay"].contains(&subject.name) {
            continue;
        }
        let before = largest(&subject);
        let mut command = pinned(&ground.others);
        command.args(ROOMY).arg(std::env::current_exe()?);
        command.args(["bench-peer", "hold"]);
        command.args([count.to_string(), subject.port.to_string()]);
        let mut holder = Running::talking(command.stdout(Stdio::piped()))?;
        let output = holder.0.stdout.take().context("it has an output")?;
        let mut said = String::new();
        BufReader::new(output).read_line(&mut said)?;
        ensure!(said == "done\n", "{} does not hold {count}", subject.name);
        let with = largest(&subject);
        println!("  {:<16} {before:>8.1} {with:>8.1}", subject.name);
        if subject.name == "ripstop" {
            let mut judge = |what: &str, figure: f64, most: f64, text| {
                let met = figure <= most;
                report.judge(what, &format!("{figure:.1} MiB"), &Bar { text, met });
            };
            if shape == Shape::Hop {
                judge(
                    "RSS of a proxy before its first connection",
                    before,
                    IDLE_MIB,
                    "8 MiB",
                );
            }
            judge(&format!("RSS with {title}"), with, most, text);
        }
    }
    Ok(())
}

/// How many a process here may have.
fn descriptors() -> anyhow::Result<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let hard = line.and_then(|line| line.split_whitespace().nth(1));
    let hard = hard.context("no limit of open files in /proc/self/limits")?;
    Ok(hard.parse().unwrap_or(usize::MAX))
}

/// Of a pair, what the larger one has.
fn largest(subject: &Subject) -> f64 {
    subject.pids().map(rss).fold(0.0, f64::max)
}

/// What the server's end of a pair pays for a client that comes, asks once over mutual TLS, and goes.
fn handshakes(ground: &Ground<'_>, report: &mut Report) -> anyhow::Result<()> {
    report.section(&format!(
        "a new mTLS connection with one request: CPU µs at the server's end, {HANDSHAKE_SECONDS} s each, full and resumed"
    ));
    println!("  {:<16} {:>8} {:>8}", "", "full", "resumed");
    for subject in ground.subjects(Shape::Pair)? {
        let server = subject.pids().next().context("a pair has two")?;
        let mut figures = Vec::new();
        for how in ["-new", "-reuse"] {
            let before = cpu(server)?;
            let keys = ground.keys();
            let output = pinned(&ground.others)
                .args(["openssl", "s_time", how, "-www", "/"])
                .args(["-time", &HANDSHAKE_SECONDS.to_string()])
                .args(["-connect", &format!("127.0.0.1:{}", subject.port + 1)])
                .arg("-cert")
                .arg(keys.join("client.pem"))
                .arg("-key")
                .arg(keys.join("client.key"))
                .arg("-CAfile")
                .arg(keys.join("ca.pem"))
                .output()?;
            let used = cpu(server)? - before;
            let said = String::from_utf8_lossy(&output.stdout);
            let line = said.lines().find(|line| line.contains("real seconds"));
            let count = line.and_then(|line| line.split(' ').next()?.parse::<f64>().ok());
            let count = count.with_context(|| {
                let errors = String::from_utf8_lossy(&output.stderr);
                format!("{}: openssl s_time said: {said}{errors}", subject.name)
            })?;
            figures.push(format!("{:>8.0}", used.as_secs_f64() * 1e6 / count));
        }
        println!("  {:<16} {}", subject.name, figures.join(" "));
    }
    Ok(())
}
