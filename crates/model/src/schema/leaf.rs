//! How single values are read: text, numbers, booleans, durations, addresses.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Path, Sink, Typed};
use crate::diagnostic::Code;
use crate::yaml::{Node, Plain, Scalar, Value};

/// The longest duration protobuf's `Duration` can carry, about 10,000 years.
const MAX_DURATION: Duration = Duration::from_secs(315_576_000_000);

fn scalar(node: &Node) -> Option<&Scalar> {
    match &node.value {
        Value::Scalar(scalar) => Some(scalar),
        Value::Null | Value::List(_) | Value::Map(_) => None,
    }
}

/// A plain scalar by the core schema; quoted ones are text.
fn plain(node: &Node) -> Plain {
    scalar(node)
        .filter(|scalar| scalar.plain)
        .map_or(Plain::Text, |scalar| Plain::of(&scalar.text))
}

impl Typed for String {
    fn read(node: &Node, at: &Path<'_>, sink: &mut Sink) -> Option<Self> {
        match (scalar(node), plain(node)) {
            (Some(scalar), Plain::Text) => Some(scalar.text.clone()),
            (Some(scalar), _) => {
                sink.wrong_type(at, node, "text");
                let text = &scalar.text;
                if let Some(last) = sink.diagnostics.last_mut() {
                    last.help(format!("put it in quotes: \"{text}\""));
                }
                None
            }
            (None, _) => {
                sink.wrong_type(at, node, "text");
                None
            }
        }
    }
}

/// Text where a number or boolean may stand without quotes too: arguments, environment variables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Word(pub String);

impl Typed for Word {
    fn read(node: &Node, at: &Path<'_>, sink: &mut Sink) -> Option<Self> {
        match &node.value {
            Value::Scalar(scalar) => Some(Word(scalar.text.clone())),
            Value::Null => Some(Word::default()),
            Value::List(_) | Value::Map(_) => {
                sink.wrong_type(at, node, "text");
                None
            }
        }
    }
}

impl Typed for bool {
    fn read(node: &Node, at: &Path<'_>, sink: &mut Sink) -> Option<Self> {
        if let Plain::Bool(value) = plain(node) {
            return Some(value);
        }
        sink.wrong_type(at, node, "`true` or `false`");
        let meant = match node.text().map(str::to_ascii_lowercase).as_deref() {
            Some("yes" | "on" | "true" | "y") => Some("true"),
            Some("no" | "off" | "false" | "n") => Some("false"),
            _ => None,
        };
        if let (Some(meant), Some(last)) = (meant, sink.diagnostics.last_mut()) {
            last.help(format!("write {meant} without quotes"));
        }
        None
    }
}

fn integer<T: TryFrom<i64>>(node: &Node, at: &Path<'_>, sink: &mut Sink, range: &str) -> Option<T> {
    match plain(node) {
        Plain::Int(value) => match T::try_from(value) {
            Ok(value) => return Some(value),
            Err(_) => {
                sink.error(
                    Code::InvalidValue,
                    at,
                    node.span,
                    format!("{value} is out of range"),
                )
                .help(format!("a whole number {range}"));
                return None;
            }
        },
        Plain::Text | Plain::Bool(_) | Plain::Float(_) => {}
    }
    sink.wrong_type(at, node, &format!("a whole number {range}"));
    let quoted =
        scalar(node).is_some_and(|scalar| matches!(Plain::of(&scalar.text), Plain::Int(_)));
    if let (true, Some(last)) = (quoted, sink.diagnostics.last_mut()) {
        last.help("write it without quotes");
    }
    None
}

impl Typed for i32 {
    fn read(node: &Node, at: &Path<'_>, sink: &mut Sink) -> Option<Self> {
        integer(node, at, sink, "from -2147483648 to 2147483647")
    }
}

impl Typed for u32 {
    fn read(node: &Node, at: &Path<'_>, sink: &mut Sink) -> Option<Self> {
        integer(node, at, sink, "from 0 to 4294967295")
    }
}

impl Typed for u16 {
    fn read(node: &Node, at: &Path<'_>, sink: &mut Sink) -> Option<Self> {
        integer(node, at, sink, "from 0 to 65535")
    }
}

impl Typed for f64 {
    fn read(node: &Node, at: &Path<'_>, sink: &mut Sink) -> Option<Self> {
        match plain(node) {
            // Whole numbers that configuration writes are far below 2^53.
            Plain::Int(value) => Some(value as f64),
            Plain::Float(value) if value.is_finite() => Some(value),
            Plain::Float(_) | Plain::Text | Plain::Bool(_) => {
                sink.wrong_type(at, node, "a number");
                None
            }
        }
    }
}

