//! One attempt: an endpoint, a connection to it, the request up, the response's head down. And what comes between two.

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ripstop_model::reason::{Flag, Reason};
use ripstop_model::request::RequestView;
use ripstop_model::snapshot::cluster::Discovery;
use ripstop_model::snapshot::listener::Direction;
use ripstop_model::snapshot::route::{Forward, HostRewrite};
use ripstop_model::subset::Criteria;
use ripstop_model::{defaults, hash};
use tokio::time::Instant;

use crate::balance::{self, Member, Picked, Priorities, Wish};
use crate::cause::Serving;
use crate::cluster::{Cluster, FIRST_ANSWER, Permit};
use crate::error::{Error, Retry};
use crate::exchange::{Body, Downstream, Part, Upstream};
use crate::headers::{Headers, Known};
use crate::http::Request;
use crate::http1::{Accepted, Framing, Upgrade};
use crate::limit::Limit;
use crate::message::{RequestHead, ResponseHead, Version};
use crate::mirror::{self, Mirrors};
use crate::peer;
use crate::pool;
use crate::relay::BACKLOG;
use crate::reply::Reply;
use crate::retry::{Attempts, Decision};
use crate::route::{self, Limits, Told};
use crate::upstream::Leg;
use crate::worker::Timer;

mod verdict;

/// Bytes of a request body that are kept so that it can be sent again, where nobody asked for retries.
const REPLAY: usize = 64 * 1024;
/// Interim responses to one attempt: one every few seconds of a long piece of work, and not a flood.
const INTERIM: u32 = 100;

/// For so long a gRPC response waits for what comes behind its head, where its status may be worth another attempt: trailers
/// without a message come with the head or right after it, and a stream whose server speaks late is held no longer.
const TRAILERS: Duration = Duration::from_millis(20);

/// What happened to an attempt.
pub enum Outcome {
    Response(Leg, Accepted),
    /// Try again after this pause.
    Again(Duration),
    Failed(Error),
}

/// How a request is tried: its limits, its attempts so far, what of its body can be sent again.
pub struct Plan<'v> {
    pub forward: &'v Forward,
    pub cluster: &'v Arc<Cluster>,
    pub attempts: Attempts<'v>,
    limits: Limits,
    body: Replay,
    tried: Vec<Arc<Member>>,
    hash: Option<u64>,
    /// What the member must have.
    criteria: Option<&'v Criteria>,
    /// Named by header (`x-envoy-original-dst-host`), for clusters that listen to it.
    destination: Option<SocketAddr>,
    /// The member of the running attempt.
    picked: Option<Picked>,
    /// How it went.
    learnt: Option<balance::Outcome>,
    /// It is a gRPC call whose status is still to come.
    open: bool,
    /// Its trailers, where no body came before them.
    trailers: Option<Headers>,
    sent: Instant,
    /// The whole exchange ends here, whatever moves.
    pub stream_deadline: Option<Instant>,
    deadline: Option<Instant>,
    /// The request's last byte must have come.
    arrival_deadline: Option<Instant>,
    pub idle: Option<Duration>,
    alternative_on_timeout: bool,
    exhausted: bool,
    /// Counts the running attempt among the cluster's retries.
    retrying: Option<Permit<'v>>,
    /// The application serves the request.
    serving: Option<Serving>,
    original_host: Option<String>,
    /// Priorities that attempts went to, and those that are shunned for it.
    visited: Priorities,
    shunned: Priorities,
    pub(crate) mirrors: Mirrors,
}

/// The part of a request body that has been sent and can be sent again.
#[derive(Debug, Default)]
struct Replay {
    bytes: Vec<u8>,
    trailers: Option<Headers>,
    /// The whole body has been read from the client.
    complete: bool,
    /// More came than is kept.
    overflown: bool,
    /// Bytes that are kept.
    most: usize,
}

