//! The closed list of what may differ between Envoy's answers and ripstop's, with a reason each.

use super::case::Request;
use super::message::{Answer, Fields};

/// A header whose value no two runs share, or that only one of the two has.
pub(crate) struct Header {
    pub(crate) name: &'static str,
    pub(crate) rule: Rule,
    pub(crate) reason: &'static str,
}

pub(crate) enum Rule {
    /// Both have it; what it says is only checked for its form.
    Form(fn(&str) -> bool),
    /// ripstop alone has it, and it is not compared.
    OnlyRipstop,
    /// Not compared.
    Optional,
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
    Header {
        name: "(tls)",
        rule: Rule::Optional,
        reason: "ripstop offers TLS 1.3 to an upstream where Envoy's default stops at 1.2",
    },
    Header {
        name: "te",
        rule: Rule::Optional,
        reason: "it belongs to one connection (RFC 9110 section 10.1.4); an HTTP/1 upstream is asked for no trailers",
    },
];

/// A header of the response that Envoy may have and ripstop not.
pub(crate) struct OnlyEnvoy {
    pub(crate) header: &'static str,
    /// For these requests only.
    pub(crate) to: fn(&Request) -> bool,
    pub(crate) reason: &'static str,
}

pub(crate) const ONLY_ENVOY: &[OnlyEnvoy] = &[
    OnlyEnvoy {
        header: "connection: close",
        to: |request| {
            request.body.is_some()
                || request.chunks.is_some()
                || request.headers.contains_key("upgrade")
        },
        reason: "an answer before the request was read to its end: Envoy closes, ripstop reads the rest of a short one",
    },
    OnlyEnvoy {
        header: "connection: close",
        to: |request| {
            request.request.contains('%') || request.headers.keys().any(|name| name.contains('_'))
        },
        reason: "a request that is refused for what it asks, not for where it ends: its connection may go on",
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
/// what the application wrote. The version: Envoy answers HTTP/1.0 in kind; ripstop writes its own, as it must (RFC 9110
/// section 6.2). Interim responses: Envoy drops all but 100; ripstop passes them on (R15.5).
pub(crate) fn status_line(line: &str) -> String {
    let status = line.split(' ').nth(1).unwrap_or_default();
    format!("HTTP/1 {status}")
}

/// A refusal of ripstop's for a limit goes on, after what Envoy says, to name the limit and its field (R15.2): the answer
/// without that.
pub(crate) fn without_limit(answer: &Answer) -> Answer {
    let mut answer = answer.clone();
    if answer.header("x-ripstop-reason").is_none() {
        return answer;
    }
    let named = |text: &str| text.find(" (limit: ").map(|at| text[..at].to_owned());
    let whole = answer.body.len();
    if let Some(text) = named(&String::from_utf8_lossy(&answer.body)) {
        answer.body = text.into_bytes();
    }
    let (whole, short) = (whole.to_string(), answer.body.len().to_string());
    for (name, value) in &mut answer.headers {
        if name.eq_ignore_ascii_case("content-length") && *value == whole {
            value.clone_from(&short);
        }
        if name.eq_ignore_ascii_case("grpc-message")
            && let Some(text) = named(value)
        {
            *value = text;
        }
    }
    answer
}

/// Whole answers that differ on purpose. A case names the row and says what ripstop does instead.
pub(crate) const BEHAVIOUR: &[(&str, &str)] = &[
    (
        "strict-parsing",
        "what two parsers could read differently is refused with 400 (RFC 9112, sections 2.2, 5.1, 6.1 and 11.2)",
    ),
    (
        "any-method",
        "a method that nobody knows is the application's to judge (RFC 9110, sections 9.1 and 16.1.1)",
    ),
    (
        "one-authority",
        "routes and policies see one form of a name: no default port, no trailing dot (RFC 9110, section 4.2.3)",
    ),
    (
        "trailers",
        "trailers are passed on whatever enable_trailers says: who sends them means them, and gRPC needs them",
    ),
    (
        "expect",
        "Expect goes to the upstream, which alone can say whether it wants the body (R15.5); an unknown one is 417",
    ),
    ("http-1.0", "HTTP/1.0 clients are served (R15.3)"),
    (
        "stale-connection",
        "a request that met a connection which the upstream gave up is sent again on a fresh one (R5.1)",
    ),
    (
        "mirror",
        "a copy is the request as the upstream got it, of a known length, and not Envoy's own call with its own address",
    ),
    (
        "upgrade-ignored",
        "an upgrade that is not allowed is not one: the request goes on without it (RFC 9110 section 7.8)",
    ),
    (
        "server-first",
        "a listener that takes whatever comes does not wait to learn what it is: the server may speak first",
    ),
    (
        "grpc-trailers",
        "a gRPC call that failed in its trailers has failed: it is tried again while nothing of it has reached the client, and counts against who served it",
    ),
    (
        "websocket-answer",
        "a server that answers 200 has opened no WebSocket; on HTTP/2 that answer would (RFC 8441 section 4)",
    ),
    (
        "websocket-key",
        "an HTTP/1 server takes no WebSocket without a key (RFC 6455 section 4.2.1), and HTTP/2 has none (RFC 8441 section 5)",
    ),
    (
        "upgrade-line",
        "Connection to the upstream says what this connection needs, and not what the client said of its own",
    ),
];

/// The list as the test prints it.
pub(crate) fn listed() -> String {
    let headers = HEADERS.iter().map(|row| (row.name, row.reason));
    let only = ONLY_ENVOY.iter().map(|row| (row.header, row.reason));
    headers
        .chain(only)
        .chain(BEHAVIOUR.iter().copied())
        .map(|(name, reason)| format!("  {name}: {reason}\n"))
        .collect()
}

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
                Some(Rule::Optional) => None,
                _ if name == "set-cookie" => Some(format!("{name}: {}", generated(value))),
                // Connection options have no case (RFC 9110 section 7.6.1).
                _ if name == "connection" => {
                    Some(format!("{name}: {}", value.to_ascii_lowercase()))
                }
                _ if name == "x-forwarded-for" => Some(format!("{name}: {}", client(value))),
                _ => Some(format!("{name}: {value}")),
            }
        })
        .collect();
    // The order of values under one name is kept; that of names is each program's own.
    lines.sort_by(|a, b| a.split(':').next().cmp(&b.split(':').next()));
    lines
}

/// Envoy gives the machine's address for a client on loopback; ripstop gives the client's.
fn client(list: &str) -> String {
    let machine: Vec<String> = nix::ifaddrs::getifaddrs()
        .expect("the machine's addresses")
        .filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip().to_string()))
        .collect();
    let one = |address: &str| match machine.iter().any(|own| own == address.trim()) {
        true => "(this machine)".to_owned(),
        false => address.to_owned(),
    };
    list.split(',').map(one).collect::<Vec<_>>().join(",")
}

/// The value of a cookie that the proxy has made up, sixteen hexadecimal digits, is random.
fn generated(cookie: &str) -> String {
    let mut parts = cookie.split('"');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(name), Some(value), Some(rest)) if value.len() == 16 => {
            format!("{name}(generated){rest}")
        }
        _ => cookie.to_owned(),
    }
}

fn is_uuid(value: &str) -> bool {
    value.len() == 36
        && value.char_indices().all(|(at, c)| match at {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        })
}
