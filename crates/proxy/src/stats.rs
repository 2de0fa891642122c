//! Envoy's counters and gauges of clusters, connection managers and listeners: named when configuration changes, only
//! added to while requests run. What can be read off another place is not counted on the way but brought up to date once
//! a second and before every page ([`refresh`]).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};

use ripstop_model::reason::Reason;
use ripstop_telemetry::{Counter, Gauge, Scope, Stats};

use crate::Shared;
use crate::health::outlier::{Cause, Event};
use crate::http2::Flood;

/// A struct with a field and a name for each.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident, $scope:path;
     counters { $($counter:ident $counter_name:literal,)* }
     gauges { $($gauge:ident $gauge_name:literal,)* }
     others { $($other:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name {
            $(pub $counter: Counter,)*
            $(pub $gauge: Gauge,)*
            $($other: $type,)*
        }

        impl $name {
            pub fn new(stats: &Stats, name: &str) -> Arc<$name> {
                let scope = $scope(name);
                Arc::new($name {
                    $($counter: stats.counter(scope, $counter_name),)*
                    $($gauge: stats.gauge(scope, $gauge_name),)*
                    $($other: <$type>::default(),)*
                })
            }
        }
    };
}

named! {
    /// `cluster.NAME.…`
    Cluster, Scope::Cluster;
    counters {
        rq_total "upstream_rq_total",
        rq_1xx "upstream_rq_1xx",
        rq_2xx "upstream_rq_2xx",
        rq_3xx "upstream_rq_3xx",
        rq_4xx "upstream_rq_4xx",
        rq_5xx "upstream_rq_5xx",
        rq_completed "upstream_rq_completed",
        rq_retry "upstream_rq_retry",
        rq_retry_success "upstream_rq_retry_success",
        rq_retry_overflow "upstream_rq_retry_overflow",
        rq_retry_limit_exceeded "upstream_rq_retry_limit_exceeded",
        retry_or_shadow_abandoned "retry_or_shadow_abandoned",
        rq_timeout "upstream_rq_timeout",
        rq_per_try_timeout "upstream_rq_per_try_timeout",
        rq_pending_overflow "upstream_rq_pending_overflow",
        rq_rx_reset "upstream_rq_rx_reset",
        cx_protocol_error "upstream_cx_protocol_error",
        cx_total "upstream_cx_total",
        cx_connect_fail "upstream_cx_connect_fail",
        cx_connect_timeout "upstream_cx_connect_timeout",
        none_healthy "upstream_cx_none_healthy",
        panic "lb_healthy_panic",
        membership_change "membership_change",
        health_attempt "health_check.attempt",
        health_success "health_check.success",
        health_failure "health_check.failure",
        health_network_failure "health_check.network_failure",
        update_attempt "update_attempt",
        update_success "update_success",
        update_empty "update_empty",
        update_failure "update_failure",
        ejections_enforced_total "outlier_detection.ejections_enforced_total",
        ejections_enforced_consecutive_5xx "outlier_detection.ejections_enforced_consecutive_5xx",
        ejections_enforced_gateway "outlier_detection.ejections_enforced_consecutive_gateway_failure",
        ejections_enforced_local "outlier_detection.ejections_enforced_consecutive_local_origin_failure",
        ejections_enforced_success_rate "outlier_detection.ejections_enforced_success_rate",
        ejections_enforced_percentage "outlier_detection.ejections_enforced_failure_percentage",
        ejections_overflow "outlier_detection.ejections_overflow",
        flood_control "http2.outbound_control_flood",
        flood_empty "http2.inbound_empty_frames_flood",
        flood_priority "http2.inbound_priority_frames_flood",
        flood_window_update "http2.inbound_window_update_frames_flood",
        flood_reset "http2.inbound_reset_flood",
        flood_head "http2.header_overflow",
        flood_slow_head "http2.inbound_slow_head",
        flood_codec "http2.inbound_flood",
    }
    gauges {
        rq_active "upstream_rq_active",
        rq_pending_active "upstream_rq_pending_active",
        cx_active "upstream_cx_active",
        membership_total "membership_total",
        membership_healthy "membership_healthy",
        ejections_active "outlier_detection.ejections_active",
    }
    others { codes: Codes, }
}

