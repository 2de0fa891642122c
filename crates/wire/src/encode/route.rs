//! `RouteConfiguration`, virtual hosts, routes and their actions.

use std::collections::HashMap;

use ripstop_model::snapshot::http::PerFilter;
use ripstop_model::snapshot::retry::{RetryPolicy, RetryScope};
use ripstop_model::snapshot::route::{
    Action, Cors, Direct, Forward, HashPolicy, HashSource, HostRewrite, MaxStreamDuration, Mirror,
    PathMatch, PathRewrite, Priority, Redirect, RedirectPath, RequireTls, Route, RouteConfig,
    RouteMatch, Share, Split, VirtualHost,
};

use super::subset::criteria;
use super::value::{
    Meta, any, boolean, duration, header_edits, header_match, limit, pattern, query_match,
    runtime_fraction, string_match, substitution, truth, uint,
};
use super::{authz, http};
use crate::pb::{core, cors, google, http_rbac, previous_hosts, previous_priorities, route};

pub(crate) fn route_config(r: &RouteConfig) -> route::RouteConfiguration {
    let edits = header_edits(&r.headers);
    route::RouteConfiguration {
        name: r.name.to_string(),
        virtual_hosts: r.hosts.iter().map(|h| virtual_host(h)).collect(),
        internal_only_headers: r.internal_only_headers.clone(),
        request_headers_to_add: edits.request_add,
        request_headers_to_remove: edits.request_remove,
        response_headers_to_add: edits.response_add,
        response_headers_to_remove: edits.response_remove,
        most_specific_header_mutations_wins: r.most_specific_headers_win,
        ignore_port_in_host_matching: r.ignore_port,
        max_direct_response_body_size_bytes: uint(r.max_direct_response),
        // A route may name a cluster that is still on its way.
        validate_clusters: boolean(false),
        ..Default::default()
    }
}

fn virtual_host(h: &VirtualHost) -> route::VirtualHost {
    use route::virtual_host::TlsRequirementType;
    let edits = header_edits(&h.headers);
    let mut meta = Meta::default();
    put_scope(&mut meta, h.retry.as_deref());
    route::VirtualHost {
        name: h.name.to_string(),
        domains: h.domains.clone(),
        routes: h.routes.iter().map(|r| self::route(r)).collect(),
        require_tls: match h.require_tls {
            RequireTls::No => TlsRequirementType::None,
            RequireTls::ExternalOnly => TlsRequirementType::ExternalOnly,
            RequireTls::All => TlsRequirementType::All,
        }
        .into(),
        request_headers_to_add: edits.request_add,
        request_headers_to_remove: edits.request_remove,
        response_headers_to_add: edits.response_add,
        response_headers_to_remove: edits.response_remove,
        typed_per_filter_config: per_filter(&h.per_filter),
        include_request_attempt_count: h.request_attempt_count,
        include_attempt_count_in_response: h.response_attempt_count,
        retry_policy: h.retry.as_deref().map(retry_policy),
        metadata: meta.finish(),
        ..Default::default()
    }
}

/// A retry policy has no metadata of its own, so its scope travels on what holds it.
fn put_scope(meta: &mut Meta, retry: Option<&RetryPolicy>) {
    if retry.is_some_and(|r| r.scope == RetryScope::Implicit) {
        meta.put("ripstop", "implicitRetry", truth());
    }
}

fn route(r: &Route) -> route::Route {
    let edits = header_edits(&r.headers);
    let mut meta = Meta::default();
    meta.put_resource(&r.resource);
    if let Action::Forward(forward) = &r.action {
        put_scope(&mut meta, forward.retry.as_deref());
    }
    route::Route {
        name: r.name.to_string(),
        r#match: Some(route_match(&r.matches)),
        metadata: meta.finish(),
        typed_per_filter_config: per_filter(&r.per_filter),
        request_headers_to_add: edits.request_add,
        request_headers_to_remove: edits.request_remove,
        response_headers_to_add: edits.response_add,
        response_headers_to_remove: edits.response_remove,
        action: Some(match &r.action {
            Action::Forward(f) => route::route::Action::Route(forward(f)),
            Action::Redirect(r) => route::route::Action::Redirect(redirect(r)),
            Action::Direct(d) => route::route::Action::DirectResponse(direct(d)),
            Action::None => {
                route::route::Action::NonForwardingAction(route::NonForwardingAction::default())
            }
        }),
        ..Default::default()
    }
}

