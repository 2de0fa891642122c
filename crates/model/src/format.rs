//! Envoy's format strings, taken apart once: `text %OPERATOR(ARGUMENT):LIMIT% text` → literals and operators.
//!
//! Access logs and header values share this grammar and these operators (Envoy's "Access logging", command operators);
//! what an operator is worth is for `telemetry` to say, which has the record of the request.

use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("`{0}` is not closed by a `%`; write `%%` for a percent sign")]
    Unclosed(String),
    #[error("the operator `%{0}%` is not supported; remove it")]
    Unknown(String),
    #[error("`%{operator}%`: {cause}")]
    Argument { operator: String, cause: String },
}

/// One format string.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Literal(String),
    Operator(Operator),
}

/// `%NAME(argument?alternative):limit%`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    pub value: Value,
    /// Longest value in bytes.
    pub limit: Option<usize>,
}

/// What an operator stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Fact(Fact),
    /// The pieces of a time's own format; empty: RFC 3339 with milliseconds.
    StartTime(Vec<Stamp>),
    Field {
        head: Head,
        /// Lower case.
        name: String,
        /// Taken where there is no field of that name.
        instead: Option<String>,
    },
}

/// Where a field is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// `REQ`.
    Request,
    /// `RESP`.
    Response,
    /// `TRAILER`.
    Trailers,
}

/// A piece of a strftime-like format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    Literal(char),
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

macro_rules! facts {
    ($($variant:ident $name:literal,)*) => {
        /// The operators without an argument.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Fact { $($variant,)* }
        impl Fact {
            pub const ALL: &[Fact] = &[$(Fact::$variant),*];
            pub fn name(self) -> &'static str { match self { $(Fact::$variant => $name,)* } }
        }
    };
}

facts! {
    Protocol "PROTOCOL",
    ResponseCode "RESPONSE_CODE",
    ResponseCodeDetails "RESPONSE_CODE_DETAILS",
    ConnectionTerminationDetails "CONNECTION_TERMINATION_DETAILS",
    ResponseFlags "RESPONSE_FLAGS",
    ResponseFlagsLong "RESPONSE_FLAGS_LONG",
    UpstreamTransportFailureReason "UPSTREAM_TRANSPORT_FAILURE_REASON",
    BytesReceived "BYTES_RECEIVED",
    BytesSent "BYTES_SENT",
    Duration "DURATION",
    RequestDuration "REQUEST_DURATION",
    RequestTxDuration "REQUEST_TX_DURATION",
    ResponseDuration "RESPONSE_DURATION",
    ResponseTxDuration "RESPONSE_TX_DURATION",
    UpstreamRequestAttemptCount "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    UpstreamHost "UPSTREAM_HOST",
    UpstreamRemoteAddress "UPSTREAM_REMOTE_ADDRESS",
    UpstreamRemoteAddressWithoutPort "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    UpstreamRemotePort "UPSTREAM_REMOTE_PORT",
    UpstreamLocalAddress "UPSTREAM_LOCAL_ADDRESS",
    UpstreamLocalAddressWithoutPort "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    UpstreamLocalPort "UPSTREAM_LOCAL_PORT",
    UpstreamCluster "UPSTREAM_CLUSTER",
    UpstreamClusterRaw "UPSTREAM_CLUSTER_RAW",
    DownstreamLocalAddress "DOWNSTREAM_LOCAL_ADDRESS",
    DownstreamLocalAddressWithoutPort "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    DownstreamLocalPort "DOWNSTREAM_LOCAL_PORT",
    DownstreamRemoteAddress "DOWNSTREAM_REMOTE_ADDRESS",
    DownstreamRemoteAddressWithoutPort "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    DownstreamRemotePort "DOWNSTREAM_REMOTE_PORT",
    DownstreamDirectRemoteAddress "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    DownstreamDirectRemoteAddressWithoutPort "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    DownstreamDirectRemotePort "DOWNSTREAM_DIRECT_REMOTE_PORT",
    DownstreamPeerUriSan "DOWNSTREAM_PEER_URI_SAN",
    DownstreamLocalUriSan "DOWNSTREAM_LOCAL_URI_SAN",
    DownstreamPeerSubject "DOWNSTREAM_PEER_SUBJECT",
    DownstreamTlsVersion "DOWNSTREAM_TLS_VERSION",
    RequestedServerName "REQUESTED_SERVER_NAME",
    RouteName "ROUTE_NAME",
    VirtualClusterName "VIRTUAL_CLUSTER_NAME",
    Hostname "HOSTNAME",
    ConnectionId "CONNECTION_ID",
    TraceId "TRACE_ID",
    GrpcStatus "GRPC_STATUS",
    GrpcStatusNumber "GRPC_STATUS_NUMBER",
    RipstopReason "RIPSTOP_REASON",
    RipstopResource "RIPSTOP_RESOURCE",
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Template {
    /// `%%` is a percent sign.
    pub fn parse(text: &str) -> Result<Template, FormatError> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            literal.push_str(before);
            if let Some(tail) = after.strip_prefix('%') {
                literal.push('%');
                rest = tail;
                continue;
            }
            let (inside, tail) =
                split_operator(after).ok_or_else(|| FormatError::Unclosed(format!("%{after}")))?;
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::Operator(Operator::parse(inside)?));
            rest = tail;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Template(pieces))
    }

    pub fn pieces(&self) -> &[Piece] {
        &self.0
    }

    /// The text itself where it asks for nothing.
    pub fn literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }
}

