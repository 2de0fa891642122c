//! How an attempt ended → what those learn who judge its member: at its head, and of a gRPC call at its trailers.

use std::time::{Duration, SystemTime};

use super::Plan;
use crate::balance;
use crate::error::Error;
use crate::headers::{Headers, Known};
use crate::health;
use crate::http::Request;
use crate::http1::{Accepted, Framing};
use crate::message::ResponseHead;
use crate::retry;

impl Plan<'_> {
    /// Whether this head should wait for trailers that may come right behind it: they may be worth another attempt.
    pub(super) fn awaits_trailers(
        &self,
        request: &Request<'_>,
        response: &ResponseHead,
        accepted: Accepted,
    ) -> bool {
        self.attempts.reads_trailers()
            && !self.body.overflown
            && accepted.framing != Framing::None
            && says_more(request, response)
    }

    /// Counts how the attempt went, and tells those who judge the member; of a gRPC call that goes on, [`Plan::conclude`] does.
    pub(super) fn account(
        &mut self,
        request: &Request<'_>,
        error: Option<&Error>,
        response: &ResponseHead,
    ) {
        let Some(picked) = &self.picked else {
            if let Some(error) = error {
                self.cluster.stats.failed(error.kind);
            }
            return;
        };
        if picked.panic {
            self.cluster.stats.panic.inc();
        }
        let trailers = self.trailers.as_ref();
        let ended = match error {
            Some(error) => Err(error),
            None => Ok(health::status(response, trailers)),
        };
        let now = request.worker().shared.uptime();
        self.open = error.is_none() && trailers.is_none() && says_more(request, response);
        match self.open {
            true => health::answered(&picked.member),
            false => health::attempted(self.cluster, &picked.member, ended, now),
        }
        let answered = request.moments.answered.filter(|_| error.is_none());
        let heeds = self.cluster.minds_waits();
        self.learnt = Some(balance::Outcome {
            latency: match answered {
                Some(answered) => answered.saturating_duration_since(self.sent),
                None => self.sent.elapsed(),
            },
            failed: has_failed(ended),
            wait: match ended {
                Ok(_) if heeds => retry::wait(response, SystemTime::now())
                    .max(trailers.and_then(retry::pushed_back).unwrap_or_default()),
                _ => Duration::ZERO,
            },
            now,
        });
    }

    /// The response's trailers have come.
    pub fn trailed(&mut self, trailers: &Headers) {
        if self.cluster.minds_waits()
            && let Some(learnt) = &mut self.learnt
            && let Some(wait) = retry::pushed_back(trailers)
        {
            learnt.wait = learnt.wait.max(wait);
        }
    }

    /// The response is over, or broke off: a gRPC call is judged by its status now. Of one without a status, or that its
    /// client left, the head was all that there is to judge.
    pub fn conclude(&mut self, request: &Request<'_>, error: Option<&Error>) {
        let (true, Some(picked)) = (std::mem::take(&mut self.open), &self.picked) else {
            return;
        };
        let broke = error.filter(|error| health::is_members_fault(error.kind));
        let ended = match (request.grpc_status, broke) {
            (Some(status), _) => Ok(health::status_of_grpc(status)),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(200),
        };
        let now = request.worker().shared.uptime();
        health::judged(self.cluster, &picked.member, ended, now);
        if let Some(learnt) = &mut self.learnt {
            learnt.failed |= has_failed(ended);
        }
    }
}

/// Whether the head leaves open how the gRPC call went.
fn says_more(request: &Request<'_>, response: &ResponseHead) -> bool {
    request.is_call() && response.status == 200 && !response.headers.has(Known::GrpcStatus)
}

/// For the balancer: whether the member could not serve.
fn has_failed(ended: Result<u16, &Error>) -> bool {
    match ended {
        Ok(status) => (502..=504).contains(&status),
        Err(error) => health::is_members_fault(error.kind),
    }
}
