//! What a route does with a request: forward, redirect, answer.

use std::sync::Arc;

use ripstop_model::defaults::envoy;
use ripstop_model::format::Template;
use ripstop_model::snapshot::Fraction;
use ripstop_model::snapshot::route::{
    Action, Direct, Forward, GrpcTimeout, HashPolicy, HashSource, HostRewrite, MaxStreamDuration,
    Mirror, PathRewrite, Priority, Redirect, RedirectPath, Share, Split,
};
use ripstop_model::snapshot::tls::Pem;
use ripstop_model::subset::Criteria;

use super::route::per_filter;
use super::value::{RawEdits, header_edits, pem, runtime_fraction, substitution};
use super::{Decoding, fields, retry, subset};
use crate::pb::{core, google, route};

pub(super) fn action(
    cx: &mut Decoding,
    m: Option<route::route::Action>,
    implicit_retry: bool,
) -> Option<Action> {
    use route::route::Action as Wire;
    match m {
        Some(Wire::Route(m)) => cx
            .field("route", |cx| forward(cx, m, implicit_retry))
            .map(|f| Action::Forward(Box::new(f))),
        Some(Wire::Redirect(m)) => cx
            .field("redirect", |cx| redirect(cx, m))
            .map(|r| Action::Redirect(Box::new(r))),
        Some(Wire::DirectResponse(m)) => cx
            .field("direct_response", |cx| direct(cx, m))
            .map(Action::Direct),
        Some(Wire::NonForwardingAction(_)) => Some(Action::None),
        Some(Wire::FilterAction(_)) => {
            cx.invalid("filter_action", "is not supported");
            None
        }
        None => {
            cx.invalid_here("has no action: give route, redirect or direct_response");
            None
        }
    }
}

#[allow(deprecated)]
fn forward(cx: &mut Decoding, m: route::RouteAction, implicit_retry: bool) -> Option<Forward> {
    use route::route_action::{
        ClusterNotFoundResponseCode as Missing, HostRewriteSpecifier as Host,
    };
    fields!(cx, m => route::RouteAction {
            cluster_not_found_response_code, prefix_rewrite, regex_rewrite,
            path_rewrite, append_x_forwarded_host, timeout, idle_timeout, retry_policy,
            request_mirror_policies, priority, hash_policy, max_grpc_timeout, grpc_timeout_offset,
            upgrade_configs, max_stream_duration, cluster_specifier, host_rewrite_specifier, metadata_match,
        }
        refuse { rate_limits }
        ignore {
            path_rewrite_policy, flush_timeout, early_data_policy, retry_policy_typed_config, cors,
            internal_redirect_policy, internal_redirect_action, max_internal_redirects, hedge_policy,
        }
        inert { include_vh_rate_limits });
    let criteria = subset::criteria(cx, metadata_match, None);
    let to = split(cx, cluster_specifier, criteria.as_ref());
    let path_rewrite = if let Some(m) = regex_rewrite {
        let (pattern, substitution) = cx.field("regex_rewrite", |cx| substitution(cx, m))?;
        PathRewrite::Regex {
            pattern,
            substitution,
        }
    } else if !prefix_rewrite.is_empty() {
        PathRewrite::Prefix(prefix_rewrite)
    } else if !path_rewrite.is_empty() {
        PathRewrite::Full(cx.field("path_rewrite", |cx| literal(cx, &path_rewrite))?)
    } else {
        PathRewrite::None
    };
    let host_rewrite = match host_rewrite_specifier {
        None => HostRewrite::None,
        Some(Host::HostRewriteLiteral(host)) => HostRewrite::Literal(host),
        Some(Host::AutoHostRewrite(google::BoolValue { value: true })) => HostRewrite::Auto,
        Some(Host::AutoHostRewrite(google::BoolValue { value: false })) => HostRewrite::None,
        Some(Host::HostRewriteHeader(name)) => HostRewrite::Header(name.to_ascii_lowercase()),
        Some(Host::HostRewritePathRegex(m)) => {
            let (pattern, substitution) =
                cx.field("host_rewrite_path_regex", |cx| substitution(cx, m))?;
            HostRewrite::PathRegex {
                pattern,
                substitution,
            }
        }
        Some(Host::HostRewrite(_)) => {
            cx.ignore("host_rewrite", true);
            HostRewrite::None
        }
    };
    let max_stream_duration = cx.optional("max_stream_duration", max_stream_duration, max_stream);
    let grpc_timeout = max_grpc_timeout.map(|max| GrpcTimeout {
        max: cx.limit("max_grpc_timeout", Some(max), None),
        offset: cx
            .duration("grpc_timeout_offset", grpc_timeout_offset)
            .unwrap_or_default(),
    });
    let upgrades = cx.each("upgrade_configs", upgrade_configs, |cx, m| {
        fields!(cx, m => route::route_action::UpgradeConfig { upgrade_type, enabled }
            ignore { connect_config });
        Some((
            upgrade_type.to_ascii_lowercase(),
            enabled.is_none_or(|v| v.value),
        ))
    });
    let missing_cluster_status = match cx.enumeration(
        "cluster_not_found_response_code",
        cluster_not_found_response_code,
    )? {
        Missing::ServiceUnavailable => 503,
        Missing::NotFound => 404,
        Missing::InternalServerError => 500,
    };
    Some(Forward {
        path_rewrite,
        host_rewrite,
        append_forwarded_host: append_x_forwarded_host,
        criteria,
        timeout: cx.limit("timeout", timeout, envoy::ROUTE_TIMEOUT),
        idle_timeout: idle_timeout.map(|d| cx.limit("idle_timeout", Some(d), None)),
        max_stream_duration,
        grpc_timeout,
        retry: cx
            .optional("retry_policy", retry_policy, |cx, m| {
                retry::retry_policy(cx, m, implicit_retry)
            })
            .map(Arc::new),
        hash: cx.each("hash_policy", hash_policy, hash),
        mirrors: cx.each("request_mirror_policies", request_mirror_policies, mirror),
        priority: match cx.enumeration("priority", priority)? {
            core::RoutingPriority::Default => Priority::Default,
            core::RoutingPriority::High => Priority::High,
        },
        upgrades,
        missing_cluster_status,
        to: to?,
    })
}

