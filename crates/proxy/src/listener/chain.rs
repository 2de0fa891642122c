//! What is known of a connection → the filter chain that serves it.
//!
//! Envoy's order (`FilterChainMatch`): destination port, destination address, server name, transport, ALPN, directly
//! connected source, source type, source address, source port. At each criterion the most specific value that some
//! remaining chain has wins and the others are out; there is no going back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use ripstop_model::snapshot::listener::{ChainMatch, SourceType, TransportProtocol};

use crate::live::{Chain, Listener};

/// What a chain is chosen by.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// The original destination where it was restored.
    pub destination: SocketAddr,
    pub source: SocketAddr,
    pub direct_source: IpAddr,
    /// Lower case; empty when there is none.
    pub server_name: &'a str,
    pub transport: TransportProtocol,
    /// In the client's order of preference.
    pub alpn: &'a [&'a str],
}

/// The chain for a connection; the default chain when none matches.
pub fn find<'l>(listener: &'l Listener, facts: &Facts<'_>) -> Option<&'l std::sync::Arc<Chain>> {
    let mut left: Vec<_> = listener.chains.iter().collect();
    for criterion in CRITERIA {
        let rank = |chain: &Chain| criterion(&chain.config.matches, facts);
        let best = left.iter().filter_map(|chain| rank(chain)).max();
        left.retain(|chain| best.is_some() && rank(chain) == best);
        if left.is_empty() {
            return listener.default_chain.as_ref();
        }
    }
    left.first().copied()
}

