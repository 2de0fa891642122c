//! Outlier ejection: how requests ended in, members taken out and let back in. Follows Envoy's outlier detection, with
//! two rules of our own: the share that may be ejected is rounded down, and (`keep_last`) the last usable member stays
//! (R20.1).
//!
//! Reports cost atomic operations only; the lock is taken when a threshold is reached and once per interval.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ripstop_model::snapshot::cluster::Outlier;
use ripstop_model::snapshot::endpoint::Target;

use crate::balance::{Bar, Draw, Member, Roster};

/// How a request to a member ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// A response head with this status (gRPC: the status its code maps to).
    Status(u16),
    /// No response: the connection failed, was reset or timed out on our side.
    LocalOrigin,
}

/// Why a member was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    Consecutive5xx,
    ConsecutiveGateway,
    ConsecutiveLocalOrigin,
    SuccessRate,
    FailurePercentage,
}

/// What happened, for logs and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Ejected {
        member: Target,
        cause: Cause,
        /// The time it stays out, at least.
        duration: Duration,
    },
    /// A threshold was reached, but ejecting would have taken too many, or the last.
    Spared {
        member: Target,
        cause: Cause,
    },
    Returned {
        member: Target,
    },
}

/// What is counted of one address; part of its load, so that it outlives rosters.
#[derive(Debug, Default)]
pub struct Counters {
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    consecutive_local: AtomicU32,
    /// Of this interval.
    requests: AtomicU32,
    successes: AtomicU32,
}

