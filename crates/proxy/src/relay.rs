//! Both bodies of an exchange at once: what the client still sends goes up, what the upstream sends comes down.

use std::future::poll_fn;
use std::task::{Context, Poll};

use ripstop_model::reason::Reason;
use tokio::time::Instant;

use crate::attempt::{Plan, earliest};
use crate::error::Error;
use crate::exchange::{Downstream, Part, Upstream};
use crate::health;
use crate::http::Request;
use crate::http1::{Accepted, Framing};
use crate::worker::Timer;

/// Bytes queued toward a peer before nothing more is read for it.
pub const BACKLOG: usize = 256 * 1024;

/// Runs until the response is complete and written; of a tunnel, until both directions are.
pub async fn run<D: Downstream, U: Upstream>(
    request: &mut Request<'_>,
    plan: &mut Plan<'_>,
    down: &mut D,
    up: &mut U,
    timer: &mut Timer,
    accepted: Accepted,
) -> Result<(), Error> {
    let tunnel = accepted.tunnel;
    let mut flow = Flow {
        tunnel,
        asked: plan.is_request_complete() && !tunnel,
        answered: accepted.framing == Framing::None && !tunnel,
    };
    let mut last = plan.started();
    let mut judged = request.view.version;
    poll_fn(|cx| {
        // Until nothing moves: then each side has a wake-up registered for whatever it waits for.
        loop {
            let rose = flow.rise(request, plan, down, up, cx)?;
            let fell = flow.fall(request, plan, down, up, cx)?;
            let before = flow.held(down, up);
            if flow.is_over(down, up, cx)? {
                return Poll::Ready(Ok(()));
            }
            // Nothing is read for a side that is full: if writing made room, nobody else would say so.
            let after = flow.held(down, up);
            let room = (before.0 && !after.0) || (before.1 && !after.1);
            if !rose && !fell && !room {
                break;
            }
            last = Instant::now();
        }
        // A client that leaves in the middle ends the exchange at once.
        if flow.asked
            && !tunnel
            && let Poll::Ready(Err(error)) = down.poll_receive(cx, &mut |_| {})
        {
            return Poll::Ready(Err(error));
        }
        let version = request.worker().shared.live.version();
        if version != judged {
            judged = version;
            if !request.is_still_allowed(down.request()) {
                return Poll::Ready(Err(Error::terminal(Reason::AuthzDenied)));
            }
        }
        let idle = plan.idle.map(|idle| last + idle);
        let deadline = plan.deadline().filter(|_| !tunnel);
        timer.set(earliest([deadline, plan.stream_deadline, idle]));
        std::task::ready!(timer.poll_expired(cx));
        let now = Instant::now();
        let passed = |end: Option<Instant>| end.is_some_and(|end| end <= now);
        Poll::Ready(Err(Error::terminal(if passed(plan.stream_deadline) {
            Reason::MaxStreamDuration
        } else if passed(deadline) {
            Reason::UpstreamTimeout
        } else if flow.asked || tunnel {
            Reason::StreamIdle
        } else {
            Reason::RequestIdle
        })))
    })
    .await
}

/// How far both bodies have come.
struct Flow {
    tunnel: bool,
    /// All that the client sends, or that the upstream still wants, has been taken over.
    asked: bool,
    /// All that the upstream sends has been taken over.
    answered: bool,
}

impl Flow {
    /// Whether the request's body, and whether the response's, waits because the side it goes to is full.
    fn held<D: Downstream, U: Upstream>(&self, down: &D, up: &U) -> (bool, bool) {
        (
            !self.asked && up.backlog() >= BACKLOG,
            !self.answered && down.backlog() >= BACKLOG,
        )
    }

    /// Moves what the client sends; says whether anything moved.
    fn rise<D: Downstream, U: Upstream>(
        &mut self,
        request: &mut Request<'_>,
        plan: &mut Plan<'_>,
        down: &mut D,
        up: &mut U,
        cx: &mut Context<'_>,
    ) -> Result<bool, Error> {
        let mut moved = false;
        while !self.asked && up.backlog() < BACKLOG {
            let mut pushed = Ok(());
            let received = down.poll_receive(cx, &mut |part| {
                request.asked(part);
                self.asked |= part.is_end();
                plan.copy(part);
                if pushed.is_ok() {
                    pushed = up.push(part);
                }
            });
            match received {
                Poll::Pending => break,
                Poll::Ready(received) => received?,
            }
            pushed?;
            moved = true;
            if self.asked && !self.tunnel {
                request.moments.received = Some(Instant::now());
                plan.request_ended();
            }
        }
        Ok(moved)
    }

    /// Moves what the upstream sends; says whether anything moved.
    fn fall<D: Downstream, U: Upstream>(
        &mut self,
        request: &mut Request<'_>,
        plan: &mut Plan<'_>,
        down: &mut D,
        up: &mut U,
        cx: &mut Context<'_>,
    ) -> Result<bool, Error> {
        let mut moved = false;
        while !self.answered && down.backlog() < BACKLOG {
            let mut pushed = Ok(());
            up.limit(down.room());
            let received = up.poll_receive(cx, &mut |part| {
                request.answered(part);
                if let Part::Trailers(trailers) = part {
                    request.grpc_status = health::grpc_status(trailers);
                    plan.trailed(trailers);
                }
                self.answered |= part.is_end();
                if pushed.is_ok() {
                    pushed = down.push(part);
                }
            });
            match received {
                Poll::Pending => break,
                Poll::Ready(received) => received?,
            }
            pushed?;
            moved = true;
        }
        Ok(moved)
    }

    /// Writes what is queued; says whether the exchange is over.
    fn is_over<D: Downstream, U: Upstream>(
        &mut self,
        down: &mut D,
        up: &mut U,
        cx: &mut Context<'_>,
    ) -> Result<bool, Error> {
        let risen = match up.poll_flush(cx) {
            Poll::Pending => false,
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(error)) if self.tunnel && !self.answered => return Err(error),
            // It has answered and reads no more: what it still has to say counts, what it is sent does not.
            Poll::Ready(Err(_)) => {
                self.asked = true;
                true
            }
        };
        let fallen = match down.poll_flush(cx) {
            Poll::Pending => false,
            Poll::Ready(flushed) => {
                flushed?;
                true
            }
        };
        Ok(self.answered && fallen && (!self.tunnel || (self.asked && risen)))
    }
}