fn route_match(m: &RouteMatch) -> route::RouteMatch {
    use route::route_match::{
        ConnectMatcher, GrpcRouteMatchOptions, PathSpecifier, TlsContextMatchOptions,
    };
    route::RouteMatch {
        path_specifier: Some(match &m.path {
            PathMatch::Prefix(prefix) => PathSpecifier::Prefix(prefix.clone()),
            PathMatch::SegmentPrefix(prefix) => PathSpecifier::PathSeparatedPrefix(prefix.clone()),
            PathMatch::Exact(path) => PathSpecifier::Path(path.clone()),
            PathMatch::Regex(regex) => PathSpecifier::SafeRegex(pattern(regex)),
            PathMatch::Connect => PathSpecifier::ConnectMatcher(ConnectMatcher::default()),
        }),
        case_sensitive: m.ignore_case.then_some(google::BoolValue { value: false }),
        headers: m.headers.iter().map(header_match).collect(),
        query_parameters: m.query.iter().map(query_match).collect(),
        runtime_fraction: m.fraction.map(runtime_fraction),
        grpc: m.grpc.then(GrpcRouteMatchOptions::default),
        tls_context: m.tls_presented.map(|presented| TlsContextMatchOptions {
            presented: boolean(presented),
            validated: None,
        }),
        ..Default::default()
    }
}

#[allow(deprecated)] // What takes its place makes a stock Envoy ignore the route's own timeout.
fn forward(f: &Forward) -> route::RouteAction {
    use route::route_action::{
        ClusterNotFoundResponseCode as Missing, HostRewriteSpecifier as Host, UpgradeConfig,
    };
    let mut m = route::RouteAction {
        cluster_specifier: Some(split(&f.to)),
        append_x_forwarded_host: f.append_forwarded_host,
        timeout: Some(limit(f.timeout)),
        idle_timeout: f.idle_timeout.map(limit),
        max_stream_duration: f.max_stream_duration.as_ref().map(max_stream_duration),
        max_grpc_timeout: f.grpc_timeout.map(|grpc| limit(grpc.max)),
        grpc_timeout_offset: f
            .grpc_timeout
            .filter(|grpc| !grpc.offset.is_zero())
            .map(|grpc| duration(grpc.offset)),
        retry_policy: f.retry.as_deref().map(retry_policy),
        hash_policy: f.hash.iter().map(hash).collect(),
        request_mirror_policies: f.mirrors.iter().map(mirror).collect(),
        priority: match f.priority {
            Priority::Default => core::RoutingPriority::Default,
            Priority::High => core::RoutingPriority::High,
        }
        .into(),
        upgrade_configs: f
            .upgrades
            .iter()
            .map(|(token, enabled)| UpgradeConfig {
                upgrade_type: token.clone(),
                enabled: boolean(*enabled),
                ..Default::default()
            })
            .collect(),
        metadata_match: criteria(&f.criteria),
        cluster_not_found_response_code: match f.missing_cluster_status {
            404 => Missing::NotFound,
            500 => Missing::InternalServerError,
            _ => Missing::ServiceUnavailable,
        }
        .into(),
        ..Default::default()
    };
    match &f.path_rewrite {
        PathRewrite::None => {}
        PathRewrite::Prefix(prefix) => m.prefix_rewrite.clone_from(prefix),
        PathRewrite::Full(path) => m.path_rewrite = path.replace('%', "%%"),
        PathRewrite::Regex {
            pattern,
            substitution: text,
        } => m.regex_rewrite = Some(substitution(pattern, text)),
    }
    m.host_rewrite_specifier = match &f.host_rewrite {
        HostRewrite::None => None,
        HostRewrite::Literal(host) => Some(Host::HostRewriteLiteral(host.clone())),
        HostRewrite::Auto => Some(Host::AutoHostRewrite(google::BoolValue { value: true })),
        HostRewrite::Header(name) => Some(Host::HostRewriteHeader(name.clone())),
        HostRewrite::PathRegex {
            pattern,
            substitution: text,
        } => Some(Host::HostRewritePathRegex(substitution(pattern, text))),
    };
    m
}

