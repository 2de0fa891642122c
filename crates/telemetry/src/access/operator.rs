//! What each `%…%` operator of [`ripstop_model::format`] is worth: from a record to a value.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, UNIX_EPOCH};

use ripstop_model::format::{Fact, Head, Operator, Stamp, Value as Asked};
use ripstop_model::reason::{Reason, Side};
use time::OffsetDateTime;

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

/// What a fact is of this record.
fn fact<'a>(fact: Fact, r: &'a Record<'_>) -> Value<'a> {
    match fact {
        Fact::Protocol => Value::text(Some(r.protocol)),
        Fact::ResponseCode => {
            if r.kind == Kind::Tcp {
                Value::Number(0)
            } else {
                Value::Number(u64::from(r.status))
            }
        }
        Fact::ResponseCodeDetails => details(r),
        Fact::ConnectionTerminationDetails => termination(r),
        Fact::ResponseFlags => {
            if r.flags.is_empty() {
                Value::Text("-".into())
            } else {
                Value::owned(r.flags.to_string())
            }
        }
        Fact::ResponseFlagsLong => {
            let long: Vec<_> = r.flags.iter().map(|f| f.long()).collect();
            if long.is_empty() {
                Value::Text("-".into())
            } else {
                Value::owned(long.join(","))
            }
        }
        Fact::UpstreamTransportFailureReason => match r.upstream_failure {
            Some(cause) => Value::owned(cause.replace(char::is_whitespace, "_")),
            None => Value::Unset,
        },
        Fact::BytesReceived => Value::Number(r.bytes_received),
        Fact::BytesSent => Value::Number(r.bytes_sent),
        Fact::Duration => Value::millis(Some(r.timings.total)),
        Fact::RequestDuration => Value::millis(r.timings.request_received),
        Fact::RequestTxDuration => Value::millis(r.timings.upstream_sent),
        Fact::ResponseDuration => Value::millis(r.timings.response_started),
        Fact::ResponseTxDuration => Value::millis(
            r.timings
                .response_started
                .map(|started| r.timings.total.saturating_sub(started)),
        ),
        Fact::UpstreamRequestAttemptCount => Value::Number(u64::from(r.attempts)),
        Fact::UpstreamHost => Value::address(r.upstream_host),
        Fact::UpstreamRemoteAddress => Value::address(r.upstream_host),
        Fact::UpstreamRemoteAddressWithoutPort => Value::ip(r.upstream_host),
        Fact::UpstreamRemotePort => Value::port(r.upstream_host),
        Fact::UpstreamLocalAddress => Value::address(r.upstream_local),
        Fact::UpstreamLocalAddressWithoutPort => Value::ip(r.upstream_local),
        Fact::UpstreamLocalPort => Value::port(r.upstream_local),
        Fact::UpstreamCluster => Value::text(r.cluster),
        Fact::UpstreamClusterRaw => Value::text(r.cluster),
        Fact::DownstreamLocalAddress => Value::address(r.downstream_local),
        Fact::DownstreamLocalAddressWithoutPort => Value::ip(r.downstream_local),
        Fact::DownstreamLocalPort => Value::port(r.downstream_local),
        Fact::DownstreamRemoteAddress => Value::address(r.downstream_remote),
        Fact::DownstreamRemoteAddressWithoutPort => Value::ip(r.downstream_remote),
        Fact::DownstreamRemotePort => Value::port(r.downstream_remote),
        Fact::DownstreamDirectRemoteAddress => {
            Value::address(r.downstream_direct.or(r.downstream_remote))
        }
        Fact::DownstreamDirectRemoteAddressWithoutPort => {
            Value::ip(r.downstream_direct.or(r.downstream_remote))
        }
        Fact::DownstreamDirectRemotePort => {
            Value::port(r.downstream_direct.or(r.downstream_remote))
        }
        Fact::DownstreamPeerUriSan => Value::text(r.peer_uri_san),
        Fact::DownstreamLocalUriSan => Value::text(r.local_uri_san),
        Fact::DownstreamPeerSubject => Value::text(r.peer_subject),
        Fact::DownstreamTlsVersion => Value::text(r.tls_version),
        Fact::RequestedServerName => Value::text(r.server_name),
        Fact::RouteName => Value::text(r.route),
        Fact::ConnectionId => Value::Number(r.connection_id),
        Fact::TraceId => r.span.map_or(Value::Unset, |s| {
            Value::owned(format!("{:032x}", s.trace_id))
        }),
        Fact::GrpcStatusNumber => Value::number(r.grpc_status.map(u64::from)),
        Fact::GrpcStatus => Value::text(r.grpc_status.map(grpc_name)),
        Fact::RipstopReason => Value::text(r.reason.map(|reason| reason.as_str())),
        Fact::RipstopResource => Value::text(r.resource),
        Fact::VirtualClusterName => Value::Unset,
        Fact::Hostname => Value::text(r.hostname),
    }
}

