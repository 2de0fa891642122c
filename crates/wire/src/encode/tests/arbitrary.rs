//! Bytes → models. Driven by bytes so that proptest shrinks them: fewer and smaller bytes make a simpler model.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use ripstop_model::protocol::Protocol as PortProtocol;
use ripstop_model::seam::{HostPort, HostRecord};
use ripstop_model::snapshot::authz::{self, AuthzFilter, Policy, Rule};
use ripstop_model::snapshot::cluster::*;
use ripstop_model::snapshot::endpoint::*;
use ripstop_model::snapshot::fault::{Abort, Delay, Fault};
use ripstop_model::snapshot::header::{Append, Edit, Edits, HeaderEdits};
use ripstop_model::snapshot::http::*;
use ripstop_model::snapshot::listener::*;
use ripstop_model::snapshot::matching::*;
use ripstop_model::snapshot::retry::{Backoff, CONDITIONS, RetryOn, RetryPolicy, RetryScope};
use ripstop_model::snapshot::route::*;
use ripstop_model::snapshot::tls::*;
use ripstop_model::snapshot::{Fraction, Name, Resource};

#[derive(Debug, Clone)]
pub(super) struct Entropy {
    bytes: Vec<u8>,
    at: usize,
}

/// Chooses one of the expressions.
macro_rules! one_of {
    ($e:ident; $($choice:expr),+ $(,)?) => {{
        let count = [$(stringify!($choice)),+].len();
        let chosen = $e.below(count);
        let mut i = 0;
        'found: {
            $(
                if i == chosen { break 'found $choice; }
                #[allow(unused_assignments)]
                { i += 1; }
            )+
            unreachable!()
        }
    }};
}

impl Entropy {
    pub(super) fn new(bytes: Vec<u8>) -> Entropy {
        Entropy { bytes, at: 0 }
    }

    fn byte(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }

    fn flag(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    fn optional<T>(&mut self, f: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| f(self))
    }

    pub(super) fn list<T>(&mut self, max: usize, mut f: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let n = self.below(max + 1);
        (0..n).map(|_| f(self)).collect()
    }

    fn text(&mut self) -> String {
        let alphabet = ["a", "orders", "x-y", "shop.svc", "é%"];
        format!("{}{}", alphabet[self.below(alphabet.len())], self.below(20))
    }

    fn lower(&mut self) -> String {
        format!("x-{}", self.below(50))
    }

    fn name(&mut self) -> Name {
        self.text().into()
    }

    /// More than zero: zero is how "no limit" travels.
    fn duration(&mut self) -> Duration {
        Duration::new(self.byte().into(), u32::from(self.byte()) * 1_000_000 + 1)
    }

    fn limit(&mut self) -> Option<Duration> {
        self.optional(Self::duration)
    }

    fn fraction(&mut self) -> Fraction {
        Fraction::millionths(self.u32() % 1_000_001)
    }

    fn ip(&mut self) -> IpAddr {
        if self.flag() {
            Ipv6Addr::from(u128::from(self.u32()) << 64 | 1).into()
        } else {
            Ipv4Addr::from(self.u32()).into()
        }
    }

    fn socket(&mut self) -> SocketAddr {
        SocketAddr::new(self.ip(), self.u16())
    }

    pub(super) fn net(&mut self) -> IpNet {
        let length = self.byte() % 33;
        IpNet::new(self.ip(), length).unwrap().trunc()
    }

    fn resource(&mut self) -> Resource {
        Resource {
            kind: ["VirtualService", "DestinationRule"][self.below(2)].into(),
            namespace: self.name(),
            name: self.name(),
            part: one_of!(self; "".into(), "http[0]".into()),
        }
    }

    fn pattern(&mut self) -> Pattern {
        Pattern::new(["/a/.*", "[a-z]+", "x|y"][self.below(3)]).unwrap()
    }

    fn string_match(&mut self) -> StringMatch {
        let (value, ignore_case) = (self.text(), self.flag());
        one_of!(self;
            StringMatch::Exact { value, ignore_case },
            StringMatch::Prefix { value, ignore_case },
            StringMatch::Suffix { value, ignore_case },
            StringMatch::Contains { value, ignore_case },
            StringMatch::Regex(self.pattern()),
        )
    }

