//! `RouteConfiguration`, `VirtualHost`, `Route` and its match; the action is in `route_action`.

use std::collections::HashMap;
use std::sync::Arc;

use ripstop_model::defaults::envoy;
use ripstop_model::snapshot::http::{AuthzOverride, PerFilter};
use ripstop_model::snapshot::route::{
    Action, Cors, PathMatch, RequireTls, Route, RouteConfig, RouteMatch, VirtualHost,
};

use super::value::{
    RawEdits, flag, header_edits, header_match, metadata, pattern, query_match, resource,
    runtime_fraction, string_match,
};
use super::{Decoding, authz, fields, http_filter, is, retry, route_action};
use crate::pb::{core, cors, fault, google, http_rbac, route};

pub(crate) fn route_config(cx: &mut Decoding, m: route::RouteConfiguration) -> Option<RouteConfig> {
    fields!(cx, m => route::RouteConfiguration {
            name, virtual_hosts, internal_only_headers, response_headers_to_add,
            response_headers_to_remove, request_headers_to_add, request_headers_to_remove,
            most_specific_header_mutations_wins, max_direct_response_body_size_bytes,
            ignore_port_in_host_matching, typed_per_filter_config,
        }
        refuse { vhost_header, ignore_path_parameters_in_path_matching }
        ignore { vhds, cluster_specifier_plugins, request_mirror_policies, route_specifiers }
        inert { validate_clusters, metadata });
    let headers = header_edits(
        cx,
        RawEdits {
            request_add: request_headers_to_add,
            request_remove: request_headers_to_remove,
            response_add: response_headers_to_add,
            response_remove: response_headers_to_remove,
        },
    );
    // Per-filter settings of the whole table are inherited by each of its hosts.
    let inherited = per_filter(cx, typed_per_filter_config);
    let hosts = cx.each("virtual_hosts", virtual_hosts, |cx, m| {
        let mut host = virtual_host(cx, m)?;
        inherit(&mut host.per_filter, &inherited);
        Some(Arc::new(host))
    });
    let max_direct_response =
        max_direct_response_body_size_bytes.map_or(envoy::DIRECT_RESPONSE_LIMIT, |v| v.value);
    for (host, route, length) in direct_bodies(&hosts) {
        if length > max_direct_response as usize {
            cx.field(&format!("virtual_hosts[{host}].routes[{route}].direct_response.body"), |cx| {
                cx.invalid_here(format!(
                    "has {length} bytes, and max_direct_response_body_size_bytes allows {max_direct_response}"
                ));
            });
        }
    }
    Some(RouteConfig {
        name: name.into(),
        hosts,
        headers,
        internal_only_headers: internal_only_headers
            .iter()
            .map(|name| name.to_ascii_lowercase())
            .collect(),
        most_specific_headers_win: most_specific_header_mutations_wins,
        ignore_port: ignore_port_in_host_matching,
        max_direct_response,
    })
}

/// Of each direct response: its virtual host, its route, and the length of its body.
fn direct_bodies(hosts: &[Arc<VirtualHost>]) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
    hosts.iter().enumerate().flat_map(|(at, host)| {
        let routes = host.routes.iter().enumerate();
        routes.filter_map(move |(route, found)| match &found.action {
            Action::Direct(direct) => Some((at, route, direct.body.len())),
            Action::Forward(_) | Action::Redirect(_) | Action::None => None,
        })
    })
}

fn inherit(own: &mut PerFilter, from: &PerFilter) {
    if own.fault.is_none() {
        own.fault.clone_from(&from.fault);
    }
    if own.cors.is_none() {
        own.cors.clone_from(&from.cors);
    }
    for other in &from.authz {
        if !own.authz.iter().any(|mine| mine.filter == other.filter) {
            own.authz.push(other.clone());
        }
    }
}

