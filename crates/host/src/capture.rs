//! A [`Spec`] → the nftables ruleset of its network namespace.
//!
//! The namespace has one interface, `lo`, with the workload's addresses and an AnyIP route (`local default dev lo`):
//! every address on earth is local there, so a packet to anywhere leaves by `lo` and comes back, and can be redirected
//! without veth, bridge or rule on the host. Only first packets of a connection meet the nat hook, so replies need no
//! rule. Datagrams are not redirected but given to a socket by TPROXY: their destination stays in the packet, where
//! `IP_RECVORIGDSTADDR` reads it, which works for root and in an ordinary user's namespace alike, while
//! `SO_ORIGINAL_DST` knows only TCP and asking conntrack by netlink needs a capability the sidecar has not.

use std::fmt::Write;
use std::net::IpAddr;

use crate::workload::Addresses;
#[cfg(doc)]
use crate::workload::Spec;

/// All TCP that is not exempt arrives here, with its original destination (Istio's outbound port).
pub const OUTBOUND: u16 = PORTS[0];
/// DNS over UDP and TCP (Istio's DNS proxy port).
pub const DNS: u16 = PORTS[1];
/// Connections to declared host ports.
pub const HOST_PORTS: u16 = PORTS[2];
/// Datagrams to anywhere but the workload itself.
pub const DATAGRAMS: u16 = PORTS[3];
/// What no app may listen on.
pub const PORTS: [u16; 4] = ripstop_model::intent::mesh::CAPTURE_PORTS;

/// `SO_MARK` of the sidecar's dials into the namespace: they are not captured again.
pub const MARK: u32 = 0x7269_7073;

/// How datagrams other than DNS leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datagrams {
    /// To the relay socket, destination intact.
    Relay,
    /// The kernel has no TPROXY: dropped and counted.
    Drop,
}

/// The ruleset, one atomic transaction for `nft -f -`. Rules in the order that experiments found right:
///
/// 1. the sidecar's own dials pass;
/// 2. port 53 goes to the resolver whatever the address: before loopback is exempt, or 127.0.0.53 would be missed;
/// 3. declared host ports of loopback go to the sidecar;
/// 4. loopback and the workload's own addresses pass;
/// 5. all other TCP goes to the sidecar, all other UDP to its relay, and what is neither is dropped and counted: on an
///    AnyIP route the kernel itself would answer a ping to anywhere.
///
/// TCP keeps the address it was sent to and changes its port alone. Where all of it went to one address, conntrack would
/// have to give connections of one local port to several services other ports, and the sidecar would see a client that the
/// application does not know. What is sent to port 15001 elsewhere must not look as if nothing had changed: it is redirected.
pub fn ruleset(addresses: Addresses, host_ports: &[u16], datagrams: Datagrams) -> String {
    let own4 = own(addresses.v4.map(IpAddr::V4), "127.0.0.0/8");
    let own6 = own(addresses.v6.map(IpAddr::V6), "::1");
    let mut text = String::new();
    let mut line = |line: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{line}");
    };
    line("table inet ripstop {");
    line("\tchain outbound {");
    line("\t\ttype nat hook output priority -100; policy accept;");
    line(&format!("\t\tmeta mark {MARK:#010x} accept"));
    line(&format!("\t\tudp dport 53 redirect to :{DNS}"));
    line(&format!("\t\ttcp dport 53 redirect to :{DNS}"));
    if !host_ports.is_empty() {
        let ports: Vec<String> = host_ports.iter().map(u16::to_string).collect();
        let ports = ports.join(", ");
        line(&format!(
            "\t\tip daddr 127.0.0.0/8 tcp dport {{ {ports} }} redirect to :{HOST_PORTS}"
        ));
        line(&format!(
            "\t\tip6 daddr ::1 tcp dport {{ {ports} }} redirect to :{HOST_PORTS}"
        ));
    }
    line(&format!("\t\tip daddr {{ {own4} }} accept"));
    line(&format!("\t\tip6 daddr {{ {own6} }} accept"));
    line(&format!("\t\ttcp dport {OUTBOUND} redirect to :{OUTBOUND}"));
    line(&format!("\t\tmeta l4proto tcp dnat to :{OUTBOUND}"));
    line("\t}");
    line("\tchain refused {");
    line("\t\ttype filter hook output priority 0; policy accept;");
    line(&format!("\t\tip daddr {{ {own4} }} accept"));
    line(&format!("\t\tip6 daddr {{ {own6} }} accept"));
    match datagrams {
        Datagrams::Relay => line("\t\tmeta l4proto { tcp, udp } accept"),
        Datagrams::Drop => line("\t\tmeta l4proto tcp accept"),
    }
    line("\t\tcounter drop");
    line("\t}");
    if datagrams == Datagrams::Relay {
        line("\tchain datagrams {");
        line("\t\ttype filter hook prerouting priority -150; policy accept;");
        line("\t\tmeta l4proto != udp accept");
        line(&format!("\t\tip daddr {{ {own4} }} accept"));
        line(&format!("\t\tip6 daddr {{ {own6} }} accept"));
        line(&format!(
            "\t\tmeta nfproto ipv4 meta l4proto udp tproxy ip to 127.0.0.1:{DATAGRAMS} accept"
        ));
        line(&format!(
            "\t\tmeta nfproto ipv6 meta l4proto udp tproxy ip6 to [::1]:{DATAGRAMS} accept"
        ));
        line("\t}");
    }
    line("}");
    text
}

fn own(address: Option<IpAddr>, loopback: &str) -> String {
    match address {
        Some(address) => format!("{loopback}, {address}"),
        None => loopback.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Addresses = Addresses {
        v4: Some(std::net::Ipv4Addr::new(10, 88, 0, 5)),
        v6: Some(std::net::Ipv6Addr::new(
            0xfd72, 0x6970, 0x7374, 0, 0, 0, 0, 5,
        )),
    };

    #[test]
    fn both_families_with_host_ports() {
        assert_eq!(
            ruleset(BOTH, &[5432, 6379], Datagrams::Relay),
            include_str!("../testdata/capture/both.nft")
        );
    }

    #[test]
    fn v6_alone_without_tproxy() {
        let addresses = Addresses { v4: None, ..BOTH };
        assert_eq!(
            ruleset(addresses, &[], Datagrams::Drop),
            include_str!("../testdata/capture/v6-drop.nft")
        );
    }
}
