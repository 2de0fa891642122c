//! One of everything that `compile` may emit, with values that make sense.

use std::sync::Arc;
use std::time::Duration;

use ripstop_model::defaults::envoy as defaults;
use ripstop_model::snapshot::authz::{self, AuthzFilter, Policy, Rule};
use ripstop_model::snapshot::cluster::*;
use ripstop_model::snapshot::endpoint::*;
use ripstop_model::snapshot::fault::{Abort, Delay, Fault};
use ripstop_model::snapshot::header::{Append, Edit, Edits, HeaderEdits};
use ripstop_model::snapshot::http::*;
use ripstop_model::snapshot::listener::*;
use ripstop_model::snapshot::matching::*;
use ripstop_model::snapshot::retry::{Backoff, RetryOn, RetryPolicy, RetryScope};
use ripstop_model::snapshot::route::*;
use ripstop_model::snapshot::tls::*;
use ripstop_model::snapshot::{Fraction, Resource};

fn resource() -> Option<Resource> {
    Some(Resource {
        kind: "VirtualService".into(),
        namespace: "shop".into(),
        name: "orders".into(),
        part: "http[0]".into(),
    })
}

pub(super) fn endpoints(name: &str) -> Arc<Endpoints> {
    Arc::new(Endpoints {
        name: name.into(),
        groups: vec![Group {
            locality: Locality {
                region: "here".into(),
                ..Locality::default()
            },
            weight: Some(1),
            endpoints: vec![Endpoint {
                address: Target::Socket("127.88.0.1:8080".parse().unwrap()),
                weight: 3,
                health: Health::Healthy,
                hostname: Some("orders-0".into()),
                transport: [("tlsMode".into(), "istio".into())].into(),
                labels: [("version".into(), "v1".into())].into(),
                workload: Some(Arc::new(Workload {
                    name: "orders-v1".into(),
                    namespace: "shop".into(),
                    address: Some("10.88.0.7".parse().unwrap()),
                    ..Workload::default()
                })),
            }],
            ..Group::default()
        }],
        overprovisioning: 140,
    })
}

fn mesh_validation() -> Validation {
    Validation {
        roots: Roots::Secret("ROOTCA".into()),
        sans: vec![
            SanMatch {
                kind: SanKind::Uri,
                value: StringMatch::exact("spiffe://cluster.local/ns/shop/sa/orders"),
            },
            SanMatch {
                kind: SanKind::Any,
                value: StringMatch::prefix("spiffe://"),
            },
        ],
        host_name: false,
        certificate_hashes: Vec::new(),
        spki_hashes: Vec::new(),
        accept_untrusted: false,
    }
}

fn mesh_tls() -> Arc<UpstreamTls> {
    Arc::new(UpstreamTls {
        certificate: Some(Certificate::Secret("default".into())),
        validation: mesh_validation(),
        sni: Some("outbound_.80_._.orders.shop.svc.cluster.local".into()),
        auto_sni: AutoSni::No,
        alpn: vec!["istio-peer-exchange".into(), "istio".into()],
        min_version: TlsVersion::V1_2,
        max_version: TlsVersion::V1_3,
    })
}

