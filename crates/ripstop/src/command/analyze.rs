//! `ripstop analyze PATH…` → what is wrong with configuration files, all at once, as text in rustc's manner or as JSON.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use ripstop_model::analyze::{Analysis, analyze};
use ripstop_model::diagnostic;

use crate::console::Console;

#[derive(clap::Args)]
#[command(after_help = "Exits with 1 if there are errors; warnings alone are no failure.")]
pub(crate) struct Options {
    /// Files, folders (every .yaml, .yml and .json below), or `-` for standard input
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Print an array with one object a diagnostic
    #[arg(long)]
    json: bool,
}

impl Options {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let analysis = analyze(&read(&self.paths)?);
        if self.json {
            say!("{:#}", diagnostic::to_json(&analysis.diagnostics));
        } else {
            print(&analysis);
        }
        Ok(if analysis.has_errors() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

fn print(analysis: &Analysis) {
    let styled = Console::Stderr.is_terminal();
    let told = diagnostic::render(&analysis.diagnostics, &analysis.sources, styled);
    Console::Stderr.say(&told);
    let resources = match analysis.objects.len() {
        1 => "1 resource is valid".to_owned(),
        n => format!("{n} resources are valid"),
    };
    match diagnostic::summary(&analysis.diagnostics).as_str() {
        "" => say!("{resources}"),
        summary => say!("{resources}; {summary}"),
    }
}

/// Every file that `paths` lead to, each with its text, sorted within a folder.
///
/// # Errors
/// All that cannot be read, one a line.
pub(crate) fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    let mut faults = Vec::new();
    for path in paths {
        let outcome = if path.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map(|_| files.push(("standard input".to_owned(), text)))
                .context("cannot read standard input")
        } else if path.is_dir() {
            folder(path, 0, &mut files, &mut faults)
        } else {
            file(path).map(|file| files.push(file))
        };
        faults.extend(outcome.err());
    }
    if faults.is_empty() {
        return Ok(files);
    }
    let faults: Vec<String> = faults.iter().map(|fault| format!("{fault:#}")).collect();
    bail!("{}", faults.join("\n"))
}

/// Deeper than anybody nests, shallower than a loop of links.
const DEPTH: u32 = 16;

fn folder(
    path: &Path,
    depth: u32,
    files: &mut Vec<(String, String)>,
    faults: &mut Vec<anyhow::Error>,
) -> anyhow::Result<()> {
    let unreadable = || format!("cannot read the folder {}", path.display());
    let mut entries = std::fs::read_dir(path)
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.path()))
                .collect::<Result<Vec<_>, _>>()
        })
        .with_context(unreadable)?;
    entries.sort();
    for entry in entries {
        let hidden = entry
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let extension = entry.extension().and_then(|extension| extension.to_str());
        if hidden {
            continue;
        } else if entry.is_dir() && depth < DEPTH {
            let outcome = folder(&entry, depth + 1, files, faults);
            faults.extend(outcome.err());
        } else if matches!(extension, Some("yaml" | "yml" | "json")) && entry.is_file() {
            match file(&entry) {
                Ok(file) => files.push(file),
                Err(error) => faults.push(error),
            }
        }
    }
    Ok(())
}

fn file(path: &Path) -> anyhow::Result<(String, String)> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    Ok((name, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_read_in_order_without_what_is_hidden_or_foreign() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.yml", "sub/c.json", ".hidden.yaml", "README.md"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        let texts: Vec<String> = read(&[folder.path().to_owned()])
            .unwrap()
            .into_iter()
            .map(|(_, text)| text)
            .collect();
        assert_eq!(texts, ["a.yml", "b.yaml", "sub/c.json"]);
    }

    #[test]
    fn every_missing_file_is_named() {
        let error = read(&["no-such.yaml".into(), "nor/this.yaml".into()]).unwrap_err();
        for name in ["no-such.yaml", "nor/this.yaml"] {
            let told = format!("cannot read {name}");
            assert!(format!("{error:#}").contains(&told), "{error:#}");
        }
    }
}
