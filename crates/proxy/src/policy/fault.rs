//! Injected faults: a share of requests waits, a share is answered with an error (Envoy's fault filter).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ripstop_model::reason::{Flag, Reason};
use ripstop_model::snapshot::Fraction;
use ripstop_model::snapshot::fault::{Abort, Delay, Fault};

use crate::http::Request;
use crate::message::RequestHead;
use crate::reply::Reply;
use crate::retry::milliseconds;

/// Faults being injected by this process, which `max_active_faults` bounds.
static ACTIVE: AtomicU32 = AtomicU32::new(0);

struct Active;

impl Active {
    fn enter(most: Option<u32>) -> Option<Active> {
        ACTIVE
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                most.is_none_or(|most| now < most).then_some(now + 1)
            })
            .ok()
            .map(|_| Active)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        ACTIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

pub async fn inject(
    fault: &Arc<Fault>,
    request: &mut Request<'_>,
    head: &RequestHead,
) -> Result<(), Box<Reply>> {
    let instead = request.fault_override();
    let fault = instead.as_ref().unwrap_or(fault);
    let meant = fault.headers.iter().all(|header| header.matches(head))
        && fault
            .upstream_cluster
            .as_deref()
            .is_none_or(|only| request.cluster_name().is_some_and(|name| &**name == only));
    if !meant {
        return Ok(());
    }
    if let Some((share, delay)) = &fault.delay
        && asked(
            *share,
            matches!(delay, Delay::Header),
            "x-envoy-fault-delay-request-percentage",
            head,
        )
        .holds(request.worker().random())
        && let Some(pause) = duration(*delay, head)
        && let Some(_active) = Active::enter(fault.max_active)
    {
        request.flag(Flag::DelayInjected);
        tokio::time::sleep(pause).await;
    }
    if let Some((share, abort)) = &fault.abort
        && asked(
            *share,
            matches!(abort, Abort::Header),
            "x-envoy-fault-abort-request-percentage",
            head,
        )
        .holds(request.worker().random())
        && let Some(_active) = Active::enter(fault.max_active)
    {
        return answer(*abort, head, request);
    }
    Ok(())
}

/// The share that a caller asks for by header, where it may: never more than the configured one.
fn asked(configured: Fraction, by_header: bool, name: &str, head: &RequestHead) -> Fraction {
    use ripstop_model::request::RequestView;
    let asked = head.header(name).filter(|_| by_header);
    match asked.and_then(|percent| percent.trim().parse::<u32>().ok()) {
        Some(percent) => configured.min(Fraction::millionths(percent.min(100) * 10_000)),
        None => configured,
    }
}

fn duration(delay: Delay, head: &RequestHead) -> Option<Duration> {
    match delay {
        Delay::Fixed(pause) => Some(pause),
        Delay::Header => milliseconds(head, "x-envoy-fault-delay-request"),
    }
}

fn answer(abort: Abort, head: &RequestHead, request: &Request<'_>) -> Result<(), Box<Reply>> {
    use ripstop_model::request::RequestView;
    let number = |name: &str| {
        head.header(name)
            .and_then(|value| value.trim().parse().ok())
    };
    let (status, grpc) = match abort {
        Abort::Http(status) => (status, None),
        Abort::Grpc(code) => (200, Some(code)),
        Abort::Header => match (
            number("x-envoy-fault-abort-request"),
            number("x-envoy-fault-abort-grpc-request"),
        ) {
            (Some(status), _) if (200..600).contains(&status) => (status as u16, None),
            (_, Some(code)) => (200, Some(code)),
            _ => return Ok(()),
        },
    };
    let mut reply = Reply::new(Reason::FaultAbort).decided_by(request.resource());
    reply.status = status;
    reply.grpc = grpc;
    Err(reply)
}
