//! A uniformly random draw + weights → the share that takes the request.

use crate::snapshot::route::Share;

/// Picks in proportion to the weights; `None` when all are zero. `total` is the sum of the weights.
pub fn pick(shares: &[Share], total: u32, draw: u64) -> Option<&Share> {
    let mut at = draw.checked_rem(u64::from(total))?;
    for share in shares {
        let weight = u64::from(share.weight);
        if at < weight {
            return Some(share);
        }
        at -= weight;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(name: &str, weight: u32) -> Share {
        Share {
            cluster: name.into(),
            weight,
            criteria: None,
            headers: Default::default(),
            host_rewrite: None,
            per_filter: Default::default(),
        }
    }

    #[test]
    fn proportions_are_exact_over_a_period() {
        let shares = [share("a", 90), share("none", 0), share("b", 10)];
        let hits = (0..1000)
            .filter(|draw| &*pick(&shares, 100, *draw).unwrap().cluster == "b")
            .count();
        assert_eq!(hits, 100);
        assert!((0..1000).all(|draw| &*pick(&shares, 100, draw).unwrap().cluster != "none"));
        assert!(pick(&[share("a", 0)], 0, 5).is_none());
    }
}
