//! Listeners of the configuration in → sockets bound, connections accepted and handed to [`crate::connection`] with what is
//! known of them.
//!
//! Sockets outlive configurations: a listener that stays at its address keeps its sockets, whatever else of it changes.

pub mod chain;
pub mod proxy_protocol;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ripstop_model::snapshot::Name;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::admission::Full;
use crate::connection;
use crate::worker::Worker;

/// Connections the kernel holds until a worker takes them.
const BACKLOG: i32 = 4096;
/// How long accepting rests when the process has no descriptor left; the connections wait in the backlog.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// The bound sockets of one address: one per worker (SO_REUSEPORT), or one that all share (adopted).
#[derive(Debug)]
pub struct Sockets {
    pub address: SocketAddr,
    sockets: Vec<OwnedFd>,
}

impl Sockets {
    /// Binds `workers` sockets to one address. Port 0 takes a free one.
    pub fn bind(address: SocketAddr, workers: usize) -> io::Result<Sockets> {
        let mut at = address;
        let mut sockets = Vec::with_capacity(workers);
        for _ in 0..workers.max(1) {
            let socket = bind(at)?;
            if let Some(bound) = socket.local_addr()?.as_socket() {
                at = bound;
            }
            sockets.push(OwnedFd::from(socket));
        }
        Ok(Sockets {
            address: at,
            sockets,
        })
    }

    /// Takes over a listening socket made elsewhere (in an application's namespace).
    pub fn adopt(socket: OwnedFd) -> io::Result<Sockets> {
        let socket = Socket::from(socket);
        socket.set_nonblocking(true)?;
        let address = socket
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("an adopted listener must be a TCP socket"))?;
        Ok(Sockets {
            address,
            sockets: vec![OwnedFd::from(socket)],
        })
    }

    /// The socket of one worker, on this thread's runtime.
    fn of_worker(&self, index: usize) -> io::Result<TcpListener> {
        let socket = self
            .sockets
            .get(index)
            .or_else(|| self.sockets.last())
            .ok_or_else(|| io::Error::other("a listener without sockets"))?;
        TcpListener::from_std(std::net::TcpListener::from(socket.try_clone()?))
    }
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        // As Envoy: `::` takes IPv6 only unless the listener says otherwise.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Where the client wanted to go before the kernel redirected it (`SO_ORIGINAL_DST`); `None` if it was not redirected.
pub fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let socket = socket2::SockRef::from(stream);
    let local = stream.local_addr().ok()?;
    let original = if local.is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    let original = original.ok()?.as_socket()?;
    (original != local).then_some(original)
}

/// One address in one form: IPv4 in IPv6 becomes IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The accept loops of one worker.
#[derive(Default)]
pub(crate) struct Accepting {
    loops: HashMap<Name, Loop>,
}

struct Loop {
    sockets: Arc<Sockets>,
    /// Dropped: the loop ends.
    _stop: watch::Sender<()>,
}

impl Accepting {
    /// Starts and ends loops so that there is one for each bound listener of the running configuration.
    pub(crate) fn follow(&mut self, worker: &Rc<Worker>) {
        let view = worker.view();
        let open = !worker.shared.drain.phase().refuses_connections();
        self.loops.retain(|name, running| {
            open && view.listeners.get(name).is_some_and(|listener| {
                listener
                    .sockets
                    .as_ref()
                    .is_some_and(|sockets| Arc::ptr_eq(sockets, &running.sockets))
            })
        });
        if !open {
            return;
        }
        for (name, listener) in &view.listeners {
            let Some(sockets) = &listener.sockets else {
                continue;
            };
            if self.loops.contains_key(name) {
                continue;
            }
            match sockets.of_worker(worker.index) {
                Ok(socket) => {
                    let (stop, stopped) = watch::channel(());
                    tokio::task::spawn_local(accept(worker.clone(), name.clone(), socket, stopped));
                    self.loops.insert(
                        name.clone(),
                        Loop {
                            sockets: sockets.clone(),
                            _stop: stop,
                        },
                    );
                }
                Err(error) => {
                    tracing::error!(listener = %name, %error, "this worker cannot accept");
                }
            }
        }
    }
}

async fn accept(
    worker: Rc<Worker>,
    name: Name,
    socket: TcpListener,
    mut stopped: watch::Receiver<()>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = stopped.changed() => break,
        };
        match accepted {
            Ok((stream, peer)) => start(&worker, &name, stream, peer),
            Err(error) => pause(&worker, &name, &error).await,
        }
    }
    // What the kernel already took for this socket would be reset with it.
    while let Some(Ok((stream, peer))) = futures_util::FutureExt::now_or_never(socket.accept()) {
        start(&worker, &name, stream, peer);
    }
}

fn start(worker: &Rc<Worker>, name: &Name, stream: TcpStream, peer: SocketAddr) {
    let peer = canonical(peer);
    let place = match worker.shared.admission.admit(peer.ip()) {
        Ok(place) => place,
        Err(full) => return refuse(worker, name, peer, full),
    };
    // A connection that is already reset tells so on its first read.
    let _ = stream.set_nodelay(true);
    tokio::task::spawn_local(connection::serve(
        worker.clone(),
        name.clone(),
        stream,
        peer,
        place,
    ));
}

/// The connection has met a limit and ends with its stream.
fn refuse(worker: &Worker, name: &Name, peer: SocketAddr, full: Full) {
    if let Some(listener) = worker.view().listeners.get(name) {
        match full {
            Full::All(_) => listener.stats.overflow.inc(),
            Full::OfAddress(_) => listener.stats.overflow_of_address.inc(),
        }
    }
    if worker.shared.admission.is_news(worker.shared.uptime()) {
        tracing::warn!(listener = %name, %peer, "a connection was refused: {full}");
    }
}

/// Without descriptors or memory accepting rests instead of spinning; other errors belong to one connection that is gone.
async fn pause(worker: &Worker, name: &Name, error: &io::Error) {
    let exhausted = matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    );
    if exhausted {
        worker.shared.counters.accept_exhausted();
        tracing::warn!(listener = %name, %error, "accepting rests: raise the limit of open files (ulimit -n)");
        tokio::time::sleep(EXHAUSTED).await;
    }
}

/// Whether two sockets of this set share a descriptor: for tests.
#[cfg(test)]
impl Sockets {
    fn descriptors(&self) -> Vec<i32> {
        self.sockets
            .iter()
            .map(std::os::fd::AsRawFd::as_raw_fd)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_socket_per_worker_on_one_free_port() {
        let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_ne!(sockets.address.port(), 0);
        let mut descriptors = sockets.descriptors();
        descriptors.dedup();
        assert_eq!(descriptors.len(), 3);
        let other = std::net::TcpListener::bind("[::1]:0").unwrap();
        let adopted = Sockets::adopt(other.into()).unwrap();
        assert!(adopted.address.is_ipv6());
    }

    #[test]
    fn mapped_addresses_are_one_with_their_plain_form() {
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:80".parse().unwrap();
        assert_eq!(canonical(mapped), "10.0.0.1:80".parse().unwrap());
    }
}