/// `via_upstream`, or why the proxy answered; with the deciding resource in brackets, as Istio names the policy that
/// denied. One token without spaces.
fn details<'a>(record: &'a Record<'_>) -> Value<'a> {
    match record.reason {
        _ if record.kind == Kind::Tcp => Value::Unset,
        Some(reason) => decided(reason, record),
        None if record.status != 0 => Value::Text("via_upstream".into()),
        None => Value::Unset,
    }
}

/// Why an opaque connection ended. Envoy says that of its own decisions alone; where a resource decided it is named.
fn termination<'a>(record: &'a Record<'_>) -> Value<'a> {
    match record.reason {
        _ if record.termination_details.is_some() => Value::text(record.termination_details),
        Some(reason)
            if record.kind == Kind::Tcp
                && (record.resource.is_some() || reason.side() == Side::Mesh) =>
        {
            decided(reason, record)
        }
        _ => Value::Unset,
    }
}

fn decided<'a>(reason: Reason, record: &Record<'_>) -> Value<'a> {
    let mut details = Cow::Borrowed(reason.details());
    if let (Some(cause), Some(start)) = (
        record.upstream_failure,
        details.strip_suffix("_connection_failure}"),
    ) {
        details = format!("{start}_connection_failure|{cause}}}").into();
    }
    if let Some(resource) = record.resource {
        let resource = istio_name(resource).unwrap_or_else(|| resource.into());
        details = format!("{details}[{resource}]").into();
    }
    Value::owned(details.replace(char::is_whitespace, "_"))
}

/// A rule of an AuthorizationPolicy by the name that Istio gives it.
fn istio_name(resource: &str) -> Option<Cow<'_, str>> {
    let (policy, rule) = resource
        .strip_prefix("AuthorizationPolicy/")?
        .split_once('#')?;
    let (namespace, name) = policy.split_once('/')?;
    let index = rule.strip_prefix("rules[")?.strip_suffix(']')?;
    Some(format!("ns[{namespace}]-policy[{name}]-rule[{index}]").into())
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

/// What the operator is worth.
pub fn value<'a>(operator: &Operator, record: &'a Record<'_>) -> Value<'a> {
    let value = match &operator.value {
        Asked::Fact(asked) => fact(*asked, record),
        Asked::StartTime(stamps) => Value::owned(write_stamps(stamps, record)),
        Asked::Field {
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
    match (value, operator.limit) {
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

fn write_stamps(stamps: &[Stamp], record: &Record<'_>) -> String {
    use std::fmt::Write;
    let at = OffsetDateTime::from(record.start);
    let mut out = String::with_capacity(24);
    if stamps.is_empty() {
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second(),
            at.millisecond()
        );
    }
    for stamp in stamps {
        // Writing to a String cannot fail.
        let _ = match stamp {
            Stamp::Literal(c) => write!(out, "{c}"),
            Stamp::Zone(zone) => write!(out, "{zone}"),
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
