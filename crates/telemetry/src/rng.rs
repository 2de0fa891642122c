//! Fast random bits for request ids, trace ids and sampling: xoshiro256++ (Blackman and Vigna, 2019), one per worker.
//!
//! Not for secrets.

use std::hash::{BuildHasher, Hasher, RandomState};

#[derive(Debug, Clone)]
pub struct Rng([u64; 4]);

impl Rng {
    /// Seeded from the randomness that std takes from the operating system for its hash maps.
    pub fn fresh() -> Rng {
        Rng::seeded(std::array::from_fn(|i| {
            let mut hasher = RandomState::new().build_hasher();
            hasher.write_usize(i);
            hasher.finish()
        }))
    }

    /// The same sequence every time; for tests.
    pub fn seeded(mut seed: [u64; 4]) -> Rng {
        if seed == [0; 4] {
            // The one state the generator cannot leave.
            seed[0] = 1;
        }
        Rng(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.0;
        let out = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        out
    }

    pub fn next_u128(&mut self) -> u128 {
        u128::from(self.next_u64()) << 64 | u128::from(self.next_u64())
    }

    /// True with probability `share` (0 never, 1 always).
    pub fn chance(&mut self, share: f64) -> bool {
        let unit = (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        unit < share
    }

    /// A random UUID (RFC 9562 section 5.4) in its text form.
    pub fn uuid(&mut self) -> String {
        let bits = self.next_u128() & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
        let hex = format!("{bits:032x}");
        format!(
            "{}-{}-{}-{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..]
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn uuids_are_version_4() {
        let mut rng = Rng::fresh();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let id = rng.uuid();
            assert_eq!(id.len(), 36);
            assert_eq!(&id[14..15], "4", "{id}");
            assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
            assert!(seen.insert(id));
        }
    }

    #[test]
    fn chance_keeps_its_share() {
        let mut rng = Rng::seeded([1, 2, 3, 4]);
        let hits = (0..100_000).filter(|_| rng.chance(0.25)).count();
        assert!((24_000..26_000).contains(&hits), "{hits}");
        assert!(!(0..1000).any(|_| rng.chance(0.0)));
        assert!((0..1000).all(|_| rng.chance(1.0)));
    }
}
