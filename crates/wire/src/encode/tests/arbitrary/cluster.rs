//! Clusters, their endpoints and what is known of them.

use super::*;

impl Entropy {
    pub(super) fn workload(&mut self) -> Workload {
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

    pub(super) fn endpoint(&mut self) -> Endpoint {
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

    pub(in super::super) fn endpoints(&mut self) -> Endpoints {
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

    pub(super) fn dns(&mut self) -> Dns {
        Dns {
            endpoints: Arc::new(self.endpoints()),
            family: one_of!(self; DnsFamily::Auto, DnsFamily::V4Only, DnsFamily::V6Only,
                DnsFamily::V4Preferred, DnsFamily::All),
            refresh: self.duration(),
            failure_refresh: self.duration(),
            respect_ttl: self.flag(),
        }
    }

    pub(super) fn thresholds(&mut self) -> Thresholds {
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

    pub(super) fn outlier(&mut self) -> Outlier {
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
            check_returns: self.flag(),
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

    pub(super) fn health_check(&mut self) -> HealthCheck {
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

    pub(super) fn http2(&mut self) -> Http2 {
        Http2 {
            max_concurrent_streams: self.u32(),
            initial_stream_window: self.optional(Self::u32),
            initial_connection_window: self.optional(Self::u32),
            keepalive: self.optional(|e| Http2Keepalive {
                interval: e.duration(),
                timeout: e.duration(),
            }),
            allow_connect: self.flag(),
            floods: FloodLimits {
                control_frames: self.u32(),
                empty_frames: self.u32(),
                priority_frames: self.u32(),
                window_updates: self.u32(),
                resets: self.u32(),
                resets_per_second: self.u32(),
            },
        }
    }

    pub(super) fn protocol(&mut self) -> Protocol {
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

    pub(in super::super) fn cluster(&mut self) -> Cluster {
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
        let weighted = self.flag();
        Cluster {
            name: self.name(),
            alt_stat_name: self.optional(Self::text),
            discovery,
            lb_common: LbCommon {
                zones: self
                    .optional(|e| ZoneAware {
                        enabled: e.fraction(),
                        min_members: e.byte().into(),
                        fail_on_panic: e.flag(),
                    })
                    .filter(|_| !weighted),
                panic_threshold: self.fraction(),
                locality_weighted: weighted,
                subsets: self
                    .optional(|e| Arc::new(e.subsets()))
                    .filter(|subsets| !subsets.selectors.is_empty()),
                slow_start: self
                    .optional(|e| SlowStart {
                        window: e.duration(),
                        aggression: f64::from(e.byte()),
                        min_percent: f64::from(e.byte()),
                    })
                    .filter(|_| slow),
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

    fn subsets(&mut self) -> Subsets {
        let fallback =
            |e: &mut Self| one_of!(e; Fallback::Nobody, Fallback::Any, Fallback::Default);
        Subsets {
            fallback: fallback(self),
            default: self.labels(),
            selectors: self.list(2, |e| {
                let fewer = BTreeSet::from([format!("a{}", e.byte())]);
                Selector {
                    keys: fewer.iter().cloned().chain(["b".to_owned()]).collect(),
                    fallback: e.optional(|e| {
                        one_of!(e;
                            Instead::As(fallback(e)),
                            Instead::Fewer(fewer),
                        )
                    }),
                }
            }),
        }
    }
}
