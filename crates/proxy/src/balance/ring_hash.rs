//! Consistent hashing on a ring (ketama, with Envoy's hashes and sizes, so that Envoy and ripstop agree on every key).

use std::sync::Arc;
use std::time::Duration;

use ripstop_model::hash::xx64;

use super::{Ask, Balancer, Draw, Member};

#[derive(Debug)]
pub(super) struct RingHash {
    min_size: u64,
    max_size: u64,
    /// Sorted by hash.
    ring: Vec<(u64, u32)>,
}

impl RingHash {
    pub(super) fn new(min_size: u64, max_size: u64) -> RingHash {
        RingHash {
            min_size,
            max_size,
            ring: Vec::new(),
        }
    }
}

impl Balancer for RingHash {
    fn adopt(&mut self, members: &[Arc<Member>], _: Duration, _: Draw<'_>) {
        let sum: f64 = members.iter().map(|member| member.weight()).sum();
        let least = members
            .iter()
            .map(|member| member.weight() / sum)
            .fold(1.0, f64::min);
        // The lightest member gets a whole number of places, and the ring at least its minimum of them.
        let scale = ((least * self.min_size as f64).ceil() / least).min(self.max_size as f64);
        self.ring = Vec::with_capacity(scale.ceil() as usize);
        let mut target = 0.0;
        for (index, member) in members.iter().enumerate() {
            target += scale * member.weight() / sum;
            let mut place = 0;
            while (self.ring.len() as f64) < target {
                let hash = xx64(format!("{}_{place}", member.key).as_bytes());
                self.ring.push((hash, index as u32));
                place += 1;
            }
        }
        self.ring.sort_unstable();
    }

    fn pick(&mut self, _: &[Arc<Member>], ask: &mut Ask<'_>) -> Option<usize> {
        let hash = ask.hash.unwrap_or_else(|| (ask.draw)());
        let at = self.ring.partition_point(|(place, _)| *place < hash);
        // As if who was passed over had no place here.
        let at = (at.checked_rem(self.ring.len())?).wrapping_add(ask.passed as usize);
        let found = self.ring.get(at.checked_rem(self.ring.len())?)?;
        Some(found.1 as usize)
    }
}
