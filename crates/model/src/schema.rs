//! A positioned tree → typed values, with every unknown, missing and ill-typed field reported at once.
//!
//! Each kind is written once, as a [`record!`]: the macro makes the struct, with unset still visible, and the walker
//! that fills it. A walker never stops at the first fault; it reads all of its fields, reports each fault where it
//! stands, and gives a value only if there was none. Serde's derive was the alternative; its visitors end at the first
//! error, do not know the position of a key, and offer no place to say "known, not supported yet" beside a field.
//!
//! Adding a field is one line in its record. The JSON name is the field's name in camelCase, or what `as "name"` says.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::diagnostic::{Code, Diagnostic, Related, Severity};
use crate::yaml::{Entry, Node, Span, Value};

mod leaf;
pub(crate) mod repair;

pub use leaf::Word;

/// A field path, linked from the innermost step to the root: `spec.http[0].match`.
#[derive(Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    pub const ROOT: Path<'static> = Path {
        parent: None,
        step: Step::Root,
    };

    pub fn field(&'a self, name: &'a str) -> Path<'a> {
        Path {
            parent: Some(self),
            step: Step::Field(name),
        }
    }

    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path {
            parent: Some(self),
            step: Step::Index(index),
        }
    }

    /// Where this path stands in `root`, or as much of it as exists: the key for a field, the value for a list item.
    pub fn locate(&self, root: &Node) -> Span {
        self.walk(root).1
    }

    /// The value at this path.
    pub fn value<'n>(&self, root: &'n Node) -> Option<&'n Node> {
        self.walk(root).0
    }

    fn walk<'n>(&self, root: &'n Node) -> (Option<&'n Node>, Span) {
        let Some(parent) = self.parent else {
            return (Some(root), root.span);
        };
        let (node, span) = parent.walk(root);
        let Some(node) = node else {
            return (None, span);
        };
        match self.step {
            Step::Root => (Some(node), span),
            Step::Field(name) => match node.entry(name) {
                Some(entry) if entry.value.is_null() => (None, entry.key_span),
                Some(entry) => (Some(&entry.value), entry.key_span),
                None => (None, span),
            },
            Step::Index(index) => match node.item(index) {
                Some(item) => (Some(item), item.span),
                None => (None, span),
            },
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(parent) = self.parent else {
            return Ok(());
        };
        parent.fmt(f)?;
        match self.step {
            Step::Root => Ok(()),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Field(name) => {
                let bare = !name.is_empty()
                    && name
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'<'));
                match (bare, parent.parent.is_some()) {
                    (true, true) => write!(f, ".{name}"),
                    (true, false) => f.write_str(name),
                    (false, _) => write!(f, "[{name:?}]"),
                }
            }
        }
    }
}

/// Collects the diagnostics of one document.
#[derive(Debug)]
pub struct Sink {
    pub file: Arc<str>,
    /// Put on every diagnostic from here on.
    pub resource: String,
    pub diagnostics: Vec<Diagnostic>,
}

impl Sink {
    pub fn new(file: Arc<str>) -> Sink {
        Sink {
            file,
            resource: String::new(),
            diagnostics: Vec::new(),
        }
    }

    pub fn error(
        &mut self,
        code: Code,
        at: &Path<'_>,
        span: Span,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.report(Severity::Error, code, at, span, message.into())
    }

    pub fn warning(
        &mut self,
        code: Code,
        at: &Path<'_>,
        span: Span,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.report(Severity::Warning, code, at, span, message.into())
    }

    fn report(
        &mut self,
        severity: Severity,
        code: Code,
        at: &Path<'_>,
        span: Span,
        message: String,
    ) -> &mut Diagnostic {
        let index = self.diagnostics.len();
        self.diagnostics.push(Diagnostic {
            severity,
            code,
            message,
            resource: self.resource.clone(),
            path: at.to_string(),
            file: self.file.clone(),
            line: span.line,
            column: span.column,
            help: None,
            related: Vec::new(),
            span,
        });
        &mut self.diagnostics[index]
    }

    /// The usual ill-typed value.
    pub(crate) fn wrong_type(&mut self, at: &Path<'_>, node: &Node, expected: &str) {
        self.error(
            Code::WrongType,
            at,
            node.span,
            format!("expected {expected}, found {}", node.describe()),
        );
    }
}

