//! `crates/ripstop/tests/oracle/mutants.tsv` → a copy of the source with every mutant in it, built once, and who notices
//! each of them: the oracle's cases, else the proxy's own tests. One that nobody notices is a hole in the tests.
//!
//! A row is a file, the oracle's cases that should notice, an expression as it stands in the file (once, before the
//! tests), and what takes its place while `RIPSTOP_MUTANT` is the row's number. Nothing of it is ever in the source or in a
//! release.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

const LIST: &str = "crates/ripstop/tests/oracle/mutants.tsv";
const SWITCH: &str = "
/// Of `cargo xtask mutants`.
pub mod mutants {
    pub fn on(number: u32) -> bool {
        static ON: std::sync::LazyLock<Option<u32>> =
            std::sync::LazyLock::new(|| std::env::var(\"RIPSTOP_MUTANT\").ok()?.parse().ok());
        *ON == Some(number)
    }
}
";
/// The cases wait most of the time.
const AT_ONCE: usize = 3;

struct Mutant {
    number: usize,
    file: String,
    cases: String,
    original: String,
    mutated: String,
}

/// `only`: numbers, or all.
pub(crate) fn run(root: &Path, only: &[&str]) -> anyhow::Result<ExitCode> {
    let mutants = read(root)?;
    let copy = root.join("target/mutants");
    copy_source(root, &copy)?;
    for mutant in &mutants {
        plant(&copy, mutant)?;
    }
    let library = copy.join("crates/model/src/lib.rs");
    let text = fs::read_to_string(&library)? + SWITCH;
    fs::write(&library, text)?;
    let tests = build(root, &copy)?;

    let wanted = |mutant: &&Mutant| only.is_empty() || only.contains(&&*mutant.number.to_string());
    let mutants: Vec<&Mutant> = mutants.iter().filter(wanted).collect();
    let next = AtomicUsize::new(0);
    let survivors = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let verdict = judge(&tests, mutant);
                    println!(
                        "{:>3}  {verdict:<28} {}: {} => {}",
                        mutant.number, mutant.file, mutant.original, mutant.mutated
                    );
                    if !verdict.starts_with("caught")
                        && let Ok(mut survivors) = survivors.lock()
                    {
                        survivors.push(mutant.number);
                    }
                }
            });
        }
    });
    let survivors = survivors.into_inner().unwrap_or_default();
    println!(
        "{} of {} caught",
        mutants.len() - survivors.len(),
        mutants.len()
    );
    Ok(match survivors.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn read(root: &Path) -> anyhow::Result<Vec<Mutant>> {
    let text = fs::read_to_string(root.join(LIST))?;
    let row = |(index, line): (usize, &str)| {
        let parts: Vec<&str> = line.split('\t').collect();
        let [file, cases, original, mutated] = parts[..] else {
            bail!("{LIST}:{}: not four columns", index + 1);
        };
        Ok(Mutant {
            number: index + 1,
            file: file.to_owned(),
            cases: cases.to_owned(),
            original: original.to_owned(),
            mutated: mutated.to_owned(),
        })
    };
    text.lines().enumerate().map(row).collect()
}

/// What git knows or would take, and what is installed beside it. Only what differs is written, so that a second run builds
/// little.
fn copy_source(root: &Path, copy: &Path) -> anyhow::Result<()> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .output()?;
    ensure!(output.status.success(), "git ls-files failed");
    let list = String::from_utf8(output.stdout)?;
    for name in list.split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (root.join(name), copy.join(name));
        if !from.is_file() {
            continue;
        }
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        let fresh = fs::read(&from)?;
        if fs::read(&to).ok().as_deref() != Some(&*fresh) {
            fs::copy(&from, &to).with_context(|| format!("copying {name}"))?;
        }
    }
    let installed = copy.join(".venv");
    if fs::symlink_metadata(&installed).is_err() {
        std::os::unix::fs::symlink(root.join(".venv"), installed)?;
    }
    Ok(())
}

fn plant(copy: &Path, mutant: &Mutant) -> anyhow::Result<()> {
    let file = copy.join(&mutant.file);
    let text = fs::read_to_string(&file)?;
    let (code, tests) = match text.find("#[cfg(test)]") {
        Some(at) => text.split_at(at),
        None => (&*text, ""),
    };
    let times = code.matches(&mutant.original).count();
    ensure!(
        times == 1,
        "{LIST}:{}: {} has `{}` {times} times",
        mutant.number,
        mutant.file,
        mutant.original
    );
    let krate = match mutant.file.starts_with("crates/model/") {
        true => "crate",
        false => "ripstop_model",
    };
    let both = format!(
        "(if {krate}::mutants::on({}) {{ {} }} else {{ {} }})",
        mutant.number, mutant.mutated, mutant.original
    );
    fs::write(&file, code.replacen(&mutant.original, &both, 1) + tests)?;
    Ok(())
}

/// The test programs, by name.
struct Tests {
    copy: PathBuf,
    programs: BTreeMap<String, PathBuf>,
}

fn build(root: &Path, copy: &Path) -> anyhow::Result<Tests> {
    let output = Command::new("cargo")
        .args(["test", "--no-run", "--message-format", "json"])
        .args([
            "-p",
            "ripstop",
            "-p",
            "ripstop-proxy",
            "--lib",
            "--test",
            "oracle",
        ])
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", root.join("target"))
        // Built once: what another build could reuse would only fill the disk.
        .env("CARGO_INCREMENTAL", "0")
        .stderr(std::process::Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "the mutants do not compile");
    let mut programs = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Value = serde_json::from_str(line)?;
        if let (Some(name), Some(file)) = (
            message["target"]["name"].as_str(),
            message["executable"].as_str(),
        ) {
            programs.insert(name.to_owned(), PathBuf::from(file));
        }
    }
    Ok(Tests {
        copy: copy.to_owned(),
        programs,
    })
}

impl Tests {
    /// Whether the tests of a program notice the mutant; nothing but "yes" and "no" comes of it.
    fn notice(&self, program: &str, folder: &str, mutant: &Mutant, cases: &str) -> bool {
        let Some(file) = self.programs.get(program) else {
            return false;
        };
        let mut command = Command::new(file);
        command
            .current_dir(self.copy.join(folder))
            .env("RIPSTOP_MUTANT", mutant.number.to_string())
            .env("CASE", cases)
            .args(if program == "oracle" {
                &["answers"][..]
            } else {
                &[]
            });
        command
            .output()
            .is_ok_and(|output| !output.status.success())
    }
}

fn judge(tests: &Tests, mutant: &Mutant) -> String {
    if tests.notice("oracle", "crates/ripstop", mutant, &mutant.cases) {
        return format!("caught by {}", mutant.cases);
    }
    if tests.notice("ripstop_proxy", "crates/proxy", mutant, "") {
        return "caught by the proxy's tests".to_owned();
    }
    "SURVIVED".to_owned()
}