impl Typed for Duration {
    fn read(node: &Node, at: &Path<'_>, sink: &mut Sink) -> Option<Self> {
        let Some(text) = node.text() else {
            sink.wrong_type(at, node, "a duration such as `1.5s`");
            return None;
        };
        match duration(text) {
            Ok(duration) => Some(duration),
            Err(fault) => {
                let help = match (fault, text.parse::<f64>()) {
                    (DurationFault::Unit, Ok(_)) => format!("write a unit: `{text}s`, `{text}ms`"),
                    (DurationFault::Negative, _) => "write 0s to switch it off".to_owned(),
                    _ => "write numbers with units, such as 1.5s, 250ms, 2m or 1h30m".to_owned(),
                };
                sink.error(
                    Code::InvalidDuration,
                    at,
                    node.span,
                    format!("`{text}` is not a duration: {}", fault.why()),
                )
                .help(help);
                None
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DurationFault {
    Form,
    Unit,
    Negative,
    Overflow,
}

impl DurationFault {
    fn why(self) -> &'static str {
        match self {
            DurationFault::Form => "it is not a number with a unit",
            DurationFault::Unit => "the unit is missing or unknown",
            DurationFault::Negative => "it is negative",
            DurationFault::Overflow => "it is longer than 10,000 years",
        }
    }
}

/// Protobuf's JSON form (`1.5s`) and Go's (`1h30m`, `250ms`); Istio takes both.
fn duration(text: &str) -> Result<Duration, DurationFault> {
    if text.starts_with('-') {
        return Err(DurationFault::Negative);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(DurationFault::Form);
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let whole_end = digits(rest);
        let (whole, after) = rest.split_at(whole_end);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(digits(after)),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(DurationFault::Form);
        }
        // Longest first: `ms` before `m`.
        let units: [(&str, u128); 8] = [
            ("ms", 1_000_000),
            ("us", 1_000),
            ("µs", 1_000),
            ("μs", 1_000),
            ("ns", 1),
            ("h", 3_600_000_000_000),
            ("m", 60_000_000_000),
            ("s", 1_000_000_000),
        ];
        let Some((after, unit)) = units
            .iter()
            .find_map(|(name, unit)| after.strip_prefix(name).map(|after| (after, *unit)))
        else {
            return Err(DurationFault::Unit);
        };
        if whole.len() > 18 {
            return Err(DurationFault::Overflow);
        }
        let whole: u128 = if whole.is_empty() {
            0
        } else {
            whole.parse().map_err(|_| DurationFault::Form)?
        };
        nanos += whole * unit;
        let mut scale = unit;
        for digit in fraction.bytes() {
            scale /= 10;
            nanos += u128::from(digit - b'0') * scale;
        }
        if nanos > MAX_DURATION.as_nanos() {
            return Err(DurationFault::Overflow);
        }
        rest = after;
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).map_err(|_| DurationFault::Overflow)?;
    let below = u32::try_from(nanos % 1_000_000_000).map_err(|_| DurationFault::Overflow)?;
    Ok(Duration::new(seconds, below))
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

impl Typed for IpAddr {
    fn read(node: &Node, at: &Path<'_>, sink: &mut Sink) -> Option<Self> {
        let text = String::read(node, at, sink)?;
        match text.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                sink.error(
                    Code::InvalidAddress,
                    at,
                    node.span,
                    format!("`{text}` is not an IP address"),
                );
                None
            }
        }
    }
}

/// An address block; a bare address is the block of itself. Host bits are kept for validation to see.
impl Typed for IpNet {
    fn read(node: &Node, at: &Path<'_>, sink: &mut Sink) -> Option<Self> {
        let text = String::read(node, at, sink)?;
        match text
            .parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        {
            Ok(net) => Some(net),
            Err(_) => {
                sink.error(
                    Code::InvalidAddress,
                    at,
                    node.span,
                    format!("`{text}` is neither an IP address nor a CIDR block"),
                )
                .help("such as 10.0.0.0/8, 2001:db8::/32 or 192.0.2.7");
                None
            }
        }
    }
}

impl Typed for Ipv4Net {
    fn read(node: &Node, at: &Path<'_>, sink: &mut Sink) -> Option<Self> {
        match IpNet::read(node, at, sink)? {
            IpNet::V4(net) => Some(net),
            IpNet::V6(_) => {
                sink.error(
                    Code::InvalidAddress,
                    at,
                    node.span,
                    "expected an IPv4 block",
                );
                None
            }
        }
    }
}

impl Typed for Ipv6Net {
    fn read(node: &Node, at: &Path<'_>, sink: &mut Sink) -> Option<Self> {
        match IpNet::read(node, at, sink)? {
            IpNet::V6(net) => Some(net),
            IpNet::V4(_) => {
                sink.error(
                    Code::InvalidAddress,
                    at,
                    node.span,
                    "expected an IPv6 block",
                );
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, want) in [
            ("1.5s", Ok(1_500)),
            ("0s", Ok(0)),
            ("0", Ok(0)),
            ("250ms", Ok(250)),
            ("1h1m1s", Ok(3_661_000)),
            (".5s", Ok(500)),
            ("5", Err(DurationFault::Unit)),
            ("5 s", Err(DurationFault::Unit)),
            ("", Err(DurationFault::Form)),
            ("s", Err(DurationFault::Form)),
            ("-1s", Err(DurationFault::Negative)),
            ("315576000001s", Err(DurationFault::Overflow)),
            ("99999999999999999999h", Err(DurationFault::Overflow)),
        ] {
            assert_eq!(duration(text), want.map(Duration::from_millis), "{text}");
        }
    }
}
