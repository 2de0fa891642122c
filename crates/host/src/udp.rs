//! Datagrams of the app to anywhere → flows to the outside, bounded in number and in time.
//!
//! Capture gives the first datagram of a flow to an interceptor socket with its destination intact (see
//! [`crate::capture`]). For each flow, a pair of client and destination, the relay then takes a socket that was born
//! inside, binds it to the destination (every address is local on an AnyIP route) and connects it to the client: from
//! there on the kernel delivers the flow's datagrams to that socket alone, and replies leave it with the right source.
//! What is not relayed is dropped and counted: destinations that the caller's `route` refuses, multicast, broadcast,
//! more flows than allowed, datagrams that a full socket buffer cannot take.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
use ripstop_model::seam::Family;
use socket2::Socket;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use crate::sidecar::Replies;

/// How much is kept at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Flows of each address family.
    pub flows: usize,
    /// A flow ends when neither side has sent for so long.
    pub idle: Duration,
}

impl Default for Limits {
    /// 512 flows, and a minute (Envoy's UDP proxy closes idle sessions after a minute too).
    fn default() -> Limits {
        Limits {
            flows: 512,
            idle: Duration::from_secs(60),
        }
    }
}

#[derive(Debug, Default)]
pub struct Counters {
    pub flows: AtomicU64,
    pub to_outside: AtomicU64,
    pub to_app: AtomicU64,
    /// The destination is not relayed: multicast, broadcast, loopback, or refused by the caller.
    pub refused: AtomicU64,
    /// There were too many flows.
    pub overflowed: AtomicU64,
    /// A socket could not be made or a datagram not be sent.
    pub failed: AtomicU64,
}

const DATAGRAM: usize = 65_536;

thread_local! {
    /// One buffer per thread, none per flow.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; DATAGRAM]);
}

/// Relays on the current runtime until it ends. `route` says where datagrams to a destination go; `None` drops them.
///
/// # Errors
/// When a socket cannot join the runtime.
pub fn serve(
    interceptors: Vec<std::net::UdpSocket>,
    replies: Replies,
    limits: Limits,
    route: impl Fn(SocketAddr) -> Option<SocketAddr> + Send + Sync + 'static,
) -> io::Result<Arc<Counters>> {
    let counters = Arc::new(Counters::default());
    let route = Arc::new(route);
    for interceptor in interceptors {
        let relay = Relay {
            interceptor: UdpSocket::from_std(interceptor)?,
            replies: replies.clone(),
            limits,
            counters: Arc::clone(&counters),
            flows: HashMap::new(),
        };
        let route = Arc::clone(&route);
        tokio::spawn(relay.run(move |to| route(to)));
    }
    Ok(counters)
}

struct Relay {
    interceptor: UdpSocket,
    replies: Replies,
    limits: Limits,
    counters: Arc<Counters>,
    /// By client and destination; a flow lives as long as its task.
    flows: HashMap<(SocketAddr, SocketAddr), Weak<UdpSocket>>,
}

