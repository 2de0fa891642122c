//! Records → Istio's standard metrics, and all counters → Prometheus text.
//!
//! Each worker owns a [`Shard`]: a map only it touches, whose values are atomics that a scrape reads. The request path
//! takes no lock and shares no cache line; a label set that is new is announced through a channel.

pub mod stats;
pub mod text;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::labels::{self, From, LABELS, On};
use crate::record::{Kind, Record};
use stats::Stats;

/// Envoy's default histogram buckets, which Istio keeps, for milliseconds and bytes alike.
pub const BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// The value of every label of the series that takes what is beyond [`Limits::series`].
pub const OVERFLOW: &str = "overflow";

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Label sets over all workers; what comes later is counted under [`OVERFLOW`].
    pub series: usize,
    /// A label set that saw nothing for this long is dropped from the output.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            series: 2000,
            idle: Duration::from_secs(15 * 60),
        }
    }
}

/// A record's label set as numbers: equal exactly when all labels are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    source: u64,
    destination: u64,
    service: u64,
    numbers: u64,
    tcp: bool,
    overflow: bool,
}

impl Key {
    fn of(record: &Record<'_>) -> Key {
        let tcp = record.kind == Kind::Tcp;
        let mut numbers = 0u64;
        for label in LABELS {
            if let From::Record { number, .. } = label.from
                && (label.on == On::All || !tcp)
            {
                numbers = mix(numbers, number(record));
            }
        }
        Key {
            source: record.source.hash(),
            destination: record.destination.hash(),
            service: record.service.hash(),
            numbers,
            tcp,
            overflow: false,
        }
    }

    fn overflow(tcp: bool) -> Key {
        Key {
            source: 0,
            destination: 0,
            service: 0,
            numbers: 0,
            tcp,
            overflow: true,
        }
    }
}

/// The finaliser of MurmurHash3 over a running value: small numbers spread over all bits.
fn mix(state: u64, value: u64) -> u64 {
    let mut x = state.rotate_left(23) ^ value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// Keys are hashes already.
#[derive(Default)]
struct Folded(u64);

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = mix(self.0, u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = self.0.rotate_left(17) ^ value;
    }

    fn write_u8(&mut self, value: u8) {
        self.0 ^= u64::from(value);
    }
}

/// A number that one worker writes and scrapes read: no locked instruction is needed.
#[derive(Debug, Default)]
struct Own(AtomicU64);

impl Own {
    fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One histogram of one label set of one worker. The sum is in thousandths.
#[derive(Debug, Default)]
struct Histogram {
    counts: [Own; BUCKETS.len() + 1],
    thousandths: Own,
}

impl Histogram {
    fn observe(&self, value: f64, thousandths: u64) {
        let bucket = BUCKETS.partition_point(|edge| *edge < value);
        if let Some(count) = self.counts.get(bucket) {
            count.add(1);
        }
        self.thousandths.add(thousandths);
    }
}

#[derive(Debug)]
struct Requests {
    total: Own,
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
    request_messages: Own,
    response_messages: Own,
}

#[derive(Debug)]
struct Connections {
    opened: Own,
    closed: Own,
    sent: Own,
    received: Own,
}

#[derive(Debug)]
enum Values {
    Requests(Box<Requests>),
    Connections(Connections),
}

#[derive(Debug)]
struct Series {
    key: Key,
    /// `a="b",c="d"`, escaped.
    labels: String,
    grpc: bool,
    values: Values,
    /// Seconds since the epoch.
    used: AtomicU64,
    /// Set by a scrape that found it idle; its worker then starts another.
    retired: AtomicBool,
}

impl Series {
    fn new(key: Key, record: &Record<'_>) -> Series {
        let own = Own::default;
        let values = if key.tcp {
            Values::Connections(Connections {
                opened: own(),
                closed: own(),
                sent: own(),
                received: own(),
            })
        } else {
            Values::Requests(Box::new(Requests {
                total: own(),
                duration: Histogram::default(),
                request_bytes: Histogram::default(),
                response_bytes: Histogram::default(),
                request_messages: own(),
                response_messages: own(),
            }))
        };
        Series {
            labels: text::labels(LABELS.iter().filter(|l| l.on == On::All || !key.tcp).map(
                |label| {
                    let value = if key.overflow {
                        OVERFLOW.into()
                    } else {
                        labels::value(label, record)
                    };
                    (label.name, value)
                },
            )),
            key,
            grpc: record.kind == Kind::Grpc || key.overflow,
            values,
            used: AtomicU64::new(0),
            retired: AtomicBool::new(false),
        }
    }
}

/// What scrapes see of all workers.
#[derive(Debug)]
pub struct Registry {
    limits: Limits,
    announce: SyncSender<Arc<Series>>,
    known: Mutex<Known>,
    live: Arc<AtomicUsize>,
    stats: Stats,
}

#[derive(Debug)]
struct Known {
    announced: Receiver<Arc<Series>>,
    series: Vec<Arc<Series>>,
}

impl Registry {
    pub fn new(limits: Limits) -> Arc<Registry> {
        // All label sets between two scrapes, and an overflow of each kind for every worker.
        let (announce, announced) = sync_channel(limits.series + 256);
        Arc::new(Registry {
            limits,
            announce,
            known: Mutex::new(Known {
                announced,
                series: Vec::new(),
            }),
            live: Arc::default(),
            stats: Stats::default(),
        })
    }