fn cluster(name: &str, discovery: Discovery) -> Cluster {
    Cluster {
        name: name.into(),
        alt_stat_name: Some("orders;".into()),
        lb: if matches!(discovery, Discovery::OriginalDst { .. }) {
            LbPolicy::ClusterProvided
        } else {
            LbPolicy::LeastRequest { choices: 2 }
        },
        discovery,
        lb_common: LbCommon {
            panic_threshold: Fraction::NEVER,
            locality_weighted: false,
            zones: None,
            subsets: None,
            slow_start: None,
            close_on_host_set_change: false,
        },
        connect_timeout: Duration::from_secs(10),
        breakers: Breakers {
            default: Thresholds {
                max_connections: u32::MAX,
                retry_budget: Some(defaults::RETRY_BUDGET),
                ..defaults::THRESHOLDS
            },
            high: defaults::THRESHOLDS,
        },
        outlier: Some(Outlier {
            consecutive_5xx: Some(5),
            consecutive_gateway: None,
            consecutive_local_origin: Some(3),
            split_local_origin: true,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_ejection_percent: 10,
            keep_last: true,
            check_returns: true,
            success_rate: None,
            failure_percentage: Some(defaults::outlier::FAILURE_PERCENTAGE),
        }),
        health_checks: vec![HealthCheck {
            timeout: Duration::from_secs(1),
            interval: Duration::from_secs(5),
            no_traffic_interval: Duration::from_secs(60),
            unhealthy_threshold: 2,
            healthy_threshold: 1,
            probe: Probe::Http {
                host: "orders".into(),
                path: "/healthz".into(),
                expected: vec![200..204, 302..303],
            },
        }],
        transport: Transport {
            matches: vec![
                TransportMatch {
                    name: "tlsMode-istio".into(),
                    criteria: [("tlsMode".into(), "istio".into())].into(),
                    tls: Some(mesh_tls()),
                },
                TransportMatch {
                    name: "tlsMode-disabled".into(),
                    criteria: [].into(),
                    tls: None,
                },
            ],
            default: None,
        },
        protocol: Protocol::Downstream {
            http1: Http1 {
                preserve_case: true,
            },
            http2: Http2 {
                keepalive: Some(Http2Keepalive {
                    interval: Duration::from_secs(30),
                    timeout: Duration::from_secs(5),
                }),
                ..defaults::HTTP2
            },
        },
        idle_timeout: Some(Duration::from_secs(90)),
        max_connection_duration: Some(Duration::from_secs(3600)),
        max_requests_per_connection: 1000,
        keepalive: Some(TcpKeepalive {
            probes: Some(3),
            time: Some(Duration::from_secs(60)),
            interval: Some(Duration::from_secs(10)),
        }),
        buffer_limit: 32_768,
        service: Some(Arc::new(ServiceRef {
            host: "orders.shop.svc.cluster.local".into(),
            name: "orders".into(),
            namespace: "shop".into(),
        })),
        resource: resource(),
    }
}

/// Every discovery, balancer, protocol and way of verifying a server.
pub(super) fn clusters() -> Vec<Cluster> {
    let eds = |name: &str| Discovery::Eds {
        service_name: name.into(),
    };
    let dns = |name: &str| Dns {
        endpoints: Arc::new(Endpoints {
            groups: vec![Group {
                endpoints: vec![Endpoint {
                    address: Target::Name {
                        host: "localhost".into(),
                        port: 80,
                    },
                    ..endpoints(name).groups[0].endpoints[0].clone()
                }],
                ..Group::default()
            }],
            ..(*endpoints(name)).clone()
        }),
        family: DnsFamily::V4Preferred,
        refresh: Duration::from_secs(60),
        failure_refresh: Duration::from_secs(2),
        respect_ttl: true,
    };
    let http2 = Protocol::Http2(defaults::HTTP2);
    let with_lb = |lb, name: &str| Cluster {
        lb,
        ..cluster(name, eds(name))
    };
    let origination = UpstreamTls {
        certificate: None,
        validation: Validation {
            roots: Roots::System,
            sans: Vec::new(),
            host_name: true,
            ..mesh_validation()
        },
        sni: None,
        auto_sni: AutoSni::Authority,
        alpn: vec!["h2".into(), "http/1.1".into()],
        ..(*mesh_tls()).clone()
    };
    vec![
        cluster("outbound|80||orders.shop.svc.cluster.local", eds("orders")),
        cluster(
            "inbound|8080||",
            Discovery::Static(endpoints("inbound|8080||")),
        ),
        cluster("strict", Discovery::StrictDns(dns("strict"))),
        Cluster {
            health_checks: Vec::new(),
            outlier: None,
            transport: Transport {
                matches: Vec::new(),
                default: Some(Arc::new(origination)),
            },
            protocol: Protocol::Alpn {
                http1: Http1::default(),
                http2: defaults::HTTP2,
            },
            ..cluster("logical", Discovery::LogicalDns(dns("logical")))
        },
        Cluster {
            health_checks: Vec::new(),
            ..cluster(
                "passthrough",
                Discovery::OriginalDst {
                    use_http_header: false,
                    port_override: None,
                },
            )
        },
        Cluster {
            protocol: http2,
            lb_common: LbCommon {
                slow_start: Some(SlowStart {
                    window: Duration::from_secs(30),
                    aggression: 1.0,
                    min_percent: 10.0,
                }),
                locality_weighted: true,
                zones: None,
                subsets: None,
                ..cluster("x", eds("x")).lb_common
            },
            ..with_lb(LbPolicy::RoundRobin, "rr")
        },
        with_lb(LbPolicy::Random, "random"),
        with_lb(
            LbPolicy::RingHash {
                min_size: 1024,
                max_size: 4096,
            },
            "ring",
        ),
        with_lb(LbPolicy::Maglev { table_size: 65_537 }, "maglev"),
        with_lb(
            LbPolicy::PeakEwma {
                decay: Duration::from_secs(10),
            },
            "ewma",
        ),
    ]
}

