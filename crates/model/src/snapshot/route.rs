//! Virtual hosts and routes (`config.route.v3`); choosing among them is [`crate::route::Table::select`].

use std::sync::Arc;
use std::time::Duration;

use super::header::HeaderEdits;
use super::http::PerFilter;
use super::matching::{HeaderMatch, Pattern, QueryMatch, StringMatch};
use super::retry::RetryPolicy;
use super::{Fraction, Name, Resource};
use crate::subset::Criteria;

#[derive(Debug, Clone, PartialEq)]
pub struct RouteConfig {
    pub name: Name,
    pub hosts: Vec<Arc<VirtualHost>>,
    pub headers: HeaderEdits,
    /// Headers only internal requests may carry; lower case.
    pub internal_only_headers: Vec<String>,
    /// Apply the table's header edits first and the route's last, so that the route wins.
    pub most_specific_headers_win: bool,
    /// Compare domains without the request's port.
    pub ignore_port: bool,
    /// Bytes of a direct response body.
    pub max_direct_response: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct VirtualHost {
    pub name: Name,
    /// `host`, `host:port`, `*.suffix`, `prefix.*` or `*`; lower case.
    pub domains: Vec<String>,
    /// First match wins.
    pub routes: Vec<Arc<Route>>,
    pub headers: HeaderEdits,
    pub require_tls: RequireTls,
    pub retry: Option<Arc<RetryPolicy>>,
    /// Add `x-envoy-attempt-count` upstream.
    pub request_attempt_count: bool,
    /// And downstream.
    pub response_attempt_count: bool,
    pub per_filter: PerFilter,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RequireTls {
    #[default]
    No,
    ExternalOnly,
    All,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// For logs; may be empty.
    pub name: Name,
    pub matches: RouteMatch,
    pub action: Action,
    pub headers: HeaderEdits,
    pub per_filter: PerFilter,
    /// The user's resource behind the route.
    pub resource: Option<Resource>,
}

/// All parts must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteMatch {
    pub path: PathMatch,
    pub ignore_case: bool,
    pub headers: Vec<HeaderMatch>,
    pub query: Vec<QueryMatch>,
    /// Holds for this share of requests only.
    pub fraction: Option<Fraction>,
    /// `content-type: application/grpc…` only.
    pub grpc: bool,
    /// Extra tests on the scheme, which Envoy keeps in `:scheme`.
    pub tls_presented: Option<bool>,
}

impl RouteMatch {
    /// Matches every request.
    pub fn any() -> RouteMatch {
        RouteMatch {
            path: PathMatch::Prefix("/".to_owned()),
            ignore_case: false,
            headers: Vec::new(),
            query: Vec::new(),
            fraction: None,
            grpc: false,
            tls_presented: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// Of the string: `/foo` matches `/foobar`.
    Prefix(String),
    /// Of the segments: `/foo` matches `/foo/bar`, not `/foobar`. No trailing slash.
    SegmentPrefix(String),
    Exact(String),
    /// Without query.
    Regex(Pattern),
    /// CONNECT requests.
    Connect,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Forward(Box<Forward>),
    Redirect(Box<Redirect>),
    Direct(Direct),
    /// Matches, and is answered as if nothing had (proxyless only).
    None,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Forward {
    pub to: Split,
    pub path_rewrite: PathRewrite,
    pub host_rewrite: HostRewrite,
    /// Keep the original authority in `x-forwarded-host`.
    pub append_forwarded_host: bool,
    /// What the endpoint must have, where the cluster has subsets; a share's own comes first.
    pub criteria: Option<Arc<Criteria>>,
    /// Whole request, retries included. `None`: no limit.
    pub timeout: Option<Duration>,
    /// Overrides the manager's stream idle timeout: outer `None` inherits, inner `None` is no limit.
    pub idle_timeout: Option<Option<Duration>>,
    /// Envoy's newer timeouts: where they are given, `timeout` does not count.
    pub max_stream_duration: Option<MaxStreamDuration>,
    /// Envoy's older way to let `grpc-timeout` stand for `timeout`.
    pub grpc_timeout: Option<GrpcTimeout>,
    pub retry: Option<Arc<RetryPolicy>>,
    pub hash: Vec<HashPolicy>,
    pub mirrors: Vec<Mirror>,
    pub priority: Priority,
    /// Overrides of the manager's upgrade list: token (lower case) and whether it is enabled.
    pub upgrades: Vec<(String, bool)>,
    /// Answered when the cluster does not exist.
    pub missing_cluster_status: u16,
}

/// Where requests go.
#[derive(Debug, Clone, PartialEq)]
pub enum Split {
    One(Name),
    /// In proportion to the weights.
    Weighted {
        shares: Vec<Share>,
        total: u32,
    },
    /// By a request header, lower case.
    Header(String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    pub cluster: Name,
    pub weight: u32,
    /// With those of the route among them.
    pub criteria: Option<Arc<Criteria>>,
    pub headers: HeaderEdits,
    pub host_rewrite: Option<String>,
    pub per_filter: PerFilter,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub enum PathRewrite {
    #[default]
    None,
    /// Replaces what the match matched (the whole path for an exact match).
    Prefix(String),
    Regex {
        pattern: Pattern,
        substitution: String,
    },
    /// Replaces the whole path, keeps the query (`path_rewrite`).
    Full(String),
}

#[derive(Debug, Clone, Default, PartialEq)]
pub enum HostRewrite {
    #[default]
    None,
    Literal(String),
    /// The endpoint's hostname, for DNS clusters.
    Auto,
    Header(String),
    PathRegex {
        pattern: Pattern,
        substitution: String,
    },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MaxStreamDuration {
    /// Outer `None`: the manager's. Inner `None`: no limit.
    pub limit: Option<Option<Duration>>,
    /// `grpc-timeout` becomes the limit, at most this (`None` inside: uncapped).
    pub grpc_max: Option<Option<Duration>>,
    pub grpc_offset: Duration,
}

/// Of a gRPC call: its `grpc-timeout` is the limit on the whole request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GrpcTimeout {
    /// The longest, and the limit of a call that names none; `None`: what the call says.
    pub max: Option<Duration>,
    /// Taken off, unless nothing would be left.
    pub offset: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct HashPolicy {
    pub source: HashSource,
    /// Stop when this one gave a value.
    pub terminal: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum HashSource {
    Header(String),
    /// Generated when `ttl` is given and the request has none.
    Cookie {
        name: String,
        path: String,
        ttl: Option<Duration>,
        attributes: Vec<(String, String)>,
    },
    SourceIp,
    Query(String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    pub cluster: Name,
    pub fraction: Fraction,
    /// Append `-shadow` to the authority.
    pub shadow_suffix: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Priority {
    #[default]
    Default,
    High,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Redirect {
    pub scheme: Option<String>,
    pub https: bool,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub path: RedirectPath,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    pub strip_query: bool,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub enum RedirectPath {
    #[default]
    Keep,
    /// May carry a query of its own.
    Full(String),
    Prefix(String),
    Regex {
        pattern: Pattern,
        substitution: String,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Direct {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Of a route or a virtual host; what is empty here is taken from the less specific of the two.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cors {
    pub allow_origins: Vec<StringMatch>,
    /// Comma lists, as they are answered.
    pub allow_methods: String,
    pub allow_headers: String,
    pub expose_headers: String,
    pub max_age: String,
    pub allow_credentials: Option<bool>,
    pub forward_unmatched_preflights: Option<bool>,
}
