//! The sidecar's admin and metrics addresses → the proxy's pages on them.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context;
use ripstop_proxy::Running;
use ripstop_proxy::admin::{self, Admin, Face};
use ripstop_wire::node::Node;

use super::Config;

/// Serves until the answer is dropped.
pub(super) fn serve(config: &Config, running: &Running, node: Node) -> anyhow::Result<Admin> {
    let metrics = config
        .metrics
        .iter()
        .map(|address| (*address, Face::Metrics));
    let faces = metrics.chain([(config.admin, Face::Admin)]);
    admin::serve(admin::Options {
        shared: running.shared.clone(),
        listeners: faces
            .map(|(address, face)| Ok((bind(address)?, face)))
            .collect::<anyhow::Result<_>>()?,
        levels: None,
        node,
        is_static: false,
    })
    .context("the admin pages cannot be served")
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .with_context(|| format!("cannot serve metrics on {address}: stop what listens there"))
}
