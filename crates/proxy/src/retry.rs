//! The outcome of an attempt in → accept it, or try again and when. No I/O, no clock: the caller waits and draws.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ripstop_model::reason::Reason;
use ripstop_model::request::RequestView;
use ripstop_model::snapshot::retry::{Backoff, RetryOn, RetryPolicy, RetryScope};

use crate::balance::Picks;
use crate::date;
use crate::error::{Error, Retry};
use crate::headers::{Headers, Known};
use crate::message::{RequestHead, ResponseHead};

/// Retries that `x-envoy-retry-on` alone asks for (Envoy's `num_retries` default).
const DEFAULT_RETRIES: u32 = 1;
/// Whatever a response asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
const DEFAULT_BACKOFF: Backoff = ripstop_model::defaults::envoy::BACKOFF;
/// Conditions that a gRPC status satisfies.
const GRPC: RetryOn = RetryOn::GRPC_CANCELLED
    .union(RetryOn::GRPC_DEADLINE_EXCEEDED)
    .union(RetryOn::GRPC_INTERNAL)
    .union(RetryOn::GRPC_RESOURCE_EXHAUSTED)
    .union(RetryOn::GRPC_UNAVAILABLE);

/// What to do after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// This is the outcome.
    Accept,
    /// It would be tried again, had the attempts not been used up (`URX`).
    Exhausted,
    Retry {
        after: Duration,
        /// Not counted against the policy: nothing was processed, a pooled connection had ended (R5.1).
        free: bool,
    },
}

/// The attempts of one request.
#[derive(Debug)]
pub struct Attempts<'p> {
    policy: Option<&'p RetryPolicy>,
    on: RetryOn,
    left: u32,
    retriable_codes: Vec<u16>,
    retriable_headers: Vec<String>,
    idempotent: bool,
    /// The request is itself a retry of the hop before (R10.3).
    nested: bool,
    replayed: bool,
    /// It happens now.
    replaying: bool,
    made: u32,
    pub per_try_timeout: Option<Duration>,
}

