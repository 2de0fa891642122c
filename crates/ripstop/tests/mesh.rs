//! The binary itself, on real meshes of real programs, as root and as an ordinary user.
//!
//! Each mesh has a state folder and a slice of the loopback of its own, so these tests run at once.

#[path = "mesh/bench.rs"]
mod bench;
#[path = "mesh/dashboard.rs"]
mod dashboard;
#[path = "mesh/lifetime.rs"]
mod lifetime;
#[path = "mesh/live.rs"]
mod live;
#[path = "mesh/observed.rs"]
mod observed;
#[path = "mesh/orders.rs"]
mod orders;
#[path = "mesh/refusals.rs"]
mod refusals;
#[path = "mesh/upgrade.rs"]
mod upgrade;
