//! Injected faults (`extensions.filters.http.fault.v3.HTTPFault`).

use std::time::Duration;

use super::Fraction;
use super::matching::HeaderMatch;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fault {
    pub delay: Option<(Fraction, Delay)>,
    pub abort: Option<(Fraction, Abort)>,
    /// Only requests that match all of these.
    pub headers: Vec<HeaderMatch>,
    /// Only requests routed to this cluster.
    pub upstream_cluster: Option<String>,
    /// More active faults than this are not injected.
    pub max_active: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Delay {
    Fixed(Duration),
    /// `x-envoy-fault-delay-request` in milliseconds.
    Header,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Abort {
    Http(u16),
    Grpc(u32),
    /// `x-envoy-fault-abort-request`, `x-envoy-fault-abort-grpc-request`.
    Header,
}
