//! `ripstop get [KIND [NAME]]` → the resources that are in force, as a table, as they were written, or as JSON.

use std::process::ExitCode;

use ripstop_control::api::message::Resource;

use crate::client::Client;
use crate::console::Console;
use crate::folder::Target;
use crate::table;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// As in `virtualservices`, VirtualService or `vs`; unset: all
    kind: Option<String>,
    #[arg(requires = "kind")]
    name: Option<String>,
    /// Unset: all, or `default` for one name
    #[arg(long, short)]
    namespace: Option<String>,
    /// Print the documents as they were written
    #[arg(long, short)]
    yaml: bool,
    #[arg(long, conflicts_with = "yaml")]
    json: bool,
}

impl Options {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        crate::runtime::small(self.show())
    }

    async fn show(self) -> anyhow::Result<ExitCode> {
        let client = Client::local(&self.target.folder()?.socket());
        let found: Vec<Resource> = client.fetch(&self.path()).await?;
        if self.json {
            say!("{}", serde_json::to_string_pretty(&found)?);
        } else if self.yaml {
            for resource in &found {
                say!("---\n{}", resource.text.trim_end());
            }
        } else {
            let rows = found
                .into_iter()
                .map(|r| [r.kind, r.namespace, r.name, r.origin]);
            let heads = ["KIND", "NAMESPACE", "NAME", "ORIGIN"];
            Console::Stdout.say(&table::render(heads, rows));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn path(&self) -> String {
        let default = || "default".to_owned();
        let namespace = self
            .namespace
            .clone()
            .or_else(|| self.name.as_ref().map(|_| default()));
        let parts = [
            self.kind.clone(),
            namespace.filter(|_| self.kind.is_some()),
            self.name.clone(),
        ];
        let parts = parts.into_iter().flatten().map(|part| format!("/{part}"));
        format!("/v1/resources{}", parts.collect::<String>())
    }
}
