//! Records → what Envoy's `%…%` format strings make of them: access-log lines in text or JSON, and header values.
//!
//! What a client sends is escaped in both forms, so that nobody outside writes lines or fields of his own.

pub mod operator;
pub mod sink;

use std::fmt::Write;

use ripstop_model::defaults::ENVOY_LOG_TEXT;
use ripstop_model::format::{FormatError, Piece, Template};

use crate::record::Record;
use operator::Value;

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

    /// What a log has that names no format.
    pub fn envoy() -> Format {
        // Tests parse it.
        Format(Shape::Text(
            Template::parse(ENVOY_LOG_TEXT).unwrap_or_default(),
        ))
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
    for piece in template.pieces() {
        match piece {
            Piece::Literal(text) => out.push_str(text),
            Piece::Operator(operator) => match operator::value(operator, record) {
                Value::Unset => out.push('-'),
                Value::Number(n) => out.push_str(itoa::Buffer::new().format(n)),
                Value::Address(address) => push_display(out, address),
                Value::Text(text) => escape(&text, out),
            },
        }
    }
}

/// The value of a header whose template asks for something; what is unset is empty, as in Envoy.
pub fn header_value(template: &Template, record: &Record<'_>) -> String {
    let mut out = String::new();
    for piece in template.pieces() {
        match piece {
            Piece::Literal(text) => out.push_str(text),
            Piece::Operator(operator) => match operator::value(operator, record) {
                Value::Unset => {}
                Value::Number(n) => out.push_str(itoa::Buffer::new().format(n)),
                Value::Address(address) => push_display(&mut out, address),
                Value::Text(text) => out.push_str(&text),
            },
        }
    }
    out
}

fn write_json(template: &Template, record: &Record<'_>, out: &mut String) {
    if let [Piece::Operator(operator)] = template.pieces() {
        match operator::value(operator, record) {
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