    fn header_match(&mut self) -> HeaderMatch {
        HeaderMatch {
            name: self.lower(),
            test: one_of!(self;
                HeaderTest::Present(self.flag()),
                HeaderTest::String(self.string_match()),
                HeaderTest::Range { start: -5, end: self.u16().into() },
            ),
            invert: self.flag(),
            missing_as_empty: self.flag(),
        }
    }

    fn query_match(&mut self) -> QueryMatch {
        QueryMatch {
            name: self.text(),
            value: self.optional(Self::string_match),
        }
    }

    fn edits(&mut self) -> HeaderEdits {
        let mut edits = || Edits {
            remove: self.list(2, Self::lower),
            add: self.list(2, |e| Edit {
                name: e.text(),
                value: e.text(),
                append: one_of!(e; Append::AppendIfExistsOrAdd, Append::AddIfAbsent,
                    Append::OverwriteIfExistsOrAdd, Append::OverwriteIfExists),
                keep_empty: e.flag(),
            }),
        };
        HeaderEdits {
            request: edits(),
            response: edits(),
        }
    }

    fn pairs(&mut self) -> Vec<(String, String)> {
        let map: BTreeMap<String, String> =
            self.list(2, |e| (e.text(), e.text())).into_iter().collect();
        map.into_iter().collect()
    }

    fn labels(&mut self) -> BTreeMap<String, String> {
        self.pairs().into_iter().collect()
    }

    // Routes.

    fn retry(&mut self) -> RetryPolicy {
        let base = self.duration();
        RetryPolicy {
            on: self
                .list(3, |e| CONDITIONS[e.below(CONDITIONS.len())].1)
                .into_iter()
                .fold(RetryOn::NONE, RetryOn::union),
            retries: self.byte().into(),
            per_try_timeout: self.limit(),
            per_try_idle_timeout: self.limit(),
            status_codes: self.list(2, |e| 400 + u16::from(e.byte())),
            response_headers: self.list(1, Self::header_match),
            request_headers: self.list(1, Self::header_match),
            backoff: Backoff {
                base,
                max: base + self.duration(),
            },
            avoid_previous_hosts: self.flag(),
            host_selection_attempts: 1 + u32::from(self.byte()),
            previous_priorities: self.optional(|e| 1 + u32::from(e.byte())),
            scope: one_of!(self; RetryScope::Explicit, RetryScope::Implicit),
        }
    }

    fn fault(&mut self) -> Fault {
        Fault {
            delay: self.optional(|e| {
                let share = e.fraction();
                (share, one_of!(e; Delay::Fixed(e.duration()), Delay::Header))
            }),
            abort: self.optional(|e| {
                let share = e.fraction();
                let status = 200 + u16::from(e.byte());
                (
                    share,
                    one_of!(e; Abort::Http(status), Abort::Grpc(e.byte().into()), Abort::Header),
                )
            }),
            headers: self.list(1, Self::header_match),
            upstream_cluster: self.optional(Self::text),
            max_active: self.optional(Self::u32),
        }
    }

    fn cors(&mut self) -> Cors {
        Cors {
            allow_origins: self.list(2, Self::string_match),
            allow_methods: self.text(),
            allow_headers: self.text(),
            expose_headers: self.text(),
            max_age: self.text(),
            allow_credentials: self.optional(Self::flag),
            forward_unmatched_preflights: self.optional(Self::flag),
        }
    }

    fn per_filter(&mut self) -> PerFilter {
        PerFilter {
            fault: self.optional(|e| Arc::new(e.fault())),
            cors: self.optional(|e| Arc::new(e.cors())),
            authz: self
                .optional(|e| {
                    let filter: Name = "envoy.filters.http.rbac".into();
                    AuthzOverride {
                        rules: e.optional(|e| {
                            Arc::new(AuthzFilter {
                                name: filter.clone(),
                                ..e.authz(true)
                            })
                        }),
                        filter,
                    }
                })
                .into_iter()
                .collect(),
        }
    }

    fn split(&mut self, http: bool) -> Split {
        match self.below(if http { 3 } else { 2 }) {
            0 => Split::One(self.name()),
            1 => {
                let mut shares = self.list(2, |e| e.share(http));
                shares.push(Share {
                    weight: 7,
                    ..self.share(http)
                });
                let total = shares.iter().map(|s| s.weight).sum();
                Split::Weighted { shares, total }
            }
            _ => Split::Header(self.lower()),
        }
    }

