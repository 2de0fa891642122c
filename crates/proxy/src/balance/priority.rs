//! How requests are spread over priorities, and which of them panic: counts of members in, shares out.

use super::Panic;

/// What a priority gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Percent; all parts make 100, or 0 where nobody may be picked.
    pub(super) share: u32,
    /// All its members are used.
    pub(super) panic: bool,
}

/// `counts`: usable and all members of each priority. A priority takes what it can: its usable share times
/// `overprovisioning` percent, at most all that is left.
pub(super) fn plan(counts: &[(usize, usize)], overprovisioning: u32, panic: Panic) -> Vec<Part> {
    let percent = |usable: usize, all: usize, factor: u32| -> u32 {
        match all {
            0 => 0,
            _ => (u64::from(factor) * usable as u64 / all as u64).min(100) as u32,
        }
    };
    let able: Vec<u32> = counts
        .iter()
        .map(|(usable, all)| percent(*usable, *all, overprovisioning))
        .collect();
    let total: u32 = able.iter().sum::<u32>().min(100);
    let panics: Vec<bool> = counts
        .iter()
        .map(|(usable, all)| {
            let millionths = match all {
                0 => 1_000_000,
                _ => *usable as u64 * 1_000_000 / *all as u64,
            };
            total < 100 && millionths < u64::from(panic.below.as_millionths())
        })
        .collect();
    let nobody = counts.iter().all(|(usable, _)| *usable == 0);
    if nobody {
        return last_resort(counts, &panics, panic.when_none);
    }
    let mut left = 100;
    let mut parts: Vec<Part> = able
        .iter()
        .zip(&panics)
        .map(|(able, panic)| {
            let share = (able * 100)
                .checked_div(total)
                .unwrap_or_default()
                .min(left);
            left -= share;
            Part {
                share,
                panic: *panic,
            }
        })
        .collect();
    // What rounding left over goes to the first that can take any.
    if let Some(first) = parts.iter_mut().find(|part| part.share > 0) {
        first.share += left;
    }
    parts
}

/// Nobody is usable: a priority that panics serves with all its members, in proportion to their number.
fn last_resort(counts: &[(usize, usize)], panics: &[bool], when_none: bool) -> Vec<Part> {
    let serves = |panic: &bool| *panic || when_none;
    let all: usize = counts
        .iter()
        .zip(panics)
        .filter(|(_, panic)| serves(panic))
        .map(|((_, all), _)| all)
        .sum();
    let mut left = 100;
    let mut parts: Vec<Part> = counts
        .iter()
        .zip(panics)
        .map(|((_, members), panic)| {
            let share = match serves(panic) {
                true => (members * 100).checked_div(all).unwrap_or_default() as u32,
                false => 0,
            };
            left -= share;
            Part { share, panic: true }
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

    use super::{Panic, plan};

    fn shares(counts: &[(usize, usize)]) -> Vec<u32> {
        let panic = Panic {
            below: Fraction::NEVER,
            when_none: false,
        };
        plan(counts, 140, panic)
            .iter()
            .map(|part| part.share)
            .collect()
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
                shares(&[(healthy[0], 100), (healthy[1], 100)]),
                want,
                "{healthy:?}"
            );
        }
        assert_eq!(shares(&[(1, 3), (3, 3)]), [46, 54]);
        assert_eq!(shares(&[(0, 3)]), [0]);
        assert!(shares(&[]).is_empty());
    }

    #[test]
    fn panic_needs_the_threshold_and_no_other_priority_to_help() {
        let panic = Panic {
            below: Fraction::percent(50.0),
            when_none: false,
        };
        let panics = |counts: &[(usize, usize)]| -> Vec<bool> {
            plan(counts, 140, panic)
                .iter()
                .map(|part| part.panic)
                .collect()
        };
        assert_eq!(panics(&[(5, 10)]), [false]);
        assert_eq!(panics(&[(4, 10)]), [true]);
        assert_eq!(panics(&[(1, 10), (10, 10)]), [false, false]);
        assert_eq!(panics(&[(1, 10), (1, 10)]), [true, true]);
    }

    #[test]
    fn none_usable_uses_all_where_allowed() {
        let panic = Panic {
            below: Fraction::NEVER,
            when_none: true,
        };
        let parts = plan(&[(0, 3), (0, 1)], 140, panic);
        assert_eq!(
            parts.iter().map(|part| part.share).collect::<Vec<_>>(),
            [75, 25]
        );
        assert!(parts.iter().all(|part| part.panic));
    }
}
