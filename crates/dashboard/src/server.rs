//! An address and a source → the dashboard on a socket, until it is stopped.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::api::Api;
use crate::connection::{Moving, STILL};
use crate::feed::{Feed, INTERVAL};
use crate::source::Source;

/// Open at once; who comes later waits in the backlog.
const CONNECTIONS: usize = 128;
/// Of events, open at once: each is a page that somebody looks at.
const STREAMS: usize = 32;
/// For the head of a request, in time and in bytes.
const HEAD_TIME: Duration = Duration::from_secs(10);
const HEAD_BYTES: usize = 16 << 10;
/// For answers under way when the server stops. Streams end at once.
const GRACE: Duration = Duration::from_secs(1);

/// Why the dashboard is not served.
#[derive(Debug, thiserror::Error)]
#[error("the dashboard cannot listen on {address}: {cause}{}", hint(cause))]
pub struct ListenError {
    pub address: SocketAddr,
    pub cause: io::Error,
}

fn hint(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::AddrInUse => {
            "; stop what listens there, or choose another port (0 takes a free one)"
        }
        io::ErrorKind::AddrNotAvailable => "; name an address that this machine has",
        io::ErrorKind::PermissionDenied => "; choose a port above 1023",
        _ => "",
    }
}

/// Takes the address; nothing is answered there yet.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let failed = |cause| ListenError { address, cause };
    TcpListener::bind(address).await.map_err(failed)
}

/// A dashboard that is served until it is stopped or dropped.
pub struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    /// Ends every stream and returns when the last connection is closed, within a second or so.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        // An error would be a panic of the task, which has ended then as well.
        let _ = self.task.await;
    }
}

/// Answers at `listener`. `names`: host names by which it may be asked for, beside `localhost` and any address.
pub fn serve(listener: TcpListener, names: Vec<String>, source: impl Source) -> Running {
    let limits = Limits {
        interval: INTERVAL,
        streams: STREAMS,
        still: STILL,
    };
    start(listener, names, source, limits)
}

#[derive(Clone, Copy)]
struct Limits {
    interval: Duration,
    streams: usize,
    still: Duration,
}

fn start(
    listener: TcpListener,
    names: Vec<String>,
    source: impl Source,
    limits: Limits,
) -> Running {
    let (stop, stopped) = watch::channel(false);
    let feed = Arc::new(Feed::new(limits.interval));
    let api = Arc::new(Api {
        feed: Arc::clone(&feed),
        names,
        streams: Arc::new(Semaphore::new(limits.streams)),
        stopped: stopped.clone(),
    });
    let task = tokio::spawn(async move {
        tokio::select! {
            () = feed.run(source) => {}
            () = accept(listener, api, limits.still, stopped) => {}
        }
    });
    Running { stop, task }
}

/// Resolves when the server stops; an error means that [`Running`] is gone.
async fn ended(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn accept(
    listener: TcpListener,
    api: Arc<Api>,
    still: Duration,
    stopped: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let mut end = std::pin::pin!(ended(stopped.clone()));
    loop {
        tokio::select! {
            () = &mut end => break,
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&api), still, stopped.clone()));
                }
                Err(error) => {
                    // Out of descriptors: accepting again at once would only spin.
                    tracing::warn!(%error, "the dashboard cannot accept a connection");
                    sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(GRACE, drained).await.is_err() {
        connections.shutdown().await;
    }
}

async fn connection(
    stream: TcpStream,
    api: Arc<Api>,
    still: Duration,
    stopped: watch::Receiver<bool>,
) {
    // Events are small and wanted now.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let api = Arc::clone(&api);
        async move { Ok::<_, Infallible>(api.answer(request).await) }
    });
    let io = TokioIo::new(Moving::new(stream, still));
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(io, service);
    let mut serving = std::pin::pin!(serving);
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = ended(stopped) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection of the dashboard ended");
    }
}

#[cfg(test)]
mod tests;
