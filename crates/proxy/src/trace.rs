//! Trace context of a request: accepted, continued or started by the rules of [`ripstop_telemetry::trace`]; and of a
//! connection of opaque bytes, which belongs to a trace only where somebody knows which.

use std::borrow::Cow;

use ripstop_model::request::RequestView;
use ripstop_model::snapshot::http::HttpProxy;
use ripstop_telemetry::record::Fields;
use ripstop_telemetry::trace::{Attribution, Hop, Policy, SpanContext};

use crate::connection::Connection;
use crate::message::RequestHead;

pub(crate) struct Asked<'a>(pub(crate) &'a RequestHead);

impl Fields for Asked<'_> {
    fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.field(name)
    }
}

/// Writes this hop's context into the request; `attribution` says where one came from that the application sent. Without tracing every context passes as it came (R33.1).
pub fn enter(
    connection: &Connection,
    proxy: &HttpProxy,
    head: &mut RequestHead,
    attribution: Attribution,
) -> Option<SpanContext> {
    let tracing = proxy.tracing.as_ref()?;
    let mut telemetry = connection.worker.telemetry.borrow_mut();
    let share = |part: ripstop_model::snapshot::Fraction| f64::from(part.as_millionths()) / 1e6;
    let policy = Policy {
        export: telemetry.exports(),
        share: share(tracing.random) * share(tracing.overall),
        ..Policy::default()
    };
    let hop = SpanContext::hop(&Asked(head), &policy, &mut telemetry.rng);
    for name in hop.remove {
        head.headers.remove_named(name);
    }
    for (name, value) in hop.set {
        head.headers.set_named(name, value);
    }
    let context = hop.context?;
    Some(SpanContext {
        attribution,
        ..context
    })
}

/// The span of a connection that the application has opened, and the context that the other end's span belongs under.
pub(crate) fn opened(connection: &Connection) -> Option<(SpanContext, Option<String>)> {
    let attributor = connection.worker.shared.attributor.as_ref()?;
    let (headers, producer) = attributor.opened(connection)?;
    let hop = below(connection, &headers);
    let mut written = hop.set.into_iter();
    let written = written.find(|(name, _)| *name == TRACEPARENT);
    let traceparent = written.map(|(_, value)| value);
    let passed = || headers.field(TRACEPARENT).map(Cow::into_owned);
    let context = SpanContext {
        attribution: Attribution::Inherited(producer),
        ..hop.context?
    };
    Some((context, traceparent.or_else(passed)))
}

/// The span of a connection under the context that its client has told.
pub(crate) fn continued(connection: &Connection, traceparent: &str) -> Option<SpanContext> {
    below(connection, &Told(traceparent)).context
}

/// A connection begins no trace: without a context that says so it is not sampled.
fn below(connection: &Connection, context: &dyn Fields) -> Hop {
    let mut telemetry = connection.worker.telemetry.borrow_mut();
    let policy = Policy {
        export: telemetry.exports(),
        share: 0.0,
        start: Vec::new(),
    };
    SpanContext::hop(context, &policy, &mut telemetry.rng)
}

const TRACEPARENT: &str = "traceparent";

struct Told<'a>(&'a str);

impl Fields for Told<'_> {
    fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        (name == TRACEPARENT).then_some(Cow::Borrowed(self.0))
    }
}