fn header(name: &str, test: HeaderTest) -> HeaderMatch {
    HeaderMatch {
        name: name.into(),
        test,
        invert: false,
        missing_as_empty: false,
    }
}

fn retry() -> Option<Arc<RetryPolicy>> {
    Some(Arc::new(RetryPolicy {
        on: RetryOn::parse(
            "gateway-error,connect-failure,retriable-4xx,retriable-status-codes,unavailable",
        )
        .0,
        retries: 3,
        per_try_timeout: Some(Duration::from_secs(2)),
        per_try_idle_timeout: None,
        status_codes: vec![503],
        response_headers: vec![header("x-retry", HeaderTest::Present(true))],
        request_headers: Vec::new(),
        backoff: Backoff {
            base: Duration::from_millis(25),
            max: Duration::from_millis(250),
        },
        avoid_previous_hosts: true,
        host_selection_attempts: 5,
        previous_priorities: Some(2),
        scope: RetryScope::Implicit,
    }))
}

fn edits() -> HeaderEdits {
    let edits = Edits {
        remove: vec!["x-internal".into()],
        add: vec![Edit {
            name: "x-route".into(),
            value: "%PROTOCOL%".into(),
            append: Append::OverwriteIfExistsOrAdd,
            keep_empty: false,
        }],
    };
    HeaderEdits {
        request: edits.clone(),
        response: edits,
    }
}

fn fault() -> Arc<Fault> {
    Arc::new(Fault {
        delay: Some((
            Fraction::percent(10.0),
            Delay::Fixed(Duration::from_secs(1)),
        )),
        abort: Some((Fraction::percent(0.5), Abort::Http(503))),
        headers: Vec::new(),
        upstream_cluster: None,
        max_active: Some(5),
    })
}