impl Diagnostic {
    /// Says what to do next.
    pub fn help(&mut self, help: impl Into<String>) -> &mut Diagnostic {
        self.help = Some(help.into());
        self
    }

    /// Points at a second place.
    pub fn related(
        &mut self,
        file: &Arc<str>,
        span: Span,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.related.push(Related {
            file: file.clone(),
            line: span.line,
            column: span.column,
            message: message.into(),
            span,
        });
        self
    }
}

/// A type that configuration can be read into.
pub trait Typed: Sized {
    /// Reads `node`. `None` means that at least one error was reported.
    fn read(node: &Node, at: &Path<'_>, sink: &mut Sink) -> Option<Self>;

    /// The value of a field that is not there; `None` makes the field required.
    fn absent() -> Option<Self> {
        None
    }
}

impl<T: Typed> Typed for Option<T> {
    fn read(node: &Node, at: &Path<'_>, sink: &mut Sink) -> Option<Self> {
        T::read(node, at, sink).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

impl<T: Typed> Typed for Box<T> {
    fn read(node: &Node, at: &Path<'_>, sink: &mut Sink) -> Option<Self> {
        T::read(node, at, sink).map(Box::new)
    }

    fn absent() -> Option<Self> {
        T::absent().map(Box::new)
    }
}

impl<T: Typed> Typed for Vec<T> {
    fn read(node: &Node, at: &Path<'_>, sink: &mut Sink) -> Option<Self> {
        let Value::List(items) = &node.value else {
            sink.wrong_type(at, node, "a list");
            if let Some(last) = sink.diagnostics.last_mut() {
                last.help("start each item with `- `, or write `[…]`");
            }
            return None;
        };
        let mut whole = true;
        let mut read = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let at = at.index(index);
            if item.is_null() {
                sink.error(Code::EmptyField, &at, item.span, "this list item is empty")
                    .help("remove the item or give it a value");
                whole = false;
                continue;
            }
            match T::read(item, &at, sink) {
                Some(value) => read.push(value),
                None => whole = false,
            }
        }
        whole.then_some(read)
    }

    fn absent() -> Option<Self> {
        Some(Vec::new())
    }
}

impl<T: Typed> Typed for BTreeMap<String, T> {
    fn read(node: &Node, at: &Path<'_>, sink: &mut Sink) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            sink.wrong_type(at, node, "a mapping");
            return None;
        };
        let mut whole = true;
        let mut read = BTreeMap::new();
        for entry in entries {
            match T::read(&entry.value, &at.field(&entry.key), sink) {
                Some(value) => {
                    read.insert(entry.key.clone(), value);
                }
                None => whole = false,
            }
        }
        whole.then_some(read)
    }

