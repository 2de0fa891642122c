//! What is wrong with a configuration, where, and what to do about it; shown as text in rustc's manner or as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;

use crate::yaml::Span;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The resource is applied; something in it has no effect or is likely a mistake.
    Warning,
    /// The resource is not applied, others are; or, where it refers to something missing, a part of it cannot work.
    Error,
}

macro_rules! codes {
    ($( $(#[$meta:meta])* $name:ident = $slug:literal, )*) => {
        /// The class of a diagnostic. The text form is stable: scripts and suppressions rely on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        pub enum Code { $( $(#[$meta])* #[serde(rename = $slug)] $name, )* }

        impl Code {
            pub const ALL: &[Code] = &[ $( Code::$name, )* ];

            pub fn as_str(self) -> &'static str {
                match self { $( Code::$name => $slug, )* }
            }
        }
    };
}

codes! {
    // The file.
    /// Not YAML or JSON.
    Syntax = "syntax",
    DuplicateKey = "duplicate-key",
    /// A bound on bytes, nodes or depth.
    TooLarge = "too-large",

    // The shape of a document.
    UnknownKind = "unknown-kind",
    UnknownVersion = "unknown-version",
    UnknownField = "unknown-field",
    MissingField = "missing-field",
    WrongType = "wrong-type",
    /// A value of the right type that the field does not take.
    InvalidValue = "invalid-value",
    /// Fields of which only one may be set.
    Exclusive = "exclusive-fields",
    /// Known to Istio or the Gateway API, not served by ripstop yet.
    NotSupportedYet = "not-supported-yet",
    Deprecated = "deprecated",
    /// A key without a value, which counts as unset.
    EmptyField = "empty-field",

    // Names, addresses and expressions.
    InvalidName = "invalid-name",
    InvalidHost = "invalid-host",
    InvalidAddress = "invalid-address",
    CidrHostBits = "cidr-host-bits",
    InvalidPort = "invalid-port",
    InvalidRegex = "invalid-regex",
    InvalidDuration = "invalid-duration",
    InvalidHeader = "invalid-header",

    // References.
    UnknownHost = "unknown-host",
    UnknownSubset = "unknown-subset",
    UnknownPort = "unknown-port",
    AmbiguousPort = "ambiguous-port",
    UnknownServiceAccount = "unknown-service-account",
    UnknownNamespace = "unknown-namespace",
    /// A selector or subset that matches no workload.
    NoWorkload = "no-workload",

    // Several resources about the same thing.
    DuplicateResource = "duplicate-resource",
    Conflict = "conflict",
    ProtocolConflict = "protocol-conflict",
    PortConflict = "port-conflict",

    // Legal, but not what was meant.
    Unreachable = "unreachable-rule",
    DuplicateMatch = "duplicate-match",
    UnreachablePath = "unreachable-path",
    Weights = "weights",
    TryTimeout = "try-timeout",
    UnsafeRetry = "unsafe-retry",
    RetryCondition = "retry-condition",
    NoEffect = "no-effect",
    HttpOnTcp = "http-on-tcp",
    /// Two rules where one with both parts was meant.
    SplitRule = "split-rule",
    NeedsMtls = "needs-mtls",
    TlsConflict = "tls-conflict",
    UnverifiedTls = "unverified-tls",
}

impl Code {
    /// A fault in what a resource refers to, which may appear later: the resource is applied all the same.
    pub fn is_reference(self) -> bool {
        matches!(
            self,
            Code::UnknownHost
                | Code::UnknownSubset
                | Code::UnknownNamespace
                | Code::UnknownPort
                | Code::UnknownServiceAccount
                | Code::NoWorkload
                | Code::TlsConflict
        )
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A second place that explains the first: the earlier definition, the other resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Related {
    pub file: Arc<str>,
    pub line: u32,
    pub column: u32,
    pub message: String,
    #[serde(skip)]
    pub span: Span,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    pub code: Code,
    pub message: String,
    /// `VirtualService shop/reviews`; empty if the document did not get that far.
    pub resource: String,
    /// `spec.http[0].retries.attempts`; empty for the document itself.
    pub path: String,
    pub file: Arc<str>,
    /// 1-based; 0 if the resource did not come from a file.
    pub line: u32,
    pub column: u32,
    /// What to do next.
    pub help: Option<String>,
    pub related: Vec<Related>,
    #[serde(skip)]
    pub span: Span,
}

impl Diagnostic {
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// One line, `file:line:column: error[code]: message (path)`: for logs and status conditions.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        if !self.file.is_empty() {
            write!(f, "{}:", self.file)?;
        }
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        if !self.file.is_empty() {
            f.write_str(" ")?;
        }
        write!(f, "{severity}[{}]: {}", self.code, self.message)?;
        if !self.path.is_empty() {
            write!(f, " ({})", self.path)?;
        }
        if let Some(help) = &self.help {
            write!(f, "; {help}")?;
        }
        Ok(())
    }
}

/// The texts that diagnostics point into, by file name.
pub type Sources = BTreeMap<Arc<str>, Arc<str>>;

/// Renders diagnostics like rustc: message, excerpt with a caret, notes, help. `styled` adds ANSI colours.
pub fn render(diagnostics: &[Diagnostic], sources: &Sources, styled: bool) -> String {
    let renderer = if styled {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let mut text = String::new();
    for diagnostic in diagnostics {
        text.push_str(&renderer.render(&[group(diagnostic, sources)]));
        text.push_str("\n\n");
    }
    text
}

/// `3 errors, 1 warning`, or the empty string.
pub fn summary(diagnostics: &[Diagnostic]) -> String {
    let errors = diagnostics.iter().filter(|d| d.is_error()).count();
    [(errors, "error"), (diagnostics.len() - errors, "warning")]
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}{}", if *count == 1 { "" } else { "s" }))
        .collect::<Vec<_>>()
        .join(", ")
}

/// A JSON array with one object a diagnostic.
pub fn to_json(diagnostics: &[Diagnostic]) -> serde_json::Value {
    diagnostics
        .iter()
        .map(|diagnostic| serde_json::json!(diagnostic))
        .collect()
}

fn group<'a>(diagnostic: &'a Diagnostic, sources: &'a Sources) -> Group<'a> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group = Group::with_title(
        level
            .primary_title(diagnostic.message.as_str())
            .id(diagnostic.code.as_str()),
    );
    // Places in the same file share one excerpt, the others get one each.
    let label = if diagnostic.path.is_empty() {
        None
    } else {
        Some(diagnostic.path.as_str())
    };
    match sources.get(&diagnostic.file) {
        Some(source) if diagnostic.line > 0 => {
            let mut snippet = excerpt(source, &diagnostic.file).annotation(
                AnnotationKind::Primary
                    .span(caret(source, diagnostic.span))
                    .label(label),
            );
            for related in diagnostic
                .related
                .iter()
                .filter(|r| r.file == diagnostic.file)
            {
                snippet = snippet.annotation(
                    AnnotationKind::Context
                        .span(caret(source, related.span))
                        .label(related.message.as_str()),
                );
            }
            group = group.element(snippet);
        }
        _ if !diagnostic.file.is_empty() => {
            group = group.element(Origin::path(diagnostic.file.as_ref()));
            if let Some(path) = label {
                group = group.element(Level::NOTE.message(format!("at `{path}`")));
            }
        }
        _ => {}
    }
    for related in &diagnostic.related {
        if related.file == diagnostic.file {
            continue;
        }
        if let Some(source) = sources.get(&related.file) {
            group = group.element(
                excerpt(source, &related.file).annotation(
                    AnnotationKind::Context
                        .span(caret(source, related.span))
                        .label(related.message.as_str()),
                ),
            );
        } else {
            group = group.element(Level::NOTE.message(related.message.as_str()));
        }
    }
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    group
}

fn excerpt<'a, T: Clone>(source: &'a str, file: &'a str) -> Snippet<'a, T> {
    Snippet::source(source).path(file).fold(true)
}

/// The first line of a span: a caret under a whole mapping hides what it points at.
fn caret(source: &str, span: Span) -> std::ops::Range<usize> {
    let bytes = span.bytes();
    let start = bytes.start.min(source.len());
    let end = bytes.end.clamp(start, source.len());
    let line = source.get(start..end).and_then(|slice| slice.find('\n'));
    let end = line.map_or(end, |at| start + at);
    if end > start {
        return start..end;
    }
    // An empty span still needs one column.
    let next = source
        .get(start..)
        .and_then(|rest| rest.chars().next())
        .filter(|c| *c != '\n');
    start..start + next.map_or(0, char::len_utf8)
}
