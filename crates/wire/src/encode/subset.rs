//! `LbSubsetConfig`, `metadata_match`.

use std::sync::Arc;

use ripstop_model::subset::{Criteria, Fallback, Instead, Selector, Subsets};

use super::value::{Meta, strings};
use crate::pb::{cluster, core};

pub(super) fn subsets(s: &Subsets) -> cluster::cluster::LbSubsetConfig {
    use cluster::cluster::lb_subset_config::LbSubsetFallbackPolicy as Wire;
    let fallback = match s.fallback {
        Fallback::Nobody => Wire::NoFallback,
        Fallback::Any => Wire::AnyEndpoint,
        Fallback::Default => Wire::DefaultSubset,
    };
    cluster::cluster::LbSubsetConfig {
        fallback_policy: fallback.into(),
        default_subset: (!s.default.is_empty()).then(|| strings(&s.default)),
        subset_selectors: s.selectors.iter().map(selector).collect(),
        ..Default::default()
    }
}

fn selector(s: &Selector) -> cluster::cluster::lb_subset_config::LbSubsetSelector {
    use cluster::cluster::lb_subset_config::{
        LbSubsetSelector, lb_subset_selector::LbSubsetSelectorFallbackPolicy as Wire,
    };
    let (fallback, fewer) = match &s.fallback {
        None => (Wire::NotDefined, None),
        Some(Instead::As(Fallback::Nobody)) => (Wire::NoFallback, None),
        Some(Instead::As(Fallback::Any)) => (Wire::AnyEndpoint, None),
        Some(Instead::As(Fallback::Default)) => (Wire::DefaultSubset, None),
        Some(Instead::Fewer(keys)) => (Wire::KeysSubset, Some(keys)),
    };
    LbSubsetSelector {
        keys: s.keys.iter().cloned().collect(),
        fallback_policy: fallback.into(),
        fallback_keys_subset: fewer.into_iter().flatten().cloned().collect(),
        ..Default::default()
    }
}

pub(super) fn criteria(c: &Option<Arc<Criteria>>) -> Option<core::Metadata> {
    let mut meta = Meta::default();
    meta.put_all("envoy.lb", strings(c.as_deref()?));
    meta.finish()
}
