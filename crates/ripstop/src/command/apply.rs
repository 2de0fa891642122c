//! `ripstop apply PATH…` → resources in force over the control plane's API, kept in its state until they are deleted.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use ripstop_control::api::message::{Applied, Refusal};

use crate::client::Client;
use crate::folder::Target;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// Files, folders, or `-` for standard input
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Print what was applied and every diagnostic as JSON
    #[arg(long)]
    json: bool,
}

impl Options {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        crate::runtime::small(self.apply())
    }

    async fn apply(self) -> anyhow::Result<ExitCode> {
        let client = Client::local(&self.target.folder()?.socket());
        let mut failed = false;
        for (name, text) in super::configuration(&self.paths)? {
            let (status, answer) = client.put_text("/v1/resources", text).await?;
            let Ok(applied) = client.read::<Applied>(&answer) else {
                let refusal: Refusal = client.read(&answer)?;
                bail!("{name}: {status}: {}", refusal.error);
            };
            let is_error = |diagnostic: &serde_json::Value| diagnostic["severity"] == "error";
            failed |= applied.applied.is_empty() || applied.diagnostics.iter().any(is_error);
            if self.json {
                say!("{}", serde_json::to_string_pretty(&applied)?);
            } else {
                print(&name, &applied);
            }
        }
        Ok(if failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

fn print(name: &str, applied: &Applied) {
    for diagnostic in &applied.diagnostics {
        let text = |key: &str| diagnostic[key].as_str().unwrap_or_default().to_owned();
        let place = format!("{name}:{}:{}", diagnostic["line"], diagnostic["column"]);
        note!(
            "{place}: {}[{}]: {} ({})",
            text("severity"),
            text("code"),
            text("message"),
            text("path")
        );
        if let Some(help) = diagnostic["help"].as_str() {
            note!("  help: {help}");
        }
    }
    for resource in &applied.applied {
        say!("applied {resource}");
    }
    if applied.applied.is_empty() {
        note!("{name}: nothing was applied");
    }
}
