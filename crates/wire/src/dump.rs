//! What a proxy holds → the JSON of Envoy's `/config_dump`, which tools such as istioctl read.
//!
//! Private keys are never shown. Writing takes Envoy's [`Descriptors`].

use std::time::SystemTime;

use prost_reflect::{DynamicMessage, SerializeOptions};
use ripstop_model::discovery::{Kind, Resource};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::StaticFormatDescription;
use time::macros::format_description;

use crate::descriptor::Descriptors;
use crate::encode;
use crate::node::Node;
use crate::xds::type_url;

/// One resource that is in use.
#[derive(Debug, Clone)]
pub struct Held {
    pub resource: Resource,
    /// As the control plane named it; empty for a static resource.
    pub version: String,
    /// From the bootstrap rather than from a control plane.
    pub is_static: bool,
    pub updated: SystemTime,
}

#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    #[error("this build carries no descriptors of Envoy's API: {0}")]
    Descriptors(#[from] prost_reflect::DescriptorError),
    #[error("this build carries no descriptor of `{0}`")]
    Unknown(String),
    #[error("{name} cannot be written as JSON: {reason}")]
    Unwritable { name: String, reason: String },
}

/// The whole answer to `/config_dump`.
pub fn config_dump(node: &Node, held: &[Held]) -> Result<Value, DumpError> {
    let descriptors = Descriptors::load()?;
    let mut configs = vec![json!({
        "@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump",
        "bootstrap": {"node": {
            "id": node.id, "cluster": node.cluster, "metadata": node.metadata,
            "user_agent_name": node.user_agent,
        }},
    })];
    for section in SECTIONS {
        let mut fixed = Vec::new();
        let mut dynamic = Vec::new();
        for one in held.iter().filter(|h| h.resource.kind() == section.kind) {
            let resource = json(&descriptors, &one.resource)?;
            let mut entry = Map::new();
            entry.insert("last_updated".into(), timestamp(one.updated).into());
            entry.insert(section.field.into(), resource);
            if one.is_static {
                fixed.push(Value::Object(entry));
                continue;
            }
            entry.insert("version_info".into(), one.version.clone().into());
            if section.kind == Kind::Listener {
                // Listeners alone have states: only the active one is ever held here.
                dynamic.push(json!({"name": &*one.resource.name(), "active_state": entry}));
            } else {
                if section.kind == Kind::Secret {
                    entry.insert("name".into(), (&*one.resource.name()).into());
                }
                dynamic.push(Value::Object(entry));
            }
        }
        let mut config = Map::new();
        let kind = format!("type.googleapis.com/envoy.admin.v3.{}", section.message);
        config.insert("@type".into(), kind.into());
        for (name, list) in [(section.fixed, fixed), (section.dynamic, dynamic)] {
            if !list.is_empty() {
                config.insert(name.into(), list.into());
            }
        }
        configs.push(Value::Object(config));
    }
    Ok(json!({ "configs": configs }))
}

/// Where `/config_dump` puts the resources of a kind.
struct Section {
    kind: Kind,
    message: &'static str,
    fixed: &'static str,
    dynamic: &'static str,
    field: &'static str,
}

const SECTIONS: &[Section] = &[
    Section {
        kind: Kind::Cluster,
        message: "ClustersConfigDump",
        fixed: "static_clusters",
        dynamic: "dynamic_active_clusters",
        field: "cluster",
    },
    Section {
        kind: Kind::Endpoints,
        message: "EndpointsConfigDump",
        fixed: "static_endpoint_configs",
        dynamic: "dynamic_endpoint_configs",
        field: "endpoint_config",
    },
    Section {
        kind: Kind::Listener,
        message: "ListenersConfigDump",
        fixed: "static_listeners",
        dynamic: "dynamic_listeners",
        field: "listener",
    },
    Section {
        kind: Kind::Route,
        message: "RoutesConfigDump",
        fixed: "static_route_configs",
        dynamic: "dynamic_route_configs",
        field: "route_config",
    },
    Section {
        kind: Kind::Secret,
        message: "SecretsConfigDump",
        fixed: "static_secrets",
        dynamic: "dynamic_active_secrets",
        field: "secret",
    },
];

/// A resource as Envoy's JSON with its `@type`, private keys left out. Hosts and ranges, which Envoy does not know, have
/// no JSON.
pub fn json(descriptors: &Descriptors, resource: &Resource) -> Result<Value, DumpError> {
    let url = type_url(resource.kind());
    let name = url.rsplit_once('/').map_or(url, |(_, name)| name);
    let message = encode::message(resource);
    let mut value = message_json(descriptors, name, &message).map_err(|error| match error {
        DumpError::Unwritable { reason, .. } => DumpError::Unwritable {
            name: resource.name().to_string(),
            reason,
        },
        DumpError::Unknown(_) | DumpError::Descriptors(_) => error,
    })?;
    redact(&mut value);
    if let Value::Object(fields) = &mut value {
        fields.insert("@type".into(), url.into());
    }
    Ok(value)
}

/// Any message of Envoy's API as JSON with its original field names.
fn message_json(descriptors: &Descriptors, name: &str, bytes: &[u8]) -> Result<Value, DumpError> {
    let schema = descriptors
        .message(name)
        .ok_or_else(|| DumpError::Unknown(name.to_owned()))?;
    let unwritable = |reason: String| DumpError::Unwritable {
        name: name.to_owned(),
        reason,
    };
    let message =
        DynamicMessage::decode(schema, bytes).map_err(|error| unwritable(error.to_string()))?;
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .stringify_64_bit_integers(false);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| unwritable(error.to_string()))
}

/// Replaces what Envoy's API marks as sensitive and ripstop can hold.
fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                if key == "private_key" {
                    *inner = json!({"inline_string": "[redacted]"});
                } else {
                    redact(inner);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        _ => {}
    }
}

/// RFC 3339 in UTC with milliseconds.
fn timestamp(at: SystemTime) -> String {
    const MILLISECONDS: StaticFormatDescription =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::from(at)
        .format(&MILLISECONDS)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
