//! A probe of the application → whether it is ready, as it changes. The probe runs inside the application's namespace,
//! the way its traffic will: a TCP connection, or a GET answered with 200 to 399 (what Kubernetes calls success).
//!
//! While the application starts it is probed often, so that readiness costs it no time; once it serves, at the probe's
//! interval. It counts as lost when nobody listens any more, or after [`FAILURES`] probes in a row that went wrong in
//! another way: one slow answer takes no workload out of service.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ripstop_model::seam::Family;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

use crate::Sockets;
use crate::health;

/// Failed probes in a row until a ready application is not ready (Kubernetes' `failureThreshold`).
const FAILURES: u32 = 3;
/// Between the first probes of an application that is not ready; grows by half each time.
const FIRST: Duration = Duration::from_millis(20);
const SLOWEST: Duration = Duration::from_millis(500);

/// How to find out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The workload's own addresses, tried in this order before 127.0.0.1 and ::1.
    pub addresses: Vec<IpAddr>,
    /// Where the application listens.
    pub port: u16,
    /// GET this; `None`: a TCP connection will do.
    pub path: Option<String>,
    /// Between probes of a ready application.
    pub interval: Duration,
    /// Of one probe.
    pub timeout: Duration,
}

/// How one probe went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    /// Nobody listens.
    Refused,
    /// No answer in time, or not the right one.
    Failed,
}

/// What the probes so far amount to, and when the next is due.
#[derive(Debug)]
struct Standing {
    ready: bool,
    /// In a row.
    failures: u32,
    pause: Duration,
}

impl Standing {
    fn new() -> Standing {
        Standing {
            ready: false,
            failures: 0,
            pause: FIRST,
        }
    }

    /// Takes in a probe; answers how long to wait until the next.
    fn take(&mut self, outcome: Outcome, interval: Duration) -> Duration {
        if outcome == Outcome::Passed {
            self.ready = true;
            self.failures = 0;
            self.pause = FIRST;
            return interval;
        }
        self.failures += 1;
        if self.ready && outcome == Outcome::Failed && self.failures < FAILURES {
            return interval;
        }
        self.ready = false;
        let pause = self.pause.min(interval);
        self.pause = (self.pause * 3 / 2).min(SLOWEST);
        pause
    }
}

/// Probes until every receiver is gone. It starts with `false`.
pub fn watch(probe: Probe, sockets: Arc<dyn Sockets>) -> watch::Receiver<bool> {
    let (state, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            () = run(&probe, &*sockets, &state) => {}
            () = state.closed() => {}
        }
    });
    receiver
}

async fn run(probe: &Probe, sockets: &dyn Sockets, state: &watch::Sender<bool>) {
    let mut standing = Standing::new();
    let mut targets = targets(probe);
    loop {
        let outcome = match tokio::time::timeout(probe.timeout, once(probe, sockets, &mut targets))
            .await
        {
            Ok(Ok(true)) => Outcome::Passed,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Outcome::Refused,
            Ok(Ok(false) | Err(_)) | Err(_) => Outcome::Failed,
        };
        let pause = standing.take(outcome, probe.interval);
        state.send_if_modified(|ready| std::mem::replace(ready, standing.ready) != standing.ready);
        tokio::time::sleep(pause).await;
    }
}

fn targets(probe: &Probe) -> Vec<SocketAddr> {
    let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let mut targets: Vec<SocketAddr> = Vec::new();
    for ip in probe.addresses.iter().copied().chain(loopback) {
        let target = SocketAddr::new(ip, probe.port);
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    targets
}

/// One probe. The address that took the connection is tried first from then on: sockets inside the namespace are made
/// one by one for this.
async fn once(
    probe: &Probe,
    sockets: &dyn Sockets,
    targets: &mut [SocketAddr],
) -> io::Result<bool> {
    let mut refused = None;
    for index in 0..targets.len() {
        let Some(target) = targets.get(index).copied() else {
            break;
        };
        match connect(sockets, target).await {
            Ok(stream) => {
                if let Some(tried) = targets.get_mut(..=index) {
                    tried.rotate_right(1);
                }
                return match &probe.path {
                    None => Ok(true),
                    Some(path) => get(stream, path)
                        .await
                        .map(|status| (200..400).contains(&status)),
                };
            }
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into()))
}

async fn connect(sockets: &dyn Sockets, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = std::net::TcpStream::from(sockets.stream(Family::of(target.ip())).await?);
    socket.set_nonblocking(true)?;
    TcpSocket::from_std_stream(socket).connect(target).await
}

/// The status that `path` is answered with.
async fn get(mut stream: TcpStream, path: &str) -> io::Result<u16> {
    stream.write_all(request(path).as_bytes()).await?;
    Ok(health::active::answer(&mut stream).await?.status)
}

/// `localhost`, because servers that check the Host header accept it where they accept only known names.
fn request(path: &str) -> String {
    let mut out = String::from("GET ");
    if !path.starts_with('/') {
        out.push('/');
    }
    for byte in path.bytes() {
        match byte {
            b'!'..=b'~' => out.push(char::from(byte)),
            // What may not stand in a request line is sent as the character it means.
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out.push_str(
        " HTTP/1.1\r\nhost: localhost\r\nuser-agent: ripstop-readiness\r\naccept: */*\r\nconnection: close\r\n\r\n",
    );
    out
}

#[cfg(test)]
mod tests;
