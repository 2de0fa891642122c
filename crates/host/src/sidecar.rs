//! Two inherited descriptors → everything a sidecar serves: its side of the link to the keeper.
//!
//! ```no_run
//! # async fn example(names: std::sync::Arc<impl ripstop_model::seam::Names>) -> std::io::Result<()> {
//! let inherited = ripstop_host::sidecar::Inherited::receive().await?;
//! // DNS, host ports and datagrams need nothing else; the mesh's ranges say what is never sent outside.
//! let background = inherited.background.spawn(names, vec!["240.240.0.0/16".parse().unwrap()])?;
//! // The proxy takes `inherited.outbound` (SO_ORIGINAL_DST works on what they accept) and `inherited.app`.
//! inherited.supervisor.report(ripstop_host::supervise::Report::Ready)?;
//! while let Some(order) = inherited.supervisor.order().await? {
//!     use ripstop_host::supervise::Order;
//!     match order { Order::Drain | Order::End => { /* … then report Drained */ } }
//! }
//! # let _ = background; Ok(()) }
//! ```
//!
//! The process ends with its supervisor: [`Inherited::receive`] starts a thread that does nothing but wait for the
//! supervisor's end of the lifeline to close, and then exits the process, whatever the runtimes are busy with.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use ipnet::IpNet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ripstop_model::seam::{AppSockets, Family, Names};

use crate::descriptors::{self, Line};
use crate::dns;
use crate::host_ports;
use crate::link::{Handover, Kind, Order, Report, Role};
use crate::trace::kernel::{self, Scope};
use crate::trace::{Known, Table};
use crate::udp;
use crate::workload::Addresses;

/// Where a sidecar inherits the keeper's link.
pub(crate) const LINK: RawFd = 3;
/// Where it inherits its supervisor's lifeline.
pub(crate) const SUPERVISOR: RawFd = 4;
/// The first descriptor number that a caller of [`crate::supervise`] may give a sidecar.
pub const FIRST_FREE: RawFd = 5;

/// All that the keeper hands over.
#[derive(Debug)]
pub struct Inherited {
    /// Listeners for captured TCP, v4 then v6, non-blocking. A connection's original destination is in
    /// `SO_ORIGINAL_DST` (level SOL_IP, or SOL_IPV6 with `IP6T_SO_ORIGINAL_DST`, the same number 80). A connection whose
    /// original destination is the listener's own address was dialled at it directly and is to be refused.
    pub outbound: Vec<TcpListener>,
    /// Sockets for dials to the app. Any thread and runtime may take from it.
    pub app: AppSupply,
    pub background: Background,
    pub supervisor: Supervisor,
    /// What causes the application's outbound requests; `None`: no hook was wanted.
    pub causes: Option<Known>,
    /// The workload's own addresses.
    pub addresses: Addresses,
}

impl Inherited {
    /// Takes what the supervisor passed and waits for the keeper's message. Once per process, inside a runtime.
    ///
    /// # Errors
    /// When started by hand, and when the keeper is already gone.
    pub async fn receive() -> io::Result<Inherited> {
        let supervisor = descriptors::inherited(SUPERVISOR, "the supervisor")?;
        let link = descriptors::inherited(LINK, "the keeper")?;
        end_with(supervisor.try_clone()?)?;
        let gone = || {
            io::Error::new(
                io::ErrorKind::NotConnected,
                "the keeper ended before it handed over",
            )
        };
        let (handover, passed) = Line::new(link)?
            .receive::<Handover>()
            .await?
            .ok_or_else(gone)?;
        Inherited::sort(handover, passed, Supervisor(Line::new(supervisor)?))
    }

    fn sort(
        handover: Handover,
        passed: Vec<OwnedFd>,
        supervisor: Supervisor,
    ) -> io::Result<Inherited> {
        if handover.roles.len() != passed.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the keeper's message lost descriptors",
            ));
        }
        let mut outbound = Vec::new();
        let mut dns = dns::Sockets::default();
        let mut host_listeners = Vec::new();
        let mut interceptors = Vec::new();
        let mut supplies = Vec::new();
        let (mut table, mut processes) = (None, None);
        for (role, descriptor) in handover.roles.into_iter().zip(passed) {
            match role {
                Role::Outbound => outbound.push(TcpListener::from(descriptor)),
                Role::DnsDatagrams => dns.datagrams.push(UdpSocket::from(descriptor)),
                Role::DnsStreams => dns.streams.push(TcpListener::from(descriptor)),
                Role::HostPorts => host_listeners.push(TcpListener::from(descriptor)),
                Role::Datagrams => interceptors.push(UdpSocket::from(descriptor)),
                Role::Causes => table = Some(Table::new(descriptor)),
                Role::Processes => processes = Some(descriptor),
                Role::Supply(kind) => supplies.push((kind, Supply(Line::new(descriptor)?))),
            }
        }
        let processes = processes.and_then(|processes| {
            let scope = scope(&outbound, handover.target_ports);
            Some((processes, scope?))
        });
        let causes = table
            .map(|table| Known::new(table, processes))
            .transpose()?;
        let supplies = Arc::new(supplies);
        Ok(Inherited {
            outbound,
            app: AppSupply(Arc::clone(&supplies)),
            background: Background {
                zone: dns::Zone {
                    addresses: handover.addresses,
                    host_ports: !handover.host_ports.is_empty(),
                    resolver: handover.resolver,
                    mesh: Vec::new(),
                },
                dns,
                host_listeners,
                host_ports: handover.host_ports,
                interceptors,
                replies: Replies(supplies),
            },
            supervisor,
            causes,
            addresses: handover.addresses,
        })
    }
}

