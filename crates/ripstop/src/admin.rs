//! Addresses → the admin pages of a proxy process on them.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::Context;
use ripstop_proxy::Shared;
use ripstop_proxy::admin::{self, Admin, Face, Levels};
use ripstop_wire::node::Node;

/// Serves until the answer is dropped. `is_static`: no control plane configures the proxy.
pub(crate) fn serve(
    shared: &Arc<Shared>,
    addresses: impl IntoIterator<Item = (SocketAddr, Face)>,
    mut node: Node,
    is_static: bool,
) -> anyhow::Result<Admin> {
    if node.user_agent.is_empty() {
        node.user_agent = "ripstop".to_owned();
        node.user_agent_version = env!("CARGO_PKG_VERSION").to_owned();
    }
    let mut listeners = Vec::new();
    for (address, face) in addresses {
        let listener = TcpListener::bind(address).with_context(|| {
            format!("the admin pages cannot listen on {address}: free it or choose another")
        })?;
        listeners.push((listener, face));
    }
    let levels = crate::log::levels().map(|levels| levels as Arc<dyn Levels>);
    admin::serve(admin::Options {
        shared: shared.clone(),
        listeners,
        levels,
        node,
        is_static,
    })
    .context("the admin pages cannot be served")
}
