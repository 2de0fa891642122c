//! A service → its Host record and the outbound listeners of its addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ripstop_model::intent::registry::Port;
use ripstop_model::intent::service_entry::Resolution;
use ripstop_model::seam::{HostPort, HostRecord};
use ripstop_model::snapshot::http::{AccessLog, LogFilter, RouteSource};
use ripstop_model::snapshot::listener::{
    ChainMatch, Direction, FilterChain, Inspect, Listener, TcpProxy, Terminal, TransportProtocol,
};
use ripstop_model::snapshot::route::Split;
use ripstop_model::snapshot::{Name, Resource};

use super::{BLACK_HOLE, PASSTHROUGH, http, route, rule};
use crate::address;
use crate::registry::Present;
use crate::view::{Known, View, Wanted, cluster_name, route_name};

pub const VIRTUAL_OUTBOUND: &str = "virtualOutbound";
const OUTBOUND_PORT: u16 = 15001;
/// A mesh of more services tells none unasked: what a proxy holds must not grow with the mesh (docs/decisions/0003).
const HOSTS_UNASKED: usize = 1000;

/// The ALPN by which the http inspector tells plain HTTP.
pub(super) const PLAIN_HTTP: [&str; 3] = ["http/1.0", "http/1.1", "h2c"];

/// One thing that answers on an address: a service, or one workload of it (by its own address or its pod-like name).
pub(super) struct Target<'a> {
    pub known: &'a Known,
    /// `Some`: only this one.
    pub workload: Option<&'a Present>,
}

impl<'a> Target<'a> {
    /// By full name; a name `<workload>-<replica>.<service>` is that workload.
    pub(super) fn named(view: &View<'a>, host: &str) -> Option<Target<'a>> {
        if let Some(known) = view.mesh.service(host) {
            return view.sees(known).then_some(Target {
                known,
                workload: None,
            });
        }
        Target::of_workload(view, view.workloads.by_pod_name(host)?)
    }

    fn at(view: &View<'a>, address: IpAddr) -> Option<Target<'a>> {
        if let Some(known) = view.mesh.by_address(address) {
            return view.sees(known).then_some(Target {
                known,
                workload: None,
            });
        }
        Target::of_workload(view, view.workloads.by_address(address)?)
    }

    fn of_workload(view: &View<'a>, present: &'a Present) -> Option<Target<'a>> {
        let known = view.mesh.service(present.member.service.as_deref()?)?;
        view.sees(known).then_some(Target {
            known,
            workload: Some(present),
        })
    }

    /// What its routes and clusters are called after.
    pub(super) fn host(&self) -> Arc<str> {
        match self.workload {
            None => self.known.host.clone(),
            Some(present) => format!("{}.{}", present.member.pod(), self.known.host).into(),
        }
    }

    /// Its port by the number that clients use: the service's, and on a workload's own address the target port as well.
    pub(super) fn port(&self, number: u16) -> Option<&'a Port> {
        self.known.service.port(number).or_else(|| {
            self.workload?;
            self.known.ports.iter().find(|port| port.target == number)
        })
    }

    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        match self.workload {
            None => self.known.vips.clone(),
            Some(present) => present.member.addresses.visible().to_vec(),
        }
    }
}

/// `name`: a full host name, or `ip/ADDRESS`.
pub(super) fn host(view: &View<'_>, name: &str) -> Option<HostRecord> {
    let target = match name.strip_prefix("ip/") {
        Some(address) => Target::at(view, address.parse().ok()?)?,
        None => Target::named(view, name)?,
    };
    let known = target.known;
    if target.addresses().is_empty() && known.addresses.is_empty() {
        // Only the outside knows its addresses: not a name of the mesh.
        return None;
    }
    let headless = known.headless && target.workload.is_none();
    let endpoints = view
        .workloads
        .of_service(&known.host)
        .filter(|present| headless && present.takes_traffic())
        .flat_map(|present| present.member.addresses.visible())
        .collect();
    let mut ports: Vec<HostPort> = view
        .ports(known)
        .map(|port| host_port(port, port.number))
        .collect();
    if target.workload.is_some() {
        for port in view.ports(known) {
            if !ports.iter().any(|listed| listed.number == port.target) {
                ports.push(host_port(port, port.target));
            }
        }
    }
    Some(HostRecord {
        fqdn: target.host(),
        vips: target.addresses(),
        endpoints,
        headless,
        ports,
    })
}

/// The hosts that a proxy is told of unasked, so that their names resolve while there is nobody to ask: its services. A
/// workload's own name and `ip/ADDRESS` are asked for.
pub(crate) fn hosts(view: &View<'_>) -> BTreeSet<Name> {
    let seen = view.mesh.services.values().filter(|known| view.sees(known));
    let resolved = seen.filter(|known| !known.vips.is_empty() || !known.addresses.is_empty());
    let hosts: BTreeSet<Name> = resolved
        .take(HOSTS_UNASKED + 1)
        .map(|known| known.host.clone())
        .collect();
    if hosts.len() > HOSTS_UNASKED {
        return BTreeSet::new();
    }
    hosts
}

