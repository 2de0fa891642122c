//! The closed list of what may differ between Envoy's answers and ripstop's, with a reason each.

use super::case::Request;
use super::message::Fields;

/// A header whose value no two runs share, or that only one of the two has.
pub(crate) struct Header {
    pub(crate) name: &'static str,
    pub(crate) rule: Rule,
    #[allow(dead_code, reason = "for the reader of the list")]
    pub(crate) reason: &'static str,
}

pub(crate) enum Rule {
    /// Both have it; what it says is only checked for its form.
    Form(fn(&str) -> bool),
    /// ripstop alone has it, and it is not compared.
    OnlyRipstop,
}

/// On responses to the client and on requests to the upstream alike.
pub(crate) const HEADERS: &[Header] = &[
    Header {
        name: "date",
        rule: Rule::Form(|value| value.ends_with(" GMT") && value.len() == 29),
        reason: "the clock",
    },
    Header {
        name: "x-envoy-upstream-service-time",
        rule: Rule::Form(|value| value.parse::<u32>().is_ok()),
        reason: "a measured time",
    },
    Header {
        name: "x-request-id",
        rule: Rule::Form(is_uuid),
        reason: "random; one that the client gave is compared, since it is no UUID",
    },
    Header {
        name: "x-ripstop-reason",
        rule: Rule::OnlyRipstop,
        reason: "every response of the proxy's own says why (architecture, invariant 7)",
    },
];

/// A header of the response that Envoy may have and ripstop not.
pub(crate) struct OnlyEnvoy {
    pub(crate) header: &'static str,
    /// For these requests only.
    pub(crate) to: fn(&Request) -> bool,
    #[allow(dead_code, reason = "for the reader of the list")]
    pub(crate) reason: &'static str,
}

pub(crate) const ONLY_ENVOY: &[OnlyEnvoy] = &[
    OnlyEnvoy {
        header: "connection: close",
        to: |request| request.body.is_some() || request.chunks.is_some(),
        reason: "an answer before the request's body was read: Envoy closes, ripstop reads the rest of a short one",
    },
    OnlyEnvoy {
        header: "transfer-encoding: chunked",
        to: |request| request.request.starts_with("HEAD "),
        reason: "the answer to HEAD says what GET would get (RFC 9110 section 9.3.2), and GET gets no chunks",
    },
];

/// Lines that are compared in one form.
///
/// Names of headers: HTTP/1 names have no case, and Envoy writes them all small; ripstop keeps what an application
/// wrote (R15.1). Reason phrases: they mean nothing (RFC 9112 section 4), and Envoy writes its own; ripstop passes on
/// what the application wrote.
pub(crate) fn status_line(line: &str) -> String {
    line.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Whole answers that differ on purpose. A case names the row and says what ripstop does instead.
pub(crate) const BEHAVIOUR: &[(&str, &str)] = &[
    (
        "strict-parsing",
        "what two parsers could read differently is refused with 400 (RFC 9112, sections 2.2, 5.1, 6.1 and 11.2)",
    ),
    (
        "one-authority",
        "routes and policies see one form of a name: no default port, no trailing dot (RFC 9110, section 4.2.3)",
    ),
];

/// The headers in an order that does not depend on the program, values that may differ replaced by their form.
pub(crate) fn normalised(headers: &Fields, ripstop: bool) -> Vec<String> {
    let mut lines: Vec<String> = headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .filter_map(|(name, value)| {
            let rule = HEADERS.iter().find(|row| row.name == name);
            match rule.map(|row| &row.rule) {
                Some(Rule::Form(form)) if form(value) => Some(format!("{name}: (as expected)")),
                Some(Rule::OnlyRipstop) if ripstop => None,
                _ => Some(format!("{name}: {value}")),
            }
        })
        .collect();
    // The order of values under one name is kept; that of names is each program's own.
    lines.sort_by(|a, b| a.split(':').next().cmp(&b.split(':').next()));
    lines
}

fn is_uuid(value: &str) -> bool {
    value.len() == 36
        && value.char_indices().all(|(at, c)| match at {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        })
}