fn rbac(action: authz::Action, http: bool, dry_run: bool) -> Arc<AuthzFilter> {
    let name = Policy::name_of_rule("shop", "allow-orders", 0);
    let mut permissions = vec![
        Rule::DestinationPort(8080),
        Rule::DestinationPorts { start: 80, end: 90 },
        Rule::Not(Box::new(Rule::DestinationIp("10.0.0.0/8".parse().unwrap()))),
        Rule::Sni(StringMatch::suffix(".cluster.local")),
    ];
    if http {
        permissions.push(Rule::Or(vec![
            Rule::Path(StringMatch::prefix("/api")),
            Rule::PathTemplate("/users/{*}".into()),
            Rule::Header(header(
                ":method",
                HeaderTest::String(StringMatch::exact("GET")),
            )),
        ]));
    }
    Arc::new(AuthzFilter {
        name: "envoy.filters.http.rbac".into(),
        action,
        policies: vec![Policy {
            resource: Policy::resource_of_name(&name),
            name,
            permissions: vec![Rule::And(permissions)],
            principals: vec![Rule::Or(vec![
                Rule::Principal(Some(StringMatch::exact(
                    "spiffe://cluster.local/ns/shop/sa/web",
                ))),
                Rule::Principal(None),
                Rule::Not(Box::new(Rule::RemoteIp("fd00::/8".parse().unwrap()))),
                Rule::DirectIp("127.0.0.0/8".parse().unwrap()),
                Rule::Any,
            ])],
        }],
        dry_run,
        stat_prefix: "shop.".into(),
    })
}

fn forward(to: Split) -> Forward {
    Forward {
        to,
        path_rewrite: PathRewrite::Prefix("/v2/".into()),
        host_rewrite: HostRewrite::Literal("orders".into()),
        append_forwarded_host: true,
        timeout: Some(Duration::from_secs(15)),
        idle_timeout: Some(None),
        max_stream_duration: Some(MaxStreamDuration {
            limit: Some(None),
            grpc_max: Some(Some(Duration::from_secs(9))),
            grpc_offset: Duration::ZERO,
        }),
        grpc_timeout: Some(GrpcTimeout {
            max: Some(Duration::from_secs(8)),
            offset: Duration::from_millis(10),
        }),
        retry: retry(),
        hash: vec![
            HashPolicy {
                source: HashSource::Cookie {
                    name: "session".into(),
                    path: "/".into(),
                    ttl: Some(Duration::from_secs(60)),
                    attributes: vec![("SameSite".into(), "Strict".into())],
                },
                terminal: true,
            },
            HashPolicy {
                source: HashSource::SourceIp,
                terminal: false,
            },
        ],
        mirrors: vec![Mirror {
            cluster: "random".into(),
            fraction: Fraction::percent(1.0),
            shadow_suffix: true,
        }],
        priority: Priority::High,
        upgrades: vec![("websocket".into(), false)],
        missing_cluster_status: 503,
        criteria: None,
    }
}

pub(super) fn routes() -> RouteConfig {
    let share = |cluster: &str, weight| Share {
        cluster: cluster.into(),
        weight,
        criteria: None,
        headers: edits(),
        host_rewrite: None,
        per_filter: PerFilter::default(),
    };
    let route = |path: PathMatch, action| {
        Arc::new(Route {
            name: "orders.0".into(),
            matches: RouteMatch {
                path,
                headers: vec![
                    header(
                        "x-color",
                        HeaderTest::String(StringMatch::Regex(Pattern::new("b.*").unwrap())),
                    ),
                    header("x-n", HeaderTest::Range { start: 1, end: 5 }),
                ],
                query: vec![QueryMatch {
                    name: "q".into(),
                    test: QueryTest::Present(false),
                }],
                fraction: Some(Fraction::percent(50.0)),
                ..RouteMatch::any()
            },
            action,
            headers: edits(),
            per_filter: PerFilter {
                fault: Some(fault()),
                cors: Some(Arc::new(Cors {
                    allow_origins: vec![StringMatch::exact("https://shop")],
                    allow_methods: "GET,POST".into(),
                    max_age: "600".into(),
                    ..Cors::default()
                })),
                authz: vec![AuthzOverride {
                    filter: "envoy.filters.http.rbac".into(),
                    rules: None,
                }],
            },
            resource: resource(),
        })
    };
    let regex = || Pattern::new("/old/(.*)").unwrap();
    RouteConfig {
        name: "orders.shop.svc.cluster.local:80".into(),
        hosts: vec![Arc::new(VirtualHost {
            name: "orders".into(),
            domains: vec!["orders".into(), "orders.shop:80".into(), "*".into()],
            routes: vec![
                route(
                    PathMatch::Prefix("/".into()),
                    Action::Forward(Box::new(forward(Split::Weighted {
                        shares: vec![share("rr", 90), share("random", 10)],
                        total: 100,
                    }))),
                ),
                route(
                    PathMatch::SegmentPrefix("/seg".into()),
                    Action::Forward(Box::new(Forward {
                        path_rewrite: PathRewrite::Regex {
                            pattern: regex(),
                            substitution: "/new/\\1".into(),
                        },
                        host_rewrite: HostRewrite::Auto,
                        ..forward(Split::One("strict".into()))
                    })),
                ),
                route(
                    PathMatch::Exact("/old".into()),
                    Action::Redirect(Box::new(Redirect {
                        https: true,
                        host: Some("new".into()),
                        port: Some(8443),
                        path: RedirectPath::Full("/new".into()),
                        status: 308,
                        ..Redirect::default()
                    })),
                ),
                route(
                    PathMatch::Regex(regex()),
                    Action::Direct(Direct {
                        status: 418,
                        body: b"teapot".to_vec(),
                    }),
                ),
            ],
            headers: edits(),
            require_tls: RequireTls::No,
            retry: retry(),
            request_attempt_count: true,
            response_attempt_count: false,
            per_filter: PerFilter::default(),
        })],
        headers: edits(),
        internal_only_headers: vec!["x-only-inside".into()],
        most_specific_headers_win: true,
        ignore_port: true,
        max_direct_response: 4096,
    }
}

