//! A slice of the loopback for each mesh of a host, so that meshes that know nothing of each other never want one address.
//!
//! A mesh owns a /22 of the transport range and, in it, the first address for itself: its control plane and its metrics keep
//! their well-known ports there, whatever else runs. The claim is a socket bound to that address: the kernel judges between
//! users, and lets go when the process ends.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use anyhow::{Context, bail};
use ipnet::Ipv4Net;
use ripstop_model::intent::mesh::AddressRanges;

const PREFIX: u8 = 22;
/// Where the claim is bound; nothing is served on it.
const CLAIM: u16 = 15099;

/// Where a workload runs, as registrations tell hosts apart: those of the same place share a loopback. The name is for people;
/// boots and network namespaces are told apart by what follows it.
pub(crate) fn here() -> anyhow::Result<String> {
    use std::os::unix::fs::MetadataExt;
    let name = nix::unistd::gethostname().unwrap_or_default();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("cannot read /proc/sys/kernel/random/boot_id: mount /proc")?;
    let namespace = std::fs::metadata("/proc/self/ns/net")
        .context("cannot read /proc/self/ns/net: mount /proc")?
        .ino();
    Ok(format!(
        "{}/{}/{namespace}",
        name.to_string_lossy(),
        boot.trim()
    ))
}

/// Our address on the way to `control`, `HOST:PORT`; connecting a datagram socket sends nothing.
pub(crate) async fn leading_to(control: &str) -> anyhow::Result<IpAddr> {
    let unknown = || {
        format!(
            "cannot find out which address of this host leads to {control}: name it with --advertise ADDR"
        )
    };
    let to = tokio::net::lookup_host(control)
        .await
        .with_context(unknown)?
        .next()
        .with_context(unknown)?;
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)
        .and_then(|socket| socket.connect(to).map(|()| socket))
        .with_context(unknown)?;
    Ok(socket.local_addr().with_context(unknown)?.ip())
}

pub(crate) struct Place {
    /// The mesh's transport addresses.
    pub(crate) range: Ipv4Net,
    _claim: TcpListener,
}

impl Place {
    /// The range that the mesh file asks for, or a free slice of the default one; where the search starts follows from
    /// the state folder, so that a mesh mostly finds its old place.
    pub(crate) fn claim(wanted: Option<Ipv4Net>, state: &Path) -> anyhow::Result<Place> {
        if let Some(range) = wanted {
            let claim = bind(range).with_context(|| {
                format!("the transport range {range} is in use by another mesh: set another `addresses.transport`")
            })?;
            return Ok(Place {
                range,
                _claim: claim,
            });
        }
        let slices: Vec<Ipv4Net> = AddressRanges::TRANSPORT
            .subnets(PREFIX)
            .map(Iterator::collect)
            .unwrap_or_default();
        let bytes = state.as_os_str().as_encoded_bytes();
        let start = bytes.iter().fold(5381usize, |sum, byte| {
            sum.wrapping_mul(33) ^ usize::from(*byte)
        });
        for step in 0..slices.len() {
            let Some(range) = slices.get(start.wrapping_add(step) % slices.len()) else {
                break;
            };
            match bind(*range) {
                Ok(claim) => {
                    return Ok(Place {
                        range: *range,
                        _claim: claim,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error).context("cannot bind loopback addresses"),
            }
        }
        bail!(
            "{} meshes run on this host, and no slice of {} is free: stop one",
            slices.len(),
            AddressRanges::TRANSPORT
        )
    }

    /// A well-known port on the mesh's own address.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        (own(self.range), port).into()
    }
}

fn own(range: Ipv4Net) -> Ipv4Addr {
    range.network()
}

fn bind(range: Ipv4Net) -> io::Result<TcpListener> {
    TcpListener::bind((own(range), CLAIM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meshes_get_places_of_their_own() {
        let state = Path::new("/some/state");
        let first = Place::claim(None, state).unwrap();
        let second = Place::claim(None, state).unwrap();
        assert_ne!(first.range, second.range);
        assert!(
            AddressRanges::TRANSPORT.contains(&first.range) && first.range.prefix_len() == PREFIX
        );
        let error = Place::claim(Some(first.range), state)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("addresses.transport"), "{error}");
    }
}