/// A format that asks nothing of the request.
fn literal(cx: &mut Decoding, format: &str) -> Option<String> {
    let found = Template::parse(format);
    let text = found.as_ref().ok().and_then(Template::literal);
    if text.is_none() {
        cx.invalid_here(
            "operators (%…%) are not supported here; write the path itself, and %% for %",
        );
    }
    text.map(str::to_owned)
}

fn max_stream(
    cx: &mut Decoding,
    m: route::route_action::MaxStreamDuration,
) -> Option<MaxStreamDuration> {
    fields!(cx, m => route::route_action::MaxStreamDuration {
        max_stream_duration, grpc_timeout_header_max, grpc_timeout_header_offset,
    });
    Some(MaxStreamDuration {
        limit: max_stream_duration.map(|d| cx.limit("max_stream_duration", Some(d), None)),
        grpc_max: grpc_timeout_header_max
            .map(|d| cx.limit("grpc_timeout_header_max", Some(d), None)),
        grpc_offset: cx
            .duration("grpc_timeout_header_offset", grpc_timeout_header_offset)
            .unwrap_or_default(),
    })
}

#[allow(deprecated)]
fn split(
    cx: &mut Decoding,
    m: Option<route::route_action::ClusterSpecifier>,
    criteria: Option<&Arc<Criteria>>,
) -> Option<Split> {
    use route::route_action::ClusterSpecifier as Cluster;
    match m {
        Some(Cluster::Cluster(name)) => Some(Split::One(name.into())),
        Some(Cluster::ClusterHeader(name)) => Some(Split::Header(name.to_ascii_lowercase())),
        Some(Cluster::WeightedClusters(m)) => cx.field("weighted_clusters", |cx| {
            fields!(cx, m => route::WeightedCluster { clusters }
                ignore { random_value_specifier }
                inert { total_weight, runtime_key_prefix });
            let shares = cx.each("clusters", clusters, |cx, m| share(cx, m, criteria));
            let total: u64 = shares.iter().map(|s| u64::from(s.weight)).sum();
            match u32::try_from(total) {
                Ok(total) if total > 0 => Some(Split::Weighted { shares, total }),
                _ => {
                    cx.invalid(
                        "clusters",
                        format!("weights must sum to 1..4294967295, not {total}"),
                    );
                    None
                }
            }
        }),
        Some(Cluster::ClusterSpecifierPlugin(_)) => {
            cx.invalid("cluster_specifier_plugin", "is not supported");
            None
        }
        Some(Cluster::InlineClusterSpecifierPlugin(_)) => {
            cx.invalid("inline_cluster_specifier_plugin", "is not supported");
            None
        }
        None => {
            cx.invalid_here("has no cluster: give cluster, weighted_clusters or cluster_header");
            None
        }
    }
}

fn share(
    cx: &mut Decoding,
    m: route::weighted_cluster::ClusterWeight,
    criteria: Option<&Arc<Criteria>>,
) -> Option<Share> {
    use route::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    fields!(cx, m => route::weighted_cluster::ClusterWeight {
        name, weight, request_headers_to_add, request_headers_to_remove,
        response_headers_to_add, response_headers_to_remove, typed_per_filter_config,
        host_rewrite_specifier, cluster_header, metadata_match,
    });
    if !cluster_header.is_empty() {
        cx.invalid("cluster_header", "is not supported in a weighted cluster");
    }
    let headers = header_edits(
        cx,
        RawEdits {
            request_add: request_headers_to_add,
            request_remove: request_headers_to_remove,
            response_add: response_headers_to_add,
            response_remove: response_headers_to_remove,
        },
    );
    Some(Share {
        cluster: name.into(),
        weight: weight.map_or(0, |v| v.value),
        criteria: subset::criteria(cx, metadata_match, criteria),
        headers,
        host_rewrite: host_rewrite_specifier
            .map(|HostRewriteSpecifier::HostRewriteLiteral(host)| host),
        per_filter: per_filter(cx, typed_per_filter_config),
    })
}

