//! `RetryPolicy`.

use ripstop_model::defaults::envoy;
use ripstop_model::snapshot::retry::{Backoff, RetryOn, RetryPolicy, RetryScope};

use super::value::header_match;
use super::{Decoding, fields, is};
use crate::pb::{google, previous_hosts, previous_priorities, route};

/// `implicit` is ripstop's own fact about the policy; it travels beside it (see `encode`).
pub(super) fn retry_policy(
    cx: &mut Decoding,
    m: route::RetryPolicy,
    implicit: bool,
) -> Option<RetryPolicy> {
    fields!(cx, m => route::RetryPolicy {
            retry_on, num_retries, per_try_timeout, per_try_idle_timeout, retry_priority,
            retry_host_predicate, host_selection_retry_max_attempts, retriable_status_codes,
            retry_back_off, retriable_headers, retriable_request_headers,
        }
        ignore { retry_options_predicates, rate_limited_retry_back_off, refresh_cluster_on_retry });
    let (on, unknown) = RetryOn::parse(&retry_on);
    for token in unknown {
        cx.field("retry_on", |cx| {
            cx.ignore_here(format!("`{token}` is not a retry condition; remove it"));
        });
    }
    let avoid = cx.each("retry_host_predicate", retry_host_predicate, |cx, m| {
        use route::retry_policy::retry_host_predicate::ConfigType;
        let known = match m.config_type {
            Some(ConfigType::TypedConfig(any)) => {
                is::<previous_hosts::PreviousHostsPredicate>(&any)
            }
            // Older control planes give only the well-known name.
            None => m.name == "envoy.retry_host_predicates.previous_hosts",
        };
        if !known {
            cx.ignore_here("only previous_hosts is supported");
        }
        known.then_some(())
    });
    let previous_priorities = cx.optional("retry_priority", retry_priority, |cx, m| {
        use route::retry_policy::retry_priority::ConfigType;
        let Some(ConfigType::TypedConfig(any)) = m.config_type else {
            cx.invalid("typed_config", "is required");
            return None;
        };
        if !is::<previous_priorities::PreviousPrioritiesConfig>(&any) {
            cx.ignore_here("only previous_priorities is supported");
            return None;
        }
        let m: previous_priorities::PreviousPrioritiesConfig = cx.unpack(&any)?;
        Some(
            u32::try_from(m.update_frequency)
                .ok()
                .filter(|n| *n > 0)
                .unwrap_or(envoy::PREVIOUS_PRIORITIES),
        )
    });
    let status_codes = cx.each(
        "retriable_status_codes",
        retriable_status_codes,
        |cx, code| {
            let code = u16::try_from(code).ok();
            if code.is_none() {
                cx.invalid_here("is not an HTTP status");
            }
            code
        },
    );
    Some(RetryPolicy {
        on,
        retries: num_retries.map_or(envoy::RETRIES, |v| v.value),
        per_try_timeout: cx.limit("per_try_timeout", per_try_timeout, None),
        per_try_idle_timeout: cx.limit("per_try_idle_timeout", per_try_idle_timeout, None),
        status_codes,
        response_headers: cx.each("retriable_headers", retriable_headers, header_match),
        request_headers: cx.each(
            "retriable_request_headers",
            retriable_request_headers,
            header_match,
        ),
        backoff: cx.field("retry_back_off", |cx| backoff(cx, retry_back_off)),
        avoid_previous_hosts: !avoid.is_empty(),
        host_selection_attempts: u32::try_from(host_selection_retry_max_attempts)
            .ok()
            .filter(|n| *n > 0)
            .unwrap_or(envoy::HOST_SELECTION_ATTEMPTS),
        previous_priorities,
        scope: if implicit {
            RetryScope::Implicit
        } else {
            RetryScope::Explicit
        },
    })
}

fn backoff(cx: &mut Decoding, m: Option<route::retry_policy::RetryBackOff>) -> Backoff {
    let Some(m) = m else {
        return envoy::BACKOFF;
    };
    fields!(cx, m => route::retry_policy::RetryBackOff { base_interval, max_interval });
    let mut interval = |name, value: Option<google::Duration>| {
        let interval = cx.duration(name, value);
        if interval.is_some_and(|d| d.is_zero()) {
            cx.invalid(name, "must be longer than zero");
        }
        interval
    };
    let base = interval("base_interval", base_interval);
    let max = interval("max_interval", max_interval);
    if base.is_none() {
        cx.invalid("base_interval", "is required");
    }
    let base = base.unwrap_or(envoy::BACKOFF.base);
    let max = max.unwrap_or(base.saturating_mul(10));
    if max < base {
        cx.invalid("max_interval", "is shorter than base_interval");
    }
    Backoff { base, max }
}
