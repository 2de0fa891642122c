//! The binary by itself: how large, what it needs, how long `--version` takes.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::ensure;

use super::Spread;
use super::report::{Bar, Report};

const STARTS: usize = 51;
const MOST_MS: f64 = 10.0;
/// What glibc itself is made of (the kernel's vDSO and the loader included).
const LIBC: [&str; 6] = [
    "linux-vdso.so",
    "ld-linux",
    "libc.so",
    "libm.so",
    "libpthread.so",
    "libdl.so",
];

pub(super) fn measure(ripstop: &Path, report: &mut Report) -> anyhow::Result<()> {
    report.section("the binary");
    let mib = fs::metadata(ripstop)?.len() as f64 / 1048576.0;
    report.figure("size", &format!("{mib:.1} MiB"), None);
    needs(ripstop, report)?;
    version(ripstop, report)
}

fn needs(ripstop: &Path, report: &mut Report) -> anyhow::Result<()> {
    let output = Command::new("ldd").arg(ripstop).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let libraries: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.rsplit('/').next())
        .collect();
    // A static program has ldd say that it is "not a dynamic executable", on stderr, and fail.
    let foreign = |name: &&str| !LIBC.iter().any(|known| name.starts_with(known));
    let met = !libraries.iter().any(foreign);
    let shown = if libraries.is_empty() {
        "nothing".to_owned()
    } else {
        libraries.join(" ")
    };
    let text = "nothing but libc";
    report.figure("shared libraries (ldd)", &shown, Some(Bar { text, met }));
    Ok(())
}

fn version(ripstop: &Path, report: &mut Report) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let start = Instant::now();
        let status = Command::new(ripstop)
            .arg("--version")
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "--version failed");
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let times = Spread::of(times);
    let figure = format!(
        "{:.1} ms, median of {STARTS} ({:.1}–{:.1})",
        times.median(),
        times.at(0.0),
        times.at(1.0)
    );
    let met = times.median() < MOST_MS;
    let text = "below 10 ms";
    report.figure("ripstop --version", &figure, Some(Bar { text, met }));
    Ok(())
}
