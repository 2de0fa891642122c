//! Trace context of a request: accepted and continued (W3C `traceparent`, B3 single and multi), or started.

use ripstop_model::snapshot::http::HttpProxy;

use crate::connection::Connection;
use crate::headers::Known;
use crate::message::RequestHead;

/// Starts a trace where there is none. A context that came is passed on as it is (R33.1): whoever exports spans gives it
/// a new parent.
pub fn enter(connection: &Connection, proxy: &HttpProxy, head: &mut RequestHead) {
    let Some(tracing) = &proxy.tracing else {
        return;
    };
    let headers = &mut head.headers;
    if headers.has(Known::Traceparent) || headers.has(Known::B3) || headers.has(Known::B3Multi) {
        return;
    }
    let worker = &connection.worker;
    let sampled = tracing.random.holds(worker.random()) && tracing.overall.holds(worker.random());
    let context = format!(
        "00-{:016x}{:016x}-{:016x}-{:02x}",
        worker.random() | 1,
        worker.random(),
        worker.random() | 1,
        u8::from(sampled)
    );
    headers.append(Known::Traceparent, context);
}
