//! A mesh whose sidecars run below callgrind → `crates/ripstop/sidecar.order`: the functions that they ran, the busiest
//! first, which the linker then lays side by side. Why: docs/decisions/0005-functions-in-order.md.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

const SHIM: &str = include_str!("order/instead.c");
/// What the sidecars are put through: the demo's traffic, and one scrape.
const TOUR: &str = "sleep 40; curl -sf \"$RIPSTOP_METRICS\" >/dev/null; sleep 2";

pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    // With the very flags of a release: other ones give functions other names.
    done(
        Command::new("cargo")
            .args(["build", "--release", "--package", "ripstop"])
            .current_dir(root),
    )?;
    let program = root.join("target/release/ripstop");
    let folder = tempfile::tempdir()?;
    let (source, shim) = (folder.path().join("instead.c"), folder.path().join("shim"));
    fs::write(&source, SHIM)?;
    done(
        Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&shim)
            .arg(&source),
    )?;
    let calls = folder.path().join("calls");
    fs::create_dir(&calls)?;
    done(
        Command::new(&program)
            .arg("up")
            .arg(root.join("examples/shop/mesh.yaml"))
            .arg("--state")
            .arg(folder.path().join("state"))
            .args(["--exec", TOUR])
            .env("LD_PRELOAD", &shim)
            .env("CALLS", &calls)
            .env("PROGRAM", &program),
    )?;
    let mut cost = HashMap::new();
    for file in fs::read_dir(&calls)? {
        add(&fs::read_to_string(file?.path())?, &mut cost);
    }
    ensure!(
        !cost.is_empty(),
        "no sidecar ran below callgrind: is valgrind installed (apt-get install valgrind)?"
    );
    let own = symbols(&program)?;
    let mut order: Vec<(&String, &u64)> = cost
        .iter()
        .filter(|(name, _)| own.contains(*name))
        .collect();
    order.sort_by_key(|(name, cost)| (std::cmp::Reverse(**cost), *name));
    let lines: String = order.iter().map(|(name, _)| format!("{name}\n")).collect();
    let to = root.join("crates/ripstop/sidecar.order");
    fs::write(&to, lines)?;
    println!("{}: {} functions", to.display(), order.len());
    Ok(())
}

fn done(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

/// Adds the instructions that each function ran itself. The format: Valgrind manual, "Callgrind Format Specification".
fn add(profile: &str, cost: &mut HashMap<String, u64>) {
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut current = None;
    let mut of_callee = false;
    for line in profile.lines() {
        if let Some((id, name)) = function(line) {
            if !name.is_empty() {
                // A recursive function's second instance is called NAME'2.
                names.insert(id, name.split('\'').next().unwrap_or(name));
            }
            if line.starts_with("fn=") {
                current = names.get(id).copied();
                cost.entry(current.unwrap_or_default().to_owned())
                    .or_default();
            }
        } else if line.starts_with("calls=") {
            // The next line is what the call cost, in the callee.
            of_callee = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let own = line
                .split(' ')
                .nth(1)
                .and_then(|own| own.parse::<u64>().ok());
            if let (false, Some(name), Some(own)) = (of_callee, current, own) {
                *cost.entry(name.to_owned()).or_default() += own;
            }
            of_callee = false;
        }
    }
}

/// `fn=(ID) NAME` and `cfn=(ID) NAME`; the name only where it comes first.
fn function(line: &str) -> Option<(&str, &str)> {
    let named = line.strip_prefix('c').unwrap_or(line);
    let (id, name) = named.strip_prefix("fn=(")?.split_once(')')?;
    Some((id, name.trim_start()))
}

fn symbols(program: &Path) -> anyhow::Result<HashSet<String>> {
    let output = Command::new("nm")
        .args(["--defined-only", "--format=posix"])
        .arg(program)
        .output()
        .context("cannot start nm")?;
    let listing = String::from_utf8_lossy(&output.stdout);
    let symbols: HashSet<String> = listing
        .lines()
        .filter_map(|line| line.split(' ').next().map(str::to_owned))
        .collect();
    ensure!(!symbols.is_empty(), "{} is stripped", program.display());
    Ok(symbols)
}

#[cfg(test)]
mod tests {
    use super::add;
    use std::collections::HashMap;

    #[test]
    fn a_function_costs_what_it_ran_itself() {
        let profile = "events: Ir\nfn=(1) main\n0 5\ncfn=(2) inner\ncalls=1 0\n0 70\n+1 2\nfn=(2)\n0 70\nfn=(3) inner'2\n0 1\n";
        let mut cost = HashMap::new();
        add(profile, &mut cost);
        let expected = [("main", 7), ("inner", 71)].map(|(name, cost)| (name.to_owned(), cost));
        assert_eq!(cost, HashMap::from(expected));
    }
}
