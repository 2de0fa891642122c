//! A reason in, and what is configured → the limit that was hit, with the name of the field that sets it: what a refusal
//! says, so that nobody has to guess which of a dozen limits it was (R15.2).

use std::fmt;
use std::time::Duration;

use ripstop_model::reason::Reason;
use ripstop_model::snapshot::http::HttpProxy;

use crate::error::Error;
use crate::http1::{self, Problem};

/// A limit, by the name of Envoy's field for it. Written `max_headers_count = 100`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) knob: &'static str,
    pub(crate) most: Most,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Most {
    Count(u32),
    Bytes(u32),
    Time(Duration),
}

impl Limit {
    pub(crate) fn count(knob: &'static str, most: u32) -> Limit {
        Limit {
            knob,
            most: Most::Count(most),
        }
    }

    pub(crate) fn bytes(knob: &'static str, most: u32) -> Limit {
        Limit {
            knob,
            most: Most::Bytes(most),
        }
    }

    pub(crate) fn time(knob: &'static str, most: Duration) -> Limit {
        Limit {
            knob,
            most: Most::Time(most),
        }
    }

    /// Of a response's head, which no field sets.
    pub(crate) fn of_response(error: &Error) -> Option<Limit> {
        let source = error.source.as_ref()?;
        let count = |limit| u32::try_from(limit).unwrap_or(u32::MAX);
        match source.downcast_ref::<http1::Error>()?.problem {
            Problem::TooManyHeaders { limit } => {
                Some(Limit::count("fields of a response's head", count(limit)))
            }
            Problem::HeadTooLarge { limit } => {
                Some(Limit::bytes("a response's head", count(limit)))
            }
            _ => None,
        }
    }

    /// Of what never became a request. `head_time`: where the configuration sets none.
    pub(crate) fn of_head(
        reason: Reason,
        config: &HttpProxy,
        head_time: Duration,
    ) -> Option<Limit> {
        let limits = &config.limits;
        match reason {
            Reason::RequestHeadTooLarge => Some(Limit::bytes(
                "max_request_headers_kb",
                limits.max_request_headers_bytes,
            )),
            Reason::TooManyRequestHeaders => Some(Limit::count(
                "max_headers_count",
                limits.max_request_headers,
            )),
            Reason::RequestHeadTimeout => Some(Limit::time(
                "request_headers_timeout",
                config.timeouts.request_headers.unwrap_or(head_time),
            )),
            _ => None,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = ", self.knob)?;
        match self.most {
            Most::Count(count) => write!(f, "{count}"),
            Most::Bytes(bytes) if bytes % 1024 == 0 => write!(f, "{} KiB", bytes / 1024),
            Most::Bytes(bytes) => write!(f, "{bytes} bytes"),
            Most::Time(time) => write!(f, "{time:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_a_setting() {
        for (limit, text) in [
            (
                Limit::bytes("max_request_headers_kb", 61440),
                "max_request_headers_kb = 60 KiB",
            ),
            (Limit::bytes("x", 100), "x = 100 bytes"),
            (
                Limit::count("max_headers_count", 256),
                "max_headers_count = 256",
            ),
            (
                Limit::time("timeout", Duration::from_millis(500)),
                "timeout = 500ms",
            ),
            (
                Limit::time("timeout", Duration::from_secs(15)),
                "timeout = 15s",
            ),
        ] {
            assert_eq!(limit.to_string(), text);
        }
    }
}
