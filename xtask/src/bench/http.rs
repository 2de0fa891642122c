//! CPU time per HTTP/1.1 request through ripstop and its peers, as ratios within one run.
//!
//! Each proxy has one worker pinned to processor 0; load (wrk) and backend (nginx) share the others.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::Spread;
use super::process::{Running, cpu, pinned, rss, wait_for};
use super::report::{Bar, Report};
use config::Job;

mod config;

/// Of each measurement, interleaved; the median is what to quote.
const REPETITIONS: usize = 7;
const LOAD_SECONDS: u32 = 3;
const CONNECTIONS: u32 = 32;
const BACKEND: u16 = 18_200;
/// A proxy by itself is to end at a sidecar's size, however it was configured.
const MOST_MIB: f64 = 14.0;
const BODY: usize = 16 * 1024;

/// One kind of traffic, and how many times a peer's CPU per request ripstop may take at most.
struct Workload {
    name: &'static str,
    title: &'static str,
    path: &'static str,
    shape: Shape,
    /// A connection for each request.
    close: bool,
    bars: &'static [(&'static str, f64, &'static str)],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Hop,
    /// Two proxies, mutual TLS between them.
    Pair,
    /// ripstop alone: with few routes and rules, and with many.
    Policies,
}

const WORKLOADS: [Workload; 6] = [
    Workload {
        name: "W1",
        title: "HTTP/1.1, keep-alive, 5 bytes",
        path: "/",
        shape: Shape::Hop,
        close: false,
        bars: &[
            ("relay", 1.25, "1.25 × the raw relay"),
            ("haproxy", 1.0, "1.0 × HAProxy"),
            ("nginx", 0.9, "0.90 × nginx"),
            ("envoy", 0.35, "0.35 × Envoy"),
        ],
    },
    Workload {
        name: "W2",
        title: "two proxies with mutual TLS between them, HTTP/1.1, 5 bytes",
        path: "/",
        shape: Shape::Pair,
        close: false,
        bars: &[
            ("envoy", 0.27, "0.27 × Envoy's pair"),
            ("haproxy", 0.85, "0.85 × HAProxy's pair"),
        ],
    },
    Workload {
        name: "W5",
        title: "HTTP/1.1, 16 KiB of announced length",
        path: "/16k",
        shape: Shape::Hop,
        close: false,
        bars: &[
            ("nginx", 0.9, "0.90 × nginx"),
            ("envoy", 0.4, "0.40 × Envoy"),
        ],
    },
    Workload {
        name: "W5 chunked",
        title: "HTTP/1.1, 16 KiB in chunks",
        path: "/chunked",
        shape: Shape::Hop,
        close: false,
        bars: &[
            ("nginx", 0.9, "0.90 × nginx"),
            ("envoy", 0.4, "0.40 × Envoy"),
        ],
    },
    Workload {
        name: "W6",
        title: "a new client connection for each request, through a pair",
        path: "/",
        shape: Shape::Pair,
        close: true,
        bars: &[("envoy", 0.25, "0.25 × Envoy's pair")],
    },
    Workload {
        name: "W7",
        title: "500 routes and 50 authorization rules beside 1 and 1",
        path: "/",
        shape: Shape::Policies,
        close: false,
        bars: &[("ripstop, 1 route", 1.1, "1.10 × 1 route")],
    },
];

/// A proxy under measurement, or a pair of them.
struct Subject {
    name: &'static str,
    port: u16,
    processes: Vec<Running>,
    /// Before its first request, MiB.
    idle: f64,
    /// Microseconds of CPU per request, and requests per second.
    costs: Vec<f64>,
    rates: Vec<f64>,
}

impl Subject {
    fn cpu(&self) -> anyhow::Result<f64> {
        let mut seconds = 0.0;
        for process in &self.processes {
            seconds += cpu(process.pid())?.as_secs_f64();
        }
        Ok(seconds)
    }

    fn rss(&self) -> f64 {
        self.processes
            .iter()
            .map(|process| rss(process.pid()))
            .sum()
    }
}

