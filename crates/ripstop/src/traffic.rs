//! Two scrapes of a mesh's metrics → what flowed between its services in the time between.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

const REQUESTS: &str = "istio_requests_total";
const OPENED: &str = "istio_tcp_connections_opened_total";

/// The counters of one pair of services at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
struct Counts {
    /// By the side that is believed about everything but mTLS.
    told: bool,
    requests: f64,
    failures: f64,
    /// Upper bound in milliseconds (infinity for the last) → requests that took no longer.
    buckets: BTreeMap<Bound, f64>,
    /// Of TCP connections.
    opened: f64,
    bytes: f64,
    /// Requests and connections as the called side counts them, and those of them that came over mTLS.
    received: f64,
    secured: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Bound(f64);

impl Eq for Bound {}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Bound) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bound {
    fn cmp(&self, other: &Bound) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// Who calls whom.
type Pair = (String, String);

/// What a scrape says, per pair.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sample(BTreeMap<Pair, Counts>);

/// One row of `ripstop top`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    pub(crate) source: String,
    pub(crate) destination: String,
    /// Per second.
    pub(crate) requests: f64,
    /// Percent of the requests; `None` without requests.
    pub(crate) success: Option<f64>,
    /// Milliseconds.
    pub(crate) p50: Option<f64>,
    pub(crate) p90: Option<f64>,
    pub(crate) p99: Option<f64>,
    /// TCP connections a second.
    pub(crate) connections: f64,
    /// Over TCP, both ways, a second.
    pub(crate) bytes: f64,
    /// Percent of the requests and connections that came over mTLS, as the called side saw it; `None` where it saw none.
    pub(crate) mutual_tls: Option<f64>,
}

impl Sample {
    /// Reads Prometheus text. A call is reported by both sides and counted once: as its caller tells it, or as the callee
    /// tells it when the caller is outside the mesh.
    pub(crate) fn read(page: &str) -> Sample {
        let mut sample = Sample::default();
        for (name, labels, value) in page.lines().filter_map(line) {
            let label = |key: &str| {
                labels
                    .iter()
                    .find(|(k, _)| *k == key)
                    .map_or("", |(_, v)| v.as_str())
            };
            let source = label("source_canonical_service");
            let outside = matches!(source, "" | "unknown");
            if !name.starts_with("istio_") {
                continue;
            }
            let source = if outside { "(outside)" } else { source };
            let destination = label("destination_service_name");
            let pair = (source.to_owned(), destination.to_owned());
            let received = label("reporter") == "destination";
            let counts = sample.0.entry(pair).or_default();
            if received && matches!(name, REQUESTS | OPENED) {
                counts.received += value;
                if label("connection_security_policy") == "mutual_tls" {
                    counts.secured += value;
                }
            }
            if received != outside {
                continue;
            }
            counts.told = true;
            match name {
                REQUESTS => {
                    counts.requests += value;
                    if failed(label("response_code"), label("grpc_response_status")) {
                        counts.failures += value;
                    }
                }
                "istio_request_duration_milliseconds_bucket" => {
                    let bound = label("le").parse().unwrap_or(f64::INFINITY);
                    *counts.buckets.entry(Bound(bound)).or_default() += value;
                }
                OPENED => counts.opened += value,
                "istio_tcp_sent_bytes_total" | "istio_tcp_received_bytes_total" => {
                    counts.bytes += value
                }
                _ => {}
            }
        }
        sample.0.retain(|_, counts| counts.told);
        sample
    }

    /// What happened between `earlier` and this one, the busiest first. A counter that went back was started anew.
    pub(crate) fn since(&self, earlier: &Sample, elapsed: Duration) -> Vec<Row> {
        let seconds = elapsed.as_secs_f64().max(0.001);
        let none = Counts::default();
        let mut rows: Vec<Row> = self
            .0
            .iter()
            .map(|((source, destination), now)| {
                let before = earlier
                    .0
                    .get(&(source.clone(), destination.clone()))
                    .unwrap_or(&none);
                let requests = grown(now.requests, before.requests);
                let failures = grown(now.failures, before.failures);
                let received = grown(now.received, before.received);
                let secured = grown(now.secured, before.secured);
                let buckets: Vec<(f64, f64)> = now
                    .buckets
                    .iter()
                    .map(|(bound, count)| {
                        (
                            bound.0,
                            grown(*count, before.buckets.get(bound).copied().unwrap_or(0.0)),
                        )
                    })
                    .collect();
                Row {
                    source: source.clone(),
                    destination: destination.clone(),
                    requests: requests / seconds,
                    success: (requests > 0.0).then(|| 100.0 * (requests - failures) / requests),
                    p50: quantile(&buckets, 0.5),
                    p90: quantile(&buckets, 0.9),
                    p99: quantile(&buckets, 0.99),
                    connections: grown(now.opened, before.opened) / seconds,
                    bytes: grown(now.bytes, before.bytes) / seconds,
                    mutual_tls: (received > 0.0).then(|| 100.0 * secured / received),
                }
            })
            .collect();
        rows.sort_by(|a, b| {
            b.requests
                .total_cmp(&a.requests)
                .then(b.bytes.total_cmp(&a.bytes))
        });
        rows
    }
}

