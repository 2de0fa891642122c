//! What a proxy's worker holds of telemetry: its shard, its random bits, its unsent log lines. One call per record.

use std::sync::Arc;

use crate::access::Format;
use crate::access::sink::Sink;
use crate::export::Spans;
use crate::metrics::{Registry, Shard};
use crate::record::{Kind, Record};
use crate::rng::Rng;

/// Lines are handed to the writer when so many bytes are gathered, or at [`Worker::flush`].
const BLOCK: usize = 16 * 1024;

/// One configured access log.
#[derive(Debug)]
pub struct Log {
    pub format: Format,
    pub sink: Sink,
}

/// Per-worker; moves into the worker's thread.
#[derive(Debug)]
pub struct Worker {
    pub shard: Shard,
    pub rng: Rng,
    spans: Option<Spans>,
    lines: Vec<(Arc<Log>, String)>,
}

impl Worker {
    pub fn new(registry: &Registry, spans: Option<Spans>) -> Worker {
        Worker {
            shard: registry.shard(),
            rng: Rng::fresh(),
            spans,
            lines: Vec::new(),
        }
    }

    /// Spans go somewhere: what [`crate::trace::Policy::export`] should say.
    pub fn exports(&self) -> bool {
        self.spans.is_some()
    }

    /// A request or a TCP connection is over: metrics, span and the given logs. A connection's bytes are counted with
    /// [`Shard::moved`] as they move.
    pub fn finish<'l>(
        &mut self,
        record: &Record<'_>,
        logs: impl IntoIterator<Item = &'l Arc<Log>>,
    ) {
        match record.kind {
            Kind::Http | Kind::Grpc => self.shard.request(record),
            Kind::Tcp => self.shard.closed(record),
        }
        if let Some(spans) = &self.spans {
            spans.push(record);
        }
        for log in logs {
            self.log(log, record);
        }
    }

    fn log(&mut self, log: &Arc<Log>, record: &Record<'_>) {
        let at = match self
            .lines
            .iter()
            .position(|(known, _)| Arc::ptr_eq(known, log))
        {
            Some(at) => at,
            None => {
                self.lines.push((Arc::clone(log), String::new()));
                self.lines.len() - 1
            }
        };
        let Some((log, lines)) = self.lines.get_mut(at) else {
            return;
        };
        log.format.write(record, lines);
        if lines.len() >= BLOCK {
            log.sink.send(std::mem::take(lines).into_bytes());
        }
    }

    /// Hands gathered lines to their writers; to be called by a timer of at most a second, and before the worker ends.
    pub fn flush(&mut self) {
        for (log, lines) in self.lines.drain(..) {
            if !lines.is_empty() {
                log.sink.send(lines.into_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use super::{Log, Worker};
    use crate::access::Format;
    use crate::access::sink::{Sink, Target};
    use crate::metrics::stats::Counter;
    use crate::metrics::{Limits, Registry};
    use crate::record::{Kind, Record, Reporter};

    #[test]
    fn a_record_reaches_metrics_and_logs() {
        let path = std::env::temp_dir().join(format!("ripstop-worker-{}.log", std::process::id()));
        let sink = Sink::open(&Target::File(path.clone()), Counter::default()).unwrap();
        let log = Arc::new(Log {
            format: Format::text("%RESPONSE_CODE%\n").unwrap(),
            sink: sink.clone(),
        });
        let registry = Registry::new(Limits::default());
        let mut worker = Worker::new(&registry, None);
        let mut record = Record::new(Reporter::Source, Kind::Http, SystemTime::now());
        for status in [200, 503] {
            record.status = status;
            worker.finish(&record, [&log]);
        }
        worker.flush();
        assert!(sink.flush(Duration::from_secs(10)));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "200\n503\n");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(
            registry
                .prometheus(SystemTime::now())
                .matches("\nistio_requests_total{")
                .count(),
            2
        );
        assert!(!worker.exports());
    }
}
