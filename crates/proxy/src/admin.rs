//! What a proxy tells about itself → Envoy's admin pages, metrics for scrapers, readiness for probes: HTTP on addresses and
//! a thread of their own, so that a large answer delays no request and a stuck worker can still be looked at.
//!
//! Every page is a row of [`PAGES`]. As in Envoy, what changes something wants POST.

mod certs;
mod clusters;
mod config_dump;
mod server;
mod stats;

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::Response;
use ripstop_telemetry::metrics::text;
use ripstop_wire::node::Node;
use tokio::sync::{Notify, oneshot};

use crate::Shared;

/// What the process logs, which is for the process to decide: `/logging` shows and changes it.
pub trait Levels: Send + Sync + 'static {
    /// A filter such as `info,ripstop_proxy=debug`.
    fn current(&self) -> String;

    /// The error says what is wrong with the filter.
    fn set(&self, filter: &str) -> Result<(), String>;
}

pub struct Options {
    pub shared: Arc<Shared>,
    /// Bound sockets, and what each of them shows.
    pub listeners: Vec<(TcpListener, Face)>,
    /// `None`: `/logging` is not served.
    pub levels: Option<Arc<dyn Levels>>,
    /// What the proxy calls itself towards a control plane; also says the version.
    pub node: Node,
    /// No control plane configures the proxy.
    pub is_static: bool,
}

/// Which pages an address shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// All of them; 15000.
    Admin,
    /// Metrics and readiness; 15020 and 15090.
    Metrics,
    /// `/healthz/ready` alone; 15021.
    Readiness,
}

/// The pages of a running proxy. Dropping it closes them.
pub struct Admin {
    quit: Arc<Notify>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Admin {
    /// Ready once somebody asked for `/quitquitquit`.
    pub async fn quit(&self) {
        self.quit.notified().await;
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the admin thread ended in a panic");
        }
    }
}