fn split(s: &Split) -> route::route_action::ClusterSpecifier {
    use route::route_action::ClusterSpecifier as Cluster;
    match s {
        Split::One(name) => Cluster::Cluster(name.to_string()),
        Split::Header(name) => Cluster::ClusterHeader(name.clone()),
        Split::Weighted { shares, total: _ } => Cluster::WeightedClusters(route::WeightedCluster {
            clusters: shares.iter().map(share).collect(),
            ..Default::default()
        }),
    }
}

fn share(s: &Share) -> route::weighted_cluster::ClusterWeight {
    use route::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    let edits = header_edits(&s.headers);
    route::weighted_cluster::ClusterWeight {
        name: s.cluster.to_string(),
        weight: uint(s.weight),
        metadata_match: criteria(&s.criteria),
        request_headers_to_add: edits.request_add,
        request_headers_to_remove: edits.request_remove,
        response_headers_to_add: edits.response_add,
        response_headers_to_remove: edits.response_remove,
        typed_per_filter_config: per_filter(&s.per_filter),
        host_rewrite_specifier: s
            .host_rewrite
            .clone()
            .map(HostRewriteSpecifier::HostRewriteLiteral),
        ..Default::default()
    }
}

fn max_stream_duration(d: &MaxStreamDuration) -> route::route_action::MaxStreamDuration {
    route::route_action::MaxStreamDuration {
        max_stream_duration: d.limit.map(limit),
        grpc_timeout_header_max: d.grpc_max.map(limit),
        grpc_timeout_header_offset: (!d.grpc_offset.is_zero()).then(|| duration(d.grpc_offset)),
    }
}

fn hash(h: &HashPolicy) -> route::route_action::HashPolicy {
    use route::route_action::hash_policy::{
        ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier, QueryParameter,
    };
    let specifier = match &h.source {
        HashSource::Header(name) => PolicySpecifier::Header(Header {
            header_name: name.clone(),
            regex_rewrite: None,
        }),
        HashSource::Cookie {
            name,
            path,
            ttl,
            attributes,
        } => PolicySpecifier::Cookie(Cookie {
            name: name.clone(),
            ttl: ttl.map(duration),
            path: path.clone(),
            attributes: attributes
                .iter()
                .map(|(name, value)| CookieAttribute {
                    name: name.clone(),
                    value: value.clone(),
                })
                .collect(),
        }),
        HashSource::SourceIp => {
            PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true })
        }
        HashSource::Query(name) => {
            PolicySpecifier::QueryParameter(QueryParameter { name: name.clone() })
        }
    };
    route::route_action::HashPolicy {
        terminal: h.terminal,
        policy_specifier: Some(specifier),
    }
}

fn mirror(m: &Mirror) -> route::route_action::RequestMirrorPolicy {
    route::route_action::RequestMirrorPolicy {
        cluster: m.cluster.to_string(),
        runtime_fraction: Some(runtime_fraction(m.fraction)),
        disable_shadow_host_suffix_append: !m.shadow_suffix,
        ..Default::default()
    }
}

