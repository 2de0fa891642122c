//! What a peer may make this side do for nothing: events and moments in → still fine, or not.

use std::time::Duration;

use crate::violation::Violation;

/// So many at once, and so many more each second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    pub burst: f32,
    pub per_second: f32,
}

impl Budget {
    /// For what somebody else counts.
    pub const UNLIMITED: Budget = Budget::new(f32::MAX, 0.0);

    pub const fn new(burst: f32, per_second: f32) -> Budget {
        Budget { burst, per_second }
    }
}

/// The limits on work that serves no request. The defaults let heavy real clients pass (h2load, browsers, clients that
/// cancel much, servers that probe bandwidth with pings) and stop the known floods.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guards {
    /// Streams reset by the peer before they were answered (CVE-2023-44487).
    pub resets: Budget,
    /// Stream errors that the peer provoked, refused streams among them (CVE-2025-8671).
    pub errors: Budget,
    /// CVE-2019-9512. Each DATA frame that came allows one more.
    pub pings: Budget,
    /// CVE-2019-9515.
    pub settings: Budget,
    /// CVE-2019-9518.
    pub empty_data: Budget,
    /// CVE-2019-9513. Each stream allows ten more.
    pub priorities: Budget,
    /// Each stream and each DATA frame sent allow four more.
    pub windows: Budget,
    pub unknown: Budget,
    /// Frames for streams that are over. Each stream allows four more.
    pub strays: Budget,
    /// DATA frames of less than 256 bytes, made so small by the peer's windows (CVE-2019-9511). Every fourth larger one
    /// allows one more.
    pub tiny: Budget,
    /// Bytes of a field block, as a multiple of the largest acceptable header list: Huffman's code shortens, it never
    /// lengthens text that a header has.
    pub block_bytes: usize,
    /// The decoded header list, in the same measure: what is only too large is decoded to its end, since the next block
    /// builds on it, a few bytes that stand for megabytes are not (CVE-2016-6581).
    pub decoded_bytes: usize,
    /// CONTINUATION frames of a field block (CVE-2024-27316).
    pub continuations: u32,
    /// Answers (acknowledgements, resets) that wait for a peer that does not read (CVE-2019-9512, 9514, 9515).
    pub answers: u32,
}

impl Default for Guards {
    fn default() -> Guards {
        Guards {
            resets: Budget::new(500.0, 50.0),
            errors: Budget::new(500.0, 50.0),
            pings: Budget::new(1_000.0, 100.0),
            settings: Budget::new(100.0, 10.0),
            empty_data: Budget::new(100.0, 10.0),
            priorities: Budget::new(1_000.0, 100.0),
            windows: Budget::new(4_000.0, 500.0),
            unknown: Budget::new(1_000.0, 100.0),
            strays: Budget::new(10_000.0, 1_000.0),
            tiny: Budget::new(1_000.0, 100.0),
            block_bytes: 2,
            decoded_bytes: 4,
            continuations: 16,
            answers: 1_000,
        }
    }
}

/// A budget and what is left of it.
#[derive(Debug, Clone, Copy)]
struct Purse {
    budget: Budget,
    left: f32,
    since: Duration,
}

impl Purse {
    fn new(budget: Budget) -> Purse {
        Purse {
            budget,
            left: budget.burst,
            since: Duration::ZERO,
        }
    }

    fn spend(&mut self, now: Duration, violation: Violation) -> Result<(), Violation> {
        self.left -= 1.0;
        if self.left >= 0.0 {
            return Ok(());
        }
        let passed = now.saturating_sub(self.since).as_secs_f32();
        self.since = now;
        self.earn(passed * self.budget.per_second);
        match self.left >= 0.0 {
            true => Ok(()),
            false => Err(violation),
        }
    }

    fn earn(&mut self, more: f32) {
        self.left = (self.left + more).min(self.budget.burst);
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waste {
    Reset,
    Error,
    Ping,
    Settings,
    EmptyData,
    Priority,
    Window,
    Unknown,
    Stray,
    Tiny,
}

#[derive(Debug)]
pub(crate) struct Watch {
    resets: Purse,
    errors: Purse,
    pings: Purse,
    settings: Purse,
    empty_data: Purse,
    priorities: Purse,
    windows: Purse,
    unknown: Purse,
    strays: Purse,
    tiny: Purse,
}

impl Watch {
    pub(crate) fn new(guards: &Guards) -> Watch {
        Watch {
            resets: Purse::new(guards.resets),
            errors: Purse::new(guards.errors),
            pings: Purse::new(guards.pings),
            settings: Purse::new(guards.settings),
            empty_data: Purse::new(guards.empty_data),
            priorities: Purse::new(guards.priorities),
            windows: Purse::new(guards.windows),
            unknown: Purse::new(guards.unknown),
            strays: Purse::new(guards.strays),
            tiny: Purse::new(guards.tiny),
        }
    }

    pub(crate) fn waste(&mut self, what: Waste, now: Duration) -> Result<(), Violation> {
        let (purse, violation) = match what {
            Waste::Reset => (&mut self.resets, Violation::ResetFlood),
            Waste::Error => (&mut self.errors, Violation::ErrorFlood),
            Waste::Ping => (&mut self.pings, Violation::PingFlood),
            Waste::Settings => (&mut self.settings, Violation::SettingsFlood),
            Waste::EmptyData => (&mut self.empty_data, Violation::EmptyDataFlood),
            Waste::Priority => (&mut self.priorities, Violation::PriorityFlood),
            Waste::Window => (&mut self.windows, Violation::WindowFlood),
            Waste::Unknown => (&mut self.unknown, Violation::UnknownFlood),
            Waste::Stray => (&mut self.strays, Violation::StrayFlood),
            Waste::Tiny => (&mut self.tiny, Violation::TinyWindows),
        };
        purse.spend(now, violation)
    }

    pub(crate) fn opened_stream(&mut self) {
        self.priorities.earn(10.0);
        self.windows.earn(4.0);
        self.strays.earn(4.0);
    }

    pub(crate) fn sent_data(&mut self, whole: bool) {
        self.windows.earn(4.0);
        // A window's last few bytes are small now and then.
        if whole {
            self.tiny.earn(0.25);
        }
    }

    pub(crate) fn received_data(&mut self) {
        self.pings.earn(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_and_grows_again() {
        let guards = Guards {
            pings: Budget::new(3.0, 2.0),
            ..Guards::default()
        };
        let mut watch = Watch::new(&guards);
        let at = Duration::from_secs;
        for _ in 0..3 {
            assert_eq!(watch.waste(Waste::Ping, at(0)), Ok(()));
        }
        assert_eq!(watch.waste(Waste::Ping, at(0)), Err(Violation::PingFlood));
        // It owes one, and gains two a second.
        assert_eq!(watch.waste(Waste::Ping, at(1)), Ok(()));
        assert_eq!(watch.waste(Waste::Ping, at(1)), Err(Violation::PingFlood));
        watch.received_data();
        watch.received_data();
        assert_eq!(watch.waste(Waste::Ping, at(1)), Ok(()));
    }
}
