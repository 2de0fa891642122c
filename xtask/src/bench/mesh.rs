//! Whole meshes: what two sidecars add to the time of a connection (R11.1), and what a sidecar weighs.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::Spread;
use super::process::{Running, family, rss, status};
use super::report::{Bar, Report};

const ROUNDS: usize = 500;
const MOST_ADDED_MS: f64 = 5.0;

const SERVICES: usize = 20;
const USED: usize = 5;
const SETTLED: Duration = Duration::from_secs(60);
const MOST_MIB: f64 = 14.0;

/// Where a client outside the mesh finds the two servers.
const PUBLISHED: [(&str, u16); 2] = [("server", 18_210), ("client", 18_211)];

pub(super) fn connect(ripstop: &Path, report: &mut Report) -> anyhow::Result<()> {
    report.section(&format!(
        "time from connect() to the server's first line, ports without a protocol name, {ROUNDS} connections each, one at a \
         time,\ninterleaved with direct ones; ms, median and p99"
    ));
    println!(
        "  {:<52} {:>15} {:>15} {:>15} {:>10}",
        "", "direct", "through", "added", "first use"
    );
    let targets: Vec<String> = ["permissive", "strict"]
        .into_iter()
        .flat_map(|mode| PUBLISHED.map(|(kind, _)| (mode, kind)))
        .map(|(mode, kind)| format!("{mode}/{kind}={kind}={kind}.{mode}:7000"))
        .collect();
    let mut mesh = Mesh::up(ripstop, &connected()?, &client("dial", &targets)?)?;
    let mut times = Times::default();
    times.read(&mut mesh.output).with_context(|| mesh.said())?;
    let outside: Vec<String> = PUBLISHED
        .map(|(kind, port)| format!("unmeshed/{kind}={kind}=127.0.0.1:{port}"))
        .into();
    let mut dial = Command::new(std::env::current_exe()?);
    dial.args(["bench-peer", "dial", &ROUNDS.to_string()])
        .args(outside);
    let mut outside = Running::talking(dial.stdout(Stdio::piped()))?;
    let output = outside.0.stdout.take().context("it has an output")?;
    times.read(&mut BufReader::new(output))?;
    mesh.end()?;
    for (kind, who) in [
        ("server", "the server speaks first"),
        ("client", "the client speaks first"),
    ] {
        for (mode, how) in [
            ("permissive", "two sidecars, PERMISSIVE"),
            ("strict", "two sidecars, STRICT"),
            ("unmeshed", "one sidecar, client outside"),
        ] {
            times.report(report, &format!("{mode}/{kind}"), &format!("{how}: {who}"));
        }
    }
    Ok(())
}

/// What clients said of their dials, in ms, by name; `None`: it hung.
#[derive(Default)]
struct Times(BTreeMap<String, Vec<Option<f64>>>);

impl Times {
    fn read(&mut self, from: &mut impl BufRead) -> anyhow::Result<()> {
        for line in from.lines() {
            let line = line?;
            if line == "done" {
                return Ok(());
            }
            let (name, figure) = line.split_once(' ').context(line.clone())?;
            let time = figure.parse::<f64>().ok().map(|micros| micros / 1e3);
            self.0.entry(name.to_owned()).or_default().push(time);
        }
        anyhow::bail!("the client ended before it was done")
    }

    fn of(&self, name: &str) -> (Spread, usize) {
        let all = self.0.get(name).map(Vec::as_slice).unwrap_or_default();
        let times: Vec<f64> = all.iter().copied().flatten().collect();
        let hangs = all.len() - times.len();
        (Spread::of(times), hangs)
    }

    fn report(&self, report: &mut Report, name: &str, what: &str) {
        let (through, hangs) = self.of(name);
        let (direct, _) = self.of(&format!("{name}/direct"));
        let (first, _) = self.of(&format!("{name}/first"));
        let pair = |of: &dyn Fn(f64) -> f64| format!("{:.2} {:>7.2}", of(0.5), of(0.99));
        println!(
            "  {what:<52} {:>15} {:>15} {:>15} {:>10.1}",
            pair(&|share| direct.at(share)),
            pair(&|share| through.at(share)),
            pair(&|share| through.at(share) - direct.at(share)),
            first.median(),
        );
        let added = through.at(0.99) - direct.at(0.99);
        let met = added < MOST_ADDED_MS && hangs == 0;
        let text = "below 5 ms, no hang";
        report.judge(
            what,
            &format!("{added:.2} ms at p99, {hangs} hangs"),
            &Bar { text, met },
        );
    }
}

