//! `traceparent` (W3C Trace Context, section 3.2). `tracestate` is passed on as it came: this hop adds no entry.

use super::{Format, Incoming, Sampled, SpanContext, id};
use crate::record::Fields;

pub(super) fn read(request: &dyn Fields) -> Option<Incoming> {
    let header = request.field("traceparent")?;
    let lower = |s: &str| {
        s.bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
    };
    let mut parts = header.trim().split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let sized = version.len() == 2 && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
    if !sized || ![version, trace, span, flags].into_iter().all(lower) || version == "ff" {
        return None;
    }
    // Version 00 ends here; of a later version what is known is used.
    if version == "00" && parts.next().is_some() {
        return None;
    }
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    Some(Incoming {
        format: Format::W3c,
        trace_id: id(trace)?,
        short: false,
        span_id: id(span)? as u64,
        sampled: if sampled { Sampled::Yes } else { Sampled::No },
    })
}

pub(super) fn write(context: &SpanContext, sampled: Sampled) -> String {
    let flags = if sampled == Sampled::No { "00" } else { "01" };
    format!(
        "00-{:032x}-{:016x}-{flags}",
        context.trace_id, context.span_id
    )
}
