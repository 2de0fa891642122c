//! A name → its stable place in an address range: indexes that survive restarts, and the addresses they stand for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// The ranges the control plane hands addresses out of (docs: "Addresses on hosts").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ranges {
    /// Virtual addresses of mesh hosts: what DNS answers.
    pub vip_v4: Ipv4Net,
    pub vip_v6: Ipv6Net,
    /// Workload addresses: what an application sees as its own.
    pub workload_v4: Ipv4Net,
    pub workload_v6: Ipv6Net,
    /// Where sidecars of one host meet; always v4.
    pub transport: Ipv4Net,
}

impl Default for Ranges {
    fn default() -> Ranges {
        Ranges {
            vip_v4: net4([240, 240, 0, 0], 16),
            vip_v6: net6("2001:2::", 48),
            workload_v4: net4([10, 88, 0, 0], 16),
            workload_v6: net6("fd72:6970:7374::", 64),
            transport: net4([127, 88, 0, 0], 16),
        }
    }
}

fn net4(octets: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::from(octets), prefix).expect("a constant prefix below 33")
}

fn net6(address: &str, prefix: u8) -> Ipv6Net {
    let address: Ipv6Addr = address.parse().expect("a constant address");
    Ipv6Net::new(address, prefix).expect("a constant prefix below 129")
}

impl Ranges {
    /// The ranges that belong to the mesh as applications see it; transport addresses are nobody's to name.
    pub fn visible(&self) -> Vec<IpNet> {
        vec![
            self.vip_v4.into(),
            self.vip_v6.into(),
            self.workload_v4.into(),
            self.workload_v6.into(),
        ]
    }

    pub fn vips(&self, index: u32) -> [IpAddr; 2] {
        [
            nth4(self.vip_v4, index).into(),
            nth6(self.vip_v6, index).into(),
        ]
    }

    pub fn workload(&self, index: u32) -> Addresses {
        Addresses {
            v4: nth4(self.workload_v4, index),
            v6: nth6(self.workload_v6, index),
            transport: nth4(self.transport, index),
        }
    }

    /// The transport addresses of the workloads whose own addresses lie in `net`: sidecars of one host know each other by
    /// these, people write those.
    pub fn transport_of(&self, net: IpNet) -> Option<Ipv4Net> {
        // Bits that name a workload within `net`, and where its first one stands in the range.
        let (bits, first) = match net {
            IpNet::V4(net) if net.contains(&self.workload_v4) => (32, 0),
            IpNet::V4(net) if self.workload_v4.contains(&net) => (
                32 - u32::from(net.prefix_len()),
                u128::from(u32::from(net.network()) - u32::from(self.workload_v4.network())),
            ),
            IpNet::V6(net) if net.contains(&self.workload_v6) => (128, 0),
            IpNet::V6(net) if self.workload_v6.contains(&net) => (
                128 - u32::from(net.prefix_len()),
                u128::from(net.network()) - u128::from(self.workload_v6.network()),
            ),
            IpNet::V4(_) | IpNet::V6(_) => return None,
        };
        let width = 32 - u32::from(self.transport.prefix_len());
        if bits >= width {
            return (first == 0).then_some(self.transport);
        }
        let first = u32::try_from(first)
            .ok()
            .filter(|first| first >> width == 0)?;
        let prefix = u8::try_from(32 - bits).ok()?;
        Ipv4Net::new(nth4(self.transport, first), prefix).ok()
    }

    /// How many names fit: the smallest v4 range, without its first and last address.
    fn capacity(&self, pool: Pool) -> u32 {
        let hosts = |net: Ipv4Net| {
            1u32.checked_shl(32 - u32::from(net.prefix_len()))
                .unwrap_or(u32::MAX)
                .saturating_sub(2)
        };
        match pool {
            Pool::Vip => hosts(self.vip_v4),
            Pool::Workload => hosts(self.workload_v4).min(hosts(self.transport)),
        }
    }
}

/// The addresses of one workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    pub transport: Ipv4Addr,
}

impl Addresses {
    /// Those that applications see.
    pub fn visible(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

fn nth4(net: Ipv4Net, index: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(net.network()).wrapping_add(index))
}

fn nth6(net: Ipv6Net, index: u32) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(net.network()).wrapping_add(u128::from(index)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pool {
    Vip,
    Workload,
}

impl Pool {
    pub const ALL: [Pool; 2] = [Pool::Vip, Pool::Workload];

    /// How the state file spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Pool::Vip => "vip",
            Pool::Workload => "workload",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error(
        "the {} address range is used up ({capacity} names): widen it in the mesh settings or delete what is not used",
        pool.as_str()
    )]
    Full { pool: Pool, capacity: u32 },
}

/// Names and their indexes, per pool. Index 0 is the network's own address and never given.
#[derive(Debug, Clone, Default)]
pub struct Allocator {
    names: BTreeMap<(Pool, String), u32>,
    taken: BTreeMap<Pool, BTreeSet<u32>>,
}

impl Allocator {
    /// What the state file remembered. Of two names with one index the later in order loses and is given a new one when next asked for.
    pub fn restore(entries: impl IntoIterator<Item = (Pool, String, u32)>) -> Allocator {
        let mut allocator = Allocator::default();
        for (pool, name, index) in entries {
            if index > 0 && allocator.taken.entry(pool).or_default().insert(index) {
                allocator.names.insert((pool, name), index);
            }
        }
        allocator
    }

