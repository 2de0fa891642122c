//! How HTTP is served on a chain (`HttpConnectionManager`) and the stages a request passes.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::authz::AuthzFilter;
use super::fault::Fault;
use super::route::{Cors, RouteConfig};
use super::{Fraction, Name};

#[derive(Debug, Clone, PartialEq)]
pub struct HttpProxy {
    pub stat_prefix: String,
    pub codec: Codec,
    pub routes: RouteSource,
    /// In order; [`HttpFilter::Router`] is always last.
    pub filters: Vec<HttpFilter>,
    pub path: PathOptions,
    pub timeouts: HttpTimeouts,
    pub limits: HttpLimits,
    pub http1: Http1Options,
    pub http2: super::cluster::Http2,
    /// Upgrade tokens that are tunnelled, lower case (`websocket`).
    pub upgrades: Vec<String>,
    pub server_header: ServerHeader,
    pub via: Option<String>,
    /// The downstream is at the edge: its address is trusted, its forwarding and internal headers are not.
    pub use_remote_address: bool,
    pub xff_trusted_hops: u32,
    pub skip_xff_append: bool,
    /// Clients at these addresses are the operator's own: the headers by which Envoy lets a caller steer retries and
    /// timeouts are obeyed for them alone.
    pub internal: Vec<IpNet>,
    pub request_id: RequestId,
    pub client_cert: ForwardClientCert,
    /// Drop the port of the authority before routing.
    pub strip_port: StripPort,
    pub underscores: Underscores,
    pub tracing: Option<Tracing>,
    pub access_logs: Vec<AccessLog>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Codec {
    /// By ALPN, else by the connection preface.
    #[default]
    Auto,
    Http1,
    Http2,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RouteSource {
    Named(Name),
    Inline(Arc<RouteConfig>),
}

#[derive(Debug, Clone, PartialEq)]
pub enum HttpFilter {
    Authz(Arc<AuthzFilter>),
    Fault(Arc<Fault>),
    Cors,
    /// Peer metadata headers are read, and stripped toward applications.
    PeerMetadata,
    GrpcStats,
    Router(Router),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Router {
    /// Do not add `x-envoy-…` response headers.
    pub suppress_envoy_headers: bool,
    pub respect_expected_rq_timeout: bool,
}

/// How [`crate::normalize::path`] treats paths (`normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathOptions {
    pub normalize: bool,
    pub merge_slashes: bool,
    pub escaped_slashes: EscapedSlashes,
}

/// What `%2f` and `%5c` in a path become.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    #[default]
    KeepUnchanged,
    Reject,
    UnescapeAndRedirect,
    UnescapeAndForward,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTimeouts {
    /// Of a connection without requests.
    pub idle: Option<Duration>,
    pub stream_idle: Option<Duration>,
    /// From the first byte of a request to its last.
    pub request: Option<Duration>,
    pub request_headers: Option<Duration>,
    pub max_stream_duration: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    pub drain: Duration,
    pub delayed_close: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpLimits {
    /// Bytes of a request head; 413/431 above it.
    pub max_request_headers_bytes: u32,
    pub max_request_headers: u32,
    /// 0: unlimited.
    pub max_requests_per_connection: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Http1Options {
    pub accept_http_10: bool,
    pub default_host: Option<String>,
    pub preserve_case: bool,
    pub enable_trailers: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerHeader {
    Overwrite(String),
    AppendIfAbsent(String),
    PassThrough,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    pub generate: bool,
    /// Keep the one an edge client sent.
    pub preserve_external: bool,
    pub set_in_response: bool,
}

/// `forward_client_cert_details` and `set_current_client_cert_details`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ForwardClientCert {
    pub mode: Xfcc,
    pub subject: bool,
    pub cert: bool,
    pub chain: bool,
    pub dns: bool,
    pub uri: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Xfcc {
    #[default]
    Sanitize,
    ForwardOnly,
    AppendForward,
    SanitizeSet,
    AlwaysForwardOnly,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StripPort {
    #[default]
    No,
    Matching,
    Any,
}

/// What happens to header names with `_`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Underscores {
    #[default]
    Allow,
    Reject,
    Drop,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    /// OTLP collector cluster; `None`: context is propagated, nothing exported from here.
    pub cluster: Option<Name>,
    pub service_name: String,
    /// Share of new traces that are sampled.
    pub random: Fraction,
    pub overall: Fraction,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    pub sink: LogSink,
    pub format: LogFormat,
    pub filter: Option<LogFilter>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogSink {
    File(String),
    Stdout,
    Stderr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFormat {
    /// Envoy's default line.
    Default,
    /// With `%…%` operators; ends with its own newline.
    Text(String),
    /// Key → value with operators, in order.
    Json(Vec<(String, String)>),
}

#[derive(Debug, Clone, PartialEq)]
pub enum LogFilter {
    /// Response code compared with a value.
    Status {
        op: Compare,
        value: u32,
    },
    Duration {
        op: Compare,
        milliseconds: u32,
    },
    NotHealthCheck,
    ResponseFlags(Vec<String>),
    Header(super::matching::HeaderMatch),
    Sample(Fraction),
    And(Vec<LogFilter>),
    Or(Vec<LogFilter>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    Eq,
    Ge,
    Le,
    Ne,
}

/// Per-filter settings of a virtual host, route or weighted cluster (`typed_per_filter_config`); `None`: inherit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PerFilter {
    pub fault: Option<Arc<Fault>>,
    pub cors: Option<Arc<Cors>>,
    /// In the order of the filters' names.
    pub authz: Vec<AuthzOverride>,
}

/// Takes the place of the RBAC filters of that name; `None` turns them off.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthzOverride {
    pub filter: Name,
    pub rules: Option<Arc<AuthzFilter>>,
}