    fn share(&mut self, http: bool) -> Share {
        Share {
            cluster: self.name(),
            weight: self.u16().into(),
            headers: if http {
                self.edits()
            } else {
                HeaderEdits::default()
            },
            host_rewrite: if http {
                self.optional(Self::text)
            } else {
                None
            },
            subset: self.pairs(),
            per_filter: if http {
                self.per_filter()
            } else {
                PerFilter::default()
            },
        }
    }

    fn hash(&mut self) -> HashPolicy {
        HashPolicy {
            source: one_of!(self;
                HashSource::Header(self.lower()),
                HashSource::Cookie {
                    name: self.text(),
                    path: self.text(),
                    ttl: self.optional(Self::duration),
                    attributes: self.pairs(),
                },
                HashSource::SourceIp,
                HashSource::Query(self.text()),
            ),
            terminal: self.flag(),
        }
    }

    fn forward(&mut self) -> Forward {
        Forward {
            to: self.split(true),
            path_rewrite: one_of!(self;
                PathRewrite::None,
                PathRewrite::Prefix(self.text()),
                PathRewrite::Regex { pattern: self.pattern(), substitution: self.text() },
                PathRewrite::Full(self.text()),
            ),
            host_rewrite: one_of!(self;
                HostRewrite::None,
                HostRewrite::Literal(self.text()),
                HostRewrite::Auto,
                HostRewrite::Header(self.lower()),
                HostRewrite::PathRegex { pattern: self.pattern(), substitution: self.text() },
            ),
            append_forwarded_host: self.flag(),
            timeout: self.limit(),
            idle_timeout: self.optional(Self::limit),
            max_stream_duration: MaxStreamDuration {
                limit: self.optional(Self::limit),
                grpc_max: self.optional(Self::limit),
                grpc_offset: self.limit().unwrap_or_default(),
            },
            retry: self.optional(|e| Arc::new(e.retry())),
            hash: self.list(2, Self::hash),
            mirrors: self.list(2, |e| Mirror {
                cluster: e.name(),
                fraction: e.fraction(),
                shadow_suffix: e.flag(),
            }),
            priority: one_of!(self; Priority::Default, Priority::High),
            subset: self.pairs(),
            upgrades: self.list(1, |e| (e.lower(), e.flag())),
            missing_cluster_status: one_of!(self; 503, 404, 500),
        }
    }

    fn redirect(&mut self) -> Redirect {
        let scheme = self.optional(Self::text);
        Redirect {
            https: scheme.is_none() && self.flag(),
            scheme,
            host: self.optional(Self::text),
            port: self.optional(|e| e.u16().max(1)),
            path: one_of!(self;
                RedirectPath::Keep,
                RedirectPath::Full(self.text()),
                RedirectPath::Prefix(self.text()),
                RedirectPath::Regex { pattern: self.pattern(), substitution: self.text() },
            ),
            status: one_of!(self; 301, 302, 303, 307, 308),
            strip_query: self.flag(),
        }
    }

    fn route(&mut self) -> Route {
        Route {
            name: self.name(),
            matches: RouteMatch {
                path: one_of!(self;
                    PathMatch::Prefix(self.text()),
                    PathMatch::SegmentPrefix(self.text()),
                    PathMatch::Exact(self.text()),
                    PathMatch::Regex(self.pattern()),
                    PathMatch::Connect,
                ),
                ignore_case: self.flag(),
                headers: self.list(2, Self::header_match),
                query: self.list(1, Self::query_match),
                fraction: self.optional(Self::fraction),
                grpc: self.flag(),
                tls_presented: self.optional(Self::flag),
            },
            action: one_of!(self;
                Action::Forward(Box::new(self.forward())),
                Action::Redirect(Box::new(self.redirect())),
                Action::Direct(Direct {
                    status: 200 + u16::from(self.byte()),
                    body: self.list(5, Self::byte),
                }),
                Action::None,
            ),
            headers: self.edits(),
            per_filter: self.per_filter(),
            resource: self.optional(Self::resource),
        }
    }

