//! An address in → a TCP connection to it, from the right place: the host, a sidecar's own address, or inside the
//! application's namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use ripstop_model::reason::Reason;
use ripstop_model::seam::Family;
use ripstop_model::snapshot::cluster::TcpKeepalive;
use tokio::net::{TcpSocket, TcpStream};

use crate::Shared;
use crate::error::{Error, Retry};

/// How to reach an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Dial {
    pub timeout: Duration,
    pub keepalive: Option<TcpKeepalive>,
    /// Dial inside the application's namespace.
    pub application: bool,
}

/// Opens a TCP connection. Whatever goes wrong here, nothing was sent.
pub async fn connect(
    shared: &Shared,
    address: SocketAddr,
    dial: &Dial,
) -> Result<TcpStream, Error> {
    let opening = async {
        match (&shared.sockets, dial.application) {
            (Some(sockets), true) => connect_inside(&**sockets, address, &shared.addresses).await,
            _ => connect_from(shared.source_for(address), address).await,
        }
    };
    let stream = match tokio::time::timeout(dial.timeout, opening).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return Err(refused(&error));
        }
        Err(_) => return Err(Error::new(Reason::ConnectTimeout, Retry::Unprocessed)),
    };
    // Without them the connection works all the same.
    let _ = stream.set_nodelay(true);
    if let Some(keepalive) = dial.keepalive {
        let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&probes(keepalive));
    }
    Ok(stream)
}

async fn connect_from(source: Option<SocketAddr>, address: SocketAddr) -> io::Result<TcpStream> {
    let Some(source) = source else {
        return TcpStream::connect(address).await;
    };
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // The kernel chooses the port when the whole four-tuple is known, so one source does not run out of ports.
    bind_address_no_port(&socket)?;
    socket.bind(source)?;
    socket.connect(address).await
}

fn bind_address_no_port(socket: &TcpSocket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is a live c_int of the length given.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The application is dialled at the address the client used, at the workload's other addresses, then at 127.0.0.1 and at
/// ::1: wherever it listens, it is found.
async fn connect_inside(
    sockets: &dyn crate::Sockets,
    address: SocketAddr,
    own: &[IpAddr],
) -> io::Result<TcpStream> {
    let loopback = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    let others = own
        .iter()
        .chain(&loopback)
        .filter(|ip| **ip != address.ip());
    let mut first = None;
    for ip in std::iter::once(&address.ip()).chain(others) {
        let target = SocketAddr::new(*ip, address.port());
        let socket = sockets.stream(Family::of(*ip)).await?;
        let socket = std::net::TcpStream::from(socket);
        socket.set_nonblocking(true)?;
        match TcpSocket::from_std_stream(socket).connect(target).await {
            Ok(stream) => return Ok(stream),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into()))
}

fn probes(keepalive: TcpKeepalive) -> socket2::TcpKeepalive {
    let mut probes = socket2::TcpKeepalive::new();
    if let Some(time) = keepalive.time {
        probes = probes.with_time(time);
    }
    if let Some(interval) = keepalive.interval {
        probes = probes.with_interval(interval);
    }
    if let Some(count) = keepalive.probes {
        probes = probes.with_retries(count);
    }
    probes
}

/// A connection that was not made, in Envoy's words.
pub(crate) fn refused(error: &io::Error) -> Error {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let cause = format!("delayed connect error: {text}");
    Error::new(Reason::ConnectFailure, Retry::Unprocessed).because(cause)
}
