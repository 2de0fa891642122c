//! Each in turn, by weight.

use std::sync::Arc;
use std::time::Duration;

use super::edf::Schedule;
use super::{Ask, Balancer, Draw, Member, Ramp};

#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    ramp: Ramp,
    next: usize,
    /// Only where weights differ.
    schedule: Option<Schedule>,
}

impl RoundRobin {
    pub(super) fn new(ramp: Ramp) -> RoundRobin {
        RoundRobin {
            ramp,
            ..RoundRobin::default()
        }
    }
}

/// The order of the members, where some member weighs more than another.
pub(super) fn schedule(
    members: &[Arc<Member>],
    ramp: &Ramp,
    now: Duration,
    draw: Draw<'_>,
) -> Option<Schedule> {
    let mut weights = members.iter().map(|member| member.endpoint.weight);
    let first = weights.next();
    let differ = weights.any(|weight| Some(weight) != first) || ramp.is_climbed(members, now);
    let weights = (0..members.len()).map(|index| ramp.weight(members, index, now));
    differ.then(|| Schedule::new(weights, draw))
}

impl Balancer for RoundRobin {
    fn adopt(&mut self, members: &[Arc<Member>], now: Duration, draw: Draw<'_>) {
        self.next = draw() as usize;
        self.schedule = schedule(members, &self.ramp, now, draw);
    }

    fn pick(&mut self, members: &[Arc<Member>], ask: &mut Ask<'_>) -> Option<usize> {
        match &mut self.schedule {
            Some(schedule) => schedule.next(|index| self.ramp.weight(members, index, ask.now)),
            None => {
                self.next = self.next.wrapping_add(1);
                self.next.checked_rem(members.len())
            }
        }
    }
}