fn http(routes: RouteSource) -> HttpProxy {
    let log = |sink, format| AccessLog {
        sink,
        format,
        filter: Some(LogFilter::Or(vec![
            LogFilter::Status {
                op: Compare::Ge,
                value: 500,
            },
            LogFilter::And(vec![
                LogFilter::Duration {
                    op: Compare::Ge,
                    milliseconds: 100,
                },
                LogFilter::Sample(Fraction::percent(1.0)),
                LogFilter::ResponseFlags(vec!["UF".into()]),
                LogFilter::NotHealthCheck,
                LogFilter::Header(header("x-log", HeaderTest::Present(true))),
            ]),
        ])),
    };
    HttpProxy {
        stat_prefix: "outbound_80".into(),
        codec: Codec::Auto,
        routes,
        filters: vec![
            HttpFilter::Authz(rbac(authz::Action::Deny, true, false)),
            HttpFilter::Authz(rbac(authz::Action::Allow, true, true)),
            HttpFilter::GrpcStats,
            HttpFilter::Fault(fault()),
            HttpFilter::Cors,
            HttpFilter::Router(Router::default()),
        ],
        path: PathOptions {
            normalize: true,
            merge_slashes: true,
            escaped_slashes: EscapedSlashes::UnescapeAndForward,
        },
        timeouts: HttpTimeouts {
            request_headers: Some(Duration::from_secs(10)),
            ..defaults::HTTP_TIMEOUTS
        },
        limits: defaults::HTTP_LIMITS,
        http1: Http1Options {
            accept_http_10: true,
            default_host: None,
            preserve_case: true,
            enable_trailers: true,
        },
        http2: defaults::HTTP2,
        upgrades: vec!["websocket".into()],
        server_header: ServerHeader::PassThrough,
        via: None,
        use_remote_address: false,
        xff_trusted_hops: 0,
        skip_xff_append: true,
        internal: Vec::new(),
        request_id: RequestId {
            generate: true,
            preserve_external: true,
            set_in_response: false,
        },
        client_cert: ForwardClientCert {
            mode: Xfcc::AppendForward,
            subject: true,
            uri: true,
            dns: true,
            ..ForwardClientCert::default()
        },
        strip_port: StripPort::No,
        underscores: Underscores::Allow,
        tracing: Some(Tracing {
            cluster: Some("rr".into()),
            service_name: "orders.shop".into(),
            random: Fraction::percent(1.0),
            overall: Fraction::ALWAYS,
        }),
        access_logs: vec![
            log(LogSink::Stdout, LogFormat::Text("%PROTOCOL%\n".into())),
            log(
                LogSink::File("/dev/null".into()),
                LogFormat::Json(vec![("p".into(), "%PROTOCOL%".into())]),
            ),
            log(LogSink::Stderr, LogFormat::Default),
        ],
    }
}

