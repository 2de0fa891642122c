//! `Listener` and `FilterChain`.

use std::sync::Arc;

use ripstop_model::defaults::envoy;
use ripstop_model::snapshot::authz::AuthzFilter;
use ripstop_model::snapshot::listener::{
    ChainMatch, Direction, FilterChain, Inspect, Listener, SourceType, TcpProxy, Terminal,
    TransportProtocol,
};
use ripstop_model::snapshot::route::{Share, Split};

use super::access_log::access_logs;
use super::http::manager;
use super::http_filter::type_of;
use super::tls::{Socket, downstream_socket};
use super::value::{cidr, flag, metadata, resource, socket_address};
use super::{Decoding, authz, fields, is};
use crate::pb::{core, foreign, hcm, kind, listener, listener_filters, network_rbac, tcp_proxy};

#[allow(deprecated)]
pub(crate) fn listener(cx: &mut Decoding, m: listener::Listener) -> Option<Listener> {
    fields!(cx, m => listener::Listener {
        name, address, filter_chains, use_original_dst, default_filter_chain,
        per_connection_buffer_limit_bytes, deprecated_v1, listener_filters,
        listener_filters_timeout, continue_on_listener_filters_timeout, traffic_direction,
        api_listener, access_log, bind_to_port, listener_specifier, metadata,
    }
    refuse { filter_chain_matcher, transparent }
    ignore {
        additional_addresses, fcds_config, per_connection_buffer_high_watermark_timeout,
        freebind, socket_options, udp_listener_config, enable_mptcp, tcp_keepalive,
    }
    inert {
        stat_prefix, stats_matcher, drain_type, tcp_fast_open_queue_length,
        connection_balance_config, reuse_port, enable_reuse_port, tcp_backlog_size,
        max_connections_to_accept_per_socket_event, ignore_global_conn_limit,
        bypass_overload_manager,
    });
    if api_listener.is_some() {
        cx.invalid("api_listener", "is not supported");
        return None;
    }
    if listener_specifier.is_some() {
        cx.invalid("internal_listener", "is not supported");
        return None;
    }
    let address = cx.required("address", address, socket_address);
    let bind = bind_to_port
        .or(deprecated_v1.and_then(|m| m.bind_to_port))
        .is_none_or(|v| v.value);
    let mut inspect = Inspect {
        original_dst: false,
        tls: false,
        http: false,
        proxy_protocol: false,
        timeout: cx.limit(
            "listener_filters_timeout",
            listener_filters_timeout,
            envoy::LISTENER_FILTERS_TIMEOUT,
        ),
        continue_on_timeout: continue_on_listener_filters_timeout,
    };
    cx.each("listener_filters", listener_filters, |cx, m| {
        listener_filter(cx, m, &mut inspect);
        Some(())
    });
    let has_chains = !filter_chains.is_empty() || default_filter_chain.is_some();
    let chains = cx.each("filter_chains", filter_chains, |cx, m| {
        filter_chain(cx, m).map(Arc::new)
    });
    let default_chain = cx
        .optional("default_filter_chain", default_filter_chain, filter_chain)
        .map(Arc::new);
    if !has_chains && !use_original_dst.is_some_and(|v| v.value) {
        cx.invalid("filter_chains", "is required");
    }
    let address = address?;
    Some(Listener {
        // Envoy makes a UUID up; the address says more and stays the same.
        name: if name.is_empty() {
            address.to_string().into()
        } else {
            name.into()
        },
        address,
        bind,
        direction: match cx.enumeration("traffic_direction", traffic_direction)? {
            core::TrafficDirection::Unspecified => Direction::Unspecified,
            core::TrafficDirection::Inbound => Direction::Inbound,
            core::TrafficDirection::Outbound => Direction::Outbound,
        },
        inspect,
        use_original_dst: use_original_dst.is_some_and(|v| v.value),
        chains,
        default_chain,
        buffer_limit: per_connection_buffer_limit_bytes.map_or(envoy::BUFFER_LIMIT, |v| v.value),
        access_logs: access_logs(cx, access_log),
        resource: resource(&metadata),
    })
}

