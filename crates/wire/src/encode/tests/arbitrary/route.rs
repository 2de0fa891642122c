//! Route configurations.

use super::*;

impl Entropy {
    pub(super) fn retry(&mut self) -> RetryPolicy {
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

    pub(super) fn fault(&mut self) -> Fault {
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

    pub(super) fn cors(&mut self) -> Cors {
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

    pub(super) fn per_filter(&mut self) -> PerFilter {
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

    pub(super) fn split(&mut self, http: bool) -> Split {
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

    pub(super) fn share(&mut self, http: bool) -> Share {
        Share {
            cluster: self.name(),
            weight: self.u16().into(),
            criteria: if http { self.criteria() } else { None },
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
            per_filter: if http {
                self.per_filter()
            } else {
                PerFilter::default()
            },
        }
    }

    pub(super) fn hash(&mut self) -> HashPolicy {
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

    pub(super) fn forward(&mut self) -> Forward {
        let criteria = self.criteria();
        let mut to = self.split(true);
        if let Split::Weighted { shares, .. } = &mut to {
            for share in shares {
                let own = share.criteria.as_deref().cloned().unwrap_or_default();
                share.criteria = ripstop_model::subset::within(criteria.as_ref(), own);
            }
        }
        Forward {
            to,
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
            max_stream_duration: self.optional(|e| MaxStreamDuration {
                limit: e.optional(Self::limit),
                grpc_max: e.optional(Self::limit),
                grpc_offset: e.limit().unwrap_or_default(),
            }),
            grpc_timeout: self.optional(|e| GrpcTimeout {
                max: e.limit(),
                offset: e.limit().unwrap_or_default(),
            }),
            retry: self.optional(|e| Arc::new(e.retry())),
            hash: self.list(2, Self::hash),
            mirrors: self.list(2, |e| Mirror {
                cluster: e.name(),
                fraction: e.fraction(),
                shadow_suffix: e.flag(),
            }),
            priority: one_of!(self; Priority::Default, Priority::High),
            upgrades: self.list(1, |e| (e.lower(), e.flag())),
            criteria,
            missing_cluster_status: one_of!(self; 503, 404, 500),
        }
    }

    pub(super) fn redirect(&mut self) -> Redirect {
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

    pub(super) fn route(&mut self) -> Route {
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

    pub(in super::super) fn route_config(&mut self) -> RouteConfig {
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
            // No body here is longer than this.
            max_direct_response: self.u32().max(5),
        }
    }

    // Authorization.
}
