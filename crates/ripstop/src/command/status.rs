//! `ripstop status` → proxies with what they have accepted and refused, resources with their standing, sources.

use std::process::ExitCode;

use ripstop_control::api::message::{ProxyStatus, Rejected, ResourceStatus, SourceStatus, Status};

use crate::client::Client;
use crate::console::Console;
use crate::folder::Target;
use crate::table;

#[derive(clap::Args)]
#[command(
    after_help = "Exits with 1 if a resource or a source is not accepted, or a proxy refuses something or has not accepted it for 10 s."
)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    #[arg(long)]
    json: bool,
}

impl Options {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        crate::runtime::small(self.show())
    }

    async fn show(self) -> anyhow::Result<ExitCode> {
        let client = Client::local(&self.target.folder()?.socket());
        let status: Status = client.fetch("/v1/status").await?;
        if self.json {
            say!("{}", serde_json::to_string_pretty(&status)?);
        } else {
            Console::Stdout.say(&text(&status));
        }
        Ok(if healthy(&status) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn healthy(status: &Status) -> bool {
    status.resources.iter().all(|resource| resource.accepted)
        && status.sources.iter().all(|source| source.error.is_none())
        && status
            .resources
            .iter()
            .all(|resource| resource.pending.is_empty())
        && status.proxies.iter().all(|proxy| proxy.rejected.is_empty())
}

fn text(status: &Status) -> String {
    let mut text = format!("revision {}\n\n", status.revision);
    let heads = [
        "PROXY",
        "AGENT",
        "XDS",
        "CONNECTED",
        "ACKED",
        "RESOURCES",
        "REFUSES",
    ];
    text += &table::render(heads, status.proxies.iter().map(proxy));
    text += "\n";
    let heads = ["RESOURCE", "ORIGIN", "ACCEPTED", "PROGRAMMED"];
    text += &table::render(heads, status.resources.iter().map(resource));
    for resource in &status.resources {
        let mut notes: Vec<String> = resource.messages.clone();
        notes.extend(
            resource
                .conflicts
                .iter()
                .map(|c| format!("yields to {} about {}", c.winner, c.about)),
        );
        notes.extend(resource.rejected.iter().map(refusal));
        notes.extend(resource.pending.iter().map(|p| {
            format!(
                "not programmed at {} for {} s: it {}",
                p.proxy, p.seconds, p.reason
            )
        }));
        text.extend(
            notes
                .into_iter()
                .map(|note| format!("  {}: {note}\n", resource.resource)),
        );
    }
    for proxy in status
        .proxies
        .iter()
        .filter(|proxy| !proxy.rejected.is_empty())
    {
        text.extend(
            proxy
                .rejected
                .iter()
                .map(|rejected| format!("  {} refuses {}\n", proxy.node, refusal(rejected))),
        );
    }
    // What was said of a resource is not said of its file again.
    let told = |message: &&String| {
        let resources = status.resources.iter();
        resources
            .flat_map(|resource| &resource.messages)
            .any(|said| said == *message)
    };
    for SourceStatus {
        source,
        error,
        messages,
        ..
    } in &status.sources
    {
        text.extend(
            error
                .iter()
                .chain(messages.iter().filter(|message| !told(message)))
                .map(|message| format!("  {source}: {message}\n")),
        );
    }
    text
}

fn proxy(proxy: &ProxyStatus) -> [String; 7] {
    let resources: usize = proxy.types.iter().map(|kind| kind.resources).sum();
    [
        proxy.workload.clone().unwrap_or_else(|| proxy.node.clone()),
        proxy.agent.clone(),
        proxy.protocol.clone(),
        table::seconds(proxy.connected_seconds),
        proxy.acked_revision.to_string(),
        resources.to_string(),
        if proxy.rejected.is_empty() {
            String::new()
        } else {
            proxy.rejected.len().to_string()
        },
    ]
}

fn resource(resource: &ResourceStatus) -> [String; 4] {
    let accepted = match (resource.accepted, resource.last_good) {
        (true, _) => "yes",
        (false, true) => "no, its last good version serves",
        (false, false) => "no",
    };
    [
        resource.resource.clone(),
        resource.origin.clone(),
        accepted.to_owned(),
        format!("{}/{}", resource.proxies_acked, resource.proxies),
    ]
}

fn refusal(rejected: &Rejected) -> String {
    format!(
        "{} {}: {}",
        rejected.kind,
        rejected.names.join(", "),
        rejected.message
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_resource_says_is_not_said_again_by_its_file() {
        let warning = "a.yaml:3:1: warning[weights]: the weights are 0".to_owned();
        let elsewhere = "a.yaml:9:1: error[syntax]: no YAML".to_owned();
        let status = Status {
            resources: vec![ResourceStatus {
                resource: "VirtualService/default/a".into(),
                messages: vec![warning.clone()],
                ..ResourceStatus::default()
            }],
            sources: vec![SourceStatus {
                source: "config".into(),
                messages: vec![warning.clone(), elsewhere.clone()],
                ..SourceStatus::default()
            }],
            ..Status::default()
        };
        let text = text(&status);
        assert_eq!(text.matches(&warning).count(), 1, "{text}");
        assert_eq!(text.matches(&elsewhere).count(), 1, "{text}");
    }

    #[test]
    fn a_refusal_names_proxy_resource_and_reason() {
        let rejected = Rejected {
            kind: "Cluster".into(),
            names: vec!["outbound|80||a".into()],
            message: "bad field".into(),
        };
        let mut status = Status {
            revision: 3,
            proxies: vec![ProxyStatus {
                node: "n".into(),
                workload: Some("a-0.default".into()),
                ..ProxyStatus::default()
            }],
            resources: vec![ResourceStatus {
                resource: "VirtualService/default/a".into(),
                accepted: true,
                ..ResourceStatus::default()
            }],
            ..Status::default()
        };
        assert!(healthy(&status));
        status.proxies[0].rejected.push(rejected);
        assert!(!healthy(&status));
        let text = text(&status);
        assert!(
            text.contains("n refuses Cluster outbound|80||a: bad field"),
            "{text}"
        );
        assert!(text.contains("VirtualService/default/a  -"), "{text}");
    }
}
