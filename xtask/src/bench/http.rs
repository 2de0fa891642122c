//! CPU time per HTTP/1.1 request through ripstop and its peers, as ratios within one run.
//!
//! Each proxy has one worker pinned to processor 0; load (wrk) and backend (nginx) share the others.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::Spread;
use super::process::{Running, cpu, pinned, rss, wait_for};
use super::report::{Bar, Report};

/// Of each measurement, interleaved; the median is what to quote.
const REPETITIONS: usize = 7;
const LOAD_SECONDS: u32 = 3;
const CONNECTIONS: u32 = 32;
const BACKEND: u16 = 18_200;
/// A proxy by itself is to end at a sidecar's size, however it was configured.
const MOST_MIB: f64 = 14.0;

/// A proxy under measurement.
struct Subject {
    name: &'static str,
    port: u16,
    process: Running,
    /// Before its first request, MiB.
    idle: f64,
    /// Microseconds of CPU per request, and requests per second.
    costs: Vec<f64>,
    rates: Vec<f64>,
}

pub(super) fn measure(root: &Path, ripstop: &Path, report: &mut Report) -> anyhow::Result<()> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    ensure!(
        cpus > 1,
        "one processor is not enough: load and backend would disturb what is measured"
    );
    let others = format!("1-{}", cpus - 1);
    let folder = tempfile::tempdir()?;
    let _backend = backend(folder.path(), &others)?;
    let mut subjects = subjects(root, ripstop, folder.path())?;
    for _ in 0..REPETITIONS {
        for subject in &mut subjects {
            let before = cpu(subject.process.pid())?;
            let requests = load(subject.port, &others)?;
            let used = cpu(subject.process.pid())? - before;
            subject.costs.push(used.as_secs_f64() * 1e6 / requests);
            subject.rates.push(requests / f64::from(LOAD_SECONDS));
        }
    }
    print(subjects, report);
    Ok(())
}

fn subjects(root: &Path, ripstop: &Path, folder: &Path) -> anyhow::Result<Vec<Subject>> {
    let mut subjects = Vec::new();
    for (at, name) in ["ripstop", "envoy", "nginx", "haproxy"]
        .into_iter()
        .enumerate()
    {
        let port = BACKEND + 1 + at as u16;
        let file = folder.join(format!("{name}.yaml"));
        let mut command = pinned("0");
        let text = match name {
            "ripstop" => {
                let arguments = ["proxy", "--workers", "1", "--bootstrap"];
                command.arg(ripstop).args(arguments).arg(&file);
                bootstrap(port)
            }
            "envoy" => {
                let arguments = ["--concurrency", "1", "--disable-hot-restart", "-c"];
                command.arg(envoy(root)?).args(arguments).arg(&file);
                bootstrap(port)
            }
            "nginx" => {
                command.args(["nginx", "-c"]).arg(&file);
                let pass =
                    "proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection '';";
                nginx(folder, port, pass)
            }
            _ => {
                command.args(["haproxy", "-db", "-f"]).arg(&file);
                haproxy(port)
            }
        };
        fs::write(&file, text)?;
        let process = Running::start(&mut command)?;
        wait_for(port).with_context(|| format!("{name} does not listen on {port}"))?;
        subjects.push(Subject {
            name,
            port,
            idle: rss(process.pid()),
            process,
            costs: Vec::new(),
            rates: Vec::new(),
        });
    }
    Ok(subjects)
}

fn print(subjects: Vec<Subject>, report: &mut Report) {
    report.section(&format!(
        "HTTP/1.1, keep-alive, {CONNECTIONS} connections, one worker on one processor, {REPETITIONS} × {LOAD_SECONDS} s interleaved"
    ));
    println!(
        "  {:<10} {:>26} {:>16} {:>12} {:>10} {:>11}",
        "", "CPU µs per request", "beside ripstop", "requests/s", "RSS idle", "RSS after"
    );
    let mut baseline = None;
    let mut standalone = f64::NAN;
    for subject in subjects {
        let costs = Spread::of(subject.costs);
        let baseline = *baseline.get_or_insert(costs.median());
        println!(
            "  {:<10} {:>10.1} ({:>5.1} –{:>6.1}) {:>14.2} × {:>12.0} {:>6.1} MiB {:>7.1} MiB",
            subject.name,
            costs.median(),
            costs.at(0.0),
            costs.at(1.0),
            costs.median() / baseline,
            Spread::of(subject.rates).median(),
            subject.idle,
            rss(subject.process.pid()),
        );
        if subject.name == "ripstop" {
            standalone = subject.idle;
        }
    }
    let figure = format!("{standalone:.1} MiB");
    let met = standalone < MOST_MIB;
    let text = "a sidecar's 14 MiB";
    report.figure(
        "RSS of `ripstop proxy` once it has read YAML",
        &figure,
        Some(Bar { text, met }),
    );
}

fn nginx(folder: &Path, port: u16, location: &str) -> String {
    let folder = folder.display();
    format!(
        "daemon off; master_process off; pid {folder}/nginx-{port}.pid; error_log {folder}/nginx-{port}.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; keepalive_requests 1000000;\n\
         upstream b {{ server 127.0.0.1:{BACKEND}; keepalive 64; }}\n\
         server {{ listen 127.0.0.1:{port}; location / {{ {location} }} }} }}\n"
    )
}

fn haproxy(port: u16) -> String {
    format!(
        "global\n  nbthread 1\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  http-reuse always\n\
         listen bench\n  bind 127.0.0.1:{port}\n  server b 127.0.0.1:{BACKEND}\n"
    )
}

fn backend(folder: &Path, processors: &str) -> anyhow::Result<Running> {
    let file = folder.join("backend.conf");
    fs::write(&file, nginx(folder, BACKEND, "return 200 'hello';"))?;
    let running = Running::start(pinned(processors).args(["nginx", "-c"]).arg(&file))?;
    wait_for(BACKEND).context("nginx does not listen: run scripts/prerequisites.sh bench")?;
    Ok(running)
}

/// The same for both: one listener, one route, one cluster.
fn bootstrap(port: u16) -> String {
    format!(
        r#"
static_resources:
  listeners:
  - name: bench
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          route_config:
            virtual_hosts:
            - {{name: b, domains: ["*"], routes: [{{match: {{prefix: "/"}}, route: {{cluster: b, retry_policy: {{retry_on: connect-failure, num_retries: 2}}}}}}]}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: b
    type: STATIC
    load_assignment:
      cluster_name: b
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {BACKEND}}}}}}}}}]}}]
"#
    )
}

fn envoy(root: &Path) -> anyhow::Result<PathBuf> {
    let libraries = root.join(".venv/lib");
    let found = fs::read_dir(&libraries)
        .into_iter()
        .flatten()
        .flatten()
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
        .find(|file| file.is_file());
    found.with_context(|| {
        format!(
            "no Envoy under {}: run scripts/prerequisites.sh bench",
            libraries.display()
        )
    })
}

/// Requests answered, as wrk counts them.
fn load(port: u16, processors: &str) -> anyhow::Result<f64> {
    let output = pinned(processors)
        .args(["wrk", "-t1"])
        .args([format!("-c{CONNECTIONS}"), format!("-d{LOAD_SECONDS}s")])
        .arg(format!("http://127.0.0.1:{port}/"))
        .output()
        .context("wrk cannot be started: run scripts/prerequisites.sh bench")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        !text.contains("Non-2xx"),
        "not every answer was a good one: {text}"
    );
    let line = text.lines().find(|line| line.contains("requests in"));
    let requests = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    requests.with_context(|| format!("wrk said: {text}"))
}
