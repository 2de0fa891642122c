//! The repository in → every place where it leaves its own rules, with file, line and the reason, all at once.
//!
//! A check is one function in one file and one row of [`CHECKS`]. What clippy and rustc can hold is not repeated here.

mod edges;
mod layout;
mod names;
mod paths;
mod proofs;
mod sizes;
mod source;

use source::Tree;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// One check: a name for the summary and the function that looks.
type Check = (&'static str, fn(&Tree) -> Vec<Finding>);

const CHECKS: &[Check] = &[
    ("edges", edges::check),
    ("paths", paths::check),
    ("layout", layout::check),
    ("names", names::check),
    ("sizes", sizes::check),
    ("proofs", proofs::check),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    Error,
    Warning,
}

/// One place that breaks one rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// Relative to the root.
    file: PathBuf,
    /// Counts from 1.
    line: usize,
    severity: Severity,
    /// What is wrong there, why it is a rule, and what to do.
    text: String,
}

impl Finding {
    fn error(file: impl Into<PathBuf>, line: usize, text: impl Into<String>) -> Finding {
        Finding {
            file: file.into(),
            line,
            severity: Severity::Error,
            text: text.into(),
        }
    }

    fn warning(file: impl Into<PathBuf>, line: usize, text: impl Into<String>) -> Finding {
        Finding {
            severity: Severity::Warning,
            ..Finding::error(file, line, text)
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(
            f,
            "{}:{}: {severity}: {}",
            self.file.display(),
            self.line,
            self.text
        )
    }
}

/// Prints all findings; a failure when one of them is an error.
pub(crate) fn run(root: &Path) -> anyhow::Result<ExitCode> {
    let tree = Tree::load(root)?;
    let mut findings: Vec<Finding> = CHECKS.iter().flat_map(|(_, check)| check(&tree)).collect();
    findings.extend(tree.unreadable.iter().cloned());
    findings.sort();
    findings.dedup();
    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .count();
    let names: Vec<&str> = CHECKS.iter().map(|(name, _)| *name).collect();
    println!(
        "tidy: {} files, {} ({errors} errors, {} warnings)",
        tree.sources.len() + tree.texts.len(),
        names.join(", "),
        findings.len() - errors
    );
    Ok(if errors == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
