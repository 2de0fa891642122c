//! The least busy of a few drawn at random (power of two choices); with weights, the order of weight over requests
//! under way. Both as Envoy does, with its `active_request_bias` of 1. Requests are counted over all workers.

use std::sync::Arc;
use std::time::Duration;

use super::edf::Schedule;
use super::random::below;
use super::round_robin::schedule;
use super::{Ask, Balancer, Draw, Member, Ramp};

#[derive(Debug)]
pub(super) struct LeastRequest {
    choices: u32,
    ramp: Ramp,
    /// Only where weights differ.
    schedule: Option<Schedule>,
}

impl LeastRequest {
    /// Fewer than two choices would be no choice.
    pub(super) fn new(choices: u32, ramp: Ramp) -> LeastRequest {
        LeastRequest {
            choices: choices.max(2),
            ramp,
            schedule: None,
        }
    }
}

impl Balancer for LeastRequest {
    fn adopt(&mut self, members: &[Arc<Member>], now: Duration, draw: Draw<'_>) {
        self.schedule = schedule(members, &self.ramp, now, draw);
    }

    fn pick(&mut self, members: &[Arc<Member>], ask: &mut Ask<'_>) -> Option<usize> {
        let active = |index: usize| members.get(index).map_or(0, |member| member.load.active());
        if let Some(schedule) = &mut self.schedule {
            return schedule.next(|index| {
                self.ramp.weight(members, index, ask.now) / f64::from(active(index) + 1)
            });
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
