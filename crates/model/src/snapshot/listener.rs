//! Where connections arrive and which filter chain takes them (`config.listener.v3.Listener`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::authz::AuthzFilter;
use super::http::{AccessLog, HttpProxy};
use super::tls::DownstreamTls;
use super::{Name, Resource};

#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    pub name: Name,
    pub address: SocketAddr,
    /// False for a virtual listener, which only takes connections handed over by their original destination.
    pub bind: bool,
    pub direction: Direction,
    pub inspect: Inspect,
    /// Hand each connection to the listener of its original destination (`use_original_dst`).
    pub use_original_dst: bool,
    pub chains: Vec<Arc<FilterChain>>,
    pub default_chain: Option<Arc<FilterChain>>,
    pub buffer_limit: u32,
    /// The listener's own log: connections that no chain took.
    pub access_logs: Vec<AccessLog>,
    /// The user's resource because of which such connections are refused.
    pub resource: Option<Resource>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Direction {
    #[default]
    Unspecified,
    Inbound,
    Outbound,
}

/// Listener filters: what is learnt of a connection before a chain is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspect {
    pub original_dst: bool,
    /// `tls_inspector`: SNI and ALPN.
    pub tls: bool,
    /// `http_inspector`: HTTP/1 or HTTP/2 by the first bytes; ripstop's detection, which never stalls a server-first protocol.
    pub http: bool,
    pub proxy_protocol: bool,
    pub timeout: Option<Duration>,
    /// What happens when `timeout` passes: go on with what is known, or close.
    pub continue_on_timeout: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct FilterChain {
    pub name: Name,
    pub matches: ChainMatch,
    /// `None`: plain text.
    pub tls: Option<Arc<DownstreamTls>>,
    pub handshake_timeout: Option<Duration>,
    /// Network-level authorization, before the terminal filter.
    pub authz: Vec<Arc<AuthzFilter>>,
    /// Exchange peer metadata where ALPN says `istio-peer-exchange`.
    pub peer_exchange: bool,
    pub terminal: Terminal,
}

/// Empty parts match anything; the most specific chain wins in the order of the fields, as in Envoy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChainMatch {
    pub destination_port: Option<u16>,
    pub destination: Vec<IpNet>,
    /// Exact or `*.suffix`; lower case.
    pub server_names: Vec<String>,
    pub transport: Option<TransportProtocol>,
    pub alpn: Vec<String>,
    pub direct_source: Vec<IpNet>,
    pub source_type: SourceType,
    pub source: Vec<IpNet>,
    pub source_ports: Vec<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportProtocol {
    RawBuffer,
    Tls,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SourceType {
    #[default]
    Any,
    SameIpOrLoopback,
    External,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Terminal {
    Http(Arc<HttpProxy>),
    Tcp(Arc<TcpProxy>),
}

/// `extensions.filters.network.tcp_proxy.v3.TcpProxy`.
#[derive(Debug, Clone, PartialEq)]
pub struct TcpProxy {
    pub stat_prefix: String,
    pub clusters: super::route::Split,
    pub idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    /// At least 1.
    pub max_connect_attempts: u32,
    pub hash_source_ip: bool,
    pub access_logs: Vec<AccessLog>,
    pub resource: Option<Resource>,
}
