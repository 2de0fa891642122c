//! The end of a request → its record: metrics, access logs and span all derive from it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use ripstop_model::reason::Reason;
use ripstop_model::request::RequestView;
use ripstop_model::snapshot::listener::Direction;
use ripstop_telemetry::record::{
    Fields, Kind, NoFields, Record, Reporter, Security, Timings, unknown_service, unknown_workload,
};
use tokio::time::Instant;

use super::Request;
use super::request::is_grpc;
use crate::cluster::Cluster;
use crate::headers::{Headers, Known};
use crate::message::{RequestHead, ResponseHead};
use crate::refusal::black_hole;
use crate::stats;

struct Asked<'a>(&'a RequestHead);

impl Fields for Asked<'_> {
    fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        match name.starts_with(':') || name == "host" {
            // Of what could not be read nothing is known.
            true => self.0.field(name).filter(|field| !field.is_empty()),
            false => first(&self.0.headers, name),
        }
    }

    fn joined(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.field(name)
    }
}

struct Answered<'a>(&'a ResponseHead);

impl Fields for Answered<'_> {
    fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        first(&self.0.headers, name)
    }

    fn joined(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.headers.joined(name)
    }
}

fn first<'h>(headers: &'h Headers, name: &str) -> Option<Cow<'h, str>> {
    headers.first_named(name).map(String::from_utf8_lossy)
}

/// Counts and logs a request that is over.
pub(super) fn finish(request: &Request<'_>, head: &RequestHead, response: &ResponseHead) {
    let answered = request.responded || request.verdict.reason.is_some();
    with(request, head, answered.then_some(response), |record| {
        request.proxy.stats.completed(record.status, record.reason);
        if let Some(cluster) = cluster(request)
            && (request.attempts > 0 || record.reason.is_some_and(stats::is_overflow))
        {
            cluster.stats.completed(record.status, record.reason);
        }
        let worker = request.worker();
        let draw = worker.random();
        let logs = request.proxy.logs.iter();
        let logs = logs.filter(|log| log.wants(record, draw));
        worker
            .telemetry
            .borrow_mut()
            .finish(record, logs.map(|log| &log.log));
    });
}

/// The record of what has happened so far.
pub(super) fn with<R>(
    request: &Request<'_>,
    head: &RequestHead,
    response: Option<&ResponseHead>,
    then: impl FnOnce(&Record<'_>) -> R,
) -> R {
    let connection = request.connection;
    let asked = Asked(head);
    let answered = response.map(Answered);
    let inbound = connection.direction == Direction::Inbound;
    let reporter = match inbound {
        true => Reporter::Destination,
        false => Reporter::Source,
    };
    let grpc = is_grpc(head);
    let kind = if grpc { Kind::Grpc } else { Kind::Http };
    let mut record = Record::new(reporter, kind, request.started);
    let since = |moment: Option<Instant>| -> Option<Duration> {
        moment.map(|moment| moment.saturating_duration_since(request.moments.start))
    };
    record.timings = Timings {
        request_received: since(request.moments.received),
        upstream_sent: since(request.moments.sent),
        response_started: since(request.moments.answered),
        total: request.moments.start.elapsed(),
    };
    record.protocol = head.version.as_str();
    record.request = &asked;
    record.response = match &answered {
        Some(answered) => answered,
        None => &NoFields,
    };
    record.status = match request.verdict.reason {
        // Broken off before a response could be given.
        Some(reason) if reason.status() == 0 && !request.responded => 0,
        _ => response.map_or(0, |response| response.status),
    };
    record.grpc_status = match grpc {
        true => request.grpc_status.or_else(|| {
            let status = response?.headers.text(Known::GrpcStatus)?;
            status.parse().ok()
        }),
        false => None,
    };
    record.grpc_messages = request.messages();
    record.flags = request.verdict.flags;
    record.reason = request.verdict.reason;
    record.resource = request.verdict.resource.as_deref();
    record.upstream_failure = request.verdict.cause.as_deref();
    record.bytes_received = request.received;
    record.bytes_sent = request.sent;
    record.attempts = request.attempts;
    record.route = request
        .selected
        .map(|found| &*found.route.name)
        .filter(|name| !name.is_empty());
    let cluster = cluster(request);
    record.cluster = cluster.map(|cluster| &*cluster.config.name);
    record.upstream_host = request.upstream_host;
    record.upstream_local = request.upstream_local;
    record.downstream_local = Some(connection.destination);
    record.downstream_remote = Some(connection.peer);
    if request.sender.remote != connection.peer.ip() {
        record.downstream_remote = Some((request.sender.remote, 0).into());
    }
    record.downstream_direct = Some(connection.peer);
    record.server_name = Some(&*connection.caller.sni).filter(|name| !name.is_empty());
    let principals = connection.caller.principals.as_deref().unwrap_or_default();
    record.peer_uri_san = principals
        .iter()
        .map(String::as_str)
        .find(|name| name.contains("://"));
    record.tls_version = connection.tls.as_ref().map(|tls| tls.version);
    parties(request, cluster, &mut record);
    record.span = request.span.as_ref();
    record.connection_id = connection.id;
    record.hostname = Some(&request.worker().shared.node);
    then(&record)
}

fn cluster<'r>(request: &'r Request<'_>) -> Option<&'r Arc<Cluster>> {
    request
        .cluster_name()
        .and_then(|name| request.view.clusters.get(name))
}

/// Who called whom, as labels say it.
fn parties<'r>(
    request: &'r Request<'_>,
    cluster: Option<&'r Arc<Cluster>>,
    record: &mut Record<'r>,
) {
    let connection = request.connection;
    let inbound = connection.direction == Direction::Inbound;
    let own = request.worker().shared.workload.as_deref();
    let own = own.unwrap_or(unknown_workload());
    let other = request.peer.as_deref().unwrap_or(unknown_workload());
    (record.source, record.destination) = match inbound {
        true => (other, own),
        false => (own, other),
    };
    record.service = match &connection.refusal {
        Some(refusal) if refusal.reason == Reason::NotRegistered => black_hole(),
        _ => cluster
            .and_then(|cluster| cluster.service.as_ref())
            .unwrap_or(unknown_service()),
    };
    record.security = match (inbound, connection.caller.principals.is_some()) {
        (true, true) => Security::MutualTls,
        (true, false) => Security::None,
        (false, _) => Security::Unknown,
    };
}