impl<'p> Attempts<'p> {
    /// `honour`: the caller may steer by `x-envoy-retry-on` and its kin.
    pub fn new(
        policy: Option<&'p RetryPolicy>,
        request: &RequestHead,
        honour: bool,
    ) -> Attempts<'p> {
        let nested = request
            .headers
            .first_named("x-ripstop-attempt")
            .is_some_and(|n| n != b"0");
        let applies = |policy: &&RetryPolicy| {
            policy.request_headers.is_empty()
                || policy
                    .request_headers
                    .iter()
                    .any(|header| header.matches(request))
        };
        let policy = policy.filter(applies);
        let mut attempts = Attempts {
            policy,
            on: policy.map_or(RetryOn::NONE, |policy| policy.on),
            left: policy.map_or(0, |policy| policy.retries),
            retriable_codes: Vec::new(),
            retriable_headers: Vec::new(),
            idempotent: request.method().is_idempotent(),
            nested,
            replayed: false,
            replaying: false,
            made: 0,
            per_try_timeout: policy.and_then(|policy| policy.per_try_timeout),
        };
        if honour && request.headers.has(Known::Envoy) {
            attempts.steer(request);
        }
        attempts
    }

    /// Reads the request headers by which an internal caller asks for retries.
    fn steer(&mut self, request: &RequestHead) {
        let text = |name: &str| request.header(name);
        let mut asked = RetryOn::NONE;
        for name in ["x-envoy-retry-on", "x-envoy-retry-grpc-on"] {
            if let Some(list) = text(name) {
                asked = asked.union(RetryOn::parse(&list).0);
            }
        }
        if !asked.is_empty() {
            if self.on.is_empty() {
                self.left = DEFAULT_RETRIES;
            }
            self.on = self.on.union(asked);
        }
        if let Some(list) = text("x-envoy-retriable-status-codes") {
            let codes = list
                .split(',')
                .filter_map(|code| code.trim().parse::<u16>().ok());
            self.retriable_codes.extend(codes);
        }
        if let Some(list) = text("x-envoy-retriable-header-names") {
            let names = list.split(',').map(|name| name.trim().to_owned());
            self.retriable_headers.extend(names);
        }
        if let Some(most) = text("x-envoy-max-retries").and_then(|most| most.parse().ok())
            && !self.on.is_empty()
        {
            self.left = most;
        }
        if let Some(limit) = milliseconds(request, "x-envoy-upstream-rq-per-try-timeout-ms") {
            self.per_try_timeout = Some(limit).filter(|limit| !limit.is_zero());
        }
    }

    /// Attempts made so far.
    pub fn made(&self) -> u32 {
        self.made
    }

    /// An attempt begins.
    pub fn begin(&mut self) {
        self.made += 1;
    }

    /// Whether a body is worth keeping: something may still be tried again.
    pub fn may_retry(&self) -> bool {
        (!self.on.is_empty() && self.left > 0) || (self.idempotent && !self.replayed)
    }

    /// The last attempt ended with a pooled connection that had ended; this one replays it.
    pub fn is_replay(&self) -> bool {
        self.replaying
    }

    /// How often what was tried is left out, where the policy says so.
    pub fn previous_priorities(&self) -> Option<u32> {
        self.policy?.previous_priorities
    }

    pub fn per_try_idle_timeout(&self) -> Option<Duration> {
        self.policy?.per_try_idle_timeout
    }

    pub fn avoids_previous_hosts(&self) -> bool {
        self.policy.is_none_or(|policy| policy.avoid_previous_hosts)
    }

    /// How hard an attempt looks for a member that was not tried: as a user's policy says, else until there is none.
    pub fn picks(&self) -> Picks {
        match self.policy {
            Some(policy) if policy.scope == RetryScope::Explicit => {
                Picks::Again(policy.host_selection_attempts)
            }
            _ => Picks::Fresh,
        }
    }

    /// A user's policy, or the client, wants retries.
    pub fn is_asked_for(&self) -> bool {
        !self.on.is_empty() && !self.is_implicit()
    }

    pub fn is_implicit(&self) -> bool {
        self.policy
            .is_some_and(|policy| policy.scope == RetryScope::Implicit)
    }

    /// After an attempt without a response. `replayable`: the whole request can be sent again.
    pub fn on_error(&mut self, error: &Error, replayable: bool, draw: u64) -> Decision {
        self.replaying = false;
        if !replayable || error.retry == Retry::Never {
            return Decision::Accept;
        }
        let unprocessed = error.retry == Retry::Unprocessed;
        let reused = error.kind == Reason::UpstreamClosedReused;
        if reused && !self.replayed && (self.idempotent || unprocessed) {
            self.replayed = true;
            self.replaying = true;
            return Decision::Retry {
                after: Duration::ZERO,
                free: true,
            };
        }
        let wanted = self.on.any(conditions_of(error.kind));
        self.again(wanted, unprocessed, draw)
    }

    /// Whether trailers that no message comes before could still lead to another attempt, or show that there were enough.
    pub fn reads_trailers(&self) -> bool {
        let allowed = !self.is_implicit() || (!self.nested && self.idempotent);
        allowed && self.on.any(GRPC) && (self.left > 0 || self.made > 1)
    }

    /// After a response head, and the `trailers` that no message came before. `told`: what the upstream's own sidecar met
    /// instead of an answer, which counts as if it had been met here.
    pub fn on_response(
        &mut self,
        response: &ResponseHead,
        trailers: Option<&Headers>,
        told: Option<Reason>,
        replayable: bool,
        draw: u64,
    ) -> Decision {
        let met = told.is_some_and(|reason| self.on.any(conditions_of(reason)));
        let wanted = met || self.wants_other_than(response, trailers);
        if !replayable {
            return Decision::Accept;
        }
        let unprocessed = matches!(
            told,
            Some(Reason::ConnectFailure | Reason::ConnectTimeout | Reason::UpstreamRefusedStream)
        );
        match self.again(wanted, unprocessed, draw) {
            Decision::Retry { after, free } => {
                match pushback(&response.headers).or_else(|| trailers.and_then(pushback)) {
                    None => Decision::Retry { after, free },
                    Some(Pushback::After(after)) if after <= LONGEST_WAIT => {
                        Decision::Retry { after, free }
                    }
                    Some(Pushback::After(_) | Pushback::Never) => Decision::Accept,
                }
            }
            decision => decision,
        }
    }

    fn again(&mut self, wanted: bool, unprocessed: bool, draw: u64) -> Decision {
        let implicit = self.is_implicit();
        let allowed = !implicit || (!self.nested && (self.idempotent || unprocessed));
        if !wanted || !allowed {
            return Decision::Accept;
        }
        if self.left == 0 {
            return match self.policy.is_some_and(|policy| policy.retries > 0) || self.made > 1 {
                true => Decision::Exhausted,
                false => Decision::Accept,
            };
        }
        self.left -= 1;
        Decision::Retry {
            after: self.pause(draw),
            free: false,
        }
    }

    /// Uniform in `[0, min((2^N - 1) * base, max))` before retry N.
    fn pause(&self, draw: u64) -> Duration {
        let backoff = self.policy.map_or(DEFAULT_BACKOFF, |policy| policy.backoff);
        let factor = 1u32.checked_shl(self.made).map_or(u32::MAX, |two| two - 1);
        let most = backoff.base.saturating_mul(factor).min(backoff.max);
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(draw.checked_rem(nanos).unwrap_or(0))
    }

    fn wants_other_than(&self, response: &ResponseHead, trailers: Option<&Headers>) -> bool {
        let on = self.on;
        if on.is_empty() {
            return false;
        }
        if response
            .headers
            .first_named("x-envoy-ratelimited")
            .is_some()
        {
            return on.has(RetryOn::RATE_LIMITED);
        }
        let status = response.status;
        let codes = || {
            self.retriable_codes.contains(&status)
                || self
                    .policy
                    .is_some_and(|policy| policy.status_codes.contains(&status))
        };
        let headers = || {
            let asked = |name: &String| response.headers.first_named(name).is_some();
            self.retriable_headers.iter().any(asked)
                || self.policy.is_some_and(|policy| {
                    policy.response_headers.iter().any(|header| {
                        header.decide(|test| response.headers.any_named(&header.name, test))
                    })
                })
        };
        (on.has(RetryOn::SERVER_ERROR) && (500..600).contains(&status))
            || (on.has(RetryOn::GATEWAY_ERROR) && (502..=504).contains(&status))
            || (on.has(RetryOn::RETRIABLE_4XX) && status == 409)
            || (on.has(RetryOn::RETRIABLE_STATUS_CODES) && codes())
            || (on.has(RetryOn::RETRIABLE_HEADERS) && headers())
            || grpc_condition(&response.headers)
                .or_else(|| trailers.and_then(grpc_condition))
                .is_some_and(|condition| on.has(condition))
    }
}