    pub fn known(&self, pool: Pool, name: &str) -> Option<u32> {
        self.names.get(&(pool, name.to_owned())).copied()
    }

    /// The index of `name`, and whether it is new (and must be written down). New names start at a place derived from the name,
    /// so that a lost state file mostly gives the same addresses again, and take the next free one.
    pub fn index(
        &mut self,
        pool: Pool,
        name: &str,
        ranges: &Ranges,
    ) -> Result<(u32, bool), AddressError> {
        if let Some(index) = self.known(pool, name) {
            return Ok((index, false));
        }
        let capacity = ranges.capacity(pool);
        let taken = self.taken.entry(pool).or_default();
        if taken.len() as u64 >= u64::from(capacity) {
            return Err(AddressError::Full { pool, capacity });
        }
        let mut index = fnv(name) % capacity + 1;
        while !taken.insert(index) {
            index = index % capacity + 1;
        }
        self.names.insert((pool, name.to_owned()), index);
        Ok((index, true))
    }

    pub fn release(&mut self, pool: Pool, name: &str) {
        if let Some(index) = self.names.remove(&(pool, name.to_owned())) {
            self.taken.entry(pool).or_default().remove(&index);
        }
    }
}

/// FNV-1a: stable over versions and machines, which std's hashers do not promise.
pub(crate) fn fnv(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// The port on the transport address for each target port of a workload: in 20000..=29999, below the ephemeral range, readable
/// (8080 → 28080), and clear of what applications bind on the wildcard.
pub fn transport_ports(targets: &BTreeSet<u16>) -> BTreeMap<u16, u16> {
    let mut taken = BTreeSet::new();
    targets
        .iter()
        .map(|target| {
            let mut port = 20_000 + target % 10_000;
            while !taken.insert(port) {
                port = 20_000 + (port + 1) % 10_000;
            }
            (*target, port)
        })
        .collect()
}

/// `ip/ADDRESS`, the alias by which a Host is asked for when only its address is known.
pub fn alias(address: IpAddr) -> String {
    format!("ip/{address}")
}

/// The listener name of a virtual address: `<vip>_<port>`, v6 without brackets.
pub fn listener_name(address: SocketAddr) -> String {
    format!("{}_{}", address.ip(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_stable_and_distinct() {
        let ranges = Ranges::default();
        let mut a = Allocator::default();
        let (one, new) = a
            .index(Pool::Vip, "a.default.svc.cluster.local", &ranges)
            .unwrap();
        assert!(new);
        assert_eq!(
            a.index(Pool::Vip, "a.default.svc.cluster.local", &ranges)
                .unwrap(),
            (one, false)
        );
        let mut seen = BTreeSet::from([one]);
        for n in 0..2000 {
            assert!(seen.insert(a.index(Pool::Vip, &format!("n{n}"), &ranges).unwrap().0));
        }
        let vips = ranges.vips(one);
        assert!(IpNet::from(ranges.vip_v4).contains(&vips[0]));
        assert!(IpNet::from(ranges.vip_v6).contains(&vips[1]));
    }

    #[test]
    fn a_full_range_is_an_error_and_a_release_frees() {
        let ranges = Ranges {
            vip_v4: net4([10, 0, 0, 0], 30),
            ..Ranges::default()
        };
        let mut a = Allocator::default();
        a.index(Pool::Vip, "a", &ranges).unwrap();
        a.index(Pool::Vip, "b", &ranges).unwrap();
        assert!(matches!(
            a.index(Pool::Vip, "c", &ranges),
            Err(AddressError::Full { capacity: 2, .. })
        ));
        a.release(Pool::Vip, "a");
        assert!(a.index(Pool::Vip, "c", &ranges).is_ok());
    }

    #[test]
    fn transport_ports_never_clash() {
        let ports = transport_ports(&BTreeSet::from([80, 8080, 18080, 10080]));
        assert_eq!(ports[&80], 20080);
        assert_eq!(ports[&8080], 28080);
        let distinct: BTreeSet<_> = ports.values().collect();
        assert_eq!(distinct.len(), ports.len());
    }

    #[test]
    fn transport_addresses_follow_the_workloads() {
        let ranges = Ranges::default();
        let of = |net: &str| {
            let found = ranges.transport_of(net.parse().unwrap());
            found.map(|net| net.to_string())
        };
        for (net, transport) in [
            ("10.88.3.4/32", Some("127.88.3.4/32")),
            ("10.88.3.0/24", Some("127.88.3.0/24")),
            ("10.88.0.0/16", Some("127.88.0.0/16")),
            ("10.0.0.0/8", Some("127.88.0.0/16")),
            ("0.0.0.0/0", Some("127.88.0.0/16")),
            ("fd72:6970:7374::304/128", Some("127.88.3.4/32")),
            ("fd72:6970:7374::300/120", Some("127.88.3.0/24")),
            ("fd72:6970:7374::/64", Some("127.88.0.0/16")),
            ("fd72:6970:7374::1:0/112", None),
            ("fd72:6970:7374:0:1::/80", None),
            ("192.0.2.0/24", None),
            ("127.0.0.0/8", None),
        ] {
            assert_eq!(of(net).as_deref(), transport, "{net}");
        }
        let addresses = ranges.workload(0x0304);
        assert_eq!(
            of(&format!("{}/128", addresses.v6)),
            of(&format!("{}/32", addresses.v4))
        );
        assert_eq!(
            of(&format!("{}/32", addresses.v4)),
            Some(format!("{}/32", addresses.transport))
        );
    }
}