fn hash(cx: &mut Decoding, m: route::route_action::HashPolicy) -> Option<HashPolicy> {
    use route::route_action::hash_policy::{
        ConnectionProperties, Cookie, Header, PolicySpecifier as Policy,
    };
    fields!(cx, m => route::route_action::HashPolicy { terminal, policy_specifier });
    let source = match policy_specifier {
        Some(Policy::Header(m)) => cx.field("header", |cx| {
            fields!(cx, m => Header { header_name } ignore { regex_rewrite });
            HashSource::Header(header_name.to_ascii_lowercase())
        }),
        Some(Policy::Cookie(m)) => cx.field("cookie", |cx| {
            fields!(cx, m => Cookie { name, ttl, path, attributes });
            HashSource::Cookie {
                name,
                path,
                ttl: cx.duration("ttl", ttl),
                attributes: attributes.into_iter().map(|a| (a.name, a.value)).collect(),
            }
        }),
        Some(Policy::ConnectionProperties(ConnectionProperties { source_ip: true })) => {
            HashSource::SourceIp
        }
        Some(Policy::QueryParameter(m)) => HashSource::Query(m.name),
        Some(Policy::ConnectionProperties(_) | Policy::FilterState(_)) | None => {
            cx.ignore_here("only header, cookie, source_ip and query_parameter are supported");
            return None;
        }
    };
    Some(HashPolicy { source, terminal })
}

fn mirror(cx: &mut Decoding, m: route::route_action::RequestMirrorPolicy) -> Option<Mirror> {
    fields!(cx, m => route::route_action::RequestMirrorPolicy {
            cluster, runtime_fraction, disable_shadow_host_suffix_append,
        }
        ignore { cluster_header, request_headers_mutations, host_rewrite_literal }
        inert { trace_sampled });
    Some(Mirror {
        cluster: cluster.into(),
        fraction: match runtime_fraction {
            Some(m) => cx.field("runtime_fraction", |cx| self::runtime_fraction(cx, m))?,
            None => Fraction::ALWAYS,
        },
        shadow_suffix: !disable_shadow_host_suffix_append,
    })
}

fn redirect(cx: &mut Decoding, m: route::RedirectAction) -> Option<Redirect> {
    use route::redirect_action::{
        PathRewriteSpecifier as Path, RedirectResponseCode as Code,
        SchemeRewriteSpecifier as Scheme,
    };
    fields!(cx, m => route::RedirectAction {
        host_redirect, port_redirect, response_code, strip_query, scheme_rewrite_specifier,
        path_rewrite_specifier,
    });
    let (scheme, https) = match scheme_rewrite_specifier {
        Some(Scheme::HttpsRedirect(https)) => (None, https),
        Some(Scheme::SchemeRedirect(scheme)) => (Some(scheme), false),
        None => (None, false),
    };
    let path = match path_rewrite_specifier {
        None => RedirectPath::Keep,
        Some(Path::PathRedirect(path)) => RedirectPath::Full(path),
        Some(Path::PrefixRewrite(prefix)) => RedirectPath::Prefix(prefix),
        Some(Path::RegexRewrite(m)) => {
            let (pattern, substitution) = cx.field("regex_rewrite", |cx| substitution(cx, m))?;
            RedirectPath::Regex {
                pattern,
                substitution,
            }
        }
        Some(Path::PathRewrite(_)) => {
            cx.invalid("path_rewrite", "is not supported; use path_redirect");
            return None;
        }
    };
    Some(Redirect {
        scheme,
        https,
        host: Some(host_redirect).filter(|h| !h.is_empty()),
        port: Some(cx.port("port_redirect", port_redirect)?).filter(|p| *p != 0),
        path,
        status: match cx.enumeration("response_code", response_code)? {
            Code::MovedPermanently => 301,
            Code::Found => 302,
            Code::SeeOther => 303,
            Code::TemporaryRedirect => 307,
            Code::PermanentRedirect => 308,
        },
        strip_query,
    })
}

fn direct(cx: &mut Decoding, m: route::DirectResponseAction) -> Option<Direct> {
    fields!(cx, m => route::DirectResponseAction { status, body } ignore { body_format });
    let status = u16::try_from(status)
        .ok()
        .filter(|s| (200..600).contains(s));
    if status.is_none() {
        cx.invalid("status", "must be in 200..600");
    }
    let body = cx.field("body", |cx| match body {
        None => Some(Vec::new()),
        Some(m) => match pem(cx, m)? {
            Pem::Inline(bytes) => Some(bytes),
            Pem::File(_) => {
                cx.invalid("filename", "is not supported; give inline_string");
                None
            }
        },
    });
    Some(Direct {
        status: status?,
        body: body?,
    })
}
