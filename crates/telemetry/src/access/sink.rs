//! Log lines of all workers → a file or a standard stream, written by a thread of its own so that a slow disk or a full
//! pipe delays no request. What does not fit its queue is dropped and counted.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use crate::metrics::stats::Counter;

/// Blocks of lines that may wait to be written.
const QUEUE: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    Stdout,
    Stderr,
    File(PathBuf),
}

impl Target {
    /// A path as Envoy's file logger takes it: `/dev/stdout` and `/dev/stderr` mean the process's own streams.
    pub fn of_path(path: &Path) -> Target {
        match path.to_str() {
            Some("/dev/stdout") => Target::Stdout,
            Some("/dev/stderr") => Target::Stderr,
            _ => Target::File(path.to_owned()),
        }
    }
}

enum Order {
    Lines(Vec<u8>),
    /// Everything before it is written when the answer comes.
    Flush(SyncSender<()>),
}

/// Where blocks of lines go. Cloning shares the thread; it ends with the last clone.
#[derive(Debug, Clone)]
pub struct Sink {
    queue: SyncSender<Order>,
    dropped: Counter,
}

impl Sink {
    /// Opens the target (a file is created and appended to) and starts its thread.
    pub fn open(target: &Target, dropped: Counter) -> io::Result<Sink> {
        let out: Box<dyn Write + Send> = match target {
            Target::Stdout => Box::new(io::stdout()),
            Target::Stderr => Box::new(io::stderr()),
            Target::File(path) => {
                Box::new(OpenOptions::new().create(true).append(true).open(path)?)
            }
        };
        Sink::to(out, dropped)
    }

    /// Writes to anything.
    pub fn to(out: Box<dyn Write + Send>, dropped: Counter) -> io::Result<Sink> {
        let (queue, orders) = sync_channel(QUEUE);
        let failed = dropped.clone();
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_all(&orders, out, &failed))?;
        Ok(Sink { queue, dropped })
    }

    /// Hands a block of whole lines over. Never waits.
    pub fn send(&self, lines: Vec<u8>) {
        if let Err(
            TrySendError::Full(Order::Lines(lines))
            | TrySendError::Disconnected(Order::Lines(lines)),
        ) = self.queue.try_send(Order::Lines(lines))
        {
            self.dropped
                .add(lines.iter().filter(|b| **b == b'\n').count() as u64);
        }
    }

    /// Waits until everything sent before is written, at most `limit`. For shutdown; blocks the thread.
    pub fn flush(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let (done, wait) = sync_channel(1);
        let mut order = Order::Flush(done);
        loop {
            match self.queue.try_send(order) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if Instant::now() < deadline => order = back,
                Err(_) => return false,
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        wait.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .is_ok()
    }
}

fn write_all(orders: &Receiver<Order>, mut out: Box<dyn Write + Send>, failed: &Counter) {
    while let Ok(order) = orders.recv() {
        match order {
            Order::Lines(lines) => {
                if out.write_all(&lines).and_then(|()| out.flush()).is_err() {
                    failed.add(lines.iter().filter(|b| **b == b'\n').count() as u64);
                }
            }
            Order::Flush(done) => {
                // The asker may have stopped waiting.
                let _ = done.send(());
            }
        }
    }
}
