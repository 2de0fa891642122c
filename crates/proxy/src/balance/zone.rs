//! Where the proxies of this proxy's own cluster stand, and where the members of another → how much of its traffic stays in
//! this proxy's locality, as Envoy's zone aware routing has it (`upstream/load_balancing/zone_aware` of its documentation):
//! all of it where the other cluster has as large a share here as the proxies have, else as much as evens the load out.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ripstop_model::snapshot::Local;
use ripstop_model::snapshot::cluster::ZoneAware;
use ripstop_model::snapshot::endpoint::Locality;

use super::{Draw, Member, Roster};

/// The cluster that this proxy is a member of; shared by all workers and clusters.
#[derive(Debug)]
pub struct Zones {
    pub local: Local,
    roster: ArcSwap<Roster>,
}

impl Zones {
    pub fn new(local: Local) -> Zones {
        Zones {
            local,
            roster: ArcSwap::default(),
        }
    }

    /// The members of the local cluster, from now on.
    pub(crate) fn follow(&self, roster: Arc<Roster>) {
        self.roster.store(roster);
    }

    pub(super) fn roster(&self) -> Arc<Roster> {
        self.roster.load_full()
    }
}

/// Ten-thousandths, as Envoy counts.
const WHOLE: u64 = 10_000;

/// How the localities of a priority share its traffic; the first of them is this proxy's own where it `has_own`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Of this locality's own members, in ten-thousandths.
    own: u64,
    /// What each locality takes beyond its own, and all before it, in ten-thousandths.
    spare: Vec<u64>,
}

/// A locality and those of its members that may be picked.
type Group = (Arc<Locality>, Vec<Arc<Member>>);

/// Members by locality, this proxy's own first.
pub(super) type Groups = Vec<Group>;

/// `all`: every member of the priority; `may`: those that may be picked. Localities that have lost all theirs stay.
pub(super) fn groups(all: &[Arc<Member>], may: &[Arc<Member>], own: &Locality) -> Groups {
    let mut found: BTreeMap<(bool, &Locality), Group> = BTreeMap::new();
    let place = |member: &Arc<Member>| *member.locality != *own;
    for member in all {
        let key = (place(member), &*member.locality);
        found
            .entry(key)
            .or_insert_with(|| (member.locality.clone(), Vec::new()));
    }
    for member in may {
        if let Some(group) = found.get_mut(&(place(member), &*member.locality)) {
            group.1.push(member.clone());
        }
    }
    found.into_values().collect()
}

impl Plan {
    /// `None`: localities are not minded. `local`: the members of the local cluster that are well.
    pub(super) fn new(
        rule: &ZoneAware,
        own: &Locality,
        groups: &Groups,
        local: &[Arc<Member>],
    ) -> Option<Plan> {
        let all: usize = groups.iter().map(|(_, members)| members.len()).sum();
        if groups.len() < 2 || local.is_empty() || (all as u64) < rule.min_members {
            return None;
        }
        let part = |some: usize, all: usize| WHOLE * some as u64 / all.max(1) as u64;
        let shares: Vec<(u64, u64)> = groups
            .iter()
            .map(|(locality, members)| match members.is_empty() {
                true => (0, 0),
                false => {
                    let here = local.iter().filter(|member| member.locality == *locality);
                    (part(here.count(), local.len()), part(members.len(), all))
                }
            })
            .collect();
        let has_own = groups.first().is_some_and(|(first, _)| **first == *own);
        let own = match shares.first() {
            Some((local, there)) if has_own && *there > 0 && there >= local => WHOLE,
            Some((local, there)) if has_own && *local > 0 => there * WHOLE / local,
            _ => 0,
        };
        let mut sum = 0;
        let spare = shares.iter().enumerate().map(|(index, (local, there))| {
            if !(index == 0 && has_own) {
                sum += there.saturating_sub(*local);
            }
            sum
        });
        Some(Plan {
            own,
            spare: spare.collect(),
        })
    }

    /// The position of a locality.
    pub(super) fn choose(&self, draw: Draw<'_>) -> usize {
        if self.own >= WHOLE || draw() % WHOLE < self.own {
            return 0;
        }
        match self.spare.last() {
            // Rounding can leave nobody with anything to spare.
            None | Some(0) => (draw() % self.spare.len().max(1) as u64) as usize,
            Some(most) => {
                let at = draw() % most;
                let position = self.spare.iter().position(|sum| at < *sum);
                position.unwrap_or_default()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Envoy's documentation of its own algorithm: 40, 40 and 20 % of the proxies, 25, 50 and 25 % of the
    /// members.
    #[test]
    fn what_a_zone_cannot_take_goes_where_there_is_room() {
        let zone = |name: &str| Locality {
            zone: name.to_owned(),
            ..Locality::default()
        };
        let members = |counts: [usize; 3]| -> Vec<Arc<Member>> {
            let zones = ["a", "b", "c"].into_iter().zip(counts);
            let all = zones.flat_map(|(name, count)| std::iter::repeat_n(name, count));
            all.map(|name| super::super::tests::member_in(zone(name)))
                .collect()
        };
        let rule = ZoneAware {
            min_members: 1,
            ..ripstop_model::defaults::envoy::ZONE_AWARE
        };
        let (local, up) = (members([40, 40, 20]), members([25, 50, 25]));
        let own = zone("a");
        let of = |up: &[Arc<Member>]| Plan::new(&rule, &own, &groups(up, up, &own), &local);
        let want = Plan {
            own: 6250,
            spare: vec![0, 1000, 1500],
        };
        assert_eq!(of(&up), Some(want));
        let direct = of(&members([50, 25, 25])).unwrap();
        assert_eq!(direct.own, WHOLE);
        let mut draws = 0..;
        let mut draw = || draws.next().unwrap_or_default();
        assert!((0..100).all(|_| direct.choose(&mut draw) == 0));
        assert_eq!(of(&members([100, 0, 0])), None, "one zone only");
    }
}
