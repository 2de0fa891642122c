//! Network namespaces on a bridge → hosts on which commands run, lose their cable and change their address.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use ripstop_testkit::process::Guard;
use ripstop_testkit::{program, wait};

/// For something to come about on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Says that we are in a user namespace of our own.
const INSIDE: &str = "RIPSTOP_TEST_HOSTS";
const LIMIT: Duration = Duration::from_secs(240);

/// Runs `test`, which is the test `name`, where namespaces may be made: for anybody but root that is a user namespace.
pub(crate) fn with_rights(name: &str, test: impl FnOnce()) {
    for needed in ["nft", "ip", "nsenter", "unshare", "python3", "tcpdump"] {
        program(needed);
    }
    if nix::unistd::geteuid().is_root() || std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let mut command = Command::new(program("unshare"));
    command
        .args(["--user", "--map-root-user", "--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1");
    let mut child = Guard::spawn(name, &mut command);
    let status = child.wait(LIMIT);
    eprintln!("{}{}", child.stdout(), child.stderr());
    assert!(
        status.success(),
        "in its namespace the test failed, as told above"
    );
}

/// As whom `ripstop` runs on the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    Root,
    Ordinary,
}

/// Both where that is possible.
pub(crate) fn callers() -> Vec<Caller> {
    // In a user namespace there is no second user to become.
    match std::env::var_os(INSIDE) {
        Some(_) => vec![Caller::Root],
        None => vec![Caller::Root, Caller::Ordinary],
    }
}

pub(crate) struct Lab {
    switch: Guard,
    pub(crate) hosts: Vec<Host>,
    folder: tempfile::TempDir,
}

pub(crate) struct Host {
    holder: Guard,
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    caller: Caller,
    folder: PathBuf,
    binary: PathBuf,
}

impl Lab {
    /// Hosts `a`, `b`, … with the addresses 10.9.0.1, 10.9.0.2, …
    pub(crate) fn new(caller: Caller, names: &[&str]) -> Lab {
        let folder = tempfile::Builder::new()
            .prefix("hosts")
            .tempdir_in("/tmp")
            .unwrap();
        open(folder.path());
        let binary = folder.path().join("ripstop");
        // By another process, as a file that we hold open for writing cannot be run.
        let mut copy = Command::new(program("cp"));
        let copied = copy
            .arg(env!("CARGO_BIN_EXE_ripstop"))
            .arg(&binary)
            .status();
        assert!(copied.unwrap().success());
        let switch = namespace("switch", &[]);
        let mut lab = Lab {
            switch,
            hosts: Vec::new(),
            folder,
        };
        lab.switch(&["link", "add", "br0", "type", "bridge"]);
        lab.switch(&["link", "set", "br0", "up"]);
        for (index, name) in names.iter().enumerate() {
            let home = lab.folder.path().join(name);
            std::fs::create_dir(&home).unwrap();
            open(&home);
            let host = Host {
                holder: namespace(name, &["--uts"]),
                name: (*name).to_owned(),
                address: Ipv4Addr::new(10, 9, 0, index as u8 + 1),
                caller,
                folder: home,
                binary: binary.clone(),
            };
            lab.plug(&host);
            lab.hosts.push(host);
        }
        lab
    }

    fn plug(&self, host: &Host) {
        let (near, far) = (host.holder.pid().to_string(), self.switch.pid().to_string());
        let port = format!("to-{}", host.name);
        run(Command::new(program("ip")).args([
            "link", "add", "eth0", "netns", &near, "type", "veth", "peer", "name", &port, "netns",
            &far,
        ]));
        self.switch(&["link", "set", &port, "master", "br0", "up"]);
        run(host.inside(&program("hostname")).arg(&host.name));
        host.ip(&["link", "set", "lo", "up"]);
        host.ip(&[
            "address",
            "add",
            &format!("{}/24", host.address),
            "dev",
            "eth0",
        ]);
        host.ip(&["link", "set", "eth0", "up"]);
    }

    fn switch(&self, words: &[&str]) {
        let mut command = Command::new(program("nsenter"));
        command.args(["--net", "--target", &self.switch.pid().to_string()]);
        run(command.arg(program("ip")).args(words));
    }

    /// Takes the cable out, so that nobody hears anything of the host, not even a goodbye; or puts it in again.
    pub(crate) fn cable(&self, host: &str, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        self.switch(&["link", "set", &format!("to-{host}"), state]);
    }

    /// What crosses the cable of `host`.
    pub(crate) fn capture(&self, host: &str) -> ripstop_testkit::capture::Capture {
        let interface = format!("to-{host}");
        ripstop_testkit::capture::Capture::start_in(self.switch.pid(), &interface, "")
    }

    pub(crate) fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name == name).unwrap()
    }
}

