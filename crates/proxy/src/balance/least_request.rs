//! The least busy of a few drawn at random (power of two choices); with weights, the order of weight over requests
//! under way. Both as Envoy does, with its `active_request_bias` of 1. Requests are counted over all workers.

use std::sync::Arc;

use super::edf::Schedule;
use super::random::below;
use super::round_robin::{is_weighted, weight};
use super::{Ask, Balancer, Draw, Member};

#[derive(Debug)]
pub(super) struct LeastRequest {
    choices: u32,
    /// Only where weights differ.
    schedule: Option<Schedule>,
}

impl LeastRequest {
    /// Fewer than two choices would be no choice.
    pub(super) fn new(choices: u32) -> LeastRequest {
        LeastRequest {
            choices: choices.max(2),
            schedule: None,
        }
    }
}

impl Balancer for LeastRequest {
    fn adopt(&mut self, members: &[Arc<Member>], draw: Draw<'_>) {
        self.schedule = is_weighted(members)
            .then(|| Schedule::new(members.iter().map(|member| member.weight()), draw));
    }

    fn pick(&mut self, members: &[Arc<Member>], ask: &mut Ask<'_>) -> Option<usize> {
        let active = |index: usize| members.get(index).map_or(0, |member| member.load.active());
        if let Some(schedule) = &mut self.schedule {
            return schedule.next(|index| weight(members, index) / f64::from(active(index) + 1));
        }
        let mut best = below(members.len(), ask)?;
        for _ in 1..self.choices {
            let other = below(members.len(), ask)?;
            if active(other) < active(best) {
                best = other;
            }
        }
        Some(best)
    }
}
