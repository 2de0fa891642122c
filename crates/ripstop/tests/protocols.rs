//! Real programs through two sidecars: on ports that name no protocol, under policies, and while things change.
//!
//! Each mesh has a state folder and a slice of the loopback of its own, so these tests run at once.

#[path = "protocols/detection.rs"]
mod detection;
#[path = "protocols/lab.rs"]
mod lab;
