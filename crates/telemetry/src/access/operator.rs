//! The `%…%` operators, a row each: from a record to a value (Envoy's "Access logging" documentation, command operators).

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, UNIX_EPOCH};

use time::OffsetDateTime;

use super::FormatError;
use crate::record::{Fields, Kind, Record};

/// A field's value before it is written.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    Unset,
    Number(u64),
    Text(Cow<'a, str>),
    Address(SocketAddr),
}

impl<'a> Value<'a> {
    fn text(text: Option<&'a str>) -> Value<'a> {
        match text {
            Some(text) if !text.is_empty() => Value::Text(text.into()),
            _ => Value::Unset,
        }
    }

    fn owned(text: String) -> Value<'a> {
        Value::Text(text.into())
    }

    fn number(n: Option<u64>) -> Value<'a> {
        n.map_or(Value::Unset, Value::Number)
    }

    fn millis(duration: Option<Duration>) -> Value<'a> {
        Value::number(duration.map(|d| d.as_millis() as u64))
    }

    fn address(address: Option<SocketAddr>) -> Value<'a> {
        address.map_or(Value::Unset, Value::Address)
    }

    fn ip(address: Option<SocketAddr>) -> Value<'a> {
        address
            .map(|a| a.ip())
            .map_or(Value::Unset, |ip: IpAddr| Value::owned(ip.to_string()))
    }

    fn port(address: Option<SocketAddr>) -> Value<'a> {
        Value::number(address.map(|a| u64::from(a.port())))
    }
}

type Of = for<'a> fn(&'a Record<'_>) -> Value<'a>;

/// Operators without an argument.
static OPERATORS: &[(&str, Of)] = &[
    ("PROTOCOL", |r| Value::text(Some(r.protocol))),
    ("RESPONSE_CODE", |r| {
        if r.kind == Kind::Tcp {
            Value::Number(0)
        } else {
            Value::Number(u64::from(r.status))
        }
    }),
    ("RESPONSE_CODE_DETAILS", details),
    ("CONNECTION_TERMINATION_DETAILS", |r| {
        Value::text(r.termination_details)
    }),
    ("RESPONSE_FLAGS", |r| {
        if r.flags.is_empty() {
            Value::Text("-".into())
        } else {
            Value::owned(r.flags.to_string())
        }
    }),
    ("RESPONSE_FLAGS_LONG", |r| {
        let long: Vec<_> = r.flags.iter().map(|f| f.long()).collect();
        if long.is_empty() {
            Value::Text("-".into())
        } else {
            Value::owned(long.join(","))
        }
    }),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", |r| {
        Value::text(r.upstream_failure)
    }),
    ("BYTES_RECEIVED", |r| Value::Number(r.bytes_received)),
    ("BYTES_SENT", |r| Value::Number(r.bytes_sent)),
    ("DURATION", |r| Value::millis(Some(r.timings.total))),
    ("REQUEST_DURATION", |r| {
        Value::millis(r.timings.request_received)
    }),
    ("REQUEST_TX_DURATION", |r| {
        Value::millis(r.timings.upstream_sent)
    }),
    ("RESPONSE_DURATION", |r| {
        Value::millis(r.timings.response_started)
    }),
    ("RESPONSE_TX_DURATION", |r| {
        Value::millis(
            r.timings
                .response_started
                .map(|started| r.timings.total.saturating_sub(started)),
        )
    }),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", |r| {
        Value::Number(u64::from(r.attempts))
    }),
    ("UPSTREAM_HOST", |r| Value::address(r.upstream_host)),
    ("UPSTREAM_REMOTE_ADDRESS", |r| {
        Value::address(r.upstream_host)
    }),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", |r| {
        Value::ip(r.upstream_host)
    }),
    ("UPSTREAM_REMOTE_PORT", |r| Value::port(r.upstream_host)),
    ("UPSTREAM_LOCAL_ADDRESS", |r| {
        Value::address(r.upstream_local)
    }),
    ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", |r| {
        Value::ip(r.upstream_local)
    }),
    ("UPSTREAM_LOCAL_PORT", |r| Value::port(r.upstream_local)),
    ("UPSTREAM_CLUSTER", |r| Value::text(r.cluster)),
    ("UPSTREAM_CLUSTER_RAW", |r| Value::text(r.cluster)),
    ("DOWNSTREAM_LOCAL_ADDRESS", |r| {
        Value::address(r.downstream_local)
    }),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", |r| {
        Value::ip(r.downstream_local)
    }),
    ("DOWNSTREAM_LOCAL_PORT", |r| Value::port(r.downstream_local)),
    ("DOWNSTREAM_REMOTE_ADDRESS", |r| {
        Value::address(r.downstream_remote)
    }),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", |r| {
        Value::ip(r.downstream_remote)
    }),
    ("DOWNSTREAM_REMOTE_PORT", |r| {
        Value::port(r.downstream_remote)
    }),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", |r| {
        Value::address(r.downstream_direct.or(r.downstream_remote))
    }),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", |r| {
        Value::ip(r.downstream_direct.or(r.downstream_remote))
    }),
    ("DOWNSTREAM_DIRECT_REMOTE_PORT", |r| {
        Value::port(r.downstream_direct.or(r.downstream_remote))
    }),
    ("DOWNSTREAM_PEER_URI_SAN", |r| Value::text(r.peer_uri_san)),
    ("DOWNSTREAM_LOCAL_URI_SAN", |r| Value::text(r.local_uri_san)),
    ("DOWNSTREAM_PEER_SUBJECT", |r| Value::text(r.peer_subject)),
    ("DOWNSTREAM_TLS_VERSION", |r| Value::text(r.tls_version)),
    ("REQUESTED_SERVER_NAME", |r| Value::text(r.server_name)),
    ("ROUTE_NAME", |r| Value::text(r.route)),
    ("CONNECTION_ID", |r| Value::Number(r.connection_id)),
    ("TRACE_ID", |r| {
        r.span.map_or(Value::Unset, |s| {
            Value::owned(format!("{:032x}", s.trace_id))
        })
    }),
    ("GRPC_STATUS_NUMBER", |r| {
        Value::number(r.grpc_status.map(u64::from))
    }),
    ("GRPC_STATUS", |r| Value::text(r.grpc_status.map(grpc_name))),
    ("RIPSTOP_REASON", |r| {
        Value::text(r.reason.map(|reason| reason.as_str()))
    }),
    ("RIPSTOP_RESOURCE", |r| Value::text(r.resource)),
];

