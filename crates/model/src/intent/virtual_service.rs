//! `VirtualService` (networking.istio.io): how requests to a host are routed, as typed.
//!
//! Every field of the Istio API but `delegate`, and those that only a gateway can honour.

use std::collections::BTreeMap;
use std::time::Duration;

use super::selection::{Percent, PortSelector, StringMatch};
use crate::schema::{record, token};

record! {
    #[derive(Default)]
    pub struct VirtualService {
        /// Names, short ones expanded with the resource's namespace; `*.` prefixes allowed.
        hosts: Vec<String>,
        /// Empty means `mesh`: all sidecars. A list without `mesh` excludes them.
        gateways: Vec<String>,
        /// Ordered; the first match wins.
        http: Vec<HttpRoute>,
        tls: Vec<TlsRoute>,
        tcp: Vec<TcpRoute>,
        /// Namespaces that see it: `.` its own, `*` all, `~` none; empty means the mesh's default, all.
        export_to: Vec<String>,
    }
}

record! {
    #[derive(Eq)]
    pub struct Destination {
        host: String,
        subset: Option<String>,
        /// May be left out if the service has one port.
        port: Option<PortSelector>,
    }
}

record! {
    #[derive(Default)]
    pub struct HttpRoute {
        name: Option<String>,
        /// Any of; empty matches everything.
        matches as "match": Vec<HttpMatch>,
        route: Vec<HttpRouteDestination>,
        redirect: Option<HttpRedirect>,
        direct_response: Option<HttpDirectResponse>,
        rewrite: Option<HttpRewrite>,
        /// Of the whole request, retries included; zero is none.
        timeout: Option<Duration>,
        retries: Option<HttpRetry>,
        fault: Option<HttpFaultInjection>,
        mirror: Option<Destination>,
        mirrors: Vec<HttpMirrorPolicy>,
        mirror_percentage: Option<Percent>,
        /// Deprecated form of `mirrorPercentage`.
        mirror_percent: Option<u32>,
        cors_policy: Option<CorsPolicy>,
        headers: Option<Headers>,
    }
    refused { "delegate": "write the delegate's routes here: without them this route would have no destination" }
    exclusive { "route" | "redirect" | "directResponse" | "delegate", "rewrite" | "redirect", "mirror" | "mirrors" }
}

record! {
    /// All of what is set must match.
    #[derive(Default)]
    pub struct HttpMatch {
        name: Option<String>,
        uri: Option<StringMatch>,
        scheme: Option<StringMatch>,
        method: Option<StringMatch>,
        authority: Option<StringMatch>,
        /// Lower-case names.
        headers: BTreeMap<String, StringMatch>,
        without_headers: BTreeMap<String, StringMatch>,
        query_params: BTreeMap<String, StringMatch>,
        /// For exact and prefix `uri`.
        ignore_uri_case: Option<bool>,
        /// The service's port.
        port: Option<u16>,
        /// Which client workloads get the rule.
        source_labels: BTreeMap<String, String>,
        source_namespace: Option<String>,
        /// Overrides the resource's list.
        gateways: Vec<String>,
    }
    ignored { "statPrefix": "no `route.*` statistics are kept; istio_requests_total carries the route's service" }
}

record! {
    pub struct HttpRouteDestination {
        destination: Destination,
        /// A share of the sum; a single destination gets everything.
        weight: Option<i32>,
        headers: Option<Headers>,
    }
}

record! {
    pub struct RouteDestination {
        destination: Destination,
        weight: Option<i32>,
    }
}

record! {
    #[derive(Eq, Default)]
    pub struct Headers {
        request: Option<HeaderOperations>,
        response: Option<HeaderOperations>,
    }
}

record! {
    #[derive(Eq, Default)]
    pub struct HeaderOperations {
        /// Replaces.
        set: BTreeMap<String, String>,
        /// Appends.
        add: BTreeMap<String, String>,
        remove: Vec<String>,
    }
}

record! {
    #[derive(Eq, Default)]
    pub struct HttpRedirect {
        /// Replaces the whole path.
        uri: Option<String>,
        /// Replaces the matched prefix.
        prefix_rewrite: Option<String>,
        authority: Option<String>,
        port: Option<u16>,
        derive_port: Option<DerivePort>,
        scheme: Option<String>,
        /// 301, 302, 303, 307 or 308; unset is 301.
        redirect_code: Option<u16>,
    }
    exclusive { "uri" | "prefixRewrite", "port" | "derivePort" }
}

token! {
    pub enum DerivePort {
        /// 80 or 443.
        FromProtocolDefault = "FROM_PROTOCOL_DEFAULT",
        FromRequestPort = "FROM_REQUEST_PORT",
    }
}

record! {
    #[derive(Eq)]
    pub struct HttpDirectResponse {
        status: u16,
        body: Option<HttpBody>,
    }
}

