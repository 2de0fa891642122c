//! A priority's members and what their localities weigh → the share of each locality, as Envoy's locality weighted load
//! balancing has it: a locality that has lost members gives its share up in proportion, beyond what it has to spare.

use std::collections::BTreeMap;
use std::sync::Arc;

use ripstop_model::snapshot::endpoint::Locality;

use super::Member;

/// Localities with members that may be picked, and the weight of each. Empty where no locality weighs anything: then all
/// members are alike.
pub(super) type Weights = Vec<(Arc<Locality>, f64)>;

/// `all`: every member of the priority; `may`: those that may be picked.
pub(super) fn weights(all: &[Arc<Member>], may: &[Arc<Member>], overprovisioning: u32) -> Weights {
    let mut found: BTreeMap<&Locality, (u32, usize, usize, &Arc<Locality>)> = BTreeMap::new();
    for member in all {
        let entry = found.entry(&member.locality);
        let entry = entry.or_insert((member.locality_weight, 0, 0, &member.locality));
        entry.2 += 1;
    }
    for member in may {
        if let Some(entry) = found.get_mut(&*member.locality) {
            entry.1 += 1;
        }
    }
    let spare = f64::from(overprovisioning) / 100.0;
    found
        .into_values()
        .filter(|(weight, may, ..)| *weight > 0 && *may > 0)
        .map(|(weight, may, all, locality)| {
            let able = (may as f64 / all as f64 * spare).min(1.0);
            (locality.clone(), f64::from(weight) * able)
        })
        .collect()
}

/// The members of each locality that weighs anything.
pub(super) fn groups(members: &[Arc<Member>], weights: &Weights) -> Vec<(f64, Vec<Arc<Member>>)> {
    let of = |locality: &Arc<Locality>| -> Vec<Arc<Member>> {
        let own = members.iter().filter(|member| member.locality == *locality);
        own.cloned().collect()
    };
    weights
        .iter()
        .map(|(locality, weight)| (*weight, of(locality)))
        .collect()
}

/// The members as one group, each with its part of its locality's share: for tables that all of them stand in.
pub(super) fn scaled(members: &[Arc<Member>], weights: &Weights) -> Vec<Arc<Member>> {
    let groups = groups(members, weights);
    let scaled = groups.iter().flat_map(|(weight, members)| {
        let sum: f64 = members.iter().map(|member| member.weight()).sum();
        members
            .iter()
            .map(move |member| Arc::new(member.scaled(weight / sum)))
    });
    scaled.collect()
}
