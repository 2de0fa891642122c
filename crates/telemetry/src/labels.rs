//! Istio's metric labels: a row each, from the record to the value. A new label is a new row, nothing else.

use std::borrow::Cow;

use crate::record::{Kind, Record, Reporter, Security, Service, Workload};

/// Where a label's value comes from. The kinds differ in how a label set is looked up: workloads and services bring a
/// hash of their contents, what varies per request brings a small number that is equal only when the value is.
#[derive(Clone, Copy)]
pub enum From {
    Source(fn(&Workload) -> &str),
    Destination(fn(&Workload) -> &str),
    Service(fn(&Service) -> &str),
    Record {
        value: for<'a> fn(&'a Record<'_>) -> Cow<'a, str>,
        number: fn(&Record<'_>) -> u64,
    },
}

/// Which metrics carry the label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    All,
    /// HTTP and gRPC only.
    Requests,
}

pub struct Label {
    pub name: &'static str,
    pub on: On,
    pub from: From,
}

const fn all(name: &'static str, from: From) -> Label {
    Label {
        name,
        on: On::All,
        from,
    }
}

const fn requests(name: &'static str, from: From) -> Label {
    Label {
        name,
        on: On::Requests,
        from,
    }
}

/// In the order in which they are printed, which is Istio's.
pub static LABELS: &[Label] = &[
    all(
        "reporter",
        From::Record {
            value: |r| reporter(r.reporter).into(),
            number: |r| r.reporter as u64,
        },
    ),
    all("source_workload", From::Source(|w| &w.name)),
    all(
        "source_canonical_service",
        From::Source(|w| &w.canonical_service),
    ),
    all(
        "source_canonical_revision",
        From::Source(|w| latest(&w.canonical_revision)),
    ),
    all("source_workload_namespace", From::Source(|w| &w.namespace)),
    all("source_principal", From::Source(|w| &w.principal)),
    all("source_app", From::Source(|w| &w.app)),
    all("source_version", From::Source(|w| &w.version)),
    all("source_cluster", From::Source(|w| &w.cluster)),
    all("destination_workload", From::Destination(|w| &w.name)),
    all(
        "destination_workload_namespace",
        From::Destination(|w| &w.namespace),
    ),
    all("destination_principal", From::Destination(|w| &w.principal)),
    all("destination_app", From::Destination(|w| &w.app)),
    all("destination_version", From::Destination(|w| &w.version)),
    all("destination_service", From::Service(|s| &s.host)),
    all(
        "destination_canonical_service",
        From::Destination(|w| &w.canonical_service),
    ),
    all(
        "destination_canonical_revision",
        From::Destination(|w| latest(&w.canonical_revision)),
    ),
    all("destination_service_name", From::Service(|s| &s.name)),
    all(
        "destination_service_namespace",
        From::Service(|s| &s.namespace),
    ),
    all("destination_cluster", From::Destination(|w| &w.cluster)),
    all(
        "request_protocol",
        From::Record {
            value: |r| protocol(r.kind).into(),
            number: |r| r.kind as u64,
        },
    ),
    requests(
        "response_code",
        From::Record {
            value: |r| r.status.to_string().into(),
            number: |r| u64::from(r.status),
        },
    ),
    requests(
        "grpc_response_status",
        From::Record {
            value: |r| {
                r.grpc_status
                    .map(|s| s.to_string())
                    .unwrap_or_default()
                    .into()
            },
            number: |r| r.grpc_status.map_or(u64::MAX, u64::from),
        },
    ),
    all(
        "response_flags",
        From::Record {
            value: |r| r.flags.to_string().into(),
            number: flag_bits,
        },
    ),
    all(
        "connection_security_policy",
        From::Record {
            value: |r| security(r.security).into(),
            number: |r| r.security as u64,
        },
    ),
];

/// What a label says when its value is not known. `grpc_response_status` alone is empty then, as Istio has it.
pub const UNKNOWN: &str = "unknown";

/// The label's value for a record, `unknown` filled in.
pub fn value<'a>(label: &Label, record: &'a Record<'_>) -> Cow<'a, str> {
    let text = |s: &'a str| {
        if s.is_empty() {
            UNKNOWN.into()
        } else {
            s.into()
        }
    };
    match label.from {
        From::Source(of) => text(of(record.source)),
        From::Destination(of) => text(of(record.destination)),
        From::Service(of) => text(of(record.service)),
        From::Record { value, .. } => value(record),
    }
}

fn reporter(reporter: Reporter) -> &'static str {
    match reporter {
        Reporter::Source => "source",
        Reporter::Destination => "destination",
        Reporter::Waypoint => "waypoint",
    }
}

fn protocol(kind: Kind) -> &'static str {
    match kind {
        Kind::Http => "http",
        Kind::Grpc => "grpc",
        Kind::Tcp => "tcp",
    }
}

fn security(security: Security) -> &'static str {
    match security {
        Security::MutualTls => "mutual_tls",
        Security::None => "none",
        Security::Unknown => UNKNOWN,
    }
}

/// A workload without a version is of revision `latest`.
fn latest(revision: &str) -> &str {
    if revision.is_empty() {
        "latest"
    } else {
        revision
    }
}

fn flag_bits(record: &Record<'_>) -> u64 {
    record
        .flags
        .iter()
        .fold(0, |bits, flag| bits | 1 << flag as u64)
}
