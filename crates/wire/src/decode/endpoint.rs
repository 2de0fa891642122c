//! `ClusterLoadAssignment`.

use std::collections::BTreeMap;
use std::sync::Arc;

use ripstop_model::defaults::envoy;
use ripstop_model::snapshot::endpoint::{Endpoint, Endpoints, Group, Health, Locality, Workload};

use super::value::{self, metadata};
use super::{Decoding, fields};
use crate::pb::{core, endpoint};

pub(crate) fn endpoints(
    cx: &mut Decoding,
    m: endpoint::ClusterLoadAssignment,
) -> Option<Endpoints> {
    fields!(cx, m => endpoint::ClusterLoadAssignment { cluster_name, endpoints, policy }
        ignore { named_endpoints });
    let groups = cx.each("endpoints", endpoints, group);
    let overprovisioning = cx.field("policy", |cx| {
        let Some(policy) = policy else {
            return envoy::OVERPROVISIONING;
        };
        fields!(cx, policy => endpoint::cluster_load_assignment::Policy { overprovisioning_factor }
            ignore { drop_overloads, endpoint_stale_after, weighted_priority_health });
        overprovisioning_factor.map_or(envoy::OVERPROVISIONING, |v| v.value)
    });
    Some(Endpoints {
        name: cluster_name.into(),
        groups,
        overprovisioning,
    })
}

pub(crate) fn locality(m: core::Locality) -> Locality {
    let core::Locality {
        region,
        zone,
        sub_zone,
    } = m;
    Locality {
        region,
        zone,
        sub_zone,
    }
}

fn group(cx: &mut Decoding, m: endpoint::LocalityLbEndpoints) -> Option<Group> {
    fields!(cx, m => endpoint::LocalityLbEndpoints { locality, lb_endpoints, load_balancing_weight, priority }
        ignore { lb_config, proximity }
        inert { metadata });
    Some(Group {
        priority,
        // A weight belongs to a locality: where none is named Envoy does not read it.
        weight: load_balancing_weight
            .filter(|_| locality.is_some())
            .map(|v| v.value),
        locality: locality.map(self::locality).unwrap_or_default(),
        endpoints: cx.each("lb_endpoints", lb_endpoints, lb_endpoint),
    })
}

fn lb_endpoint(cx: &mut Decoding, m: endpoint::LbEndpoint) -> Option<Endpoint> {
    use core::HealthStatus;
    use endpoint::lb_endpoint::HostIdentifier;
    fields!(cx, m => endpoint::LbEndpoint { health_status, metadata, load_balancing_weight, host_identifier });
    let (address, hostname) = match host_identifier {
        Some(HostIdentifier::Endpoint(m)) => cx.field("endpoint", |cx| {
            fields!(cx, m => endpoint::Endpoint { address, hostname }
                ignore { health_check_config, additional_addresses }
                inert { observability_name });
            let address = cx.required("address", address, value::target)?;
            Some((address, Some(hostname).filter(|h| !h.is_empty())))
        })?,
        Some(HostIdentifier::EndpointName(_)) => {
            cx.invalid("endpoint_name", "is not supported; give endpoint");
            return None;
        }
        None => {
            cx.invalid("endpoint", "is required");
            return None;
        }
    };
    let health = match cx.enumeration("health_status", health_status)? {
        HealthStatus::Unknown => Health::Unknown,
        HealthStatus::Healthy => Health::Healthy,
        HealthStatus::Unhealthy => Health::Unhealthy,
        HealthStatus::Draining => Health::Draining,
        HealthStatus::Timeout => Health::Timeout,
        HealthStatus::Degraded => Health::Degraded,
    };
    let mut labels = |filter: &str| -> BTreeMap<String, String> {
        let found = self::metadata(&metadata, filter).cloned();
        found.map_or_else(BTreeMap::new, |m| {
            cx.field("metadata", |cx| value::strings(cx, m))
                .into_iter()
                .collect()
        })
    };
    let transport = labels("envoy.transport_socket_match");
    let labels = labels("envoy.lb");
    Some(Endpoint {
        address,
        weight: load_balancing_weight.map_or(1, |v| v.value.max(1)),
        health,
        hostname,
        transport,
        labels,
        workload: workload(&metadata).map(Arc::new),
    })
}

/// Istio's `workload: name;namespace;canonical name;canonical revision;cluster`, and what ripstop adds to it.
fn workload(m: &Option<core::Metadata>) -> Option<Workload> {
    let istio = metadata(m, "istio").and_then(|m| value::string(m, "workload"))?;
    let mut parts = istio.split(';').map(Arc::<str>::from);
    let mut next = || parts.next().unwrap_or_default();
    let (name, namespace) = (next(), next());
    let (canonical_service, canonical_revision, cluster) = (next(), next(), next());
    let own = metadata(m, "ripstop").and_then(|m| value::child(m, "workload"));
    let extra = |key| -> Arc<str> {
        own.and_then(|m| value::string(m, key))
            .unwrap_or_default()
            .into()
    };
    Some(Workload {
        name,
        namespace,
        service_account: extra("serviceAccount"),
        app: extra("app"),
        version: extra("version"),
        canonical_service,
        canonical_revision,
        cluster,
        address: own.and_then(|m| value::string(m, "address")?.parse().ok()),
    })
}
