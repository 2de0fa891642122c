//! `LbSubsetConfig` of a cluster, and the `metadata_match` of routes that chooses among its subsets.

use std::sync::Arc;

use ripstop_model::subset::{Criteria, Fallback, Instead, Selector, Subsets};

use super::value::{self, strings};
use super::{Decoding, fields};
use crate::pb::{cluster, core};

pub(super) fn subsets(cx: &mut Decoding, m: cluster::cluster::LbSubsetConfig) -> Option<Subsets> {
    use cluster::cluster::lb_subset_config::LbSubsetFallbackPolicy as Wire;
    fields!(cx, m => cluster::cluster::LbSubsetConfig { fallback_policy, default_subset, subset_selectors }
    refuse {
        locality_weight_aware, scale_locality_weight, panic_mode_any, list_as_any,
        metadata_fallback_policy,
    });
    let subsets = Subsets {
        fallback: match cx.enumeration("fallback_policy", fallback_policy)? {
            Wire::NoFallback => Fallback::Nobody,
            Wire::AnyEndpoint => Fallback::Any,
            Wire::DefaultSubset => Fallback::Default,
        },
        default: cx.field("default_subset", |cx| {
            let pairs = strings(cx, default_subset.unwrap_or_default());
            pairs.into_iter().collect()
        }),
        selectors: cx.each("subset_selectors", subset_selectors, selector),
    };
    // Without selectors Envoy balances as if nothing had been said.
    Some(subsets).filter(|subsets| !subsets.selectors.is_empty())
}

fn selector(
    cx: &mut Decoding,
    m: cluster::cluster::lb_subset_config::LbSubsetSelector,
) -> Option<Selector> {
    use cluster::cluster::lb_subset_config::{
        LbSubsetSelector, lb_subset_selector::LbSubsetSelectorFallbackPolicy as Wire,
    };
    fields!(cx, m => LbSubsetSelector { keys, fallback_policy, fallback_keys_subset }
        refuse { single_host_per_subset });
    let keys: std::collections::BTreeSet<String> = keys.into_iter().collect();
    let fallback = match cx.enumeration("fallback_policy", fallback_policy)? {
        Wire::NotDefined => None,
        Wire::NoFallback => Some(Instead::As(Fallback::Nobody)),
        Wire::AnyEndpoint => Some(Instead::As(Fallback::Any)),
        Wire::DefaultSubset => Some(Instead::As(Fallback::Default)),
        Wire::KeysSubset => {
            let fewer: std::collections::BTreeSet<String> =
                fallback_keys_subset.into_iter().collect();
            if fewer.is_empty() || fewer == keys || !fewer.is_subset(&keys) {
                cx.invalid("fallback_keys_subset", "must be some of `keys`, not all");
                return None;
            }
            Some(Instead::Fewer(fewer))
        }
    };
    Some(Selector { keys, fallback })
}

/// What an endpoint must have: `envoy.lb`, as in Envoy; other metadata is for others. `outer`: what the route says to all
/// its clusters.
pub(super) fn criteria(
    cx: &mut Decoding,
    m: Option<core::Metadata>,
    outer: Option<&Arc<Criteria>>,
) -> Option<Arc<Criteria>> {
    let own: Criteria = cx.field("metadata_match", |cx| {
        let own = value::metadata(&m, "envoy.lb").cloned();
        strings(cx, own.unwrap_or_default()).into_iter().collect()
    });
    ripstop_model::subset::within(outer, own)
}
