//! Each in turn, by weight.

use std::sync::Arc;

use super::edf::Schedule;
use super::{Ask, Balancer, Draw, Member};

#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    next: usize,
    /// Only where weights differ.
    schedule: Option<Schedule>,
}

/// Whether some member weighs more than another.
pub(super) fn is_weighted(members: &[Arc<Member>]) -> bool {
    let mut weights = members.iter().map(|member| member.endpoint.weight);
    let first = weights.next();
    weights.any(|weight| Some(weight) != first)
}

impl Balancer for RoundRobin {
    fn adopt(&mut self, members: &[Arc<Member>], draw: Draw<'_>) {
        self.next = draw() as usize;
        self.schedule = is_weighted(members)
            .then(|| Schedule::new(members.iter().map(|member| member.weight()), draw));
    }

    fn pick(&mut self, members: &[Arc<Member>], _: &mut Ask<'_>) -> Option<usize> {
        match &mut self.schedule {
            Some(schedule) => schedule.next(|index| weight(members, index)),
            None => {
                self.next = self.next.wrapping_add(1);
                self.next.checked_rem(members.len())
            }
        }
    }
}

pub(super) fn weight(members: &[Arc<Member>], index: usize) -> f64 {
    members.get(index).map_or(1.0, |member| member.weight())
}
