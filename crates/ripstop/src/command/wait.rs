//! `ripstop wait [SERVICE…]`: returns when the services' workloads are ready.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use ripstop_control::api::message::{Service, Workload};
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
            let mut missing = missing(&services, &self.services);
            let nobody = services
                .iter()
                .all(|service| service.declared == 0 && service.workloads.is_empty());
            if self.services.is_empty() && nobody {
                // Clients that nobody calls are of no service.
                let joined: Vec<Workload> = client.fetch("/v1/workloads").await?;
                if joined.is_empty() {
                    missing.push("no workload is declared, and none has joined".to_owned());
                }
            }
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

/// Those that the mesh file declares may not have joined yet, and others may have.
fn all(service: &Service) -> usize {
    service.workloads.len().max(service.declared as usize)
}

/// What keeps us waiting: `users (1 of 2)`. A service without workloads of its own (a ServiceEntry) keeps nobody, unless it
/// was named.
fn missing(services: &[Service], named: &[String]) -> Vec<String> {
    let is = |service: &Service, name: &str| match name.split_once('.') {
        Some((name, namespace)) => service.name == name && service.namespace == namespace,
        None => service.name == name,
    };
    let short =
        |service: &Service| service.workloads.is_empty() || service.ready.len() < all(service);
    let unknown = named
        .iter()
        .filter(|name| !services.iter().any(|service| is(service, name)));
    let waited = services.iter().filter(|service| match named {
        [] => all(service) > 0 && short(service),
        named => named.iter().any(|name| is(service, name)) && short(service),
    });
    let waited = waited.map(|s| format!("{} ({} of {})", s.name, s.ready.len(), all(s)));
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
            declared: 0,
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
        let declared = Service {
            declared: 2,
            ..service("late", 0, 0)
        };
        assert_eq!(missing(&[declared], &[]), ["late (0 of 2)"]);
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
