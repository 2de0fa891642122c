//! What a sidecar runs before the control plane said anything: listeners for captured connections, and a way out for those
//! that do not go to the mesh.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use ripstop_model::defaults::envoy;
use ripstop_model::snapshot::cluster::{
    Breakers, Cluster, Discovery, Http1, LbCommon, LbPolicy, Protocol, Thresholds,
};
use ripstop_model::snapshot::listener::{
    ChainMatch, Direction, FilterChain, Inspect, Listener, TcpProxy, Terminal,
};
use ripstop_model::snapshot::route::Split;
use ripstop_model::snapshot::{Fraction, Name};

use crate::stage::Fixed;

/// Istio's name for what leaves the mesh.
const PASSTHROUGH: &str = "PassthroughCluster";

/// The fixed part of the snapshot, and the sockets of its listeners by name.
pub(crate) struct Capture {
    pub(crate) fixed: Fixed,
    pub(crate) adopted: Vec<(Name, OwnedFd)>,
}

impl Capture {
    pub(crate) fn new(sockets: Vec<TcpListener>) -> std::io::Result<Capture> {
        let mut capture = Capture {
            fixed: Fixed::default(),
            adopted: Vec::new(),
        };
        for socket in sockets {
            let address = socket.local_addr()?;
            let name: Name = if address.is_ipv4() {
                "capture-v4".into()
            } else {
                "capture-v6".into()
            };
            capture
                .fixed
                .listeners
                .insert(name.clone(), Arc::new(listener(name.clone(), address)));
            capture.adopted.push((name, socket.into()));
        }
        capture
            .fixed
            .clusters
            .insert(PASSTHROUGH.into(), Arc::new(passthrough()));
        Ok(capture)
    }
}

/// Hands each connection to the listener of its original destination, or lets it out.
fn listener(name: Name, address: SocketAddr) -> Listener {
    Listener {
        name,
        address,
        bind: true,
        direction: Direction::Outbound,
        inspect: Inspect {
            original_dst: true,
            tls: false,
            http: false,
            proxy_protocol: false,
            timeout: None,
            continue_on_timeout: false,
        },
        use_original_dst: true,
        chains: Vec::new(),
        default_chain: Some(Arc::new(FilterChain {
            name: PASSTHROUGH.into(),
            matches: ChainMatch::default(),
            tls: None,
            handshake_timeout: None,
            authz: Vec::new(),
            peer_exchange: false,
            terminal: Terminal::Tcp(Arc::new(TcpProxy {
                stat_prefix: PASSTHROUGH.to_owned(),
                clusters: Split::One(PASSTHROUGH.into()),
                idle_timeout: None,
                max_connection_duration: None,
                max_connect_attempts: 1,
                hash_source_ip: false,
                access_logs: Vec::new(),
                resource: None,
            })),
        })),
        buffer_limit: envoy::BUFFER_LIMIT,
        access_logs: Vec::new(),
    }
}

fn passthrough() -> Cluster {
    let unlimited = Thresholds {
        max_connections: u32::MAX,
        max_pending: u32::MAX,
        max_requests: u32::MAX,
        max_retries: u32::MAX,
        retry_budget: None,
    };
    Cluster {
        name: PASSTHROUGH.into(),
        alt_stat_name: None,
        discovery: Discovery::OriginalDst {
            use_http_header: false,
            port_override: None,
        },
        lb: LbPolicy::ClusterProvided,
        lb_common: LbCommon {
            panic_threshold: Fraction::NEVER,
            locality_weighted: false,
            slow_start: None,
            close_on_host_set_change: false,
        },
        connect_timeout: Duration::from_secs(10),
        breakers: Breakers {
            default: unlimited.clone(),
            high: unlimited,
        },
        outlier: None,
        health_checks: Vec::new(),
        transport: Default::default(),
        protocol: Protocol::Http1(Http1::default()),
        idle_timeout: None,
        max_connection_duration: None,
        max_requests_per_connection: 0,
        keepalive: None,
        buffer_limit: envoy::BUFFER_LIMIT,
        service: None,
        resource: None,
    }
}
