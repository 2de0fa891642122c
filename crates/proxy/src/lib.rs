//! The data plane.

pub mod discovery;