    pub(super) fn route_config(&mut self) -> RouteConfig {
        RouteConfig {
            name: self.name(),
            hosts: self.list(2, |e| {
                Arc::new(VirtualHost {
                    name: e.name(),
                    domains: vec!["*".into(), e.lower()],
                    routes: e.list(3, |e| Arc::new(e.route())),
                    headers: e.edits(),
                    require_tls: one_of!(e; RequireTls::No, RequireTls::ExternalOnly, RequireTls::All),
                    retry: e.optional(|e| Arc::new(e.retry())),
                    request_attempt_count: e.flag(),
                    response_attempt_count: e.flag(),
                    per_filter: e.per_filter(),
                })
            }),
            headers: self.edits(),
            internal_only_headers: self.list(1, Self::lower),
            most_specific_headers_win: self.flag(),
            ignore_port: self.flag(),
            max_direct_response: self.u32(),
        }
    }

    // Authorization.

    fn authz(&mut self, http: bool) -> AuthzFilter {
        let mut policies: BTreeMap<Name, Policy> = BTreeMap::new();
        for index in 0..self.below(3) {
            let name = one_of!(self; self.name(), Policy::name_of_rule("shop", "allow", index));
            let policy = Policy {
                resource: Policy::resource_of_name(&name),
                permissions: self.list(2, |e| e.rule(2, true, http)),
                principals: self.list(2, |e| e.rule(2, false, http)),
                name: name.clone(),
            };
            policies.insert(name, policy);
        }
        AuthzFilter {
            name: "envoy.filters.http.rbac".into(),
            action: one_of!(self; authz::Action::Deny, authz::Action::Allow, authz::Action::Log),
            policies: policies.into_values().collect(),
            dry_run: self.flag(),
            stat_prefix: self.text(),
        }
    }

    fn rule(&mut self, depth: usize, permission: bool, http: bool) -> Rule {
        if depth > 0 && self.flag() {
            return one_of!(self;
                Rule::And(self.list(2, |e| e.rule(depth - 1, permission, http))),
                Rule::Or(self.list(2, |e| e.rule(depth - 1, permission, http))),
                Rule::Not(Box::new(self.rule(depth - 1, permission, http))),
            );
        }
        if http && self.flag() {
            return one_of!(self;
                Rule::Header(self.header_match()),
                Rule::Path(self.string_match()),
            );
        }
        if permission && http && self.flag() {
            return Rule::PathTemplate("/a/{*}/{**}".into());
        }
        if permission {
            one_of!(self;
                Rule::Any,
                Rule::DestinationIp(self.net()),
                Rule::DestinationPort(self.u16()),
                Rule::DestinationPorts { start: self.u16(), end: self.u16() },
                Rule::Sni(self.string_match()),
            )
        } else {
            one_of!(self;
                Rule::Any,
                Rule::Principal(self.optional(Self::string_match)),
                Rule::DirectIp(self.net()),
                Rule::RemoteIp(self.net()),
            )
        }
    }

    // TLS.

    fn pem(&mut self) -> Pem {
        one_of!(self; Pem::Inline(self.list(4, Self::byte)), Pem::File(self.text().into()))
    }

    fn pair(&mut self) -> Certificate {
        Certificate::Pair {
            chain: self.pem(),
            key: self.pem(),
        }
    }

    /// `sds`: the roots may be a secret's name, which a secret itself cannot be.
    fn validation(&mut self, sds: bool, host_name: bool) -> Validation {
        let roots = match self.below(if sds { 4 } else { 3 }) {
            0 => Roots::None,
            1 => Roots::Bundle(self.pem()),
            2 => Roots::System,
            _ => Roots::Secret(self.name()),
        };
        let mut sans = self.list(2, |e| SanMatch {
            kind: one_of!(e; SanKind::Uri, SanKind::Dns, SanKind::Ip, SanKind::Email),
            value: e.string_match(),
        });
        sans.extend(self.list(1, |e| SanMatch {
            kind: SanKind::Any,
            value: e.string_match(),
        }));
        Validation {
            host_name: host_name && self.flag(),
            roots,
            sans,
            certificate_hashes: self.list(1, Self::text),
            spki_hashes: self.list(1, Self::text),
            accept_untrusted: self.flag(),
        }
    }

    fn versions(&mut self) -> (TlsVersion, TlsVersion) {
        one_of!(self;
            (TlsVersion::V1_2, TlsVersion::V1_3),
            (TlsVersion::V1_2, TlsVersion::V1_2),
            (TlsVersion::V1_3, TlsVersion::V1_3),
        )
    }

