//! How requests are spread over priorities, and which of them panic: counts of members in, shares out.

use std::sync::Arc;

use super::{Member, Panic};

/// The members of a priority.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Usable, and not degraded.
    pub(super) well: usize,
    pub(super) degraded: usize,
    pub(super) all: usize,
}

impl Count {
    pub(super) fn of(members: &[Arc<Member>]) -> Count {
        let usable = members.iter().filter(|member| member.is_usable()).count();
        let degraded = members.iter().filter(|member| member.is_degraded()).count();
        Count {
            well: usable - degraded,
            degraded,
            all: members.len(),
        }
    }

    fn usable(self) -> usize {
        self.well + self.degraded
    }
}

/// What a priority gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Percent, for those that are well (in a panic: for all); all parts make 100, or 0 where nobody may be picked.
    pub(super) share: u32,
    /// Percent, for those that are degraded.
    pub(super) degraded: u32,
    /// All its members are used.
    pub(super) panic: bool,
}

/// A priority takes what it can: the share of its members that are well times `overprovisioning` percent, at most all that
/// is left. What none of them can take goes to those that are degraded, in the same way.
pub(super) fn plan(counts: &[Count], overprovisioning: u32, panic: Panic) -> Vec<Part> {
    let percent = |some: usize, all: usize| -> u32 {
        match all {
            0 => 0,
            _ => (u64::from(overprovisioning) * some as u64 / all as u64).min(100) as u32,
        }
    };
    let able = |some: fn(&Count) -> usize| -> Vec<u32> {
        let able = counts.iter().map(|count| percent(some(count), count.all));
        able.collect()
    };
    let (well, degraded) = (able(|count| count.well), able(|count| count.degraded));
    let total = well.iter().chain(&degraded).sum::<u32>().min(100);
    let panics: Vec<bool> = counts
        .iter()
        .map(|count| {
            let millionths = match count.all {
                0 => 1_000_000,
                all => count.usable() as u64 * 1_000_000 / all as u64,
            };
            total < 100 && millionths < u64::from(panic.below.as_millionths())
        })
        .collect();
    if counts.iter().all(|count| count.usable() == 0) {
        return last_resort(counts, &panics, panic.when_none);
    }
    let mut left = 100;
    let mut share = |able: &[u32]| -> Vec<u32> {
        let mut part = |able: &u32| {
            let part = (able * 100).checked_div(total).unwrap_or_default();
            let part = part.min(left);
            left -= part;
            part
        };
        able.iter().map(&mut part).collect()
    };
    let (mut well, mut degraded) = (share(&well), share(&degraded));
    // What rounding left over goes to the first that can take any.
    let mut parts = well.iter_mut().chain(&mut degraded);
    if let Some(first) = parts.find(|part| **part > 0) {
        *first += left;
    }
    let parts = well.into_iter().zip(degraded).zip(panics);
    parts
        .map(|((well, degraded), panic)| Part {
            // Who panics asks nobody how he is.
            share: if panic { well + degraded } else { well },
            degraded: if panic { 0 } else { degraded },
            panic,
        })
        .collect()
}

/// Nobody is usable: a priority that panics serves with all its members, in proportion to their number.
fn last_resort(counts: &[Count], panics: &[bool], when_none: bool) -> Vec<Part> {
    let serves = |panic: &bool| *panic || when_none;
    let all: usize = counts
        .iter()
        .zip(panics)
        .filter(|(_, panic)| serves(panic))
        .map(|(count, _)| count.all)
        .sum();
    let mut left = 100;
    let mut parts: Vec<Part> = counts
        .iter()
        .zip(panics)
        .map(|(count, panic)| {
            let share = match serves(panic) {
                true => (count.all * 100).checked_div(all).unwrap_or_default() as u32,
                false => 0,
            };
            left -= share;
            Part {
                share,
                degraded: 0,
                panic: true,
            }
        })
        .collect();
    if let Some(first) = parts.iter_mut().find(|part| part.share > 0) {
        first.share += left;
    }
    parts
}

