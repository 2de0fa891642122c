//! A record → its span. Attributes are a table, a row each, with the names that Istio's proxies use.

use std::borrow::Cow;

use opentelemetry::trace::{
    SpanContext as Context, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::record::{Kind, Record, Reporter};
use crate::trace::Attribution;

/// Longest text of an attribute in bytes; what clients send must not fill the collector.
const MAX_TEXT: usize = 256;

type Of = fn(&Record<'_>) -> Option<Value>;

/// `None` leaves the attribute out.
pub static ATTRIBUTES: &[(&str, Of)] = &[
    ("component", |_| Some("proxy".into())),
    ("http.method", |r| request(r, ":method")),
    ("http.url", url),
    ("http.protocol", |r| text(r.protocol)),
    ("http.status_code", |r| {
        (r.kind != Kind::Tcp).then(|| i64::from(r.status).into())
    }),
    ("grpc.status_code", |r| {
        r.grpc_status.map(|s| i64::from(s).into())
    }),
    ("guid:x-request-id", |r| request(r, "x-request-id")),
    ("user_agent", |r| request(r, "user-agent")),
    ("request_size", |r| Some((r.bytes_received as i64).into())),
    ("response_size", |r| Some((r.bytes_sent as i64).into())),
    ("response_flags", |r| Some(r.flags.to_string().into())),
    ("upstream_cluster", |r| text(r.cluster?)),
    ("upstream_cluster.name", |r| text(r.cluster?)),
    ("upstream_address", |r| {
        Some(r.upstream_host?.to_string().into())
    }),
    ("peer.address", |r| {
        Some(r.downstream_remote?.ip().to_string().into())
    }),
    ("retry.attempts", |r| {
        (r.attempts > 1).then(|| i64::from(r.attempts).into())
    }),
    ("istio.source_workload", |r| text(&r.source.name)),
    ("istio.source_principal", |r| text(&r.source.principal)),
    ("istio.destination_workload", |r| text(&r.destination.name)),
    ("istio.destination_principal", |r| {
        text(&r.destination.principal)
    }),
    ("istio.destination_service", |r| text(&r.service.host)),
    ("ripstop.reason", |r| Some(r.reason?.as_str().into())),
    ("ripstop.resource", |r| text(r.resource?)),
    ("ripstop.trace.cause", |r| match &r.span?.attribution {
        Attribution::NotAsked => None,
        Attribution::Own => Some("application".into()),
        Attribution::Inherited(producer) => Some(producer.as_str().into()),
        Attribution::Unknown(_) => Some("unattributed".into()),
    }),
    ("error", |r| r.is_error().then_some(Value::Bool(true))),
];

fn clipped(value: &str) -> String {
    let end = (0..=value.len().min(MAX_TEXT))
        .rev()
        .find(|at| value.is_char_boundary(*at))
        .unwrap_or(0);
    value[..end].to_owned()
}

fn text(value: &str) -> Option<Value> {
    (!value.is_empty()).then(|| clipped(value).into())
}

fn request(record: &Record<'_>, name: &str) -> Option<Value> {
    text(&record.request.field(name)?)
}

fn url(record: &Record<'_>) -> Option<Value> {
    let authority = record.request.field(":authority")?;
    let scheme = record
        .request
        .field(":scheme")
        .unwrap_or(Cow::Borrowed("http"));
    let path = record.request.field(":path").unwrap_or_default();
    text(&format!("{scheme}://{authority}{path}"))
}

/// What may have caused a request whose cause is not known.
fn links(attribution: &Attribution) -> SpanLinks {
    let mut links = SpanLinks::default();
    if let Attribution::Unknown(candidates) = attribution {
        links.links = candidates
            .iter()
            .map(|link| {
                let (trace, span) = (TraceId::from(link.trace_id), SpanId::from(link.span_id));
                let context = Context::new(
                    trace,
                    span,
                    TraceFlags::SAMPLED,
                    true,
                    TraceState::default(),
                );
                opentelemetry::trace::Link::new(context, Vec::new(), 0)
            })
            .collect();
    }
    links
}

/// The span of a record whose trace is exported here; `None` for others.
pub fn of(record: &Record<'_>) -> Option<SpanData> {
    let place = record.span.filter(|s| s.export)?;
    let ids = (TraceId::from(place.trace_id), SpanId::from(place.span_id));
    let attributes = ATTRIBUTES
        .iter()
        .filter_map(|(name, of)| of(record).map(|value| KeyValue::new(*name, value)))
        .collect();
    let name = match record.operation {
        Some(operation) => operation.to_owned(),
        None if record.kind == Kind::Tcp => record.cluster.unwrap_or("tcp").to_owned(),
        None => record
            .request
            .field(":method")
            .map_or_else(|| "request".to_owned(), |m| clipped(&m)),
    };
    Some(SpanData {
        span_context: Context::new(
            ids.0,
            ids.1,
            TraceFlags::SAMPLED,
            false,
            TraceState::default(),
        ),
        parent_span_id: place.parent.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: place.parent.is_some(),
        span_kind: match record.reporter {
            Reporter::Source => SpanKind::Client,
            Reporter::Destination | Reporter::Waypoint => SpanKind::Server,
        },
        name: name.into(),
        start_time: record.start,
        end_time: record.end(),
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: links(&place.attribution),
        status: if record.is_error() {
            Status::error(record.reason.map(|r| r.as_str()).unwrap_or_default())
        } else {
            Status::Unset
        },
        instrumentation_scope: InstrumentationScope::builder("ripstop").build(),
    })
}