/// Serves until the answer is dropped.
pub fn serve(options: Options) -> io::Result<Admin> {
    let quit = Arc::new(Notify::new());
    let (end, ended) = oneshot::channel();
    let context = Arc::new(Context {
        shared: options.shared,
        levels: options.levels,
        node: options.node,
        is_static: options.is_static,
        quit: quit.clone(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut listeners = Vec::new();
    for (listener, face) in options.listeners {
        listener.set_nonblocking(true)?;
        let _entered = runtime.enter();
        listeners.push((tokio::net::TcpListener::from_std(listener)?, face));
    }
    let thread = std::thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || {
            runtime.block_on(async move {
                for (listener, face) in listeners {
                    let router = Router::new()
                        .fallback(respond)
                        .with_state((context.clone(), face));
                    tokio::spawn(async move { axum::serve(listener, router).await });
                }
                // Either way it is over: the sender is only ever dropped.
                let _ = ended.await;
            });
        })?;
    Ok(Admin {
        quit,
        end: Some(end),
        thread: Some(thread),
    })
}

/// What pages are made from.
struct Context {
    shared: Arc<Shared>,
    levels: Option<Arc<dyn Levels>>,
    node: Node,
    is_static: bool,
    quit: Arc<Notify>,
}

/// The parameters of a page.
struct Asked(BTreeMap<String, String>);

impl Asked {
    fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn wants_json(&self) -> bool {
        self.value("format") == Some("json")
    }

    /// Names that this parameter's regular expression is found in; without it, all.
    fn pattern(&self, name: &str) -> Result<Option<regex::Regex>, Answer> {
        let Some(pattern) = self.value(name).filter(|pattern| !pattern.is_empty()) else {
            return Ok(None);
        };
        regex::RegexBuilder::new(pattern)
            .size_limit(1 << 20)
            .build()
            .map(Some)
            .map_err(|error| {
                Answer::wrong(format!("{name} is not a regular expression: {error}\n"))
            })
    }
}

/// What a page says.
struct Answer {
    status: StatusCode,
    kind: &'static str,
    body: String,
}

impl Answer {
    fn text(body: impl Into<String>) -> Answer {
        Answer {
            status: StatusCode::OK,
            kind: "text/plain; charset=UTF-8",
            body: body.into(),
        }
    }

    fn json(value: &serde_json::Value) -> Answer {
        Answer {
            status: StatusCode::OK,
            kind: "application/json",
            body: format!("{value:#}\n"),
        }
    }

    fn wrong(body: impl Into<String>) -> Answer {
        Answer {
            status: StatusCode::BAD_REQUEST,
            ..Answer::text(body)
        }
    }

    fn with(self, status: StatusCode) -> Answer {
        Answer { status, ..self }
    }
}

/// One page.
struct Page {
    path: &'static str,
    /// It changes something: POST only.
    changes: bool,
    faces: &'static [Face],
    help: &'static str,
    render: fn(&Context, &Asked) -> Answer,
}

const ADMIN: &[Face] = &[Face::Admin];
const METRICS: &[Face] = &[Face::Admin, Face::Metrics];
const EVERY: &[Face] = &[Face::Admin, Face::Metrics, Face::Readiness];

const fn page(
    path: &'static str,
    faces: &'static [Face],
    help: &'static str,
    render: fn(&Context, &Asked) -> Answer,
) -> Page {
    Page {
        path,
        changes: false,
        faces,
        help,
        render,
    }
}

const fn change(
    path: &'static str,
    help: &'static str,
    render: fn(&Context, &Asked) -> Answer,
) -> Page {
    Page {
        path,
        changes: true,
        faces: ADMIN,
        help,
        render,
    }
}

const PAGES: &[Page] = &[
    page(
        "/certs",
        ADMIN,
        "certificates and trust roots in force",
        certs::page,
    ),
    page(
        "/clusters",
        ADMIN,
        "clusters and their members (?format=json)",
        clusters::page,
    ),
    page(
        "/config_dump",
        ADMIN,
        "the running configuration (?resource=, ?name_regex=, ?include_eds)",
        config_dump::page,
    ),
    change(
        "/drain_listeners",
        "end idle connections and close listeners (?graceful, ?inboundonly: go on accepting)",
        server::drain_listeners,
    ),
    change("/healthcheck/fail", "fail readiness", server::fail),
    change("/healthcheck/ok", "undo /healthcheck/fail", server::recover),
    page(
        "/healthz/ready",
        EVERY,
        "200 while ready, else 503",
        server::ready,
    ),
    page("/help", ADMIN, "this list", help),
    page("/hot_restart_version", ADMIN, "disabled", |_, _| {
        Answer::text("disabled\n")
    }),
    page(
        "/listeners",
        ADMIN,
        "listeners and their addresses (?format=json)",
        server::listeners,
    ),
    change(
        "/logging",
        "show or change what is logged (?level=LEVEL or ?filter=FILTER)",
        server::logging,
    ),
    page("/memory", ADMIN, "memory of this process", server::memory),
    page(
        "/metrics",
        METRICS,
        "metrics for Prometheus",
        stats::prometheus,
    ),
    change("/quitquitquit", "end the process", server::quit),
    page("/ready", ADMIN, "LIVE while ready, else 503", server::ready),
    page(
        "/server_info",
        ADMIN,
        "version, state, uptime, node",
        server::info,
    ),
    page(
        "/stats",
        ADMIN,
        "counters and gauges (?filter=REGEX, ?usedonly, ?format=json|prometheus)",
        stats::page,
    ),
    page(
        "/stats/prometheus",
        METRICS,
        "metrics for Prometheus",
        stats::prometheus,
    ),
];

async fn respond(
    State((context, face)): State<(Arc<Context>, Face)>,
    method: Method,
    uri: Uri,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let answer = answer(&context, face, &method, uri.path(), &Asked(query));
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, answer.kind),
        (header::CACHE_CONTROL, "no-cache, max-age=0"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    response
}

fn answer(context: &Context, face: Face, method: &Method, path: &str, asked: &Asked) -> Answer {
    if path == "/" && face == Face::Admin {
        return help(context, asked);
    }
    let found = PAGES
        .iter()
        .find(|page| page.path == path && page.faces.contains(&face));
    let Some(page) = found else {
        let text = format!("invalid path {path}; these are served:\n{}", list(face));
        return Answer::text(text).with(StatusCode::NOT_FOUND);
    };
    let allowed = match page.changes {
        true => *method == Method::POST,
        // As Envoy: what changes nothing may be posted to as well.
        false => matches!(*method, Method::GET | Method::HEAD | Method::POST),
    };
    match allowed {
        true => (page.render)(context, asked),
        false => {
            let wanted = if page.changes { "POST" } else { "GET" };
            let text = format!("{method} {path} is not allowed: use {wanted}\n");
            Answer::text(text).with(StatusCode::METHOD_NOT_ALLOWED)
        }
    }
}

fn help(_: &Context, _: &Asked) -> Answer {
    Answer::text(format!("admin commands are:\n{}", list(Face::Admin)))
}

fn list(face: Face) -> String {
    let shown = PAGES.iter().filter(|page| page.faces.contains(&face));
    shown
        .map(|page| {
            let post = if page.changes { " (POST)" } else { "" };
            format!("  {}{post}: {}\n", page.path, page.help)
        })
        .collect()
}

#[cfg(test)]
mod tests;
