//! A request and the chain's policies in → it goes on, or a reply. Each stage is one file and one row of [`STAGES`].
//!
//! The order is the configuration's; what `compile` emits has the order of this table, for the reasons it gives.

pub mod authz;
pub mod cors;
pub mod fault;
pub mod headers;

use std::sync::Arc;

use ripstop_model::authz::Judge;
use ripstop_model::snapshot::Name;
use ripstop_model::snapshot::fault::Fault;
use ripstop_model::snapshot::http::HttpFilter;

use crate::http::Request;
use crate::message::RequestHead;
use crate::reply::Reply;

/// A stage with what it needs, compiled.
#[derive(Debug)]
pub enum Stage {
    PeerMetadata,
    Authz { filter: Name, judge: Judge },
    GrpcStats,
    Fault(Arc<Fault>),
    Cors,
}

/// The stages in the order that `compile` emits, and why each stands where it does.
pub const STAGES: &[(&str, &str)] = &[
    (
        "peer_metadata",
        "first: its headers are told to nobody behind it",
    ),
    (
        "authz",
        "before everything that costs anything, and before a fault could tell that the service exists",
    ),
    ("grpc_stats", "counts only what was let in"),
    (
        "fault",
        "as if the upstream misbehaved, so behind whatever may refuse",
    ),
    (
        "cors",
        "last: a preflight that is answered here never reaches the application",
    ),
];

impl Stage {
    /// `None` for the router, which is no stage: it is the rest of the spine.
    pub fn new(filter: &HttpFilter) -> Option<Stage> {
        Some(match filter {
            HttpFilter::PeerMetadata => Stage::PeerMetadata,
            HttpFilter::Authz(filter) => Stage::Authz {
                filter: filter.name.clone(),
                judge: Judge::new(std::slice::from_ref(filter)),
            },
            HttpFilter::GrpcStats => Stage::GrpcStats,
            HttpFilter::Fault(fault) => Stage::Fault(fault.clone()),
            HttpFilter::Cors => Stage::Cors,
            HttpFilter::Router(_) => return None,
        })
    }
}

/// Runs the stages in order; the first that refuses ends the request.
pub async fn run(
    stages: &[Stage],
    request: &mut Request<'_>,
    head: &mut RequestHead,
) -> Result<(), Box<Reply>> {
    for stage in stages {
        match stage {
            Stage::PeerMetadata => request.read_peer(head),
            Stage::Authz { filter, judge } => authz::enforce(filter, judge, request, head)?,
            Stage::GrpcStats => {}
            Stage::Fault(fault) => fault::inject(fault, request, head).await?,
            Stage::Cors => cors::answer(request, head)?,
        }
    }
    Ok(())
}
