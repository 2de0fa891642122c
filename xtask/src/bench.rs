//! `cargo xtask bench`: the release binary and its peers → what they cost, each figure beside its bar. Asserts nothing.
//!
//! On a shared machine absolute times say little: whatever can be is measured beside its peer, interleaved, in one run.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::ensure;

mod binary;
mod connections;
mod http;
mod instructions;
mod latency;
mod mesh;
mod peer;
mod process;
mod relay;
mod report;
mod subject;
mod tcp;
mod trace;

pub(crate) use instructions::run as instructions;
pub(crate) use peer::run as peer;
use report::Report;

/// The parts of a run, in its order.
const SECTIONS: [&str; 8] = [
    "binary",
    "http",
    "tcp",
    "latency",
    "connections",
    "connect",
    "memory",
    "trace",
];

/// Measures `sections`, all when there are none.
pub(crate) fn run(root: &Path, sections: &[&str]) -> anyhow::Result<ExitCode> {
    if let Some(unknown) = sections.iter().find(|name| !SECTIONS.contains(name)) {
        anyhow::bail!(
            "no section `{unknown}`: choose among {}",
            SECTIONS.join(", ")
        );
    }
    let ripstop = program(root, "release")?;
    let mut report = Report::start(&ripstop);
    let wanted = |name| sections.is_empty() || sections.contains(&name);
    if wanted("binary") {
        binary::measure(&ripstop, &mut report)?;
    }
    if wanted("http") {
        http::measure(root, &ripstop, &mut report)?;
    }
    if wanted("tcp") {
        tcp::measure(root, &ripstop, &mut report)?;
    }
    if wanted("latency") {
        latency::measure(root, &ripstop, &mut report)?;
    }
    if wanted("connections") {
        connections::measure(root, &ripstop, &mut report)?;
    }
    if wanted("connect") {
        mesh::connect(&ripstop, &mut report)?;
    }
    if wanted("memory") {
        mesh::memory(&ripstop, &mut report)?;
    }
    if wanted("trace") {
        trace::measure(root, &mut report)?;
    }
    report.end();
    Ok(ExitCode::SUCCESS)
}

/// Of measurements, any number of them.
struct Spread(Vec<f64>);

impl Spread {
    fn of(mut figures: Vec<f64>) -> Spread {
        figures.sort_by(f64::total_cmp);
        Spread(figures)
    }

    /// The smallest that at least `share` of all do not exceed.
    fn at(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        let figure = self.0.get(rank.saturating_sub(1));
        figure.copied().unwrap_or(f64::NAN)
    }

    fn median(&self) -> f64 {
        self.at(0.5)
    }
}

/// RIPSTOP_BIN, or what a profile has built.
fn program(root: &Path, profile: &str) -> anyhow::Result<PathBuf> {
    let program = match std::env::var_os("RIPSTOP_BIN") {
        Some(path) => PathBuf::from(path),
        None => root.join("target").join(profile).join("ripstop"),
    };
    ensure!(
        program.is_file(),
        "{} is missing: cargo build --profile {profile} --package ripstop",
        program.display()
    );
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn shares_of_a_spread() {
        let spread = Spread::of((1..=200).rev().map(f64::from).collect());
        assert_eq!(spread.at(0.0), 1.0);
        assert_eq!(spread.median(), 100.0);
        assert_eq!(spread.at(0.99), 198.0);
        assert_eq!(spread.at(1.0), 200.0);
        assert!(Spread::of(Vec::new()).median().is_nan());
    }
}
