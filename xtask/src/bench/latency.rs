//! The time that a proxy adds to an answer at a fixed rate, beside its peers in one run. Who asks does not wait for a slow
//! answer with the next question, so that slow ones are not left out (coordinated omission).

use std::path::Path;

use anyhow::{Context, ensure};

use super::Spread;
use super::process::pinned;
use super::report::{Bar, Report};
use super::subject::{BACKEND, Ground, Shape};

const RATE: u32 = 2000;
const SECONDS: u32 = 2;
/// Of each, interleaved; what they took is taken together.
const REPETITIONS: usize = 5;
const SHARES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];
/// How much of what Envoy adds may be added at the first two.
const WORKLOADS: [(Shape, &str, f64, &str); 2] = [
    (Shape::Hop, "a hop", 0.65, "0.65 × what Envoy adds"),
    (
        Shape::Pair,
        "a pair, mutual TLS between",
        0.5,
        "0.5 × what Envoy's pair adds",
    ),
];

pub(super) fn measure(root: &Path, ripstop: &Path, report: &mut Report) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let program = [ripstop.into()];
    let ground = Ground::new(root, &program, folder.path())?;
    let _backend = ground.backend()?;
    for (shape, title, most, text) in WORKLOADS {
        let subjects = ground.subjects(shape)?;
        let mut places = vec![("direct", BACKEND)];
        places.extend(subjects.iter().map(|subject| (subject.name, subject.port)));
        let mut times = vec![Vec::new(); places.len()];
        for _ in 0..REPETITIONS {
            for ((name, port), times) in places.iter().zip(&mut times) {
                times.extend(ask(&ground, *port).with_context(|| (*name).to_owned())?);
            }
        }
        report.section(&format!(
            "{title}: µs added to an answer at {RATE} requests/s, HTTP/1.1, keep-alive, {REPETITIONS} × {SECONDS} s interleaved"
        ));
        let spreads: Vec<(&str, Spread)> = places
            .iter()
            .zip(times)
            .map(|((name, _), times)| (*name, Spread::of(times)))
            .collect();
        let of = |wanted: &str, share| {
            let found = spreads.iter().find(|(name, _)| *name == wanted);
            found.map_or(f64::NAN, |(_, spread)| spread.at(share))
        };
        let added = |name: &str, share| of(name, share) - of("direct", share);
        println!(
            "  {:<16} {}",
            "",
            SHARES.map(|(name, _)| format!("{name:>8}")).join("")
        );
        for (name, _) in &spreads {
            let figures = SHARES.map(|(_, share)| match *name {
                "direct" => format!("{:>8.0}", of(name, share)),
                _ => format!("{:>+8.0}", added(name, share)),
            });
            println!("  {name:<16} {}", figures.join(""));
        }
        for (name, share) in SHARES.iter().take(2) {
            let ratio = added("ripstop", *share) / added("envoy", *share);
            report.judge(
                &format!("{title}: added at {name}"),
                &format!("{ratio:.2} × envoy"),
                &Bar {
                    text,
                    met: ratio <= most,
                },
            );
        }
    }
    Ok(())
}

/// Microseconds, of every answer.
fn ask(ground: &Ground<'_>, port: u16) -> anyhow::Result<Vec<f64>> {
    let mut command = pinned(&ground.others);
    command.arg(std::env::current_exe()?);
    command.args(["bench-peer", "ask"]);
    command.args([RATE.to_string(), SECONDS.to_string(), port.to_string()]);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    let lines = String::from_utf8_lossy(&output.stdout);
    let times: Vec<f64> = lines.lines().map(str::parse).collect::<Result<_, _>>()?;
    ensure!(
        times.len() == (RATE * SECONDS) as usize,
        "answers are missing"
    );
    Ok(times)
}
