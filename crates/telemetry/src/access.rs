//! Access logs: a format with Envoy's `%…%` operators, parsed once → a text or JSON line per record.
//!
//! What a client sends is escaped in both forms, so that nobody outside writes lines or fields of his own.

pub mod operator;
pub mod sink;

use std::fmt::Write;

use crate::record::Record;
use operator::{Operator, Value};

/// Istio's default line (`meshConfig.accessLogEncoding: TEXT`).
pub const ISTIO_TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
\"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% \
%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Envoy's default line.
pub const ENVOY_TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
\"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// Istio's default JSON fields; the last two are ripstop's.
pub const ISTIO_JSON: &[(&str, &str)] = &[
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    (
        "connection_termination_details",
        "%CONNECTION_TERMINATION_DETAILS%",
    ),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    (
        "upstream_service_time",
        "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    ),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    (
        "upstream_transport_failure_reason",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    ),
    ("reason", "%RIPSTOP_REASON%"),
    ("resource", "%RIPSTOP_RESOURCE%"),
];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("`{0}` is not closed by a `%`; write `%%` for a percent sign")]
    Unclosed(String),
    #[error("unknown access log operator `%{0}%`")]
    Unknown(String),
    #[error("`%{operator}%`: {cause}")]
    Argument { operator: String, cause: String },
}

#[derive(Debug, Clone)]
enum Op {
    Literal(String),
    Value(Operator),
}

/// One format string.
#[derive(Debug, Clone)]
struct Template(Vec<Op>);

impl Template {
    fn parse(text: &str) -> Result<Template, FormatError> {
        let mut ops = Vec::new();
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
                ops.push(Op::Literal(std::mem::take(&mut literal)));
            }
            ops.push(Op::Value(Operator::parse(inside)?));
            rest = tail;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            ops.push(Op::Literal(literal));
        }
        Ok(Template(ops))
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

/// A parsed log format.
#[derive(Debug, Clone)]
pub struct Format(Shape);

#[derive(Debug, Clone)]
enum Shape {
    Text(Template),
    Json(Vec<(String, Template)>),
}

impl Format {
    /// `text` brings its own newline.
    pub fn text(text: &str) -> Result<Format, FormatError> {
        Template::parse(text).map(|t| Format(Shape::Text(t)))
    }

    /// One object a line, fields in the order given. A field that is a single operator keeps its type, and is `null`
    /// when unset, as Envoy has it.
    pub fn json<K: AsRef<str>, V: AsRef<str>>(fields: &[(K, V)]) -> Result<Format, FormatError> {
        let fields = fields
            .iter()
            .map(|(key, text)| Ok((json_string(key.as_ref()), Template::parse(text.as_ref())?)));
        Ok(Format(Shape::Json(fields.collect::<Result<_, _>>()?)))
    }

    pub fn istio_text() -> Format {
        Format::built_in(Format::text(ISTIO_TEXT))
    }

    pub fn istio_json() -> Format {
        Format::built_in(Format::json(ISTIO_JSON))
    }

    pub fn envoy_text() -> Format {
        Format::built_in(Format::text(ENVOY_TEXT))
    }

    /// Tests parse every built-in format.
    fn built_in(parsed: Result<Format, FormatError>) -> Format {
        parsed.unwrap_or(Format(Shape::Text(Template(Vec::new()))))
    }

    /// Appends the record's line.
    pub fn write(&self, record: &Record<'_>, out: &mut String) {
        match &self.0 {
            Shape::Text(template) => write_text(template, record, out, escape_text),
            Shape::Json(fields) => {
                for (i, (key, template)) in fields.iter().enumerate() {
                    out.push(if i == 0 { '{' } else { ',' });
                    out.push_str(key);
                    out.push(':');
                    write_json(template, record, out);
                }
                out.push_str(if fields.is_empty() { "{}\n" } else { "}\n" });
            }
        }
    }
}

fn write_text(
    template: &Template,
    record: &Record<'_>,
    out: &mut String,
    escape: fn(&str, &mut String),
) {
    for op in &template.0 {
        match op {
            Op::Literal(text) => out.push_str(text),
            Op::Value(operator) => match operator.value(record) {
                Value::Unset => out.push('-'),
                Value::Number(n) => out.push_str(itoa::Buffer::new().format(n)),
                Value::Address(address) => push_display(out, address),
                Value::Text(text) => escape(&text, out),
            },
        }
    }
}

fn write_json(template: &Template, record: &Record<'_>, out: &mut String) {
    if let [Op::Value(operator)] = template.0.as_slice() {
        match operator.value(record) {
            Value::Unset => out.push_str("null"),
            Value::Number(n) => out.push_str(itoa::Buffer::new().format(n)),
            Value::Address(address) => {
                out.push('"');
                push_display(out, address);
                out.push('"');
            }
            Value::Text(text) => out.push_str(&json_string(&text)),
        }
        return;
    }
    let mut text = String::new();
    write_text(template, record, &mut text, |raw, out| out.push_str(raw));
    out.push_str(&json_string(&text));
}

fn push_display(out: &mut String, value: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{value}");
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Quotes, backslashes and control characters become `\xHH`, so a value stays within its quotes and its line.
fn escape_text(text: &str, out: &mut String) {
    let special = |c: char| c == '"' || c == '\\' || c.is_control();
    if !text.contains(special) {
        return out.push_str(text);
    }
    for c in text.chars() {
        if special(c) {
            let mut utf8 = [0; 4];
            for byte in c.encode_utf8(&mut utf8).bytes() {
                push_display(out, format_args!("\\x{byte:02X}"));
            }
        } else {
            out.push(c);
        }
    }
}

#[cfg(test)]
mod tests;
