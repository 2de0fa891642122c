//! A YAML or JSON tree → a protobuf message, by the message's descriptor, with every error located.
//!
//! The mapping is proto3's JSON mapping as Envoy reads it: field names in either case, durations as `1.5s`, wrappers as
//! bare values, enums by name or number, `Any` with an inline `@type`.

use base64::Engine as _;
use prost::Message as _;
use prost_reflect::{
    Cardinality, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};
use ripstop_model::yaml::{Node, Plain, Scalar, Span, Value as Tree};

use crate::decode::{Position, Problem, Severity};
use crate::pb::foreign;

/// Reads `node` as a message of type `descriptor`; what cannot be read is left out and recorded in `problems`.
pub(crate) fn read(
    node: &Node,
    descriptor: &MessageDescriptor,
    problems: &mut Vec<Problem>,
) -> DynamicMessage {
    let mut reader = Reader {
        path: String::new(),
        problems,
    };
    reader.message(node, descriptor)
}

struct Reader<'a> {
    path: String,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn problem(&mut self, span: Span, message: impl Into<String>) {
        self.problems.push(Problem {
            path: self.path.clone(),
            severity: Severity::Invalid,
            message: message.into(),
            at: Some(Position::from(span)),
        });
    }

    fn expected(&mut self, node: &Node, what: &str) {
        self.problem(
            node.span,
            format!("expected {what}, found {}", node.describe()),
        );
    }

    fn inside<R>(&mut self, part: &str, f: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.path.len();
        if !self.path.is_empty() && !part.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(part);
        let result = f(self);
        self.path.truncate(length);
        result
    }

    fn message(&mut self, node: &Node, descriptor: &MessageDescriptor) -> DynamicMessage {
        match descriptor.full_name() {
            "google.protobuf.Any" => return self.any(node, descriptor),
            "google.protobuf.Duration" => return self.duration(node, descriptor),
            "google.protobuf.Struct" => return self.fields_of_struct(node, descriptor),
            "google.protobuf.Value" => return self.value(node, descriptor),
            "google.protobuf.ListValue" => return self.list_value(node, descriptor),
            name if name.starts_with("google.protobuf.") && name.ends_with("Value") => {
                return self.wrapper(node, descriptor);
            }
            _ => {}
        }
        self.plain_message(node, descriptor, None)
    }

    /// Fields by name; `skip` is a key that is not a field.
    fn plain_message(
        &mut self,
        node: &Node,
        descriptor: &MessageDescriptor,
        skip: Option<&str>,
    ) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        let Tree::Map(entries) = &node.value else {
            if !node.is_null() {
                self.expected(node, &format!("the fields of {}", descriptor.name()));
            }
            return message;
        };
        for entry in entries {
            if skip == Some(entry.key.as_str()) {
                continue;
            }
            let Some(field) = descriptor
                .get_field_by_name(&entry.key)
                .or_else(|| descriptor.get_field_by_json_name(&entry.key))
            else {
                let known = nearest(&entry.key, descriptor);
                self.problem(
                    entry.key_span,
                    format!(
                        "unknown field `{}` of {}{known}",
                        entry.key,
                        descriptor.full_name()
                    ),
                );
                continue;
            };
            if entry.value.is_null() && !is_null_value(&field) {
                continue;
            }
            if let Some(oneof) = field.containing_oneof()
                && let Some(other) = oneof.fields().find(|f| message.has_field(f))
            {
                self.problem(
                    entry.key_span,
                    format!(
                        "`{}` and `{}` exclude each other",
                        other.name(),
                        field.name()
                    ),
                );
                continue;
            }
            let value = self.inside(field.name(), |cx| cx.field(&entry.value, &field));
            if let Some(value) = value
                && message.try_set_field(&field, value).is_err()
            {
                self.expected(&entry.value, "another type");
            }
        }
        message
    }

    fn field(&mut self, node: &Node, field: &FieldDescriptor) -> Option<Value> {
        if field.is_map() {
            let Tree::Map(entries) = &node.value else {
                self.expected(node, "a mapping");
                return None;
            };
            let Kind::Message(entry) = field.kind() else {
                return None;
            };
            let value_field = entry.map_entry_value_field();
            let mut map = std::collections::HashMap::new();
            for entry in entries {
                let part = format!("[{}]", entry.key);
                let value = self.inside(&part, |cx| cx.single(&entry.value, &value_field));
                if let Some(value) = value {
                    map.insert(MapKey::String(entry.key.clone()), value);
                }
            }
            return Some(Value::Map(map));
        }
        if field.cardinality() == Cardinality::Repeated {
            let Tree::List(items) = &node.value else {
                self.expected(node, "a list");
                return None;
            };
            let items = items
                .iter()
                .enumerate()
                .filter_map(|(i, item)| self.inside(&format!("[{i}]"), |cx| cx.single(item, field)))
                .collect();
            return Some(Value::List(items));
        }
        self.single(node, field)
    }

    fn single(&mut self, node: &Node, field: &FieldDescriptor) -> Option<Value> {
        match field.kind() {
            Kind::Message(descriptor) => Some(Value::Message(self.message(node, &descriptor))),
            kind => self.scalar(node, &kind),
        }
    }

    fn scalar(&mut self, node: &Node, kind: &Kind) -> Option<Value> {
        let Tree::Scalar(scalar) = &node.value else {
            self.expected(node, "a single value");
            return None;
        };
        let value = match kind {
            Kind::Bool => match plain(scalar) {
                Plain::Bool(value) => Some(Value::Bool(value)),
                _ => None,
            },
            Kind::String => match plain(scalar) {
                Plain::Text => Some(Value::String(scalar.text.clone())),
                _ => {
                    self.expected(node, "text: put it in quotes");
                    return None;
                }
            },
            Kind::Bytes => base64::engine::general_purpose::STANDARD
                .decode(&scalar.text)
                .ok()
                .map(|bytes| Value::Bytes(bytes.into())),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => integer(scalar)
                .and_then(|n| i32::try_from(n).ok())
                .map(Value::I32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => integer(scalar)
                .and_then(|n| i64::try_from(n).ok())
                .map(Value::I64),
            Kind::Uint32 | Kind::Fixed32 => integer(scalar)
                .and_then(|n| u32::try_from(n).ok())
                .map(Value::U32),
            Kind::Uint64 | Kind::Fixed64 => integer(scalar)
                .and_then(|n| u64::try_from(n).ok())
                .map(Value::U64),
            Kind::Float => scalar.text.parse().ok().map(Value::F32),
            Kind::Double => scalar.text.parse().ok().map(Value::F64),
            Kind::Enum(descriptor) => descriptor
                .get_value_by_name(&scalar.text)
                .map(|value| Value::EnumNumber(value.number()))
                .or_else(|| {
                    let number = integer(scalar).and_then(|n| i32::try_from(n).ok());
                    number.map(Value::EnumNumber)
                }),
            Kind::Message(_) => None,
        };
        if value.is_none() {
            self.expected(node, &expectation(kind));
        }
        value
    }

    fn wrapper(&mut self, node: &Node, descriptor: &MessageDescriptor) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        if let Some(field) = descriptor.get_field_by_name("value")
            && let Some(value) = self.scalar(node, &field.kind())
        {
            message.set_field(&field, value);
        }
        message
    }

    fn duration(&mut self, node: &Node, descriptor: &MessageDescriptor) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        match node.text().and_then(seconds_and_nanos) {
            Some((seconds, nanos)) => {
                message.set_field_by_name("seconds", Value::I64(seconds));
                message.set_field_by_name("nanos", Value::I32(nanos));
            }
            None => self.expected(node, "a duration such as 5s or 0.25s"),
        }
        message
    }

    fn any(&mut self, node: &Node, descriptor: &MessageDescriptor) -> DynamicMessage {
        let mut any = DynamicMessage::new(descriptor.clone());
        let Some(url) = node.field("@type").and_then(Node::text) else {
            self.expected(
                node,
                "a typed extension with `@type: type.googleapis.com/…`",
            );
            return any;
        };
        let name = url.rsplit_once('/').map_or(url, |(_, name)| name);
        any.set_field_by_name(
            "type_url",
            Value::String(format!("type.googleapis.com/{name}")),
        );
        let bytes = if foreign::TYPED_STRUCTS
            .iter()
            .any(|known| known.ends_with(name))
        {
            self.typed_struct(node)
        } else if FOREIGN.contains(&name) {
            Vec::new()
        } else if let Some(inner) = descriptor.parent_pool().get_message_by_name(name) {
            // Well-known types inside an Any carry their JSON under `value`.
            let message = if name.starts_with("google.protobuf.") && name != "google.protobuf.Empty"
            {
                node.field("value")
                    .map(|value| self.inside("value", |cx| cx.message(value, &inner)))
            } else {
                Some(self.plain_message(node, &inner, Some("@type")))
            };
            message.map(|m| m.encode_to_vec()).unwrap_or_default()
        } else {
            let span = node
                .entry("@type")
                .map_or(node.span, |entry| entry.value.span);
            self.problem(span, format!("`{name}` is not a type of Envoy's v3 API"));
            return any;
        };
        any.set_field_by_name("value", Value::Bytes(bytes.into()));
        any
    }

    /// `TypedStruct{type_url, value}`, which Envoy's generated API does not carry.
    fn typed_struct(&mut self, node: &Node) -> Vec<u8> {
        let mut message = crate::pb::TypedStruct::default();
        for key in ["type_url", "typeUrl"] {
            if let Some(url) = node.field(key).and_then(Node::text) {
                url.clone_into(&mut message.type_url);
            }
        }
        message.encode_to_vec()
    }

    fn fields_of_struct(&mut self, node: &Node, descriptor: &MessageDescriptor) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        if let Some(field) = descriptor.get_field_by_name("fields")
            && let Some(value) = self.field(node, &field)
        {
            message.set_field(&field, value);
        }
        message
    }

    fn list_value(&mut self, node: &Node, descriptor: &MessageDescriptor) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        if let Some(field) = descriptor.get_field_by_name("values")
            && let Some(value) = self.field(node, &field)
        {
            message.set_field(&field, value);
        }
        message
    }

    fn value(&mut self, node: &Node, descriptor: &MessageDescriptor) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        let (name, value) = match &node.value {
            Tree::Null => ("null_value", Some(Value::EnumNumber(0))),
            Tree::Scalar(scalar) => match plain(scalar) {
                Plain::Bool(value) => ("bool_value", Some(Value::Bool(value))),
                Plain::Int(value) => ("number_value", Some(Value::F64(value as f64))),
                Plain::Float(value) => ("number_value", Some(Value::F64(value))),
                Plain::Text => ("string_value", Some(Value::String(scalar.text.clone()))),
            },
            Tree::Map(_) => {
                let field = descriptor.get_field_by_name("struct_value");
                ("struct_value", field.and_then(|f| self.single(node, &f)))
            }
            Tree::List(_) => {
                let field = descriptor.get_field_by_name("list_value");
                ("list_value", field.and_then(|f| self.single(node, &f)))
            }
        };
        if let Some(value) = value {
            message.set_field_by_name(name, value);
        }
        message
    }
}