impl Host {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new(ripstop_testkit::program("nsenter"));
        command
            .args(["--net", "--uts", "--target", &self.holder.pid().to_string()])
            .arg("--")
            .arg(program);
        command
    }

    pub(crate) fn ip(&self, words: &[&str]) {
        run(self.inside(&program("ip")).args(words));
    }

    /// `ripstop WORDS` on this host, in the host's folder, as the lab's caller.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = match self.caller {
            Caller::Root => self.inside(&self.binary),
            Caller::Ordinary => {
                let mut command = self.inside(&program("setpriv"));
                command
                    .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
                    .arg(&self.binary);
                command
            }
        };
        command
            .args(words)
            .current_dir(&self.folder)
            .env("HOME", "/nonexistent")
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("XDG_STATE_HOME", self.path("home"))
            .env_remove("RIPSTOP_STATE");
        command
    }

    pub(crate) fn spawn(&self, words: &[&str]) -> Guard {
        Guard::spawn(
            &format!("{}: ripstop {}", self.name, words.join(" ")),
            &mut self.command(words),
        )
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        let output = self.command(words).output().unwrap();
        eprintln!(
            "{}$ ripstop {}\n{}{}",
            self.name,
            words.join(" "),
            text(&output.stdout),
            text(&output.stderr)
        );
        output
    }

    /// Starts a control plane with what is in the folder `config`, and waits until it is up.
    pub(crate) fn control(&self, more: &[&str]) -> Guard {
        let words = ["control", "--config", "config", "--state", "state"];
        let mut control = self.spawn(&[&words[..], more].concat());
        control.line_with("control plane is up", PATIENCE);
        control
    }

    /// Where the control plane of this host is joined.
    pub(crate) fn joined_at(&self) -> String {
        format!("{}:15012", self.address)
    }

    /// A token for `service`, made on this host and brought to `guest`.
    pub(crate) fn invite(&self, guest: &Host, service: &str, more: &[&str]) {
        let file = guest.path(&format!("{service}.token"));
        let words = ["token", "create", "--state", "state", "--service", service];
        let output = ["--output", file.to_str().unwrap()];
        let made = self.run(&[&words[..], &output, more].concat());
        assert!(made.status.success(), "{}", text(&made.stderr));
    }

    /// Joins the mesh whose control plane is on `control` as `service`, with the token that it was given.
    pub(crate) fn join(
        &self,
        control: &Host,
        service: &str,
        more: &[&str],
        command: &[&str],
    ) -> Guard {
        self.spawn(
            &joining(&control.joined_at(), service, more, command)
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
        )
    }

    /// A Python program on this host, outside the mesh.
    pub(crate) fn python(&self, text: &str) -> Guard {
        let mut command = self.inside(&program("python3"));
        Guard::spawn("python3", command.args(["-c", text]))
    }

    /// Ports on which something listens on this host's own address.
    pub(crate) fn listening(&self) -> BTreeSet<u16> {
        let table =
            std::fs::read_to_string(format!("/proc/{}/net/tcp", self.holder.pid())).unwrap();
        let own = format!("{:08X}", u32::from_ne_bytes(self.address.octets()));
        let port = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (address, port) = fields.get(1)?.split_once(':')?;
            let is_listening = fields.get(3) == Some(&"0A");
            (is_listening && address == own).then(|| u16::from_str_radix(port, 16).ok())?
        };
        table.lines().filter_map(port).collect()
    }

    /// Kills everything of this host at once.
    pub(crate) fn kill_all(&self) {
        let own = format!("/proc/{}/ns/net", self.holder.pid());
        let own = std::fs::read_link(own).unwrap();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            let here = std::fs::read_link(entry.path().join("ns/net")).is_ok_and(|ns| ns == own);
            if here && pid != self.holder.pid() {
                // It may have ended with one that was killed before.
                let _gone = ripstop_testkit::process::signal_pid(pid, libc::SIGKILL);
            }
        }
    }

    /// The workloads that the control plane of this host knows, as `ripstop ps` shows them.
    pub(crate) fn ps(&self) -> String {
        text(
            &self
                .command(&["ps", "--state", "state"])
                .output()
                .unwrap()
                .stdout,
        )
    }

    /// Waits until a workload is ready.
    pub(crate) fn ready(&self, workload: &str) {
        self.listed(workload, "ready");
    }

    /// Waits until `ps` says this of a workload.
    pub(crate) fn listed(&self, workload: &str, word: &str) {
        wait::until_true(PATIENCE, &format!("{workload} to be {word}"), || {
            let ps = self.ps();
            let line = ps.lines().find(|line| line.contains(workload));
            // Of `not ready` only the first word counts.
            line.and_then(|line| line.split_whitespace().nth(3)) == Some(word)
        });
    }
}

/// The words of `ripstop run`.
pub(crate) fn joining(
    control: &str,
    service: &str,
    more: &[&str],
    command: &[&str],
) -> Vec<String> {
    let token = format!("{service}.token");
    let words = [
        "run",
        "--control",
        control,
        "--token",
        &token,
        "--service",
        service,
    ];
    let words = [&words[..], more, &["--"], command].concat();
    words.into_iter().map(str::to_owned).collect()
}

