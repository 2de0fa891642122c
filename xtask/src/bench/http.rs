//! CPU time per request through ripstop and its peers, as ratios within one run.
//!
//! Each proxy has one worker pinned to processor 0; load (wrk, h2load) and backend (nginx) share the others.

use std::path::Path;

use anyhow::{Context, ensure};

use super::Spread;
use super::process::pinned;
use super::report::{Bar, Report};
use super::subject::{Ground, Shape, Subject, UNARY};

/// Of each measurement, interleaved; the median is what to quote.
const REPETITIONS: usize = 5;
const LOAD_SECONDS: u32 = 3;
const CONNECTIONS: u32 = 32;
/// Over HTTP/2, and streams at once on each of them.
const SESSIONS: u32 = 8;
const STREAMS: u32 = 10;
/// A proxy by itself is to end at a sidecar's size, however it was configured.
const MOST_MIB: f64 = 14.0;

/// One kind of traffic, and how many times a peer's CPU per request ripstop may take at most.
struct Workload {
    name: &'static str,
    title: &'static str,
    path: &'static str,
    shape: Shape,
    /// A connection for each request.
    close: bool,
    bars: &'static [(&'static str, f64, &'static str)],
}

const WORKLOADS: [Workload; 9] = [
    Workload {
        name: "W1",
        title: "HTTP/1.1, keep-alive, 5 bytes",
        path: "/",
        shape: Shape::Hop,
        close: false,
        bars: &[
            ("relay", 1.25, "1.25 × the raw relay"),
            ("haproxy", 1.0, "1.0 × HAProxy"),
            ("nginx", 0.9, "0.90 × nginx"),
            ("envoy", 0.35, "0.35 × Envoy"),
        ],
    },
    Workload {
        name: "W2",
        title: "two proxies with mutual TLS between them, HTTP/1.1, 5 bytes",
        path: "/",
        shape: Shape::Pair,
        close: false,
        bars: &[
            ("envoy", 0.27, "0.27 × Envoy's pair"),
            ("haproxy", 0.85, "0.85 × HAProxy's pair"),
        ],
    },
    Workload {
        name: "W3 connections",
        title: "opaque TCP, a new connection for each exchange",
        path: "/",
        shape: Shape::TcpHop,
        close: true,
        bars: &[],
    },
    Workload {
        name: "W4",
        title: "HTTP/2 on both sides, plain text, 5 bytes",
        path: "/",
        shape: Shape::Http2Hop,
        close: false,
        bars: &[
            ("envoy", 0.45, "0.45 × Envoy"),
            ("haproxy", 1.0, "aim: 1.0 × HAProxy"),
        ],
    },
    Workload {
        name: "W4 gRPC",
        title: "unary calls through two proxies with mutual TLS between them",
        path: UNARY,
        shape: Shape::Http2Pair,
        close: false,
        bars: &[
            ("envoy", 0.4, "0.40 × Envoy's pair"),
            ("haproxy", 0.7, "aim: 0.7 × HAProxy's pair"),
        ],
    },
    Workload {
        name: "W5",
        title: "HTTP/1.1, 16 KiB of announced length",
        path: "/16k",
        shape: Shape::Hop,
        close: false,
        bars: &[
            ("nginx", 0.9, "0.90 × nginx"),
            ("envoy", 0.4, "0.40 × Envoy"),
        ],
    },
    Workload {
        name: "W5 chunked",
        title: "HTTP/1.1, 16 KiB in chunks",
        path: "/chunked",
        shape: Shape::Hop,
        close: false,
        bars: &[
            ("nginx", 0.9, "0.90 × nginx"),
            ("envoy", 0.4, "0.40 × Envoy"),
        ],
    },
    Workload {
        name: "W6",
        title: "a new client connection for each request, through a pair",
        path: "/",
        shape: Shape::Pair,
        close: true,
        bars: &[("envoy", 0.25, "0.25 × Envoy's pair")],
    },
    Workload {
        name: "W7",
        title: "500 routes and 50 authorization rules beside 1 and 1",
        path: "/",
        shape: Shape::Policies,
        close: false,
        bars: &[("ripstop, 1 route", 1.1, "1.10 × 1 route")],
    },
];

pub(super) fn measure(root: &Path, ripstop: &Path, report: &mut Report) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let program = [ripstop.into()];
    let ground = Ground::new(root, &program, folder.path())?;
    let _backend = ground.backend()?;
    for workload in &WORKLOADS {
        let mut subjects = ground.subjects(workload.shape)?;
        for _ in 0..REPETITIONS {
            for subject in &mut subjects {
                let before = subject.cpu()?;
                let requests = load(&ground, subject.port, workload)?;
                let used = subject.cpu()? - before;
                subject.costs.push(used * 1e6 / requests);
                subject.rates.push(requests / f64::from(LOAD_SECONDS));
            }
        }
        print(workload, &subjects, report);
    }
    Ok(())
}