    /// `authority`: the whole cluster takes the SNI from requests, and whether it verifies that name.
    fn upstream_tls(&mut self, authority: Option<bool>) -> UpstreamTls {
        let (min_version, max_version) = self.versions();
        let auto_sni = match authority {
            Some(_) => AutoSni::Authority,
            None => one_of!(self; AutoSni::No, AutoSni::EndpointHost),
        };
        let mut validation = self.validation(true, auto_sni == AutoSni::EndpointHost);
        if authority == Some(true) && validation.roots != Roots::None {
            validation.host_name = true;
        }
        UpstreamTls {
            certificate: self.optional(|e| one_of!(e; Certificate::Secret(e.name()), e.pair())),
            validation,
            sni: self.optional(Self::text),
            auto_sni,
            alpn: self.list(2, Self::text),
            min_version,
            max_version,
        }
    }

    fn downstream_tls(&mut self) -> DownstreamTls {
        let (min_version, max_version) = self.versions();
        DownstreamTls {
            certificates: one_of!(self; vec![Certificate::Secret("default".into())], vec![self.pair()]),
            validation: self.optional(|e| e.validation(true, false)),
            require_client_certificate: self.flag(),
            alpn: self.list(2, Self::text),
            min_version,
            max_version,
        }
    }

    pub(super) fn secret(&mut self) -> Secret {
        Secret {
            name: self.name(),
            body: one_of!(self;
                SecretBody::Certificate { chain: self.pem(), key: self.pem() },
                SecretBody::Validation(self.validation(false, false)),
            ),
        }
    }

    // Clusters and endpoints.

    fn workload(&mut self) -> Workload {
        Workload {
            name: self.name(),
            namespace: self.name(),
            service_account: self.name(),
            app: self.name(),
            version: self.name(),
            canonical_service: self.name(),
            canonical_revision: self.name(),
            cluster: self.name(),
            address: self.optional(Self::ip),
        }
    }

    fn endpoint(&mut self) -> Endpoint {
        Endpoint {
            address: one_of!(self;
                Target::Socket(self.socket()),
                Target::Name { host: self.text(), port: self.u16() },
                Target::Pipe(self.text().into()),
            ),
            weight: 1 + u32::from(self.byte()),
            health: one_of!(self; Health::Unknown, Health::Healthy, Health::Unhealthy,
                Health::Draining, Health::Timeout, Health::Degraded),
            hostname: self.optional(Self::text),
            transport: self.labels(),
            labels: self.labels(),
            workload: self.optional(|e| Arc::new(e.workload())),
        }
    }

    pub(super) fn endpoints(&mut self) -> Endpoints {
        Endpoints {
            name: self.name(),
            groups: self.list(2, |e| Group {
                locality: Locality {
                    region: e.text(),
                    zone: e.text(),
                    sub_zone: String::new(),
                },
                priority: e.byte().into(),
                weight: e.optional(Self::u32),
                endpoints: e.list(3, Self::endpoint),
            }),
            overprovisioning: 100 + u32::from(self.byte()),
        }
    }

    fn dns(&mut self) -> Dns {
        Dns {
            endpoints: Arc::new(self.endpoints()),
            family: one_of!(self; DnsFamily::Auto, DnsFamily::V4Only, DnsFamily::V6Only,
                DnsFamily::V4Preferred, DnsFamily::All),
            refresh: self.duration(),
            failure_refresh: self.duration(),
            respect_ttl: self.flag(),
        }
    }

    fn thresholds(&mut self) -> Thresholds {
        Thresholds {
            max_connections: self.u32(),
            max_pending: self.u32(),
            max_requests: self.u32(),
            max_retries: self.u32(),
            retry_budget: self.optional(|e| RetryBudget {
                percent: f64::from(e.byte()) / 4.0,
                min_concurrency: e.u32(),
            }),
        }
    }

