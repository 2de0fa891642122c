//! `Listener` and `FilterChain`.

use prost::{Message, Name};
use ripstop_model::snapshot::listener::{
    ChainMatch, Direction, FilterChain, Inspect, Listener, SourceType, TcpProxy, Terminal,
    TransportProtocol,
};
use ripstop_model::snapshot::route::Split;

use super::access_log::access_log;
use super::value::{Meta, any, cidr, duration, limit, socket_address, truth, uint, when};
use super::{authz, http, tls};
use crate::pb::{core, google, kind, listener, listener_filters, tcp_proxy};

pub(crate) fn listener(l: &Listener) -> listener::Listener {
    let mut meta = Meta::default();
    meta.put_resource(&l.resource);
    listener::Listener {
        name: l.name.to_string(),
        address: Some(socket_address(l.address)),
        bind_to_port: (!l.bind).then_some(google::BoolValue { value: false }),
        traffic_direction: match l.direction {
            Direction::Unspecified => core::TrafficDirection::Unspecified,
            Direction::Inbound => core::TrafficDirection::Inbound,
            Direction::Outbound => core::TrafficDirection::Outbound,
        }
        .into(),
        listener_filters: listener_filters(&l.inspect),
        listener_filters_timeout: Some(limit(l.inspect.timeout)),
        continue_on_listener_filters_timeout: l.inspect.continue_on_timeout,
        use_original_dst: when(l.use_original_dst),
        filter_chains: l.chains.iter().map(|c| filter_chain(c)).collect(),
        default_filter_chain: l.default_chain.as_deref().map(filter_chain),
        per_connection_buffer_limit_bytes: uint(l.buffer_limit),
        access_log: l.access_logs.iter().map(access_log).collect(),
        metadata: meta.finish(),
        ..Default::default()
    }
}

fn listener_filters(i: &Inspect) -> Vec<listener::ListenerFilter> {
    use listener_filters::{
        http_inspector::v3::HttpInspector, original_dst::v3::OriginalDst,
        proxy_protocol::v3::ProxyProtocol, tls_inspector::v3::TlsInspector,
    };
    fn filter<M: Message + Name>(name: &str, m: &M) -> listener::ListenerFilter {
        listener::ListenerFilter {
            name: format!("envoy.filters.listener.{name}"),
            filter_disabled: None,
            config_type: Some(listener::listener_filter::ConfigType::TypedConfig(any(m))),
        }
    }
    let mut filters = Vec::new();
    if i.original_dst {
        filters.push(filter("original_dst", &OriginalDst::default()));
    }
    if i.proxy_protocol {
        filters.push(filter("proxy_protocol", &ProxyProtocol::default()));
    }
    if i.tls {
        filters.push(filter("tls_inspector", &TlsInspector::default()));
    }
    if i.http {
        filters.push(filter("http_inspector", &HttpInspector::default()));
    }
    filters
}

fn filter_chain(c: &FilterChain) -> listener::FilterChain {
    let network = |name: &str, config| listener::Filter {
        name: name.to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(config)),
    };
    let mut filters: Vec<listener::Filter> = c
        .authz
        .iter()
        .map(|f| network(&f.name, any(&authz::network(f))))
        .collect();
    let mut meta = Meta::default();
    if c.peer_exchange {
        // Istio's network filter for it would be refused by a stock Envoy.
        meta.put("ripstop", "peerExchange", truth());
    }
    match &c.terminal {
        Terminal::Http(h) => filters.push(network(
            "envoy.filters.network.http_connection_manager",
            any(&http::manager(h)),
        )),
        Terminal::Tcp(t) => {
            meta.put_resource(&t.resource);
            filters.push(network("envoy.filters.network.tcp_proxy", any(&tcp(t))));
        }
    }
    listener::FilterChain {
        name: c.name.to_string(),
        filter_chain_match: (c.matches != ChainMatch::default()).then(|| chain_match(&c.matches)),
        filters,
        metadata: meta.finish(),
        transport_socket: c.tls.as_deref().map(tls::downstream),
        transport_socket_connect_timeout: c.handshake_timeout.map(duration),
        ..Default::default()
    }
}

fn chain_match(m: &ChainMatch) -> listener::FilterChainMatch {
    use listener::filter_chain_match::ConnectionSourceType as Source;
    listener::FilterChainMatch {
        destination_port: m.destination_port.and_then(|port| uint(port.into())),
        prefix_ranges: m.destination.iter().map(cidr).collect(),
        server_names: m.server_names.clone(),
        transport_protocol: match m.transport {
            None => "",
            Some(TransportProtocol::RawBuffer) => "raw_buffer",
            Some(TransportProtocol::Tls) => "tls",
        }
        .to_owned(),
        application_protocols: m.alpn.clone(),
        direct_source_prefix_ranges: m.direct_source.iter().map(cidr).collect(),
        source_type: match m.source_type {
            SourceType::Any => Source::Any,
            SourceType::SameIpOrLoopback => Source::SameIpOrLoopback,
            SourceType::External => Source::External,
        }
        .into(),
        source_prefix_ranges: m.source.iter().map(cidr).collect(),
        source_ports: m.source_ports.iter().map(|port| (*port).into()).collect(),
        ..Default::default()
    }
}

fn tcp(t: &TcpProxy) -> tcp_proxy::TcpProxy {
    use tcp_proxy::tcp_proxy::{
        ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight,
    };
    let source_ip = kind::hash_policy::PolicySpecifier::SourceIp(Default::default());
    tcp_proxy::TcpProxy {
        stat_prefix: t.stat_prefix.clone(),
        cluster_specifier: match &t.clusters {
            Split::One(name) => Some(ClusterSpecifier::Cluster(name.to_string())),
            Split::Weighted { shares, total: _ } => {
                Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
                    clusters: shares
                        .iter()
                        .map(|s| ClusterWeight {
                            name: s.cluster.to_string(),
                            weight: s.weight,
                            metadata_match: None,
                        })
                        .collect(),
                }))
            }
            // A connection has no headers: such a proxy is refused by whoever reads it.
            Split::Header(_) => None,
        },
        idle_timeout: Some(limit(t.idle_timeout)),
        max_downstream_connection_duration: t.max_connection_duration.map(duration),
        max_connect_attempts: uint(t.max_connect_attempts),
        hash_policy: t
            .hash_source_ip
            .then_some(kind::HashPolicy {
                policy_specifier: Some(source_ip),
            })
            .into_iter()
            .collect(),
        access_log: t.access_logs.iter().map(access_log).collect(),
        ..Default::default()
    }
}
