//! The small messages that every other one is made of: matchers, addresses, header edits, metadata, percentages.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use ripstop_model::format::{FormatError, Template};
use ripstop_model::snapshot::endpoint::Target;
use ripstop_model::snapshot::header::{Append, Edit, Edits, HeaderEdits};
use ripstop_model::snapshot::matching::{
    HeaderMatch, HeaderTest, Pattern, QueryMatch, QueryTest, StringMatch,
};
use ripstop_model::snapshot::tls::Pem;
use ripstop_model::snapshot::{Fraction, Resource};

use super::{Decoding, fields};
use crate::pb::{core, google, kind, matcher, route};

pub(super) fn pattern(cx: &mut Decoding, m: matcher::RegexMatcher) -> Option<Pattern> {
    fields!(cx, m => matcher::RegexMatcher { regex } inert { engine_type });
    match Pattern::new(&regex) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            cx.invalid("regex", format!("cannot be compiled: {error}"));
            None
        }
    }
}

pub(super) fn substitution(
    cx: &mut Decoding,
    m: matcher::RegexMatchAndSubstitute,
) -> Option<(Pattern, String)> {
    fields!(cx, m => matcher::RegexMatchAndSubstitute { pattern, substitution });
    let pattern = cx.required("pattern", pattern, self::pattern)?;
    Some((pattern, substitution))
}

pub(super) fn string_match(cx: &mut Decoding, m: matcher::StringMatcher) -> Option<StringMatch> {
    use matcher::string_matcher::MatchPattern;
    fields!(cx, m => matcher::StringMatcher { ignore_case, match_pattern });
    match match_pattern {
        Some(MatchPattern::Exact(value)) => Some(StringMatch::Exact { value, ignore_case }),
        Some(MatchPattern::Prefix(value)) => Some(StringMatch::Prefix { value, ignore_case }),
        Some(MatchPattern::Suffix(value)) => Some(StringMatch::Suffix { value, ignore_case }),
        Some(MatchPattern::Contains(value)) => Some(StringMatch::Contains { value, ignore_case }),
        Some(MatchPattern::SafeRegex(regex)) => cx
            .field("safe_regex", |cx| pattern(cx, regex))
            .map(StringMatch::Regex),
        Some(MatchPattern::Custom(_)) => {
            cx.refuse("custom", true);
            None
        }
        None => {
            cx.invalid_here("has no match pattern");
            None
        }
    }
}

#[allow(deprecated)] // The deprecated forms are still what many control planes send.
pub(super) fn header_match(cx: &mut Decoding, m: route::HeaderMatcher) -> Option<HeaderMatch> {
    use route::header_matcher::HeaderMatchSpecifier as Specifier;
    fields!(cx, m => route::HeaderMatcher {
        name, invert_match, treat_missing_header_as_empty, header_match_specifier,
    });
    if name.is_empty() {
        cx.invalid("name", "is required");
    }
    let test = match header_match_specifier {
        None => HeaderTest::Present(true),
        Some(Specifier::PresentMatch(present)) => HeaderTest::Present(present),
        Some(Specifier::StringMatch(m)) => {
            HeaderTest::String(cx.field("string_match", |cx| string_match(cx, m))?)
        }
        Some(Specifier::ExactMatch(value)) => HeaderTest::String(StringMatch::exact(value)),
        Some(Specifier::PrefixMatch(value)) => HeaderTest::String(StringMatch::prefix(value)),
        Some(Specifier::SuffixMatch(value)) => HeaderTest::String(StringMatch::suffix(value)),
        Some(Specifier::ContainsMatch(value)) => HeaderTest::String(StringMatch::Contains {
            value,
            ignore_case: false,
        }),
        Some(Specifier::SafeRegexMatch(regex)) => HeaderTest::String(StringMatch::Regex(
            cx.field("safe_regex_match", |cx| pattern(cx, regex))?,
        )),
        Some(Specifier::RangeMatch(kind::Int64Range { start, end })) => {
            HeaderTest::Range { start, end }
        }
    };
    Some(HeaderMatch {
        name: name.to_ascii_lowercase(),
        test,
        invert: invert_match,
        missing_as_empty: treat_missing_header_as_empty,
    })
}

pub(super) fn query_match(
    cx: &mut Decoding,
    m: route::QueryParameterMatcher,
) -> Option<QueryMatch> {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
    fields!(cx, m => route::QueryParameterMatcher { name, query_parameter_match_specifier });
    let test = match query_parameter_match_specifier {
        None => QueryTest::Present(true),
        Some(Specifier::PresentMatch(present)) => QueryTest::Present(present),
        Some(Specifier::StringMatch(m)) => {
            QueryTest::String(cx.field("string_match", |cx| string_match(cx, m))?)
        }
    };
    Some(QueryMatch { name, test })
}

pub(super) fn fraction(cx: &mut Decoding, m: kind::FractionalPercent) -> Option<Fraction> {
    use kind::fractional_percent::DenominatorType;
    fields!(cx, m => kind::FractionalPercent { numerator, denominator });
    let scale = match cx.enumeration("denominator", denominator)? {
        DenominatorType::Hundred => 10_000,
        DenominatorType::TenThousand => 100,
        DenominatorType::Million => 1,
    };
    Some(Fraction::millionths(numerator.saturating_mul(scale)))
}