fn chain(name: &str, terminal: Terminal) -> FilterChain {
    FilterChain {
        name: name.into(),
        matches: ChainMatch::default(),
        tls: None,
        handshake_timeout: None,
        authz: Vec::new(),
        peer_exchange: false,
        terminal,
    }
}

fn tcp() -> Terminal {
    Terminal::Tcp(Arc::new(TcpProxy {
        stat_prefix: "tcp".into(),
        clusters: Split::One("inbound|8080||".into()),
        idle_timeout: None,
        max_connection_duration: None,
        max_connect_attempts: 3,
        hash_source_ip: true,
        access_logs: Vec::new(),
        resource: resource(),
    }))
}

fn listener(name: &str, port: u16, chains: Vec<FilterChain>) -> Listener {
    Listener {
        name: name.into(),
        address: format!("127.0.0.1:{port}").parse().unwrap(),
        bind: true,
        direction: Direction::Inbound,
        inspect: Inspect {
            original_dst: true,
            tls: true,
            http: true,
            proxy_protocol: false,
            timeout: None,
            continue_on_timeout: true,
        },
        use_original_dst: false,
        chains: chains.into_iter().map(Arc::new).collect(),
        default_chain: None,
        buffer_limit: 32_768,
        access_logs: Vec::new(),
        resource: None,
    }
}

/// An inbound listener in PERMISSIVE (xDS surface D5), an outbound one over RDS, a virtual one.
pub(super) fn listeners() -> Vec<Listener> {
    let http = |routes| Terminal::Http(Arc::new(self::http(routes)));
    let mtls = FilterChain {
        matches: ChainMatch {
            destination_port: Some(8080),
            destination: vec!["10.88.0.7/32".parse().unwrap()],
            transport: Some(TransportProtocol::Tls),
            alpn: vec!["istio-http/1.1".into(), "istio-h2".into()],
            source_type: SourceType::External,
            ..ChainMatch::default()
        },
        tls: Some(Arc::new(DownstreamTls {
            certificates: vec![Certificate::Secret("default".into())],
            validation: Some(mesh_validation()),
            require_client_certificate: true,
            alpn: vec!["istio-h2".into(), "istio-http/1.1".into()],
            min_version: TlsVersion::V1_2,
            max_version: TlsVersion::V1_3,
        })),
        handshake_timeout: Some(Duration::from_secs(15)),
        authz: vec![
            rbac(authz::Action::Deny, false, false),
            rbac(authz::Action::Allow, false, true),
        ],
        peer_exchange: true,
        ..chain(
            "inbound-mtls",
            http(RouteSource::Inline(Arc::new(routes()))),
        )
    };
    let plain = FilterChain {
        matches: ChainMatch {
            transport: Some(TransportProtocol::RawBuffer),
            ..ChainMatch::default()
        },
        ..chain("inbound-plain", tcp())
    };
    let named = chain(
        "outbound",
        http(RouteSource::Named(
            "orders.shop.svc.cluster.local:80".into(),
        )),
    );
    vec![
        listener("inbound_8080", 18_080, vec![mtls, plain]),
        Listener {
            bind: false,
            direction: Direction::Outbound,
            ..listener("240.240.0.1_80", 18_081, vec![named])
        },
        Listener {
            use_original_dst: true,
            default_chain: Some(Arc::new(chain("default", tcp()))),
            ..listener("virtual_outbound", 18_001, Vec::new())
        },
    ]
}
