//! Who asks: `config.core.v3.Node`, and the metadata that Istio and ripstop give a meaning.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::google::protobuf as wkt;
use ripstop_model::snapshot::endpoint::Locality;
use serde_json::{Map, Value};

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// Istio's form is `sidecar~<ip>~<workload>.<namespace>~<namespace>.svc.<domain>`.
    pub id: String,
    pub cluster: String,
    pub locality: Locality,
    pub metadata: Map<String, Value>,
    /// `envoy` for a stock Envoy, `ripstop` for ours.
    pub user_agent: String,
    pub user_agent_version: String,
}

impl Node {
    /// A string in the metadata, such as `NAMESPACE` or `SERVICE_ACCOUNT`.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).and_then(Value::as_str)
    }

    pub(crate) fn to_message(&self) -> core::Node {
        let Locality {
            region,
            zone,
            sub_zone,
        } = self.locality.clone();
        core::Node {
            id: self.id.clone(),
            cluster: self.cluster.clone(),
            metadata: (!self.metadata.is_empty()).then(|| to_struct(&self.metadata)),
            locality: (self.locality != Locality::default()).then_some(core::Locality {
                region,
                zone,
                sub_zone,
            }),
            user_agent_name: self.user_agent.clone(),
            user_agent_version_type: (!self.user_agent_version.is_empty()).then(|| {
                core::node::UserAgentVersionType::UserAgentVersion(self.user_agent_version.clone())
            }),
            ..core::Node::default()
        }
    }

    pub(crate) fn from_message(node: core::Node) -> Node {
        let locality = node.locality.unwrap_or_default();
        let user_agent_version = match node.user_agent_version_type {
            Some(core::node::UserAgentVersionType::UserAgentVersion(version)) => version,
            Some(core::node::UserAgentVersionType::UserAgentBuildVersion(build)) => {
                let version = build.version.unwrap_or_default();
                format!(
                    "{}.{}.{}",
                    version.major_number, version.minor_number, version.patch
                )
            }
            None => String::new(),
        };
        Node {
            id: node.id,
            cluster: node.cluster,
            locality: Locality {
                region: locality.region,
                zone: locality.zone,
                sub_zone: locality.sub_zone,
            },
            metadata: node
                .metadata
                .map(|metadata| from_struct(metadata, DEPTH))
                .unwrap_or_default(),
            user_agent: node.user_agent_name,
            user_agent_version,
        }
    }
}

/// A peer's metadata may nest this deep; what is deeper is dropped.
const DEPTH: usize = 16;

/// JSON object → `google.protobuf.Struct`.
pub(crate) fn to_struct(map: &Map<String, Value>) -> wkt::Struct {
    wkt::Struct {
        fields: map
            .iter()
            .map(|(key, value)| (key.clone(), to_value(value)))
            .collect(),
    }
}

fn to_value(value: &Value) -> wkt::Value {
    use wkt::value::Kind;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(b) => Kind::BoolValue(*b),
        Value::Number(n) => Kind::NumberValue(n.as_f64().unwrap_or_default()),
        Value::String(s) => Kind::StringValue(s.clone()),
        Value::Array(items) => Kind::ListValue(wkt::ListValue {
            values: items.iter().map(to_value).collect(),
        }),
        Value::Object(map) => Kind::StructValue(to_struct(map)),
    };
    wkt::Value { kind: Some(kind) }
}

/// `google.protobuf.Struct` → JSON object, to a bounded depth.
pub(crate) fn from_struct(message: wkt::Struct, depth: usize) -> Map<String, Value> {
    if depth == 0 {
        return Map::new();
    }
    message
        .fields
        .into_iter()
        .map(|(key, value)| (key, from_value(value, depth - 1)))
        .collect()
}

fn from_value(value: wkt::Value, depth: usize) -> Value {
    use wkt::value::Kind;
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(b)) => Value::Bool(b),
        // Whole numbers stay whole, so that 8080 does not come back as 8080.0.
        Some(Kind::NumberValue(n)) if n.fract() == 0.0 && n.abs() < 9e15 => (n as i64).into(),
        Some(Kind::NumberValue(n)) => n.into(),
        Some(Kind::StringValue(s)) => Value::String(s),
        Some(Kind::ListValue(_)) if depth == 0 => Value::Null,
        Some(Kind::ListValue(list)) => Value::Array(
            list.values
                .into_iter()
                .map(|v| from_value(v, depth - 1))
                .collect(),
        ),
        Some(Kind::StructValue(map)) => Value::Object(from_struct(map, depth)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let node = Node {
            id: "sidecar~10.88.0.1~a.default~default.svc.cluster.local".into(),
            cluster: "a".into(),
            locality: Locality {
                zone: "z".into(),
                ..Locality::default()
            },
            metadata: serde_json::from_str(
                r#"{"NAMESPACE":"default","LABELS":{"app":"a"},"L":[1,2.5,true,null]}"#,
            )
            .unwrap(),
            user_agent: "ripstop".into(),
            user_agent_version: "0.1.0".into(),
        };
        assert_eq!(Node::from_message(node.to_message()), node);
        assert_eq!(node.text("NAMESPACE"), Some("default"));
    }
}