    fn outlier(&mut self) -> Outlier {
        let split_local_origin = self.flag();
        Outlier {
            consecutive_5xx: self.optional(Self::u32),
            consecutive_gateway: self.optional(Self::u32),
            consecutive_local_origin: self.optional(Self::u32).filter(|_| split_local_origin),
            split_local_origin,
            interval: self.duration(),
            base_ejection: self.duration(),
            max_ejection: self.duration(),
            max_ejection_percent: self.byte().into(),
            keep_last: self.flag(),
            success_rate: self.optional(|e| SuccessRate {
                minimum_hosts: e.u32(),
                request_volume: e.u32(),
                stdev_factor: e.u32(),
                enforcing_percent: 1 + u32::from(e.byte()),
            }),
            failure_percentage: self.optional(|e| FailurePercentage {
                threshold: e.u32(),
                minimum_hosts: e.u32(),
                request_volume: e.u32(),
                enforcing_percent: 1 + u32::from(e.byte()),
            }),
        }
    }

    fn health_check(&mut self) -> HealthCheck {
        HealthCheck {
            timeout: self.duration(),
            interval: self.duration(),
            no_traffic_interval: self.duration(),
            unhealthy_threshold: self.u32(),
            healthy_threshold: self.u32(),
            probe: one_of!(self;
                Probe::Http {
                    host: self.text(),
                    path: self.text(),
                    expected: vec![200..201, 300..300 + 1 + u16::from(self.byte())],
                },
                Probe::Tcp {
                    send: self.list(4, Self::byte),
                    receive: self.list(2, |e| e.list(4, Self::byte)),
                },
                Probe::Grpc { service: self.text(), authority: self.text() },
            ),
        }
    }

    fn http2(&mut self) -> Http2 {
        Http2 {
            max_concurrent_streams: self.u32(),
            initial_stream_window: self.u32(),
            initial_connection_window: self.u32(),
            keepalive: self.optional(|e| Http2Keepalive {
                interval: e.duration(),
                timeout: e.duration(),
            }),
        }
    }

    fn protocol(&mut self) -> Protocol {
        let http1 = Http1 {
            preserve_case: self.flag(),
        };
        let http2 = self.http2();
        one_of!(self;
            Protocol::Http1(http1),
            Protocol::Http2(http2),
            Protocol::Downstream { http1, http2 },
            Protocol::Alpn { http1, http2 },
        )
    }

    pub(super) fn cluster(&mut self) -> Cluster {
        let discovery = one_of!(self;
            Discovery::Eds { service_name: self.name() },
            Discovery::Static(Arc::new(self.endpoints())),
            Discovery::StrictDns(self.dns()),
            Discovery::LogicalDns(self.dns()),
            Discovery::OriginalDst {
                use_http_header: self.flag(),
                port_override: self.optional(Self::u16),
            },
        );
        let lb = if matches!(discovery, Discovery::OriginalDst { .. }) {
            LbPolicy::ClusterProvided
        } else {
            one_of!(self;
                LbPolicy::RoundRobin,
                LbPolicy::LeastRequest { choices: self.u32() },
                LbPolicy::Random,
                LbPolicy::RingHash { min_size: self.u32().into(), max_size: self.u32().into() },
                LbPolicy::Maglev { table_size: self.u32().into() },
                LbPolicy::PeakEwma { decay: Duration::from_millis(1 + u64::from(self.u16())) },
            )
        };
        let slow = matches!(
            lb,
            LbPolicy::RoundRobin | LbPolicy::LeastRequest { .. } | LbPolicy::PeakEwma { .. }
        );
        let authority = self.optional(Self::flag);
        Cluster {
            name: self.name(),
            alt_stat_name: self.optional(Self::text),
            discovery,
            lb_common: LbCommon {
                panic_threshold: self.fraction(),
                locality_weighted: self.flag(),
                slow_start: self
                    .optional(|e| SlowStart {
                        window: e.duration(),
                        aggression: f64::from(e.byte()),
                        min_percent: f64::from(e.byte()),
                    })
                    .filter(|_| slow),
                subset_keys: self.list(2, |e| e.list(2, Self::text)),
                close_on_host_set_change: self.flag(),
            },
            lb,
            connect_timeout: self.duration(),
            breakers: Breakers {
                default: self.thresholds(),
                high: self.thresholds(),
            },
            outlier: self.optional(Self::outlier),
            health_checks: self.list(1, Self::health_check),
            transport: Transport {
                matches: self.list(2, |e| TransportMatch {
                    name: e.text(),
                    criteria: e.labels(),
                    tls: e.optional(|e| Arc::new(e.upstream_tls(authority))),
                }),
                default: self.optional(|e| Arc::new(e.upstream_tls(authority))),
            },
            protocol: self.protocol(),
            idle_timeout: self.limit(),
            max_connection_duration: self.limit(),
            max_requests_per_connection: self.byte().into(),
            keepalive: self.optional(|e| TcpKeepalive {
                probes: e.optional(Self::u32),
                time: e.optional(|e| Duration::from_secs(e.byte().into())),
                interval: e.optional(|e| Duration::from_secs(e.byte().into())),
            }),
            buffer_limit: self.u32(),
            service: self.optional(|e| {
                Arc::new(ServiceRef {
                    host: e.name(),
                    name: e.name(),
                    namespace: e.name(),
                })
            }),
            resource: self.optional(Self::resource),
        }
    }

