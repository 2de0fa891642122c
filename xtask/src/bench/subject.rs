//! A proxy and its peers, or pairs of them, ready to be measured: processes, ports, keys, configuration.
//!
//! Each proxy has one worker pinned to processor 0; load and backend share the others.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::process::{Running, cpu, pinned, rss, wait_for};
use config::{Job, Kind, Tls};

mod config;

pub(super) use config::UNARY;

pub(super) const BACKEND: u16 = 18_200;
/// The same over HTTP/2.
const HTTP2_BACKEND: u16 = 18_199;
const BODY: usize = 16 * 1024;
/// Before a program: as many descriptors as it may have.
pub(super) const ROOMY: [&str; 4] = ["sh", "-c", "ulimit -n $(ulimit -Hn); exec \"$@\"", "sh"];
/// What a gRPC client sends, in the folder of a ground.
const MESSAGE: &str = "message";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Hop,
    Http2Hop,
    /// Two proxies, mutual TLS between them.
    Pair,
    /// ripstop alone: with few routes and rules, and with many.
    Policies,
    Http2Pair,
    TcpHop,
    TcpPair,
}

impl Shape {
    fn is_pair(self) -> bool {
        matches!(self, Shape::Pair | Shape::Http2Pair | Shape::TcpPair)
    }

    pub(super) fn is_http2(self) -> bool {
        matches!(self, Shape::Http2Hop | Shape::Http2Pair)
    }
}

/// A proxy under measurement, or a pair of them.
pub(super) struct Subject {
    pub(super) name: &'static str,
    pub(super) port: u16,
    processes: Vec<Running>,
    /// From the start of the first process until the last one listened.
    pub(super) ready: Duration,
    /// Before its first request, MiB.
    pub(super) idle: f64,
    /// Microseconds of CPU per request, and requests per second.
    pub(super) costs: Vec<f64>,
    pub(super) rates: Vec<f64>,
}

impl Subject {
    pub(super) fn cpu(&self) -> anyhow::Result<f64> {
        let mut seconds = 0.0;
        for process in &self.processes {
            seconds += cpu(process.pid())?.as_secs_f64();
        }
        Ok(seconds)
    }

    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.processes.iter().map(Running::pid)
    }

    pub(super) fn rss(&self) -> f64 {
        self.processes
            .iter()
            .map(|process| rss(process.pid()))
            .sum()
    }
}

/// What all workloads stand on.
pub(super) struct Ground<'g> {
    root: &'g Path,
    /// The program, below others if need be, without arguments.
    ripstop: &'g [OsString],
    folder: &'g Path,
    /// The processors of load and backend.
    pub(super) others: String,
}

impl<'g> Ground<'g> {
    pub(super) fn new(
        root: &'g Path,
        ripstop: &'g [OsString],
        folder: &'g Path,
    ) -> anyhow::Result<Ground<'g>> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        ensure!(
            cpus > 1,
            "one processor is not enough: load and backend would disturb what is measured"
        );
        keys(folder)?;
        let others = format!("1-{}", cpus - 1);
        Ok(Ground {
            root,
            ripstop,
            folder,
            others,
        })
    }

    pub(super) fn subjects(&self, shape: Shape) -> anyhow::Result<Vec<Subject>> {
        let names: &[&str] = match shape {
            Shape::Hop => &["ripstop", "envoy", "nginx", "haproxy", "relay"],
            // nginx speaks HTTP/2 to clients alone.
            Shape::Http2Hop => &["ripstop", "envoy", "haproxy", "relay"],
            Shape::Pair => &["ripstop", "envoy", "nginx", "haproxy"],
            Shape::TcpHop => &["ripstop", "envoy", "haproxy", "relay"],
            Shape::TcpPair | Shape::Http2Pair => &["ripstop", "envoy", "haproxy"],
            Shape::Policies => &["ripstop", "ripstop, 1 route"],
        };
        let numbered = names.iter().copied().enumerate();
        numbered
            .map(|(at, name)| self.subject(shape, at, name))
            .collect()
    }

    /// The subject at this place among those of a workload.
    pub(super) fn subject(
        &self,
        shape: Shape,
        at: usize,
        name: &'static str,
    ) -> anyhow::Result<Subject> {
        let port = BACKEND + 1 + 2 * at as u16;
        let keys = self.folder;
        let to = match shape.is_http2() {
            true => HTTP2_BACKEND,
            false => BACKEND,
        };
        let http = |routes, rules| Kind::Http { routes, rules };
        let kind = match shape {
            Shape::Hop | Shape::Pair => http(1, 0),
            Shape::Http2Hop | Shape::Http2Pair => Kind::Http2,
            Shape::Policies if at == 0 => http(500, 50),
            Shape::Policies => http(1, 1),
            Shape::TcpHop | Shape::TcpPair => Kind::Tcp,
        };
        let job = |to, tls| Job { to, kind, tls };
        let jobs = match shape.is_pair() {
            false => vec![(port, job(to, Tls::None))],
            true => vec![
                (port + 1, job(to, Tls::Terminate(keys))),
                (port, job(port + 1, Tls::Originate(keys))),
            ],
        };
        let mut processes = Vec::new();
        let start = Instant::now();
        for (port, job) in jobs {
            let process = Running::start(&mut self.proxy(name, port, job)?)?;
            wait_for(port).with_context(|| format!("{name} does not listen on {port}"))?;
            processes.push(process);
        }
        let ready = start.elapsed();
        let mut subject = Subject {
            name,
            port,
            processes,
            ready,
            idle: f64::NAN,
            costs: Vec::new(),
            rates: Vec::new(),
        };
        subject.idle = subject.rss();
        Ok(subject)
    }

    fn proxy(&self, name: &str, port: u16, job: Job<'_>) -> anyhow::Result<Command> {
        let file = self.folder.join(format!("{port}.yaml"));
        let to = job.to.to_string();
        let mut command = pinned("0");
        command.args(ROOMY);
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
                command.args([port.to_string(), to]);
                String::new()
            }
            _ => {
                let arguments = ["proxy", "--workers", "1", "--bootstrap"];
                command.args(self.ripstop).args(arguments).arg(&file);
                config::bootstrap(port, job)
            }
        };
        fs::write(&file, text)?;
        Ok(command)
    }

    /// The file of one gRPC message: its length before it.
    pub(super) fn message(&self) -> PathBuf {
        self.folder.join(MESSAGE)
    }

    pub(super) fn keys(&self) -> &Path {
        self.folder
    }

    pub(super) fn backend(&self) -> anyhow::Result<Running> {
        let file = self.folder.join("backend.conf");
        fs::write(&file, config::backend(self.folder, BACKEND, HTTP2_BACKEND))?;
        fs::write(self.folder.join("16k"), vec![b'x'; BODY])?;
        fs::write(self.message(), b"\0\0\0\0\x05hello")?;
        let running = Running::start(
            pinned(&self.others)
                .args(ROOMY)
                .args(["nginx", "-c"])
                .arg(&file),
        )?;
        wait_for(BACKEND).context("nginx does not listen: run scripts/prerequisites.sh bench")?;
        Ok(running)
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
