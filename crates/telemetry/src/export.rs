//! Spans → a collector, over OTLP with gRPC or HTTP/protobuf, from a bounded queue by a thread of its own.
//!
//! A full queue or a failing collector loses spans and counts them; it never delays a request.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::metrics::stats::{Counter, Scope, Stats};
use crate::record::Record;
use crate::span;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// To `http://HOST:4317`.
    Grpc,
    /// To `http://HOST:4318/v1/traces`; a URL without a path means that one, as OTEL_EXPORTER_OTLP_ENDPOINT does.
    Http,
}

#[derive(Debug, Clone)]
pub struct Settings {
    pub transport: Transport,
    /// `http://…` only: the mesh's own mTLS is what protects it.
    pub endpoint: String,
    /// `service.name`; `orders.shop` as Istio has it.
    pub service_name: String,
    /// Further resource attributes (`host.name`, `k8s.pod.name` …).
    pub resource: Vec<(String, String)>,
    /// Spans waiting to be sent.
    pub queue: usize,
    /// Spans of one request to the collector.
    pub batch: usize,
    /// Longest time a span waits for its batch to fill.
    pub interval: Duration,
    /// Of one request to the collector.
    pub timeout: Duration,
}

impl Settings {
    pub fn new(transport: Transport, endpoint: &str, service_name: &str) -> Settings {
        Settings {
            transport,
            endpoint: endpoint.to_owned(),
            service_name: service_name.to_owned(),
            resource: Vec::new(),
            queue: 4096,
            batch: 512,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(10),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("`{0}` is not an http:// URL: spans leave in plain text, inside the mesh's own mTLS")]
    Endpoint(String),
    #[error("cannot set up the span exporter: {0}")]
    Build(#[from] ExporterBuildError),
    #[error("cannot start the span exporter's thread: {0}")]
    Thread(#[from] std::io::Error),
    #[error("the span exporter ended while it was set up")]
    Ended,
}

enum Order {
    Span(Box<SpanData>),
    /// Everything before it is sent, or has failed, when the answer comes.
    Flush(oneshot::Sender<()>),
}

/// The entrance to the queue; cheap to clone, one per worker.
#[derive(Debug, Clone)]
pub struct Spans {
    queue: mpsc::Sender<Order>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Counts {
    sent: Counter,
    dropped: Counter,
    failed: Counter,
}

impl Spans {
    /// Starts the exporter. Its counters are `ripstop_spans_total` with `result` sent, dropped (the queue was full) or
    /// failed (the collector did not take them).
    pub fn start(settings: Settings, stats: &Stats) -> Result<Spans, ExportError> {
        if !settings.endpoint.starts_with("http://") {
            return Err(ExportError::Endpoint(settings.endpoint));
        }
        let count =
            |result| stats.counter(Scope::Own(&[("result", result)]), "ripstop_spans_total");
        let counts = Arc::new(Counts {
            sent: count("sent"),
            dropped: count("dropped"),
            failed: count("failed"),
        });
        let (queue, orders) = mpsc::channel(settings.queue.max(1));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (ready, built) = std::sync::mpsc::sync_channel(1);
        let thread_counts = Arc::clone(&counts);
        std::thread::Builder::new()
            .name("spans".into())
            .spawn(move || {
                runtime.block_on(async move {
                    // The transports must be built inside their runtime.
                    match exporter(&settings) {
                        Ok(exporter) => {
                            let _ = ready.send(Ok(()));
                            send_all(orders, exporter, &settings, &thread_counts).await;
                        }
                        Err(error) => {
                            let _ = ready.send(Err(error));
                        }
                    }
                });
            })?;
        built.recv().map_err(|_| ExportError::Ended)??;
        Ok(Spans { queue, counts })
    }

    /// Queues the record's span, if its trace is exported here. Never waits.
    pub fn push(&self, record: &Record<'_>) {
        let Some(span) = span::of(record) else { return };
        if self.queue.try_send(Order::Span(Box::new(span))).is_err() {
            self.counts.dropped.inc();
        }
    }

    /// Sends what is queued, within `limit`. `false`: time ran out.
    pub async fn flush(&self, limit: Duration) -> bool {
        let (done, wait) = oneshot::channel();
        let all = async { self.queue.send(Order::Flush(done)).await.is_ok() && wait.await.is_ok() };
        tokio::time::timeout(limit, all).await.unwrap_or(false)
    }

    /// Spans lost because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.read()
    }
}

/// Where spans go over HTTP (OpenTelemetry Protocol Exporter, "Endpoint URLs for OTLP/HTTP").
fn traces(endpoint: &str) -> String {
    let base = endpoint.trim_end_matches('/');
    let authority = base.strip_prefix("http://").unwrap_or(base);
    match authority.contains('/') {
        true => endpoint.to_owned(),
        false => format!("{base}/v1/traces"),
    }
}

fn exporter(settings: &Settings) -> Result<SpanExporter, ExporterBuildError> {
    let builder = SpanExporter::builder();
    let mut exporter = match settings.transport {
        Transport::Grpc => builder
            .with_tonic()
            .with_endpoint(&settings.endpoint)
            .with_timeout(settings.timeout)
            .build()?,
        Transport::Http => builder
            .with_http()
            .with_http_client(HyperClient::with_default_connector(settings.timeout, None))
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(traces(&settings.endpoint))
            .with_timeout(settings.timeout)
            .build()?,
    };
    let attributes = settings
        .resource
        .iter()
        .map(|(k, v)| KeyValue::new(k.clone(), v.clone()));
    exporter.set_resource(
        &Resource::builder_empty()
            .with_service_name(settings.service_name.clone())
            .with_attributes(attributes)
            .build(),
    );
    Ok(exporter)
}

/// Gathers batches until every sender is gone.
async fn send_all(
    mut orders: mpsc::Receiver<Order>,
    exporter: SpanExporter,
    settings: &Settings,
    counts: &Counts,
) {
    let mut healthy = true;
    while let Some(first) = orders.recv().await {
        let (mut batch, mut flushes) = (Vec::new(), Vec::new());
        let due = Instant::now() + settings.interval;
        let mut next = Some(first);
        while let Some(order) = next.take() {
            match order {
                Order::Span(span) => batch.push(*span),
                Order::Flush(done) => flushes.push(done),
            }
            if batch.len() < settings.batch && flushes.is_empty() {
                next = tokio::time::timeout_at(due, orders.recv())
                    .await
                    .ok()
                    .flatten();
            }
        }
        if !batch.is_empty() {
            let size = batch.len() as u64;
            match exporter.export(batch).await {
                Ok(()) => {
                    counts.sent.add(size);
                    healthy = true;
                }
                Err(error) => {
                    counts.failed.add(size);
                    // Once per outage.
                    if std::mem::replace(&mut healthy, false) {
                        tracing::warn!(%error, endpoint = settings.endpoint, "spans are not accepted");
                    }
                }
            }
        }
        for done in flushes {
            // The asker may have stopped waiting.
            let _ = done.send(());
        }
    }
}
