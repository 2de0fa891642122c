//! YAML or JSON text → one tree per document, every key and value with its position.
//!
//! Document markers (`---`, `...`) at the start of a line end a document whatever surrounds them (YAML 1.2.2, 9.1), so
//! the text is cut there first and each piece is parsed alone: a syntax error costs its own document and no other.
//! Scalars keep their text; what a plain `8080` or `no` means is decided by the type of the field it is read into, which
//! follows the YAML 1.2 core schema. Depth, nodes after alias expansion, and bytes are bounded.

use std::collections::HashMap;
use std::ops::Range;

use granit_parser::{Event, Marker, Parser, ScalarStyle};

/// Nesting allowed in one document.
pub const MAX_DEPTH: usize = 64;
/// Nodes allowed in one document, aliases expanded.
pub const MAX_NODES: usize = 500_000;
/// Bytes allowed in one document; Kubernetes stores objects of at most 1.5 MiB.
pub const MAX_DOCUMENT_BYTES: usize = 4 << 20;

/// Where something stands in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// Byte offsets in the file, end exclusive.
    pub start: u32,
    pub end: u32,
    /// Of `start`; 1-based, 0 if unknown.
    pub line: u32,
    /// Of `start`, in characters; 1-based, 0 if unknown.
    pub column: u32,
}

impl Span {
    pub fn bytes(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub span: Span,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, `~`, or nothing at all.
    Null,
    Scalar(Scalar),
    List(Vec<Node>),
    /// In the order of the text; keys are unique.
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    pub text: String,
    /// Written without quotes, so that it may be a number or a boolean.
    pub plain: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub key: String,
    pub key_span: Span,
    pub value: Node,
}

impl Node {
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            Value::Null | Value::Scalar(_) | Value::List(_) => None,
        }
    }

    /// The value under `key` of a mapping; `None` also for null.
    pub fn field(&self, key: &str) -> Option<&Node> {
        self.entry(key)
            .map(|entry| &entry.value)
            .filter(|node| !node.is_null())
    }

    pub fn item(&self, index: usize) -> Option<&Node> {
        self.items().get(index)
    }

    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            Value::Null | Value::Scalar(_) | Value::Map(_) => &[],
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) => Some(&scalar.text),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// `a list`, `the number 8080`: what an error says it found.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
            Value::Scalar(scalar) => {
                let kind = match scalar.plain.then(|| Plain::of(&scalar.text)) {
                    None | Some(Plain::Text) => "the text",
                    Some(Plain::Bool(_)) => "the boolean",
                    Some(Plain::Int(_) | Plain::Float(_)) => "the number",
                };
                let mut shown: String = scalar.text.chars().take(60).collect();
                if shown.len() < scalar.text.len() {
                    shown.push('…');
                }
                format!("{kind} `{shown}`")
            }
        }
    }

    /// The same document as JSON, scalars resolved by the YAML 1.2 core schema.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(entries) => entries
                .iter()
                .map(|entry| (entry.key.clone(), entry.value.to_json()))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            Value::Scalar(scalar) => match scalar.plain.then(|| Plain::of(&scalar.text)) {
                Some(Plain::Bool(value)) => value.into(),
                Some(Plain::Int(value)) => value.into(),
                Some(Plain::Float(value)) => value.into(),
                None | Some(Plain::Text) => scalar.text.clone().into(),
            },
        }
    }
}

/// What an unquoted scalar is in the YAML 1.2 core schema (10.3.2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Plain {
    Text,
    Bool(bool),
    Int(i64),
    Float(f64),
}

impl Plain {
    pub fn of(text: &str) -> Plain {
        match text {
            "true" | "True" | "TRUE" => return Plain::Bool(true),
            "false" | "False" | "FALSE" => return Plain::Bool(false),
            ".inf" | ".Inf" | ".INF" | "+.inf" => return Plain::Float(f64::INFINITY),
            "-.inf" | "-.Inf" | "-.INF" => return Plain::Float(f64::NEG_INFINITY),
            ".nan" | ".NaN" | ".NAN" => return Plain::Float(f64::NAN),
            _ => {}
        }
        let radix = |prefix: &str, radix| {
            let digits = text.strip_prefix(prefix)?;
            // `from_str_radix` takes a sign, the core schema does not.
            if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
                return None;
            }
            i64::from_str_radix(digits, radix).ok()
        };
        if let Some(value) = radix("0x", 16).or_else(|| radix("0o", 8)) {
            return Plain::Int(value);
        }
        let numeric = text
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'))
            && text.bytes().any(|b| b.is_ascii_digit());
        if !numeric {
            return Plain::Text;
        }
        if let Ok(value) = text.parse() {
            return Plain::Int(value);
        }
        match text.parse() {
            Ok(value) => Plain::Float(value),
            Err(_) => Plain::Text,
        }
    }
}

