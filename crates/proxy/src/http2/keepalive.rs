//! Pings on a silent connection → whether its peer is still there.

use std::task::{Context, Poll};
use std::time::Duration;

use ripstop_model::snapshot::cluster::Http2Keepalive;
use tokio::time::Instant;

use super::link::Link;
use crate::worker::Timer;

/// Sends a ping every interval; a peer that does not answer within the timeout is gone.
pub(super) struct Keepalive {
    interval: Duration,
    timeout: Duration,
    timer: Timer,
    /// A ping is on its way.
    asked: bool,
}

impl Keepalive {
    pub(super) fn new(config: Http2Keepalive, now: Instant) -> Keepalive {
        let mut timer = Timer::default();
        timer.set(Some(now + config.interval));
        Keepalive {
            interval: config.interval,
            timeout: config.timeout,
            timer,
            asked: false,
        }
    }

    /// Ready once the peer must be taken for gone.
    pub(super) fn poll_gone(&mut self, link: &Link, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.asked {
                if !link.is_ponged() {
                    return self.timer.poll_expired(cx);
                }
                self.asked = false;
                self.timer.set(Some(Instant::now() + self.interval));
            }
            std::task::ready!(self.timer.poll_expired(cx));
            link.ping();
            self.asked = true;
            self.timer.set(Some(Instant::now() + self.timeout));
        }
    }
}
