//! A mesh's control plane and metrics, as `ps`, `status` and `top` ask them → what the dashboard shows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ripstop_control::api::message::{self, MutualTls, Readiness};
use ripstop_dashboard::picture::{
    Conflict, Control, Edge, Kind, Look, Port, Proxy, Rejected, Resource, Service, ServicePort,
    Source, State, Traffic, Workload,
};
use ripstop_dashboard::{ListenError, Running};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::client::{Client, Error};
use crate::command::Live;
use crate::overview::Overview;
use crate::traffic::Row;

/// Rates over a longer time than this would tell of the past: the next look starts anew.
const STALE: Duration = Duration::from_secs(10);

/// An address that is ours, before there is anything to show at it.
pub(crate) struct Claim {
    listener: TcpListener,
    address: SocketAddr,
}

impl Claim {
    pub(crate) async fn new(address: SocketAddr) -> Result<Claim, ListenError> {
        let listener = ripstop_dashboard::bind(address).await?;
        let address = listener.local_addr().unwrap_or(address);
        Ok(Claim { listener, address })
    }

    /// Whom it lets read, where that is more than this machine.
    pub(crate) fn warning(&self) -> Option<String> {
        (!self.address.ip().is_loopback()).then(|| {
            format!(
                "warning: whoever reaches {} can read the mesh's services, addresses, identities and configuration errors: the dashboard asks for no password and does not encrypt",
                self.address
            )
        })
    }

    /// For a browser on this machine.
    pub(crate) fn url(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        format!("http://{address}/")
    }

    /// `metrics`: the whole mesh's metrics page, where there is one.
    pub(crate) fn serve(self, mesh: &str, client: &Client, metrics: Option<SocketAddr>) -> Running {
        // From other machines it may be asked for by this one's name.
        let host = nix::unistd::gethostname().ok();
        let host = host.and_then(|name| name.into_string().ok());
        let names = host
            .filter(|_| !self.address.ip().is_loopback())
            .into_iter()
            .collect();
        let view = View {
            mesh: mesh.to_owned(),
            client: client.clone(),
            metrics,
            live: None,
        };
        ripstop_dashboard::serve(self.listener, names, view)
    }
}

struct View {
    mesh: String,
    client: Client,
    metrics: Option<SocketAddr>,
    live: Option<(Instant, Live)>,
}

impl ripstop_dashboard::Source for View {
    async fn look(&mut self) -> Look {
        let client = self.client.clone();
        let (control, traffic) = tokio::join!(control(&client), self.traffic());
        Look {
            mesh: self.mesh.as_str().into(),
            version: env!("CARGO_PKG_VERSION").into(),
            control: control.map_err(|error| error.to_string()),
            traffic,
        }
    }
}

impl View {
    async fn traffic(&mut self) -> Traffic {
        let Some(at) = self.metrics else {
            return Traffic::Unmeasured;
        };
        let recent = self.live.take().filter(|(when, _)| when.elapsed() < STALE);
        let mut live = recent.map_or_else(|| Live::new(at), |(_, live)| live);
        match live.next().await {
            Some(rows) => {
                self.live = Some((Instant::now(), live));
                Traffic::Measured(rows.into_iter().map(edge).collect())
            }
            None => Traffic::Silent(format!("the metrics at {at} do not answer")),
        }
    }
}

async fn control(client: &Client) -> Result<Control, Error> {
    let status = client.fetch::<message::Status>("/v1/status");
    let (overview, status) = tokio::try_join!(Overview::fetch(client), status)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs();
    Ok(Control {
        revision: status.revision,
        authority_expires: status.authority_expires,
        services: overview.services.into_iter().map(service).collect(),
        workloads: overview.workloads.into_iter().map(workload).collect(),
        proxies: status
            .proxies
            .into_iter()
            .map(|one| proxy(one, now))
            .collect(),
        resources: status.resources.into_iter().map(resource).collect(),
        sources: status.sources.into_iter().map(source).collect(),
    })
}

fn edge(row: Row) -> Edge {
    Edge {
        source: row.source.into(),
        destination: row.destination.into(),
        requests_per_second: row.requests,
        success_percent: row.success,
        p50_milliseconds: row.p50,
        p90_milliseconds: row.p90,
        p99_milliseconds: row.p99,
        connections_per_second: row.connections,
        bytes_per_second: row.bytes,
        mutual_tls_percent: row.mutual_tls,
    }
}