/// What all workloads stand on.
struct Ground<'g> {
    root: &'g Path,
    ripstop: &'g Path,
    folder: &'g Path,
    /// The processors of load and backend.
    others: String,
}

pub(super) fn measure(root: &Path, ripstop: &Path, report: &mut Report) -> anyhow::Result<()> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    ensure!(
        cpus > 1,
        "one processor is not enough: load and backend would disturb what is measured"
    );
    let folder = tempfile::tempdir()?;
    let ground = Ground {
        root,
        ripstop,
        folder: folder.path(),
        others: format!("1-{}", cpus - 1),
    };
    keys(ground.folder)?;
    let _backend = ground.backend()?;
    for workload in &WORKLOADS {
        let mut subjects = ground.subjects(workload.shape)?;
        for _ in 0..REPETITIONS {
            for subject in &mut subjects {
                let before = subject.cpu()?;
                let requests = ground.load(subject.port, workload)?;
                let used = subject.cpu()? - before;
                subject.costs.push(used * 1e6 / requests);
                subject.rates.push(requests / f64::from(LOAD_SECONDS));
            }
        }
        print(workload, &subjects, report);
    }
    Ok(())
}

impl Ground<'_> {
    fn subjects(&self, shape: Shape) -> anyhow::Result<Vec<Subject>> {
        let names: &[&str] = match shape {
            Shape::Hop => &["ripstop", "envoy", "nginx", "haproxy", "relay"],
            Shape::Pair => &["ripstop", "envoy", "nginx", "haproxy"],
            Shape::Policies => &["ripstop", "ripstop, 1 route"],
        };
        let mut subjects = Vec::new();
        for (at, name) in names.iter().copied().enumerate() {
            let port = BACKEND + 1 + 2 * at as u16;
            let (to, keys) = (BACKEND, self.folder);
            let policies = |routes, rules| Job::Policies { to, routes, rules };
            let jobs = match shape {
                Shape::Hop => vec![(port, Job::Hop { to })],
                Shape::Policies if at == 0 => vec![(port, policies(500, 50))],
                Shape::Policies => vec![(port, policies(1, 1))],
                Shape::Pair => vec![
                    (port + 1, Job::Terminate { to, keys }),
                    (port, Job::Originate { to: port + 1, keys }),
                ],
            };
            let mut processes = Vec::new();
            for (port, job) in jobs {
                let process = Running::start(&mut self.proxy(name, port, job)?)?;
                wait_for(port).with_context(|| format!("{name} does not listen on {port}"))?;
                processes.push(process);
            }
            let mut subject = Subject {
                name,
                port,
                processes,
                idle: f64::NAN,
                costs: Vec::new(),
                rates: Vec::new(),
            };
            subject.idle = subject.rss();
            subjects.push(subject);
        }
        Ok(subjects)
    }

    fn proxy(&self, name: &str, port: u16, job: Job<'_>) -> anyhow::Result<Command> {
        let file = self.folder.join(format!("{port}.yaml"));
        let mut command = pinned("0");
        let text = match name {
            "envoy" => {
                let arguments = ["--concurrency", "1", "--disable-hot-restart", "-c"];
                command.arg(envoy(self.root)?).args(arguments).arg(&file);
                config::bootstrap(port, job)
            }
            "nginx" => {
                command.args(["nginx", "-c"]).arg(&file);
                config::nginx(self.folder, port, job)
            }
            "haproxy" => {
                command.args(["haproxy", "-db", "-f"]).arg(&file);
                config::haproxy(port, job)
            }
            "relay" => {
                command.arg(std::env::current_exe()?);
                command.args(["bench-peer", "relay"]);
                command.args([port.to_string(), BACKEND.to_string()]);
                String::new()
            }
            _ => {
                let arguments = ["proxy", "--workers", "1", "--bootstrap"];
                command.arg(self.ripstop).args(arguments).arg(&file);
                config::bootstrap(port, job)
            }
        };
        fs::write(&file, text)?;
        Ok(command)
    }

    fn backend(&self) -> anyhow::Result<Running> {
        let file = self.folder.join("backend.conf");
        fs::write(&file, config::backend(self.folder, BACKEND))?;
        fs::write(self.folder.join("16k"), vec![b'x'; BODY])?;
        let running = Running::start(pinned(&self.others).args(["nginx", "-c"]).arg(&file))?;
        wait_for(BACKEND).context("nginx does not listen: run scripts/prerequisites.sh bench")?;
        Ok(running)
    }

    /// Requests answered, as wrk counts them.
    fn load(&self, port: u16, workload: &Workload) -> anyhow::Result<f64> {
        let output = pinned(&self.others)
            .args(["wrk", "-t1"])
            .args([format!("-c{CONNECTIONS}"), format!("-d{LOAD_SECONDS}s")])
            .args(workload.close.then_some("-HConnection: close"))
            .arg(format!("http://127.0.0.1:{port}{}", workload.path))
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
}

