//! `ripstop delete KIND NAME`: takes back a resource that was applied.

use std::process::ExitCode;

use crate::client::Client;
use crate::folder::Target;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// As in `virtualservice`
    kind: String,
    name: String,
    #[arg(long, short, default_value = "default")]
    namespace: String,
}

impl Options {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        crate::runtime::small(async {
            let client = Client::local(&self.target.folder()?.socket());
            let Options {
                kind,
                namespace,
                name,
                ..
            } = &self;
            client
                .delete(&format!("/v1/resources/{kind}/{namespace}/{name}"))
                .await?;
            say!("deleted {kind}/{namespace}/{name}");
            Ok(ExitCode::SUCCESS)
        })
    }
}
