//! Listeners, their filters and logs, and the hosts of the mesh.

use super::*;

impl Entropy {
    pub(super) fn log_filter(&mut self, depth: usize) -> LogFilter {
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

    pub(super) fn access_log(&mut self) -> AccessLog {
        AccessLog {
            sink: one_of!(self; LogSink::Stdout, LogSink::Stderr, LogSink::File(self.text())),
            format: one_of!(self;
                LogFormat::Default,
                LogFormat::Text(self.template()),
                LogFormat::Json(
                    self.pairs().into_iter().map(|(key, _)| (key, self.template())).collect()
                ),
            ),
            filter: self.optional(|e| e.log_filter(2)),
        }
    }

    pub(super) fn timeouts(&mut self) -> HttpTimeouts {
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

    pub(super) fn http(&mut self) -> HttpProxy {
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
                    overall: e.fraction(),
                }
            }),
            access_logs: self.list(2, Self::access_log),
        }
    }

    pub(super) fn tcp(&mut self) -> TcpProxy {
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

    pub(super) fn chain(&mut self) -> FilterChain {
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

    pub(in super::super) fn listener(&mut self) -> Listener {
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
            resource: self.optional(Self::resource),
        }
    }

    // ripstop's own.

    pub(in super::super) fn host(&mut self) -> HostRecord {
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