    // Listeners.

    fn log_filter(&mut self, depth: usize) -> LogFilter {
        if depth > 0 && self.flag() {
            return one_of!(self;
                LogFilter::And(self.list(2, |e| e.log_filter(depth - 1))),
                LogFilter::Or(self.list(2, |e| e.log_filter(depth - 1))),
            );
        }
        let op = one_of!(self; Compare::Eq, Compare::Ge, Compare::Le, Compare::Ne);
        one_of!(self;
            LogFilter::Status { op, value: self.u32() },
            LogFilter::Duration { op, milliseconds: self.u32() },
            LogFilter::NotHealthCheck,
            LogFilter::ResponseFlags(self.list(2, Self::text)),
            LogFilter::Header(self.header_match()),
            LogFilter::Sample(self.fraction()),
        )
    }

    fn access_log(&mut self) -> AccessLog {
        AccessLog {
            sink: one_of!(self; LogSink::Stdout, LogSink::Stderr, LogSink::File(self.text())),
            format: one_of!(self;
                LogFormat::Default,
                LogFormat::Text(self.text()),
                LogFormat::Json(self.pairs()),
            ),
            filter: self.optional(|e| e.log_filter(2)),
        }
    }

    fn timeouts(&mut self) -> HttpTimeouts {
        HttpTimeouts {
            idle: self.limit(),
            stream_idle: self.limit(),
            request: self.limit(),
            request_headers: self.limit(),
            max_stream_duration: self.limit(),
            max_connection_duration: self.limit(),
            drain: self.duration(),
            delayed_close: self.limit(),
        }
    }

    fn http(&mut self) -> HttpProxy {
        let mut filters = self.list(3, |e| {
            one_of!(e;
                HttpFilter::Authz(Arc::new(e.authz(true))),
                HttpFilter::Fault(Arc::new(e.fault())),
                HttpFilter::Cors,
                HttpFilter::PeerMetadata,
                HttpFilter::GrpcStats,
            )
        });
        filters.push(HttpFilter::Router(Router {
            suppress_envoy_headers: self.flag(),
            respect_expected_rq_timeout: self.flag(),
        }));
        HttpProxy {
            stat_prefix: self.text(),
            codec: one_of!(self; Codec::Auto, Codec::Http1, Codec::Http2),
            routes: one_of!(self;
                RouteSource::Named(self.name()),
                RouteSource::Inline(Arc::new(self.route_config())),
            ),
            filters,
            path: PathOptions {
                normalize: self.flag(),
                merge_slashes: self.flag(),
                escaped_slashes: one_of!(self; EscapedSlashes::KeepUnchanged, EscapedSlashes::Reject,
                    EscapedSlashes::UnescapeAndRedirect, EscapedSlashes::UnescapeAndForward),
            },
            timeouts: self.timeouts(),
            limits: HttpLimits {
                max_request_headers_bytes: 1024 * (1 + u32::from(self.byte())),
                max_request_headers: self.u32(),
                max_requests_per_connection: self.byte().into(),
            },
            http1: Http1Options {
                accept_http_10: self.flag(),
                default_host: self.optional(Self::text),
                allow_absolute_url: self.flag(),
                preserve_case: self.flag(),
                enable_trailers: self.flag(),
            },
            http2: self.http2(),
            upgrades: self.list(1, Self::lower),
            server_header: one_of!(self;
                ServerHeader::PassThrough,
                ServerHeader::Overwrite(self.text()),
                ServerHeader::AppendIfAbsent(self.text()),
            ),
            via: self.optional(Self::text),
            use_remote_address: self.flag(),
            xff_trusted_hops: self.u32(),
            skip_xff_append: self.flag(),
            internal: self.list(2, Self::net),
            request_id: RequestId {
                generate: self.flag(),
                preserve_external: self.flag(),
                set_in_response: self.flag(),
            },
            client_cert: ForwardClientCert {
                mode: one_of!(self; Xfcc::Sanitize, Xfcc::ForwardOnly, Xfcc::AppendForward,
                    Xfcc::SanitizeSet, Xfcc::AlwaysForwardOnly),
                subject: self.flag(),
                cert: self.flag(),
                chain: self.flag(),
                dns: self.flag(),
                uri: self.flag(),
            },
            strip_port: one_of!(self; StripPort::No, StripPort::Matching, StripPort::Any),
            underscores: one_of!(self; Underscores::Allow, Underscores::Reject, Underscores::Drop),
            tracing: self.optional(|e| {
                let cluster = e.optional(Self::name);
                Tracing {
                    service_name: if cluster.is_some() {
                        e.text()
                    } else {
                        String::new()
                    },
                    cluster,
                    random: e.fraction(),
                    client: e.fraction(),
                    overall: e.fraction(),
                    max_path_length: e.u32(),
                }
            }),
            access_logs: self.list(2, Self::access_log),
        }
    }

