//! What members of the mesh tell each other of themselves: a workload in, a header between sidecars, a workload out.
//!
//! Told only over mTLS, believed only from a verified peer, and never shown to an application. It names what labels say;
//! who the peer is comes from its certificate alone.

use std::sync::Arc;

use ripstop_model::reason::Reason;
use ripstop_model::snapshot::endpoint::Workload;

use crate::balance::Member;
use crate::cluster::Cluster;
use crate::message::{RequestHead, ResponseHead};
use crate::tls::Transport;
use crate::worker::Worker;

/// `app=…;cluster=…;name=…;…`: keys in a fixed order, values without `;`.
pub const HEADER: &str = "x-ripstop-peer";
/// Why a proxy answered in place of the application.
pub const REASON: &str = "x-ripstop-reason";
/// Istio's own, in its own encoding: taken off, not read.
const FOREIGN: [&str; 2] = ["x-envoy-peer-metadata", "x-envoy-peer-metadata-id"];
/// Longer introductions are not read.
const LONGEST: usize = 1024;

/// The text by which a workload introduces itself.
pub fn introduction(workload: &Workload) -> String {
    let fields = [
        ("app", &workload.app),
        ("cluster", &workload.cluster),
        ("name", &workload.name),
        ("namespace", &workload.namespace),
        ("revision", &workload.canonical_revision),
        ("service", &workload.canonical_service),
        ("version", &workload.version),
    ];
    let told = fields
        .iter()
        .filter(|(_, value)| !value.is_empty() && !value.contains(';'));
    let parts: Vec<String> = told.map(|(key, value)| format!("{key}={value}")).collect();
    parts.join(";")
}

/// What a peer told of itself. Unknown keys are of a later version and ignored.
pub fn read(text: &str) -> Option<Workload> {
    if text.len() > LONGEST {
        return None;
    }
    let mut workload = Workload::default();
    for (key, value) in text.split(';').filter_map(|part| part.split_once('=')) {
        let field = match key {
            "app" => &mut workload.app,
            "cluster" => &mut workload.cluster,
            "name" => &mut workload.name,
            "namespace" => &mut workload.namespace,
            "revision" => &mut workload.canonical_revision,
            "service" => &mut workload.canonical_service,
            "version" => &mut workload.version,
            _ => continue,
        };
        *field = Arc::from(value);
    }
    Some(workload)
}

/// Introduces this proxy's workload to a member that is reached over the mesh's TLS.
pub(crate) fn introduce(
    worker: &Worker,
    cluster: &Cluster,
    member: &Member,
    head: &mut RequestHead,
) {
    if let Some(introduction) = &worker.shared.introduction {
        let transport = cluster.transports.of(&member.endpoint);
        match matches!(transport, Transport::Tls(tls) if tls.is_mesh()) {
            true => head.headers.set_named(HEADER, &**introduction),
            false => head.headers.remove_named(HEADER),
        };
    }
}

/// Why a member that is reached over the mesh's TLS has no answer: the word of its sidecar, which says so in place of the
/// application. Whoever asked may then try another member, as if it had met the failure itself.
pub(crate) fn failure(
    worker: &Worker,
    cluster: &Cluster,
    member: &Member,
    response: &ResponseHead,
) -> Option<Reason> {
    const FAILURES: [Reason; 6] = [
        Reason::ConnectFailure,
        Reason::ConnectTimeout,
        Reason::UpstreamRefusedStream,
        Reason::UpstreamClosed,
        Reason::UpstreamClosedReused,
        Reason::UpstreamReset,
    ];
    // All of them are 503: what is answered well is not looked at.
    if response.status != 503 || worker.shared.introduction.is_none() {
        return None;
    }
    let told = response.headers.first_named(REASON)?;
    let transport = cluster.transports.of(&member.endpoint);
    if !matches!(transport, Transport::Tls(tls) if tls.is_mesh()) {
        return None;
    }
    FAILURES
        .into_iter()
        .find(|reason| reason.as_str().as_bytes() == told)
}

/// Takes the introduction off a request.
pub(crate) fn take(head: &mut RequestHead) -> Option<Workload> {
    let told = head.headers.first_named(HEADER);
    let told = told.and_then(|text| read(std::str::from_utf8(text).ok()?));
    head.headers.remove_named(HEADER);
    for name in FOREIGN {
        head.headers.remove_named(name);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_is_read() {
        let workload = Workload {
            name: "orders-v1".into(),
            namespace: "shop".into(),
            app: "orders".into(),
            version: "v1".into(),
            canonical_service: "orders".into(),
            ..Workload::default()
        };
        let text = introduction(&workload);
        assert_eq!(
            text,
            "app=orders;name=orders-v1;namespace=shop;service=orders;version=v1"
        );
        assert_eq!(read(&text), Some(workload));
        assert_eq!(read(&"x".repeat(2000)), None);
        assert_eq!(read("later=1;app=a").unwrap().app, "a".into());
    }
}
