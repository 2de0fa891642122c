//! `ripstop wait [SERVICE…]`: returns when the services' workloads are ready.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use ripstop_control::api::message::Service;
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::folder::Target;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// Names, or NAME.NAMESPACE; unset: all
    services: Vec<String>,
    /// As in 30s or 2m
    #[arg(long, default_value = "60s", value_parser = super::duration)]
    timeout: Duration,
}

impl Options {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        crate::runtime::small(self.wait())
    }

    async fn wait(self) -> anyhow::Result<ExitCode> {
        let client = Client::local(&self.target.folder()?.socket());
        let deadline = Instant::now() + self.timeout;
        loop {
            let services: Vec<Service> = client.fetch("/v1/services").await?;
            let missing = missing(&services, &self.services);
            if missing.is_empty() {
                return Ok(ExitCode::SUCCESS);
            }
            if Instant::now() >= deadline {
                bail!(
                    "not ready after {} s: {}; `ripstop ps` shows more",
                    self.timeout.as_secs(),
                    missing.join(", ")
                );
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// What keeps us waiting: `users (1 of 2)`. A service without workloads of its own (a ServiceEntry) keeps nobody, unless it
/// was named.
fn missing(services: &[Service], named: &[String]) -> Vec<String> {
    let is = |service: &Service, name: &str| match name.split_once('.') {
        Some((name, namespace)) => service.name == name && service.namespace == namespace,
        None => service.name == name,
    };
    let short = |service: &Service| {
        service.workloads.is_empty() || service.ready.len() < service.workloads.len()
    };
    let unknown = named
        .iter()
        .filter(|name| !services.iter().any(|service| is(service, name)));
    let waited = services.iter().filter(|service| match named {
        [] => !service.workloads.is_empty() && short(service),
        named => named.iter().any(|name| is(service, name)) && short(service),
    });
    let waited = waited.map(|s| format!("{} ({} of {})", s.name, s.ready.len(), s.workloads.len()));
    unknown
        .map(|name| format!("{name} (unknown)"))
        .chain(waited)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, ready: usize, all: usize) -> Service {
        let ids = |n| (0..n).map(|n| n.to_string()).collect();
        Service {
            host: String::new(),
            namespace: "default".into(),
            name: name.into(),
            headless: false,
            addresses: vec![],
            ports: vec![],
            ready: ids(ready),
            workloads: ids(all),
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let services = [
            service("users", 1, 2),
            service("orders", 1, 1),
            service("outside", 0, 0),
        ];
        assert_eq!(missing(&services, &[]), ["users (1 of 2)"]);
        assert_eq!(missing(&services, &["orders".into()]), Vec::<String>::new());
        let named = [
            "outside.default".into(),
            "gone".into(),
            "users.other".into(),
        ];
        assert_eq!(
            missing(&services, &named),
            [
                "gone (unknown)",
                "users.other (unknown)",
                "outside (0 of 0)"
            ]
        );
    }
}
