//! Strictness end to end: what a peer sends, right or wrong → what the other side gets to see of it, as tables.
//!
//! The tables of the HTTP/1 codec itself are beside it (`http1/tests`); here the whole proxy is between a client and an
//! upstream that records every byte.

mod requests;
mod responses;
mod tunnels;

use ripstop_testkit::upstream::Upstream;

/// What upstreams got in all.
fn bytes(upstream: &Upstream) -> usize {
    upstream.received().iter().map(Vec::len).sum()
}