fn host_port(port: &Port, number: u16) -> HostPort {
    HostPort {
        number,
        name: port.name.clone(),
        protocol: port.protocol,
    }
}

/// The listener `<address>_<port>`.
pub(super) fn outbound(
    view: &View<'_>,
    name: &Name,
    address: IpAddr,
    number: u16,
) -> Option<Listener> {
    let target = Target::at(view, address)?;
    let port = target.port(number)?;
    if !view.reaches(target.known, port.number) {
        return None;
    }
    let mut inspect = quiet();
    let mut chains = Vec::new();
    let mut default_chain = None;
    let http = || {
        let routes = RouteSource::Named(route_name(port.number, &target.host()));
        let manager = http::outbound(view, format!("outbound_{name}"), routes);
        Terminal::Http(Arc::new(manager))
    };
    if port.protocol.is_http() {
        chains.push(chain("http", ChainMatch::default(), http()));
    } else if port.protocol.is_tls() {
        inspect.tls = true;
        chains = opaque(route::tls(view, &target, port), "tls");
        default_chain = Some(to_service(view, &target, port));
    } else {
        chains = opaque(route::tcp(view, &target, port), "tcp");
        // A route that matches everything is the default.
        let routed = chains
            .iter()
            .position(|chain| chain.matches == ChainMatch::default())
            .map(|index| chains.swap_remove(index));
        default_chain = Some(routed.unwrap_or_else(|| to_service(view, &target, port)));
        if !port.protocol.is_opaque() {
            inspect.http = true;
            inspect.tls = true;
            let matches = ChainMatch {
                transport: Some(TransportProtocol::RawBuffer),
                alpn: PLAIN_HTTP.map(str::to_owned).to_vec(),
                ..ChainMatch::default()
            };
            chains.insert(0, chain("http", matches, http()));
        }
    }
    if inspect.tls || inspect.http {
        inspect.timeout = view.mesh.settings.table().detection;
    }
    Some(Listener {
        name: name.clone(),
        address: SocketAddr::new(address, number),
        // Without capture an Envoy has to take its clients' connections itself.
        bind: view.client.stock && !view.client.captured,
        direction: Direction::Outbound,
        inspect,
        use_original_dst: false,
        chains,
        default_chain,
        buffer_limit: view.mesh.settings.table().buffer_limit,
        access_logs: Vec::new(),
        resource: None,
    })
}

/// The log of a listener for the connections that none of its chains takes. Envoy would write every connection there.
pub(super) fn refused_logs(view: &View<'_>) -> Vec<AccessLog> {
    let mut logs = view.mesh.settings.access_logs.clone();
    if view.client.stock {
        for log in &mut logs {
            log.filter = Some(LogFilter::ResponseFlags(vec!["NR".to_owned()]));
        }
    }
    logs
}

pub(super) fn quiet() -> Inspect {
    Inspect {
        original_dst: false,
        tls: false,
        http: false,
        proxy_protocol: false,
        timeout: None,
        continue_on_timeout: true,
    }
}

fn opaque(routes: Vec<(ChainMatch, TcpProxy)>, prefix: &str) -> Vec<Arc<FilterChain>> {
    routes
        .into_iter()
        .enumerate()
        .map(|(index, (matches, proxy))| {
            chain(
                &format!("{prefix}[{index}]"),
                matches,
                Terminal::Tcp(Arc::new(proxy)),
            )
        })
        .collect()
}

pub(super) fn chain(name: &str, matches: ChainMatch, terminal: Terminal) -> Arc<FilterChain> {
    Arc::new(FilterChain {
        name: name.into(),
        matches,
        tls: None,
        handshake_timeout: None,
        authz: Vec::new(),
        peer_exchange: false,
        terminal,
    })
}

/// Opaque bytes to the service itself.
fn to_service(view: &View<'_>, target: &Target<'_>, port: &Port) -> Arc<FilterChain> {
    let host = &target.known.host;
    let (cluster, resource) = match view.mesh.closed(host) {
        Some(closed) => (BLACK_HOLE.into(), Some(closed.clone())),
        None => {
            let cluster = cluster_name(port.number, "", &target.host());
            (cluster, declared(target.known))
        }
    };
    let proxy = tcp_proxy(view, Split::One(cluster), host, port.number, resource);
    chain("tcp", ChainMatch::default(), Terminal::Tcp(Arc::new(proxy)))
}

