//! A source → the newest frame, for everybody who watches; nobody watches, nobody looks.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use crate::frame::Frame;
use crate::source::Source;

/// Between two looks.
pub(crate) const INTERVAL: Duration = Duration::from_secs(2);
/// An older frame is not shown: a newer one is waited for, this long.
const FRESH: Duration = Duration::from_secs(6);
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Feed {
    frames: watch::Sender<Arc<Frame>>,
    wanted: Notify,
    interval: Duration,
}

impl Feed {
    pub(crate) fn new(interval: Duration) -> Feed {
        Feed {
            frames: watch::Sender::new(Arc::new(Frame::empty())),
            wanted: Notify::new(),
            interval,
        }
    }

    /// Watches; the look that this asks for comes at once where nobody watched.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Frame>> {
        let frames = self.frames.subscribe();
        self.wanted.notify_one();
        frames
    }

    /// The newest frame; `None` when the source gives none in time.
    pub(crate) async fn frame(&self) -> Option<Arc<Frame>> {
        fresh(&mut self.watch()).await
    }

    /// Looks for as long as somebody watches, and waits for the next who does.
    pub(crate) async fn run(&self, mut source: impl Source) {
        loop {
            if self.frames.receiver_count() == 0 {
                self.wanted.notified().await;
            }
            let look = source.look().await;
            let at = SystemTime::now().duration_since(UNIX_EPOCH);
            let at = at.unwrap_or_default().as_millis() as u64;
            self.frames
                .send_modify(|frame| *frame = Arc::new(frame.next(&look, Instant::now(), at)));
            sleep(self.interval).await;
        }
    }
}

/// The newest frame of somebody who watches, waited for when it is old.
pub(crate) async fn fresh(frames: &mut watch::Receiver<Arc<Frame>>) -> Option<Arc<Frame>> {
    let is_fresh = |frame: &Arc<Frame>| frame.taken.is_some_and(|taken| taken.elapsed() < FRESH);
    match timeout(PATIENCE, frames.wait_for(is_fresh)).await {
        Ok(Ok(frame)) => Some(Arc::clone(&frame)),
        Ok(Err(_)) | Err(_) => None,
    }
}
