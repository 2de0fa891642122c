//! Trace context of a request: accepted, continued or started by the rules of [`ripstop_telemetry::trace`].

use std::borrow::Cow;

use ripstop_model::request::RequestView;
use ripstop_model::snapshot::http::HttpProxy;
use ripstop_telemetry::record::Fields;
use ripstop_telemetry::trace::{Attribution, Policy, SpanContext};

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
