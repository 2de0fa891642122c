//! One record per request; every label, log field and span attribute derives from it.
//!
//! ```text
//! record.rs   what happened, borrowed from where it happened
//! labels.rs   Istio's metric labels, a row each
//! metrics.rs  per-worker shards of Istio's metrics → Prometheus text; metrics/stats.rs Envoy's named counters
//! access.rs   access-log operators, a row each → text and JSON lines; access/sink.rs writes them
//! trace.rs    W3C and B3 contexts: read, continued, started, or passed on unchanged
//! span.rs     span attributes, a row each; export.rs sends spans over OTLP
//! worker.rs   what a proxy's worker holds of all this
//! ```

pub mod access;
pub mod export;
pub mod labels;
pub mod metrics;
pub mod record;
pub mod rng;
pub mod span;
pub mod trace;
pub mod worker;

pub use metrics::Registry;
pub use metrics::stats::{Counter, Gauge, Scope, Stats};
pub use record::Record;
pub use rng::Rng;
pub use worker::Worker;
