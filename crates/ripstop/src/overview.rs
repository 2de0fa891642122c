//! The control plane's services and workloads → what `up` prints when it is ready and `ps` whenever it is asked.

use ripstop_control::api::message::{Readiness, Service, Workload};
use serde::Serialize;

use crate::client::{Client, Error};
use crate::table;

#[derive(Serialize)]
pub(crate) struct Overview {
    pub(crate) services: Vec<Service>,
    pub(crate) workloads: Vec<Workload>,
}

impl Overview {
    pub(crate) async fn fetch(client: &Client) -> Result<Overview, Error> {
        let (services, workloads) =
            tokio::try_join!(client.fetch("/v1/services"), client.fetch("/v1/workloads"))?;
        Ok(Overview {
            services,
            workloads,
        })
    }

    pub(crate) fn text(&self) -> String {
        let services = self.services.iter().map(|service| self.service(service));
        let workloads = self.workloads.iter().map(workload);
        let mut text = table::render(
            [
                "SERVICE",
                "NAMESPACE",
                "ADDRESS",
                "PORTS",
                "READY",
                "PUBLISHED",
            ],
            services,
        );
        text += "\n";
        text += &table::render(
            [
                "WORKLOAD",
                "SERVICE",
                "ADDRESS",
                "STATE",
                "SERVICE ACCOUNT",
                "HOST",
            ],
            workloads,
        );
        text
    }

    fn service(&self, service: &Service) -> [String; 6] {
        let ports = service
            .ports
            .iter()
            .map(|port| match port.target == port.number {
                true => format!("{} {}", port.number, port.name),
                false => format!("{}→{} {}", port.number, port.target, port.name),
            });
        let address = match service.headless {
            true => "headless".to_owned(),
            false => service
                .addresses
                .first()
                .map(ToString::to_string)
                .unwrap_or_default(),
        };
        [
            service.name.clone(),
            service.namespace.clone(),
            address,
            ports
                .map(|port| port.trim_end().to_owned())
                .collect::<Vec<_>>()
                .join(", "),
            format!("{}/{}", service.ready.len(), service.workloads.len()),
            self.published(service).join(", "),
        ]
    }

    fn published(&self, service: &Service) -> Vec<String> {
        let ours = self
            .workloads
            .iter()
            .filter(|workload| service.workloads.contains(&workload.id));
        let mut published: Vec<String> = ours
            .flat_map(|workload| &workload.ports)
            .filter_map(|port| Some(format!("{}→{}", port.publish?, port.port)))
            .collect();
        published.sort();
        published.dedup();
        published
    }
}

fn workload(workload: &Workload) -> [String; 6] {
    let state = match (workload.alive, workload.readiness) {
        (false, _) => "lost",
        (true, Readiness::Starting) => "starting",
        (true, Readiness::Ready) => "ready",
        (true, Readiness::Unready) => "not ready",
        (true, Readiness::Draining) => "draining",
    };
    [
        workload.id.clone(),
        workload.service.clone(),
        workload.addresses.v4.to_string(),
        state.to_owned(),
        workload.service_account.clone(),
        host(workload),
    ]
}

/// Its name, and where others reach it. The rest tells boots and namespaces apart and is not for people.
fn host(workload: &Workload) -> String {
    let name = workload.host.split('/').next().unwrap_or_default();
    match workload.advertise {
        Some(address) => format!("{name} ({address})"),
        None => name.to_owned(),
    }
}