/// The conditions that an outcome without a response satisfies, as Envoy counts them.
fn conditions_of(kind: Reason) -> RetryOn {
    let reset = RetryOn::RESET
        .union(RetryOn::SERVER_ERROR)
        .union(RetryOn::GATEWAY_ERROR);
    match kind {
        Reason::ConnectFailure
        | Reason::ConnectTimeout
        | Reason::TlsFailure
        | Reason::TlsUntrusted => reset
            .union(RetryOn::CONNECT_FAILURE)
            .union(RetryOn::RESET_BEFORE_REQUEST),
        Reason::UpstreamRefusedStream => reset.union(RetryOn::REFUSED_STREAM),
        Reason::UpstreamClosedReused => reset.union(RetryOn::RESET_BEFORE_REQUEST),
        Reason::UpstreamReset
        | Reason::UpstreamClosed
        | Reason::UpstreamProtocol
        | Reason::UpstreamHeadTooLarge
        | Reason::PerTryTimeout
        | Reason::PerTryIdleTimeout => reset,
        _ => RetryOn::NONE,
    }
}

/// What a gRPC server says of a retry (gRFC A6, `grpc-retry-pushback-ms`).
enum Pushback {
    After(Duration),
    /// Anything but a number of milliseconds.
    Never,
}

fn pushback(fields: &Headers) -> Option<Pushback> {
    let value = fields.first_named("grpc-retry-pushback-ms")?;
    let text = std::str::from_utf8(value).unwrap_or_default();
    Some(match text.trim().parse() {
        Ok(milliseconds) => Pushback::After(Duration::from_millis(milliseconds)),
        Err(_) => Pushback::Never,
    })
}