    /// A worker's own part.
    pub fn shard(&self) -> Shard {
        Shard {
            series: HashMap::default(),
            announce: self.announce.clone(),
            live: Arc::clone(&self.live),
            limit: self.limits.series,
        }
    }

    /// Envoy's named counters, and those of other components.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Prometheus text format 0.0.4 of everything.
    pub fn prometheus(&self, now: SystemTime) -> String {
        let mut out = text::Page::default();
        self.istio(now, &mut out);
        self.stats.prometheus(&mut out);
        out.finish()
    }

    fn istio(&self, now: SystemTime, out: &mut text::Page) {
        // The lock is between scrapes, never with a worker.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        while let Ok(series) = known.announced.try_recv() {
            known.series.push(series);
        }
        let oldest = seconds(now).saturating_sub(self.limits.idle.as_secs());
        let before = known.series.len();
        // Retired at one scrape, dropped at a later one: what its worker was adding meanwhile is still seen.
        known
            .series
            .retain(|s| !(s.retired.load(Relaxed) && s.used.load(Relaxed) < oldest));
        self.live.fetch_sub(before - known.series.len(), Relaxed);
        let mut sums: BTreeMap<(&str, Key), Sum> = BTreeMap::new();
        for series in &known.series {
            if series.used.load(Relaxed) < oldest {
                series.retired.store(true, Relaxed);
            }
            sums.entry((&series.labels, series.key))
                .or_default()
                .add(series);
        }
        for ((labels, _), sum) in &sums {
            sum.print(labels, out);
        }
    }
}

/// Per-worker metrics. Moves into the worker's thread and stays there.
#[derive(Debug)]
pub struct Shard {
    series: HashMap<Key, Arc<Series>, BuildHasherDefault<Folded>>,
    announce: SyncSender<Arc<Series>>,
    live: Arc<AtomicUsize>,
    limit: usize,
}

impl Shard {
    /// Counts a finished HTTP or gRPC request. Of a TCP connection it counts nothing: see [`Shard::opened`] and
    /// [`Shard::moved`].
    pub fn request(&mut self, record: &Record<'_>) {
        let total = record.timings.total;
        let series = self.series(record, record.start + total);
        let Values::Requests(requests) = &series.values else {
            return;
        };
        requests.total.add(1);
        requests
            .duration
            .observe(total.as_secs_f64() * 1000.0, total.as_micros() as u64);
        let (received, sent) = (record.bytes_received, record.bytes_sent);
        requests
            .request_bytes
            .observe(received as f64, received.saturating_mul(1000));
        requests
            .response_bytes
            .observe(sent as f64, sent.saturating_mul(1000));
        requests.request_messages.add(record.grpc_messages.0);
        requests.response_messages.add(record.grpc_messages.1);
    }

