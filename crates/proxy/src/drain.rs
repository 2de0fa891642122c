//! The phases of a process's end: serving → draining → stopped, told to every worker and asked by every request.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    Serving,
    /// Not ready any more; responses say `Connection: close`, idle connections end, stragglers are still served.
    Draining,
    /// As draining, and no new connection is taken.
    Closing,
    Stopped,
}

impl Phase {
    pub fn is_stopped(self) -> bool {
        self == Phase::Stopped
    }

    pub fn is_draining(self) -> bool {
        self >= Phase::Draining
    }

    pub fn refuses_connections(self) -> bool {
        self >= Phase::Closing
    }
}

/// The phase, for those who wait for it and for those who ask on every request.
#[derive(Debug)]
pub struct Drain {
    told: watch::Sender<Phase>,
    now: AtomicU8,
}

impl Default for Drain {
    fn default() -> Drain {
        Drain {
            told: watch::Sender::new(Phase::Serving),
            now: AtomicU8::new(0),
        }
    }
}

impl Drain {
    pub fn phase(&self) -> Phase {
        match self.now.load(Ordering::Relaxed) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            2 => Phase::Closing,
            _ => Phase::Stopped,
        }
    }

    /// Phases only go forward; a step back is ignored.
    pub fn advance(&self, phase: Phase) {
        self.told.send_if_modified(|now| {
            let forward = *now < phase;
            if forward {
                *now = phase;
                self.now.store(phase as u8, Ordering::Relaxed);
            }
            forward
        });
    }

    pub fn subscribe(&self) -> watch::Receiver<Phase> {
        self.told.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::{Drain, Phase};

    #[test]
    fn phases_only_go_forward() {
        let drain = Drain::default();
        drain.advance(Phase::Closing);
        drain.advance(Phase::Draining);
        assert_eq!(drain.phase(), Phase::Closing);
        assert!(drain.phase().refuses_connections() && !drain.phase().is_stopped());
    }
}