fn grown(now: f64, before: f64) -> f64 {
    if now >= before { now - before } else { now }
}

/// A failure of the server or of the way to it: 5xx, no response at all, or a gRPC status that is one of those.
fn failed(code: &str, grpc: &str) -> bool {
    // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS: what maps to 5xx.
    code == "0" || code.starts_with('5') || matches!(grpc, "2" | "4" | "12" | "13" | "14" | "15")
}

/// As Prometheus' `histogram_quantile` does it: linear within the bucket, the highest finite bound above it.
fn quantile(buckets: &[(f64, f64)], q: f64) -> Option<f64> {
    let total = buckets
        .last()
        .map(|(_, count)| *count)
        .filter(|total| *total > 0.0)?;
    let rank = q * total;
    let (mut low, mut under) = (0.0, 0.0);
    for (bound, count) in buckets {
        if *count >= rank {
            if bound.is_infinite() {
                return Some(low);
            }
            let share = if *count > under {
                (rank - under) / (count - under)
            } else {
                1.0
            };
            return Some(low + (bound - low) * share);
        }
        (low, under) = (*bound, *count);
    }
    None
}

type Line<'a> = (&'a str, Vec<(&'a str, String)>, f64);

/// One sample of the Prometheus text format; `None` for comments and what cannot be read.
fn line(text: &str) -> Option<Line<'_>> {
    if text.starts_with('#') {
        return None;
    }
    let Some((name, rest)) = text.split_once('{') else {
        let (name, value) = text.split_once(' ')?;
        return Some((name, Vec::new(), value.split(' ').next()?.parse().ok()?));
    };
    let mut labels = Vec::new();
    let mut rest = rest;
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            let value = after.trim_start().split(' ').next()?.parse().ok()?;
            return Some((name, labels, value));
        }
        let (key, quoted) = rest.split_once("=\"")?;
        let (value, after) = unquoted(quoted)?;
        labels.push((key, value));
        rest = after;
    }
}

/// The text up to the closing quote, its escapes undone, and what follows.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut bytes = text.char_indices();
    while let Some((at, c)) = bytes.next() {
        match c {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match bytes.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(ok: u32, bad: u32) -> String {
        let total = ok + bad;
        let labels = "reporter=\"source\",source_canonical_service=\"orders\",destination_service_name=\"users\"";
        format!(
            "# TYPE istio_requests_total counter\n\
             istio_requests_total{{{labels},response_code=\"200\"}} {ok}\n\
             istio_requests_total{{{labels},response_code=\"503\"}} {bad}\n\
             istio_requests_total{{reporter=\"destination\",source_canonical_service=\"orders\",destination_service_name=\"users\",response_code=\"200\",connection_security_policy=\"mutual_tls\"}} 750\n\
             istio_requests_total{{reporter=\"destination\",source_canonical_service=\"orders\",destination_service_name=\"users\",response_code=\"200\",connection_security_policy=\"none\"}} 250\n\
             istio_requests_total{{reporter=\"destination\",source_canonical_service=\"elsewhere\",destination_service_name=\"users\",response_code=\"200\"}} 5\n\
             istio_request_duration_milliseconds_bucket{{{labels},le=\"10\"}} {ok}\n\
             istio_request_duration_milliseconds_bucket{{{labels},le=\"+Inf\"}} {total}\n\
             up{{instance=\"a \\\"b\\\"\"}} 1\n"
        )
    }

    #[test]
    fn rates_between_two_scrapes() {
        let rows = Sample::read(&page(90, 10)).since(&Sample::default(), Duration::from_secs(10));
        let [row] = rows.as_slice() else {
            panic!("{rows:?}")
        };
        assert_eq!(
            (row.source.as_str(), row.destination.as_str()),
            ("orders", "users")
        );
        assert_eq!((row.requests, row.success), (10.0, Some(90.0)));
        assert_eq!(row.mutual_tls, Some(75.0));
        assert_eq!(row.p50, Some(10.0 * 50.0 / 90.0));
        assert_eq!(row.p99, Some(10.0));
        let quiet =
            Sample::read(&page(90, 10)).since(&Sample::read(&page(90, 10)), Duration::from_secs(1));
        assert_eq!(
            (quiet[0].requests, quiet[0].success, quiet[0].p50),
            (0.0, None, None)
        );
        let restarted =
            Sample::read(&page(5, 0)).since(&Sample::read(&page(90, 10)), Duration::from_secs(1));
        assert_eq!(restarted[0].requests, 5.0);
    }

    #[test]
    fn callers_outside_are_told_by_the_callee() {
        let text = "istio_requests_total{reporter=\"destination\",source_canonical_service=\"unknown\",destination_service_name=\"shop\",response_code=\"200\"} 3";
        let rows = Sample::read(text).since(&Sample::default(), Duration::from_secs(1));
        assert_eq!(
            (rows[0].source.as_str(), rows[0].requests),
            ("(outside)", 3.0)
        );
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        assert_eq!(line("# HELP x"), None);
        assert_eq!(line("x{a=\"b"), None);
        assert_eq!(line("x 1 1700000000"), Some(("x", vec![], 1.0)));
        assert_eq!(
            line("x{a=\"b\\\"c\",} 2"),
            Some(("x", vec![("a", "b\"c".to_owned())], 2.0))
        );
    }
}
