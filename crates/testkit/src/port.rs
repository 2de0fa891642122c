//! A wish for a port in → a port on loopback that no other test has, here or in another test binary.
//!
//! Binding port 0 and closing it gives a number that the next outgoing connection may take. So ports come from below
//! the ephemeral range, and each is held by an abstract Unix socket, which every process of the machine can see and
//! which goes with its owner.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

/// A reserved port; dropping it gives the number back. Nothing listens on it.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _held: UnixListener,
}

impl Port {
    pub fn number(&self) -> u16 {
        self.number
    }

    /// 127.0.0.1 with this port.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}

/// Reserves a port that is free on every address of the machine, v4 and v6.
pub fn reserve() -> Port {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two test binaries that run at once start at different places.
    let start = std::process::id().wrapping_mul(37) as u16;
    for _ in 0..COUNT {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if let Some(port) = hold(FIRST + offset) {
            return port;
        }
    }
    panic!("none of {COUNT} ports from {FIRST} is free");
}

fn hold(number: u16) -> Option<Port> {
    let name = UnixAddr::from_abstract_name(format!("ripstop-test-port-{number}")).ok()?;
    let held = UnixListener::bind_addr(&name).ok()?;
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).ok()?;
    // A machine without IPv6 has nothing there to collide with.
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, number)) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => None,
        _ => Some(Port {
            number,
            _held: held,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_can_be_bound() {
        let ports: Vec<Port> = (0..20).map(|_| reserve()).collect();
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 20);
        TcpListener::bind(ports[0].addr()).expect("a reserved port is free");
        assert!(hold(ports[0].number()).is_none(), "held twice");
    }
}