/// Istio's own extensions: known by name, their settings are not read.
const FOREIGN: &[&str] = &[
    "io.istio.http.peer_metadata.Config",
    "envoy.tcp.metadataexchange.config.MetadataExchange",
    "stats.PluginConfig",
    "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
];

fn is_null_value(field: &FieldDescriptor) -> bool {
    matches!(field.kind(), Kind::Message(m) if m.full_name() == "google.protobuf.Value")
}

fn plain(scalar: &Scalar) -> Plain {
    if scalar.plain {
        Plain::of(&scalar.text)
    } else {
        Plain::Text
    }
}

/// Quoted integers are integers too, as in proto3's JSON mapping.
fn integer(scalar: &Scalar) -> Option<i128> {
    if let Ok(n) = scalar.text.parse() {
        return Some(n);
    }
    match plain(scalar) {
        Plain::Int(n) => Some(n.into()),
        // `1e3` and `5.0` are integers as JSON sees them.
        Plain::Float(n) if n.fract() == 0.0 && n.abs() < 1e18 => Some(n as i128),
        _ => None,
    }
}

/// `1.5s` → 1 second and 500,000,000 nanoseconds.
fn seconds_and_nanos(text: &str) -> Option<(i64, i32)> {
    let number = text.strip_suffix('s')?;
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty()
        || !digits(whole)
        || !digits(fraction)
        || fraction.len() > 9
    {
        return None;
    }
    let seconds: i64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let nanos: i32 = format!("{fraction:0<9}").parse().ok()?;
    Some(if negative {
        (-seconds, -nanos)
    } else {
        (seconds, nanos)
    })
}