/// For how long the upstream asks to be left alone: gRPC's pushback, or `retry-after` of a 429 or 503 (RFC 9110 section
/// 10.2.3, in seconds or as a date).
pub fn wait(response: &ResponseHead, now: SystemTime) -> Duration {
    if let Some(wait) = pushed_back(&response.headers) {
        return wait;
    }
    if !matches!(response.status, 429 | 503) {
        return Duration::ZERO;
    }
    let Some(text) = response.headers.text(Known::RetryAfter) else {
        return Duration::ZERO;
    };
    let seconds = text.parse().ok().or_else(|| {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(date::seconds(text)?.saturating_sub(now.as_secs()))
    });
    Duration::from_secs(seconds.unwrap_or_default()).min(LONGEST_WAIT)
}

/// For how long gRPC's pushback, in a head or in trailers, asks that the upstream be left alone.
pub fn pushed_back(fields: &Headers) -> Option<Duration> {
    Some(match pushback(fields)? {
        Pushback::After(wait) => wait.min(LONGEST_WAIT),
        Pushback::Never => Duration::ZERO,
    })
}

fn grpc_condition(fields: &Headers) -> Option<RetryOn> {
    match fields.get(Known::GrpcStatus)? {
        b"1" => Some(RetryOn::GRPC_CANCELLED),
        b"4" => Some(RetryOn::GRPC_DEADLINE_EXCEEDED),
        b"8" => Some(RetryOn::GRPC_RESOURCE_EXHAUSTED),
        b"13" => Some(RetryOn::GRPC_INTERNAL),
        b"14" => Some(RetryOn::GRPC_UNAVAILABLE),
        _ => None,
    }
}

