//! Consistent hashing by a lookup table ("Maglev", NSDI 2016, section 3.4), filled in the order Envoy fills it, so that
//! Envoy and ripstop agree on every key.

use std::sync::Arc;
use std::time::Duration;

use ripstop_model::hash::{xx64, xx64_seeded};

use super::{Ask, Balancer, Draw, Member};

const FREE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Maglev {
    /// A prime.
    size: u64,
    table: Vec<u32>,
}

/// A member's own order of places, and how much of the table it is due.
struct Claim {
    index: u32,
    at: u64,
    skip: u64,
    weight: f64,
    due: f64,
}

impl Maglev {
    pub(super) fn new(size: u64) -> Maglev {
        Maglev {
            size: size.max(3),
            table: Vec::new(),
        }
    }
}

impl Balancer for Maglev {
    fn adopt(&mut self, members: &[Arc<Member>], _: Duration, _: Draw<'_>) {
        self.table.clear();
        if members.is_empty() {
            return;
        }
        let size = self.size;
        let sum: f64 = members.iter().map(|member| member.weight()).sum();
        let mut claims: Vec<Claim> = members
            .iter()
            .enumerate()
            .map(|(index, member)| Claim {
                index: index as u32,
                at: xx64(member.key.as_bytes()) % size,
                skip: xx64_seeded(member.key.as_bytes(), 1) % (size - 1) + 1,
                weight: member.weight() / sum,
                due: 0.0,
            })
            .collect();
        // Every worker and every proxy must fill it in the same order.
        claims.sort_by(|a, b| {
            let key = |claim: &Claim| members.get(claim.index as usize).map(|member| &member.key);
            key(a).cmp(&key(b))
        });
        let heaviest = claims.iter().map(|claim| claim.weight).fold(0.0, f64::max);
        let mut table = vec![FREE; size as usize];
        let mut filled = 0;
        let mut round = 1.0;
        while filled < size {
            for claim in &mut claims {
                if filled == size {
                    break;
                }
                // Lighter members sit out rounds.
                if round * claim.weight < claim.due {
                    continue;
                }
                claim.due += heaviest;
                while let Some(place) = table.get_mut(claim.at as usize) {
                    claim.at = (claim.at + claim.skip) % size;
                    if *place == FREE {
                        *place = claim.index;
                        filled += 1;
                        break;
                    }
                }
            }
            round += 1.0;
        }
        self.table = table;
    }

    fn pick(&mut self, _: &[Arc<Member>], ask: &mut Ask<'_>) -> Option<usize> {
        let hash = ask.hash.unwrap_or_else(|| (ask.draw)());
        // Another place for each member that was passed over.
        let hash = match ask.passed {
            0 => hash,
            passed => hash ^ (u64::MAX - u64::from(passed) + 1),
        };
        let place = hash.checked_rem(self.table.len() as u64)?;
        self.table
            .get(usize::try_from(place).ok()?)
            .map(|index| *index as usize)
    }
}
