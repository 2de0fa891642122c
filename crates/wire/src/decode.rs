//! Envoy v3 messages → `ripstop_model::snapshot`, with every problem collected and named by its field path.
//!
//! Every message is destructured whole through [`fields!`], which makes each field one of
//! - *taken*: it becomes part of the model;
//! - *refuse*: unsupported, and leaving it out could weaken security;
//! - *ignore*: unsupported, and leaving it out could only change behaviour;
//! - *inert*: it changes no answer ripstop gives (names of statistics, hints for Envoy's internals).
//!
//! A field that a newer `envoy-types` adds is therefore a compile error, never an oversight.

mod access_log;
mod authz;
mod cluster;
mod cluster_health;
mod cluster_protocol;
mod endpoint;
mod http;
mod http_filter;
mod listener;
mod retry;
mod route;
mod route_action;
mod subset;
mod tls;
mod value;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;

use crate::pb::google;
use ripstop_model::discovery::{Kind, Resource};

pub(crate) use cluster::{cluster, from_ads};
pub(crate) use endpoint::endpoints;
pub(crate) use listener::listener;
pub(crate) use route::route_config;
pub(crate) use tls::secret;
pub(crate) use value::socket_address;

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path from the resource, as its author wrote it: `virtual_hosts[0].routes[2].route.timeout`.
    pub path: String,
    pub severity: Severity,
    /// What is wrong and, where known, what to do.
    pub message: String,
    /// Where it stands in its file; `None` for what a control plane sent.
    pub at: Option<Position>,
}

/// 1-based.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