record! {
    #[derive(Eq, Default)]
    pub struct HttpBody {
        string: Option<String>,
        /// Base64.
        bytes: Option<String>,
    }
    exclusive { "string" | "bytes" }
}

record! {
    #[derive(Eq, Default)]
    pub struct HttpRewrite {
        /// Replaces the path, or the matched prefix where the match is by prefix.
        uri: Option<String>,
        authority: Option<String>,
        uri_regex_rewrite: Option<RegexRewrite>,
    }
    exclusive { "uri" | "uriRegexRewrite" }
}

record! {
    #[derive(Eq)]
    pub struct RegexRewrite {
        /// RE2.
        matches as "match": String,
        /// `\1` is a captured group.
        rewrite: String,
    }
}

record! {
    #[derive(Eq, Default)]
    pub struct HttpRetry {
        /// Tries after the first; 0 or less is none. A block without it retries nothing, as in Istio.
        attempts: Option<i32>,
        per_try_timeout: Option<Duration>,
        /// Envoy's HTTP and gRPC conditions and bare status codes, separated by commas.
        retry_on: Option<String>,
        retry_remote_localities: Option<bool>,
        retry_ignore_previous_hosts: Option<bool>,
        backoff: Option<Duration>,
    }
}

record! {
    pub struct HttpMirrorPolicy {
        destination: Destination,
        percentage: Option<Percent>,
    }
}

record! {
    #[derive(Default)]
    pub struct CorsPolicy {
        allow_origins: Vec<StringMatch>,
        /// Deprecated: exact origins.
        allow_origin: Vec<String>,
        allow_methods: Vec<String>,
        allow_headers: Vec<String>,
        expose_headers: Vec<String>,
        max_age: Option<Duration>,
        allow_credentials: Option<bool>,
        unmatched_preflights: Option<UnmatchedPreflights>,
    }
}

token! {
    pub enum UnmatchedPreflights {
        /// Forward.
        Unspecified = "UNSPECIFIED",
        Forward = "FORWARD",
        Ignore = "IGNORE",
    }
}

record! {
    #[derive(Default)]
    pub struct HttpFaultInjection {
        delay: Option<FaultDelay>,
        abort: Option<FaultAbort>,
    }
}

record! {
    #[derive(Default)]
    pub struct FaultDelay {
        fixed_delay: Option<Duration>,
        percentage: Option<Percent>,
        /// Deprecated: whole percents.
        percent: Option<u32>,
    }
    ignored { "exponentialDelay": "Istio ignores it as well; use fixedDelay" }
}

record! {
    #[derive(Default)]
    pub struct FaultAbort {
        http_status: Option<u16>,
        /// A name such as UNAVAILABLE.
        grpc_status: Option<String>,
        percentage: Option<Percent>,
    }
    ignored { "http2Error": "Istio ignores it as well; use httpStatus" }
    exclusive { "httpStatus" | "grpcStatus" }
}

record! {
    #[derive(Default)]
    pub struct TlsRoute {
        matches as "match": Vec<TlsMatch>,
        route: Vec<RouteDestination>,
    }
}

record! {
    #[derive(Eq, Default)]
    pub struct TlsMatch {
        /// `*.com` matches `foo.example.com`.
        sni_hosts: Vec<String>,
        destination_subnets: Vec<String>,
        port: Option<u16>,
        source_labels: BTreeMap<String, String>,
        gateways: Vec<String>,
        source_namespace: Option<String>,
    }
}

record! {
    #[derive(Default)]
    pub struct TcpRoute {
        /// Any of; empty matches everything.
        matches as "match": Vec<TcpMatch>,
        route: Vec<RouteDestination>,
    }
}

record! {
    #[derive(Eq, Default)]
    pub struct TcpMatch {
        destination_subnets: Vec<String>,
        port: Option<u16>,
        /// An address block of the client.
        source_subnet: Option<String>,
        source_labels: BTreeMap<String, String>,
        gateways: Vec<String>,
        source_namespace: Option<String>,
    }
}

impl VirtualService {
    /// Where its routes lead, mirrors included.
    pub fn destinations(&self) -> impl Iterator<Item = &Destination> {
        let http = self.http.iter().flat_map(|http| {
            let routes = http.route.iter().map(|to| &to.destination);
            let mirrors = http.mirrors.iter().map(|to| &to.destination);
            routes.chain(&http.mirror).chain(mirrors)
        });
        let tls = self.tls.iter().flat_map(|tls| &tls.route);
        let tcp = self.tcp.iter().flat_map(|tcp| &tcp.route);
        http.chain(tls.chain(tcp).map(|to| &to.destination))
    }

    /// Whether sidecars follow it at all.
    pub fn in_mesh(&self) -> bool {
        in_mesh(&self.gateways)
    }
}

/// Whether a `gateways` list includes the sidecars; unset does.
pub fn in_mesh(gateways: &[String]) -> bool {
    gateways.is_empty() || gateways.iter().any(|gateway| gateway == "mesh")
}
