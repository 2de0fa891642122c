//! Which members are fit to serve: what they do, and what checks say, in → members taken out and let back in.
//!
//! [`outlier`] and the judgement of [`active`] are state machines without I/O or clock; here they meet the cluster they judge.

pub mod active;
pub mod outlier;

use std::time::Duration;

use ripstop_model::reason::Reason;

use crate::Shared;
use crate::balance::Member;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::headers::{Headers, Known};
use crate::message::ResponseHead;
use crate::stats::Usage;
use outlier::{Event, Report};

/// Takes in how an attempt on a member ended: a status (for gRPC the one its code stands for), or no response. `now` as
/// in [`crate::balance::Ask`].
pub fn attempted(cluster: &Cluster, member: &Member, ended: Result<u16, &Error>, now: Duration) {
    answered(member);
    judged(cluster, member, ended, now);
}

/// An attempt was made whose end is not known yet; [`judged`] is to follow.
pub fn answered(member: &Member) {
    Usage::add(&member.load.usage.requests);
}

/// See [`attempted`].
pub fn judged(cluster: &Cluster, member: &Member, ended: Result<u16, &Error>, now: Duration) {
    let usage = &member.load.usage;
    let report = match ended {
        Ok(status) => {
            if status >= 500 {
                Usage::add(&usage.errors);
            }
            Report::Status(status)
        }
        Err(error) => {
            cluster.stats.failed(error.kind);
            match error.kind {
                Reason::ConnectFailure | Reason::ConnectTimeout => {
                    Usage::add(&usage.connect_failures);
                }
                Reason::UpstreamTimeout | Reason::PerTryTimeout | Reason::PerTryIdleTimeout => {
                    Usage::add(&usage.timeouts);
                }
                _ => {}
            }
            if !is_members_fault(error.kind) {
                return;
            }
            Usage::add(&usage.errors);
            Report::LocalOrigin
        }
    };
    if let Some(detector) = &cluster.detector {
        let event = detector.report(&cluster.roster(), member, report, now);
        if let Some(event) = event {
            note(cluster, &event);
        }
    }
}

/// Of failures without a response: whether the member is to blame, and not the client, a limit or the mesh.
pub(crate) fn is_members_fault(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ConnectFailure
            | Reason::ConnectTimeout
            | Reason::TlsFailure
            | Reason::UpstreamReset
            | Reason::UpstreamClosed
            | Reason::UpstreamClosedMidResponse
            | Reason::UpstreamProtocol
            | Reason::UpstreamTimeout
            | Reason::PerTryTimeout
            | Reason::PerTryIdleTimeout
    )
}

/// The status that a response counts with: gRPC's, where the head has it, or the trailers that came with it.
pub fn status(response: &ResponseHead, trailers: Option<&Headers>) -> u16 {
    let grpc = grpc_status(&response.headers);
    match grpc.or_else(|| grpc_status(trailers?)) {
        Some(code) => status_of_grpc(code),
        None => response.status,
    }
}

/// What a head or trailers say of a gRPC call.
pub fn grpc_status(fields: &Headers) -> Option<u32> {
    fields.text(Known::GrpcStatus)?.parse().ok()
}

/// The HTTP status that a gRPC status stands for (Envoy's `Grpc::Utility::grpcToHttpStatus`).
pub fn status_of_grpc(code: u32) -> u16 {
    match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

fn note(cluster: &Cluster, event: &Event) {
    cluster.stats.outlier(event);
    let name = &cluster.config.name;
    match event {
        Event::Ejected {
            member,
            cause,
            duration,
        } => tracing::info!(cluster = %name, ?member, ?cause, ?duration, "ejected"),
        Event::Spared { member, cause } => {
            tracing::debug!(cluster = %name, ?member, ?cause, "not ejected: too many are out already");
        }
        Event::Returned { member } => tracing::info!(cluster = %name, ?member, "returned"),
    }
}

/// A member has passed an active health check.
pub(crate) fn passed(cluster: &Cluster, member: &Member) {
    if let Some(detector) = &cluster.detector
        && let Some(event) = detector.checked(&cluster.roster(), member)
    {
        note(cluster, &event);
    }
}

/// Judges a cluster's members once per interval, until it is dropped.
pub(crate) async fn judge(cluster: &Cluster, shared: &Shared) {
    let Some(detector) = &cluster.detector else {
        return;
    };
    // A zero interval in configuration must not spin.
    let mut rng = ripstop_telemetry::Rng::fresh();
    let interval = detector.interval().max(Duration::from_millis(1));
    loop {
        tokio::time::sleep(interval).await;
        for event in detector.tick(&cluster.roster(), shared.uptime(), &mut || rng.next_u64()) {
            note(cluster, &event);
        }
    }
}