/// Why one document could not be read; `path` names the mapping for a repeated key.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    pub kind: FaultKind,
    pub span: Span,
    pub message: String,
    /// The earlier place that the fault is about: the first use of a repeated key.
    pub earlier: Option<Span>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    Syntax,
    DuplicateKey,
    /// A bound of this module.
    TooLarge,
}

/// One document of a file: its tree if it could be read, and every fault found in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// `None` after a syntax error; a repeated key leaves the tree usable (the first one counts).
    pub root: Option<Node>,
    pub faults: Vec<Fault>,
}

/// Reads every document of `text`. Documents that hold nothing but comments are left out.
pub fn parse(text: &str) -> Vec<Document> {
    pieces(text)
        .into_iter()
        .filter_map(|piece| Builder::read(text, piece))
        .collect()
}

/// A stretch of the file that holds one document.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: usize,
    end: usize,
    /// Lines before `start`.
    lines: usize,
}

fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut start_line = 0;
    let mut offset = 0;
    // A prefix of directives belongs to the document whose marker follows it.
    let mut directives = false;
    let mut content = false;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marks = |marker: &str| {
            line.strip_prefix(marker)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        };
        if marks("---") && (content || !directives) || marks("...") {
            if offset > start {
                pieces.push(Piece {
                    start,
                    end: offset,
                    lines: start_line,
                });
            }
            start = offset;
            start_line = number;
            directives = false;
            content = marks("---");
            if marks("...") {
                start = offset + line.len();
                start_line = number + 1;
            }
        } else if !content && line.starts_with('%') {
            directives = true;
        } else if !line.trim_start().is_empty() && !line.trim_start().starts_with('#') {
            content = true;
        }
        offset += line.len();
    }
    if offset > start {
        pieces.push(Piece {
            start,
            end: offset,
            lines: start_line,
        });
    }
    pieces
}

/// A collection that is being filled.
enum Open {
    List {
        span: Span,
        anchor: usize,
        items: Vec<Node>,
    },
    Map {
        span: Span,
        anchor: usize,
        entries: Vec<Entry>,
        /// The keys so far: a mapping may be long.
        keys: HashMap<String, Span>,
        key: Option<(String, Span)>,
        merges: Vec<Node>,
    },
}

struct Builder<'t> {
    text: &'t str,
    piece: Piece,
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    faults: Vec<Fault>,
}

/// The first fault that makes the document unreadable; already recorded.
struct Stop;

impl<'t> Builder<'t> {
    fn read(text: &'t str, piece: Piece) -> Option<Document> {
        let mut builder = Builder {
            text,
            piece,
            open: Vec::new(),
            root: None,
            anchors: HashMap::new(),
            nodes: 0,
            faults: Vec::new(),
        };
        let whole = builder.run().is_ok();
        let root = builder.root.take().filter(|root| whole && !root.is_null());
        (root.is_some() || !builder.faults.is_empty()).then_some(Document {
            root,
            faults: builder.faults,
        })
    }