fn service(service: message::Service) -> Service {
    let port = |port: message::ServicePort| ServicePort {
        name: port.name.into(),
        number: port.number,
        target: port.target,
        protocol: port.protocol.token().into(),
    };
    Service {
        host: service.host.into(),
        namespace: service.namespace.into(),
        name: service.name.into(),
        headless: service.headless,
        addresses: service.addresses,
        ports: service.ports.into_iter().map(port).collect(),
        ready: service.ready.into_iter().map(Into::into).collect(),
        workloads: service.workloads.into_iter().map(Into::into).collect(),
    }
}

fn workload(workload: message::Workload) -> Workload {
    let modes = workload.mutual_tls;
    let port = |port: message::Port| Port {
        number: port.port,
        target: port.target(),
        mutual_tls: match modes.get(&port.target()) {
            Some(MutualTls::Disable) => "disable".into(),
            Some(MutualTls::Permissive) => "permissive".into(),
            Some(MutualTls::Strict) => "strict".into(),
            None => "".into(),
        },
        published: port.publish,
        name: port.name.into(),
    };
    Workload {
        id: workload.id.into(),
        namespace: workload.namespace.into(),
        service: workload.service.into(),
        service_account: workload.service_account.into(),
        labels: workload
            .labels
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        addresses: vec![workload.addresses.v4.into(), workload.addresses.v6.into()],
        state: match (workload.alive, workload.readiness) {
            (false, _) => State::Lost,
            (true, Readiness::Starting) => State::Starting,
            (true, Readiness::Ready) => State::Ready,
            (true, Readiness::Unready) => State::Unready,
            (true, Readiness::Draining) => State::Draining,
        },
        ports: workload.ports.into_iter().map(port).collect(),
        host: workload.host.into(),
        identity: workload.identity.into(),
    }
}

/// `now`: seconds since 1970.
fn proxy(proxy: message::ProxyStatus, now: u64) -> Proxy {
    let kind = |kind: message::TypeStatus| Kind {
        kind: kind.kind.into(),
        resources: kind.resources,
        acked: kind.acked,
    };
    Proxy {
        node: proxy.node.into(),
        workload: proxy.workload.map(Into::into),
        agent: proxy.agent.into(),
        protocol: proxy.protocol.into(),
        identity: proxy.identity.into(),
        connected_since: now.saturating_sub(proxy.connected_seconds),
        acked_revision: proxy.acked_revision,
        types: proxy.types.into_iter().map(kind).collect(),
        rejected: proxy.rejected.into_iter().map(rejected).collect(),
    }
}

fn resource(resource: message::ResourceStatus) -> Resource {
    let conflict = |conflict: message::Conflict| Conflict {
        winner: conflict.winner.into(),
        about: conflict.about.into(),
    };
    Resource {
        resource: resource.resource.into(),
        origin: resource.origin.into(),
        accepted: resource.accepted,
        last_good: resource.last_good,
        programmed: resource.programmed,
        proxies_acked: resource.proxies_acked,
        proxies: resource.proxies,
        conflicts: resource.conflicts.into_iter().map(conflict).collect(),
        rejected: resource.rejected.into_iter().map(rejected).collect(),
        messages: resource.messages.into_iter().collect(),
    }
}

fn rejected(rejected: message::Rejected) -> Rejected {
    Rejected {
        kind: rejected.kind.into(),
        names: rejected.names.into_iter().collect(),
        message: rejected.message.into(),
    }
}

fn source(source: message::SourceStatus) -> Source {
    Source {
        source: source.source.into(),
        resources: source.resources,
        error: source.error.map(Into::into),
        messages: source.messages.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn urls_are_for_a_browser_and_what_others_may_read_is_told() {
        let claim = Claim::new("127.0.0.1:0".parse().unwrap()).await.unwrap();
        assert_eq!(claim.warning(), None);
        assert_eq!(claim.url(), format!("http://{}/", claim.address));
        let claim = Claim::new("0.0.0.0:0".parse().unwrap()).await.unwrap();
        assert!(claim.warning().unwrap().contains("0.0.0.0:"));
        assert!(
            claim.url().starts_with("http://127.0.0.1:"),
            "{}",
            claim.url()
        );
    }
}
