//! `ripstop token create` → a file that lets a workload on another host join.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use ripstop_control::api::message::{NewToken, Token};

use crate::client::Client;
use crate::folder::Target;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Make a token; whoever holds it may join as this service account
    Create(Create),
}

#[derive(clap::Args)]
struct Create {
    #[command(flatten)]
    target: Target,
    /// The service it may be an endpoint of
    #[arg(long)]
    service: Option<String>,
    /// Unset: the service's name
    #[arg(long, required_unless_present = "service")]
    service_account: Option<String>,
    #[arg(long, default_value = "default")]
    namespace: String,
    /// As in 90s, 15m, 24h or 30d
    #[arg(long, default_value = "1h", value_parser = super::duration)]
    ttl: Duration,
    /// How many times it can be used
    #[arg(long, default_value_t = 1)]
    uses: u32,
    /// Where to write it (mode 0600); unset: standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Options {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let Action::Create(create) = self.action;
        crate::runtime::small(create.run())
    }
}

impl Create {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let client = Client::local(&self.target.folder()?.socket());
        let service = self.service.unwrap_or_default();
        let new = NewToken {
            namespace: self.namespace,
            service_account: self.service_account.unwrap_or_else(|| service.clone()),
            service,
            ttl_seconds: self.ttl.as_secs(),
            uses: self.uses,
        };
        let Token { token } = client.post("/v1/tokens", &new).await?;
        match self.output {
            None => say!("{token}"),
            Some(path) => {
                let file = std::fs::OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(&path);
                file.and_then(|mut file| file.write_all(token.as_bytes()))
                    .with_context(|| format!("cannot write {}", path.display()))?;
                note!(
                    "{} is good for {} join(s): ripstop run --control HOST:15012 --token {} …",
                    path.display(),
                    self.uses,
                    path.display()
                );
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