fn print(workload: &Workload, subjects: &[Subject], report: &mut Report) {
    let Workload {
        name, title, shape, ..
    } = workload;
    report.section(&format!(
        "{name}: {title}; {CONNECTIONS} connections, one worker on one processor, {REPETITIONS} × {LOAD_SECONDS} s interleaved"
    ));
    println!(
        "  {:<16} {:>26} {:>16} {:>12} {:>10} {:>11}",
        "", "CPU µs per request", "beside ripstop", "requests/s", "RSS idle", "RSS after"
    );
    let mut medians = Vec::new();
    for subject in subjects {
        let costs = Spread::of(subject.costs.clone());
        medians.push((subject.name, costs.median()));
        let own = medians.first().map_or(f64::NAN, |(_, own)| *own);
        println!(
            "  {:<16} {:>10.1} ({:>5.1} –{:>6.1}) {:>14.2} × {:>12.0} {:>6.1} MiB {:>7.1} MiB",
            subject.name,
            costs.median(),
            costs.at(0.0),
            costs.at(1.0),
            costs.median() / own,
            Spread::of(subject.rates.clone()).median(),
            subject.idle,
            subject.rss(),
        );
    }
    let own = medians.first().map_or(f64::NAN, |(_, own)| *own);
    for (peer, most, text) in workload.bars {
        let peers = medians.iter().find(|(name, _)| name == peer);
        let ratio = peers.map_or(f64::NAN, |(_, cost)| own / cost);
        let met = ratio <= *most;
        report.judge(
            &format!("{name}: CPU per request"),
            &format!("{ratio:.2} × {peer}"),
            &Bar { text, met },
        );
    }
    if *name == "W1"
        && *shape == Shape::Hop
        && let Some(ripstop) = subjects.first()
    {
        report.figure(
            "RSS of `ripstop proxy` once it has read YAML",
            &format!("{:.1} MiB", ripstop.idle),
            Some(Bar {
                text: "a sidecar's 14 MiB",
                met: ripstop.idle < MOST_MIB,
            }),
        );
    }
}

/// An authority and what a client and a server show each other: P-256, as the mesh has them.
fn keys(folder: &Path) -> anyhow::Result<()> {
    let openssl = |arguments: &str| -> anyhow::Result<()> {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(folder)
            .output()
            .context("openssl cannot be started: run scripts/prerequisites.sh bench")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "openssl {arguments}: {said}");
        Ok(())
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!(
        "req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /O=cluster.local"
    ))?;
    for (name, identity) in [("client", config::CLIENT), ("server", config::SERVER)] {
        fs::write(
            folder.join(format!("{name}.ext")),
            format!(
                "subjectAltName=URI:{identity},DNS:{name}\nextendedKeyUsage=serverAuth,clientAuth\n"
            ),
        )?;
        openssl(&format!(
            "req -new {key} -keyout {name}.key -out {name}.csr -subj /O=cluster.local"
        ))?;
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.pem"
        ))?;
        let both =
            ["pem", "key"].map(|kind| fs::read_to_string(folder.join(format!("{name}.{kind}"))));
        let [certificate, key] = both;
        fs::write(folder.join(format!("{name}.both")), certificate? + &key?)?;
    }
    Ok(())
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
