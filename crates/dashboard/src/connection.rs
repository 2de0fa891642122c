//! A socket → the same, which fails when nothing moves on it: idle and stalled peers give their place up.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A stream's reader gets an event every other second: who has room for none in this time does not read.
pub(crate) const STILL: Duration = Duration::from_secs(30);

/// Fails with `TimedOut` when neither direction moves a byte for `still`.
pub(crate) struct Moving<I> {
    io: I,
    still: Duration,
    deadline: Pin<Box<Sleep>>,
}

impl<I> Moving<I> {
    pub(crate) fn new(io: I, still: Duration) -> Moving<I> {
        Moving {
            io,
            still,
            deadline: Box::pin(sleep(still)),
        }
    }

    /// `moved`: how many bytes a ready operation moved. A pending one waits for the deadline as well.
    fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<T>>,
        moved: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match result {
            Poll::Ready(Ok(done)) => {
                if moved(&done) > 0 {
                    self.deadline.as_mut().reset(Instant::now() + self.still);
                }
                Poll::Ready(Ok(done))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                ready!(self.deadline.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Moving<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.io).poll_read(context, buffer);
        let moved = buffer.filled().len() - before;
        self.judge(context, result, |()| moved)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Moving<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(context, bytes);
        self.judge(context, result, |count| *count)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.judge(context, result, |count| *count)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_reader_that_stalls_is_dropped() {
        let (ours, _theirs) = duplex(64);
        let mut moving = Moving::new(ours, SHORT);
        let error = moving.write_all(&[0; 65]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_peer_that_says_nothing_is_dropped() {
        let (ours, _theirs) = duplex(64);
        let error = Moving::new(ours, SHORT).read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_slow_one_that_moves_is_kept() {
        let still = Duration::from_secs(1);
        let (ours, mut theirs) = duplex(1);
        let writing = tokio::spawn(async move {
            let mut moving = Moving::new(ours, still);
            moving.write_all(&[7; 15]).await
        });
        for _ in 0..15 {
            sleep(still / 10).await;
            assert_eq!(theirs.read_u8().await.unwrap(), 7);
        }
        writing.await.unwrap().unwrap();
    }
}