    fn run(&mut self) -> Result<(), Stop> {
        let source = &self.text[self.piece.start..self.piece.end];
        if source.len() > MAX_DOCUMENT_BYTES {
            let span = self.first_line();
            return Err(self.stop(
                FaultKind::TooLarge,
                span,
                format!(
                    "this document has {} bytes; at most {MAX_DOCUMENT_BYTES} are read",
                    source.len()
                ),
            ));
        }
        let mut options = granit_parser::options! {
            flow_nesting_limit: MAX_DEPTH,
            block_nesting_limit: MAX_DEPTH,
        };
        options.set_emit_comments(false);
        for next in Parser::new_from_str_with_options(source, options) {
            match next {
                Ok((event, span)) => {
                    let span = self.span(span);
                    self.event(event, span)?;
                }
                Err(error) => {
                    let at = self.span_of(error.marker(), error.marker());
                    if *error.kind() == granit_parser::ErrorKind::RecursionLimitExceeded {
                        return Err(self.too_deep(at));
                    }
                    return Err(self.stop(FaultKind::Syntax, at, error.kind().to_string()));
                }
            }
        }
        Ok(())
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = matches!(style, ScalarStyle::Plain);
                let value = match tag.as_deref().map(|tag| tag.core_suffix()) {
                    None if plain
                        && matches!(text.as_ref(), "" | "~" | "null" | "Null" | "NULL") =>
                    {
                        Value::Null
                    }
                    Some(Some("null")) => Value::Null,
                    Some(Some("str")) => Value::Scalar(Scalar {
                        text: text.into_owned(),
                        plain: false,
                    }),
                    Some(Some("int" | "float" | "bool")) => Value::Scalar(Scalar {
                        text: text.into_owned(),
                        plain: true,
                    }),
                    None => Value::Scalar(Scalar {
                        text: text.into_owned(),
                        plain,
                    }),
                    Some(_) => return Err(self.unknown_tag(span)),
                };
                self.place(Node { span, value }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                if !matches!(
                    tag.as_deref().map(|tag| tag.core_suffix()),
                    None | Some(Some("seq"))
                ) {
                    return Err(self.unknown_tag(span));
                }
                self.open.push(Open::List {
                    span,
                    anchor,
                    items: Vec::new(),
                });
                self.depth(span)
            }
            Event::MappingStart(_, anchor, tag) => {
                if !matches!(
                    tag.as_deref().map(|tag| tag.core_suffix()),
                    None | Some(Some("map"))
                ) {
                    return Err(self.unknown_tag(span));
                }
                self.open.push(Open::Map {
                    span,
                    anchor,
                    entries: Vec::new(),
                    keys: HashMap::new(),
                    key: None,
                    merges: Vec::new(),
                });
                self.depth(span)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(id) => match self.anchors.get(&id) {
                Some((node, size)) => {
                    let (node, size) = (node.clone(), *size);
                    self.count(size, span)?;
                    self.place(node, 0)
                }
                None => Err(self.stop(
                    FaultKind::Syntax,
                    span,
                    "this alias refers to the value that contains it".to_owned(),
                )),
            },
            // Comments and anchor metadata are switched off, unresolved aliases are errors; the rest is structure.
            _ => Ok(()),
        }
    }

    fn close(&mut self) -> Result<(), Stop> {
        match self.open.pop() {
            Some(Open::List {
                span,
                anchor,
                items,
            }) => {
                let end = items.last().map_or(span.end, |last| last.span.end);
                let span = Span {
                    end: end.max(span.end),
                    ..span
                };
                self.place(
                    Node {
                        span,
                        value: Value::List(items),
                    },
                    anchor,
                )
            }
            Some(Open::Map {
                span,
                anchor,
                mut entries,
                mut keys,
                merges,
                ..
            }) => {
                let end = entries.last().map_or(span.end, |last| last.value.span.end);
                let span = Span {
                    end: end.max(span.end),
                    ..span
                };
                for merged in merges {
                    self.merge(&mut entries, &mut keys, merged)?;
                }
                self.place(
                    Node {
                        span,
                        value: Value::Map(entries),
                    },
                    anchor,
                )
            }
            None => Ok(()),
        }
    }

    /// `<<`: keys of the merged mapping that are not written out (YAML 1.1 merge key; compose files use it).
    fn merge(
        &mut self,
        entries: &mut Vec<Entry>,
        keys: &mut HashMap<String, Span>,
        merged: Node,
    ) -> Result<(), Stop> {
        match merged.value {
            Value::Map(from) => {
                for entry in from {
                    if !keys.contains_key(&entry.key) {
                        keys.insert(entry.key.clone(), entry.key_span);
                        entries.push(entry);
                    }
                }
                Ok(())
            }
            Value::List(items) => items
                .into_iter()
                .try_for_each(|item| self.merge(entries, keys, item)),
            Value::Null | Value::Scalar(_) => Err(self.stop(
                FaultKind::Syntax,
                merged.span,
                "`<<` merges a mapping or a list of mappings".to_owned(),
            )),
        }
    }