fn namespace(name: &str, more: &[&str]) -> Guard {
    let mut command = Command::new(program("unshare"));
    command
        .arg("--net")
        .args(more)
        .args(["--", "sh", "-c", "echo here; exec sleep 600"]);
    let mut holder = Guard::spawn(name, &mut command);
    holder.line_with("here", PATIENCE);
    holder
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        text(&output.stderr)
    );
}

fn open(folder: &Path) {
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o777)).unwrap();
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A mesh without a service of its own, whose root namespace is not the usual one, and which takes nothing but mTLS.
pub(crate) const STRICT: &str = "
apiVersion: ripstop.dev/v1alpha1
kind: Mesh
metadata: {name: hosts}
spec: {rootNamespace: mesh-root}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: mesh-root}
spec: {mtls: {mode: STRICT}}
";

/// `relay.py PORT NAME`: answers its name; `/via/HOST/REST` asks `http://HOST/REST` and adds that answer. Ends in order at SIGTERM:
/// what it serves is answered first, and nothing new is accepted.
pub(crate) const RELAY: &str = r#"
import http.server, signal, sys, threading, urllib.request
class Relay(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = sys.argv[2]
        if self.path.startswith("/via/"):
            _, _, host, rest = self.path.split("/", 3)
            body += ">" + urllib.request.urlopen(f"http://{host}/{rest}", timeout=10).read().decode()
        body = body.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = answer
    def log_message(self, *words):
        pass
server = http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Relay)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
sys.exit(128 + signal.SIGTERM)
"#;

/// `caller.py URL METHOD`: calls again and again until SIGTERM; each answer that is not the one before is a line, and so is the
/// number of calls and of failures at the end.
pub(crate) const CALLER: &str = r#"
import signal, sys, time, urllib.request
over = []
signal.signal(signal.SIGTERM, lambda *_: over.append(1))
calls = failures = 0
last = None
while not over:
    try:
        body = b"x" if sys.argv[2] == "POST" else None
        request = urllib.request.Request(sys.argv[1], data=body, method=sys.argv[2])
        said = "answer " + urllib.request.urlopen(request, timeout=5).read().decode()
    except Exception as error:
        reason = getattr(error, "headers", {}).get("x-ripstop-reason", "")
        said = f"failure {error!r} {reason}"
        failures += 1
    calls += 1
    if said != last:
        print(said, flush=True)
    last = said
    time.sleep(0.005)
print(f"calls={calls} failures={failures}", flush=True)
"#;

/// [`RELAY`] as `service`, joined from `host`, on the target port of `port`, `80:8080`.
pub(crate) fn relay(host: &Host, control: &Host, service: &str, port: &str) -> Guard {
    host.write("relay.py", RELAY);
    let named = format!("http={port}");
    let (_, target) = port.split_once(':').unwrap();
    host.join(
        control,
        service,
        &["--port", &named],
        &["python3", "relay.py", target, service],
    )
}

/// [`CALLER`] as the service `client`, joined from `host`, that calls `url` for as long as it lives.
pub(crate) struct Calls(Guard);

impl Calls {
    pub(crate) fn begin(host: &Host, control: &Host, url: &str, method: &str) -> Calls {
        host.write("caller.py", CALLER);
        let command = ["python3", "caller.py", url, method];
        let mut calling = host.join(control, "client", &[], &command);
        calling.line_with("answer", PATIENCE);
        Calls(calling)
    }

    /// Waits for a line that begins like this and that comes after what has been said so far.
    pub(crate) fn hear(&mut self, said: &str) {
        let before = self.0.stdout().lines().count();
        let guard = &mut self.0;
        wait::until_true(PATIENCE, &format!("the caller to say {said:?}"), || {
            let spoken = guard.stdout();
            let mut lines = spoken.lines();
            let last = lines.clone().next_back().unwrap_or_default();
            last.starts_with(said)
                || lines
                    .by_ref()
                    .skip(before)
                    .any(|line| line.starts_with(said))
        });
    }

    /// Ends it; the calls that it made and those that failed.
    pub(crate) fn end(mut self) -> (u32, u32) {
        self.0.signal(libc::SIGTERM);
        self.0.wait(PATIENCE);
        let said = self.0.stdout();
        eprintln!("{said}{}", self.0.stderr());
        let last = said.lines().next_back().unwrap_or_default();
        let number = |word: &str| -> u32 {
            let found = last
                .split_whitespace()
                .find_map(|part| part.strip_prefix(word));
            found.and_then(|text| text.parse().ok()).unwrap_or_else(|| {
                panic!("the caller did not end in order: {said}");
            })
        };
        (number("calls="), number("failures="))
    }
}