impl From<ripstop_model::yaml::Span> for Position {
    fn from(span: ripstop_model::yaml::Span) -> Position {
        Position {
            line: span.line,
            column: span.column,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Not supported; leaving it out could only change behaviour.
    Unsupported,
    /// Not supported, and leaving it out could weaken security.
    Insecure,
    /// Wrong, or impossible to serve without it.
    Invalid,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Position { line, column }) = self.at {
            write!(f, "line {line}, column {column}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Every problem of one resource or file. Displayed one to a line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    pub fn one(path: impl Into<String>, severity: Severity, message: impl Into<String>) -> Self {
        Problems(vec![Problem {
            path: path.into(),
            severity,
            message: message.into(),
            at: None,
        }])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Who wrote the configuration decides what an unsupported field means (decisions.md, 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// A file: every unsupported field is an error.
    Static,
    /// A control plane: only what could weaken security is; the rest are warnings.
    Dynamic,
}

/// A value, and what of its message was left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded<T> {
    pub value: T,
    pub warnings: Vec<Problem>,
}

/// Decodes one resource that a control plane sent. The error becomes the NACK's text.
pub fn resource(kind: Kind, bytes: &[u8]) -> Result<Decoded<Resource>, Problems> {
    let mut cx = Decoding::new("");
    let body = match kind {
        Kind::Listener => cx
            .message(bytes)
            .and_then(|m| listener(&mut cx, m))
            .map(|l| Resource::Listener(Arc::new(l))),
        Kind::Route => cx
            .message(bytes)
            .and_then(|m| route_config(&mut cx, m))
            .map(|r| Resource::Route(Arc::new(r))),
        Kind::Cluster => cx
            .message(bytes)
            .and_then(|m| cluster(&mut cx, m))
            .map(|c| Resource::Cluster(Arc::new(c))),
        Kind::Endpoints => cx
            .message(bytes)
            .and_then(|m| endpoints(&mut cx, m))
            .map(|e| Resource::Endpoints(Arc::new(e))),
        Kind::Secret => cx
            .message(bytes)
            .and_then(|m| secret(&mut cx, m))
            .map(|s| Resource::Secret(Arc::new(s))),
        Kind::Host => cx
            .message(bytes)
            .and_then(|m| crate::xds::host::host(&mut cx, m))
            .map(|h| Resource::Host(Arc::new(h))),
        Kind::Ranges => cx
            .message(bytes)
            .map(|m| Resource::Ranges(crate::xds::host::ranges(&mut cx, m))),
    };
    cx.finish(body, Strictness::Dynamic)
}

/// Problems kept per resource; a peer cannot make the list longer.
const MAX_PROBLEMS: usize = 200;

/// Collects problems while a message is decoded. A decoder that answers `None` has recorded why.
#[derive(Debug)]
pub(crate) struct Decoding {
    file: bool,
    path: String,
    problems: Vec<Problem>,
}

impl Decoding {
    /// `root` is the first part of every path; may be empty.
    pub(crate) fn new(root: &str) -> Decoding {
        Decoding {
            file: false,
            path: root.to_owned(),
            problems: Vec::new(),
        }
    }

    /// Of a file, where no control plane stands behind what is asked for.
    pub(crate) fn of_file() -> Decoding {
        Decoding {
            file: true,
            ..Decoding::new("")
        }
    }

    pub(crate) fn is_file(&self) -> bool {
        self.file
    }

    /// The value with its warnings, or every problem when one of them forbids the value.
    pub(crate) fn finish<T>(
        self,
        value: Option<T>,
        strictness: Strictness,
    ) -> Result<Decoded<T>, Problems> {
        let fatal =
            |p: &Problem| strictness == Strictness::Static || p.severity > Severity::Unsupported;
        match value {
            Some(value) if !self.problems.iter().any(fatal) => Ok(Decoded {
                value,
                warnings: self.problems,
            }),
            _ => {
                let mut problems = self.problems;
                problems.retain(fatal);
                Err(Problems(problems))
            }
        }
    }

    /// Runs `f` with `name` added to the path.
    pub(crate) fn field<R>(&mut self, name: &str, f: impl FnOnce(&mut Decoding) -> R) -> R {
        let length = self.path.len();
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
        let result = f(self);
        self.path.truncate(length);
        result
    }

    /// Runs `f` with `[key]` added to the path.
    pub(crate) fn key<R>(
        &mut self,
        key: impl fmt::Display,
        f: impl FnOnce(&mut Decoding) -> R,
    ) -> R {
        let length = self.path.len();
        // Writing to a String cannot fail.
        let _ = fmt::Write::write_fmt(&mut self.path, format_args!("[{key}]"));
        let result = f(self);
        self.path.truncate(length);
        result
    }

    /// Decodes every item of a repeated field; those that cannot be decoded are left out, recorded.
    pub(crate) fn each<T, U>(
        &mut self,
        name: &str,
        items: Vec<T>,
        mut f: impl FnMut(&mut Decoding, T) -> Option<U>,
    ) -> Vec<U> {
        self.field(name, |cx| {
            items
                .into_iter()
                .enumerate()
                .filter_map(|(i, item)| cx.key(i, |cx| f(cx, item)))
                .collect()
        })
    }

    /// Decodes an optional message.
    pub(crate) fn optional<T, U>(
        &mut self,
        name: &str,
        item: Option<T>,
        f: impl FnOnce(&mut Decoding, T) -> Option<U>,
    ) -> Option<U> {
        self.field(name, |cx| item.and_then(|item| f(cx, item)))
    }

    /// Decodes a message that must be there.
    pub(crate) fn required<T, U>(
        &mut self,
        name: &str,
        item: Option<T>,
        f: impl FnOnce(&mut Decoding, T) -> Option<U>,
    ) -> Option<U> {
        self.field(name, |cx| match item {
            Some(item) => f(cx, item),
            None => {
                cx.invalid_here("is required");
                None
            }
        })
    }

    fn push(&mut self, severity: Severity, message: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem {
                path: self.path.clone(),
                severity,
                message,
                at: None,
            });
        }
    }

    /// Records that what is at the current path is wrong.
    pub(crate) fn invalid_here(&mut self, message: impl Into<String>) {
        self.push(Severity::Invalid, message.into());
    }

    pub(crate) fn invalid(&mut self, name: &str, message: impl Into<String>) {
        self.field(name, |cx| cx.invalid_here(message));
    }

    pub(crate) fn refuse_here(&mut self, message: impl Into<String>) {
        self.push(Severity::Insecure, message.into());
    }

    /// A set field that is not supported and whose absence could weaken security.
    pub(crate) fn refuse(&mut self, name: &str, set: bool) {
        if set {
            self.field(name, |cx| {
                cx.refuse_here(
                    "is not supported, and leaving it out could weaken security; remove it",
                );
            });
        }
    }

    pub(crate) fn ignore_here(&mut self, message: impl Into<String>) {
        self.push(Severity::Unsupported, message.into());
    }

    /// A set field that is not supported.
    pub(crate) fn ignore(&mut self, name: &str, set: bool) {
        if set {
            self.field(name, |cx| cx.ignore_here("is not supported; remove it"));
        }
    }

    /// Decodes a message from its bytes.
    pub(crate) fn message<M: Message + Default>(&mut self, bytes: &[u8]) -> Option<M> {
        match M::decode(bytes) {
            Ok(message) => Some(message),
            Err(error) => {
                self.invalid_here(format!("is not a valid message: {error}"));
                None
            }
        }
    }

    /// Unpacks an `Any` whose type is known to be `M`'s.
    pub(crate) fn unpack<M: Message + Default>(&mut self, any: &google::Any) -> Option<M> {
        self.message(any.value.as_slice())
    }

    /// An `Any` that must hold an `M`.
    pub(crate) fn expect<M: Message + Default + prost::Name>(
        &mut self,
        any: &google::Any,
    ) -> Option<M> {
        if is::<M>(any) {
            return self.unpack(any);
        }
        self.invalid_here(format!(
            "holds {}, expected {}",
            any.type_url,
            M::type_url()
        ));
        None
    }

    pub(crate) fn enumeration<E: TryFrom<i32>>(&mut self, name: &str, value: i32) -> Option<E> {
        let known = E::try_from(value).ok();
        if known.is_none() {
            self.invalid(name, format!("{value} is not a known value"));
        }
        known
    }

    pub(crate) fn port(&mut self, name: &str, value: u32) -> Option<u16> {
        let port = u16::try_from(value).ok();
        if port.is_none() {
            self.invalid(name, format!("{value} is not a port (0 to 65535)"));
        }
        port
    }

    /// A duration that may be unset.
    pub(crate) fn duration(
        &mut self,
        name: &str,
        value: Option<google::Duration>,
    ) -> Option<Duration> {
        let value = value?;
        let seconds = u64::try_from(value.seconds).ok();
        let nanos = u32::try_from(value.nanos)
            .ok()
            .filter(|n| *n < 1_000_000_000);
        // 315,576,000,000 seconds is what google.protobuf.Duration allows.
        match (seconds.filter(|s| *s <= 315_576_000_000), nanos) {
            (Some(seconds), Some(nanos)) => Some(Duration::new(seconds, nanos)),
            _ => {
                self.invalid(name, "is negative or out of range");
                None
            }
        }
    }

    /// A duration where unset means `default` and zero means no limit.
    pub(crate) fn limit(
        &mut self,
        name: &str,
        value: Option<google::Duration>,
        default: Option<Duration>,
    ) -> Option<Duration> {
        match value {
            None => default,
            Some(value) => self.duration(name, Some(value)).filter(|d| !d.is_zero()),
        }
    }
}

/// Whether `any` holds an `M`, whatever host its URL names.
pub(crate) fn is<M: prost::Name>(any: &google::Any) -> bool {
    any.type_url
        .rsplit_once('/')
        .is_some_and(|(_, name)| name == M::full_name())
}

/// Whether a field carries something: not its protobuf default.
pub(crate) trait IsSet {
    fn is_set(&self) -> bool;
}

macro_rules! scalar {
    ($($ty:ty),*) => { $(impl IsSet for $ty { fn is_set(&self) -> bool { *self != <$ty>::default() } })* };
}
scalar!(bool, i32, u32, i64, u64, f64, String);

impl<T> IsSet for Vec<T> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<T> IsSet for Option<T> {
    fn is_set(&self) -> bool {
        self.is_some()
    }
}

impl<K, V> IsSet for std::collections::HashMap<K, V> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

/// Destructures a message whole; see the module's own documentation for the four kinds of field.
macro_rules! fields {
    ($cx:ident, $message:expr => $($ty:ident)::+ { $($taken:ident),* $(,)? }
        $(refuse { $($refuse:ident),* $(,)? })?
        $(ignore { $($ignore:ident),* $(,)? })?
        $(inert { $($inert:ident),* $(,)? })?
    ) => {
        let $($ty)::+ {
            $($taken,)*
            $($($refuse,)*)?
            $($($ignore,)*)?
            $($($inert: _,)*)?
        } = $message;
        $($($cx.refuse(
            stringify!($refuse).trim_start_matches("r#"),
            $crate::decode::IsSet::is_set(&$refuse),
        );)*)?
        $($($cx.ignore(
            stringify!($ignore).trim_start_matches("r#"),
            $crate::decode::IsSet::is_set(&$ignore),
        );)*)?
    };
}
pub(crate) use fields;