fn listener_filter(cx: &mut Decoding, m: listener::ListenerFilter, inspect: &mut Inspect) {
    use listener::listener_filter::ConfigType;
    use listener_filters::{
        http_inspector::v3::HttpInspector, original_dst::v3::OriginalDst,
        proxy_protocol::v3::ProxyProtocol, tls_inspector::v3::TlsInspector,
    };
    // Inspection never stalls a server-first protocol here, so the ports it is switched off for need no rule.
    fields!(cx, m => listener::ListenerFilter { config_type } inert { name, filter_disabled });
    let Some(ConfigType::TypedConfig(any)) = config_type else {
        cx.invalid("typed_config", "is required");
        return;
    };
    cx.field("typed_config", |cx| {
        if is::<OriginalDst>(&any) {
            inspect.original_dst = true;
        } else if is::<TlsInspector>(&any) {
            inspect.tls = true;
        } else if is::<HttpInspector>(&any) {
            inspect.http = true;
        } else if is::<ProxyProtocol>(&any) {
            let m: ProxyProtocol = cx.unpack(&any).unwrap_or_default();
            fields!(cx, m => ProxyProtocol {}
                refuse { allow_requests_without_proxy_protocol, disallowed_versions }
                ignore { rules, pass_through_tlvs }
                inert { stat_prefix, tlv_location });
            inspect.proxy_protocol = true;
        } else {
            cx.refuse_here(format!(
                "listener filter {} is not supported, and leaving it out could weaken security; remove it",
                any.type_url
            ));
        }
    });
}

#[allow(deprecated)]
fn filter_chain(cx: &mut Decoding, m: listener::FilterChain) -> Option<FilterChain> {
    fields!(cx, m => listener::FilterChain {
            filter_chain_match, filters, metadata, transport_socket,
            transport_socket_connect_timeout, name,
        }
        refuse { use_proxy_proto });
    let matches = cx.optional("filter_chain_match", filter_chain_match, chain_match);
    let tls = match transport_socket {
        None => None,
        Some(m) => match cx.field("transport_socket", |cx| downstream_socket(cx, m))? {
            Socket::Plain => None,
            Socket::Tls(tls) => Some(Arc::new(tls)),
        },
    };
    let mut authz = Vec::new();
    let mut peer_exchange = flag(self::metadata(&metadata, "ripstop"), "peerExchange");
    let mut terminal = None;
    let count = filters.len();
    cx.field("filters", |cx| {
        for (i, m) in filters.into_iter().enumerate() {
            match cx.key(i, |cx| network_filter(cx, m)) {
                Some(Network::Authz(filters)) => authz.extend(filters),
                Some(Network::PeerExchange) => peer_exchange = true,
                Some(Network::Terminal(t)) if i + 1 == count => terminal = Some(t),
                Some(Network::Terminal(_)) => {
                    cx.key(i, |cx| cx.invalid_here("must be the last filter"));
                }
                None => {}
            }
        }
        if count == 0 {
            cx.invalid_here("needs tcp_proxy or http_connection_manager");
        }
    });
    let mut terminal = terminal?;
    if let Terminal::Tcp(tcp) = &mut terminal {
        Arc::make_mut(tcp).resource = resource(&metadata);
    }
    Some(FilterChain {
        name: name.into(),
        matches: matches.unwrap_or_default(),
        tls,
        handshake_timeout: cx.limit(
            "transport_socket_connect_timeout",
            transport_socket_connect_timeout,
            None,
        ),
        authz,
        peer_exchange,
        terminal,
    })
}

fn chain_match(cx: &mut Decoding, m: listener::FilterChainMatch) -> Option<ChainMatch> {
    use listener::filter_chain_match::ConnectionSourceType as Source;
    fields!(cx, m => listener::FilterChainMatch {
            destination_port, prefix_ranges, direct_source_prefix_ranges, source_type,
            source_prefix_ranges, source_ports, server_names, transport_protocol,
            application_protocols,
        }
        refuse { address_suffix, suffix_len });
    let transport = match transport_protocol.as_str() {
        "" => None,
        "raw_buffer" => Some(TransportProtocol::RawBuffer),
        "tls" => Some(TransportProtocol::Tls),
        other => {
            cx.invalid(
                "transport_protocol",
                format!("`{other}` is neither raw_buffer nor tls"),
            );
            None
        }
    };
    Some(ChainMatch {
        destination_port: match destination_port {
            Some(v) => Some(cx.port("destination_port", v.value)?),
            None => None,
        },
        destination: cx.each("prefix_ranges", prefix_ranges, cidr),
        server_names: server_names
            .iter()
            .map(|n| n.to_ascii_lowercase())
            .collect(),
        transport,
        alpn: application_protocols,
        direct_source: cx.each(
            "direct_source_prefix_ranges",
            direct_source_prefix_ranges,
            cidr,
        ),
        source_type: match cx.enumeration("source_type", source_type)? {
            Source::Any => SourceType::Any,
            Source::SameIpOrLoopback => SourceType::SameIpOrLoopback,
            Source::External => SourceType::External,
        },
        source: cx.each("source_prefix_ranges", source_prefix_ranges, cidr),
        source_ports: cx.each("source_ports", source_ports, |cx, port| {
            let port = u16::try_from(port).ok();
            if port.is_none() {
                cx.invalid_here("is not a port");
            }
            port
        }),
    })
}

