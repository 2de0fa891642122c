//! A certificate's validity and what became of renewing it → when to act next, and what to report.
//!
//! Renewal starts at half of the life, spread by jitter so that replicas do not ask at once; failures back off; what is
//! still not renewed at 50, 75 and 90 % is reported once each (R6.3).

use std::time::{Duration, SystemTime};

const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Share of a certificate's life that passed without renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Overdue {
    Half,
    ThreeQuarters,
    NineTenths,
    Expired,
}

impl Overdue {
    pub fn as_str(self) -> &'static str {
        match self {
            Overdue::Half => "50%",
            Overdue::ThreeQuarters => "75%",
            Overdue::NineTenths => "90%",
            Overdue::Expired => "expired",
        }
    }

    fn at(life: f64) -> Option<Overdue> {
        Some(match life {
            l if l >= 1.0 => Overdue::Expired,
            l if l >= 0.9 => Overdue::NineTenths,
            l if l >= 0.75 => Overdue::ThreeQuarters,
            // A little later than renewal itself may start, so that a healthy renewal is never reported.
            l if l >= 0.56 => Overdue::Half,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do until then.
    Wait(SystemTime),
    Renew,
}

/// One certificate's schedule.
#[derive(Debug, Clone)]
pub struct Schedule {
    not_before: SystemTime,
    not_after: SystemTime,
    next: SystemTime,
    failures: u32,
    reported: Option<Overdue>,
}

impl Schedule {
    /// For a certificate obtained at `issued` that ends at `not_after`. `jitter` in 0..1 places the renewal between 45
    /// and 55 % of the life.
    pub fn new(issued: SystemTime, not_after: SystemTime, jitter: f64) -> Schedule {
        let life = not_after.duration_since(issued).unwrap_or_default();
        let share = 0.45 + 0.1 * jitter.clamp(0.0, 1.0);
        Schedule {
            not_before: issued,
            not_after,
            next: issued + life.mul_f64(share),
            failures: 0,
            reported: None,
        }
    }

    pub fn poll(&self, now: SystemTime) -> Step {
        if now >= self.next {
            Step::Renew
        } else {
            Step::Wait(self.next)
        }
    }

    /// A renewal failed: try again after an exponential back-off of 1 s to 60 s, halved at most by `jitter` in 0..1, and
    /// never later than a tenth of what is left.
    pub fn failed(&mut self, now: SystemTime, jitter: f64) {
        let doubled = BACKOFF_FIRST
            .saturating_mul(1 << self.failures.min(6))
            .min(BACKOFF_MAX);
        let left = self.not_after.duration_since(now).unwrap_or_default();
        let wait = doubled.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0));
        let cap = (left / 10).max(Duration::from_millis(200));
        self.failures = self.failures.saturating_add(1);
        self.next = now + wait.min(if left.is_zero() { BACKOFF_MAX } else { cap });
    }

    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// A threshold passed since the last call, the gravest only.
    pub fn report(&mut self, now: SystemTime) -> Option<Overdue> {
        let life = self
            .not_after
            .duration_since(self.not_before)
            .unwrap_or_default();
        let age = now.duration_since(self.not_before).unwrap_or_default();
        let share = if life.is_zero() {
            1.0
        } else {
            age.as_secs_f64() / life.as_secs_f64()
        };
        let due = Overdue::at(share).filter(|due| self.reported < Some(*due))?;
        self.reported = Some(due);
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    #[test]
    fn renews_around_half_of_the_life() {
        for (jitter, want) in [(0.0, 450), (0.5, 500), (1.0, 550)] {
            let schedule = Schedule::new(at(0), at(1000), jitter);
            assert_eq!(
                schedule.poll(at(want - 2)),
                Step::Wait(schedule.next),
                "{jitter}"
            );
            assert_eq!(schedule.poll(at(want + 1)), Step::Renew, "{jitter}");
        }
    }

    #[test]
    fn failures_back_off_but_stay_within_what_is_left() {
        let mut schedule = Schedule::new(at(0), at(1000), 0.5);
        let mut waits = Vec::new();
        for _ in 0..9 {
            schedule.failed(at(500), 1.0);
            waits.push(schedule.next.duration_since(at(500)).unwrap().as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 50, 50, 50]);
        schedule.failed(at(990), 1.0);
        assert_eq!(schedule.next, at(991));
        schedule.failed(at(2000), 1.0);
        assert_eq!(schedule.next, at(2060), "after expiry it keeps trying");
        assert_eq!(schedule.failures(), 11);
    }

    #[test]
    fn reports_each_threshold_once() {
        let mut schedule = Schedule::new(at(0), at(1000), 0.5);
        let seen: Vec<_> = [100, 540, 570, 600, 760, 765, 905, 1001, 1002]
            .into_iter()
            .filter_map(|s| schedule.report(at(s)))
            .collect();
        assert_eq!(
            seen,
            [
                Overdue::Half,
                Overdue::ThreeQuarters,
                Overdue::NineTenths,
                Overdue::Expired
            ]
        );
    }
}
