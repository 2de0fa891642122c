//! `ripstop ps` → services, workloads, addresses and published ports of a running mesh.

use std::process::ExitCode;

use crate::client::Client;
use crate::console::Console;
use crate::folder::Target;
use crate::overview::Overview;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    #[arg(long)]
    json: bool,
}

impl Options {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        crate::runtime::small(async {
            let client = Client::local(&self.target.folder()?.socket());
            let overview = Overview::fetch(&client).await?;
            if self.json {
                say!("{}", serde_json::to_string_pretty(&overview)?);
            } else {
                Console::Stdout.say(&overview.text());
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}
