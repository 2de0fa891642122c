//! Named counters and gauges: `cluster.X.upstream_rq_total: 5` for Envoy's `/stats`, and the same as
//! `envoy_cluster_upstream_rq_total{envoy_cluster_name="X"} 5` for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::text::{self, Page};

/// A handle to a counter; cloning shares it. A named counter disappears from the output with its last handle.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A handle to a gauge; cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub fn set(&self, n: i64) {
        self.0.store(n, Relaxed);
    }

    pub fn read(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// What a name belongs to: Envoy's prefix and the label its tag extraction makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope<'a> {
    Cluster(&'a str),
    /// By the connection manager's `stat_prefix`.
    Http(&'a str),
    /// By address, `127.0.0.1:80`.
    Listener(&'a str),
    ListenerManager,
    ClusterManager,
    Server,
    /// HTTP/2 of all downstream connections.
    Http2,
    /// A metric of Istio's or ripstop's own: the name is the Prometheus name, labels follow.
    Own(&'a [(&'a str, &'a str)]),
}

impl Scope<'_> {
    /// Prefix in `/stats`, prefix in Prometheus, label.
    fn parts(&self) -> (String, &'static str, Option<(&'static str, &str)>) {
        match self {
            Scope::Cluster(name) => (
                format!("cluster.{name}."),
                "envoy_cluster_",
                Some(("envoy_cluster_name", name)),
            ),
            Scope::Http(prefix) => (
                format!("http.{prefix}."),
                "envoy_http_",
                Some(("envoy_http_conn_manager_prefix", prefix)),
            ),
            // Envoy cannot have colons here: its stat names become file names in some sinks.
            Scope::Listener(address) => (
                format!("listener.{}.", address.replace(':', "_")),
                "envoy_listener_",
                Some(("envoy_listener_address", address)),
            ),
            Scope::ListenerManager => ("listener_manager.".into(), "envoy_listener_manager_", None),
            Scope::ClusterManager => ("cluster_manager.".into(), "envoy_cluster_manager_", None),
            Scope::Server => ("server.".into(), "envoy_server_", None),
            Scope::Http2 => ("http2.".into(), "envoy_http2_", None),
            Scope::Own(_) => (String::new(), "", None),
        }
    }
}

#[derive(Debug, Clone)]
enum Number {
    Counter(Counter),
    Gauge(Gauge),
}

#[derive(Debug)]
struct Named {
    family: String,
    labels: String,
    number: Number,
}

impl Named {
    fn is_held(&self) -> bool {
        match &self.number {
            Number::Counter(c) => Arc::strong_count(&c.0) > 1,
            Number::Gauge(g) => Arc::strong_count(&g.0) > 1,
        }
    }
}

/// Names are registered when configuration changes; requests only touch the handles.
#[derive(Debug, Default)]
pub struct Stats {
    named: Mutex<BTreeMap<String, Named>>,
}

impl Stats {
    /// The counter of that name, made on first use.
    pub fn counter(&self, scope: Scope<'_>, name: &str) -> Counter {
        match self.number(scope, name, || Number::Counter(Counter::default())) {
            Number::Counter(counter) => counter,
            // A name that is a gauge already: count where nobody sees it rather than corrupt the gauge.
            Number::Gauge(_) => Counter::default(),
        }
    }

    /// The gauge of that name, made on first use.
    pub fn gauge(&self, scope: Scope<'_>, name: &str) -> Gauge {
        match self.number(scope, name, || Number::Gauge(Gauge::default())) {
            Number::Gauge(gauge) => gauge,
            Number::Counter(_) => Gauge::default(),
        }
    }

    /// Shows a counter that was counted with before it had a name. A name that is taken stays with its counter.
    pub fn adopt(&self, scope: Scope<'_>, name: &str, counter: &Counter) {
        self.number(scope, name, || Number::Counter(counter.clone()));
    }

    fn number(&self, scope: Scope<'_>, name: &str, fresh: impl FnOnce() -> Number) -> Number {
        let (prefix, family, label) = scope.parts();
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        let mut family = format!("{family}{name}");
        if !matches!(scope, Scope::Own(_)) {
            family = family.replace('.', "_");
            let code = code_class(name);
            if let Some((stem, tag, code)) = code {
                family.truncate(family.len() - (name.len() - stem.len()));
                family.push_str(if tag == "envoy_response_code_class" {
                    "_xx"
                } else {
                    ""
                });
                pairs.push((tag, code));
            }
        }
        pairs.extend(label);
        if let Scope::Own(own) = scope {
            pairs.extend(own);
        }
        let labels = text::labels(pairs.iter().map(|(n, v)| (*n, (*v).into())));
        let key = match scope {
            Scope::Own(_) if !labels.is_empty() => format!("{name}{{{labels}}}"),
            _ => format!("{prefix}{name}"),
        };
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named
            .entry(key)
            .or_insert_with(|| Named {
                family,
                labels,
                number: fresh(),
            })
            .number
            .clone()
    }

    /// `name: value` lines in order, as Envoy's `/stats`; only names that contain `filter`.
    pub fn text(&self, filter: &str) -> String {
        let mut out = String::new();
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named.retain(|_, n| n.is_held());
        for (name, entry) in named.iter().filter(|(name, _)| name.contains(filter)) {
            // Writing to a String cannot fail.
            let _ = match &entry.number {
                Number::Counter(c) => writeln!(out, "{name}: {}", c.read()),
                Number::Gauge(g) => writeln!(out, "{name}: {}", g.read()),
            };
        }
        out
    }

    pub(super) fn prometheus(&self, out: &mut Page) {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named.retain(|_, n| n.is_held());
        for entry in named.values() {
            match &entry.number {
                Number::Counter(c) => out.counter(&entry.family, &entry.labels, c.read()),
                Number::Gauge(g) => out.gauge(&entry.family, &entry.labels, g.read()),
            }
        }
    }
}

/// `upstream_rq_2xx` → stem, class, `2`; `upstream_rq_503` → stem, code, `503`: Envoy's tag extraction.
fn code_class(name: &str) -> Option<(&str, &'static str, &str)> {
    let (stem, code) = name.rsplit_once('_')?;
    let digits = code.bytes().take_while(u8::is_ascii_digit).count();
    match (digits, &code[digits..]) {
        (1, "xx") => Some((stem, "envoy_response_code_class", &code[..1])),
        (3, "") => Some((stem, "envoy_response_code", code)),
        _ => None,
    }
}