fn retry_policy(r: &RetryPolicy) -> route::RetryPolicy {
    use route::retry_policy::{
        RetryBackOff, RetryHostPredicate, RetryPriority, retry_host_predicate, retry_priority,
    };
    route::RetryPolicy {
        retry_on: r.on.to_string(),
        num_retries: uint(r.retries),
        per_try_timeout: r.per_try_timeout.map(duration),
        per_try_idle_timeout: r.per_try_idle_timeout.map(duration),
        retry_host_predicate: r
            .avoid_previous_hosts
            .then(|| RetryHostPredicate {
                name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
                config_type: Some(retry_host_predicate::ConfigType::TypedConfig(any(
                    &previous_hosts::PreviousHostsPredicate::default(),
                ))),
            })
            .into_iter()
            .collect(),
        host_selection_retry_max_attempts: r.host_selection_attempts.into(),
        retry_priority: r.previous_priorities.map(|frequency| RetryPriority {
            name: "envoy.retry_priorities.previous_priorities".to_owned(),
            config_type: Some(retry_priority::ConfigType::TypedConfig(any(
                &previous_priorities::PreviousPrioritiesConfig {
                    update_frequency: i32::try_from(frequency).unwrap_or(i32::MAX),
                },
            ))),
        }),
        retriable_status_codes: r.status_codes.iter().map(|code| (*code).into()).collect(),
        retriable_headers: r.response_headers.iter().map(header_match).collect(),
        retriable_request_headers: r.request_headers.iter().map(header_match).collect(),
        retry_back_off: Some(RetryBackOff {
            base_interval: Some(duration(r.backoff.base)),
            max_interval: Some(duration(r.backoff.max)),
        }),
        ..Default::default()
    }
}

fn redirect(r: &Redirect) -> route::RedirectAction {
    use route::redirect_action::{
        PathRewriteSpecifier as Path, RedirectResponseCode as Code,
        SchemeRewriteSpecifier as Scheme,
    };
    route::RedirectAction {
        host_redirect: r.host.clone().unwrap_or_default(),
        port_redirect: r.port.unwrap_or_default().into(),
        response_code: match r.status {
            302 => Code::Found,
            303 => Code::SeeOther,
            307 => Code::TemporaryRedirect,
            308 => Code::PermanentRedirect,
            _ => Code::MovedPermanently,
        }
        .into(),
        strip_query: r.strip_query,
        scheme_rewrite_specifier: match &r.scheme {
            Some(scheme) => Some(Scheme::SchemeRedirect(scheme.clone())),
            None => r.https.then_some(Scheme::HttpsRedirect(true)),
        },
        path_rewrite_specifier: match &r.path {
            RedirectPath::Keep => None,
            RedirectPath::Full(path) => Some(Path::PathRedirect(path.clone())),
            RedirectPath::Prefix(prefix) => Some(Path::PrefixRewrite(prefix.clone())),
            RedirectPath::Regex {
                pattern,
                substitution: text,
            } => Some(Path::RegexRewrite(substitution(pattern, text))),
        },
    }
}

fn direct(d: &Direct) -> route::DirectResponseAction {
    use core::data_source::Specifier;
    let body = (!d.body.is_empty()).then(|| core::DataSource {
        watched_directory: None,
        specifier: Some(match String::from_utf8(d.body.clone()) {
            Ok(text) => Specifier::InlineString(text),
            Err(error) => Specifier::InlineBytes(error.into_bytes()),
        }),
    });
    route::DirectResponseAction {
        status: d.status.into(),
        body,
        body_format: None,
    }
}

pub(super) fn per_filter(p: &PerFilter) -> HashMap<String, google::Any> {
    let mut map = HashMap::new();
    if let Some(fault) = &p.fault {
        map.insert(
            "envoy.filters.http.fault".to_owned(),
            any(&http::fault(fault)),
        );
    }
    if let Some(policy) = &p.cors {
        map.insert(
            "envoy.filters.http.cors".to_owned(),
            any(&self::cors(policy)),
        );
    }
    for change in &p.authz {
        let rbac = http_rbac::RbacPerRoute {
            rbac: change.rules.as_deref().map(authz::http),
        };
        map.insert(change.filter.to_string(), any(&rbac));
    }
    map
}

fn cors(c: &Cors) -> cors::CorsPolicy {
    cors::CorsPolicy {
        allow_origin_string_match: c.allow_origins.iter().map(string_match).collect(),
        allow_methods: c.allow_methods.clone(),
        allow_headers: c.allow_headers.clone(),
        expose_headers: c.expose_headers.clone(),
        max_age: c.max_age.clone(),
        allow_credentials: c.allow_credentials.and_then(boolean),
        forward_not_matching_preflights: c.forward_unmatched_preflights.and_then(boolean),
        ..Default::default()
    }
}
