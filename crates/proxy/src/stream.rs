//! A byte stream of either side, plain or TLS, and the bytes waiting to be written to it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::worker::Worker;

/// Plain or TLS, downstream or upstream.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Tls(Box<tokio_rustls::TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Stream {
    /// The socket under whatever is spoken on it; `None` for a Unix socket.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Stream::Tcp(tcp) => Some(tcp),
            Stream::Tls(tls) => Some(tls.get_ref().0),
            Stream::Unix(_) => None,
        }
    }

    pub fn local(&self) -> Option<SocketAddr> {
        self.tcp().and_then(|tcp| tcp.local_addr().ok())
    }

    pub fn peer(&self) -> Option<SocketAddr> {
        self.tcp().and_then(|tcp| tcp.peer_addr().ok())
    }

    pub fn is_tls(&self) -> bool {
        matches!(self, Stream::Tls(_))
    }

    /// Whether something came, or the peer closed, since the last read: an idle connection of which this is true is
    /// not used again. Costs no system call while nothing happened.
    pub fn is_readable(&mut self) -> bool {
        let mut byte = [0u8; 1];
        let mut buf = ReadBuf::new(&mut byte);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        Pin::new(self).poll_read(&mut cx, &mut buf).is_ready()
    }

    /// As [`Stream::is_readable`], asking the kernel instead of the last event: for requests that must not be sent twice.
    pub fn is_readable_now(&mut self) -> bool {
        let Some(tcp) = self.tcp() else {
            return self.is_readable();
        };
        let mut byte = 0u8;
        // SAFETY: one byte of a live local is written at most; the descriptor is open as long as `tcp` is borrowed.
        let n = unsafe {
            libc::recv(
                tcp.as_raw_fd(),
                (&raw mut byte).cast(),
                1,
                libc::MSG_PEEK | libc::MSG_DONTWAIT,
            )
        };
        let silent = n < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock;
        !silent && (!self.is_tls() || n <= 0 || self.is_readable())
    }

    /// Reset rather than close: what the peer gets when a response breaks off (SO_LINGER 0).
    pub fn reset_on_close(&self) {
        if let Some(tcp) = self.tcp() {
            let socket = socket2::SockRef::from(tcp);
            // A socket that is already gone needs no reset.
            let _ = socket.set_linger(Some(std::time::Duration::ZERO));
        }
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Stream::Tcp(tcp) => tcp.as_raw_fd(),
            Stream::Tls(tls) => tls.get_ref().0.as_raw_fd(),
            Stream::Unix(unix) => unix.as_raw_fd(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Stream::Tls(io) => Pin::new(io).poll_read(cx, buf),
            Stream::Unix(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Stream::Tls(io) => Pin::new(io).poll_write(cx, buf),
            Stream::Unix(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(_) | Stream::Unix(_) => Poll::Ready(Ok(())),
            Stream::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Stream::Tls(io) => Pin::new(io).poll_shutdown(cx),
            Stream::Unix(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

/// Bytes on their way out. Empty, it owns no memory: buffers are borrowed from the worker while there is something in them.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    written: usize,
    total: u64,
}

impl Outbox {
    pub fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the stream has taken, in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Where the next bytes go; written out with everything before them at the next [`Outbox::poll_flush`].
    pub fn buffer(&mut self, worker: &Worker) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = worker.take_buffer();
        }
        &mut self.bytes
    }

    /// Writes until empty or the socket is full. `Ready(Ok)` means all is with the kernel.
    pub fn poll_flush(
        &mut self,
        worker: &Worker,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let had = !self.is_empty();
        while let Some(rest) = self
            .bytes
            .get(self.written..)
            .filter(|rest| !rest.is_empty())
        {
            match Pin::new(&mut *stream).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.written += n;
                    self.total += n as u64;
                }
                Poll::Ready(Err(error)) => {
                    self.clear(worker);
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    self.compact();
                    return Poll::Pending;
                }
            }
        }
        self.clear(worker);
        if had || stream.is_tls() {
            return Pin::new(stream).poll_flush(cx);
        }
        Poll::Ready(Ok(()))
    }

    /// Keeps what is left at the front, so that a slow reader does not make the buffer grow for ever.
    fn compact(&mut self) {
        if self.written > 64 * 1024 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }

    pub fn clear(&mut self, worker: &Worker) {
        self.written = 0;
        if self.bytes.capacity() > 0 {
            worker.give_buffer(std::mem::take(&mut self.bytes));
        }
    }
}
