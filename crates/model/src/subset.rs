//! The labels that a route asks for and a cluster's subsets → the part of its endpoints that may serve, as Envoy's subset
//! load balancer finds it (`upstream/load_balancing/subsets` of its documentation).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Labels that an endpoint must have (`envoy.lb` metadata).
pub type Criteria = BTreeMap<String, String>;

/// `lb_subset_config` of a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Subsets {
    /// For requests whose criteria no selector has, or whose subset is empty.
    pub fallback: Fallback,
    /// The subset of [`Fallback::Default`]; without labels: all endpoints.
    pub default: Criteria,
    pub selectors: Vec<Selector>,
}

/// Endpoints that have labels of exactly these names form a subset for each combination of their values.
#[derive(Debug, Clone, PartialEq)]
pub struct Selector {
    pub keys: BTreeSet<String>,
    /// For criteria of these names that no endpoint meets; `None`: as the cluster says.
    pub fallback: Option<Instead>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fallback {
    #[default]
    Nobody,
    Any,
    Default,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Instead {
    As(Fallback),
    /// The same criteria, but for those of other names; fewer than the selector has.
    Fewer(BTreeSet<String>),
}

/// Which endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Any,
    With(Criteria),
}

impl Subsets {
    /// `exists`: whether some endpoint, well or not, has these labels. `None`: nobody may serve.
    pub fn part(
        &self,
        criteria: Option<&Criteria>,
        exists: &dyn Fn(&Criteria) -> bool,
    ) -> Option<Part> {
        let mut asked = criteria.cloned();
        while let Some(wanted) = asked.take() {
            let mut selectors = self.selectors.iter();
            let Some(selector) = selectors.find(|selector| selector.keys.iter().eq(wanted.keys()))
            else {
                break;
            };
            if exists(&wanted) {
                return Some(Part::With(wanted));
            }
            match &selector.fallback {
                None => break,
                Some(Instead::As(fallback)) => return self.instead(*fallback),
                Some(Instead::Fewer(keys)) => {
                    let mut fewer = wanted;
                    let before = fewer.len();
                    fewer.retain(|name, _| keys.contains(name));
                    // It ends: there are fewer each time.
                    asked = (fewer.len() < before).then_some(fewer);
                }
            }
        }
        self.instead(self.fallback)
    }

    fn instead(&self, fallback: Fallback) -> Option<Part> {
        match fallback {
            Fallback::Nobody => None,
            Fallback::Any => Some(Part::Any),
            Fallback::Default => Some(Part::With(self.default.clone())),
        }
    }
}

impl Part {
    pub fn has(&self, labels: &Criteria) -> bool {
        match self {
            Part::Any => true,
            Part::With(criteria) => meets(labels, criteria),
        }
    }
}

/// Whether an endpoint with these labels is one of those asked for.
pub fn meets(labels: &Criteria, criteria: &Criteria) -> bool {
    criteria
        .iter()
        .all(|(name, value)| labels.get(name) == Some(value))
}

/// A share's own criteria, and those of its route for what it does not say.
pub fn within(outer: Option<&Arc<Criteria>>, own: Criteria) -> Option<Arc<Criteria>> {
    if own.is_empty() {
        return outer.cloned();
    }
    let mut all = outer.map(|outer| (**outer).clone()).unwrap_or_default();
    all.extend(own);
    Some(Arc::new(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn criteria(pairs: &[(&str, &str)]) -> Criteria {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(own).collect()
    }

    fn keys(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn selector(names: &[&str], fallback: Option<Instead>) -> Selector {
        Selector {
            keys: keys(names),
            fallback,
        }
    }

    fn part(subsets: &Subsets, asked: &[(&str, &str)]) -> Option<Part> {
        let members = [
            criteria(&[("stage", "prod"), ("version", "1")]),
            criteria(&[("stage", "prod"), ("version", "2")]),
            criteria(&[("stage", "dev")]),
        ];
        let asked = (!asked.is_empty()).then(|| criteria(asked));
        subsets.part(asked.as_ref(), &|wanted| {
            members.iter().any(|labels| meets(labels, wanted))
        })
    }

    #[test]
    fn criteria_find_the_subset_of_a_selector_with_their_very_names() {
        let subsets = Subsets {
            fallback: Fallback::Nobody,
            default: Criteria::new(),
            selectors: vec![
                selector(&["stage"], None),
                selector(&["stage", "version"], None),
            ],
        };
        let with = |pairs| Some(Part::With(criteria(pairs)));
        assert_eq!(
            part(&subsets, &[("stage", "dev")]),
            with(&[("stage", "dev")])
        );
        let both = [("stage", "prod"), ("version", "2")];
        assert_eq!(part(&subsets, &both), with(&both));
        assert_eq!(part(&subsets, &[("version", "2")]), None, "no selector");
        assert_eq!(part(&subsets, &[("stage", "none")]), None, "no endpoint");
        assert_eq!(part(&subsets, &[]), None);
    }

    #[test]
    fn what_is_not_found_falls_back() {
        let subsets = |fallback, own| Subsets {
            fallback,
            default: criteria(&[("stage", "dev")]),
            selectors: vec![
                selector(&["stage"], None),
                selector(&["stage", "version"], own),
            ],
        };
        let none = [("stage", "prod"), ("version", "3")];
        let dev = Some(Part::With(criteria(&[("stage", "dev")])));
        for (fallback, own, want) in [
            (Fallback::Any, None, Some(Part::Any)),
            (Fallback::Default, None, dev.clone()),
            (Fallback::Any, Some(Instead::As(Fallback::Nobody)), None),
            (Fallback::Nobody, Some(Instead::As(Fallback::Default)), dev),
            (
                Fallback::Nobody,
                Some(Instead::Fewer(keys(&["stage"]))),
                Some(Part::With(criteria(&[("stage", "prod")]))),
            ),
            // Nobody has a selector for that.
            (
                Fallback::Any,
                Some(Instead::Fewer(keys(&["version"]))),
                Some(Part::Any),
            ),
        ] {
            assert_eq!(
                part(&subsets(fallback, own.clone()), &none),
                want,
                "{own:?}"
            );
        }
    }
}