impl Replay {
    fn take(&mut self, part: Part<'_>) {
        match part {
            Part::Data(data) if self.bytes.len() + data.len() > self.most => {
                self.overflown = true;
                self.bytes = Vec::new();
            }
            Part::Data(data) => self.bytes.extend_from_slice(data),
            Part::Trailers(trailers) => {
                self.trailers = Some(trailers.clone());
                self.complete = true;
            }
            Part::End => self.complete = true,
        }
    }
}

impl<'v> Plan<'v> {
    /// Why the sidecar of the member that was asked answered in its place.
    fn told(&self, request: &Request<'_>, response: &ResponseHead) -> Option<Reason> {
        let member = &self.picked.as_ref()?.member;
        peer::failure(request.worker(), self.cluster, member, response)
    }

    pub fn new(
        request: &mut Request<'v>,
        forward: &'v Forward,
        cluster: &'v Arc<Cluster>,
        head: &RequestHead,
    ) -> Plan<'v> {
        let honour = request.honours_headers();
        let policy = forward.retry.as_deref().or(request
            .selected
            .and_then(|found| found.host.retry.as_deref()));
        let timeouts = &request.config().timeouts;
        let limits = route::limits(
            forward,
            timeouts.max_stream_duration,
            head,
            honour,
            request.proxy.router.respect_expected_rq_timeout,
        );
        let mut attempts = Attempts::new(policy, head, honour);
        // A try that may take as long as the whole has no limit of its own.
        if let (Some(each), Some(all)) = (attempts.per_try_timeout, limits.total)
            && each >= all
        {
            attempts.per_try_timeout = None;
        }
        let start = request.moments.start;
        let destination = match &cluster.config.discovery {
            Discovery::OriginalDst {
                use_http_header: true,
                ..
            } => head
                .header("x-envoy-original-dst-host")
                .and_then(|address| address.parse().ok()),
            _ => None,
        };
        let hash = match forward.hash.is_empty() {
            true => None,
            false => {
                let source = Some(request.sender.remote);
                let key = hash::key(&forward.hash, head, source, request.worker().random());
                request.cookie = key.cookie;
                key.hash
            }
        };
        let kept = usize::try_from(request.connection.buffer_limit).unwrap_or(usize::MAX);
        Plan {
            forward,
            cluster,
            body: Replay {
                most: match attempts.may_retry() {
                    true if attempts.is_asked_for() => kept,
                    true => kept.min(REPLAY),
                    false => 0,
                },
                ..Replay::default()
            },
            attempts,
            limits,
            tried: Vec::new(),
            hash,
            criteria: request
                .share
                .map_or(&forward.criteria, |share| &share.criteria)
                .as_deref(),
            destination,
            picked: None,
            learnt: None,
            open: false,
            trailers: None,
            sent: start,
            stream_deadline: limits.stream.map(|limit| start + limit),
            deadline: None,
            arrival_deadline: timeouts.request.map(|limit| start + limit),
            idle: forward.idle_timeout.unwrap_or(timeouts.stream_idle),
            alternative_on_timeout: honour
                && head
                    .headers
                    .first_named("x-envoy-upstream-rq-timeout-alt-response")
                    .is_some(),
            exhausted: false,
            retrying: None,
            serving: None,
            original_host: None,
            visited: Priorities::default(),
            shunned: Priorities::default(),
            mirrors: Mirrors::default(),
        }
    }

    /// When the first byte of the last attempt went out.
    pub fn started(&self) -> Instant {
        self.sent
    }

    /// The limit on the response, once the request is complete.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub fn is_request_complete(&self) -> bool {
        self.body.complete
    }

    /// Notes a piece of the request body; the response's limit begins with its end (Envoy's route timeout).
    pub fn take(&mut self, part: Part<'_>) {
        let end = part.is_end();
        self.copy(part);
        self.body.take(part);
        if end {
            self.request_ended();
        }
    }

    /// The request has arrived in full: the limit on the response begins (Envoy's route timeout).
    pub fn request_ended(&mut self) {
        if self.deadline.is_none() {
            self.deadline = self.limits.total.map(|limit| Instant::now() + limit);
        }
    }

    /// The member for the next attempt.
    fn pick(&mut self, request: &Request<'_>) -> Result<Picked, Error> {
        let consistent = self.hash.is_some();
        let avoid = self.attempts.avoids_previous_hosts() && !consistent;
        let tried = if avoid { self.tried.as_slice() } else { &[] };
        let destination = self.destination.or(request.connection.original());
        let wish = Wish {
            hash: self.hash,
            tried,
            shunned: self.shunned,
            picks: self.attempts.picks(),
            criteria: self.criteria,
        };
        let picked = request.worker().choose(self.cluster, wish, destination);
        picked.ok_or_else(|| Error::terminal(self.cluster.nobody()))
    }

    /// Envoy's `previous_priorities`: after every so many attempts, those that follow go to priorities not tried so far.
    fn shun(&mut self, priority: usize) {
        let Some(frequency) = self.attempts.previous_priorities() else {
            return;
        };
        self.visited.insert(priority);
        if self.attempts.made().is_multiple_of(frequency.max(1)) {
            self.shunned = self.visited;
        }
    }

    /// The attempt is over: the balancer learns how it went. `again`: the next one goes elsewhere.
    pub fn release(&mut self, request: &Request<'_>, again: bool) {
        self.serving = None;
        self.conclude(request, None);
        if let Some(picked) = self.picked.take() {
            if again {
                self.shun(picked.priority);
            }
            if again && self.attempts.avoids_previous_hosts() {
                self.tried.push(picked.member.clone());
            }
            if let Some(learnt) = self.learnt.take() {
                request.worker().done(self.cluster, &picked, &learnt);
            }
        }
    }

    /// The answer when all attempts failed.
    pub fn reply(&self, request: &mut Request<'_>, error: &Error) -> Box<Reply> {
        if self.exhausted {
            request.flag(Flag::UpstreamRetryLimitExceeded);
        }
        let mut reply = Reply::of_error(error).decided_by(request.resource());
        if self.attempts.made() > 1 {
            reply.body = retried(reply.body);
        }
        reply = reply.for_limit(self.limit(request, error));
        let timeout = matches!(
            error.kind,
            Reason::UpstreamTimeout | Reason::PerTryTimeout | Reason::PerTryIdleTimeout
        );
        if timeout && self.alternative_on_timeout {
            reply.status = 204;
            reply.body = Cow::Borrowed(b"");
        }
        reply
    }

    /// The limit that ended it.
    fn limit(&self, request: &Request<'_>, error: &Error) -> Option<Limit> {
        let timeouts = &request.config().timeouts;
        let breaker = self.cluster.breaker(self.forward.priority).limits();
        let time = |knob, limit: Option<Duration>| Some(Limit::time(knob, limit?));
        match error.kind {
            Reason::UpstreamHeadTooLarge => Limit::of_response(error),
            Reason::UpstreamTimeout => time("timeout", self.limits.total),
            Reason::PerTryTimeout => time("per_try_timeout", self.attempts.per_try_timeout),
            Reason::PerTryIdleTimeout => {
                time("per_try_idle_timeout", self.attempts.per_try_idle_timeout())
            }
            Reason::StreamIdle | Reason::RequestIdle => match self.forward.idle_timeout {
                Some(limit) => time("idle_timeout", limit),
                None => time("stream_idle_timeout", timeouts.stream_idle),
            },
            Reason::MaxStreamDuration => time("max_stream_duration", self.limits.stream),
            Reason::RequestTimeout => time("request_timeout", timeouts.request),
            Reason::ConnectTimeout => {
                time("connect_timeout", Some(self.cluster.config.connect_timeout))
            }
            Reason::CircuitOpenConnections => {
                Some(Limit::count("max_connections", breaker.max_connections))
            }
            Reason::CircuitOpenPending => {
                Some(Limit::count("max_pending_requests", breaker.max_pending))
            }
            Reason::CircuitOpenRequests => Some(Limit::count("max_requests", breaker.max_requests)),
            _ => None,
        }
    }
}

