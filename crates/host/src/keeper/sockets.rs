//! Sockets that are born inside: listeners kept for the keeper's whole life, and queues of unconnected ones.
//!
//! A socket keeps the namespace it was born in wherever its descriptor travels. The listeners stay open here, so
//! connections wait in their backlog while one sidecar dies and the next starts. The queues are socket pairs that the
//! keeper keeps filled and the sidecar takes from: one message, one descriptor; the kernel's queue is the pool, so any
//! number of the sidecar's threads can take from it without a lock or a round trip.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use socket2::{Domain, Socket, Type};

use crate::capture;
use crate::descriptors;
use crate::link::{Kind, Role};

/// Connections that may wait for a sidecar that is starting again.
const BACKLOG: i32 = 4096;
/// Not in libc for v6: linux/in6.h.
const IPV6_RECVORIGDSTADDR: i32 = 74;
const IPV6_TRANSPARENT: i32 = 75;
/// Send buffer of a queue, which bounds what waits in it to a handful: the kernel limits the descriptors in flight of
/// one user's processes together, and dials are rarer than requests.
const QUEUE_BYTES: usize = 4608;

/// The listeners, and the sockets for datagrams, v4 and (where the kernel has it) v6.
pub(super) struct Sockets {
    held: Vec<(Role, Socket)>,
    v6: bool,
}

impl Sockets {
    pub(super) fn open(v6: bool) -> io::Result<Sockets> {
        let mut held = Vec::new();
        let families: [(IpAddr, IpAddr); 2] = [
            (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::UNSPECIFIED.into()),
            (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into()),
        ];
        for (loopback, any) in families.into_iter().take(if v6 { 2 } else { 1 }) {
            let at = |port| SocketAddr::new(loopback, port);
            // Whatever is captured keeps its address.
            let outbound = SocketAddr::new(any, capture::OUTBOUND);
            held.push((Role::Outbound, listener(outbound)?));
            // Bound to loopback, not to the wildcard: replies of a wildcard socket miss conntrack's translation.
            held.push((Role::DnsDatagrams, bound(at(capture::DNS), Type::DGRAM)?));
            held.push((Role::DnsStreams, listener(at(capture::DNS))?));
            held.push((Role::HostPorts, listener(at(capture::HOST_PORTS))?));
            held.push((Role::Datagrams, interceptor(at(capture::DATAGRAMS))?));
        }
        Ok(Sockets { held, v6 })
    }

    pub(super) fn v6(&self) -> bool {
        self.v6
    }

    pub(super) fn roles(&self) -> (Vec<Role>, Vec<RawFd>) {
        self.held
            .iter()
            .map(|(role, socket)| (*role, socket.as_raw_fd()))
            .unzip()
    }
}

fn unbound(domain: Domain, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(domain, kind, None)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn bound(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = unbound(Domain::for_address(address), kind)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listener(address: SocketAddr) -> io::Result<Socket> {
    let socket = bound(address, Type::STREAM)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Receives what TPROXY gives it and tells where each datagram was going.
fn interceptor(address: SocketAddr) -> io::Result<Socket> {
    let socket = unbound(Domain::for_address(address), Type::DGRAM)?;
    let [transparent, destination] = match address {
        SocketAddr::V4(_) => [
            (libc::SOL_IP, libc::IP_TRANSPARENT),
            (libc::SOL_IP, libc::IP_RECVORIGDSTADDR),
        ],
        SocketAddr::V6(_) => [
            (libc::SOL_IPV6, IPV6_TRANSPARENT),
            (libc::SOL_IPV6, IPV6_RECVORIGDSTADDR),
        ],
    };
    enable(&socket, transparent)?;
    enable(&socket, destination)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn enable(socket: &Socket, (level, option): (i32, i32)) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the option takes an int, and one is given with its size.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            length,
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A fresh socket for a dial into, or a reply inside, the namespace.
fn fresh(kind: Kind) -> io::Result<Socket> {
    let (domain, ty) = match kind {
        Kind::StreamV4 => (Domain::IPV4, Type::STREAM),
        Kind::StreamV6 => (Domain::IPV6, Type::STREAM),
        Kind::DatagramV4 => (Domain::IPV4, Type::DGRAM),
        Kind::DatagramV6 => (Domain::IPV6, Type::DGRAM),
    };
    let socket = unbound(domain, ty)?;
    socket.set_mark(capture::MARK)?;
    if kind == Kind::DatagramV6 {
        // A v4 socket may bind any address of an AnyIP namespace; a v6 one needs this.
        enable(&socket, (libc::SOL_IPV6, IPV6_TRANSPARENT))?;
    }
    Ok(socket)
}

/// The queues of one sidecar.
pub(super) struct Supplies {
    queues: Vec<(Kind, OwnedFd)>,
    /// The last refill ran out of something; the loop then waits a little instead of spinning.
    pub(super) starved: bool,
}

impl Supplies {
    /// The queues, and the far ends for the sidecar.
    pub(super) fn open(v6: bool) -> io::Result<(Supplies, Vec<(Role, OwnedFd)>)> {
        let kinds: &[Kind] = if v6 {
            &[
                Kind::StreamV4,
                Kind::StreamV6,
                Kind::DatagramV4,
                Kind::DatagramV6,
            ]
        } else {
            &[Kind::StreamV4, Kind::DatagramV4]
        };
        let mut queues = Vec::new();
        let mut far_ends = Vec::new();
        for kind in kinds {
            let (near, far) = descriptors::pair()?;
            socket2::SockRef::from(&near).set_send_buffer_size(QUEUE_BYTES)?;
            queues.push((*kind, near));
            far_ends.push((Role::Supply(*kind), far));
        }
        let supplies = Supplies {
            queues,
            starved: false,
        };
        Ok((supplies, far_ends))
    }

    pub(super) fn queues(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.queues.iter().map(|(_, queue)| queue.as_fd())
    }

    /// Fills every queue. False when the sidecar is gone.
    pub(super) fn refill(&mut self) -> bool {
        self.starved = false;
        for (kind, queue) in &self.queues {
            loop {
                let sent = fresh(*kind).and_then(|socket| {
                    descriptors::send_bytes(queue.as_fd(), b"s", &[socket.as_raw_fd()])
                });
                match sent {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                        ) =>
                    {
                        return false;
                    }
                    Err(_) => {
                        self.starved = true;
                        break;
                    }
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_queue_holds_a_handful_and_is_filled_again() {
        // Marking takes a capability; what is asked here is only how many messages a queue holds.
        let (near, far) = descriptors::pair().unwrap();
        socket2::SockRef::from(&near)
            .set_send_buffer_size(QUEUE_BYTES)
            .unwrap();
        let fill = || {
            let socket = unbound(Domain::IPV4, Type::STREAM).unwrap();
            let sent = || descriptors::send_bytes(near.as_fd(), b"s", &[socket.as_raw_fd()]);
            std::iter::repeat_with(sent)
                .take_while(Result::is_ok)
                .count()
        };
        let held = fill();
        assert!((2..=32).contains(&held), "{held}");
        for _ in 0..held {
            let (length, taken) = descriptors::receive_bytes(far.as_fd(), &mut [0; 8]).unwrap();
            assert_eq!((length, taken.len()), (1, 1));
        }
        assert_eq!(fill(), held);
    }
}
