//! The client's own ports → inbound listeners, with the chains of its mTLS mode and the policies that select it.
//!
//! A ripstop sidecar has one listener per target port and kind of address; a captured stock Envoy has `virtualInbound` with a set
//! of chains per port, as Istio gives it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ripstop_model::intent::destination_rule::ConnectionPool;
use ripstop_model::intent::registry::Port;
use ripstop_model::protocol::Protocol as AppProtocol;
use ripstop_model::snapshot::cluster::{Cluster, Discovery, LbPolicy, Protocol, ServiceRef};
use ripstop_model::snapshot::http::RouteSource;
use ripstop_model::snapshot::listener::{
    ChainMatch, Direction, FilterChain, Inspect, Listener, TcpProxy, Terminal, TransportProtocol,
};
use ripstop_model::snapshot::route::{
    Action, Forward, Route, RouteConfig, RouteMatch, Split, VirtualHost,
};
use ripstop_model::snapshot::tls::DownstreamTls;
use ripstop_model::snapshot::{Name, Resource};

use super::identity::Mode;
use super::policy::{self, Place};
use super::service::{PLAIN_HTTP, quiet};
use super::{BLACK_HOLE, INBOUND_PASSTHROUGH, cluster, http, identity, route, rule, service};
use crate::api::message::InboundKind;
use crate::registry::Member;
use crate::view::{View, Wanted};

pub(super) const VIRTUAL_INBOUND: &str = "virtualInbound";
const INBOUND_PORT: u16 = 15006;

pub(super) fn names(view: &View<'_>, wanted: &mut Wanted) {
    let Some(member) = &view.client.member else {
        return;
    };
    if view.client.stock && view.client.captured {
        wanted.listeners.insert(VIRTUAL_INBOUND.into());
    } else {
        for inbound in member.inbound() {
            wanted.listeners.insert(inbound.listener.into());
        }
    }
    for target in member.targets() {
        wanted.clusters.insert(cluster_name(target));
    }
}

fn cluster_name(target: u16) -> Name {
    format!("inbound|{target}||").into()
}

pub(super) fn listener(view: &View<'_>, name: &Name) -> Option<Listener> {
    let member = view.client.member.as_ref()?;
    if **name == *VIRTUAL_INBOUND {
        return Some(virtual_inbound(view, member));
    }
    let inbound = member
        .inbound()
        .into_iter()
        .find(|inbound| *inbound.listener == **name)?;
    let side = Side {
        view,
        member,
        outside: inbound.kind == InboundKind::Published,
        by_port: false,
    };
    let protocol = side.protocol(inbound.target_port);
    let (chains, resource) = side.chains(inbound.target_port);
    Some(Listener {
        name: name.clone(),
        address: inbound.address,
        bind: true,
        direction: Direction::Inbound,
        inspect: Inspect {
            tls: true,
            http: !protocol.is_http() && !protocol.is_opaque() && !protocol.is_tls(),
            timeout: view.mesh.settings.table().detection,
            ..quiet()
        },
        use_original_dst: false,
        chains,
        default_chain: None,
        buffer_limit: view.mesh.settings.table().buffer_limit,
        access_logs: service::refused_logs(view),
        resource,
    })
}

fn virtual_inbound(view: &View<'_>, member: &Arc<Member>) -> Listener {
    let side = Side {
        view,
        member,
        outside: false,
        by_port: true,
    };
    let own = ChainMatch {
        destination_port: Some(INBOUND_PORT),
        ..ChainMatch::default()
    };
    let mut chains = vec![service::chain(
        "virtualInbound-blackhole",
        own,
        service::to_fixed(view, BLACK_HOLE),
    )];
    for target in member.targets() {
        chains.extend(side.chains(target).0);
    }
    chains.extend(side.undeclared());
    Listener {
        name: VIRTUAL_INBOUND.into(),
        address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), INBOUND_PORT),
        bind: true,
        direction: Direction::Inbound,
        inspect: Inspect {
            original_dst: true,
            tls: true,
            http: true,
            timeout: view.mesh.settings.table().detection,
            ..quiet()
        },
        use_original_dst: false,
        chains,
        default_chain: None,
        buffer_limit: view.mesh.settings.table().buffer_limit,
        access_logs: service::refused_logs(view),
        // Of several ports: each may follow another.
        resource: None,
    }
}

