//! Both bodies of an exchange at once: what the client still sends goes up, what the upstream sends comes down.

use std::future::poll_fn;
use std::task::Poll;

use ripstop_model::reason::Reason;
use tokio::time::Instant;

use crate::attempt::{Plan, earliest};
use crate::error::Error;
use crate::exchange::{Downstream, Part, Upstream};
use crate::headers::Known;
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
    let mut answered = accepted.framing == Framing::None && !tunnel;
    let mut asked = plan.is_request_complete() && !tunnel;
    let mut last = plan.started();
    let mut judged = request.view.version;
    poll_fn(|cx| {
        // Until nothing moves: then each side has a wake-up registered for whatever it waits for.
        loop {
            let mut moved = false;
            while !asked && up.backlog() < BACKLOG {
                let mut pushed = Ok(());
                let received = down.poll_receive(cx, &mut |part| {
                    request.received += part.len() as u64;
                    asked |= part.is_end();
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
            }
            while !answered && down.backlog() < BACKLOG {
                let mut pushed = Ok(());
                let received = up.poll_receive(cx, &mut |part| {
                    request.sent += part.len() as u64;
                    if let Part::Trailers(trailers) = part {
                        let status = trailers.text(Known::GrpcStatus);
                        request.grpc_status = status.and_then(|status| status.parse().ok());
                    }
                    answered |= part.is_end();
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
            let up_flushed = match up.poll_flush(cx) {
                // An upstream that has answered in full owes nothing any more.
                Poll::Ready(Err(error)) if !answered => return Poll::Ready(Err(error)),
                flushed => flushed.is_ready(),
            };
            let down_flushed = match down.poll_flush(cx) {
                Poll::Ready(flushed) => {
                    flushed?;
                    true
                }
                Poll::Pending => false,
            };
            if answered && down_flushed && (!tunnel || (asked && up_flushed)) {
                return Poll::Ready(Ok(()));
            }
            if !moved {
                break;
            }
            last = Instant::now();
        }
        // A client that leaves in the middle ends the exchange at once.
        if asked && !tunnel {
            match down.poll_receive(cx, &mut |_| {}) {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        let version = request.worker().shared.live.version();
        if version != judged {
            judged = version;
            if !request.is_still_allowed(down.request()) {
                return Poll::Ready(Err(Error::terminal(Reason::AuthzDenied)));
            }
        }
        let idle = plan.idle.map(|idle| last + idle);
        let deadline = match tunnel {
            true => None,
            false => plan.deadline(),
        };
        timer.set(earliest([deadline, plan.stream_deadline, idle]));
        std::task::ready!(timer.poll_expired(cx));
        Poll::Ready(Err(Error::terminal(
            match plan
                .stream_deadline
                .is_some_and(|end| end <= Instant::now())
            {
                true => Reason::MaxStreamDuration,
                false if deadline.is_some_and(|end| end <= Instant::now()) => {
                    Reason::UpstreamTimeout
                }
                false => Reason::StreamIdle,
            },
        )))
    })
    .await
}
