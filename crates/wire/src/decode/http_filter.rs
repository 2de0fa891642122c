//! The HTTP filters of a connection manager, and fault injection wherever it is configured.

use std::sync::Arc;

use ripstop_model::snapshot::Fraction;
use ripstop_model::snapshot::fault::{Abort, Delay, Fault};
use ripstop_model::snapshot::http::{HttpFilter, Router};

use super::value::{fraction, header_match};
use super::{Decoding, authz, fields, is};
use crate::pb::{
    TypedStruct, cors, fault, fault_common, foreign, google, grpc_stats, hcm, http_rbac, router,
};

/// Decodes the list in order; the router must end it.
pub(super) fn http_filters(cx: &mut Decoding, filters: Vec<hcm::HttpFilter>) -> Vec<HttpFilter> {
    let decoded = cx.each("http_filters", filters, |cx, m| Some(http_filter(cx, m)));
    let filters: Vec<HttpFilter> = decoded.into_iter().flatten().collect();
    let routers = filters
        .iter()
        .filter(|f| matches!(f, HttpFilter::Router(_)))
        .count();
    if routers != 1 || !matches!(filters.last(), Some(HttpFilter::Router(_))) {
        cx.invalid("http_filters", "must end with envoy.filters.http.router");
    }
    filters
}

fn http_filter(cx: &mut Decoding, m: hcm::HttpFilter) -> Vec<HttpFilter> {
    use hcm::http_filter::ConfigType;
    fields!(cx, m => hcm::HttpFilter { name, is_optional, config_type } refuse { disabled });
    let any = match config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(_)) => {
            cx.refuse("config_discovery", true);
            return Vec::new();
        }
        None => {
            cx.invalid("typed_config", "is required");
            return Vec::new();
        }
    };
    cx.field("typed_config", |cx| {
        let kind = type_of(cx, &any);
        if is::<router::Router>(&any) {
            let m = cx.unpack(&any).unwrap_or_default();
            vec![HttpFilter::Router(router(cx, m))]
        } else if is::<http_rbac::Rbac>(&any) {
            let filters = cx.unpack(&any).map(|m| authz::http(cx, &name, m));
            let filters = filters.unwrap_or_default();
            filters.into_iter().map(|f| HttpFilter::Authz(Arc::new(f))).collect()
        } else if is::<fault::HttpFault>(&any) {
            let fault = cx.unpack(&any).and_then(|m| fault(cx, m));
            fault.map(|f| HttpFilter::Fault(Arc::new(f))).into_iter().collect()
        } else if is::<cors::Cors>(&any) {
            vec![HttpFilter::Cors]
        } else if is::<grpc_stats::FilterConfig>(&any) {
            vec![HttpFilter::GrpcStats]
        } else if kind == foreign::PEER_METADATA {
            vec![HttpFilter::PeerMetadata]
        } else if HARMLESS.contains(&kind.as_str()) || is_optional {
            cx.ignore_here(format!("filter {kind} is not supported; remove it"));
            Vec::new()
        } else {
            cx.refuse_here(format!(
                "filter {kind} is not supported, and leaving it out could weaken security; remove it"
            ));
            Vec::new()
        }
    })
}

/// The message an extension is configured with, seen through `TypedStruct`.
pub(super) fn type_of(cx: &mut Decoding, any: &google::Any) -> String {
    if foreign::TYPED_STRUCTS.contains(&any.type_url.as_str()) {
        cx.unpack::<TypedStruct>(any)
            .map(|m| m.type_url)
            .unwrap_or_default()
    } else {
        any.type_url.clone()
    }
}

/// Filters that decide nothing about who may do what: without them only statistics, encodings or speed differ.
const HARMLESS: &[&str] = &[
    foreign::ISTIO_STATS,
    foreign::ISTIO_ALPN,
    "type.googleapis.com/envoy.extensions.filters.http.compressor.v3.Compressor",
    "type.googleapis.com/envoy.extensions.filters.http.decompressor.v3.Decompressor",
    "type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb",
    "type.googleapis.com/envoy.extensions.filters.http.grpc_http1_bridge.v3.Config",
    "type.googleapis.com/envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency",
    "type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSession",
];

#[allow(deprecated)]
fn router(cx: &mut Decoding, m: router::Router) -> Router {
    fields!(cx, m => router::Router { suppress_envoy_headers, respect_expected_rq_timeout }
        refuse { upstream_http_filters }
        ignore { upstream_log, upstream_log_options, strict_check_headers, reject_connect_request_early_data }
        inert { dynamic_stats, start_child_span, suppress_grpc_request_failure_code_stats });
    Router {
        suppress_envoy_headers,
        respect_expected_rq_timeout,
    }
}

pub(super) fn fault(cx: &mut Decoding, m: fault::HttpFault) -> Option<Fault> {
    fields!(cx, m => fault::HttpFault { delay, abort, upstream_cluster, headers, max_active_faults }
    ignore { downstream_nodes, response_rate_limit }
    inert {
        delay_percent_runtime, abort_percent_runtime, delay_duration_runtime,
        abort_http_status_runtime, max_active_faults_runtime,
        response_rate_limit_percent_runtime, abort_grpc_status_runtime,
        disable_downstream_cluster_stats, filter_metadata,
    });
    Some(Fault {
        delay: cx.optional("delay", delay, self::delay),
        abort: cx.optional("abort", abort, self::abort),
        headers: cx.each("headers", headers, header_match),
        upstream_cluster: Some(upstream_cluster).filter(|c| !c.is_empty()),
        max_active: max_active_faults.map(|v| v.value),
    })
}

fn delay(cx: &mut Decoding, m: fault_common::FaultDelay) -> Option<(Fraction, Delay)> {
    use fault_common::fault_delay::FaultDelaySecifier as Specifier;
    fields!(cx, m => fault_common::FaultDelay { percentage, fault_delay_secifier });
    let share = cx
        .optional("percentage", percentage, fraction)
        .unwrap_or(Fraction::NEVER);
    let delay = match fault_delay_secifier {
        Some(Specifier::FixedDelay(d)) => Delay::Fixed(cx.duration("fixed_delay", Some(d))?),
        Some(Specifier::HeaderDelay(_)) => Delay::Header,
        None => {
            cx.invalid_here("needs fixed_delay or header_delay");
            return None;
        }
    };
    Some((share, delay))
}

fn abort(cx: &mut Decoding, m: fault::FaultAbort) -> Option<(Fraction, Abort)> {
    use fault::fault_abort::ErrorType;
    fields!(cx, m => fault::FaultAbort { percentage, error_type } ignore { response_body });
    let share = cx
        .optional("percentage", percentage, fraction)
        .unwrap_or(Fraction::NEVER);
    let abort = match error_type {
        Some(ErrorType::HttpStatus(status)) => {
            match u16::try_from(status)
                .ok()
                .filter(|s| (200..600).contains(s))
            {
                Some(status) => Abort::Http(status),
                None => {
                    cx.invalid("http_status", "must be in 200..600");
                    return None;
                }
            }
        }
        Some(ErrorType::GrpcStatus(status)) => Abort::Grpc(status),
        Some(ErrorType::HeaderAbort(_)) => Abort::Header,
        None => {
            cx.invalid_here("needs http_status, grpc_status or header_abort");
            return None;
        }
    };
    Some((share, abort))
}