/// The runtime key is inert: ripstop has no runtime that could override the value.
pub(super) fn runtime_fraction(
    cx: &mut Decoding,
    m: core::RuntimeFractionalPercent,
) -> Option<Fraction> {
    fields!(cx, m => core::RuntimeFractionalPercent { default_value } inert { runtime_key });
    cx.required("default_value", default_value, fraction)
}

pub(super) fn percent(m: Option<kind::Percent>, default: Fraction) -> Fraction {
    m.map_or(default, |m| Fraction::percent(m.value))
}

pub(super) fn cidr(cx: &mut Decoding, m: core::CidrRange) -> Option<IpNet> {
    fields!(cx, m => core::CidrRange { address_prefix, prefix_len });
    let Ok(address) = address_prefix.parse::<IpAddr>() else {
        cx.invalid(
            "address_prefix",
            format!("`{address_prefix}` is not an IP address"),
        );
        return None;
    };
    let length = prefix_len.map_or(0, |v| v.value);
    match u8::try_from(length)
        .ok()
        .and_then(|n| IpNet::new(address, n).ok())
    {
        Some(net) => Some(net.trunc()),
        None => {
            cx.invalid("prefix_len", format!("{length} is too long for {address}"));
            None
        }
    }
}

/// Where an endpoint is reached.
pub(super) fn target(cx: &mut Decoding, m: core::Address) -> Option<Target> {
    fields!(cx, m => core::Address { address });
    match address {
        Some(core::address::Address::SocketAddress(m)) => cx.field("socket_address", |cx| {
            let (host, port) = host_and_port(cx, m)?;
            Some(match host.parse::<IpAddr>() {
                Ok(ip) => Target::Socket(SocketAddr::new(ip, port)),
                Err(_) => Target::Name { host, port },
            })
        }),
        Some(core::address::Address::Pipe(core::Pipe { path, mode: _ })) => {
            Some(Target::Pipe(PathBuf::from(path)))
        }
        Some(core::address::Address::EnvoyInternalAddress(_)) => {
            cx.invalid(
                "envoy_internal_address",
                "internal listeners are not supported",
            );
            None
        }
        None => {
            cx.invalid_here("has no address");
            None
        }
    }
}

/// An address to bind or to dial without a resolver.
pub(crate) fn socket_address(cx: &mut Decoding, m: core::Address) -> Option<SocketAddr> {
    match target(cx, m)? {
        Target::Socket(address) => Some(address),
        Target::Name { host, .. } => {
            cx.invalid_here(format!("`{host}` is not an IP address"));
            None
        }
        Target::Pipe(path) => {
            cx.invalid_here(format!("a pipe ({}) is not supported here", path.display()));
            None
        }
    }
}

fn host_and_port(cx: &mut Decoding, m: core::SocketAddress) -> Option<(String, u16)> {
    use core::socket_address::{PortSpecifier, Protocol};
    fields!(cx, m => core::SocketAddress { protocol, address, port_specifier }
        ignore { resolver_name, network_namespace_filepath }
        inert { ipv4_compat });
    if cx.enumeration::<Protocol>("protocol", protocol)? == Protocol::Udp {
        cx.invalid("protocol", "UDP is not supported");
    }
    let port = match port_specifier {
        Some(PortSpecifier::PortValue(port)) => cx.port("port_value", port)?,
        Some(PortSpecifier::NamedPort(_)) => {
            cx.invalid("named_port", "is not supported; give port_value");
            return None;
        }
        None => 0,
    };
    Some((address, port))
}

pub(super) fn pem(cx: &mut Decoding, m: core::DataSource) -> Option<Pem> {
    use core::data_source::Specifier;
    // A file's own directory is watched anyway.
    fields!(cx, m => core::DataSource { specifier } inert { watched_directory });
    match specifier {
        Some(Specifier::Filename(path)) => Some(Pem::File(PathBuf::from(path))),
        Some(Specifier::InlineBytes(bytes)) => Some(Pem::Inline(bytes)),
        Some(Specifier::InlineString(text)) => Some(Pem::Inline(text.into_bytes())),
        Some(Specifier::EnvironmentVariable(_)) => {
            cx.invalid(
                "environment_variable",
                "is not supported; give filename, inline_string or inline_bytes",
            );
            None
        }
        None => {
            cx.invalid_here("has no source");
            None
        }
    }
}

/// The four header fields that routes, virtual hosts, tables and weighted clusters share.
pub(super) struct RawEdits {
    pub(super) request_add: Vec<core::HeaderValueOption>,
    pub(super) request_remove: Vec<String>,
    pub(super) response_add: Vec<core::HeaderValueOption>,
    pub(super) response_remove: Vec<String>,
}

