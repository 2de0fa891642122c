//! Any member, each as likely. Weights do not count, as in Envoy.

use std::sync::Arc;
use std::time::Duration;

use super::{Ask, Balancer, Draw, Member};

#[derive(Debug)]
pub(super) struct Random;

impl Balancer for Random {
    fn adopt(&mut self, _: &[Arc<Member>], _: Duration, _: Draw<'_>) {}

    fn pick(&mut self, members: &[Arc<Member>], ask: &mut Ask<'_>) -> Option<usize> {
        below(members.len(), ask)
    }
}

/// A uniformly random index.
pub(super) fn below(count: usize, ask: &mut Ask<'_>) -> Option<usize> {
    ((ask.draw)() as usize).checked_rem(count)
}