/// One chain of D5's table: what it matches, whether it ends mesh mTLS, whether it serves HTTP.
struct Row {
    name: &'static str,
    transport: Option<TransportProtocol>,
    alpn: Vec<String>,
    mtls: bool,
    http: bool,
}

struct Side<'v, 'a> {
    view: &'v View<'a>,
    member: &'v Arc<Member>,
    /// For clients that are not sidecars.
    outside: bool,
    /// The listener takes several ports, so its chains match them.
    by_port: bool,
}

impl Side<'_, '_> {
    /// As callers know the port: the service's declaration, else the member's own.
    fn protocol(&self, target: u16) -> AppProtocol {
        let service = self.member.service.as_deref();
        let known = service.and_then(|host| self.view.mesh.service(host));
        let declared = |port: &&Port| port.target == target;
        known
            .and_then(|known| known.ports.iter().find(declared))
            .map(|port| port.protocol)
            .or_else(|| {
                let own = self
                    .member
                    .ports
                    .iter()
                    .find(|port| port.target() == target);
                own.map(crate::api::message::Port::protocol)
            })
            .unwrap_or_default()
    }

    /// The chains of a port, and what decided which transports they take.
    fn chains(&self, target: u16) -> (Vec<Arc<FilterChain>>, Option<Resource>) {
        let (mode, resource) = identity::decided(
            self.view.mesh,
            &self.member.namespace,
            &self.member.labels,
            target,
        );
        let protocol = self.protocol(target);
        let mut rows = self.rows(mode, protocol);
        if self.outside && mode == Mode::Permissive {
            // Who comes from outside brings no identity of the mesh. A port that might be given one would have to hold
            // back the greeting of a server that speaks first, in case a ClientHello is on its way.
            rows.retain(|row| !row.mtls);
        }
        let chains = rows
            .into_iter()
            .map(|row| self.chain(row, Some(target), protocol));
        (chains.collect(), resource)
    }

    /// Ports of the application that nobody declared: to where the client wanted to go.
    fn undeclared(&self) -> Vec<Arc<FilterChain>> {
        let mode = identity::mode(
            self.view.mesh,
            &self.member.namespace,
            &self.member.labels,
            0,
        );
        self.rows(mode, AppProtocol::Auto)
            .into_iter()
            .map(|row| self.chain(row, None, AppProtocol::Auto))
            .collect()
    }

    /// The filter-chain sets of D5.
    fn rows(&self, mode: Mode, protocol: AppProtocol) -> Vec<Row> {
        use TransportProtocol::{RawBuffer, Tls};
        let http_alpn = identity::inbound_http(self.view);
        let tcp_alpn = identity::inbound_tcp(self.view);
        let mesh: Vec<String> = http_alpn.iter().chain(&tcp_alpn).cloned().collect();
        let plain: Vec<String> = PLAIN_HTTP.map(str::to_owned).to_vec();
        let row = |name, transport, alpn, mtls, http| Row {
            name,
            transport,
            alpn,
            mtls,
            http,
        };
        let none = Vec::new;
        let opaque = protocol.is_opaque() || protocol.is_tls();
        match (mode, protocol.is_http(), opaque) {
            (Mode::Permissive, true, _) => vec![
                row("mtls-http", Some(Tls), mesh, true, true),
                row("http", Some(RawBuffer), none(), false, true),
            ],
            (Mode::Permissive, false, true) => vec![
                row("mtls-tcp", Some(Tls), mesh, true, false),
                row("tcp", Some(RawBuffer), none(), false, false),
                row("tls", Some(Tls), none(), false, false),
            ],
            (Mode::Permissive, false, false) => vec![
                row("mtls-http", Some(Tls), http_alpn, true, true),
                row("http", Some(RawBuffer), plain, false, true),
                row("mtls-tcp", Some(Tls), tcp_alpn, true, false),
                row("tcp", Some(RawBuffer), none(), false, false),
                row("tls", Some(Tls), none(), false, false),
            ],
            (Mode::Strict, true, _) => vec![row("mtls-http", Some(Tls), none(), true, true)],
            (Mode::Strict, false, true) => vec![row("mtls-tcp", Some(Tls), none(), true, false)],
            (Mode::Strict, false, false) => vec![
                row("mtls-http", Some(Tls), http_alpn, true, true),
                row("mtls-tcp", Some(Tls), none(), true, false),
            ],
            (Mode::Disable, true, _) => vec![row("http", None, none(), false, true)],
            (Mode::Disable, false, true) => vec![row("tcp", None, none(), false, false)],
            (Mode::Disable, false, false) => vec![
                row("http", Some(RawBuffer), plain, false, true),
                // A chain for any transport would never be looked at: one for plain bytes is more specific.
                row("tcp", Some(RawBuffer), none(), false, false),
                row("tls", Some(Tls), none(), false, false),
            ],
        }
    }