named! {
    /// `http.PREFIX.…`
    Http, Scope::Http;
    counters {
        rq_total "downstream_rq_total",
        rq_1xx "downstream_rq_1xx",
        rq_2xx "downstream_rq_2xx",
        rq_3xx "downstream_rq_3xx",
        rq_4xx "downstream_rq_4xx",
        rq_5xx "downstream_rq_5xx",
        cx_total "downstream_cx_total",
        cx_ssl_total "downstream_cx_ssl_total",
        cx_protocol_error "downstream_cx_protocol_error",
        rq_timeout "downstream_rq_timeout",
        rq_header_timeout "downstream_rq_header_timeout",
        rq_idle_timeout "downstream_rq_idle_timeout",
    }
    gauges {
        rq_active "downstream_rq_active",
        cx_active "downstream_cx_active",
    }
    others {}
}

named! {
    /// `listener.ADDRESS.…`
    Listener, Scope::Listener;
    counters {
        cx_total "downstream_cx_total",
        no_chain "no_filter_chain_match",
        overflow "downstream_global_cx_overflow",
        overflow_of_address "downstream_address_cx_overflow",
        handshake_timeout "downstream_cx_transport_socket_connect_timeout",
        ssl_error "ssl.connection_error",
    }
    gauges {
        cx_active "downstream_cx_active",
    }
    others {}
}

named! {
    /// `http2.…`: of all downstream connections.
    Http2, of_http2;
    counters {
        flood_control "outbound_control_flood",
        flood_empty "inbound_empty_frames_flood",
        flood_priority "inbound_priority_frames_flood",
        flood_window_update "inbound_window_update_frames_flood",
        flood_reset "inbound_reset_flood",
        flood_head "header_overflow",
        flood_slow_head "inbound_slow_head",
        flood_codec "inbound_flood",
        replaced_for_resets "inbound_reset_goaway",
    }
    gauges {}
    others {}
}

fn of_http2(_all: &str) -> Scope<'_> {
    Scope::Http2
}

/// Both name the floods that ended connections.
macro_rules! counts_floods {
    ($($of:ident)*) => {
        $(impl $of {
            pub fn flood(&self, flood: Flood) -> &Counter {
                match flood {
                    Flood::Control => &self.flood_control,
                    Flood::Empty => &self.flood_empty,
                    Flood::Priority => &self.flood_priority,
                    Flood::WindowUpdate => &self.flood_window_update,
                    Flood::Reset => &self.flood_reset,
                    Flood::Head => &self.flood_head,
                    Flood::SlowHead => &self.flood_slow_head,
                    Flood::Codec => &self.flood_codec,
                }
            }
        })*
    };
}

counts_floods! { Cluster Http2 }

/// A limit of the cluster's refused the request.
pub fn is_overflow(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::CircuitOpenRequests | Reason::CircuitOpenPending | Reason::CircuitOpenConnections
    )
}

/// Something that lasts: counted when it begins, and active until it is dropped.
#[derive(Debug)]
pub struct Active(Gauge);

