//! ripstop's own resource types, written by hand: they are small, and no generator knows them.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use prost::Message as _;
use ripstop_model::protocol::Protocol;
use ripstop_model::seam::{HostPort, HostRecord};

use crate::decode::Decoding;

/// `ripstop.v1.Host`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HostMessage {
    #[prost(string, tag = "1")]
    pub(crate) fqdn: String,
    #[prost(string, repeated, tag = "2")]
    pub(crate) vips: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    pub(crate) endpoints: Vec<String>,
    #[prost(bool, tag = "4")]
    pub(crate) headless: bool,
    #[prost(message, repeated, tag = "5")]
    pub(crate) ports: Vec<PortMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PortMessage {
    #[prost(uint32, tag = "1")]
    pub(crate) number: u32,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    /// The token of `ripstop_model::protocol::Protocol`; empty for detected.
    #[prost(string, tag = "3")]
    pub(crate) protocol: String,
}

/// `ripstop.v1.Ranges`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RangesMessage {
    #[prost(string, repeated, tag = "1")]
    pub(crate) cidrs: Vec<String>,
}

pub(crate) fn host(cx: &mut Decoding, m: HostMessage) -> Option<HostRecord> {
    let HostMessage {
        fqdn,
        vips,
        endpoints,
        headless,
        ports,
    } = m;
    if fqdn.is_empty() {
        cx.invalid("fqdn", "is required");
        return None;
    }
    Some(HostRecord {
        fqdn: fqdn.into(),
        vips: cx.each("vips", vips, address),
        endpoints: cx.each("endpoints", endpoints, address),
        headless,
        ports: cx.each("ports", ports, |cx, m| {
            let PortMessage {
                number,
                name,
                protocol,
            } = m;
            Some(HostPort {
                number: cx.port("number", number)?,
                name,
                protocol: Protocol::named(&protocol).unwrap_or_default(),
            })
        }),
    })
}

fn address(cx: &mut Decoding, text: String) -> Option<IpAddr> {
    let ip = text.parse().ok();
    if ip.is_none() {
        cx.invalid_here(format!("`{text}` is not an IP address"));
    }
    ip
}

pub(crate) fn ranges(cx: &mut Decoding, m: RangesMessage) -> Arc<[IpNet]> {
    cx.each("cidrs", m.cidrs, |cx, text| {
        let net = text.parse::<IpNet>().ok();
        if net.is_none() {
            cx.invalid_here(format!("`{text}` is not an address range"));
        }
        net
    })
    .into()
}

pub(crate) fn encode_host(host: &HostRecord) -> Vec<u8> {
    let text = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect();
    let port = |port: &HostPort| PortMessage {
        number: port.number.into(),
        name: port.name.clone(),
        protocol: if port.protocol == Protocol::Auto {
            String::new()
        } else {
            port.protocol.token().to_owned()
        },
    };
    HostMessage {
        fqdn: host.fqdn.to_string(),
        vips: text(&host.vips),
        endpoints: text(&host.endpoints),
        headless: host.headless,
        ports: host.ports.iter().map(port).collect(),
    }
    .encode_to_vec()
}

pub(crate) fn encode_ranges(ranges: &[IpNet]) -> Vec<u8> {
    RangesMessage {
        cidrs: ranges.iter().map(ToString::to_string).collect(),
    }
    .encode_to_vec()
}
