//! The cheaper of two drawn at random, where cost is latency times requests under way (Finagle's Peak EWMA, as in
//! Linkerd): a worse latency counts at once, a better one only as the old decays.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::random::below;
use super::{Ask, Balancer, Draw, Load, Member, Outcome};

/// What is assumed of a member that nothing is known of.
const UNKNOWN: Duration = Duration::from_millis(10);

/// What a failure counts as at least.
const FAILED: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct PeakEwma {
    /// The time in which an old latency loses 63 % of its say.
    decay: Duration,
}

impl PeakEwma {
    pub(super) fn new(decay: Duration) -> PeakEwma {
        PeakEwma {
            decay: decay.max(Duration::from_millis(1)),
        }
    }

    /// The part of an old latency that is left at `now`.
    fn left(&self, load: &Load, now: Duration) -> f64 {
        let fed = Duration::from_nanos(load.fed.load(Ordering::Relaxed));
        let age = now.saturating_sub(fed).as_secs_f64();
        (-age / self.decay.as_secs_f64()).exp()
    }

    fn cost(&self, member: Option<&Arc<Member>>, now: Duration) -> f64 {
        let Some(member) = member else {
            return f64::INFINITY;
        };
        let latency = match member.load.ewma.load(Ordering::Relaxed) {
            0 => UNKNOWN.as_nanos() as f64,
            // Who has not been asked for long is worth a try.
            known => known as f64 * self.left(&member.load, now),
        };
        latency * f64::from(member.load.active() + 1) / member.weight()
    }
}

impl Balancer for PeakEwma {
    fn adopt(&mut self, _: &[Arc<Member>], _: Duration, _: Draw<'_>) {}

    fn pick(&mut self, members: &[Arc<Member>], ask: &mut Ask<'_>) -> Option<usize> {
        let (one, other) = (below(members.len(), ask)?, below(members.len(), ask)?);
        let cost = |index: usize| self.cost(members.get(index), ask.now);
        Some(if cost(other) < cost(one) { other } else { one })
    }

    fn done(&self, member: &Member, outcome: &Outcome) {
        let load = &member.load;
        // Who asks to be left alone for a second is as good as one who takes a second, and to fail fast recommends nobody.
        let failed = if outcome.failed {
            FAILED
        } else {
            Duration::ZERO
        };
        let sample = outcome.latency.max(outcome.wait).max(failed).as_nanos() as f64;
        let old = load.ewma.load(Ordering::Relaxed) as f64;
        let left = self.left(load, outcome.now);
        let fresh = match sample > old {
            true => sample,
            false => old * left + sample * (1.0 - left),
        };
        load.ewma.store((fresh as u64).max(1), Ordering::Relaxed);
        let now = u64::try_from(outcome.now.as_nanos()).unwrap_or(u64::MAX);
        load.fed.store(now, Ordering::Relaxed);
    }
}