pub(super) fn header_edits(cx: &mut Decoding, raw: RawEdits) -> HeaderEdits {
    let lower = |names: Vec<String>| names.iter().map(|n| n.to_ascii_lowercase()).collect();
    HeaderEdits {
        request: Edits {
            remove: lower(raw.request_remove),
            add: cx.each("request_headers_to_add", raw.request_add, edit),
        },
        response: Edits {
            remove: lower(raw.response_remove),
            add: cx.each("response_headers_to_add", raw.response_add, edit),
        },
    }
}

/// A header whose value cannot be computed is left out rather than sent as something else.
fn header_template(cx: &mut Decoding, value: &str) -> Option<()> {
    cx.field("value", |cx| match Template::parse(value) {
        Ok(_) => Some(()),
        Err(error @ FormatError::Unknown(_)) => {
            cx.ignore_here(error.to_string());
            None
        }
        Err(error) => {
            cx.invalid_here(error.to_string());
            None
        }
    })
}

#[allow(deprecated)] // `append` is what older control planes send.
fn edit(cx: &mut Decoding, m: core::HeaderValueOption) -> Option<Edit> {
    use core::header_value_option::HeaderAppendAction;
    fields!(cx, m => core::HeaderValueOption { header, append, append_action, keep_empty_value });
    let (name, value) = cx.required("header", header, |cx, m| {
        // Envoy edits headers by `value` alone.
        fields!(cx, m => core::HeaderValue { key, value } ignore { raw_value });
        if key.is_empty() {
            cx.invalid("key", "is required");
        }
        header_template(cx, &value)?;
        Some((key, value))
    })?;
    let append = match append {
        Some(google::BoolValue { value: false }) => Append::OverwriteIfExistsOrAdd,
        Some(google::BoolValue { value: true }) => Append::AppendIfExistsOrAdd,
        None => match cx.enumeration("append_action", append_action)? {
            HeaderAppendAction::AppendIfExistsOrAdd => Append::AppendIfExistsOrAdd,
            HeaderAppendAction::AddIfAbsent => Append::AddIfAbsent,
            HeaderAppendAction::OverwriteIfExistsOrAdd => Append::OverwriteIfExistsOrAdd,
            HeaderAppendAction::OverwriteIfExists => Append::OverwriteIfExists,
        },
    };
    Some(Edit {
        name,
        value,
        append,
        keep_empty: keep_empty_value,
    })
}

/// The `filter_metadata` of one filter.
pub(super) fn metadata<'a>(
    m: &'a Option<core::Metadata>,
    filter: &str,
) -> Option<&'a google::Struct> {
    m.as_ref()?.filter_metadata.get(filter)
}

pub(super) fn string<'a>(m: &'a google::Struct, key: &str) -> Option<&'a str> {
    match m.fields.get(key)?.kind.as_ref()? {
        google::value::Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

pub(super) fn number(m: &google::Struct, key: &str) -> Option<f64> {
    match m.fields.get(key)?.kind.as_ref()? {
        google::value::Kind::NumberValue(number) => Some(*number),
        _ => None,
    }
}

pub(super) fn flag(m: Option<&google::Struct>, key: &str) -> bool {
    m.and_then(|m| m.fields.get(key)?.kind.as_ref())
        .is_some_and(|kind| *kind == google::value::Kind::BoolValue(true))
}

pub(super) fn child<'a>(m: &'a google::Struct, key: &str) -> Option<&'a google::Struct> {
    match m.fields.get(key)?.kind.as_ref()? {
        google::value::Kind::StructValue(inner) => Some(inner),
        _ => None,
    }
}

/// All entries of a struct of strings, sorted by key.
pub(super) fn strings(cx: &mut Decoding, m: google::Struct) -> Vec<(String, String)> {
    let mut pairs = Vec::with_capacity(m.fields.len());
    for (key, value) in m.fields {
        match value.kind {
            Some(google::value::Kind::StringValue(text)) => pairs.push((key, text)),
            _ => cx.field(&key, |cx| cx.ignore_here("only strings are supported here")),
        }
    }
    pairs.sort();
    pairs
}

/// The user's resource behind a message: ripstop's own record of it, else Istio's `config` path.
pub(super) fn resource(m: &Option<core::Metadata>) -> Option<Resource> {
    if let Some(own) = metadata(m, "ripstop").and_then(|m| child(m, "resource")) {
        let part = |key| string(own, key).unwrap_or_default().into();
        return Some(Resource {
            kind: part("kind"),
            namespace: part("namespace"),
            name: part("name"),
            part: part("part"),
        });
    }
    // /apis/networking.istio.io/v1/namespaces/NAMESPACE/virtual-service/NAME
    let config = string(metadata(m, "istio")?, "config")?;
    let mut parts = config.strip_prefix("/apis/")?.split('/').skip(2);
    let (Some("namespaces"), Some(namespace), Some(kind), Some(name)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    Some(Resource {
        kind: pascal(kind).into(),
        namespace: namespace.into(),
        name: name.into(),
        part: "".into(),
    })
}

/// `virtual-service` → `VirtualService`.
fn pascal(kebab: &str) -> String {
    kebab
        .split('-')
        .flat_map(|word| {
            let mut chars = word.chars();
            chars
                .next()
                .map(|c| c.to_ascii_uppercase())
                .into_iter()
                .chain(chars)
        })
        .collect()
}
