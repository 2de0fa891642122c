//! The control plane: resources and registrations in, xDS out.
//!
//! ```text
//! source.rs    where configuration comes from → listings
//! store.rs     listings → resources in force, each with its standing
//! registry.rs  registrations, readiness, leases → workloads
//! view.rs      what compile reads: mesh, workloads, client, scope
//! compile.rs   view → Snapshot, pure
//! push.rs      Snapshot → what a proxy is sent; ADS sessions
//! status.rs    ACKs and NACKs → the standing of proxies and resources
//! ca.rs        the certificate authority
//! plane.rs     the moving parts behind one handle
//! api.rs       the HTTP/JSON API
//! serve.rs     sockets: xDS plain and TLS, the API's Unix socket, monitoring
//! state.rs     what survives a restart
//! ```

pub mod address;
pub mod api;
pub mod ca;
pub mod compile;
pub mod plane;
mod push;
pub mod registry;
mod serve;
pub mod settings;
pub mod source;
pub mod state;
pub mod status;
pub mod store;
pub mod view;

pub use serve::{Options, Running, SOCKET, StartError, start};