/// The workload's network namespace, which its sockets know, and its ports.
fn scope(outbound: &[TcpListener], ports: Vec<u16>) -> Option<Scope> {
    match kernel::network(outbound.first()?) {
        Ok(network) => Some(Scope { network, ports }),
        Err(error) => {
            let reason = error.to_string();
            tracing::warn!(
                reason,
                "calls of statically linked programs stay unattributed"
            );
            None
        }
    }
}

/// What this crate serves by itself.
#[derive(Debug)]
pub struct Background {
    /// Read it to see the host's resolvers.
    pub zone: dns::Zone,
    pub dns: dns::Sockets,
    pub host_listeners: Vec<TcpListener>,
    pub host_ports: Vec<u16>,
    pub interceptors: Vec<UdpSocket>,
    pub replies: Replies,
}

/// The counters of the background services. They run until the runtime they were started in ends.
#[derive(Debug, Clone)]
pub struct Counters {
    pub dns: Arc<dns::Counters>,
    pub datagrams: Arc<udp::Counters>,
    pub host_ports: Arc<host_ports::Counters>,
}

impl Background {
    /// Serves DNS, host ports and datagrams on the current runtime. `mesh` are the address ranges that belong to the
    /// mesh: datagrams to them are dropped, and PTR queries for them are not sent outside.
    ///
    /// # Errors
    /// When a socket cannot join the runtime.
    pub fn spawn<N: Names>(self, names: Arc<N>, mesh: Vec<IpNet>) -> io::Result<Counters> {
        let mut zone = self.zone;
        zone.mesh.clone_from(&mesh);
        Ok(Counters {
            dns: dns::serve(self.dns, zone, names)?,
            datagrams: udp::serve(
                self.interceptors,
                self.replies,
                udp::Limits::default(),
                move |to| (!mesh.iter().any(|range| range.contains(&to.ip()))).then_some(to),
            )?,
            host_ports: host_ports::serve(self.host_listeners, self.host_ports)?,
        })
    }
}

/// Sockets born in the app's namespace, for [`AppSockets`].
#[derive(Debug, Clone)]
pub struct AppSupply(Arc<Vec<(Kind, Supply)>>);

impl AppSockets for AppSupply {
    async fn stream(&self, family: Family) -> io::Result<OwnedFd> {
        let kind = match family {
            Family::V4 => Kind::StreamV4,
            Family::V6 => Kind::StreamV6,
        };
        take(&self.0, kind).await
    }
}

/// Datagram sockets born in the app's namespace, from which replies are sent.
#[derive(Debug, Clone)]
pub struct Replies(Arc<Vec<(Kind, Supply)>>);

impl Replies {
    pub(crate) async fn datagram(&self, family: Family) -> io::Result<OwnedFd> {
        let kind = match family {
            Family::V4 => Kind::DatagramV4,
            Family::V6 => Kind::DatagramV6,
        };
        take(&self.0, kind).await
    }
}

async fn take(supplies: &[(Kind, Supply)], kind: Kind) -> io::Result<OwnedFd> {
    let supply = supplies.iter().find(|(offered, _)| *offered == kind);
    let (_, supply) = supply.ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
    supply.take().await
}

/// The near end of one of the keeper's queues. The kernel orders those who take from it.
#[derive(Debug)]
struct Supply(Line);

impl Supply {
    async fn take(&self) -> io::Result<OwnedFd> {
        self.0.when_readable(Supply::try_take).await
    }

    fn try_take(queue: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let (length, passed) = descriptors::receive_bytes(queue, &mut [0; 8])?;
        let ended = || io::Error::new(io::ErrorKind::NotConnected, "the app has ended");
        if length == 0 {
            return Err(ended());
        }
        passed.into_iter().next().ok_or_else(ended)
    }
}

/// The sidecar's end of its lifeline.
#[derive(Debug)]
pub struct Supervisor(Line);

impl Supervisor {
    /// Tells the supervisor.
    pub fn report(&self, report: Report) -> io::Result<()> {
        self.0.send(&report, &[])
    }

    /// The next order; `None` when the supervisor is gone (and this process about to be). Cancel-safe.
    pub async fn order(&self) -> io::Result<Option<Order>> {
        Ok(self.0.receive::<Order>().await?.map(|(order, _)| order))
    }
}

/// Ends this process when the other end of `lifeline` closes.
fn end_with(lifeline: OwnedFd) -> io::Result<()> {
    let wait = move || {
        loop {
            // No events asked for: a hang-up is always told.
            let mut watched = [PollFd::new(lifeline.as_fd(), PollFlags::empty())];
            match poll(&mut watched, PollTimeout::NONE) {
                Ok(_) => {
                    // SAFETY: ends the process without running anything else of it.
                    unsafe { libc::_exit(0) }
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    };
    std::thread::Builder::new()
        .name("lifeline".to_owned())
        .stack_size(32 * 1024)
        .spawn(wait)?;
    Ok(())
}
