//! `cargo xtask bench`: the release binary and its peers, interleaved → a table of what they cost. Asserts nothing.
//!
//! CPU per request is read from /proc and quoted as a ratio within one run: on a shared machine absolute times say
//! little. Each proxy has one worker pinned to processor 0; load (wrk) and backend (nginx) share the others.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

mod mesh;

/// Of each measurement; the median is what to quote.
const REPETITIONS: usize = 5;
const LOAD_SECONDS: u32 = 4;
const BACKEND: u16 = 18_200;

pub(crate) fn run(root: &Path) -> anyhow::Result<ExitCode> {
    let ripstop = match std::env::var_os("RIPSTOP_BIN") {
        Some(path) => PathBuf::from(path),
        None => root.join("target/release/ripstop"),
    };
    ensure!(
        ripstop.is_file(),
        "{} is missing: run `make bench`",
        ripstop.display()
    );
    println!(
        "binary        {} ({:.1} MiB)",
        ripstop.display(),
        fs::metadata(&ripstop)?.len() as f64 / 1048576.0
    );
    version(&ripstop)?;
    http(root, &ripstop)?;
    mesh::rss(&ripstop)?;
    Ok(ExitCode::SUCCESS)
}

/// A program that ends with its owner.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> anyhow::Result<Running> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Ok(Running(
            child.with_context(|| format!("cannot start {command:?}"))?,
        ))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whatever is wrong with it, it must not outlive the measurement.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Minimum, median and maximum.
fn spread(mut figures: Vec<f64>) -> (f64, f64, f64) {
    figures.sort_by(f64::total_cmp);
    let at = |share: usize| figures.get(share).copied().unwrap_or(f64::NAN);
    (
        at(0),
        at(figures.len() / 2),
        at(figures.len().saturating_sub(1)),
    )
}

fn version(ripstop: &Path) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for _ in 0..21 {
        let start = Instant::now();
        let status = Command::new(ripstop)
            .arg("--version")
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "--version failed");
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let (least, median, most) = spread(times);
    println!("--version     {median:.1} ms ({least:.1}–{most:.1})");
    Ok(())
}

/// A proxy under measurement.
struct Subject {
    name: &'static str,
    port: u16,
    process: Running,
}

fn http(root: &Path, ripstop: &Path) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let _backend = backend(folder.path())?;
    let mut subjects = Vec::new();
    for (name, port) in [("ripstop", 18_201), ("envoy", 18_202)] {
        let file = folder.path().join(format!("{name}.yaml"));
        fs::write(&file, bootstrap(port))?;
        let mut command = pinned("0");
        match name {
            "ripstop" => command
                .arg(ripstop)
                .args(["proxy", "--workers", "1", "--bootstrap"])
                .arg(&file),
            _ => command
                .arg(envoy(root)?)
                .args(["--concurrency", "1", "--disable-hot-restart", "-c"])
                .arg(&file),
        };
        subjects.push(Subject {
            name,
            port,
            process: Running::start(&mut command)?,
        });
    }
    subjects.push(nginx(folder.path(), 18_203)?);
    for subject in &subjects {
        wait_for(subject.port).with_context(|| format!("{} does not listen", subject.name))?;
    }
    println!(
        "\nHTTP/1.1, keep-alive, 32 connections, one worker on one processor, {REPETITIONS} × {LOAD_SECONDS} s interleaved"
    );
    println!(
        "{:<10} {:>24} {:>12} {:>10}",
        "proxy", "CPU µs per request", "requests/s", "RSS MiB"
    );
    let mut costs: Vec<Vec<f64>> = vec![Vec::new(); subjects.len()];
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); subjects.len()];
    for _ in 0..REPETITIONS {
        for (index, subject) in subjects.iter().enumerate() {
            let before = cpu(&subject.process)?;
            let (requests, seconds) = load(subject.port)?;
            let used = cpu(&subject.process)? - before;
            costs[index].push(used.as_secs_f64() * 1e6 / requests);
            rates[index].push(requests / seconds);
        }
    }
    let baseline = spread(costs[0].clone()).1;
    for (index, subject) in subjects.iter().enumerate() {
        let (least, median, most) = spread(costs[index].clone());
        let rate = spread(rates[index].clone()).1;
        let rss = rss_of(subject.process.0.id()).unwrap_or(f64::NAN);
        println!(
            "{:<10} {median:>8.1} ({least:.1}–{most:.1}) {rate:>12.0} {rss:>10.1}   ripstop is {:.2} ×",
            subject.name,
            baseline / median
        );
    }
    Ok(())
}

fn pinned(processors: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", processors]);
    command
}

fn nginx_config(folder: &Path, port: u16, location: &str) -> String {
    let folder = folder.display();
    format!(
        "worker_processes 1; daemon off; pid {folder}/nginx-{port}.pid; error_log {folder}/nginx-{port}.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; keepalive_requests 1000000;\n\
         upstream b {{ server 127.0.0.1:{BACKEND}; keepalive 64; }}\n\
         server {{ listen 127.0.0.1:{port}; location / {{ {location} }} }} }}\n"
    )
}

fn backend(folder: &Path) -> anyhow::Result<Running> {
    let file = folder.join("backend.conf");
    fs::write(&file, nginx_config(folder, BACKEND, "return 200 'hello';"))?;
    let running = Running::start(pinned("1").arg("nginx").arg("-c").arg(&file))?;
    wait_for(BACKEND).context("nginx does not listen: apt-get install nginx-light")?;
    Ok(running)
}

fn nginx(folder: &Path, port: u16) -> anyhow::Result<Subject> {
    let file = folder.join("nginx.conf");
    let location = "proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection '';";
    fs::write(&file, nginx_config(folder, port, location))?;
    let process = Running::start(pinned("0").arg("nginx").arg("-c").arg(&file))?;
    Ok(Subject {
        name: "nginx",
        port,
        process,
    })
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

fn wait_for(port: u16) -> anyhow::Result<()> {
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        match std::net::TcpStream::connect(("127.0.0.1", port)) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > patience => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Requests answered and seconds taken, as wrk counts them.
fn load(port: u16) -> anyhow::Result<(f64, f64)> {
    let output = pinned("1")
        .args([
            "wrk",
            "-t1",
            "-c32",
            &format!("-d{LOAD_SECONDS}s"),
            &format!("http://127.0.0.1:{port}/"),
        ])
        .output()
        .context("wrk cannot be started: apt-get install wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.contains("requests in"));
    let requests = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    let requests = requests.with_context(|| format!("wrk said: {text}"))?;
    Ok((requests, f64::from(LOAD_SECONDS)))
}

/// User and system time of a process and its children that still run (nginx's worker).
fn cpu(process: &Running) -> anyhow::Result<Duration> {
    let mut ticks = 0;
    for pid in family(process.0.id()) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the command's closing parenthesis utime and stime are the 12th and 13th fields (proc(5)).
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let field = |at: usize| {
            fields
                .get(at)
                .and_then(|field| field.parse::<u64>().ok())
                .unwrap_or_default()
        };
        ticks += field(11) + field(12);
    }
    ensure!(ticks > 0, "a measured process has gone");
    // USER_HZ is 100 on every Linux that runs this.
    Ok(Duration::from_millis(ticks * 10))
}

fn family(pid: u32) -> Vec<u32> {
    let children =
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let mut all = vec![pid];
    all.extend(
        children
            .split_whitespace()
            .filter_map(|child| child.parse::<u32>().ok()),
    );
    all
}

/// VmRSS in MiB.
fn rss_of(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}