/// Envoy says that the reason is that of the last attempt.
fn retried(text: Cow<'static, [u8]>) -> Cow<'static, [u8]> {
    let again = std::str::from_utf8(&text)
        .ok()
        .filter(|text| text.contains("reset reason:"))
        .map(|text| text.replace("reset reason:", "retried and the latest reset reason:"));
    again.map_or(text, |again| again.into_bytes().into())
}

/// Makes one attempt.
pub async fn run<D: Downstream>(
    request: &mut Request<'_>,
    plan: &mut Plan<'_>,
    down: &mut D,
    timer: &mut Timer,
    response: &mut ResponseHead,
) -> Outcome {
    plan.attempts.begin();
    request.attempts = plan.attempts.made();
    let tried = one(request, plan, down, timer, response).await;
    plan.account(request, tried.as_ref().err(), response);
    let replayable = !plan.body.overflown;
    let draw = request.worker().random();
    let decision = match &tried {
        Ok((_, accepted)) if accepted.tunnel => Decision::Accept,
        Ok(_) => {
            let told = plan.told(request, response);
            let trailers = plan.trailers.as_ref();
            plan.attempts
                .on_response(response, trailers, told, replayable, draw)
        }
        Err(error) => plan.attempts.on_error(error, replayable, draw),
    };
    match (decision, tried) {
        (Decision::Retry { after, free }, tried) => {
            let breaker = plan.cluster.breaker(plan.forward.priority);
            // Of what nobody asked for, at most so many (R10.2).
            let implicit = plan.attempts.is_implicit();
            let budget = defaults::RIPSTOP.implicit_budget.filter(|_| implicit);
            plan.retrying = None;
            if !free {
                plan.retrying = breaker.retry(budget);
                if plan.retrying.is_none() {
                    plan.cluster.stats.rq_retry_overflow.inc();
                    request.flag(Flag::UpstreamOverflow);
                    return settle(tried);
                }
            }
            drop(tried);
            plan.release(request, true);
            plan.cluster.stats.rq_retry.inc();
            Outcome::Again(after)
        }
        (Decision::Exhausted, tried) => {
            plan.exhausted = true;
            plan.cluster.stats.rq_retry_limit_exceeded.inc();
            request.flag(Flag::UpstreamRetryLimitExceeded);
            settle(tried)
        }
        (Decision::Accept, tried) => {
            if tried.is_ok() && plan.attempts.made() > 1 {
                plan.cluster.stats.rq_retry_success.inc();
            }
            settle(tried)
        }
    }
}

fn settle(tried: Result<(Leg, Accepted), Error>) -> Outcome {
    match tried {
        Ok((up, accepted)) => Outcome::Response(up, accepted),
        Err(error) => Outcome::Failed(error),
    }
}

async fn one<D: Downstream>(
    request: &mut Request<'_>,
    plan: &mut Plan<'_>,
    down: &mut D,
    timer: &mut Timer,
    response: &mut ResponseHead,
) -> Result<(Leg, Accepted), Error> {
    if plan.body.complete || down.is_request_complete() {
        plan.body.complete = true;
        plan.request_ended();
        request
            .moments
            .received
            .get_or_insert(request.moments.start);
    }
    let began = Instant::now();
    plan.sent = began;
    plan.trailers = None;
    let per_try = plan.attempts.per_try_timeout.map(|limit| began + limit);
    if !plan.cluster.is_settled() {
        let limits = [per_try, plan.deadline, plan.stream_deadline];
        let limit = earliest(limits).unwrap_or(began + FIRST_ANSWER);
        // Without an answer there is nobody to pick, which is then the reason.
        let _ =
            tokio::time::timeout_at(limit.min(began + FIRST_ANSWER), plan.cluster.settled()).await;
    }
    let picked = plan.pick(request)?;
    let member = picked.member.clone();
    plan.picked = Some(picked);
    request.upstream_host = pool::address_of(&member);
    if request.connection.direction != Direction::Inbound {
        let worker = request.worker();
        let workload = member.endpoint.workload.as_ref();
        request.peer = workload.map(|at| worker.labels.of(at, &worker.shared.trust_domain));
    }
    prepare(request, plan, &member, down.request_mut(), began);
    let admitted = down.admitted();
    if plan.attempts.made() == 1 && admitted.upgrade.is_none() {
        let body = match plan.body.complete {
            true => Framing::None,
            false => admitted.framing,
        };
        plan.mirrors = mirror::start(request, plan.forward, down.request(), body);
    }
    let strict = !down.request().method().is_idempotent();
    let idle = plan.idle.map(|idle| began + idle);
    let until = earliest([plan.deadline, plan.stream_deadline, idle]);
    let opening = pool::acquire(
        request.connection,
        plan.cluster,
        plan.forward.priority,
        &member,
        pool::Wanted {
            strict,
            fresh: plan.attempts.is_replay(),
            until,
            head: down.request(),
            upgrade: admitted.upgrade,
        },
    );
    let limit = earliest([per_try, until]);
    let opened = {
        let mut opening = std::pin::pin!(opening);
        // A pooled connection is there at once: no timer is made for it.
        let at_once = poll_fn(|cx| Poll::Ready(opening.as_mut().poll(cx))).await;
        match (at_once, limit) {
            (Poll::Ready(opened), _) => opened,
            (Poll::Pending, None) => opening.await,
            (Poll::Pending, Some(limit)) => tokio::time::timeout_at(limit, opening)
                .await
                .unwrap_or_else(|_| Err(timed_out(plan, per_try))),
        }
    };
    let mut up = opened?;
    if admitted.upgrade == Some(Upgrade::WebSocket)
        && down.request().version == Version::Http2
        && let Leg::Http2(up) = &up
    {
        let most = began + FIRST_ANSWER;
        let until = limit.map_or(most, |limit| limit.min(most));
        let told = tokio::time::timeout_at(until, up.begun()).await;
        told.map_err(|_| match limit {
            Some(limit) if limit <= Instant::now() => timed_out(plan, per_try),
            // It is open, but of no use.
            _ => Error::new(Reason::ConnectTimeout, Retry::Unprocessed),
        })?;
    }
    request.upstream_local = up.local();
    plan.sent = Instant::now();
    plan.cluster.stats.rq_total.inc();
    request.moments.sent.get_or_insert(plan.sent);
    plan.serving = serving(request, down.request(), &up);
    up.send(down.request(), admitted.framing, admitted.upgrade);
    let again = !plan.body.bytes.is_empty() || plan.body.complete;
    if again && admitted.framing != Framing::None {
        replay(&plan.body, &mut up)?;
    }
    let accepted = head(request, plan, down, &mut up, timer, response, per_try).await?;
    if request.connection.direction == Direction::Inbound {
        // Reasons are the proxies' word; an application may pass on one that was meant for itself.
        response.headers.remove_named(peer::REASON);
    }
    Ok((up, accepted))
}

/// Notes, where the application's own calls are attributed, that it serves this request from now on.
fn serving(request: &Request<'_>, head: &RequestHead, up: &Leg) -> Option<Serving> {
    if request.connection.direction != Direction::Inbound {
        return None;
    }
    let attributor = request.worker().shared.attributor.as_ref()?;
    let (ends, start) = up.carried()?;
    Some(attributor.begin(ends, start, head))
}

/// Sends what was kept of the body.
fn replay(body: &Replay, up: &mut Leg) -> Result<(), Error> {
    if !body.bytes.is_empty() {
        up.push(Part::Data(&body.bytes))?;
    }
    match (&body.trailers, body.complete) {
        (Some(trailers), true) => up.push(Part::Trailers(trailers)),
        (None, true) => up.push(Part::End),
        (_, false) => Ok(()),
    }
}

/// The request's body up, until the head of the response comes down, and has been [held](TRAILERS) where that may be of use.
async fn head<D: Downstream>(
    request: &mut Request<'_>,
    plan: &mut Plan<'_>,
    down: &mut D,
    up: &mut Leg,
    timer: &mut Timer,
    response: &mut ResponseHead,
    per_try: Option<Instant>,
) -> Result<Accepted, Error> {
    let mut last = Instant::now();
    // Of this attempt: the client's pace does not count.
    let mut moved = last;
    let mut interim = 0;
    let mut answer: Option<(Accepted, Instant)> = None;
    poll_fn(|cx| {
        let mut held = false;
        loop {
            // Full: nothing more is read for it until it is written.
            if up.backlog() >= BACKLOG {
                match up.poll_flush(cx) {
                    Poll::Ready(flushed) => flushed?,
                    Poll::Pending => {
                        held = true;
                        break;
                    }
                }
            }
            let mut pushed = Ok(());
            let complete = plan.body.complete;
            let received = down.poll_receive(cx, &mut |part| {
                request.asked(part);
                if part.is_end() {
                    request.moments.received = Some(Instant::now());
                }
                plan.take(part);
                if pushed.is_ok() {
                    pushed = up.push(part);
                }
            });
            match received {
                Poll::Pending => break,
                Poll::Ready(received) => received?,
            }
            pushed?;
            if !complete {
                last = Instant::now();
            }
        }
        let queued = up.backlog();
        match up.poll_flush(cx) {
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            // Written after all: the rest of the body is read next time.
            Poll::Ready(Ok(())) if held => cx.waker().wake_by_ref(),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        if up.backlog() < queued {
            moved = Instant::now();
        }
        up.limit(down.room());
        loop {
            match up.poll_response(cx, response) {
                Poll::Ready(Ok(accepted)) if accepted.interim => {
                    moved = Instant::now();
                    inform(down, response, &mut interim)?;
                }
                Poll::Ready(Ok(accepted)) => {
                    let now = Instant::now();
                    request.moments.answered = Some(now);
                    if !plan.awaits_trailers(request, response, accepted) {
                        return Poll::Ready(Ok(accepted));
                    }
                    answer = Some((accepted, now + TRAILERS));
                    break;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        if let Some((accepted, until)) = answer {
            match up.poll_ahead(cx) {
                Poll::Ready(trailers) => {
                    plan.trailers = trailers;
                    return Poll::Ready(Ok(accepted));
                }
                Poll::Pending if until <= Instant::now() => return Poll::Ready(Ok(accepted)),
                Poll::Pending => {}
            }
        }
        if let Poll::Ready(Err(error)) = down.poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        let idle = plan.idle.map(|idle| last + idle);
        let try_idle = plan
            .attempts
            .per_try_idle_timeout()
            .map(|idle| moved + idle);
        let arrival = match plan.body.complete {
            true => None,
            false => plan.arrival_deadline,
        };
        timer.set(earliest([
            per_try,
            plan.deadline,
            plan.stream_deadline,
            idle,
            try_idle,
            arrival,
            answer.map(|(_, until)| until),
        ]));
        std::task::ready!(timer.poll_expired(cx));
        if let Some((accepted, until)) = answer
            && until <= Instant::now()
        {
            return Poll::Ready(Ok(accepted));
        }
        if arrival.is_some_and(|end| end <= Instant::now()) {
            return Poll::Ready(Err(Error::terminal(Reason::RequestTimeout)));
        }
        let error = timed_out(plan, per_try);
        let stalled = try_idle.is_some_and(|end| end <= Instant::now());
        Poll::Ready(Err(match error.kind {
            Reason::StreamIdle | Reason::RequestIdle if stalled => {
                Error::new(Reason::PerTryIdleTimeout, Retry::Unknown)
            }
            _ => error,
        }))
    })
    .await
}

/// Passes an interim response on, within bounds.
fn inform<D: Downstream>(
    down: &mut D,
    response: &ResponseHead,
    count: &mut u32,
) -> Result<(), Error> {
    *count += 1;
    if *count > INTERIM {
        return Err(Error::terminal(Reason::UpstreamInterimFlood));
    }
    // A client that does not read is spared what it need not have.
    if down.backlog() < BACKLOG {
        down.inform(response);
    }
    Ok(())
}

pub(crate) fn earliest<const N: usize>(moments: [Option<Instant>; N]) -> Option<Instant> {
    moments.into_iter().flatten().min()
}

/// Which of the limits it was.
fn timed_out(plan: &Plan<'_>, per_try: Option<Instant>) -> Error {
    let now = Instant::now();
    let passed = |moment: Option<Instant>| moment.is_some_and(|moment| moment <= now);
    if passed(plan.stream_deadline) {
        return Error::terminal(Reason::MaxStreamDuration);
    }
    if passed(plan.deadline) {
        return Error::terminal(Reason::UpstreamTimeout);
    }
    match passed(per_try) {
        true => Error::new(Reason::PerTryTimeout, Retry::Unknown),
        false => Error::terminal(match plan.is_request_complete() {
            true => Reason::StreamIdle,
            false => Reason::RequestIdle,
        }),
    }
}

/// What of the head depends on the attempt.
fn prepare(
    request: &Request<'_>,
    plan: &mut Plan<'_>,
    member: &Member,
    head: &mut RequestHead,
    now: Instant,
) {
    let mut digits = itoa::Buffer::new();
    let attempt = plan.attempts.made();
    peer::introduce(request.worker(), plan.cluster, member, head);
    if matches!(plan.forward.host_rewrite, HostRewrite::Auto)
        && let Some(name) = &member.endpoint.hostname
    {
        let original = plan
            .original_host
            .get_or_insert_with(|| head.authority_sent().to_owned());
        if *original != *name {
            if !request.proxy.router.suppress_envoy_headers {
                head.headers.set_named("x-envoy-original-host", &*original);
            }
            route::rewrite_host(plan.forward, name, head);
        }
    }
    if attempt == 1 {
        for name in CONSUMED {
            if head.headers.has(Known::Envoy) {
                head.headers.remove_named(name);
            }
        }
    }
    if request
        .selected
        .is_some_and(|found| found.host.request_attempt_count)
    {
        head.headers
            .set_named("x-envoy-attempt-count", digits.format(attempt));
    }
    // To those who understand it; a bootstrap's explicit retries look as Envoy's do.
    if attempt > 1 && (plan.attempts.is_implicit() || request.worker().shared.workload.is_some()) {
        head.headers
            .set_named("x-ripstop-attempt", digits.format(attempt - 1));
    }
    // The whole is told in full as long as nothing of it is used up (what Envoy does on a first attempt).
    let whole = match plan.deadline {
        Some(deadline) if attempt > 1 => Some(deadline.saturating_duration_since(now)),
        _ => plan.limits.total,
    };
    let left = [plan.attempts.per_try_timeout, whole]
        .into_iter()
        .flatten()
        .min();
    if let Some(left) = left
        && !request.proxy.router.suppress_envoy_headers
    {
        head.headers.set_named(
            "x-envoy-expected-rq-timeout-ms",
            digits.format(left.as_millis()),
        );
    }
    let told = match plan.limits.told {
        Told::AsAsked => return,
        Told::Stream => plan.limits.stream,
        Told::Left => left,
    };
    if let Some(limit) = told {
        let text = route::grpc_timeout_text(limit);
        head.headers.set(Known::GrpcTimeout, text);
    } else if plan.limits.told == Told::Stream {
        head.headers.remove(Known::GrpcTimeout);
    }
}

/// Headers that were for this proxy alone (Envoy's router removes them).
const CONSUMED: &[&str] = &[
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-upstream-alt-stat-name",
];

/// Waits before the next attempt; the limits go on meanwhile.
pub async fn wait(
    request: &mut Request<'_>,
    plan: &Plan<'_>,
    timer: &mut Timer,
    pause: Duration,
) -> Result<(), Box<Reply>> {
    if pause.is_zero() {
        return Ok(());
    }
    let until = Instant::now() + pause;
    let limit = earliest([plan.deadline, plan.stream_deadline]);
    timer.set(earliest([Some(until), limit]));
    poll_fn(|cx| timer.poll_expired(cx)).await;
    match limit.is_some_and(|limit| limit <= Instant::now()) {
        false => Ok(()),
        true => Err(plan.reply(request, &timed_out(plan, None))),
    }
}
