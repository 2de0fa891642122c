//! A tree of a bootstrap → the fields it sets, each with its message and its place; and the shapes of messages.
//!
//! For whoever checks that a set of bootstraps exercises all that is decoded: the decoder names the fields of a message as
//! the generated code does, a bootstrap names them as its author did, and the descriptors know both.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use ripstop_model::yaml::{Node, Value as Tree};
use serde_json::{Value as Json, json};

use crate::descriptor::Descriptors;

/// One field that a bootstrap sets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Set {
    /// `envoy.config.route.v3.RouteMatch.prefix`.
    pub field: String,
    /// A JSON pointer (RFC 6901) to the value.
    pub at: String,
}

/// A message as the generated code has it.
#[derive(Debug, Clone)]
pub struct Shape {
    pub name: String,
    pub members: Vec<Member>,
}

/// A field, or a oneof with the fields that it is made of.
#[derive(Debug, Clone)]
pub struct Member {
    pub name: String,
    pub fields: Vec<String>,
}

impl Descriptors {
    /// Every field that the bootstrap at `root` sets, in the order of the text.
    pub fn set_fields(&self, root: &Node) -> Vec<Set> {
        let mut found = Vec::new();
        if let Some(bootstrap) = self.message("envoy.config.bootstrap.v3.Bootstrap") {
            message(root, &bootstrap, "", &mut found);
        }
        found
    }

    /// Envoy's messages whose own name (without package and enclosing messages) is `name`, whatever its case.
    pub fn shapes(&self, name: Option<&str>) -> Vec<Shape> {
        self.all()
            .filter(|message| message.full_name().starts_with("envoy."))
            .filter(|message| name.is_none_or(|name| message.name().eq_ignore_ascii_case(name)))
            .map(|message| shape(&message))
            .collect()
    }
}

impl Descriptors {
    /// A value for a field that is not its default, as JSON; `others` are the fields that exclude it.
    pub fn example(&self, message: &str, field: &str) -> Option<Example> {
        let message = self.message(message)?;
        let field = message.get_field_by_name(field)?;
        let others = field.containing_oneof().into_iter().flat_map(|oneof| {
            let names: Vec<String> = oneof.fields().map(|f| f.name().to_owned()).collect();
            names
        });
        let others = others.filter(|name| name != field.name()).collect();
        let single = single(&field.kind());
        let value = if field.is_map() {
            let Kind::Message(entry) = field.kind() else {
                return None;
            };
            json!({"key": self::single(&entry.map_entry_value_field().kind())})
        } else if field.is_list() {
            json!([single])
        } else {
            single
        };
        Some(Example { value, others })
    }
}

/// What [`Descriptors::example`] gives.
#[derive(Debug, Clone)]
pub struct Example {
    pub value: Json,
    pub others: Vec<String>,
}

fn single(kind: &Kind) -> Json {
    match kind {
        Kind::Bool => json!(true),
        Kind::String => json!("example"),
        Kind::Bytes => json!("ZXhhbXBsZQ=="),
        Kind::Enum(_) => json!(1),
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Any" => {
                json!({"@type": "type.googleapis.com/envoy.config.core.v3.Address"})
            }
            "google.protobuf.Duration" => json!("1s"),
            "google.protobuf.BoolValue" => json!(true),
            "google.protobuf.StringValue" => json!("example"),
            name if name.starts_with("google.protobuf.") && name.ends_with("Value") => json!(1),
            _ => json!({}),
        },
        _ => json!(1),
    }
}

fn shape(message: &MessageDescriptor) -> Shape {
    let name = |field: FieldDescriptor| field.name().to_owned();
    let oneofs = message.oneofs().filter(|oneof| !oneof.is_synthetic());
    let groups = oneofs.map(|oneof| Member {
        name: oneof.name().to_owned(),
        fields: oneof.fields().map(name).collect(),
    });
    let single = |field: &FieldDescriptor| {
        field
            .containing_oneof()
            .is_none_or(|oneof| oneof.is_synthetic())
    };
    let singles = message.fields().filter(single).map(|field| Member {
        name: field.name().to_owned(),
        fields: vec![field.name().to_owned()],
    });
    Shape {
        name: message.full_name().to_owned(),
        members: singles.chain(groups).collect(),
    }
}

fn message(node: &Node, descriptor: &MessageDescriptor, at: &str, found: &mut Vec<Set>) {
    let descriptor = match descriptor.full_name() {
        "google.protobuf.Any" => match held(node, descriptor) {
            Some(inner) => inner,
            None => return,
        },
        name if name.starts_with("google.protobuf.") => return,
        _ => descriptor.clone(),
    };
    let Tree::Map(entries) = &node.value else {
        return;
    };
    for entry in entries {
        let known = descriptor.get_field_by_name(&entry.key);
        let Some(field) = known.or_else(|| descriptor.get_field_by_json_name(&entry.key)) else {
            continue;
        };
        let at = join(at, &entry.key);
        found.push(Set {
            field: format!("{}.{}", descriptor.full_name(), field.name()),
            at: at.clone(),
        });
        within(&entry.value, &field, &at, found);
    }
}

/// What a field holds, if that is messages.
fn within(node: &Node, field: &FieldDescriptor, at: &str, found: &mut Vec<Set>) {
    let Kind::Message(inner) = field.kind() else {
        return;
    };
    if field.is_map() {
        let Kind::Message(value) = inner.map_entry_value_field().kind() else {
            return;
        };
        if let Tree::Map(entries) = &node.value {
            for entry in entries {
                message(&entry.value, &value, &join(at, &entry.key), found);
            }
        }
    } else if field.is_list() {
        for (index, item) in node.items().iter().enumerate() {
            message(item, &inner, &join(at, &index.to_string()), found);
        }
    } else {
        message(node, &inner, at, found);
    }
}

/// The message inside an `Any`.
fn held(node: &Node, any: &MessageDescriptor) -> Option<MessageDescriptor> {
    let url = node.field("@type").and_then(Node::text)?;
    let name = url.rsplit_once('/').map_or(url, |(_, name)| name);
    any.parent_pool().get_message_by_name(name)
}

fn join(at: &str, key: &str) -> String {
    format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_inside_lists_maps_and_any() {
        let text = r#"
static_resources:
  clusters:
  - name: a
    typed_extension_protocol_options:
      envoy/x:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicitHttpConfig: {}
"#;
        let document = ripstop_model::yaml::parse(text).pop().unwrap();
        let found = Descriptors::load()
            .unwrap()
            .set_fields(&document.root.unwrap());
        let last = found.last().unwrap();
        assert_eq!(
            last.field,
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.explicit_http_config"
        );
        assert_eq!(
            last.at,
            "/static_resources/clusters/0/typed_extension_protocol_options/envoy~1x/explicitHttpConfig"
        );
        assert_eq!(found.len(), 5);
    }

    #[test]
    fn a_shape_has_its_oneofs_as_one_member() {
        let shapes = Descriptors::load().unwrap().shapes(Some("RouteMatch"));
        let matching: Vec<&Shape> = shapes
            .iter()
            .filter(|shape| shape.name == "envoy.config.route.v3.RouteMatch")
            .collect();
        let [shape] = matching[..] else {
            panic!("{shapes:?}")
        };
        let path = shape.members.iter().find(|m| m.name == "path_specifier");
        assert!(path.unwrap().fields.contains(&"prefix".to_owned()));
        assert!(shape.members.iter().any(|m| m.name == "case_sensitive"));
    }
}