/// `via_upstream`, or why the proxy answered; with the deciding resource in brackets, as Istio names the policy that
/// denied. One token without spaces.
fn details<'a>(record: &'a Record<'_>) -> Value<'a> {
    match (record.reason, record.resource) {
        (Some(reason), None) => Value::text(Some(reason.details())),
        (Some(reason), Some(resource)) => {
            let resource = resource.replace(|c: char| c.is_whitespace(), "_");
            Value::owned(format!("{}[{resource}]", reason.details()))
        }
        (None, _) if record.kind != Kind::Tcp && record.status != 0 => {
            Value::Text("via_upstream".into())
        }
        (None, _) => Value::Unset,
    }
}

/// Canonical names of gRPC status codes, in Envoy's default camel case.
fn grpc_name(status: u32) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    usize::try_from(status)
        .ok()
        .and_then(|i| NAMES.get(i))
        .copied()
        .unwrap_or("InvalidCode")
}

#[derive(Debug, Clone, Copy)]
enum Head {
    Request,
    Response,
    Trailers,
}

#[derive(Clone)]
enum What {
    Plain(Of),
    StartTime(Vec<Stamp>),
    Field {
        head: Head,
        name: String,
        instead: Option<String>,
    },
}

/// A parsed operator.
#[derive(Clone)]
pub struct Operator {
    what: What,
    /// Longest value in bytes (`%REQ(NAME):12%`).
    limit: Option<usize>,
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.what {
            What::Plain(_) => f.write_str("Plain"),
            What::StartTime(_) => f.write_str("StartTime"),
            What::Field {
                head,
                name,
                instead,
            } => write!(f, "{head:?}({name}?{instead:?})"),
        }
    }
}

impl Operator {
    /// Parses what stands between the percent signs.
    pub fn parse(text: &str) -> Result<Operator, FormatError> {
        let bad = |cause: &str| FormatError::Argument {
            operator: text.to_owned(),
            cause: cause.to_owned(),
        };
        let (name, argument, rest) = match text.split_once('(') {
            None => match text.split_once(':') {
                None => (text, None, ""),
                Some((name, limit)) => (name, None, limit),
            },
            Some((name, rest)) => {
                let (argument, rest) = rest
                    .split_once(')')
                    .ok_or_else(|| bad("the parenthesis is not closed"))?;
                let rest = match rest {
                    "" => "",
                    rest => rest
                        .strip_prefix(':')
                        .ok_or_else(|| bad("only `:LENGTH` may follow"))?,
                };
                (name, Some(argument), rest)
            }
        };
        let limit = match rest {
            "" => None,
            digits => Some(
                digits
                    .parse()
                    .map_err(|_| bad("the length is not a number"))?,
            ),
        };
        let head = match name {
            "REQ" => Some(Head::Request),
            "RESP" => Some(Head::Response),
            "TRAILER" => Some(Head::Trailers),
            _ => None,
        };
        let what = match (head, name, argument) {
            (Some(head), _, Some(argument)) if !argument.is_empty() => {
                let (name, instead) = match argument.split_once('?') {
                    None => (argument, None),
                    Some((name, instead)) => (name, Some(instead.to_ascii_lowercase())),
                };
                What::Field {
                    head,
                    name: name.to_ascii_lowercase(),
                    instead,
                }
            }
            (Some(_), ..) => return Err(bad("name a header: `%REQ(NAME)%`")),
            (None, "START_TIME", argument) => {
                What::StartTime(stamps(argument.unwrap_or_default()).map_err(|e| bad(&e))?)
            }
            (None, name, None | Some("")) => {
                match OPERATORS.iter().find(|(known, _)| *known == name) {
                    Some((_, of)) => What::Plain(*of),
                    None => return Err(FormatError::Unknown(text.to_owned())),
                }
            }
            (None, name, Some(_)) if OPERATORS.iter().any(|(known, _)| *known == name) => {
                return Err(bad("it takes no argument"));
            }
            _ => return Err(FormatError::Unknown(text.to_owned())),
        };
        Ok(Operator { what, limit })
    }

