//! What a request costs ripstop in instructions of its own, as callgrind counts them → compared with
//! `xtask/instructions.tsv`. No machine is too busy for it: the count is the same within a hundredth wherever the same
//! compiler built the same code.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};

use super::subject::{Ground, Shape, Subject};

const TABLE: &str = "xtask/instructions.tsv";
/// How far a count may be from the recorded one.
const TOLERANCE: f64 = 0.03;
const WARM_UP: usize = 200;
const REQUESTS: usize = 1000;
/// The least of them counts: what once a second costs falls on few requests of a quick run.
const RUNS: usize = 3;

struct Workload {
    name: &'static str,
    shape: Shape,
    /// What h2load is told beside the number of requests.
    load: &'static [&'static str],
    path: &'static str,
}

/// One request after the other on one connection: nothing depends on who comes when.
const WORKLOADS: [Workload; 6] = [
    Workload {
        name: "HTTP/1.1",
        shape: Shape::Hop,
        load: &["--h1"],
        path: "/",
    },
    Workload {
        name: "HTTP/1.1, 16 KiB",
        shape: Shape::Hop,
        load: &["--h1"],
        path: "/16k",
    },
    Workload {
        name: "HTTP/2 to HTTP/1.1",
        shape: Shape::Hop,
        load: &[],
        path: "/",
    },
    Workload {
        name: "HTTP/2",
        shape: Shape::Http2Hop,
        load: &[],
        path: "/",
    },
    Workload {
        name: "HTTP/1.1 through a pair, mTLS",
        shape: Shape::Pair,
        load: &["--h1"],
        path: "/",
    },
    Workload {
        name: "500 routes, 50 rules",
        shape: Shape::Policies,
        load: &["--h1"],
        path: "/",
    },
];

/// Measures the program of the profile `quick`; `UPDATE=1` records what was measured.
pub(crate) fn run(root: &Path) -> anyhow::Result<ExitCode> {
    let program = super::program(root, "quick")?;
    let folder = tempfile::tempdir()?;
    let dumps = folder.path().join("callgrind.%p");
    let mut words: Vec<OsString> = ["valgrind", "--quiet", "--tool=callgrind"]
        .map(Into::into)
        .to_vec();
    words.push(format!("--callgrind-out-file={}", dumps.display()).into());
    words.push(program.into());
    let ground = Ground::new(root, &words, folder.path())?;
    let _backend = ground.backend()?;
    let mut measured = BTreeMap::new();
    for workload in &WORKLOADS {
        let subject = ground
            .subject(workload.shape, 0, "ripstop")
            .context("ripstop below valgrind: run scripts/prerequisites.sh test")?;
        load(&subject, workload, WARM_UP)?;
        let mut least = u64::MAX;
        for run in 1..=RUNS {
            control(&subject, "--zero")?;
            load(&subject, workload, REQUESTS)?;
            control(&subject, "--dump")?;
            least = least.min(total(folder.path(), &subject, run)?);
        }
        measured.insert(workload.name, least / REQUESTS as u64);
    }
    judge(&root.join(TABLE), &measured)
}

fn load(subject: &Subject, workload: &Workload, requests: usize) -> anyhow::Result<()> {
    let output = Command::new("h2load")
        .args(["-c1", "-m1", "-n", &requests.to_string()])
        .args(workload.load)
        .arg(format!(
            "http://127.0.0.1:{}{}",
            subject.port, workload.path
        ))
        .output()
        .context("h2load cannot be started: run scripts/prerequisites.sh test")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        said.contains(&format!("{requests} succeeded, 0 failed")),
        "{}: {said}",
        workload.name
    );
    Ok(())
}

fn control(subject: &Subject, what: &str) -> anyhow::Result<()> {
    for pid in subject.pids() {
        let output = Command::new("callgrind_control")
            .args([what.to_owned(), pid.to_string()])
            .output()
            .context("callgrind_control cannot be started")?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success() && said.contains("OK"),
            "callgrind_control {what} {pid}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Instructions of all processes of a subject between the last `--zero` and the nth `--dump`.
fn total(folder: &Path, subject: &Subject, nth: usize) -> anyhow::Result<u64> {
    let mut sum = 0;
    for pid in subject.pids() {
        let file = folder.join(format!("callgrind.{pid}.{nth}"));
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let line = text.lines().find_map(|line| line.strip_prefix("totals: "));
        let total: Option<u64> = line.and_then(|total| total.trim().parse().ok());
        sum += total.with_context(|| format!("{} has no totals", file.display()))?;
    }
    Ok(sum)
}

fn judge(file: &Path, measured: &BTreeMap<&str, u64>) -> anyhow::Result<ExitCode> {
    if std::env::var_os("UPDATE").is_some() {
        let lines: String = measured
            .iter()
            .map(|(name, count)| format!("{name}\t{count}\n"))
            .collect();
        fs::write(file, lines)?;
        println!("recorded in {}", file.display());
        return Ok(ExitCode::SUCCESS);
    }
    let recorded = fs::read_to_string(file).unwrap_or_default();
    let recorded: BTreeMap<&str, u64> = recorded
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .filter_map(|(name, count)| Some((name, count.parse().ok()?)))
        .collect();
    println!(
        "{:<32} {:>8} {:>8} {:>7}",
        "instructions per request", "recorded", "now", ""
    );
    let mut far = false;
    for (name, count) in measured {
        let before = recorded.get(name).copied().unwrap_or_default();
        let change = *count as f64 / before as f64 - 1.0;
        println!(
            "{name:<32} {before:>8} {count:>8} {:>+6.1}%",
            change * 100.0
        );
        far |= change.abs() > TOLERANCE || !change.is_finite();
    }
    if !far {
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "more than {:.0} % from what {TABLE} records. If that is meant: UPDATE=1 cargo xtask instructions, and say why \
         in the commit",
        TOLERANCE * 100.0
    );
    Ok(ExitCode::FAILURE)
}
