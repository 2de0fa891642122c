//! B3 propagation (openzipkin/b3-propagation), single header and multiple headers.

use super::{Format, Incoming, Sampled, SpanContext, id};
use crate::record::Fields;

pub(super) fn read_single(request: &dyn Fields) -> Option<Incoming> {
    let header = request.field("b3")?;
    let mut parts = header.trim().split('-');
    let (trace, span, state, parent) = (parts.next()?, parts.next()?, parts.next(), parts.next());
    if parts.next().is_some() || parent.is_some_and(|p| p.len() != 16 || id(p).is_none()) {
        return None;
    }
    let sampled = match state {
        None => Sampled::Deferred,
        Some(state) => decision(state)?,
    };
    incoming(Format::B3Single, trace, span, sampled)
}

pub(super) fn read_multi(request: &dyn Fields) -> Option<Incoming> {
    let trace = request.field("x-b3-traceid")?;
    let span = request.field("x-b3-spanid")?;
    let debug = request.field("x-b3-flags").is_some_and(|f| f.trim() == "1");
    let sampled = match request.field("x-b3-sampled") {
        _ if debug => Sampled::Debug,
        None => Sampled::Deferred,
        Some(value) => decision(value.trim())?,
    };
    incoming(Format::B3Multi, trace.trim(), span.trim(), sampled)
}

/// A decision that came without ids (`b3: 0`, or `x-b3-sampled` alone).
pub(super) fn decision_only(request: &dyn Fields) -> Option<Sampled> {
    if let Some(header) = request.field("b3") {
        return decision(header.trim());
    }
    if request.field("x-b3-traceid").is_some() {
        return None;
    }
    if request.field("x-b3-flags").is_some_and(|f| f.trim() == "1") {
        return Some(Sampled::Debug);
    }
    decision(request.field("x-b3-sampled")?.trim())
}

fn decision(state: &str) -> Option<Sampled> {
    Some(match state {
        "1" | "true" => Sampled::Yes,
        "0" | "false" => Sampled::No,
        "d" => Sampled::Debug,
        _ => return None,
    })
}

fn incoming(format: Format, trace: &str, span: &str, sampled: Sampled) -> Option<Incoming> {
    if !matches!(trace.len(), 16 | 32) || span.len() != 16 {
        return None;
    }
    Some(Incoming {
        format,
        trace_id: id(trace)?,
        short: trace.len() == 16,
        span_id: id(span)? as u64,
        sampled,
    })
}

fn trace_id(context: &SpanContext, origin: &Incoming) -> String {
    if origin.short {
        format!("{:016x}", context.trace_id)
    } else {
        format!("{:032x}", context.trace_id)
    }
}

pub(super) fn write_single(context: &SpanContext, origin: &Incoming) -> String {
    let state = match origin.sampled {
        Sampled::Debug => "d",
        Sampled::No => "0",
        // Deferred contexts are written only once this hop decided to sample.
        Sampled::Yes | Sampled::Deferred => "1",
    };
    let head = format!(
        "{}-{:016x}-{state}",
        trace_id(context, origin),
        context.span_id
    );
    match context.parent {
        Some(parent) => format!("{head}-{parent:016x}"),
        None => head,
    }
}

pub(super) fn write_multi(
    context: &SpanContext,
    origin: &Incoming,
    set: &mut Vec<(&'static str, String)>,
) {
    set.push(("x-b3-traceid", trace_id(context, origin)));
    set.push(("x-b3-spanid", format!("{:016x}", context.span_id)));
    if let Some(parent) = context.parent {
        set.push(("x-b3-parentspanid", format!("{parent:016x}")));
    }
    match origin.sampled {
        Sampled::Debug => set.push(("x-b3-flags", "1".into())),
        Sampled::No => set.push(("x-b3-sampled", "0".into())),
        Sampled::Yes | Sampled::Deferred => set.push(("x-b3-sampled", "1".into())),
    }
}