    fn tcp(&mut self) -> TcpProxy {
        TcpProxy {
            stat_prefix: self.text(),
            clusters: self.split(false),
            idle_timeout: self.limit(),
            max_connection_duration: self.limit(),
            max_connect_attempts: 1 + u32::from(self.byte()),
            hash_source_ip: self.flag(),
            access_logs: self.list(1, Self::access_log),
            resource: self.optional(Self::resource),
        }
    }

    fn chain(&mut self) -> FilterChain {
        FilterChain {
            name: self.name(),
            matches: ChainMatch {
                destination_port: self.optional(Self::u16),
                destination: self.list(1, Self::net),
                server_names: self.list(1, Self::lower),
                transport: self
                    .optional(|e| one_of!(e; TransportProtocol::RawBuffer, TransportProtocol::Tls)),
                alpn: self.list(2, Self::text),
                direct_source: self.list(1, Self::net),
                source_type: one_of!(self; SourceType::Any, SourceType::SameIpOrLoopback,
                    SourceType::External),
                source: self.list(1, Self::net),
                source_ports: self.list(1, Self::u16),
            },
            tls: self.optional(|e| Arc::new(e.downstream_tls())),
            handshake_timeout: self.limit(),
            authz: self.list(2, |e| Arc::new(e.authz(false))),
            peer_exchange: self.flag(),
            terminal: one_of!(self;
                Terminal::Tcp(Arc::new(self.tcp())),
                Terminal::Http(Arc::new(self.http())),
            ),
        }
    }

    pub(super) fn listener(&mut self) -> Listener {
        let mut chains = self.list(1, |e| Arc::new(e.chain()));
        chains.push(Arc::new(self.chain()));
        Listener {
            name: self.name(),
            address: self.socket(),
            bind: self.flag(),
            direction: one_of!(self; Direction::Unspecified, Direction::Inbound, Direction::Outbound),
            inspect: Inspect {
                original_dst: self.flag(),
                tls: self.flag(),
                http: self.flag(),
                proxy_protocol: self.flag(),
                timeout: self.limit(),
                continue_on_timeout: self.flag(),
            },
            use_original_dst: self.flag(),
            chains,
            default_chain: self.optional(|e| Arc::new(e.chain())),
            buffer_limit: self.u32(),
            access_logs: self.list(1, Self::access_log),
        }
    }

    // ripstop's own.

    pub(super) fn host(&mut self) -> HostRecord {
        HostRecord {
            fqdn: self.name(),
            vips: self.list(2, Self::ip),
            endpoints: self.list(2, Self::ip),
            headless: self.flag(),
            ports: self.list(3, |e| HostPort {
                number: e.u16(),
                name: e.text(),
                protocol: one_of!(e; PortProtocol::Auto, PortProtocol::Http, PortProtocol::Http2,
                    PortProtocol::Grpc, PortProtocol::GrpcWeb, PortProtocol::Https,
                    PortProtocol::Tls, PortProtocol::Tcp, PortProtocol::Udp, PortProtocol::Mongo,
                    PortProtocol::Mysql, PortProtocol::Redis),
            }),
        }
    }
}
