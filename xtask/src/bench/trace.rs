//! The tracing hooks in real programs → what each adds to the CPU time of a request.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, ensure};

use super::report::{Bar, Report};

/// What the preloaded object may add, in microseconds, and what a hook that is on by default may, as a share.
const MOST_US: f64 = 5.0;
const MOST_SHARE: f64 = 1.2;

pub(super) fn measure(root: &Path, report: &mut Report) -> anyhow::Result<()> {
    report.section("tracing hooks: CPU of a request that makes one call, without and with");
    let kernel = Kernel::start(root)?;
    let mut command = Command::new("python3");
    command
        .arg("-B")
        .arg(root.join("crates/host/tests/trace/cost.py"))
        .arg("--preload")
        .arg(preload(root)?);
    match &kernel.socket {
        Some(socket) => drop(command.arg("--kernel").arg(socket)),
        None => report.figure("kernel", "not permitted here: run as root", None),
    }
    let output = command
        .output()
        .context("python3: run scripts/prerequisites.sh bench")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cost.py: {errors}");
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let mut columns = line.split('\t');
        let name = columns.next().unwrap_or_default();
        let mut figure = || -> anyhow::Result<f64> {
            let column = columns.next().context("cost.py printed a short line")?;
            Ok(column.parse()?)
        };
        let (without, with) = (figure()?, figure()?);
        let (added, share) = (with - without, with / without);
        let shown = format!("{without:.1} µs, {with:.1} µs: +{added:.1}, × {share:.2}");
        let bar = match name.starts_with("preload") || name.starts_with("kernel") {
            true => Bar {
                text: "+5 µs",
                met: added <= MOST_US,
            },
            false => Bar {
                text: "× 1.2",
                met: share <= MOST_SHARE,
            },
        };
        report.figure(name, &shown, Some(bar));
    }
    Ok(())
}

/// Somebody who loads the producer in the kernel.
struct Kernel {
    child: Child,
    /// `None`: it may not.
    socket: Option<String>,
}

impl Kernel {
    fn start(root: &Path) -> anyhow::Result<Kernel> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args([
            "run",
            "--quiet",
            "--package",
            "ripstop-host",
            "--example",
            "kernel",
        ]);
        command
            .current_dir(root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("cargo")?;
        let mut line = String::new();
        let told = child.stdout.as_mut().context("its output")?;
        BufReader::new(told).read_line(&mut line)?;
        let socket = Some(line.trim().to_owned()).filter(|line| !line.is_empty());
        Ok(Kernel { child, socket })
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // Its input ends, and it with it.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// The object of the newest build: it is the same in each profile.
fn preload(root: &Path) -> anyhow::Result<PathBuf> {
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    for profile in ["release", "quick", "debug"] {
        let Ok(folders) = root.join("target").join(profile).join("build").read_dir() else {
            continue;
        };
        for folder in folders.flatten() {
            let object = folder.path().join("out/preload.so");
            if let Ok(facts) = object.metadata() {
                found.push((facts.modified()?, object));
            }
        }
    }
    let newest = found.into_iter().max();
    let (_, object) = newest.context("no preload.so below target/: run `make bench`")?;
    Ok(object)
}
