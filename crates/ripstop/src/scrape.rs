//! Metrics pages of many proxies → one page for the whole mesh, served on one address.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use ripstop_control::api::message::Workload;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::Client;
use crate::replica::METRICS;

/// For one page: a proxy that does not answer is left out, not waited for.
const PATIENCE: Duration = Duration::from_secs(2);
const MAX_PAGE: usize = 64 << 20;

/// Who is scraped.
#[derive(Clone)]
pub(crate) struct Targets {
    /// Instance name → where.
    own: Arc<Mutex<BTreeMap<String, SocketAddr>>>,
    /// Knows who has joined by `ripstop run`.
    control: Client,
}

impl Targets {
    pub(crate) fn new(control: Client) -> Targets {
        Targets {
            own: Arc::default(),
            control,
        }
    }

    pub(crate) fn set(&self, instance: String, at: SocketAddr) {
        self.own
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(instance, at);
    }

    pub(crate) fn remove(&self, instance: &str) {
        self.own
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(instance);
    }

    /// Everybody's metrics, as one page.
    async fn page(&self) -> String {
        let own = self
            .own
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut targets = self.joined().await;
        targets.extend(own.clone());
        let mut scrapes = JoinSet::new();
        for (instance, at) in targets {
            scrapes.spawn(async move { (instance, fetch(at, "/metrics").await) });
        }
        let mut pages = BTreeMap::new();
        while let Some(scraped) = scrapes.join_next().await {
            if let Ok((instance, page)) = scraped
                // Who joined may have left; a stock Envoy's agent has no such page.
                && (page.is_some() || own.contains_key(&instance))
            {
                pages.insert(instance, page);
            }
        }
        merge(&pages)
    }

    /// Every workload of this host that the control plane knows; none while it is away.
    async fn joined(&self) -> BTreeMap<String, SocketAddr> {
        let asked = self.control.fetch::<Vec<Workload>>("/v1/workloads");
        let (Ok(Ok(workloads)), Ok(here)) = (timeout(PATIENCE, asked).await, crate::place::here())
        else {
            return BTreeMap::new();
        };
        let alive = workloads
            .into_iter()
            .filter(|workload| workload.alive && workload.host == here);
        let at = |workload: &Workload| (workload.addresses.transport, METRICS[0]).into();
        alive
            .map(|workload| (workload.id.clone(), at(&workload)))
            .collect()
    }
}

/// `GET path`; `None` when it is not answered with 200 in time.
pub(crate) async fn fetch(at: SocketAddr, path: &str) -> Option<String> {
    let exchange = async {
        let stream = TcpStream::connect(at).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .ok()?;
        tokio::spawn(connection);
        let request = Request::get(path)
            .header(header::HOST, at.to_string())
            .body(Empty::<Bytes>::new())
            .ok()?;
        let response = sender.send_request(request).await.ok()?;
        if response.status() != StatusCode::OK {
            return None;
        }
        let body = Limited::new(response.into_body(), MAX_PAGE)
            .collect()
            .await
            .ok()?;
        String::from_utf8(body.to_bytes().to_vec()).ok()
    };
    timeout(PATIENCE, exchange).await.ok().flatten()
}

/// One family's lines; every sample gets the label `instance`, so that two proxies' series stay two.
#[derive(Default)]
struct Family {
    head: Vec<String>,
    samples: Vec<String>,
}

/// `None` for who did not answer: it is counted as down.
fn merge(pages: &BTreeMap<String, Option<String>>) -> String {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let up = families.entry("up".to_owned()).or_default();
    up.head = vec![
        "# HELP up Whether the proxy answered this scrape.".to_owned(),
        "# TYPE up gauge".to_owned(),
    ];
    for (instance, page) in pages {
        up.samples.push(format!(
            "up{{instance=\"{instance}\"}} {}",
            u8::from(page.is_some())
        ));
    }
    for (instance, page) in pages {
        let mut family = String::new();
        // A proxy's head lines count where no earlier one gave any.
        let mut heads: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in page.iter().flat_map(|page| page.lines()) {
            if let Some(rest) = line.strip_prefix("# ") {
                let mut words = rest.split(' ');
                if let (Some("HELP" | "TYPE"), Some(name)) = (words.next(), words.next()) {
                    family = name.to_owned();
                    heads
                        .entry(family.clone())
                        .or_default()
                        .push(line.to_owned());
                }
            } else if let Some(sample) = labelled(line, instance) {
                let name = sample.split(['{', ' ']).next().unwrap_or_default();
                // `_bucket`, `_sum` and `_count` belong to the histogram above them.
                let owner = if name.starts_with(&family) && !family.is_empty() {
                    &family
                } else {
                    name
                };
                families
                    .entry(owner.to_owned())
                    .or_default()
                    .samples
                    .push(sample);
            }
        }
        for (name, head) in heads {
            let family = families.entry(name).or_default();
            if family.head.is_empty() {
                family.head = head;
            }
        }
    }
    families
        .into_values()
        .flat_map(|family| family.head.into_iter().chain(family.samples))
        .map(|line| line + "\n")
        .collect()
}

fn labelled(line: &str, instance: &str) -> Option<String> {
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    match line.split_once('{') {
        Some((name, rest)) if rest.starts_with('}') => {
            Some(format!("{name}{{instance=\"{instance}\"{rest}"))
        }
        Some((name, rest)) => Some(format!("{name}{{instance=\"{instance}\",{rest}")),
        None => line
            .split_once(' ')
            .map(|(name, value)| format!("{name}{{instance=\"{instance}\"}} {value}")),
    }
}

/// Serves the page at `/metrics` and `/stats/prometheus` until dropped.
pub(crate) async fn serve(listener: TcpListener, targets: Targets) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let targets = targets.clone();
                    connections.spawn(async move {
                        let service = service_fn(move |request| answer(request, targets.clone()));
                        let serving = hyper::server::conn::http1::Builder::new();
                        if let Err(error) = serving.serve_connection(TokioIo::new(stream), service).await {
                            tracing::debug!(%error, "scrape");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a scrape");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    targets: Targets,
) -> Result<Response<Full<Bytes>>, hyper::http::Error> {
    match request.uri().path() {
        "/metrics" | "/stats/prometheus" => Response::builder()
            .header(header::CONTENT_TYPE, "text/plain; version=0.0.4")
            .body(Full::new(targets.page().await.into())),
        _ => Response::builder()
            .status(StatusCode::NOT_FOUND)
            .body(Full::new("metrics are at /metrics\n".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_become_one() {
        let page = "# HELP h Time.\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 2\nh_count{} 1\n\n# TYPE c counter\nc{a=\"b\"} 3\n";
        let pages = BTreeMap::from([
            ("a".to_owned(), Some(page.to_owned())),
            (
                "b".to_owned(),
                Some("# TYPE c counter\nc{a=\"b\"} 4\n".to_owned()),
            ),
            ("gone".to_owned(), None),
        ]);
        assert_eq!(
            merge(&pages),
            "# TYPE c counter\nc{instance=\"a\",a=\"b\"} 3\nc{instance=\"b\",a=\"b\"} 4\n\
             # HELP h Time.\n# TYPE h histogram\nh_bucket{instance=\"a\",le=\"1\"} 1\nh_sum{instance=\"a\"} 2\nh_count{instance=\"a\"} 1\n\
             # HELP up Whether the proxy answered this scrape.\n# TYPE up gauge\n\
             up{instance=\"a\"} 1\nup{instance=\"b\"} 1\nup{instance=\"gone\"} 0\n"
        );
    }
}
