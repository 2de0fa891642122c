//! Clusters, their limits and their members, line by line as Envoy's `/clusters` writes them.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ripstop_model::snapshot::Name;
use ripstop_model::snapshot::cluster::{Discovery, Thresholds};
use ripstop_model::snapshot::endpoint::{Health, Target};
use serde_json::{Value, json};

use super::{Answer, Asked, Context};
use crate::balance::{Bar, Member};
use crate::cluster::Cluster;
use crate::stats::Usage;

/// `/clusters`
pub(super) fn page(context: &Context, asked: &Asked) -> Answer {
    let pattern = match asked.pattern("filter") {
        Ok(pattern) => pattern,
        Err(answer) => return answer,
    };
    let tables = context.shared.live.tables();
    let mut clusters: Vec<(&Name, &Arc<Cluster>)> = tables
        .clusters
        .iter()
        .filter(|(name, _)| {
            pattern
                .as_ref()
                .is_none_or(|pattern| pattern.is_match(name))
        })
        .collect();
    clusters.sort_by_key(|(name, _)| *name);
    if asked.wants_json() {
        let statuses: Vec<Value> = clusters
            .iter()
            .map(|(name, cluster)| status(name, cluster))
            .collect();
        return Answer::json(&json!({ "cluster_statuses": statuses }));
    }
    let mut out = String::new();
    for (name, cluster) in clusters {
        lines(name, cluster, &mut out);
    }
    Answer::text(out)
}

fn lines(name: &str, cluster: &Cluster, out: &mut String) {
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name}::{key}::{value}");
    };
    let alternative = cluster.config.alt_stat_name.as_deref();
    line("observability_name", &alternative.unwrap_or(name));
    let breakers = &cluster.config.breakers;
    for (priority, limits) in [("default", &breakers.default), ("high", &breakers.high)] {
        for (limit, value) in limits_of(limits) {
            line(&format!("{priority}_priority::{limit}"), &value);
        }
    }
    if let Discovery::Eds { service_name } = &cluster.config.discovery {
        line("eds_service_name", service_name);
    }
    for (priority, member) in cluster.roster().by_priority() {
        let address = address(&member.endpoint.address);
        for (key, value) in facts(priority, member) {
            line(&format!("{address}::{key}"), &value);
        }
    }
}

fn limits_of(limits: &Thresholds) -> [(&'static str, u32); 4] {
    [
        ("max_connections", limits.max_connections),
        ("max_pending_requests", limits.max_pending),
        ("max_requests", limits.max_requests),
        ("max_retries", limits.max_retries),
    ]
}

fn address(target: &Target) -> String {
    match target {
        Target::Socket(address) => address.to_string(),
        Target::Name { host, port } => format!("{host}:{port}"),
        Target::Pipe(path) => path.display().to_string(),
    }
}

fn facts(priority: u32, member: &Member) -> Vec<(&'static str, String)> {
    let endpoint = &member.endpoint;
    let locality = &member.locality;
    let usage = |counter: fn(&Usage) -> &AtomicU64| {
        let counter = counter(&member.load.usage);
        counter.load(Ordering::Relaxed).to_string()
    };
    vec![
        ("cx_connect_fail", usage(|usage| &usage.connect_failures)),
        ("rq_active", member.load.active().to_string()),
        ("rq_error", usage(|usage| &usage.errors)),
        ("rq_timeout", usage(|usage| &usage.timeouts)),
        ("rq_total", usage(|usage| &usage.requests)),
        ("hostname", endpoint.hostname.clone().unwrap_or_default()),
        ("health_flags", flags(member)),
        ("weight", endpoint.weight.to_string()),
        ("region", locality.region.clone()),
        ("zone", locality.zone.clone()),
        ("sub_zone", locality.sub_zone.clone()),
        ("priority", priority.to_string()),
    ]
}

/// What keeps a member out, under Envoy's names.
fn reasons(member: &Member) -> Vec<&'static str> {
    let health = member.endpoint.health;
    let all = [
        ("failed_active_hc", member.load.is_barred(Bar::FailedCheck)),
        ("failed_outlier_check", member.load.is_barred(Bar::Ejected)),
        (
            "failed_eds_health",
            matches!(health, Health::Unhealthy | Health::Timeout),
        ),
        ("degraded_eds_health", health == Health::Degraded),
        ("eds_status_draining", health == Health::Draining),
    ];
    all.into_iter()
        .filter_map(|(name, holds)| holds.then_some(name))
        .collect()
}

fn flags(member: &Member) -> String {
    match reasons(member) {
        reasons if reasons.is_empty() => "healthy".to_owned(),
        reasons => reasons.iter().map(|reason| format!("/{reason}")).collect(),
    }
}

fn status(name: &str, cluster: &Cluster) -> Value {
    let members: Vec<Value> = cluster
        .roster()
        .by_priority()
        .map(|(priority, member)| {
            let address = match &member.endpoint.address {
                Target::Socket(address) => {
                    json!({"socket_address": {"address": address.ip(), "port_value": address.port()}})
                }
                Target::Name { host, port } => {
                    json!({"socket_address": {"address": host, "port_value": port}})
                }
                Target::Pipe(path) => json!({"pipe": {"path": path}}),
            };
            let mut health = serde_json::Map::new();
            for reason in reasons(member) {
                health.insert(reason.to_owned(), true.into());
            }
            let (healthy, unhealthy) = ("HEALTHY", "UNHEALTHY");
            let eds = if member.endpoint.health.is_usable() { healthy } else { unhealthy };
            health.insert("eds_health_status".to_owned(), eds.into());
            json!({
                "address": address,
                "hostname": member.endpoint.hostname,
                "health_status": health,
                "weight": member.endpoint.weight,
                "priority": priority,
                "locality": {
                    "region": member.locality.region,
                    "zone": member.locality.zone,
                    "sub_zone": member.locality.sub_zone,
                },
            })
        })
        .collect();
    let thresholds: Vec<Value> = [
        ("DEFAULT", &cluster.config.breakers.default),
        ("HIGH", &cluster.config.breakers.high),
    ]
    .into_iter()
    .map(|(priority, limits)| {
        let mut shown: serde_json::Map<String, Value> = limits_of(limits)
            .into_iter()
            .map(|(limit, value)| (limit.to_owned(), value.into()))
            .collect();
        shown.insert("priority".to_owned(), priority.into());
        shown.into()
    })
    .collect();
    json!({
        "name": name,
        "observability_name": cluster.config.alt_stat_name.as_deref().unwrap_or(name),
        "circuit_breakers": {"thresholds": thresholds},
        "host_statuses": members,
    })
}
