//! Mesh-wide settings, resolved: what the command line and the mesh file say over the defaults.

use std::time::Duration;

use ripstop_model::defaults::{self, Table};
use ripstop_model::intent::{DEFAULT_ROOT_NAMESPACE, mesh};
use ripstop_model::seam::Producer;
use ripstop_model::snapshot::http::{AccessLog, LogFormat, LogSink};

use crate::address::Ranges;

#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub trust_domain: String,
    pub root_namespace: String,
    /// The control plane's own host, for workloads that say nothing of theirs.
    pub host: String,
    pub defaults: mesh::Defaults,
    pub ranges: Ranges,
    /// Of proxies that the mesh configures; empty is off.
    pub access_logs: Vec<AccessLog>,
    pub tracing: Tracing,
    /// Addresses outside the mesh may be reached (`outboundTrafficPolicy: ALLOW_ANY`); else they are refused.
    pub allow_any: bool,
    /// What the drain of a workload's sidecar waits for at most.
    pub drain: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    /// `http://host:4318` or `grpc://host:4317`.
    pub otlp: Option<String>,
    /// Percent of new traces.
    pub sampling: f64,
    /// Whose hooks are put into applications.
    pub hooks: Vec<Producer>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            trust_domain: "cluster.local".to_owned(),
            root_namespace: DEFAULT_ROOT_NAMESPACE.to_owned(),
            host: String::new(),
            defaults: mesh::Defaults::Ripstop,
            ranges: Ranges::default(),
            access_logs: vec![AccessLog {
                sink: LogSink::Stdout,
                format: LogFormat::Text(defaults::ISTIO_LOG_TEXT.to_owned()),
                filter: None,
            }],
            tracing: Tracing {
                otlp: None,
                sampling: 100.0,
                hooks: mesh::Hooks::default().producers(),
            },
            allow_any: true,
            drain: mesh::DRAIN,
        }
    }
}

impl Settings {
    pub fn table(&self) -> &'static Table {
        match self.defaults {
            mesh::Defaults::Ripstop => &defaults::RIPSTOP,
            mesh::Defaults::Istio => &defaults::ISTIO,
        }
    }

    /// What a mesh file sets. The trust domain is the CA's and does not change under a running mesh: `start` reads it from the
    /// options alone.
    pub fn overlay(&mut self, mesh: &mesh::Mesh) {
        if let Some(defaults) = mesh.defaults {
            self.defaults = defaults;
        }
        if let Some(root) = &mesh.root_namespace {
            self.root_namespace.clone_from(root);
        }
        if let Some(log) = &mesh.access_log {
            self.access_logs = access_logs(log, &self.access_logs);
        }
        if let Some(drain) = mesh.termination_drain_duration {
            self.drain = drain;
        }
        if let Some(tracing) = &mesh.tracing {
            self.tracing.otlp.clone_from(&tracing.otlp);
            if let Some(sampling) = tracing.sampling {
                self.tracing.sampling = sampling;
            }
            if let Some(hooks) = &tracing.hooks {
                self.tracing.hooks = hooks.producers();
            }
        }
    }
}

/// The mesh file's log block over the log in force, which says where when the block does not.
fn access_logs(log: &mesh::AccessLog, present: &[AccessLog]) -> Vec<AccessLog> {
    let format = match log.encoding {
        Some(mesh::LogEncoding::Off) => return Vec::new(),
        Some(mesh::LogEncoding::Json) => LogFormat::Json(
            defaults::ISTIO_LOG_JSON
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        ),
        Some(mesh::LogEncoding::Text) | None => {
            LogFormat::Text(defaults::ISTIO_LOG_TEXT.to_owned())
        }
    };
    let sink = match log.path.as_deref() {
        Some("off") => return Vec::new(),
        Some("/dev/stdout") => LogSink::Stdout,
        Some("/dev/stderr") => LogSink::Stderr,
        Some(path) => LogSink::File(path.to_owned()),
        None => present
            .first()
            .map_or(LogSink::Stdout, |log| log.sink.clone()),
    };
    vec![AccessLog {
        sink,
        format,
        filter: None,
    }]
}