fn expectation(kind: &Kind) -> String {
    match kind {
        Kind::Bool => "true or false".to_owned(),
        Kind::Bytes => "base64".to_owned(),
        Kind::Float | Kind::Double => "a number".to_owned(),
        Kind::Enum(descriptor) => {
            let names: Vec<String> = descriptor.values().map(|v| v.name().to_owned()).collect();
            format!("one of {}", names.join(", "))
        }
        Kind::Uint32 | Kind::Uint64 | Kind::Fixed32 | Kind::Fixed64 => {
            "a whole number that is not negative and fits".to_owned()
        }
        _ => "a whole number that fits".to_owned(),
    }
}

/// `; did you mean `x`?` when a field is one or two edits away.
fn nearest(key: &str, descriptor: &MessageDescriptor) -> String {
    descriptor
        .fields()
        .map(|field| (distance(key, field.name()), field.name().to_owned()))
        .min()
        .filter(|(distance, _)| *distance <= 2)
        .map(|(_, name)| format!("; did you mean `{name}`?"))
        .unwrap_or_default()
}

/// Levenshtein's distance, in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (y, cell) in b.bytes().zip(row.iter_mut().skip(1)) {
            let cost = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = cost.min(*cell + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(seconds_and_nanos("5s"), Some((5, 0)));
        assert_eq!(seconds_and_nanos("0.25s"), Some((0, 250_000_000)));
        assert_eq!(seconds_and_nanos(".5s"), Some((0, 500_000_000)));
        assert_eq!(seconds_and_nanos("-1.5s"), Some((-1, -500_000_000)));
        for bad in ["5", "s", "5m", "1.0000000001s", "--1s", "1e3s"] {
            assert_eq!(seconds_and_nanos(bad), None, "{bad}");
        }
    }

    #[test]
    fn distances() {
        assert_eq!(distance("clusters", "cluster"), 1);
        assert_eq!(distance("", "ab"), 2);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("same", "same"), 0);
    }
}