    fn chain(&self, row: Row, target: Option<u16>, protocol: AppProtocol) -> Arc<FilterChain> {
        let table = self.view.mesh.settings.table();
        let place = Place {
            port: target,
            http: row.http,
        };
        let authz = policy::filters(self.view, self.member, place);
        let cluster = target.map_or_else(|| INBOUND_PASSTHROUGH.into(), cluster_name);
        let (authz, terminal) = if row.http {
            let manager = http::inbound(
                self.view,
                stat_prefix(target),
                RouteSource::Inline(Arc::new(self.routes(&cluster, target, protocol))),
                authz,
                self.outside,
            );
            (Vec::new(), Terminal::Http(Arc::new(manager)))
        } else {
            (authz, Terminal::Tcp(Arc::new(self.tcp(cluster, target))))
        };
        Arc::new(FilterChain {
            name: match target {
                Some(target) => format!("{target}_{}", row.name).into(),
                None => format!("{VIRTUAL_INBOUND}-{}", row.name).into(),
            },
            matches: ChainMatch {
                destination_port: target.filter(|_| self.by_port),
                transport: row.transport,
                alpn: row.alpn,
                ..ChainMatch::default()
            },
            tls: row.mtls.then(|| self.tls(row.http, protocol)),
            handshake_timeout: row.mtls.then_some(table.handshake).flatten(),
            authz,
            peer_exchange: row.mtls && !row.http && !self.view.client.stock,
            terminal,
        })
    }

    /// What the server side offers on a chain. Where the chain was chosen without looking at ALPN, plain `h2` and `http/1.1` are
    /// answered too.
    fn tls(&self, http: bool, protocol: AppProtocol) -> Arc<DownstreamTls> {
        let mut alpn = Vec::new();
        if http {
            alpn.extend(identity::inbound_http(self.view));
            if protocol.is_http() {
                alpn.extend(identity::inbound_tcp(self.view));
            }
            alpn.extend(["h2".to_owned(), "http/1.1".to_owned()]);
            // The opaque tokens do not say which HTTP: they come after those that do, and peer exchange is for opaque bytes.
            alpn.retain(|token| token != "istio-peer-exchange");
        } else {
            alpn.extend(identity::inbound_tcp(self.view));
        }
        identity::downstream(self.view, alpn)
    }

    /// The `connectionPool` in force toward the application.
    fn pool(&self, target: u16) -> ConnectionPool {
        let service = self.member.service.as_deref();
        let known = service.and_then(|host| self.view.mesh.service(host));
        let ports = known.map_or(&[][..], |known| known.ports.as_slice());
        let port = ports.iter().find(|port| port.target == target);
        let number = port.map_or(target, |port| port.number);
        rule::inbound_pool(self.view, known.map(|known| &**known), number)
    }

    fn tcp(&self, cluster: Name, target: Option<u16>) -> TcpProxy {
        let settings = &self.view.mesh.settings;
        let pool = target.and_then(|target| self.pool(target).tcp);
        TcpProxy {
            stat_prefix: stat_prefix(target),
            clusters: Split::One(cluster),
            idle_timeout: match pool.as_ref().and_then(|pool| pool.idle_timeout) {
                Some(Duration::ZERO) => None,
                Some(timeout) => Some(timeout),
                None => settings.table().idle_timeout,
            },
            max_connection_duration: pool.and_then(|pool| pool.max_connection_duration),
            // Several addresses of the application are tried inside one attempt.
            max_connect_attempts: 1,
            hash_source_ip: false,
            access_logs: settings.access_logs.clone(),
            resource: None,
        }
    }