#[allow(deprecated)]
fn virtual_host(cx: &mut Decoding, m: route::VirtualHost) -> Option<VirtualHost> {
    fields!(cx, m => route::VirtualHost {
            name, domains, routes, require_tls, request_headers_to_add, request_headers_to_remove,
            response_headers_to_add, response_headers_to_remove, typed_per_filter_config,
            include_request_attempt_count, include_attempt_count_in_response, retry_policy, metadata,
        }
        refuse { rate_limits }
        ignore {
            matcher, cors, retry_policy_typed_config, hedge_policy, include_is_timeout_retry_header,
            per_request_buffer_limit_bytes, request_body_buffer_limit, request_mirror_policies,
            route_specifiers,
        }
        inert { virtual_clusters });
    if domains.is_empty() {
        cx.invalid("domains", "is required");
    }
    let implicit = flag(self::metadata(&metadata, "ripstop"), "implicitRetry");
    let headers = header_edits(
        cx,
        RawEdits {
            request_add: request_headers_to_add,
            request_remove: request_headers_to_remove,
            response_add: response_headers_to_add,
            response_remove: response_headers_to_remove,
        },
    );
    use route::virtual_host::TlsRequirementType;
    Some(VirtualHost {
        name: name.into(),
        domains: domains.iter().map(|d| d.to_ascii_lowercase()).collect(),
        routes: cx.each("routes", routes, |cx, m| self::route(cx, m).map(Arc::new)),
        headers,
        require_tls: match cx.enumeration("require_tls", require_tls)? {
            TlsRequirementType::None => RequireTls::No,
            TlsRequirementType::ExternalOnly => RequireTls::ExternalOnly,
            TlsRequirementType::All => RequireTls::All,
        },
        retry: cx
            .optional("retry_policy", retry_policy, |cx, m| {
                retry::retry_policy(cx, m, implicit)
            })
            .map(Arc::new),
        request_attempt_count: include_request_attempt_count,
        response_attempt_count: include_attempt_count_in_response,
        per_filter: per_filter(cx, typed_per_filter_config),
    })
}