    fn absent() -> Option<Self> {
        Some(BTreeMap::new())
    }
}

/// A field that a record knows.
pub struct Known {
    /// The Rust name, or the JSON name where the two are not the same word.
    pub name: &'static str,
    pub status: Status,
}

#[derive(Clone, Copy)]
pub enum Status {
    Served,
    /// Means nothing here and hides nothing: what a server writes.
    Silent,
    /// Accepted with a warning: says what happens without it.
    Ignored(&'static str),
    /// Refused, since leaving it out could weaken security or change where traffic goes: says what to do instead.
    Refused(&'static str),
}

impl Known {
    /// `per_try_timeout` → `perTryTimeout`.
    pub fn json(&self) -> Cow<'static, str> {
        if !self.name.contains('_') {
            return Cow::Borrowed(self.name);
        }
        let mut json = String::with_capacity(self.name.len());
        let mut upper = false;
        for c in self.name.chars() {
            match c {
                '_' => upper = true,
                c if upper => {
                    json.extend(c.to_uppercase());
                    upper = false;
                }
                c => json.push(c),
            }
        }
        Cow::Owned(json)
    }
}

/// A mapping that is being read field by field, in the order of the record.
pub struct Fields<'n> {
    known: &'static [Known],
    node: &'n Node,
    entries: Vec<Option<&'n Entry>>,
    next: usize,
}

impl<'n> Fields<'n> {
    /// Matches the keys of `node` with the fields of a record; reports what does not belong.
    pub fn open(
        node: &'n Node,
        at: &Path<'_>,
        sink: &mut Sink,
        known: &'static [Known],
        exclusive: &[&[&str]],
    ) -> Option<(Fields<'n>, bool)> {
        let Value::Map(entries) = &node.value else {
            sink.wrong_type(at, node, "a mapping");
            return None;
        };
        let names: Vec<Cow<'static, str>> = known.iter().map(Known::json).collect();
        let mut fields = Fields {
            known,
            node,
            entries: vec![None; known.len()],
            next: 0,
        };
        let mut whole = true;
        for entry in entries {
            let path = at.field(&entry.key);
            match names.iter().position(|name| *name == entry.key) {
                None => {
                    unknown_field(entry, &path, sink, &names);
                    whole = false;
                }
                Some(index) => {
                    if entry.value.is_null() {
                        sink.warning(
                            Code::EmptyField,
                            &path,
                            entry.key_span,
                            format!("`{}` has no value and counts as unset", entry.key),
                        )
                        .help(
                            "remove it, or give it a value; check the indentation of the next line",
                        );
                        continue;
                    }
                    match known[index].status {
                        Status::Served | Status::Silent => {}
                        Status::Ignored(effect) => {
                            sink.warning(
                                Code::NotSupportedYet,
                                &path,
                                entry.key_span,
                                format!("`{}` is not supported yet and is ignored", entry.key),
                            )
                            .help(effect);
                        }
                        Status::Refused(instead) => {
                            sink.error(
                                Code::NotSupportedYet,
                                &path,
                                entry.key_span,
                                format!("`{}` is not supported yet", entry.key),
                            )
                            .help(instead);
                            whole = false;
                        }
                    }
                    fields.entries[index] = Some(entry);
                }
            }
        }
        for group in exclusive {
            let set: Vec<&Entry> = group
                .iter()
                .filter_map(|name| node.entry(name))
                .filter(|entry| !entry.value.is_null())
                .collect();
            if let [first, .., last] = set.as_slice() {
                let names: Vec<String> = group.iter().map(|name| format!("`{name}`")).collect();
                let file = sink.file.clone();
                sink.error(
                    Code::Exclusive,
                    &at.field(&last.key),
                    last.key_span,
                    format!("only one of {} may be set", names.join(", ")),
                )
                .related(&file, first.key_span, "also set here");
                whole = false;
            }
        }
        Some((fields, whole))
    }

    /// Reads the next field of the record.
    pub fn take<T: Typed>(&mut self, at: &Path<'_>, sink: &mut Sink) -> Option<T> {
        let index = self.next;
        self.next += 1;
        if let Some(entry) = self.entries[index] {
            return T::read(&entry.value, &at.field(&entry.key), sink);
        }
        let absent = T::absent();
        if absent.is_none() {
            let name = self.known[index].json();
            sink.error(
                Code::MissingField,
                &at.field(&name),
                self.node.span,
                format!("`{name}` is missing"),
            )
            .help(format!("add `{name}:` here"));
        }
        absent
    }
}

fn unknown_field(entry: &Entry, path: &Path<'_>, sink: &mut Sink, names: &[Cow<'static, str>]) {
    let near = nearest(&entry.key, names.iter().map(AsRef::as_ref));
    let mut listed: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    listed.sort_unstable();
    let help = match near {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("the fields here are {}", listed.join(", ")),
    };
    sink.error(
        Code::UnknownField,
        path,
        entry.key_span,
        format!("unknown field `{}`", entry.key),
    )
    .help(help);
}