/// How specifically a chain matches by one criterion: `None` not at all, 0 because it does not care.
type Criterion = fn(&ChainMatch, &Facts<'_>) -> Option<usize>;

const CRITERIA: [Criterion; 9] = [
    |m, f| exact(m.destination_port, f.destination.port()),
    |m, f| longest(&m.destination, f.destination.ip()),
    |m, f| server_name(&m.server_names, f.server_name),
    |m, f| exact(m.transport, f.transport),
    |m, f| alpn(&m.alpn, f.alpn),
    |m, f| longest(&m.direct_source, f.direct_source),
    source_type,
    |m, f| longest(&m.source, f.source.ip()),
    |m, f| match m.source_ports.is_empty() {
        true => Some(0),
        false => m.source_ports.contains(&f.source.port()).then_some(1),
    },
];

fn exact<T: PartialEq>(wanted: Option<T>, is: T) -> Option<usize> {
    match wanted {
        None => Some(0),
        Some(wanted) => (wanted == is).then_some(1),
    }
}

/// The longest prefix that holds the address, plus one so that a prefix of length zero is more than none.
fn longest(ranges: &[IpNet], ip: IpAddr) -> Option<usize> {
    if ranges.is_empty() {
        return Some(0);
    }
    ranges
        .iter()
        .filter(|range| range.contains(&ip))
        .map(|range| usize::from(range.prefix_len()) + 1)
        .max()
}

/// Exact names before wildcards, long wildcards before short ones.
fn server_name(names: &[String], is: &str) -> Option<usize> {
    if names.is_empty() {
        return Some(0);
    }
    names
        .iter()
        .filter_map(|name| match name.strip_prefix('*') {
            Some(suffix) => {
                (is.len() > suffix.len() && is.ends_with(suffix)).then(|| suffix.len() + 1)
            }
            None => (name == is).then_some(usize::MAX),
        })
        .max()
}

/// The client's first choice that the chain names; earlier choices rank higher.
fn alpn(names: &[String], offered: &[&str]) -> Option<usize> {
    if names.is_empty() {
        return Some(0);
    }
    offered
        .iter()
        .position(|offer| names.iter().any(|name| name == offer))
        .map(|at| offered.len() - at)
}

fn source_type(matches: &ChainMatch, facts: &Facts<'_>) -> Option<usize> {
    // Envoy's loopback is the one address of it, not all of 127.0.0.0/8.
    let source = facts.source.ip();
    let local = source == Ipv4Addr::LOCALHOST
        || source == Ipv6Addr::LOCALHOST
        || source == facts.destination.ip();
    match matches.source_type {
        SourceType::Any => Some(0),
        SourceType::SameIpOrLoopback => local.then_some(1),
        SourceType::External => (!local).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use ripstop_model::snapshot::listener;
    use ripstop_model::snapshot::listener::{Direction, FilterChain, Inspect, TcpProxy, Terminal};
    use ripstop_model::snapshot::route::Split;

    fn chain(name: &str, matches: ChainMatch) -> Arc<FilterChain> {
        Arc::new(FilterChain {
            name: name.into(),
            matches,
            tls: None,
            handshake_timeout: None,
            authz: Vec::new(),
            peer_exchange: false,
            terminal: Terminal::Tcp(Arc::new(TcpProxy {
                stat_prefix: "t".into(),
                clusters: Split::One("c".into()),
                idle_timeout: None,
                max_connection_duration: None,
                max_connect_attempts: 1,
                hash_source_ip: false,
                access_logs: Vec::new(),
                resource: None,
            })),
        })
    }

    fn listener(chains: Vec<Arc<FilterChain>>, default_chain: bool) -> Listener {
        let config = listener::Listener {
            name: "l".into(),
            address: "0.0.0.0:1".parse().unwrap(),
            bind: true,
            direction: Direction::Unspecified,
            inspect: Inspect {
                original_dst: false,
                tls: false,
                http: false,
                proxy_protocol: false,
                timeout: None,
                continue_on_timeout: false,
            },
            use_original_dst: false,
            chains,
            default_chain: default_chain.then(|| chain("default", ChainMatch::default())),
            buffer_limit: 0,
            access_logs: Vec::new(),
            resource: None,
        };
        Listener::new(
            Arc::new(config),
            None,
            None,
            &crate::logs::Logs::default(),
            &ripstop_telemetry::Stats::default(),
            &crate::tls::Secrets::default(),
        )
    }

    fn facts<'a>(destination: &str, sni: &'a str, alpn: &'a [&'a str]) -> Facts<'a> {
        Facts {
            destination: destination.parse().unwrap(),
            source: "10.9.9.9:4000".parse().unwrap(),
            direct_source: "10.9.9.9".parse().unwrap(),
            server_name: sni,
            transport: if sni.is_empty() && alpn.is_empty() {
                TransportProtocol::RawBuffer
            } else {
                TransportProtocol::Tls
            },
            alpn,
        }
    }

    fn found(listener: &Listener, facts: &Facts<'_>) -> String {
        find(listener, facts).map_or("-".into(), |chain| chain.config.name.to_string())
    }

    #[test]
    fn ports_before_addresses_before_names() {
        let any = ChainMatch::default;
        let l = listener(
            vec![
                chain(
                    "port",
                    ChainMatch {
                        destination_port: Some(80),
                        ..any()
                    },
                ),
                chain(
                    "host",
                    ChainMatch {
                        destination: vec!["10.0.0.1/32".parse().unwrap()],
                        ..any()
                    },
                ),
                chain(
                    "net",
                    ChainMatch {
                        destination: vec!["10.0.0.0/8".parse().unwrap()],
                        ..any()
                    },
                ),
                chain(
                    "exact",
                    ChainMatch {
                        server_names: vec!["a.b.c".into()],
                        ..any()
                    },
                ),
                chain(
                    "wild",
                    ChainMatch {
                        server_names: vec!["*.b.c".into(), "*.c".into()],
                        ..any()
                    },
                ),
            ],
            true,
        );
        for (destination, sni, want) in [
            ("10.0.0.1:80", "a.b.c", "port"),
            ("10.0.0.1:81", "a.b.c", "host"),
            ("10.0.0.2:81", "a.b.c", "net"),
            ("9.0.0.2:81", "a.b.c", "exact"),
            ("9.0.0.2:81", "x.b.c", "wild"),
            ("9.0.0.2:81", "b.c", "wild"),
            ("9.0.0.2:81", "", "default"),
        ] {
            assert_eq!(
                found(&l, &facts(destination, sni, &[])),
                want,
                "{destination} {sni}"
            );
        }
    }

    #[test]
    fn istio_permissive_inbound() {
        let tls = |alpn: &[&str]| ChainMatch {
            transport: Some(TransportProtocol::Tls),
            alpn: alpn.iter().map(|a| (*a).to_owned()).collect(),
            ..ChainMatch::default()
        };
        let raw = |alpn: &[&str]| ChainMatch {
            transport: Some(TransportProtocol::RawBuffer),
            ..tls(alpn)
        };
        let l = listener(
            vec![
                chain(
                    "mtls-http",
                    tls(&["istio-http/1.0", "istio-http/1.1", "istio-h2"]),
                ),
                chain("plain-http", raw(&["http/1.1", "h2c"])),
                chain("mtls-tcp", tls(&["istio-peer-exchange", "istio"])),
                chain("tls", tls(&[])),
                chain("raw", raw(&[])),
            ],
            false,
        );
        let at = "10.0.0.1:80";
        assert_eq!(found(&l, &facts(at, "x", &["istio-h2", "h2"])), "mtls-http");
        assert_eq!(
            found(&l, &facts(at, "x", &["istio-peer-exchange", "istio"])),
            "mtls-tcp"
        );
        assert_eq!(found(&l, &facts(at, "x", &["h2"])), "tls");
        assert_eq!(found(&l, &facts(at, "", &[])), "raw");
        let mut http = facts(at, "", &["http/1.1"]);
        http.transport = TransportProtocol::RawBuffer;
        assert_eq!(found(&l, &http), "plain-http");
    }

    #[test]
    fn sources() {
        let typed = |name: &str, source_type| {
            chain(
                name,
                ChainMatch {
                    source_type,
                    ..ChainMatch::default()
                },
            )
        };
        let l = listener(
            vec![
                typed("local", SourceType::SameIpOrLoopback),
                typed("any", SourceType::Any),
            ],
            false,
        );
        let mut from = facts("10.0.0.1:80", "", &[]);
        assert_eq!(found(&l, &from), "any");
        from.source = "127.0.0.1:9".parse().unwrap();
        assert_eq!(found(&l, &from), "local");
        let none = listener(vec![typed("local", SourceType::SameIpOrLoopback)], false);
        assert_eq!(found(&none, &facts("10.0.0.1:80", "", &[])), "-");
    }
}