/// Requests answered, as the load counts them.
fn load(ground: &Ground<'_>, port: u16, workload: &Workload) -> anyhow::Result<f64> {
    if workload.shape.is_http2() {
        return load_http2(ground, port, workload);
    }
    let output = pinned(&ground.others)
        .args(["wrk", "-t1"])
        .args([format!("-c{CONNECTIONS}"), format!("-d{LOAD_SECONDS}s")])
        .args(workload.close.then_some("-HConnection: close"))
        .arg(format!("http://127.0.0.1:{port}{}", workload.path))
        .output()
        .context("wrk cannot be started: run scripts/prerequisites.sh bench")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        !text.contains("Non-2xx"),
        "not every answer was a good one: {text}"
    );
    let line = text.lines().find(|line| line.contains("requests in"));
    let requests = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    requests.with_context(|| format!("wrk said: {text}"))
}

fn load_http2(ground: &Ground<'_>, port: u16, workload: &Workload) -> anyhow::Result<f64> {
    let mut command = pinned(&ground.others);
    if workload.path == UNARY {
        command.args(["h2load", "-H", "content-type: application/grpc"]);
        command
            .args(["-H", "te: trailers", "-d"])
            .arg(ground.message());
    } else {
        command.arg("h2load");
    }
    let output = command
        .args(["-t1", &format!("-D{LOAD_SECONDS}")])
        .args([format!("-c{SESSIONS}"), format!("-m{STREAMS}")])
        .arg(format!("http://127.0.0.1:{port}{}", workload.path))
        .output()
        .context("h2load cannot be started: run scripts/prerequisites.sh bench")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with("requests:"));
    let counts = line.with_context(|| format!("h2load said: {text}"))?;
    ensure!(
        counts.contains(" 0 failed, 0 errored, 0 timeout"),
        "not every answer was a good one: {text}"
    );
    let done = counts
        .split(", ")
        .find_map(|count| count.strip_suffix(" succeeded"));
    let done = done.and_then(|count| count.parse().ok());
    done.with_context(|| format!("h2load said: {text}"))
}

fn print(workload: &Workload, subjects: &[Subject], report: &mut Report) {
    let Workload {
        name, title, shape, ..
    } = workload;
    let connections = match shape.is_http2() {
        true => SESSIONS,
        false => CONNECTIONS,
    };
    report.section(&format!(
        "{name}: {title}; {connections} connections, one worker on one processor, {REPETITIONS} × {LOAD_SECONDS} s interleaved"
    ));
    println!(
        "  {:<16} {:>26} {:>16} {:>12} {:>10} {:>11}",
        "", "CPU µs per request", "beside ripstop", "requests/s", "RSS idle", "RSS after"
    );
    let mut medians = Vec::new();
    for subject in subjects {
        let costs = Spread::of(subject.costs.clone());
        medians.push((subject.name, costs.median()));
        let own = medians.first().map_or(f64::NAN, |(_, own)| *own);
        println!(
            "  {:<16} {:>10.1} ({:>5.1} –{:>6.1}) {:>14.2} × {:>12.0} {:>6.1} MiB {:>7.1} MiB",
            subject.name,
            costs.median(),
            costs.at(0.0),
            costs.at(1.0),
            costs.median() / own,
            Spread::of(subject.rates.clone()).median(),
            subject.idle,
            subject.rss(),
        );
    }
    let own = medians.first().map_or(f64::NAN, |(_, own)| *own);
    for (peer, most, text) in workload.bars {
        let peers = medians.iter().find(|(name, _)| name == peer);
        let ratio = peers.map_or(f64::NAN, |(_, cost)| own / cost);
        let met = ratio <= *most;
        report.judge(
            &format!("{name}: CPU per request"),
            &format!("{ratio:.2} × {peer}"),
            &Bar { text, met },
        );
    }
    if *name == "W1"
        && *shape == Shape::Hop
        && let Some(ripstop) = subjects.first()
    {
        report.figure(
            "RSS of `ripstop proxy` once it has read YAML",
            &format!("{:.1} MiB", ripstop.idle),
            Some(Bar {
                text: "a sidecar's 14 MiB",
                met: ripstop.idle < MOST_MIB,
            }),
        );
    }
}