impl Relay {
    async fn run(mut self, route: impl Fn(SocketAddr) -> Option<SocketAddr>) {
        loop {
            if self.interceptor.readable().await.is_err() {
                return;
            }
            let received = self
                .interceptor
                .try_io(Interest::READABLE, || intercepted(&self.interceptor));
            let Ok((payload, client, destination)) = received else {
                continue;
            };
            let Some(outside) =
                route(destination).filter(|to| relayable(destination.ip()) && to.port() != 0)
            else {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            if let Err(error) = self.relay(&payload, client, destination, outside).await {
                tracing::debug!(%client, %destination, %error, "datagram not relayed");
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Sends one intercepted datagram, over a new flow or one that was being made when it came.
    async fn relay(
        &mut self,
        payload: &[u8],
        client: SocketAddr,
        destination: SocketAddr,
        outside: SocketAddr,
    ) -> io::Result<()> {
        let known = self
            .flows
            .get(&(client, destination))
            .and_then(Weak::upgrade);
        let flow = match known {
            Some(flow) => flow,
            None => {
                if self.flows.len() >= self.limits.flows {
                    self.flows.retain(|_, flow| flow.strong_count() > 0);
                }
                if self.flows.len() >= self.limits.flows {
                    self.counters.overflowed.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                let flow = self.open(client, destination, outside).await?;
                self.flows
                    .insert((client, destination), Arc::downgrade(&flow));
                flow
            }
        };
        flow.send(payload).await?;
        self.counters.to_outside.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn open(
        &self,
        client: SocketAddr,
        destination: SocketAddr,
        outside: SocketAddr,
    ) -> io::Result<Arc<UdpSocket>> {
        let inside = Socket::from(self.replies.datagram(Family::of(destination.ip())).await?);
        // Flows to one destination differ by the client they are connected to.
        inside.set_reuse_address(true)?;
        inside.bind(&destination.into())?;
        inside.connect(&client.into())?;
        let inside = UdpSocket::from_std(inside.into())?;
        let any: IpAddr = match outside {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let out = Arc::new(UdpSocket::bind((any, 0)).await?);
        out.connect(outside).await?;
        self.counters.flows.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(pump(
            inside,
            Arc::clone(&out),
            self.limits.idle,
            Arc::clone(&self.counters),
        ));
        Ok(out)
    }
}

/// Carries a flow's datagrams both ways until neither side sends, or one fails.
async fn pump(inside: UdpSocket, outside: Arc<UdpSocket>, idle: Duration, counters: Arc<Counters>) {
    let mut deadline = Instant::now() + idle;
    loop {
        let moved = timeout_at(deadline, async {
            tokio::select! {
                ready = inside.readable() => ready.and_then(|()| shuttle(&inside, &outside, &counters.to_outside)),
                ready = outside.readable() => ready.and_then(|()| shuttle(&outside, &inside, &counters.to_app)),
            }
        });
        match moved.await {
            Ok(Ok(true)) => deadline = Instant::now() + idle,
            Ok(Ok(false)) => {}
            // A closed port outside, or a client that is gone: a new datagram makes a new flow.
            Ok(Err(error)) => {
                tracing::debug!(%error, "flow ended");
                counters.failed.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Err(_) => return,
        }
    }
}

/// Moves one datagram if there is one.
fn shuttle(from: &UdpSocket, to: &UdpSocket, counter: &AtomicU64) -> io::Result<bool> {
    SCRATCH.with_borrow_mut(|scratch| {
        let length = match from.try_recv(scratch) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            received => received?,
        };
        match to.try_send(&scratch[..length]) {
            // No room: dropped, as any router would.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            sent => sent?,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    })
}

/// One datagram from an interceptor: what, from whom, to where.
fn intercepted(socket: &UdpSocket) -> io::Result<(Vec<u8>, SocketAddr, SocketAddr)> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut control = nix::cmsg_space!(libc::sockaddr_in6);
        let mut slices = [IoSliceMut::new(scratch)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message =
            recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
        let incomplete =
            || io::Error::new(io::ErrorKind::InvalidData, "datagram without addresses");
        let client = message
            .address
            .as_ref()
            .and_then(address)
            .ok_or_else(incomplete)?;
        let destination = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4OrigDstAddr(to) => {
                let ip = Ipv4Addr::from(u32::from_be(to.sin_addr.s_addr));
                Some(SocketAddr::V4(SocketAddrV4::new(
                    ip,
                    u16::from_be(to.sin_port),
                )))
            }
            ControlMessageOwned::Ipv6OrigDstAddr(to) => {
                let ip = Ipv6Addr::from(to.sin6_addr.s6_addr);
                Some(SocketAddr::V6(SocketAddrV6::new(
                    ip,
                    u16::from_be(to.sin6_port),
                    0,
                    0,
                )))
            }
            _ => None,
        });
        let destination = destination.ok_or_else(incomplete)?;
        let length = message.bytes;
        Ok((scratch[..length].to_vec(), client, destination))
    })
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage
        .as_sockaddr_in()
        .map(|v4| SocketAddr::V4(SocketAddrV4::from(*v4)));
    v4.or_else(|| {
        storage
            .as_sockaddr_in6()
            .map(|v6| SocketAddr::V6(SocketAddrV6::from(*v6)))
    })
}

/// One host outside: loopback would be the sidecar's own, and there is nobody to answer a group.
fn relayable(destination: IpAddr) -> bool {
    let broadcast = destination == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(broadcast
        || destination.is_multicast()
        || destination.is_loopback()
        || destination.is_unspecified())
}

#[cfg(test)]
mod tests {
    #[test]
    fn groups_and_loopback_are_not_relayed() {
        for refused in [
            "224.0.0.251",
            "255.255.255.255",
            "127.0.0.53",
            "0.0.0.0",
            "ff02::fb",
            "::1",
        ] {
            assert!(!super::relayable(refused.parse().unwrap()), "{refused}");
        }
        assert!(super::relayable("192.0.2.1".parse().unwrap()));
        assert!(super::relayable("2001:db8::1".parse().unwrap()));
    }
}