#[allow(deprecated)]
fn route(cx: &mut Decoding, m: route::Route) -> Option<Route> {
    fields!(cx, m => route::Route {
            name, r#match, metadata, typed_per_filter_config, request_headers_to_add,
            request_headers_to_remove, response_headers_to_add, response_headers_to_remove, action,
        }
        ignore {
            tracing, per_request_buffer_limit_bytes, request_body_buffer_limit, route_specifiers,
        }
        inert { decorator, stat_prefix });
    let headers = header_edits(
        cx,
        RawEdits {
            request_add: request_headers_to_add,
            request_remove: request_headers_to_remove,
            response_add: response_headers_to_add,
            response_remove: response_headers_to_remove,
        },
    );
    let implicit = flag(self::metadata(&metadata, "ripstop"), "implicitRetry");
    let matches = cx.required("match", r#match, route_match);
    let action = route_action::action(cx, action, implicit);
    let per_filter = per_filter(cx, typed_per_filter_config);
    Some(Route {
        name: name.into(),
        matches: matches?,
        action: action?,
        headers,
        per_filter,
        resource: resource(&metadata),
    })
}

fn route_match(cx: &mut Decoding, m: route::RouteMatch) -> Option<RouteMatch> {
    use route::route_match::PathSpecifier as Path;
    fields!(cx, m => route::RouteMatch {
            case_sensitive, runtime_fraction, headers, query_parameters, grpc, tls_context,
            path_specifier,
        }
        refuse { cookies, dynamic_metadata, filter_state });
    let path = match path_specifier {
        Some(Path::Prefix(prefix)) => PathMatch::Prefix(prefix),
        Some(Path::Path(path)) => PathMatch::Exact(path),
        Some(Path::PathSeparatedPrefix(prefix)) => PathMatch::SegmentPrefix(prefix),
        Some(Path::SafeRegex(regex)) => {
            PathMatch::Regex(cx.field("safe_regex", |cx| pattern(cx, regex))?)
        }
        Some(Path::ConnectMatcher(_)) => PathMatch::Connect,
        Some(Path::PathMatchPolicy(_)) => {
            cx.invalid("path_match_policy", "is not supported; use safe_regex");
            return None;
        }
        None => {
            cx.invalid_here("has no path, prefix or regex");
            return None;
        }
    };
    let tls_presented = cx.field("tls_context", |cx| {
        let route::route_match::TlsContextMatchOptions {
            presented,
            validated,
        } = tls_context?;
        cx.refuse("validated", validated.is_some());
        presented.map(|v| v.value)
    });
    Some(RouteMatch {
        path,
        ignore_case: case_sensitive.is_some_and(|v| !v.value),
        headers: cx.each("headers", headers, header_match),
        query: cx.each("query_parameters", query_parameters, query_match),
        fraction: cx.optional("runtime_fraction", runtime_fraction, self::runtime_fraction),
        grpc: grpc.is_some(),
        tls_presented,
    })
}

/// `typed_per_filter_config`. Settings for a filter that is not supported have nothing to act on: that filter's own
/// presence in the listener was refused or reported there.
pub(super) fn per_filter(cx: &mut Decoding, map: HashMap<String, google::Any>) -> PerFilter {
    let mut settings = PerFilter::default();
    let mut entries: Vec<_> = map.into_iter().collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    cx.field("typed_per_filter_config", |cx| {
        for (filter, any) in entries {
            cx.key(&filter, |cx| one_filter(cx, &mut settings, &filter, any));
        }
    });
    settings
}

fn one_filter(cx: &mut Decoding, settings: &mut PerFilter, filter: &str, any: google::Any) {
    let (any, disabled) = if is::<route::FilterConfig>(&any) {
        let Some(route::FilterConfig {
            config,
            is_optional: _,
            disabled,
        }) = cx.unpack(&any)
        else {
            return;
        };
        (config, disabled)
    } else {
        (Some(any), false)
    };
    if disabled {
        match filter {
            "envoy.filters.http.fault" => settings.fault = Some(Arc::default()),
            "envoy.filters.http.cors" => settings.cors = Some(Arc::default()),
            _ => settings.authz.push(AuthzOverride {
                filter: filter.into(),
                rules: None,
            }),
        }
        return;
    }
    let Some(any) = any else {
        cx.invalid("config", "is required");
        return;
    };
    if is::<fault::HttpFault>(&any) {
        let fault = cx.unpack(&any).and_then(|m| http_filter::fault(cx, m));
        settings.fault = fault.map(Arc::new);
    } else if is::<cors::CorsPolicy>(&any) {
        let policy = cx.unpack(&any).and_then(|m| self::cors(cx, m));
        settings.cors = policy.map(Arc::new);
    } else if is::<http_rbac::RbacPerRoute>(&any) {
        let Some(http_rbac::RbacPerRoute { rbac }) = cx.unpack(&any) else {
            return;
        };
        let rules = cx.optional("rbac", rbac, |cx, m| {
            let mut filters = authz::http(cx, filter, m);
            if filters.len() > 1 {
                cx.ignore("shadow_rules", true);
            }
            (!filters.is_empty()).then(|| filters.swap_remove(0))
        });
        settings.authz.push(AuthzOverride {
            filter: filter.into(),
            rules: rules.map(Arc::new),
        });
    } else {
        cx.ignore_here(format!("{} is not supported; remove it", any.type_url));
    }
}

fn cors(cx: &mut Decoding, m: cors::CorsPolicy) -> Option<Cors> {
    fields!(cx, m => cors::CorsPolicy {
            allow_origin_string_match, allow_methods, allow_headers, expose_headers, max_age,
            allow_credentials, filter_enabled, forward_not_matching_preflights,
        }
        ignore { shadow_enabled, allow_private_network_access });
    cx.field("filter_enabled", |cx| {
        let core::RuntimeFractionalPercent {
            default_value,
            runtime_key: _,
        } = filter_enabled.unwrap_or_default();
        let whole = default_value.is_none_or(|m| {
            super::value::fraction(cx, m) == Some(ripstop_model::snapshot::Fraction::ALWAYS)
        });
        if !whole {
            cx.ignore_here("only 100 percent is supported");
        }
    });
    Some(Cors {
        allow_origins: cx.each(
            "allow_origin_string_match",
            allow_origin_string_match,
            string_match,
        ),
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
        allow_credentials: allow_credentials.map(|v| v.value),
        forward_unmatched_preflights: forward_not_matching_preflights.map(|v| v.value),
    })
}
