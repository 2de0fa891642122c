//! A cluster's endpoints and the labels that a route asks for → the balancer of the subset that may serve. Each subset
//! balances by itself: its own order, its own health, its own panic.

use std::sync::Arc;

use ripstop_model::subset::{Criteria, Part, Subsets, meets};
use rustc_hash::FxHashMap;

use super::{Ask, Balance, Picked, Roster};

/// One worker's balancers of one cluster, a balancer for each subset that was asked for.
pub(super) struct Parts {
    rules: Arc<Subsets>,
    /// What the balancer of a subset is made of.
    like: Box<dyn Fn() -> Balance>,
    /// The members that the rest was made of.
    roster: Arc<Roster>,
    parts: Vec<(Part, Arc<Roster>, Balance)>,
    /// Which part serves whom. Routes are where criteria come from: there are as many as are configured.
    without: Option<Served>,
    with: FxHashMap<Criteria, Served>,
}

/// A position among the parts; `None`: nobody.
type Served = Option<usize>;

impl Parts {
    pub(super) fn new(rules: Arc<Subsets>, like: Box<dyn Fn() -> Balance>) -> Parts {
        Parts {
            rules,
            like,
            roster: Arc::default(),
            parts: Vec::new(),
            without: None,
            with: FxHashMap::default(),
        }
    }

    pub(super) fn pick(&mut self, roster: &Arc<Roster>, ask: &mut Ask<'_>) -> Option<Picked> {
        if !Arc::ptr_eq(&self.roster, roster) {
            self.roster = roster.clone();
            self.parts.clear();
            self.without = None;
            self.with.clear();
        }
        let known = match ask.criteria {
            None => self.without,
            Some(criteria) => self.with.get(criteria).copied(),
        };
        let served = match known {
            Some(served) => served,
            None => self.find(ask.criteria),
        };
        let (_, roster, balance) = self.parts.get_mut(served?)?;
        balance.pick(roster, ask)
    }

    fn find(&mut self, criteria: Option<&Criteria>) -> Served {
        let exists = |wanted: &Criteria| {
            let mut members = self.roster.members();
            members.any(|member| meets(&member.endpoint.labels, wanted))
        };
        let part = self.rules.part(criteria, &exists);
        let served = part.map(|part| {
            let known = self.parts.iter().position(|(known, ..)| *known == part);
            known.unwrap_or_else(|| {
                let roster = self
                    .roster
                    .part(&|member| part.has(&member.endpoint.labels));
                self.parts.push((part, Arc::new(roster), (self.like)()));
                self.parts.len() - 1
            })
        });
        match criteria {
            None => self.without = Some(served),
            Some(criteria) => {
                self.with.insert(criteria.clone(), served);
            }
        }
        served
    }
}