/// The candidate that `word` is most likely a slip for: at most a third of its letters differ, case aside.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let lower = word.to_lowercase().replace(['_', '-'], "");
    candidates
        .into_iter()
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&lower, &candidate.to_lowercase());
            (distance, candidate)
        })
        .filter(|(distance, candidate)| {
            *distance <= lower.chars().count().max(candidate.chars().count()) / 3
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Declares a struct and how it is read: `field: Type`, `field as "jsonName": Type`; then, each optional and in this
/// order, `silent { "name" }`, `ignored { "name": "what happens without it" }`, `refused { "name": "what to do instead" }` and
/// `exclusive { "a" | "b" }`.
macro_rules! record {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $( $(#[$field_meta:meta])* $field:ident $(as $json:literal)? : $type:ty ),* $(,)?
        }
        $( silent { $( $silent:literal ),* $(,)? } )?
        $( ignored { $( $ignored:literal : $effect:literal ),* $(,)? } )?
        $( refused { $( $refused:literal : $instead:literal ),* $(,)? } )?
        $( exclusive { $( $first:literal $(| $other:literal)+ ),* $(,)? } )?
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $name { $( $(#[$field_meta])* pub $field: $type, )* }

        impl $crate::schema::Typed for $name {
            fn read(
                node: &$crate::yaml::Node,
                at: &$crate::schema::Path<'_>,
                sink: &mut $crate::schema::Sink,
            ) -> Option<Self> {
                use $crate::schema::{Fields, Known, Status};
                const KNOWN: &[Known] = &[
                    $( Known {
                        name: $crate::schema::record!(@name $field $($json)?),
                        status: Status::Served,
                    }, )*
                    $( $( Known { name: $silent, status: Status::Silent }, )* )?
                    $( $( Known { name: $ignored, status: Status::Ignored($effect) }, )* )?
                    $( $( Known { name: $refused, status: Status::Refused($instead) }, )* )?
                ];
                const EXCLUSIVE: &[&[&str]] = &[ $( $( &[$first $(, $other)+], )* )? ];
                let (mut fields, whole) = Fields::open(node, at, sink, KNOWN, EXCLUSIVE)?;
                $( let $field = fields.take::<$type>(at, sink); )*
                let value = $name { $( $field: $field?, )* };
                whole.then_some(value)
            }
        }
    };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $json:literal) => { $json };
}
pub(crate) use record;

/// Declares an enum of named values and how it is read: `Variant = "TEXT"`; then, optional, values that are known and
/// not served: `refused { "TEXT": "what to do instead" }`.
macro_rules! token {
    (
        $(#[$meta:meta])*
        pub enum $name:ident { $( $(#[$variant_meta:meta])* $variant:ident = $text:literal ),* $(,)? }
        $( refused { $( $refused:literal : $instead:literal ),* $(,)? } )?
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $( $(#[$variant_meta])* $variant, )* }

        impl $name {
            pub fn as_str(self) -> &'static str {
                match self { $( $name::$variant => $text, )* }
            }
        }

        impl $crate::schema::Typed for $name {
            fn read(
                node: &$crate::yaml::Node,
                at: &$crate::schema::Path<'_>,
                sink: &mut $crate::schema::Sink,
            ) -> Option<Self> {
                const SERVED: &[(&str, $name)] = &[ $( ($text, $name::$variant), )* ];
                const REFUSED: &[(&str, &str)] = &[ $( $( ($refused, $instead), )* )? ];
                $crate::schema::read_token(node, at, sink, SERVED, REFUSED)
            }
        }
    };
}
pub(crate) use token;

/// One of a closed set of words.
pub(crate) fn read_token<T: Copy>(
    node: &Node,
    at: &Path<'_>,
    sink: &mut Sink,
    served: &[(&'static str, T)],
    refused: &[(&'static str, &'static str)],
) -> Option<T> {
    let Some(text) = node.text() else {
        sink.wrong_type(at, node, "a word");
        return None;
    };
    if let Some((_, value)) = served.iter().find(|(name, _)| *name == text) {
        return Some(*value);
    }
    if let Some((_, instead)) = refused.iter().find(|(name, _)| *name == text) {
        sink.error(
            Code::NotSupportedYet,
            at,
            node.span,
            format!("`{text}` is not supported yet"),
        )
        .help(*instead);
        return None;
    }
    let names = || served.iter().map(|(name, _)| *name);
    let help = match nearest(text, names()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("one of {}", names().collect::<Vec<_>>().join(", ")),
    };
    sink.error(
        Code::InvalidValue,
        at,
        node.span,
        format!("`{text}` is not a value of this field"),
    )
    .help(help);
    None
}