impl Active {
    fn begin(total: &Counter, active: &Gauge) -> Active {
        total.inc();
        active.add(1);
        Active(active.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

impl Cluster {
    /// The request that this cluster was asked is over, with what its client was told.
    pub fn completed(&self, status: u16, reason: Option<Reason>) {
        if reason.is_some_and(is_overflow) {
            self.rq_pending_overflow.inc();
        }
        let class = match status / 100 {
            1 => &self.rq_1xx,
            2 => &self.rq_2xx,
            3 => &self.rq_3xx,
            4 => &self.rq_4xx,
            5 => &self.rq_5xx,
            // Broken off without a response.
            _ => return,
        };
        class.inc();
        self.rq_completed.inc();
        self.codes.count(status);
    }

    /// An attempt failed without a response.
    pub fn failed(&self, reason: Reason) {
        match reason {
            Reason::ConnectFailure | Reason::TlsFailure => self.cx_connect_fail.inc(),
            Reason::ConnectTimeout => {
                self.cx_connect_fail.inc();
                self.cx_connect_timeout.inc();
            }
            Reason::UpstreamTimeout => self.rq_timeout.inc(),
            Reason::PerTryTimeout | Reason::PerTryIdleTimeout => self.rq_per_try_timeout.inc(),
            Reason::UpstreamReset | Reason::UpstreamClosed | Reason::UpstreamClosedReused => {
                self.rq_rx_reset.inc();
            }
            Reason::NoHealthyEndpoint | Reason::NoEndpoint => self.none_healthy.inc(),
            Reason::UpstreamProtocol | Reason::UpstreamHeadTooLarge => self.cx_protocol_error.inc(),
            _ => {}
        }
    }

    pub(crate) fn outlier(&self, event: &Event) {
        match event {
            Event::Ejected { cause, .. } => {
                self.ejections_enforced_total.inc();
                match cause {
                    Cause::Consecutive5xx => self.ejections_enforced_consecutive_5xx.inc(),
                    Cause::ConsecutiveGateway => self.ejections_enforced_gateway.inc(),
                    Cause::ConsecutiveLocalOrigin => self.ejections_enforced_local.inc(),
                    Cause::SuccessRate => self.ejections_enforced_success_rate.inc(),
                    Cause::FailurePercentage => self.ejections_enforced_percentage.inc(),
                }
            }
            Event::Spared { .. } => self.ejections_overflow.inc(),
            Event::Returned { .. } => {}
        }
    }
}

impl Http {
    pub fn request(&self) -> Active {
        Active::begin(&self.rq_total, &self.rq_active)
    }

    pub fn connection(&self, tls: bool) -> Active {
        if tls {
            self.cx_ssl_total.inc();
        }
        Active::begin(&self.cx_total, &self.cx_active)
    }

    /// A request is over.
    pub fn completed(&self, status: u16, reason: Option<Reason>) {
        match reason {
            Some(Reason::RequestTimeout) => self.rq_timeout.inc(),
            Some(Reason::RequestHeadTimeout) => self.rq_header_timeout.inc(),
            Some(Reason::RequestIdle | Reason::StreamIdle) => self.rq_idle_timeout.inc(),
            _ => {}
        }
        match status / 100 {
            1 => self.rq_1xx.inc(),
            2 => self.rq_2xx.inc(),
            3 => self.rq_3xx.inc(),
            4 => self.rq_4xx.inc(),
            5 => self.rq_5xx.inc(),
            _ => {}
        }
    }
}

impl Listener {
    /// Connections so far, and now.
    pub fn connections(&self) -> (u64, i64) {
        (self.cx_total.read(), self.cx_active.read())
    }

    pub fn connection(&self) -> Active {
        Active::begin(&self.cx_total, &self.cx_active)
    }

    /// A client did not get through its TLS handshake.
    pub fn handshake_failed(&self, reason: Reason) {
        match reason {
            Reason::TlsHandshakeTimeout => self.handshake_timeout.inc(),
            _ => self.ssl_error.inc(),
        }
    }
}

/// How often each status occurred, of the first [`CODES`] that did. A name is made later, off the request path.
#[derive(Debug, Default)]
struct Codes([Code; CODES]);

const CODES: usize = 16;

#[derive(Debug, Default)]
struct Code {
    /// 0 while the place is free.
    status: AtomicU16,
    named: AtomicBool,
    count: Counter,
}

impl Codes {
    fn count(&self, status: u16) {
        for code in &self.0 {
            let is = match code.status.load(Ordering::Relaxed) {
                0 => code
                    .status
                    .compare_exchange(0, status, Ordering::Relaxed, Ordering::Relaxed)
                    .map_or_else(|other| other, |_| status),
                is => is,
            };
            if is == status {
                return code.count.inc();
            }
        }
    }

    fn name(&self, stats: &Stats, cluster: &str) {
        for code in &self.0 {
            let status = code.status.load(Ordering::Relaxed);
            if status != 0 && !code.named.swap(true, Ordering::Relaxed) {
                let name = format!("upstream_rq_{status}");
                stats.adopt(Scope::Cluster(cluster), &name, &code.count);
            }
        }
    }
}

/// What is counted of one endpoint, for `/clusters`.
#[derive(Debug, Default)]
pub struct Usage {
    pub requests: AtomicU64,
    /// Answered with 5xx, or not at all.
    pub errors: AtomicU64,
    pub timeouts: AtomicU64,
    pub connect_failures: AtomicU64,
}

impl Usage {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The name of a listener's counters: its address, as Envoy has it.
pub fn listener_name(address: SocketAddr) -> String {
    address.to_string()
}

/// Brings up to date what is not counted on the way.
pub fn refresh(shared: &Shared) {
    let tables = shared.live.tables();
    let stats = shared.registry.stats();
    for (name, cluster) in &tables.clusters {
        let roster = cluster.roster();
        let (mut all, mut healthy, mut ejected) = (0, 0, 0);
        for member in roster.members() {
            all += 1;
            healthy += i64::from(member.is_usable());
            ejected += i64::from(member.load.is_barred(crate::balance::Bar::Ejected));
        }
        let counted = &cluster.stats;
        counted.membership_total.set(all);
        counted.membership_healthy.set(healthy);
        counted.ejections_active.set(ejected);
        let of_both = |count: fn(&crate::cluster::Breaker) -> u32| {
            i64::from(count(cluster.breaker_of(false))) + i64::from(count(cluster.breaker_of(true)))
        };
        counted
            .rq_active
            .set(of_both(crate::cluster::Breaker::active_requests));
        counted
            .rq_pending_active
            .set(of_both(crate::cluster::Breaker::pending_requests));
        counted
            .cx_active
            .set(of_both(crate::cluster::Breaker::active_connections));
        let shown = cluster.config.alt_stat_name.as_deref().unwrap_or(name);
        counted.codes.name(stats, shown);
    }
    shared
        .totals
        .refresh(shared, tables.clusters.len(), tables.listeners.len());
}

/// `server.…`, `cluster_manager.…`, `listener_manager.…`
#[derive(Debug)]
pub struct Totals {
    clusters: Gauge,
    listeners: Gauge,
    live: Gauge,
    uptime: Gauge,
    concurrency: Gauge,
    connections: Gauge,
    pub http2: Arc<Http2>,
}

impl Totals {
    pub fn new(stats: &Stats) -> Totals {
        Totals {
            clusters: stats.gauge(Scope::ClusterManager, "active_clusters"),
            listeners: stats.gauge(Scope::ListenerManager, "total_listeners_active"),
            live: stats.gauge(Scope::Server, "live"),
            uptime: stats.gauge(Scope::Server, "uptime"),
            concurrency: stats.gauge(Scope::Server, "concurrency"),
            connections: stats.gauge(Scope::Server, "total_connections"),
            http2: Http2::new(stats, ""),
        }
    }

    fn refresh(&self, shared: &Shared, clusters: usize, listeners: usize) {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.clusters.set(number(clusters));
        self.listeners.set(number(listeners));
        self.live.set(i64::from(shared.is_ready()));
        self.uptime.set(shared.uptime().as_secs().cast_signed());
        self.concurrency.set(number(shared.wanted.len()));
        self.connections.set(number(shared.connections()));
    }
}