/// A header that holds whole milliseconds.
pub(crate) fn milliseconds(request: &RequestHead, name: &str) -> Option<Duration> {
    let value = request.header(name)?;
    value.trim().parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Scheme;

    fn policy(on: &str, retries: u32, scope: RetryScope) -> RetryPolicy {
        RetryPolicy {
            on: RetryOn::parse(on).0,
            retries,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            status_codes: vec![429],
            response_headers: Vec::new(),
            request_headers: Vec::new(),
            backoff: DEFAULT_BACKOFF,
            avoid_previous_hosts: true,
            host_selection_attempts: 1,
            previous_priorities: None,
            scope,
        }
    }

    fn request(method: &str) -> RequestHead {
        RequestHead::build(method, Scheme::Http, "a", "/")
    }

    fn retries(decision: Decision) -> bool {
        matches!(decision, Decision::Retry { .. })
    }

    #[test]
    fn the_vocabulary_against_statuses() {
        for (on, status, want) in [
            ("5xx", 500, true),
            ("5xx", 503, true),
            ("5xx", 499, false),
            ("gateway-error", 500, false),
            ("gateway-error", 502, true),
            ("gateway-error", 504, true),
            ("retriable-4xx", 409, true),
            ("retriable-4xx", 404, false),
            ("retriable-status-codes", 429, true),
            ("retriable-status-codes", 503, false),
            ("connect-failure,reset,refused-stream", 503, false),
        ] {
            let policy = policy(on, 1, RetryScope::Explicit);
            let mut attempts = Attempts::new(Some(&policy), &request("POST"), false);
            attempts.begin();
            let decision = attempts.on_response(&ResponseHead::build(status), None, None, true, 0);
            assert_eq!(retries(decision), want, "{on} {status}");
        }
    }

    #[test]
    fn the_vocabulary_against_resets() {
        use Reason::*;
        for (on, kind, want) in [
            ("connect-failure", ConnectFailure, true),
            ("connect-failure", ConnectTimeout, true),
            ("connect-failure", UpstreamReset, false),
            ("reset", UpstreamReset, true),
            ("reset", PerTryTimeout, true),
            ("5xx", UpstreamClosed, true),
            ("gateway-error", UpstreamClosed, true),
            ("refused-stream", UpstreamRefusedStream, true),
            ("refused-stream", UpstreamReset, false),
            ("reset-before-request", ConnectFailure, true),
            ("reset-before-request", UpstreamReset, false),
            ("5xx", CircuitOpenRequests, false),
            ("retriable-4xx", UpstreamReset, false),
        ] {
            let policy = policy(on, 1, RetryScope::Explicit);
            let mut attempts = Attempts::new(Some(&policy), &request("POST"), false);
            attempts.begin();
            let error = Error::new(kind, Retry::Unknown);
            assert_eq!(
                retries(attempts.on_error(&error, true, 0)),
                want,
                "{on} {kind}"
            );
        }
    }

    #[test]
    fn implicit_retries_spare_what_is_not_idempotent() {
        let policy = policy(
            "connect-failure,reset,gateway-error",
            2,
            RetryScope::Implicit,
        );
        let outcome = |method: &str, retry| {
            let mut attempts = Attempts::new(Some(&policy), &request(method), false);
            attempts.begin();
            retries(attempts.on_error(&Error::new(Reason::UpstreamReset, retry), true, 0))
        };
        assert!(outcome("GET", Retry::Unknown));
        assert!(!outcome("POST", Retry::Unknown));
        assert!(outcome("POST", Retry::Unprocessed));
        let mut nested = request("GET");
        nested.headers.append_named("x-ripstop-attempt", "1");
        let mut attempts = Attempts::new(Some(&policy), &nested, false);
        attempts.begin();
        let error = Error::new(Reason::UpstreamReset, Retry::Unprocessed);
        assert!(!retries(attempts.on_error(&error, true, 0)));
    }

    #[test]
    fn a_stale_pooled_connection_costs_no_attempt() {
        let ended = Error::new(Reason::UpstreamClosedReused, Retry::Unknown);
        let mut get = Attempts::new(None, &request("GET"), false);
        get.begin();
        assert_eq!(
            get.on_error(&ended, true, 0),
            Decision::Retry {
                after: Duration::ZERO,
                free: true
            }
        );
        get.begin();
        assert_eq!(get.on_error(&ended, true, 0), Decision::Accept);
        let mut post = Attempts::new(None, &request("POST"), false);
        post.begin();
        assert_eq!(post.on_error(&ended, true, 0), Decision::Accept);
    }

    #[test]
    fn attempts_run_out_and_pauses_grow() {
        let policy = policy("5xx", 2, RetryScope::Explicit);
        let mut attempts = Attempts::new(Some(&policy), &request("GET"), false);
        let bad = ResponseHead::build(503);
        let mut longest = Vec::new();
        for _ in 0..2 {
            attempts.begin();
            match attempts.on_response(&bad, None, None, true, u64::MAX - 1) {
                Decision::Retry { after, .. } => longest.push(after),
                other => panic!("{other:?}"),
            }
        }
        attempts.begin();
        assert_eq!(
            attempts.on_response(&bad, None, None, true, 0),
            Decision::Exhausted
        );
        assert!(
            longest
                .iter()
                .all(|pause| *pause < Duration::from_millis(75))
        );
    }

    /// What the other end's sidecar met counts as if it had been met here.
    #[test]
    fn what_the_peers_sidecar_met_is_tried_elsewhere() {
        use Reason::*;
        let bad = ResponseHead::build(503);
        for (method, told, want) in [
            ("GET", Some(ConnectFailure), true),
            ("POST", Some(ConnectFailure), true),
            ("GET", Some(UpstreamClosed), true),
            // It may have been carried out.
            ("POST", Some(UpstreamClosed), false),
            ("GET", None, false),
        ] {
            let policy = policy("connect-failure,reset", 1, RetryScope::Implicit);
            let request = request(method);
            let mut attempts = Attempts::new(Some(&policy), &request, false);
            attempts.begin();
            let decision = attempts.on_response(&bad, None, told, true, 0);
            assert_eq!(retries(decision), want, "{method} {told:?}");
        }
    }

    #[test]
    fn a_server_says_when_to_retry_or_not_to() {
        let policy = policy("unavailable", 3, RetryScope::Explicit);
        let decide = |pushback: &str| {
            let mut bad = ResponseHead::build(200);
            bad.headers.append_named("grpc-status", "14");
            bad.headers.append_named("grpc-retry-pushback-ms", pushback);
            let mut attempts = Attempts::new(Some(&policy), &request("POST"), false);
            attempts.begin();
            attempts.on_response(&bad, None, None, true, 0)
        };
        let after = Duration::from_millis(250);
        let free = false;
        assert_eq!(decide("250"), Decision::Retry { after, free });
        assert_eq!(decide("-1"), Decision::Accept);
        assert_eq!(decide("99999999999"), Decision::Accept);
        assert_eq!(decide("soon"), Decision::Accept);
    }

    /// What holds of a status in the head holds of one in trailers that no message came before.
    #[test]
    fn trailers_say_what_a_head_says() {
        let decide = |on: &str, status: &str, pushback: &str| {
            let mut trailers = Headers::new();
            trailers.append_named("grpc-status", status);
            if !pushback.is_empty() {
                trailers.append_named("grpc-retry-pushback-ms", pushback);
            }
            let policy = policy(on, 3, RetryScope::Explicit);
            let mut attempts = Attempts::new(Some(&policy), &request("POST"), false);
            attempts.begin();
            assert!(attempts.reads_trailers(), "{on}");
            attempts.on_response(&ResponseHead::build(200), Some(&trailers), None, true, 0)
        };
        for (on, status) in [
            ("cancelled", "1"),
            ("deadline-exceeded", "4"),
            ("resource-exhausted", "8"),
            ("internal", "13"),
            ("unavailable", "14"),
        ] {
            assert!(retries(decide(on, status, "")), "{on}");
            assert_eq!(decide(on, "0", ""), Decision::Accept, "{on}");
            assert_eq!(decide(on, "2", ""), Decision::Accept, "{on}");
        }
        let after = Duration::from_millis(250);
        let free = false;
        let told = decide("unavailable", "14", "250");
        assert_eq!(told, Decision::Retry { after, free });
        assert_eq!(decide("unavailable", "14", "-1"), Decision::Accept);
    }

    /// Whom trailers are of no use keeps no response waiting for them.
    #[test]
    fn who_does_not_judge_by_status_reads_no_trailers() {
        let reads = |on: &str, retries, scope| {
            let policy = policy(on, retries, scope);
            let mut attempts = Attempts::new(Some(&policy), &request("POST"), false);
            attempts.begin();
            attempts.reads_trailers()
        };
        assert!(reads("5xx,unavailable", 1, RetryScope::Explicit));
        assert!(!reads(
            "5xx,reset,retriable-headers",
            1,
            RetryScope::Explicit
        ));
        assert!(!reads("unavailable", 0, RetryScope::Explicit));
        assert!(!reads("unavailable", 1, RetryScope::Implicit));
        assert!(!Attempts::new(None, &request("POST"), false).reads_trailers());
    }

    #[test]
    fn how_long_an_upstream_asks_to_be_left_alone() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let asked = |status, name: &str, value: &str| {
            let mut response = ResponseHead::build(status);
            response.headers.append_named(name, value);
            wait(&response, now).as_millis()
        };
        assert_eq!(asked(503, "retry-after", "7"), 7000);
        assert_eq!(asked(429, "retry-after", "7"), 7000);
        let date = "Sun, 06 Nov 1994 08:49:47 GMT";
        assert_eq!(asked(503, "retry-after", date), 10_000);
        let past = "Sun, 06 Nov 1994 08:49:27 GMT";
        assert_eq!(asked(503, "retry-after", past), 0);
        assert_eq!(asked(503, "retry-after", "99999999"), 300_000);
        assert_eq!(asked(503, "retry-after", "a while"), 0);
        // A redirect's is not about load.
        assert_eq!(asked(301, "retry-after", "7"), 0);
        assert_eq!(asked(200, "grpc-retry-pushback-ms", "40"), 40);
        assert_eq!(asked(200, "grpc-retry-pushback-ms", "-1"), 0);
    }

    #[test]
    fn callers_steer_by_headers() {
        let mut asked = request("GET");
        asked.headers.append_named("x-envoy-retry-on", "5xx");
        asked.headers.append_named("x-envoy-max-retries", "3");
        asked
            .headers
            .append_named("x-envoy-upstream-rq-per-try-timeout-ms", "250");
        let mut attempts = Attempts::new(None, &asked, true);
        for _ in 0..3 {
            attempts.begin();
            assert!(retries(attempts.on_response(
                &ResponseHead::build(500),
                None,
                None,
                true,
                0
            )));
        }
        assert_eq!(attempts.per_try_timeout, Some(Duration::from_millis(250)));
        let mut edge = Attempts::new(None, &asked, false);
        edge.begin();
        assert!(!retries(edge.on_response(
            &ResponseHead::build(500),
            None,
            None,
            true,
            0
        )));
    }
}
