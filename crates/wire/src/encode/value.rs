//! The small messages that every other one is made of.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use prost::{Message, Name};
use ripstop_model::snapshot::endpoint::Target;
use ripstop_model::snapshot::header::{Append, Edit, HeaderEdits};
use ripstop_model::snapshot::matching::{
    HeaderMatch, HeaderTest, Pattern, QueryMatch, QueryTest, StringMatch,
};
use ripstop_model::snapshot::tls::Pem;
use ripstop_model::snapshot::{Fraction, Resource};

use crate::pb::{core, google, kind, matcher, route};

pub(super) fn any<M: Message + Name>(m: &M) -> google::Any {
    google::Any {
        type_url: M::type_url(),
        value: m.encode_to_vec(),
    }
}

pub(super) fn extension<M: Message + Name>(name: &str, m: &M) -> core::TypedExtensionConfig {
    core::TypedExtensionConfig {
        name: name.to_owned(),
        typed_config: Some(any(m)),
    }
}

pub(super) fn duration(d: Duration) -> google::Duration {
    google::Duration {
        seconds: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
        nanos: d.subsec_nanos().cast_signed(),
    }
}

/// Zero is Envoy's "no limit".
pub(super) fn limit(d: Option<Duration>) -> google::Duration {
    duration(d.unwrap_or_default())
}

pub(super) fn uint(value: u32) -> Option<google::UInt32Value> {
    Some(google::UInt32Value { value })
}

pub(super) fn boolean(value: bool) -> Option<google::BoolValue> {
    Some(google::BoolValue { value })
}

/// Set only when true: the default is false.
pub(super) fn when(value: bool) -> Option<google::BoolValue> {
    value.then_some(google::BoolValue { value })
}

pub(super) fn percent(f: Fraction) -> Option<kind::Percent> {
    Some(kind::Percent {
        value: f64::from(f.as_millionths()) / 10_000.0,
    })
}

pub(super) fn fraction(f: Fraction) -> kind::FractionalPercent {
    kind::FractionalPercent {
        numerator: f.as_millionths(),
        denominator: kind::fractional_percent::DenominatorType::Million.into(),
    }
}

pub(super) fn runtime_fraction(f: Fraction) -> core::RuntimeFractionalPercent {
    core::RuntimeFractionalPercent {
        default_value: Some(fraction(f)),
        runtime_key: String::new(),
    }
}

pub(super) fn pattern(p: &Pattern) -> matcher::RegexMatcher {
    matcher::RegexMatcher {
        regex: p.as_str().to_owned(),
        engine_type: None,
    }
}

pub(super) fn substitution(p: &Pattern, text: &str) -> matcher::RegexMatchAndSubstitute {
    matcher::RegexMatchAndSubstitute {
        pattern: Some(pattern(p)),
        substitution: text.to_owned(),
    }
}

pub(super) fn string_match(m: &StringMatch) -> matcher::StringMatcher {
    use matcher::string_matcher::MatchPattern;
    let (pattern, ignore_case) = match m.clone() {
        StringMatch::Exact { value, ignore_case } => (MatchPattern::Exact(value), ignore_case),
        StringMatch::Prefix { value, ignore_case } => (MatchPattern::Prefix(value), ignore_case),
        StringMatch::Suffix { value, ignore_case } => (MatchPattern::Suffix(value), ignore_case),
        StringMatch::Contains { value, ignore_case } => {
            (MatchPattern::Contains(value), ignore_case)
        }
        StringMatch::Regex(p) => (MatchPattern::SafeRegex(pattern(&p)), false),
    };
    matcher::StringMatcher {
        ignore_case,
        match_pattern: Some(pattern),
    }
}

pub(super) fn header_match(m: &HeaderMatch) -> route::HeaderMatcher {
    use route::header_matcher::HeaderMatchSpecifier as Specifier;
    route::HeaderMatcher {
        name: m.name.clone(),
        invert_match: m.invert,
        treat_missing_header_as_empty: m.missing_as_empty,
        header_match_specifier: Some(match &m.test {
            HeaderTest::Present(present) => Specifier::PresentMatch(*present),
            HeaderTest::String(test) => Specifier::StringMatch(string_match(test)),
            HeaderTest::Range { start, end } => Specifier::RangeMatch(kind::Int64Range {
                start: *start,
                end: *end,
            }),
        }),
    }
}

pub(super) fn query_match(m: &QueryMatch) -> route::QueryParameterMatcher {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
    route::QueryParameterMatcher {
        name: m.name.clone(),
        query_parameter_match_specifier: Some(match &m.test {
            QueryTest::Present(present) => Specifier::PresentMatch(*present),
            QueryTest::String(test) => Specifier::StringMatch(string_match(test)),
        }),
    }
}

pub(super) fn cidr(net: &IpNet) -> core::CidrRange {
    core::CidrRange {
        address_prefix: net.addr().to_string(),
        prefix_len: uint(net.prefix_len().into()),
    }
}

pub(super) fn socket_address(address: SocketAddr) -> core::Address {
    named_address(address.ip().to_string(), address.port())
}