enum Network {
    Authz(Vec<Arc<AuthzFilter>>),
    PeerExchange,
    Terminal(Terminal),
}

fn network_filter(cx: &mut Decoding, m: listener::Filter) -> Option<Network> {
    use listener::filter::ConfigType;
    fields!(cx, m => listener::Filter { name, config_type });
    let any = match config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(_)) => {
            cx.refuse("config_discovery", true);
            return None;
        }
        None => {
            cx.invalid("typed_config", "is required");
            return None;
        }
    };
    cx.field("typed_config", |cx| {
        let kind = type_of(cx, &any);
        if is::<hcm::HttpConnectionManager>(&any) {
            let m = cx.unpack(&any)?;
            manager(cx, m).map(|m| Network::Terminal(Terminal::Http(Arc::new(m))))
        } else if is::<tcp_proxy::TcpProxy>(&any) {
            let m = cx.unpack(&any)?;
            tcp(cx, m).map(|m| Network::Terminal(Terminal::Tcp(Arc::new(m))))
        } else if is::<network_rbac::Rbac>(&any) {
            let m = cx.unpack(&any)?;
            let filters = authz::network(cx, &name, m);
            Some(Network::Authz(filters.into_iter().map(Arc::new).collect()))
        } else if kind == foreign::METADATA_EXCHANGE {
            Some(Network::PeerExchange)
        } else if kind == foreign::ISTIO_STATS {
            cx.ignore_here(format!("filter {kind} is not supported; remove it"));
            None
        } else {
            cx.refuse_here(format!(
                "filter {kind} is not supported, and leaving it out could weaken security; remove it"
            ));
            None
        }
    })
}

#[allow(deprecated)]
fn tcp(cx: &mut Decoding, m: tcp_proxy::TcpProxy) -> Option<TcpProxy> {
    use kind::hash_policy::PolicySpecifier;
    use tcp_proxy::tcp_proxy::ClusterSpecifier;
    fields!(cx, m => tcp_proxy::TcpProxy {
            stat_prefix, idle_timeout, access_log, max_connect_attempts, hash_policy,
            max_downstream_connection_duration, cluster_specifier,
        }
        ignore {
            on_demand, metadata_match, downstream_idle_timeout, upstream_idle_timeout, backoff_options,
            tunneling_config, access_log_flush_interval, flush_access_log_on_connected,
            access_log_options, proxy_protocol_tlvs, proxy_protocol_tlv_merge_policy,
            upstream_connect_mode, max_early_data_bytes, check_drain_close,
        }
        inert { max_downstream_connection_duration_jitter_percentage });
    let clusters = match cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => Some(Split::One(name.into())),
        Some(ClusterSpecifier::WeightedClusters(m)) => cx.field("weighted_clusters", |cx| {
            let shares = cx.each("clusters", m.clusters, |cx, m| {
                fields!(cx, m => tcp_proxy::tcp_proxy::weighted_cluster::ClusterWeight { name, weight }
                    ignore { metadata_match });
                Some(Share {
                    cluster: name.into(),
                    weight,
                    criteria: None,
                    headers: Default::default(),
                    host_rewrite: None,
                    per_filter: Default::default(),
                })
            });
            let total: u64 = shares.iter().map(|s| u64::from(s.weight)).sum();
            match u32::try_from(total) {
                Ok(total) if total > 0 => Some(Split::Weighted { shares, total }),
                _ => {
                    cx.invalid("clusters", format!("weights must sum to 1..4294967295, not {total}"));
                    None
                }
            }
        }),
        None => {
            cx.invalid_here("has no cluster: give cluster or weighted_clusters");
            None
        }
    };
    let hashes = cx.each("hash_policy", hash_policy, |cx, m| {
        match m.policy_specifier {
            Some(PolicySpecifier::SourceIp(_)) => Some(()),
            _ => {
                cx.ignore_here("only source_ip is supported");
                None
            }
        }
    });
    Some(TcpProxy {
        stat_prefix,
        clusters: clusters?,
        idle_timeout: cx.limit("idle_timeout", idle_timeout, envoy::IDLE_TIMEOUT),
        max_connection_duration: cx.limit(
            "max_downstream_connection_duration",
            max_downstream_connection_duration,
            None,
        ),
        max_connect_attempts: max_connect_attempts
            .map_or(envoy::TCP_CONNECT_ATTEMPTS, |v| v.value.max(1)),
        hash_source_ip: !hashes.is_empty(),
        access_logs: access_logs(cx, access_log),
        resource: None,
    })
}
