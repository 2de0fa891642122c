//! When a request is tried again (`config.route.v3.RetryPolicy`); the vocabulary is the table [`CONDITIONS`].

use std::fmt;
use std::time::Duration;

use super::matching::HeaderMatch;

/// A set of retry conditions.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct RetryOn(u32);

macro_rules! conditions {
    ($($(#[$doc:meta])* $constant:ident = $bit:literal, $token:literal;)*) => {
        impl RetryOn {
            $($(#[$doc])* pub const $constant: RetryOn = RetryOn(1 << $bit);)*
        }
        /// Token → condition, as written in `retryOn` and `x-envoy-retry-on`.
        pub const CONDITIONS: &[(&str, RetryOn)] = &[$(($token, RetryOn::$constant)),*];
    };
}

conditions! {
    /// Any 5xx, or no response at all.
    SERVER_ERROR = 0, "5xx";
    /// 502, 503, 504; resets count, they would become 503.
    GATEWAY_ERROR = 1, "gateway-error";
    /// No response: disconnect, reset, per-try timeout.
    RESET = 2, "reset";
    /// A reset before the request headers were sent.
    RESET_BEFORE_REQUEST = 3, "reset-before-request";
    CONNECT_FAILURE = 4, "connect-failure";
    /// The response carries `x-envoy-ratelimited`.
    RATE_LIMITED = 5, "envoy-ratelimited";
    /// 409.
    RETRIABLE_4XX = 6, "retriable-4xx";
    /// HTTP/2 REFUSED_STREAM.
    REFUSED_STREAM = 7, "refused-stream";
    RETRIABLE_STATUS_CODES = 8, "retriable-status-codes";
    RETRIABLE_HEADERS = 9, "retriable-headers";
    HTTP3_POST_CONNECT_FAILURE = 10, "http3-post-connect-failure";
    GRPC_CANCELLED = 11, "cancelled";
    GRPC_DEADLINE_EXCEEDED = 12, "deadline-exceeded";
    GRPC_INTERNAL = 13, "internal";
    GRPC_RESOURCE_EXHAUSTED = 14, "resource-exhausted";
    GRPC_UNAVAILABLE = 15, "unavailable";
}

impl RetryOn {
    pub const NONE: RetryOn = RetryOn(0);

    pub const fn union(self, other: RetryOn) -> RetryOn {
        RetryOn(self.0 | other.0)
    }

    /// Whether all of `other` is in `self`.
    pub const fn has(self, other: RetryOn) -> bool {
        self.0 & other.0 == other.0
    }

    pub const fn any(self, other: RetryOn) -> bool {
        self.0 & other.0 != 0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn token(token: &str) -> Option<RetryOn> {
        CONDITIONS
            .iter()
            .find(|(name, _)| *name == token)
            .map(|(_, condition)| *condition)
    }

    /// Reads a comma list. Envoy ignores unknown tokens; they are handed back so that a validator can name them.
    pub fn parse(list: &str) -> (RetryOn, Vec<&str>) {
        let mut set = RetryOn::NONE;
        let mut unknown = Vec::new();
        for token in list.split(',').map(str::trim).filter(|t| !t.is_empty()) {
            match RetryOn::token(token) {
                Some(condition) => set = set.union(condition),
                None => unknown.push(token),
            }
        }
        (set, unknown)
    }
}

impl fmt::Display for RetryOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (token, condition) in CONDITIONS {
            if self.has(*condition) {
                write!(f, "{separator}{token}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}

impl fmt::Debug for RetryOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RetryOn({self})")
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    pub on: RetryOn,
    /// Retries, so attempts are one more.
    pub retries: u32,
    /// Covers each attempt, the first included.
    pub per_try_timeout: Option<Duration>,
    pub per_try_idle_timeout: Option<Duration>,
    /// For [`RetryOn::RETRIABLE_STATUS_CODES`].
    pub status_codes: Vec<u16>,
    /// For [`RetryOn::RETRIABLE_HEADERS`]: any match.
    pub response_headers: Vec<HeaderMatch>,
    /// When not empty: only requests that match any of these.
    pub request_headers: Vec<HeaderMatch>,
    pub backoff: Backoff,
    /// Do not pick a host that was already tried.
    pub avoid_previous_hosts: bool,
    /// How many picks before a tried host is accepted after all (`host_selection_retry_max_attempts`).
    pub host_selection_attempts: u32,
    /// `envoy.retry_priorities.previous_priorities`, update frequency.
    pub previous_priorities: Option<u32>,
    pub scope: RetryScope,
}

/// What may be retried at all, whatever the conditions say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RetryScope {
    /// The user asked: the conditions alone decide.
    #[default]
    Explicit,
    /// ripstop's implicit policy (R10.1): GET, HEAD, PUT, DELETE, OPTIONS by the conditions; anything else only when it is
    /// provable that the upstream processed nothing. Never when the request is itself a retry (R10.3). Under the budget.
    Implicit,
}

/// Fully jittered: retry N waits uniform in `[0, min((2^N - 1) * base, max))`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub base: Duration,
    pub max: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let (set, unknown) = RetryOn::parse("gateway-error, connect-failure,retriable-4xx,bogus");
        assert_eq!(
            set.to_string(),
            "gateway-error,connect-failure,retriable-4xx"
        );
        assert_eq!(unknown, ["bogus"]);
        for (token, condition) in CONDITIONS {
            assert_eq!(RetryOn::token(token), Some(*condition));
            assert_eq!(condition.to_string(), *token);
        }
    }
}