/// The inside of an operator and what follows its closing `%`; a `%` inside parentheses does not close it.
fn split_operator(text: &str) -> Option<(&str, &str)> {
    let name = text.find(['%', '('])?;
    let end = if text[name..].starts_with('(') {
        let close = name + text[name..].find(')')?;
        close + text[close..].find('%')?
    } else {
        name
    };
    Some((&text[..end], &text[end + 1..]))
}

impl Operator {
    /// What stands between the percent signs.
    fn parse(text: &str) -> Result<Operator, FormatError> {
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
        let fact = Fact::ALL.iter().find(|fact| fact.name() == name);
        let value = match (head, fact, argument) {
            (Some(head), _, Some(argument)) if !argument.is_empty() => {
                let (name, instead) = match argument.split_once('?') {
                    None => (argument, None),
                    Some((name, instead)) => (name, Some(instead.to_ascii_lowercase())),
                };
                Value::Field {
                    head,
                    name: name.to_ascii_lowercase(),
                    instead,
                }
            }
            (Some(_), ..) => return Err(bad("name a header: `%REQ(NAME)%`")),
            (None, _, argument) if name == "START_TIME" => {
                Value::StartTime(stamps(argument.unwrap_or_default()).map_err(|e| bad(&e))?)
            }
            (None, Some(fact), None | Some("")) => Value::Fact(*fact),
            (None, Some(_), Some(_)) => return Err(bad("it takes no argument")),
            (None, None, _) => return Err(FormatError::Unknown(text.to_owned())),
        };
        Ok(Operator { value, limit })
    }
}

fn stamps(format: &str) -> Result<Vec<Stamp>, String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_taken_apart() {
        let pieces = Template::parse("100%% of %REQ(X-A?:Path):12% %PROTOCOL%").unwrap();
        let operator = |value, limit| Piece::Operator(Operator { value, limit });
        assert_eq!(
            pieces.pieces(),
            [
                Piece::Literal("100% of ".to_owned()),
                operator(
                    Value::Field {
                        head: Head::Request,
                        name: "x-a".to_owned(),
                        instead: Some(":path".to_owned()),
                    },
                    Some(12)
                ),
                Piece::Literal(" ".to_owned()),
                operator(Value::Fact(Fact::Protocol), None),
            ]
        );
        assert_eq!(
            Template::parse("a%%b").unwrap().literal(),
            Some("a%b"),
            "nothing to ask for"
        );
    }

    #[test]
    fn what_is_refused() {
        for (format, want) in [
            ("%PROTOCOL", FormatError::Unclosed("%PROTOCOL".into())),
            ("50% off", FormatError::Unclosed("% off".into())),
            ("%NO_SUCH%", FormatError::Unknown("NO_SUCH".into())),
            ("%protocol%", FormatError::Unknown("protocol".into())),
        ] {
            assert_eq!(Template::parse(format).unwrap_err(), want);
        }
        for format in [
            "%REQ%",
            "%REQ()%",
            "%REQ(A):x%",
            "%REQ(A)x%",
            "%PROTOCOL(A)%",
            "%START_TIME(%Q)%",
        ] {
            assert!(
                matches!(Template::parse(format), Err(FormatError::Argument { .. })),
                "{format}"
            );
        }
    }

    #[test]
    fn names_are_distinct() {
        let names: std::collections::BTreeSet<_> = Fact::ALL.iter().map(|f| f.name()).collect();
        assert_eq!(names.len(), Fact::ALL.len());
    }

    #[test]
    fn built_in_formats_parse() {
        use crate::defaults::{ENVOY_LOG_TEXT, ISTIO_LOG_JSON, ISTIO_LOG_TEXT};
        let json = ISTIO_LOG_JSON.iter().map(|(_, text)| *text);
        for text in json.chain([ENVOY_LOG_TEXT, ISTIO_LOG_TEXT]) {
            Template::parse(text).unwrap();
        }
    }
}
