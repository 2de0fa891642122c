//! `ClusterLoadAssignment`.

use ripstop_model::snapshot::endpoint::{Endpoint, Endpoints, Group, Health, Locality, Workload};

use super::value::{Meta, object, strings, target, text, uint};
use crate::pb::{core, endpoint};

pub(crate) fn endpoints(e: &Endpoints) -> endpoint::ClusterLoadAssignment {
    endpoint::ClusterLoadAssignment {
        cluster_name: e.name.to_string(),
        endpoints: e.groups.iter().map(group).collect(),
        policy: Some(endpoint::cluster_load_assignment::Policy {
            overprovisioning_factor: uint(e.overprovisioning),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(crate) fn locality(l: &Locality) -> core::Locality {
    core::Locality {
        region: l.region.clone(),
        zone: l.zone.clone(),
        sub_zone: l.sub_zone.clone(),
    }
}

fn group(g: &Group) -> endpoint::LocalityLbEndpoints {
    endpoint::LocalityLbEndpoints {
        locality: Some(locality(&g.locality)),
        lb_endpoints: g.endpoints.iter().map(lb_endpoint).collect(),
        load_balancing_weight: g.weight.and_then(uint),
        priority: g.priority,
        ..Default::default()
    }
}

fn lb_endpoint(e: &Endpoint) -> endpoint::LbEndpoint {
    let health = match e.health {
        Health::Unknown => core::HealthStatus::Unknown,
        Health::Healthy => core::HealthStatus::Healthy,
        Health::Unhealthy => core::HealthStatus::Unhealthy,
        Health::Draining => core::HealthStatus::Draining,
        Health::Timeout => core::HealthStatus::Timeout,
        Health::Degraded => core::HealthStatus::Degraded,
    };
    let mut meta = Meta::default();
    meta.put_all("envoy.transport_socket_match", strings(&e.transport));
    meta.put_all("envoy.lb", strings(&e.labels));
    if let Some(w) = &e.workload {
        workload(&mut meta, w);
    }
    endpoint::LbEndpoint {
        health_status: health.into(),
        metadata: meta.finish(),
        load_balancing_weight: (e.weight != 1).then(|| uint(e.weight)).flatten(),
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
            endpoint::Endpoint {
                address: Some(target(&e.address)),
                hostname: e.hostname.clone().unwrap_or_default(),
                ..Default::default()
            },
        )),
    }
}

fn workload(meta: &mut Meta, w: &Workload) {
    let istio = format!(
        "{};{};{};{};{}",
        w.name, w.namespace, w.canonical_service, w.canonical_revision, w.cluster
    );
    meta.put("istio", "workload", text(istio));
    let mut own = Vec::new();
    for (key, value) in [
        ("serviceAccount", &w.service_account),
        ("app", &w.app),
        ("version", &w.version),
    ] {
        if !value.is_empty() {
            own.push((key.to_owned(), text(value.as_ref())));
        }
    }
    if let Some(address) = w.address {
        own.push(("address".to_owned(), text(address.to_string())));
    }
    if !own.is_empty() {
        meta.put("ripstop", "workload", object(own));
    }
}