    /// A TCP connection was established.
    pub fn opened(&mut self, record: &Record<'_>) {
        if let Values::Connections(tcp) = &self.series(record, record.start).values {
            tcp.opened.add(1);
        }
    }

    /// Bytes moved on a TCP connection since the last call, so that long connections show up before they end.
    pub fn moved(&mut self, record: &Record<'_>, received: u64, sent: u64) {
        if let Values::Connections(tcp) = &self.series(record, record.end()).values {
            tcp.received.add(received);
            tcp.sent.add(sent);
        }
    }

    /// A TCP connection ended.
    pub fn closed(&mut self, record: &Record<'_>) {
        if let Values::Connections(tcp) = &self.series(record, record.end()).values {
            tcp.closed.add(1);
        }
    }

    fn series(&mut self, record: &Record<'_>, now: SystemTime) -> &Series {
        let mut key = Key::of(record);
        let fits = |s: &Arc<Series>| !s.retired.load(Relaxed);
        if !self.series.get(&key).is_some_and(fits) && self.live.load(Relaxed) >= self.limit {
            key = Key::overflow(key.tcp);
        }
        if !self.series.get(&key).is_some_and(fits) {
            // Rare: also the moment to let go of what scrapes have retired.
            self.series.retain(|_, s| fits(s));
            let fresh = Arc::new(Series::new(key, record));
            fresh.used.store(seconds(now), Relaxed);
            self.live.fetch_add(1, Relaxed);
            // Without a registry there is nobody to be seen by; full it cannot be, as `live` is bounded.
            let _ = self.announce.try_send(Arc::clone(&fresh));
            self.series.insert(key, fresh);
        }
        let series = &self.series[&key];
        series.used.store(seconds(now), Relaxed);
        series
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// One label set summed over workers.
#[derive(Default)]
struct Sum {
    grpc: bool,
    requests: Option<SumRequests>,
    connections: Option<[u64; 4]>,
}

#[derive(Default)]
struct SumRequests {
    total: u64,
    histograms: [SumHistogram; 3],
    messages: (u64, u64),
}

#[derive(Default)]
struct SumHistogram {
    counts: [u64; BUCKETS.len() + 1],
    thousandths: u64,
}

impl Sum {
    fn add(&mut self, series: &Series) {
        self.grpc |= series.grpc;
        match &series.values {
            Values::Requests(from) => {
                let to = self.requests.get_or_insert_default();
                to.total += from.total.read();
                let parts = [&from.duration, &from.request_bytes, &from.response_bytes];
                for (to, from) in to.histograms.iter_mut().zip(parts) {
                    for (sum, count) in to.counts.iter_mut().zip(&from.counts) {
                        *sum += count.read();
                    }
                    to.thousandths += from.thousandths.read();
                }
                to.messages.0 += from.request_messages.read();
                to.messages.1 += from.response_messages.read();
            }
            Values::Connections(from) => {
                let to = self.connections.get_or_insert_default();
                let parts = [&from.sent, &from.received, &from.opened, &from.closed];
                for (to, from) in to.iter_mut().zip(parts) {
                    *to += from.read();
                }
            }
        }
    }

    fn print(&self, labels: &str, out: &mut text::Page) {
        if let Some(requests) = &self.requests {
            out.counter("istio_requests_total", labels, requests.total);
            if self.grpc {
                out.counter("istio_request_messages_total", labels, requests.messages.0);
                out.counter("istio_response_messages_total", labels, requests.messages.1);
            }
            let names = [
                "istio_request_duration_milliseconds",
                "istio_request_bytes",
                "istio_response_bytes",
            ];
            for (name, histogram) in names.into_iter().zip(&requests.histograms) {
                out.histogram(
                    name,
                    labels,
                    &BUCKETS,
                    &histogram.counts,
                    histogram.thousandths,
                );
            }
        }
        if let Some([sent, received, opened, closed]) = self.connections {
            out.counter("istio_tcp_sent_bytes_total", labels, sent);
            out.counter("istio_tcp_received_bytes_total", labels, received);
            out.counter("istio_tcp_connections_opened_total", labels, opened);
            out.counter("istio_tcp_connections_closed_total", labels, closed);
        }
    }
}

#[cfg(test)]
mod tests;
