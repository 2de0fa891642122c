//! Queries of the app and the mesh's names → answers; names that are not the mesh's go to the host's resolvers.
//!
//! `message` decides and writes messages and does no I/O; `forward` carries a query outside and back unchanged; this
//! file joins both to the sockets that capture redirects port 53 to.

mod forward;
mod message;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use ripstop_model::seam::Names;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::workload::{Addresses, HostResolver};
use forward::Upstreams;
use message::{Step, Transport};

/// What is answered without asking the mesh.
#[derive(Debug, Clone)]
pub struct Zone {
    /// The workload's own, for its host name. Only families given here are answered at all.
    pub addresses: Addresses,
    /// Whether `host.ripstop.internal` leads anywhere.
    pub host_ports: bool,
    pub resolver: HostResolver,
    /// Ranges whose PTR queries belong to the mesh.
    pub mesh: Vec<IpNet>,
}

/// The sockets inside the namespace, v4 and v6.
#[derive(Debug, Default)]
pub struct Sockets {
    pub datagrams: Vec<UdpSocket>,
    pub streams: Vec<TcpListener>,
}

/// Queries by how they were answered; each counts once.
#[derive(Debug, Default)]
pub struct Counters {
    /// From the mesh or the zone.
    pub local: AtomicU64,
    pub forwarded: AtomicU64,
    /// SERVFAIL: the control plane or every outside resolver was silent, or too many queries waited.
    pub failed: AtomicU64,
    /// Not even a DNS header.
    pub dropped: AtomicU64,
}

/// Queries that may wait for an answer at once; one more is answered SERVFAIL.
const IN_FLIGHT: usize = 512;
/// TCP connections at once, and for how long one may be silent (RFC 7766, 6.2.3).
const CONNECTIONS: usize = 64;
const IDLE: Duration = Duration::from_secs(10);
/// The longest datagram we read: EDNS sizes above it are not offered.
const DATAGRAM: usize = 4096;

struct Server<N> {
    zone: Zone,
    names: Arc<N>,
    upstreams: Upstreams,
    counters: Arc<Counters>,
    in_flight: Semaphore,
}

/// Serves on the current runtime until it ends.
///
/// # Errors
/// When a socket cannot join the runtime.
pub fn serve<N: Names>(sockets: Sockets, zone: Zone, names: Arc<N>) -> io::Result<Arc<Counters>> {
    let nameservers = zone
        .resolver
        .nameservers
        .iter()
        .map(|ip| SocketAddr::new(*ip, 53))
        .collect();
    serve_with(sockets, zone, names, nameservers)
}

/// As [`serve`], with the outside resolvers' ports told.
pub fn serve_with<N: Names>(
    sockets: Sockets,
    zone: Zone,
    names: Arc<N>,
    nameservers: Vec<SocketAddr>,
) -> io::Result<Arc<Counters>> {
    let counters = Arc::new(Counters::default());
    let server = Arc::new(Server {
        zone,
        names,
        upstreams: Upstreams::new(nameservers),
        counters: Arc::clone(&counters),
        in_flight: Semaphore::new(IN_FLIGHT),
    });
    for socket in sockets.datagrams {
        let socket = Arc::new(tokio::net::UdpSocket::from_std(socket)?);
        tokio::spawn(datagrams(Arc::clone(&server), socket));
    }
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    for listener in sockets.streams {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tokio::spawn(streams(
            Arc::clone(&server),
            listener,
            Arc::clone(&connections),
        ));
    }
    Ok(counters)
}

async fn datagrams<N: Names>(server: Arc<Server<N>>, socket: Arc<tokio::net::UdpSocket>) {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // An answer that met a closed port comes back as an error of the next receive.
                tracing::debug!(%error, "DNS receive");
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
        };
        let query = buffer[..length].to_vec();
        let (server, socket) = (Arc::clone(&server), Arc::clone(&socket));
        tokio::spawn(async move {
            if let Some(answer) = server.answer(&query, Transport::Datagram).await {
                let _ = socket.send_to(&answer, client).await;
            }
        });
    }
}

async fn streams<N: Names>(
    server: Arc<Server<N>>,
    listener: tokio::net::TcpListener,
    connections: Arc<Semaphore>,
) {
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let _permit = permit;
            let _ = server.stream(stream).await;
        });
    }
}

impl<N: Names> Server<N> {
    /// One connection: queries in order, each with its two-byte length (RFC 1035, 4.2.2).
    async fn stream(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let length = timeout(IDLE, stream.read_u16()).await??;
            let mut query = vec![0; usize::from(length)];
            timeout(IDLE, stream.read_exact(&mut query)).await??;
            let Some(answer) = self.answer(&query, Transport::Stream).await else {
                return Ok(());
            };
            timeout(IDLE, stream.write_all(&forward::framed(&answer))).await??;
        }
    }

    async fn answer(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let mut step = message::read(query, &self.zone, transport);
        let permit = self.in_flight.try_acquire();
        if let Step::Ask(question) = step {
            step = match &permit {
                Ok(_) => {
                    let found = self.names.lookup(question.name()).await;
                    question.answer(&found, &self.zone)
                }
                Err(_) => question.fail(),
            };
        }
        let (counter, answer) = match step {
            Step::Answer(answer) => (&self.counters.local, Some(answer)),
            Step::Fail(answer) => (&self.counters.failed, Some(answer)),
            Step::Drop => (&self.counters.dropped, None),
            Step::Forward(question) => match permit {
                Ok(_permit) => match self.upstreams.ask(query, transport).await {
                    Some(answer) => (&self.counters.forwarded, Some(answer)),
                    None => (&self.counters.failed, question.fail().into_answer()),
                },
                Err(_) => (&self.counters.failed, question.fail().into_answer()),
            },
            Step::Ask(_) => (&self.counters.failed, None),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        answer
    }
}

/// The addresses of `host.ripstop.internal`: the app's own loopback, where declared host ports are captured.
const HOST: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
];
