//! The access logs of a configuration, opened and compiled; which requests each of them wants.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ripstop_model::format::FormatError;
use ripstop_model::snapshot::http::{AccessLog, Compare, LogFilter, LogFormat, LogSink};
use ripstop_telemetry::Counter;
use ripstop_telemetry::access::Format;
use ripstop_telemetry::access::sink::{Sink, Target};
use ripstop_telemetry::record::Record;
use ripstop_telemetry::worker::Log;

/// Opens each target once, however many listeners write to it.
#[derive(Debug, Default)]
pub struct Logs {
    open: Mutex<HashMap<Target, Sink>>,
    dropped: Counter,
}

/// A log with the filter that says what it wants.
#[derive(Debug)]
pub struct Filtered {
    pub log: Arc<Log>,
    filter: Option<LogFilter>,
}

impl Logs {
    /// Opens what a configuration names. A log that cannot be opened or whose format is wrong is reported and left out:
    /// it must not keep its listener from serving.
    pub fn open(&self, configured: &[AccessLog]) -> Vec<Filtered> {
        configured
            .iter()
            .filter_map(|log| {
                let format = match format(&log.format) {
                    Ok(format) => format,
                    Err(error) => {
                        tracing::warn!(%error, "an access log is left out: correct its format");
                        return None;
                    }
                };
                let sink = self.sink(&log.sink)?;
                Some(Filtered {
                    log: Arc::new(Log { format, sink }),
                    filter: log.filter.clone(),
                })
            })
            .collect()
    }

    fn sink(&self, sink: &LogSink) -> Option<Sink> {
        let target = match sink {
            LogSink::Stdout => Target::Stdout,
            LogSink::Stderr => Target::Stderr,
            LogSink::File(path) => Target::of_path(Path::new(path)),
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sink) = open.get(&target) {
            return Some(sink.clone());
        }
        match Sink::open(&target, self.dropped.clone()) {
            Ok(sink) => {
                open.insert(target, sink.clone());
                Some(sink)
            }
            Err(error) => {
                tracing::warn!(?target, %error, "an access log cannot be opened and is left out");
                None
            }
        }
    }

    /// Writes out what is queued; for the end of the process.
    pub fn flush(&self, limit: std::time::Duration) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for sink in open.values() {
            sink.flush(limit);
        }
    }
}

fn format(format: &LogFormat) -> Result<Format, FormatError> {
    match format {
        LogFormat::Default => Ok(Format::envoy()),
        LogFormat::Text(text) => Format::text(text),
        LogFormat::Json(fields) => Format::json(fields),
    }
}

impl Filtered {
    pub fn wants(&self, record: &Record<'_>, draw: u64) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|filter| holds(filter, record, draw))
    }
}

fn holds(filter: &LogFilter, record: &Record<'_>, draw: u64) -> bool {
    match filter {
        LogFilter::Status { op, value } => compare(*op, u64::from(record.status), *value),
        LogFilter::Duration { op, milliseconds } => {
            let took = record.timings.total.as_millis();
            compare(*op, u64::try_from(took).unwrap_or(u64::MAX), *milliseconds)
        }
        LogFilter::NotHealthCheck => true,
        LogFilter::ResponseFlags(wanted) => record
            .flags
            .iter()
            .any(|flag| wanted.is_empty() || wanted.iter().any(|name| name == flag.short())),
        LogFilter::Header(header) => header.matches_value(record.request.joined(&header.name)),
        LogFilter::Sample(share) => share.holds(draw),
        LogFilter::And(all) => all.iter().all(|filter| holds(filter, record, draw)),
        LogFilter::Or(any) => any.iter().any(|filter| holds(filter, record, draw)),
    }
}

fn compare(op: Compare, is: u64, value: u32) -> bool {
    let value = u64::from(value);
    match op {
        Compare::Eq => is == value,
        Compare::Ne => is != value,
        Compare::Ge => is >= value,
        Compare::Le => is <= value,
    }
}
