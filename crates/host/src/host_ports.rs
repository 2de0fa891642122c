//! Connections of the app to a declared port of its loopback → the same port of the host's loopback.
//!
//! The host is dialled at 127.0.0.1 and then at ::1, whichever the app asked for: what listens there rarely listens on
//! both. Bytes are copied as they are.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

#[derive(Debug, Default)]
pub struct Counters {
    pub connected: AtomicU64,
    /// Nothing listens on the host's loopback, or the port is not declared.
    pub refused: AtomicU64,
}

/// Connections at once.
const CONNECTIONS: usize = 1024;
/// For loopback to answer.
const DIAL: Duration = Duration::from_secs(5);

/// Serves on the current runtime until it ends.
///
/// # Errors
/// When a socket cannot join the runtime.
pub fn serve(
    listeners: Vec<std::net::TcpListener>,
    declared: Vec<u16>,
) -> io::Result<Arc<Counters>> {
    let counters = Arc::new(Counters::default());
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let declared: Arc<[u16]> = declared.into();
    for listener in listeners {
        let listener = TcpListener::from_std(listener)?;
        tokio::spawn(accept(
            listener,
            Arc::clone(&declared),
            Arc::clone(&connections),
            Arc::clone(&counters),
        ));
    }
    Ok(counters)
}

async fn accept(
    listener: TcpListener,
    declared: Arc<[u16]>,
    connections: Arc<Semaphore>,
    counters: Arc<Counters>,
) {
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (declared, counters) = (Arc::clone(&declared), Arc::clone(&counters));
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = relay(stream, &declared, &counters).await {
                tracing::debug!(%error, "host port");
            }
        });
    }
}

async fn relay(mut stream: TcpStream, declared: &[u16], counters: &Counters) -> io::Result<()> {
    let port = asked(&stream).filter(|port| declared.contains(port));
    let upstream = match port {
        Some(port) => dial(port).await,
        // Dialled at the listener itself.
        None => Err(io::ErrorKind::PermissionDenied.into()),
    };
    match upstream {
        Ok(mut upstream) => {
            counters.connected.fetch_add(1, Ordering::Relaxed);
            copy_bidirectional(&mut stream, &mut upstream).await?;
            Ok(())
        }
        Err(error) => {
            counters.refused.fetch_add(1, Ordering::Relaxed);
            // A reset, as near to "refused" as an accepted connection comes.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            Err(error)
        }
    }
}

async fn dial(port: u16) -> io::Result<TcpStream> {
    let mut last = io::ErrorKind::ConnectionRefused.into();
    for loopback in [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
    ] {
        match timeout(DIAL, TcpStream::connect((loopback, port))).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(elapsed) => last = elapsed.into(),
        }
    }
    Err(last)
}

/// The port that the app dialled.
fn asked(stream: &TcpStream) -> Option<u16> {
    let socket = SockRef::from(stream);
    let original = match stream.local_addr().ok()?.ip() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    original.ok()?.as_socket().map(|address| address.port())
}