    /// Puts a finished node where it belongs: the root, a list, or a mapping as key or value.
    fn place(&mut self, node: Node, anchor: usize) -> Result<(), Stop> {
        self.count(1, node.span)?;
        if anchor != 0 {
            let size = size(&node);
            self.count(size, node.span)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map {
                entries,
                keys,
                key,
                merges,
                ..
            }) => match key.take() {
                Some((name, _)) if name == "<<" => merges.push(node),
                Some((name, key_span)) => {
                    if let Some(first) = keys.get(&name) {
                        self.faults.push(Fault {
                            kind: FaultKind::DuplicateKey,
                            span: key_span,
                            message: format!("`{name}` is set twice"),
                            earlier: Some(*first),
                        });
                    } else {
                        keys.insert(name.clone(), key_span);
                        entries.push(Entry {
                            key: name,
                            key_span,
                            value: node,
                        });
                    }
                }
                None => match node.value {
                    Value::Scalar(scalar) => *key = Some((scalar.text, node.span)),
                    Value::Null | Value::List(_) | Value::Map(_) => {
                        return Err(self.stop(
                            FaultKind::Syntax,
                            node.span,
                            "a key must be plain text".to_owned(),
                        ));
                    }
                },
            },
        }
        Ok(())
    }

    fn depth(&mut self, span: Span) -> Result<(), Stop> {
        if self.open.len() > MAX_DEPTH {
            return Err(self.too_deep(span));
        }
        Ok(())
    }

    fn too_deep(&mut self, span: Span) -> Stop {
        self.stop(
            FaultKind::TooLarge,
            span,
            format!("nested deeper than {MAX_DEPTH} levels"),
        )
    }

    fn count(&mut self, nodes: usize, span: Span) -> Result<(), Stop> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(self.stop(
                FaultKind::TooLarge,
                span,
                format!(
                    "this document has more than {MAX_NODES} values once its aliases are expanded"
                ),
            ));
        }
        Ok(())
    }

    fn unknown_tag(&mut self, span: Span) -> Stop {
        self.stop(
            FaultKind::Syntax,
            span,
            "YAML tags have no meaning here".to_owned(),
        )
    }

    fn stop(&mut self, kind: FaultKind, span: Span, message: String) -> Stop {
        self.faults.push(Fault {
            kind,
            span,
            message,
            earlier: None,
        });
        Stop
    }

    fn first_line(&self) -> Span {
        let end = self.text[self.piece.start..]
            .find('\n')
            .map_or(self.piece.end, |at| self.piece.start + at);
        Span {
            start: offset(self.piece.start),
            end: offset(end),
            line: offset(self.piece.lines + 1),
            column: 1,
        }
    }

    fn span(&self, span: granit_parser::Span) -> Span {
        self.span_of(&span.start, &span.end)
    }

    /// Positions of the piece → positions of the file. Block collections start where their first child does.
    fn span_of(&self, start: &Marker, end: &Marker) -> Span {
        let limit = self.piece.end - self.piece.start;
        let byte = |marker: &Marker| marker.byte_offset().unwrap_or(limit).min(limit);
        let first = byte(start);
        let last = byte(end).max(first);
        // Plain and block scalars may report the blank that ends them.
        let source = &self.text[self.piece.start..self.piece.end];
        let trimmed = source
            .get(first..last)
            .map_or(last, |slice| first + slice.trim_end().len());
        Span {
            start: offset(self.piece.start + first),
            end: offset(self.piece.start + trimmed),
            line: offset(self.piece.lines + start.line()),
            column: offset(start.col() + 1),
        }
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.value {
        Value::Null | Value::Scalar(_) => 0,
        Value::List(items) => items.iter().map(size).sum(),
        Value::Map(entries) => entries.iter().map(|entry| size(&entry.value)).sum(),
    }
}

/// Files beyond 4 GiB are refused long before; saturating keeps the arithmetic total.
fn offset(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