#[cfg(test)]
mod tests {
    use ripstop_model::snapshot::Fraction;

    use super::{Count, Panic, Part};

    const STRICT: Panic = Panic {
        below: Fraction::NEVER,
        when_none: false,
    };

    /// `counts`: well, degraded, all.
    fn plan(counts: &[(usize, usize, usize)], panic: Panic) -> Vec<Part> {
        let count = |(well, degraded, all): &(usize, usize, usize)| Count {
            well: *well,
            degraded: *degraded,
            all: *all,
        };
        let counts: Vec<Count> = counts.iter().map(count).collect();
        super::plan(&counts, 140, panic)
    }

    fn shares(counts: &[(usize, usize, usize)]) -> Vec<u32> {
        let parts = plan(counts, STRICT);
        parts.iter().map(|part| part.share).collect()
    }

    /// The tables of Envoy's documentation on priority levels.
    #[test]
    fn spill_follows_envoys_tables() {
        for (healthy, want) in [
            ([100, 100], [100, 0]),
            ([72, 100], [100, 0]),
            ([71, 100], [99, 1]),
            ([50, 100], [70, 30]),
            ([25, 100], [35, 65]),
            ([0, 100], [0, 100]),
            ([25, 25], [50, 50]),
        ] {
            assert_eq!(
                shares(&[(healthy[0], 0, 100), (healthy[1], 0, 100)]),
                want,
                "{healthy:?}"
            );
        }
        assert_eq!(shares(&[(1, 0, 3), (3, 0, 3)]), [46, 54]);
        assert_eq!(shares(&[(0, 0, 3)]), [0]);
        assert!(shares(&[]).is_empty());
    }

    /// The table of Envoy's documentation on degraded endpoints: of healthy, degraded and unhealthy ones in one priority,
    /// what goes where.
    #[test]
    fn the_degraded_get_what_is_too_much_for_the_others() {
        for (counts, want) in [
            (&[(100, 0, 100)][..], &[(100, 0)][..]),
            (&[(72, 28, 100)], &[(100, 0)]),
            (&[(71, 29, 100)], &[(99, 1)]),
            (&[(50, 50, 100)], &[(70, 30)]),
            (&[(25, 75, 100)], &[(35, 65)]),
            (&[(0, 100, 100)], &[(0, 100)]),
            // Another priority is better than being degraded.
            (&[(50, 50, 100), (100, 0, 100)], &[(70, 0), (30, 0)]),
            (&[(5, 20, 100), (10, 0, 100)], &[(15, 57), (28, 0)]),
        ] {
            let parts = plan(counts, STRICT);
            let got: Vec<_> = parts.iter().map(|p| (p.share, p.degraded)).collect();
            assert_eq!(got, want, "{counts:?}");
        }
    }

    #[test]
    fn panic_needs_the_threshold_and_no_other_priority_to_help() {
        let panic = Panic {
            below: Fraction::percent(50.0),
            when_none: false,
        };
        let panics = |counts: &[(usize, usize, usize)]| -> Vec<bool> {
            plan(counts, panic).iter().map(|part| part.panic).collect()
        };
        assert_eq!(panics(&[(5, 0, 10)]), [false]);
        assert_eq!(panics(&[(4, 0, 10)]), [true]);
        assert_eq!(panics(&[(4, 1, 10)]), [false]);
        assert_eq!(panics(&[(1, 0, 10), (10, 0, 10)]), [false, false]);
        assert_eq!(panics(&[(1, 0, 10), (1, 0, 10)]), [true, true]);
    }

    #[test]
    fn none_usable_uses_all_where_allowed() {
        let panic = Panic {
            below: Fraction::NEVER,
            when_none: true,
        };
        let parts = plan(&[(0, 0, 3), (0, 0, 1)], panic);
        assert_eq!(
            parts.iter().map(|part| part.share).collect::<Vec<_>>(),
            [75, 25]
        );
        assert!(parts.iter().all(|part| part.panic));
    }
}