/// `host`: the first destination, whose connection pool gives the timeouts.
pub(super) fn tcp_proxy(
    view: &View<'_>,
    clusters: Split,
    host: &str,
    port: u16,
    resource: Option<Resource>,
) -> TcpProxy {
    let table = view.mesh.settings.table();
    let pool = rule::tcp_pool(view, host, port);
    TcpProxy {
        stat_prefix: match &clusters {
            Split::One(name) => name.to_string(),
            Split::Weighted { .. } | Split::Header(_) => format!("outbound|{port}||{host}"),
        },
        clusters,
        idle_timeout: match pool.as_ref().and_then(|pool| pool.idle_timeout) {
            Some(Duration::ZERO) => None,
            Some(timeout) => Some(timeout),
            None => table.idle_timeout,
        },
        max_connection_duration: pool.and_then(|pool| pool.max_connection_duration),
        max_connect_attempts: table.tcp_connect_attempts,
        hash_source_ip: false,
        access_logs: view.mesh.settings.access_logs.clone(),
        resource,
    }
}

/// The resource that declares a service, for logs.
pub(super) fn declared(known: &Known) -> Option<Resource> {
    let key = &known.declared;
    Some(Resource {
        kind: key.kind.as_str().into(),
        namespace: key.namespace.as_str().into(),
        name: key.name.as_str().into(),
        part: "".into(),
    })
}

/// All resource names of a service, for a proxy that gets everything.
pub(super) fn names(view: &View<'_>, known: &Known, wanted: &mut Wanted) {
    let mut targets = vec![Target {
        known,
        workload: None,
    }];
    if known.headless {
        targets.extend(
            view.workloads
                .of_service(&known.host)
                .map(|present| Target {
                    known,
                    workload: Some(present),
                }),
        );
    }
    for target in targets {
        let host = target.host();
        for port in view.ports(known) {
            for address in target.addresses() {
                let socket = SocketAddr::new(address, port.number);
                wanted
                    .listeners
                    .insert(address::listener_name(socket).into());
            }
            if !port.protocol.is_opaque() && !port.protocol.is_tls() {
                wanted.routes.insert(route_name(port.number, &host));
            }
            let subsets = match target.workload {
                None => rule::subsets(view, &known.host),
                Some(_) => Vec::new(),
            };
            for subset in std::iter::once(String::new()).chain(subsets) {
                let name = cluster_name(port.number, &subset, &host);
                if known.resolution == Resolution::Static {
                    wanted.endpoints.insert(name.clone());
                }
                wanted.clusters.insert(name);
            }
        }
    }
}

/// Where a captured proxy takes every outbound connection and hands it to the listener of its destination. What has none
/// leaves the mesh or, under REGISTRY_ONLY, goes nowhere: a stock Envoy needs a cluster for that, a ripstop sidecar has no
/// chain and says why.
pub(super) fn virtual_outbound(view: &View<'_>) -> Listener {
    let settings = &view.mesh.settings;
    let nowhere = match (view.allows_any(), view.client.stock) {
        (true, _) => Some(PASSTHROUGH),
        (false, true) => Some(BLACK_HOLE),
        (false, false) => None,
    };
    let catch_all = nowhere.map(|cluster| {
        let name = "virtualOutbound-catchall-tcp";
        chain(name, ChainMatch::default(), to_fixed(view, cluster))
    });
    let mut chains = Vec::new();
    if view.client.stock {
        // Something that dials the capture port itself would go round in circles; a sidecar sees that by itself.
        let own = ChainMatch {
            destination_port: Some(OUTBOUND_PORT),
            ..ChainMatch::default()
        };
        let fixed = to_fixed(view, BLACK_HOLE);
        chains.push(chain("virtualOutbound-blackhole", own, fixed));
    }
    Listener {
        name: VIRTUAL_OUTBOUND.into(),
        address: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), OUTBOUND_PORT),
        bind: true,
        direction: Direction::Outbound,
        inspect: Inspect {
            original_dst: true,
            ..quiet()
        },
        use_original_dst: true,
        chains,
        default_chain: catch_all,
        buffer_limit: settings.table().buffer_limit,
        access_logs: match view.client.stock {
            true => Vec::new(),
            false => settings.access_logs.clone(),
        },
        resource: (!view.allows_any())
            .then(|| {
                view.sidecar()
                    .map(|sidecar| sidecar.resource("Sidecar", String::new()))
            })
            .flatten(),
    }
}

/// Opaque bytes to a cluster that is no service.
pub(super) fn to_fixed(view: &View<'_>, cluster: &str) -> Terminal {
    let settings = &view.mesh.settings;
    Terminal::Tcp(Arc::new(TcpProxy {
        stat_prefix: cluster.to_owned(),
        clusters: Split::One(cluster.into()),
        idle_timeout: settings.table().idle_timeout,
        max_connection_duration: None,
        max_connect_attempts: 1,
        hash_source_ip: false,
        access_logs: settings.access_logs.clone(),
        resource: None,
    }))
}
