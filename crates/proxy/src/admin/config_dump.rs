//! The running configuration in the form of Envoy's `/config_dump`: what an xDS server would have sent for it.

use std::time::SystemTime;

use axum::http::StatusCode;
use ripstop_model::discovery::{Kind, Resource};
use ripstop_wire::dump::{self, Held};
use serde_json::{Value, json};

use super::{Answer, Asked, Context};
use crate::memory;

/// `/config_dump`. As in Envoy, members are left out unless they are asked for.
pub(super) fn page(context: &Context, asked: &Asked) -> Answer {
    let answer = dump(context, asked);
    // Somebody looked at a sidecar: that must not triple its size for good.
    memory::give_back();
    answer
}

fn dump(context: &Context, asked: &Asked) -> Answer {
    let pattern = match asked.pattern("name_regex") {
        Ok(pattern) => pattern,
        Err(answer) => return answer,
    };
    let members = asked.has("include_eds") || asked.value("resource").is_some();
    let held: Vec<Held> = held(context)
        .into_iter()
        .filter(|held| members || held.resource.kind() != Kind::Endpoints)
        .filter(|held| {
            let name = held.resource.name();
            pattern
                .as_ref()
                .is_none_or(|pattern| pattern.is_match(&name))
        })
        .collect();
    let dump = match dump::config_dump(&context.node, &held) {
        Ok(dump) => dump,
        Err(error) => {
            let answer = Answer::text(format!("{error}\n"));
            return answer.with(StatusCode::INTERNAL_SERVER_ERROR);
        }
    };
    match asked.value("resource") {
        None => Answer::json(&dump),
        Some(resource) => Answer::json(&json!({ "configs": one_list(&dump, resource) })),
    }
}

fn held(context: &Context) -> Vec<Held> {
    let tables = context.shared.live.tables();
    let snapshot = &tables.snapshot;
    let clusters = snapshot.clusters.values().cloned().map(Resource::Cluster);
    let members = snapshot
        .endpoints
        .values()
        .cloned()
        .map(Resource::Endpoints);
    let listeners = snapshot.listeners.values().cloned().map(Resource::Listener);
    let routes = snapshot.routes.values().cloned().map(Resource::Route);
    let resources = clusters.chain(members).chain(listeners).chain(routes);
    let updated = SystemTime::now();
    let version = tables.version.to_string();
    resources
        .map(|resource| Held {
            resource,
            version: version.clone(),
            // Without a control plane nothing came from one.
            is_static: context.is_static,
            updated,
        })
        .collect()
}

/// The entries of the list that `?resource=` names (`dynamic_listeners`).
fn one_list(dump: &Value, name: &str) -> Vec<Value> {
    let configs = dump.get("configs").and_then(Value::as_array);
    let lists = configs
        .into_iter()
        .flatten()
        .filter_map(|config| config.get(name)?.as_array());
    lists.flatten().cloned().collect()
}
