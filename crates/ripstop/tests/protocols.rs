//! Real programs through two sidecars: on ports that name no protocol, under policies, and while things change.
//!
//! Each mesh has a state folder and a slice of the loopback of its own, so these tests run at once.

#[path = "protocols/detection.rs"]
mod detection;
#[path = "protocols/lab.rs"]
mod lab;
#[path = "protocols/losses.rs"]
mod losses;
#[path = "protocols/own.rs"]
mod own;
#[path = "protocols/policy.rs"]
mod policy;
#[path = "protocols/refused.rs"]
mod refused;
#[path = "protocols/servers.rs"]
mod servers;
