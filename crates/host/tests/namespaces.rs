//! Real programs in real namespaces, as root and as an ordinary user, driven through `examples/confine.rs`.
//!
//! All traffic stays inside the namespaces, or on the host's loopback.

#[path = "namespaces/bench.rs"]
mod bench;
#[path = "namespaces/capture.rs"]
mod capture;
#[path = "namespaces/confinement.rs"]
mod confinement;
#[path = "namespaces/lifetime.rs"]
mod lifetime;
#[path = "namespaces/names.rs"]
mod names;