fn named_address(address: String, port: u16) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address,
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })),
    }
}

pub(super) fn target(t: &Target) -> core::Address {
    match t {
        Target::Socket(address) => socket_address(*address),
        Target::Name { host, port } => named_address(host.clone(), *port),
        Target::Pipe(path) => core::Address {
            address: Some(core::address::Address::Pipe(core::Pipe {
                path: path.display().to_string(),
                mode: 0,
            })),
        },
    }
}

pub(super) fn pem(p: &Pem) -> core::DataSource {
    use core::data_source::Specifier;
    core::DataSource {
        watched_directory: None,
        specifier: Some(match p {
            Pem::Inline(bytes) => Specifier::InlineBytes(bytes.clone()),
            Pem::File(path) => Specifier::Filename(path.display().to_string()),
        }),
    }
}

/// The four header fields that routes, virtual hosts, tables and weighted clusters share.
pub(super) struct RawEdits {
    pub(super) request_add: Vec<core::HeaderValueOption>,
    pub(super) request_remove: Vec<String>,
    pub(super) response_add: Vec<core::HeaderValueOption>,
    pub(super) response_remove: Vec<String>,
}

pub(super) fn header_edits(h: &HeaderEdits) -> RawEdits {
    RawEdits {
        request_add: h.request.add.iter().map(edit).collect(),
        request_remove: h.request.remove.clone(),
        response_add: h.response.add.iter().map(edit).collect(),
        response_remove: h.response.remove.clone(),
    }
}

fn edit(e: &Edit) -> core::HeaderValueOption {
    use core::header_value_option::HeaderAppendAction as Action;
    let action = match e.append {
        Append::AppendIfExistsOrAdd => Action::AppendIfExistsOrAdd,
        Append::AddIfAbsent => Action::AddIfAbsent,
        Append::OverwriteIfExistsOrAdd => Action::OverwriteIfExistsOrAdd,
        Append::OverwriteIfExists => Action::OverwriteIfExists,
    };
    core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: e.name.clone(),
            value: e.value.clone(),
            raw_value: Vec::new(),
        }),
        append_action: action.into(),
        keep_empty_value: e.keep_empty,
        ..Default::default()
    }
}

pub(super) fn text(value: impl Into<String>) -> google::Value {
    google::Value {
        kind: Some(google::value::Kind::StringValue(value.into())),
    }
}

pub(super) fn number(value: f64) -> google::Value {
    google::Value {
        kind: Some(google::value::Kind::NumberValue(value)),
    }
}

pub(super) fn truth() -> google::Value {
    google::Value {
        kind: Some(google::value::Kind::BoolValue(true)),
    }
}

pub(super) fn object(fields: impl IntoIterator<Item = (String, google::Value)>) -> google::Value {
    google::Value {
        kind: Some(google::value::Kind::StructValue(google::Struct {
            fields: fields.into_iter().collect(),
        })),
    }
}

pub(super) fn list(values: Vec<google::Value>) -> google::Value {
    google::Value {
        kind: Some(google::value::Kind::ListValue(google::ListValue { values })),
    }
}

pub(super) fn strings<'a>(
    pairs: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> google::Struct {
    google::Struct {
        fields: pairs
            .into_iter()
            .map(|(k, v)| (k.clone(), text(v.clone())))
            .collect(),
    }
}

/// Filter metadata in the making.
#[derive(Default)]
pub(super) struct Meta(HashMap<String, google::Struct>);

impl Meta {
    pub(super) fn put(&mut self, filter: &str, key: &str, value: google::Value) {
        self.0
            .entry(filter.to_owned())
            .or_default()
            .fields
            .insert(key.to_owned(), value);
    }

    pub(super) fn put_all(&mut self, filter: &str, fields: google::Struct) {
        if !fields.fields.is_empty() {
            self.0.insert(filter.to_owned(), fields);
        }
    }

    /// Both Istio's `config` path and ripstop's own record, which also has the part.
    pub(super) fn put_resource(&mut self, resource: &Option<Resource>) {
        let Some(r) = resource else { return };
        let config = format!(
            "/apis/networking.istio.io/v1/namespaces/{}/{}/{}",
            r.namespace,
            kebab(&r.kind),
            r.name
        );
        self.put("istio", "config", text(config));
        let part = |key: &str, value: &str| (key.to_owned(), text(value));
        self.put(
            "ripstop",
            "resource",
            object([
                part("kind", &r.kind),
                part("namespace", &r.namespace),
                part("name", &r.name),
                part("part", &r.part),
            ]),
        );
    }

    pub(super) fn finish(self) -> Option<core::Metadata> {
        (!self.0.is_empty()).then_some(core::Metadata {
            filter_metadata: self.0,
            typed_filter_metadata: HashMap::new(),
        })
    }
}

/// `VirtualService` → `virtual-service`.
fn kebab(pascal: &str) -> String {
    let mut out = String::with_capacity(pascal.len() + 4);
    for (i, c) in pascal.chars().enumerate() {
        if c.is_ascii_uppercase() && i > 0 {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