pub(super) fn memory(ripstop: &Path, report: &mut Report) -> anyhow::Result<()> {
    let used = (0..USED).map(|n| format!("http://service-{n}/"));
    let known = (USED..SERVICES).map(|n| format!("service-{n}"));
    let mut places: Vec<String> = used.chain(known).collect();
    places.push("$RIPSTOP_METRICS".to_owned());
    report.section(&format!(
        "a sidecar's memory: {SERVICES} services known, {USED} used, one scrape, {} s later",
        SETTLED.as_secs()
    ));
    let mut mesh = Mesh::up(ripstop, &twenty()?, &client("use", &places)?)?;
    let mut said = String::new();
    mesh.output.read_line(&mut said)?;
    ensure!(
        said == "done\n",
        "the client ended before it was done: {}",
        mesh.said()
    );
    std::thread::sleep(SETTLED);
    let sidecars = sidecars(mesh.process.pid());
    let of_client = sidecars.iter().find(|(name, _)| name.starts_with("client"));
    let (_, client) = of_client.context("the client's sidecar has gone")?;
    let of = |name: &str| status(*client, name).unwrap_or(f64::NAN);
    let text = "below 14 MiB";
    report.figure(
        "VmRSS of the sidecar that uses them",
        &format!("{:.1} MiB", of("VmRSS")),
        Some(Bar {
            text,
            met: of("VmRSS") < MOST_MIB,
        }),
    );
    let parts = format!(
        "{:.1} MiB heap and stacks, {:.1} MiB of the binary; {} threads",
        of("RssAnon"),
        of("RssFile"),
        of("Threads")
    );
    report.figure("  of these", &parts, None);
    let others = Spread::of(
        sidecars
            .iter()
            .filter(|(_, pid)| pid != client)
            .filter_map(|(_, pid)| status(*pid, "VmRSS"))
            .collect(),
    );
    let figure = format!("{:.1}–{:.1} MiB", others.at(0.0), others.at(1.0));
    report.figure("VmRSS of the sidecars that are called", &figure, None);
    let supervisor = status(mesh.process.pid(), "VmRSS").unwrap_or(f64::NAN);
    report.figure(
        "VmRSS of `ripstop up`",
        &format!("{supervisor:.1} MiB"),
        None,
    );
    let all = rss(mesh.process.pid());
    report.figure(
        "the whole mesh with its services",
        &format!("{all:.1} MiB"),
        None,
    );
    mesh.end()
}

/// The sidecars below a supervisor: the workload's name, as in the name of its log, and the process.
fn sidecars(supervisor: u32) -> Vec<(String, u32)> {
    family(supervisor)
        .into_iter()
        .filter_map(|pid| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
            let log = fs::read_link(format!("/proc/{pid}/fd/2")).ok()?;
            let name = log.file_name()?.to_string_lossy().into_owned();
            line.contains("--sidecar").then_some((name, pid))
        })
        .collect()
}

/// A mesh with a client inside that has something to tell.
struct Mesh {
    process: Running,
    output: BufReader<ChildStdout>,
    input: ChildStdin,
    folder: tempfile::TempDir,
}

impl Mesh {
    fn up(ripstop: &Path, mesh: &str, client: &str) -> anyhow::Result<Mesh> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("mesh.yaml");
        fs::write(&file, mesh)?;
        let log = fs::File::create(folder.path().join("log"))?;
        let mut command = Command::new(ripstop);
        command.arg("up").arg(&file).arg("--state");
        command.arg(folder.path().join("state"));
        command.args(["--exec", client]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let output = child.stdout.take().context("it has an output")?;
        let input = child.stdin.take().context("it has an input")?;
        Ok(Mesh {
            process: Running(child),
            output: BufReader::new(output),
            input,
            folder,
        })
    }

    /// What the mesh and its services wrote.
    fn said(&self) -> String {
        let said = fs::read_to_string(self.folder.path().join("log"));
        said.unwrap_or_else(|error| error.to_string())
    }

    /// Lets the client end, and the mesh with it.
    fn end(self) -> anyhow::Result<()> {
        let Mesh {
            mut process,
            output,
            input,
            folder,
        } = self;
        drop(input);
        let status = process.0.wait()?;
        drop(output);
        ensure!(status.success(), "the mesh ended with {status}");
        folder
            .close()
            .context("the mesh's folder cannot be removed")
    }
}

/// This program as a client inside a mesh; `words` reach it by way of a shell.
fn client(what: &str, words: &[String]) -> anyhow::Result<String> {
    let program = std::env::current_exe()?;
    let rounds = if what == "dial" {
        format!(" {ROUNDS}")
    } else {
        String::new()
    };
    Ok(format!(
        "exec '{}' bench-peer {what}{rounds} {}",
        program.display(),
        words.join(" ")
    ))
}

const HEAD: &str =
    "apiVersion: ripstop.dev/v1alpha1\nkind: Mesh\nmetadata: {name: bench}\nspec:\n  services:\n";

/// A server of this program.
fn server(kind: &str, port: u16) -> anyhow::Result<String> {
    let program = std::env::current_exe()?;
    Ok(format!(
        "    workloads: [{{command: ['{}', bench-peer, serve, {kind}, '{port}']}}]\n",
        program.display()
    ))
}

/// A server that speaks first and one that does not, in a namespace that takes plain text too and in one that does not.
fn connected() -> anyhow::Result<String> {
    let mut mesh = HEAD.to_owned();
    for mode in ["permissive", "strict"] {
        for (kind, port) in PUBLISHED {
            let publish = match mode {
                "permissive" => format!(", publish: {port}"),
                _ => String::new(),
            };
            mesh += &format!(
                "  - name: {kind}\n    namespace: {mode}\n    ports: [{{port: 7000{publish}}}]\n{}",
                server(kind, 7000)?
            );
        }
    }
    mesh += "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
             metadata: {name: default, namespace: strict}\nspec: {mtls: {mode: STRICT}}\n";
    Ok(mesh)
}

/// Services 0 to 4 run; the others are known by name only.
fn twenty() -> anyhow::Result<String> {
    let mut mesh = HEAD.to_owned();
    for n in 0..SERVICES {
        mesh += &format!(
            "  - name: service-{n}\n    ports: [{{name: http, port: 80, targetPort: 8080}}]\n"
        );
        if n < USED {
            mesh += &server("http", 8080)?;
        }
    }
    Ok(mesh)
}
