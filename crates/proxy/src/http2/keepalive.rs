//! Pings on a silent connection → whether its peer is still there.

use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use ripstop_model::snapshot::cluster::Http2Keepalive;
use tokio::time::Instant;

use crate::worker::Timer;

/// Sends a ping every interval; a peer that does not answer within the timeout is gone.
pub(super) struct Keepalive {
    ping: PingPong,
    interval: Duration,
    timeout: Duration,
    timer: Timer,
    /// A ping is on its way.
    asked: bool,
}

impl Keepalive {
    pub(super) fn new(
        config: Option<Http2Keepalive>,
        ping: Option<PingPong>,
        now: Instant,
    ) -> Option<Keepalive> {
        let (config, ping) = config.zip(ping)?;
        let mut timer = Timer::default();
        timer.set(Some(now + config.interval));
        Some(Keepalive {
            ping,
            interval: config.interval,
            timeout: config.timeout,
            timer,
            asked: false,
        })
    }

    /// Ready once the peer must be taken for gone.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.asked {
                match self.ping.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => {
                        self.asked = false;
                        self.timer.set(Some(Instant::now() + self.interval));
                        continue;
                    }
                    // The connection itself knows better why it ends.
                    Poll::Ready(Err(_)) => return Poll::Pending,
                    Poll::Pending => {}
                }
                return self.timer.poll_expired(cx);
            }
            std::task::ready!(self.timer.poll_expired(cx));
            if self.ping.send_ping(Ping::opaque()).is_err() {
                return Poll::Pending;
            }
            self.asked = true;
            self.timer.set(Some(Instant::now() + self.timeout));
        }
    }
}