impl Counters {
    fn reset_consecutive(&self) {
        for counter in [
            &self.consecutive_5xx,
            &self.consecutive_gateway,
            &self.consecutive_local,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// Counts one more; whether that makes the threshold exactly, so that one of many workers acts on it.
fn reaches(counter: &AtomicU32, threshold: Option<u32>) -> bool {
    let now = counter.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    threshold.is_some_and(|threshold| threshold > 0 && now == threshold)
}

/// What is remembered of a member that was ejected at least once lately.
#[derive(Debug, Default)]
struct Record {
    /// When it may come back; `None` while it serves.
    until: Option<Duration>,
    /// The base time is multiplied by this; one less for every interval without an ejection.
    times: u32,
}

/// The outlier detection of one cluster, shared by all workers.
#[derive(Debug)]
pub struct Detector {
    config: Outlier,
    records: Mutex<HashMap<Target, Record>>,
}

impl Detector {
    pub fn new(config: Outlier) -> Detector {
        Detector {
            config,
            records: Mutex::default(),
        }
    }

    /// How often [`Detector::tick`] wants to be called.
    pub fn interval(&self) -> Duration {
        self.config.interval
    }

    /// Takes in how a request ended; `now` as in [`crate::balance::Ask`].
    pub fn report(
        &self,
        roster: &Roster,
        member: &Member,
        report: Report,
        now: Duration,
    ) -> Option<Event> {
        let cause = self.count(&member.load.health, report)?;
        member.load.health.reset_consecutive();
        self.eject(roster, member, cause, now)
    }

    fn count(&self, counters: &Counters, report: Report) -> Option<Cause> {
        let status = match report {
            Report::LocalOrigin if self.config.split_local_origin => {
                let threshold = self.config.consecutive_local_origin;
                return reaches(&counters.consecutive_local, threshold)
                    .then_some(Cause::ConsecutiveLocalOrigin);
            }
            // Not split: as if the member had answered 503.
            Report::LocalOrigin => 503,
            Report::Status(status) => status,
        };
        counters.consecutive_local.store(0, Ordering::Relaxed);
        counters.requests.fetch_add(1, Ordering::Relaxed);
        if !(500..600).contains(&status) {
            counters.successes.fetch_add(1, Ordering::Relaxed);
            counters.consecutive_5xx.store(0, Ordering::Relaxed);
            counters.consecutive_gateway.store(0, Ordering::Relaxed);
            return None;
        }
        let gateway = match status {
            502..=504 => reaches(
                &counters.consecutive_gateway,
                self.config.consecutive_gateway,
            ),
            _ => {
                counters.consecutive_gateway.store(0, Ordering::Relaxed);
                false
            }
        };
        let any = reaches(&counters.consecutive_5xx, self.config.consecutive_5xx);
        match (gateway, any) {
            (true, _) => Some(Cause::ConsecutiveGateway),
            (_, true) => Some(Cause::Consecutive5xx),
            _ => None,
        }
    }

    /// `None` if it is out already: in a panic ejected members serve too.
    fn eject(
        &self,
        roster: &Roster,
        member: &Member,
        cause: Cause,
        now: Duration,
    ) -> Option<Event> {
        let target = &member.endpoint.address;
        let spared = Event::Spared {
            member: target.clone(),
            cause,
        };
        // One ejection at a time: the limit is exact whoever reports.
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut all, mut out, mut others) = (0u64, 0u64, 0u64);
        for other in roster.members() {
            all += 1;
            out += u64::from(other.load.is_barred(Bar::Ejected));
            others += u64::from(other.is_usable() && other.endpoint.address != *target);
        }
        let allowed = all * u64::from(self.config.max_ejection_percent.min(100)) / 100;
        let is_last = self.config.keep_last && others == 0;
        if member.load.is_barred(Bar::Ejected) {
            return None;
        }
        if out >= allowed || is_last {
            return Some(spared);
        }
        let record = records.entry(target.clone()).or_default();
        record.times = record.times.saturating_add(1);
        let longest = self.config.max_ejection.max(self.config.base_ejection);
        let duration = self
            .config
            .base_ejection
            .saturating_mul(record.times)
            .min(longest);
        record.until = Some(now.saturating_add(duration));
        roster.set_bar(&member.load, Bar::Ejected, true);
        Some(Event::Ejected {
            member: target.clone(),
            cause,
            duration,
        })
    }

    /// Once per interval: lets members back in whose time is over, and judges the interval's rates.
    pub fn tick(&self, roster: &Roster, now: Duration, draw: Draw<'_>) -> Vec<Event> {
        let mut events = self.readmit(roster, now);
        let rates: Vec<(&Arc<Member>, u32, f64)> = roster
            .members()
            .map(|member| {
                let requests = member.load.health.requests.swap(0, Ordering::Relaxed);
                let successes = member.load.health.successes.swap(0, Ordering::Relaxed);
                let percent = 100.0 * f64::from(successes) / f64::from(requests.max(1));
                (member, requests, percent)
            })
            .filter(|(member, _, _)| !member.load.is_barred(Bar::Ejected))
            .collect();
        let mut bad: Vec<(&Arc<Member>, Cause, u32)> = Vec::new();
        if let Some(rule) = &self.config.success_rate {
            let known: Vec<f64> = busy(&rates, rule.request_volume)
                .map(|rate| rate.2)
                .collect();
            if known.len() >= rule.minimum_hosts as usize && !known.is_empty() {
                let floor = floor(&known, f64::from(rule.stdev_factor) / 1000.0);
                bad.extend(
                    busy(&rates, rule.request_volume)
                        .filter(|rate| rate.2 < floor)
                        .map(|rate| (rate.0, Cause::SuccessRate, rule.enforcing_percent)),
                );
            }
        }
        if let Some(rule) = &self.config.failure_percentage {
            let known = busy(&rates, rule.request_volume).count();
            if known >= rule.minimum_hosts as usize {
                bad.extend(
                    busy(&rates, rule.request_volume)
                        .filter(|rate| 100.0 - rate.2 >= f64::from(rule.threshold))
                        .map(|rate| (rate.0, Cause::FailurePercentage, rule.enforcing_percent)),
                );
            }
        }
        for (member, cause, enforcing) in bad {
            if draw() % 100 < u64::from(enforcing) {
                events.extend(self.eject(roster, member, cause, now));
            }
        }
        events
    }

    /// A member has passed an active health check: that it is well counts for more than how it was.
    pub fn checked(&self, roster: &Roster, member: &Member) -> Option<Event> {
        if !self.config.check_returns || !member.load.is_barred(Bar::Ejected) {
            return None;
        }
        let target = &member.endpoint.address;
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = records.get_mut(target) {
            record.until = None;
        }
        member.load.health.reset_consecutive();
        roster.set_bar(&member.load, Bar::Ejected, false);
        Some(Event::Returned {
            member: target.clone(),
        })
    }

    fn readmit(&self, roster: &Roster, now: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.retain(|target, record| {
            let member = roster
                .members()
                .find(|member| member.endpoint.address == *target);
            let Some(member) = member else {
                // Gone; should it come back, it starts anew.
                return false;
            };
            match record.until {
                Some(until) if until > now => {}
                Some(_) => {
                    record.until = None;
                    member.load.health.reset_consecutive();
                    roster.set_bar(&member.load, Bar::Ejected, false);
                    events.push(Event::Returned {
                        member: target.clone(),
                    });
                }
                None => record.times = record.times.saturating_sub(1),
            }
            record.until.is_some() || record.times > 0
        });
        events
    }
}

/// The members with enough requests to judge.
fn busy<'a, 'm>(
    rates: &'a [(&'m Arc<Member>, u32, f64)],
    volume: u32,
) -> impl Iterator<Item = &'a (&'m Arc<Member>, u32, f64)> {
    rates.iter().filter(move |rate| rate.1 >= volume.max(1))
}

/// The success rate below which a member is an outlier: so many standard deviations under the mean.
fn floor(rates: &[f64], deviations: f64) -> f64 {
    let count = rates.len() as f64;
    let mean = rates.iter().sum::<f64>() / count;
    let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
    mean - deviations * variance.sqrt()
}

#[cfg(test)]
mod tests;
