//! An ordinary command in, a workload of the mesh out: namespaces, capture, DNS, UDP, supervision.
//!
//! Three processes make one workload replica:
//!
//! ```text
//! supervisor  (inside `ripstop run` and `ripstop up`; supervise.rs)
//!  ├─ keeper  (`ripstop keeper`; keeper.rs): builds the namespaces, owns every socket born inside, is pid 1 there
//!  │   └─ app (never pid 1; its own user namespace, without power over the network it lives in)
//!  └─ sidecar (`ripstop proxy --sidecar`; sidecar.rs): lives in the host's namespaces, holds sockets of the inside
//! ```
//!
//! | module | input → output |
//! |---|---|
//! | [`workload`] | what the caller wants: addresses, ports, command, user, masks |
//! | [`supervise`] | a `Spec` and two programs → a running workload, its signals and its exit |
//! | [`keeper`] | the hidden subcommand's main |
//! | [`sidecar`] | two inherited descriptors → listeners, DNS and UDP sockets, [`seam::AppSockets`] |
//! | [`capture`] | a `Spec` → nftables rules |
//! | [`dns`] | queries and [`seam::Names`] → answers |
//! | [`udp`] | datagrams to anywhere → bounded flows |
//! | [`trace`] | hooks in runtimes, and their table → what causes an outbound request |
//! | [`host_ports`] | connections to declared ports of loopback → the host's loopback |
//!
//! Who dies takes whom along: the end of the keeper ends its PID namespace, so nothing the app forked survives it; the
//! end of the supervisor closes the keeper's and the sidecar's lifelines, and both exit; a sidecar that dies is started
//! again and the keeper hands the same sockets over, so that connections wait in the backlog meanwhile.
//!
//! What the app cannot do and what is only cooperative is told in `docs/capture.md`, and tried in `tests/namespaces`.
//!
//! [`seam::AppSockets`]: ripstop_model::seam::AppSockets
//! [`seam::Names`]: ripstop_model::seam::Names

pub mod capture;
mod descriptors;
pub mod dns;
pub mod host_ports;
pub mod keeper;
mod link;
mod netlink;
pub mod sidecar;
pub mod supervise;
pub mod trace;
pub mod udp;
pub mod workload;
