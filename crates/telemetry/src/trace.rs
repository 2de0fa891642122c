//! A request's trace headers and a sampling decision → what is passed on, and the span this hop exports, if any.
//!
//! W3C Trace Context (Recommendation of 2021) and B3 (single and multi header) are read and written. A valid context
//! passes unchanged unless this hop exports a span of its own under it (R33.1): a parent that nobody ever exports would
//! break the trace in two.

mod b3;
mod w3c;

use ripstop_model::seam::Producer;

use crate::record::Fields;
use crate::rng::Rng;

/// Where a span sits in its trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanContext {
    pub trace_id: u128,
    pub span_id: u64,
    pub parent: Option<u64>,
    /// This hop exports the span. When it does not, `span_id` is the caller's.
    pub export: bool,
    pub attribution: Attribution,
}

/// How a request that an application sent came to its context.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Attribution {
    /// It came from outside, or nobody watches the application.
    #[default]
    NotAsked,
    /// The application passed a context on by itself.
    Own,
    /// Of the request that the application was serving, as this producer saw.
    Inherited(Producer),
    /// Nobody is certain: a new trace, with links to what may have caused it.
    Unknown(Vec<Link>),
}

/// A span of another trace that this one may have to do with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub trace_id: u128,
    pub span_id: u64,
}

/// How a context is spelled in headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    W3c,
    B3Single,
    B3Multi,
}

/// What a hop does with traces.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Spans go somewhere. Without it every request passes with the headers it came with.
    pub export: bool,
    /// Share of new traces that are sampled, 0 to 1.
    pub share: f64,
    /// How a new trace is announced. Applications copy the headers they know, so more than one is sensible.
    pub start: Vec<Format>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            export: false,
            share: 0.01,
            start: vec![Format::W3c, Format::B3Multi],
        }
    }
}

/// What is to be done to the request's headers, and the context for the record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hop {
    pub context: Option<SpanContext>,
    /// To be removed, before `set`.
    pub remove: Vec<&'static str>,
    /// To be replaced or added.
    pub set: Vec<(&'static str, String)>,
}

/// All headers that carry a context.
pub const HEADERS: &[&str] = &[
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
];

/// The caller's decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sampled {
    Yes,
    No,
    /// B3 debug: sampled, whatever the shares say.
    Debug,
    /// Left to us.
    Deferred,
}

/// A context as read from one format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Incoming {
    format: Format,
    trace_id: u128,
    /// The trace id came with 16 digits (B3).
    short: bool,
    span_id: u64,
    sampled: Sampled,
}

impl SpanContext {
    /// Reads the headers and decides. Called once per request, before it is sent on.
    pub fn hop(request: &dyn Fields, policy: &Policy, rng: &mut Rng) -> Hop {
        let found: Vec<Incoming> = incoming(request).collect();
        match found.first() {
            Some(first) => continued(*first, &found, policy, rng),
            None => started(request, policy, rng),
        }
    }
}

/// Every valid context, the one that wins first.
fn incoming(request: &dyn Fields) -> impl Iterator<Item = Incoming> + use<> {
    [
        w3c::read(request),
        b3::read_single(request),
        b3::read_multi(request),
    ]
    .into_iter()
    .flatten()
}

/// The span that a request says it is a child of.
pub fn parent(request: &dyn Fields) -> Option<Link> {
    incoming(request).next().map(|context| Link {
        trace_id: context.trace_id,
        span_id: context.span_id,
    })
}

/// Under the caller's context. W3C wins over B3 where they name different traces, and only the winner's trace is
/// written: the other context is valid and not ours.
fn continued(first: Incoming, found: &[Incoming], policy: &Policy, rng: &mut Rng) -> Hop {
    let passed = SpanContext {
        trace_id: first.trace_id,
        span_id: first.span_id,
        parent: None,
        export: false,
        attribution: Attribution::NotAsked,
    };
    let sampled = match first.sampled {
        Sampled::Yes | Sampled::Debug => true,
        Sampled::No => false,
        Sampled::Deferred => rng.chance(policy.share),
    };
    if !policy.export || !sampled {
        return Hop {
            context: Some(passed),
            ..Hop::default()
        };
    }
    let context = SpanContext {
        span_id: non_zero(rng),
        parent: Some(first.span_id),
        export: true,
        ..passed
    };
    let mut set = Vec::new();
    for incoming in found.iter().filter(|i| i.trace_id == first.trace_id) {
        write(incoming.format, &context, incoming, &mut set);
    }
    Hop {
        context: Some(context),
        remove: Vec::new(),
        set,
    }
}

/// No valid context came: whatever is there is replaced, if this hop takes part in tracing at all.
fn started(request: &dyn Fields, policy: &Policy, rng: &mut Rng) -> Hop {
    let decided = b3::decision_only(request);
    if !policy.export || decided == Some(Sampled::No) {
        return Hop::default();
    }
    let export = matches!(decided, Some(Sampled::Yes | Sampled::Debug)) || rng.chance(policy.share);
    let trace_id = loop {
        match rng.next_u128() {
            0 => {}
            id => break id,
        }
    };
    let context = SpanContext {
        trace_id,
        span_id: non_zero(rng),
        parent: None,
        export,
        attribution: Attribution::NotAsked,
    };
    let sampled = match (export, decided) {
        (true, Some(Sampled::Debug)) => Sampled::Debug,
        (true, _) => Sampled::Yes,
        (false, _) => Sampled::No,
    };
    let origin = Incoming {
        format: Format::W3c,
        trace_id,
        short: false,
        span_id: 0,
        sampled,
    };
    let mut set = Vec::new();
    for format in &policy.start {
        write(*format, &context, &origin, &mut set);
    }
    let remove = HEADERS
        .iter()
        .copied()
        .filter(|name| request.field(name).is_some())
        .collect();
    Hop {
        context: Some(context),
        remove,
        set,
    }
}

fn write(
    format: Format,
    context: &SpanContext,
    origin: &Incoming,
    set: &mut Vec<(&'static str, String)>,
) {
    match format {
        Format::W3c => set.push(("traceparent", w3c::write(context, origin.sampled))),
        Format::B3Single => set.push(("b3", b3::write_single(context, origin))),
        Format::B3Multi => b3::write_multi(context, origin, set),
    }
}

fn non_zero(rng: &mut Rng) -> u64 {
    loop {
        match rng.next_u64() {
            0 => {}
            id => return id,
        }
    }
}

/// Hexadecimal digits only; `None` for anything else and for all zeros.
fn id(digits: &str) -> Option<u128> {
    let hex =
        !digits.is_empty() && digits.len() <= 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if !hex {
        return None;
    }
    u128::from_str_radix(digits, 16).ok().filter(|id| *id != 0)
}

/// Longest `x-request-id` that is kept.
pub const MAX_REQUEST_ID: usize = 128;

/// The request's id: the one it came with, if that may be kept (`preserve`: not from outside the mesh) and is printable
/// ASCII without spaces, or a new UUID.
pub fn request_id(incoming: Option<&str>, preserve: bool, rng: &mut Rng) -> String {
    let usable = |id: &&str| {
        !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.bytes().all(|b| b.is_ascii_graphic())
    };
    match incoming.filter(usable) {
        Some(id) if preserve => id.to_owned(),
        _ => rng.uuid(),
    }
}

#[cfg(test)]
mod tests;