    pub fn value<'a>(&self, record: &'a Record<'_>) -> Value<'a> {
        let value = match &self.what {
            What::Plain(of) => of(record),
            What::StartTime(stamps) => Value::owned(write_stamps(stamps, record)),
            What::Field {
                head,
                name,
                instead,
            } => {
                let fields: &dyn Fields = match head {
                    Head::Request => record.request,
                    Head::Response => record.response,
                    Head::Trailers => record.trailers,
                };
                let found = fields
                    .field(name)
                    .or_else(|| fields.field(instead.as_deref()?));
                found.map_or(Value::Unset, Value::Text)
            }
        };
        match (value, self.limit) {
            (Value::Text(text), Some(limit)) if text.len() > limit => {
                let end = (0..=limit)
                    .rev()
                    .find(|at| text.is_char_boundary(*at))
                    .unwrap_or(0);
                Value::owned(text[..end].to_owned())
            }
            (value, _) => value,
        }
    }
}

/// A piece of a strftime-like format.
#[derive(Debug, Clone, PartialEq)]
enum Stamp {
    Literal(char),
    /// RFC 3339 with milliseconds.
    Default,
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    EpochSeconds,
    /// Fraction of a second, so many digits.
    Fraction(u32),
    Zone(&'static str),
}

fn stamps(format: &str) -> Result<Vec<Stamp>, String> {
    if format.is_empty() {
        return Ok(vec![Stamp::Default]);
    }
    let mut out = Vec::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(Stamp::Literal(c));
            continue;
        }
        match chars.next() {
            Some('Y') => out.push(Stamp::Year),
            Some('m') => out.push(Stamp::Month),
            Some('d') => out.push(Stamp::Day),
            Some('H') => out.push(Stamp::Hour),
            Some('M') => out.push(Stamp::Minute),
            Some('S') => out.push(Stamp::Second),
            Some('s') => out.push(Stamp::EpochSeconds),
            Some('f') => out.push(Stamp::Fraction(9)),
            Some('z') => out.push(Stamp::Zone("+0000")),
            Some('Z') => out.push(Stamp::Zone("UTC")),
            Some('%') => out.push(Stamp::Literal('%')),
            Some('F') => out.extend([
                Stamp::Year,
                Stamp::Literal('-'),
                Stamp::Month,
                Stamp::Literal('-'),
                Stamp::Day,
            ]),
            Some('T') => out.extend([
                Stamp::Hour,
                Stamp::Literal(':'),
                Stamp::Minute,
                Stamp::Literal(':'),
                Stamp::Second,
            ]),
            Some(digit @ '1'..='9') if chars.clone().next() == Some('f') => {
                chars.next();
                out.push(Stamp::Fraction(digit.to_digit(10).unwrap_or(9)));
            }
            other => {
                return Err(format!(
                    "`%{}` is not supported in a time",
                    other.map(String::from).unwrap_or_default()
                ));
            }
        }
    }
    Ok(out)
}

fn write_stamps(stamps: &[Stamp], record: &Record<'_>) -> String {
    use std::fmt::Write;
    let at = OffsetDateTime::from(record.start);
    let mut out = String::with_capacity(24);
    for stamp in stamps {
        // Writing to a String cannot fail.
        let _ = match stamp {
            Stamp::Literal(c) => write!(out, "{c}"),
            Stamp::Zone(zone) => write!(out, "{zone}"),
            Stamp::Default => write!(
                out,
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
                at.year(),
                u8::from(at.month()),
                at.day(),
                at.hour(),
                at.minute(),
                at.second(),
                at.millisecond()
            ),
            Stamp::Year => write!(out, "{:04}", at.year()),
            Stamp::Month => write!(out, "{:02}", u8::from(at.month())),
            Stamp::Day => write!(out, "{:02}", at.day()),
            Stamp::Hour => write!(out, "{:02}", at.hour()),
            Stamp::Minute => write!(out, "{:02}", at.minute()),
            Stamp::Second => write!(out, "{:02}", at.second()),
            Stamp::EpochSeconds => {
                write!(
                    out,
                    "{}",
                    record
                        .start
                        .duration_since(UNIX_EPOCH)
                        .unwrap_or_default()
                        .as_secs()
                )
            }
            Stamp::Fraction(digits) => {
                let value = at.nanosecond() / 10u32.pow(9 - digits);
                write!(out, "{value:0width$}", width = *digits as usize)
            }
        };
    }
    out
}
