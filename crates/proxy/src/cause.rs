//! The application's word on what it was serving when it called out → the trace headers it would have copied.
//!
//! The sidecar stands on both legs. On the inbound one it knows which request is in flight on which connection to the
//! application, one at a time ([`InFlight`]); on the outbound one it asks the table of [`Causes`] which inbound connection
//! the application was serving. When both fit, the outbound request gets the inbound one's trace headers, as if the
//! application had passed them on. When they do not, nothing is guessed: a new trace begins, with links to the requests
//! that may have been the cause.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ripstop_model::seam::{Cause, Causes, Ends, Producer};
use ripstop_model::snapshot::listener::Direction;
use ripstop_telemetry::record::Fields;
use ripstop_telemetry::trace::{self, Attribution, Link};
use ripstop_telemetry::{Counter, Scope, Stats};

use crate::connection::Connection;
use crate::message::{RequestHead, Version};
use crate::trace::Asked;

/// Besides the trace context: what ties log lines of one call together.
const REQUEST_ID: &str = "x-request-id";
/// A link for each of so many requests in flight.
const LINKS: usize = 8;

/// What all workers of a sidecar share of causes.
pub struct Attributor {
    causes: Arc<dyn Causes>,
    in_flight: Mutex<HashMap<Ends, InFlight>>,
    counts: Counts,
}

/// The request that a connection to the application carries now.
struct InFlight {
    /// Bytes that the connection had carried before it.
    start: u64,
    headers: Vec<(&'static str, String)>,
    link: Option<Link>,
}

struct Counts {
    inherited: [(Producer, Counter); Producer::ALL.len()],
    agreed: Counter,
    disagreed: Counter,
    own: Counter,
    unknown: Counter,
}

impl Attributor {
    pub fn new(causes: Arc<dyn Causes>, stats: &Stats) -> Attributor {
        let count = |result: &'static str, producer: &'static str| {
            let labels = [("result", result), ("producer", producer)];
            stats.counter(Scope::Own(&labels), "ripstop_trace_causes_total")
        };
        Attributor {
            causes,
            in_flight: Mutex::default(),
            counts: Counts {
                inherited: Producer::ALL.map(|by| (by, count("inherited", by.as_str()))),
                agreed: count("agreed", ""),
                disagreed: count("disagreed", ""),
                own: count("own", ""),
                unknown: count("unknown", ""),
            },
        }
    }

    /// A request begins on a connection to the application that has carried `start` bytes so far. Called before the
    /// first of its own is written.
    pub fn begin(self: &Arc<Attributor>, ends: Ends, start: u64, head: &RequestHead) -> Serving {
        let copied = |name: &'static str| {
            let value = head.headers.first_named(name)?;
            Some((name, String::from_utf8_lossy(value).into_owned()))
        };
        let names = trace::HEADERS.iter().copied().chain([REQUEST_ID]);
        let in_flight = InFlight {
            start,
            headers: names.filter_map(copied).collect(),
            link: trace::parent(&Asked(head)),
        };
        self.lock().insert(ends, in_flight);
        Serving {
            attributor: Arc::clone(self),
            ends,
        }
    }

    /// The outbound connection is about to be closed.
    pub fn forget(&self, connection: &Connection) {
        if let Some(ends) = asked(connection) {
            self.causes.forget(ends);
        }
    }

    /// The trace headers of the request for which the application opened a connection of opaque bytes, and who saw it.
    pub fn opened(&self, connection: &Connection) -> Option<(Headers, Producer)> {
        let cause = self.noted(connection, asked(connection)?);
        let in_flight = self.lock();
        let (request, producer) = serving(&in_flight, cause?)?;
        self.inherited(producer);
        Some((Headers(request.headers.clone()), producer))
    }

    fn noted(&self, connection: &Connection, ends: Ends) -> Option<Cause> {
        let cause = self.causes.cause(ends);
        if cause.is_some() {
            connection.caused.set(true);
        }
        cause
    }

    /// Gives a request that has just arrived from the application the context of its cause, if the cause is certain.
    pub fn inherit(&self, connection: &Connection, head: &mut RequestHead) -> Attribution {
        let Some(ends) = asked(connection) else {
            return Attribution::NotAsked;
        };
        // A connection of HTTP/2 carries many requests: what is noted of it says nothing about this one.
        let cause = match head.version {
            Version::Http2 => None,
            _ => self.noted(connection, ends),
        };
        let in_flight = self.lock();
        let found = cause.and_then(|cause| serving(&in_flight, cause));
        if trace::HEADERS
            .iter()
            .any(|name| head.headers.first_named(name).is_some())
        {
            match found {
                None => self.counts.own.inc(),
                Some((request, _)) if shares_trace(request, head) => self.counts.agreed.inc(),
                Some(_) => self.counts.disagreed.inc(),
            }
            return Attribution::Own;
        }
        let Some((request, producer)) = found else {
            self.counts.unknown.inc();
            let links = in_flight
                .values()
                .filter_map(|request| request.link)
                .take(LINKS);
            return Attribution::Unknown(links.collect());
        };
        for (name, value) in &request.headers {
            if head.headers.first_named(name).is_none() {
                head.headers.set_named(name, value.as_str());
            }
        }
        self.inherited(producer);
        Attribution::Inherited(producer)
    }

    fn inherited(&self, producer: Producer) {
        if let Some((_, count)) = self.counts.inherited.iter().find(|(by, _)| *by == producer) {
            count.inc();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Ends, InFlight>> {
        // Nothing that panics runs under the lock; the map is whole even so.
        self.in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The request that a cause names, and who named it. Bytes of the request itself must have been read by the application:
/// what was read before is of one before.
fn serving(in_flight: &HashMap<Ends, InFlight>, cause: Cause) -> Option<(&InFlight, Producer)> {
    let request = in_flight.get(&cause.inbound)?;
    (cause.received > request.start).then_some((request, cause.producer))
}

/// Trace headers of a request.
pub struct Headers(Vec<(&'static str, String)>);

impl Fields for Headers {
    fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut headers = self.0.iter();
        let found = headers.find(|(header, _)| *header == name);
        found.map(|(_, value)| Cow::Borrowed(value.as_str()))
    }
}

/// The application's connection, as the application names its ends; `None` where no application is behind it.
fn asked(connection: &Connection) -> Option<Ends> {
    (connection.direction == Direction::Outbound).then_some(Ends {
        local: connection.peer,
        remote: connection.destination,
    })
}

/// Whether the application passed on a context of the same trace.
fn shares_trace(request: &InFlight, head: &RequestHead) -> bool {
    let trace = |link: Option<Link>| link.map(|link| link.trace_id);
    let sent = trace(trace::parent(&Asked(head)));
    sent.is_some() && sent == trace(request.link)
}

/// A request that the application is serving. Dropped with the end of its response.
pub struct Serving {
    attributor: Arc<Attributor>,
    ends: Ends,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.attributor.lock().remove(&self.ends);
    }
}