    fn routes(&self, cluster: &Name, target: Option<u16>, protocol: AppProtocol) -> RouteConfig {
        let stock = self.view.client.stock;
        let retry = (!matches!(protocol, AppProtocol::Grpc) && target.is_some())
            .then(|| route::inbound_retry(self.view.mesh.settings.table(), stock));
        let route = Route {
            name: "default".into(),
            matches: RouteMatch::any(),
            action: Action::Forward(Box::new(Forward {
                retry,
                ..route::forward(Split::One(cluster.clone()))
            })),
            headers: Default::default(),
            per_filter: Default::default(),
            resource: None,
        };
        let label = target.map_or_else(|| "passthrough".to_owned(), |target| target.to_string());
        RouteConfig {
            name: cluster.clone(),
            hosts: vec![Arc::new(VirtualHost {
                name: format!("inbound|http|{label}").into(),
                domains: vec!["*".to_owned()],
                routes: vec![Arc::new(route)],
                headers: Default::default(),
                require_tls: Default::default(),
                retry: None,
                request_attempt_count: false,
                response_attempt_count: false,
                per_filter: Default::default(),
            })],
            headers: Default::default(),
            internal_only_headers: Vec::new(),
            most_specific_headers_win: false,
            ignore_port: false,
            max_direct_response: 4096,
        }
    }
}

fn stat_prefix(target: Option<u16>) -> String {
    match target {
        Some(target) => format!("inbound_0.0.0.0_{target}"),
        None => INBOUND_PASSTHROUGH.to_owned(),
    }
}

/// `inbound|<port>||`: the application. A ripstop proxy dials it at the address that the client used, then on loopback; so does a
/// captured Envoy at the first of these. An Envoy without capture has loopback only.
pub(super) fn upstream(view: &View<'_>, name: &Name) -> Option<Cluster> {
    let member = view.client.member.as_ref()?;
    let target: u16 = name
        .strip_prefix("inbound|")?
        .strip_suffix("||")?
        .parse()
        .ok()?;
    if !member.targets().contains(&target) {
        return None;
    }
    let side = Side {
        view,
        member,
        outside: false,
        by_port: false,
    };
    let table = view.mesh.settings.table();
    let protocol = match side.protocol(target) {
        AppProtocol::Http2 | AppProtocol::Grpc => {
            Protocol::Http2(ripstop_model::defaults::envoy::HTTP2)
        }
        // Who declared nothing is spoken to as the client speaks.
        AppProtocol::Auto => cluster::downstream(table),
        // Sidecars may speak HTTP/2 with each other (`h2UpgradePolicy`); an application of an `http` port need not understand it.
        _ => Protocol::Http1(cluster::http1(table)),
    };
    let loopback = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), target);
    let service = member
        .service
        .as_deref()
        .and_then(|host| view.mesh.service(host));
    let static_only = view.client.stock && !view.client.captured;
    let pool = side.pool(target);
    let client_protocol = pool.http.as_ref().and_then(|http| http.use_client_protocol);
    let protocol = match client_protocol {
        Some(true) => cluster::downstream(table),
        Some(false) | None => protocol,
    };
    let cluster = Cluster {
        discovery: if static_only {
            let address = ripstop_model::snapshot::endpoint::Target::Socket(loopback);
            Discovery::Static(Arc::new(cluster::one(name.clone(), address)))
        } else {
            Discovery::OriginalDst {
                use_http_header: false,
                port_override: Some(target),
            }
        },
        lb: if static_only {
            LbPolicy::RoundRobin
        } else {
            LbPolicy::ClusterProvided
        },
        service: service.map(|known| {
            Arc::new(ServiceRef {
                host: known.host.clone(),
                name: known.name.as_str().into(),
                namespace: known.namespace.as_str().into(),
            })
        }),
        ..cluster::base(view, name.clone(), protocol)
    };
    Some(cluster::limited(table, &pool, None, cluster))
}
