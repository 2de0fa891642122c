//! A folder with a mesh file and the programs beside this file, and `ripstop` on it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub(crate) use ripstop_testkit::caller::{Caller, callers};
use ripstop_testkit::process::{Guard, below};
use ripstop_testkit::{caller, program, wait};

/// For a mesh to be up, or a check inside it to end, on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) const STRICT: &str = "
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
";

/// What every mesh here begins with.
const HEAD: &str = "
apiVersion: ripstop.dev/v1alpha1
kind: Mesh
metadata: {name: lab}
spec:
  config: [./config]
";

/// Loopback with the addresses that are the outside here, and a resolver among them.
const PREPARE: &str = "set -e
ip link set lo up
ip address add 203.0.113.10/32 dev lo
ip address add 203.0.113.53/32 dev lo
echo nameserver 203.0.113.53 >resolv.conf
mount --bind resolv.conf /etc/resolv.conf
exec python3 peers.py outside 80";

/// Where every sidecar of a lab writes its access log.
const LOG: &str = "access.log";

pub(crate) struct Lab {
    caller: Caller,
    binary: PathBuf,
    folder: tempfile::TempDir,
    /// Who serves the addresses of the outside, in the namespaces where the mesh is started.
    outside: Option<Guard>,
}

impl Lab {
    /// `services` is the list under `services:`, as YAML; resources may follow it.
    pub(crate) fn new(services: &str) -> Lab {
        Lab::of(callers()[0], services)
    }

    /// A mesh in namespaces whose only outside is `outside.example`: 203.0.113.10, with a web server on port 80. Its
    /// resolver knows every name below it, and no other.
    pub(crate) fn with_outside(services: &str) -> Lab {
        let mut lab = Lab::new(services);
        let mut command = Command::new(program("unshare"));
        command.args(["--net", "--mount"]);
        if lab.caller == Caller::Ordinary {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--", "sh", "-c", PREPARE]);
        command.current_dir(lab.folder.path());
        let mut outside = Guard::spawn("the outside", &mut command);
        outside.line_with("serving", PATIENCE);
        lab.outside = Some(outside);
        lab
    }

    /// The same as another caller.
    pub(crate) fn of(caller: Caller, services: &str) -> Lab {
        for needed in ["nft", "ip", "python3", "node", "redis-server"] {
            program(needed);
        }
        let folder = caller::folder("lab");
        let binary = caller::copy(Path::new(env!("CARGO_BIN_EXE_ripstop")), folder.path());
        let lab = Lab {
            caller,
            binary,
            folder,
            outside: None,
        };
        for (name, text) in [
            ("peers.py", include_str!("peers.py")),
            ("check.py", include_str!("check.py")),
            ("hold.py", include_str!("hold.py")),
            ("h2.js", include_str!("h2.js")),
            ("servers.sh", include_str!("servers.sh")),
        ] {
            lab.write(name, text);
        }
        std::fs::create_dir(lab.path("config")).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["secure".to_owned()])
            .and_then(|named| named.self_signed(&key))
            .unwrap();
        lab.write("tls.crt", &certificate.pem());
        lab.write("tls.key", &key.serialize_pem());
        let log = format!("  accessLog: {{path: {}}}\n", lab.path(LOG).display());
        lab.write("mesh.yaml", &format!("{HEAD}{log}{services}"));
        lab
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The line of the access log that has all of these, once it is there.
    #[track_caller]
    pub(crate) fn logged(&self, parts: &[&str]) -> String {
        let found = wait::within(PATIENCE, || {
            let text = std::fs::read_to_string(self.path(LOG)).ok()?;
            let mut lines = text.lines();
            lines
                .find(|line| parts.iter().all(|part| line.contains(part)))
                .map(str::to_owned)
        });
        found.unwrap_or_else(|| {
            let text = std::fs::read_to_string(self.path(LOG)).unwrap_or_default();
            panic!("no line has {parts:?}:\n{text}")
        })
    }

    /// Writes a file whole: a reader sees the old one or the new one.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let new = self.path(".new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    /// `ripstop WORDS`, in the folder.
    pub(crate) fn spawn(&self, words: &[&str]) -> Guard {
        let mut command = match &self.outside {
            None => self.caller.command(&self.binary),
            Some(outside) => {
                let mut command = self.inside_of(outside);
                command.arg(&self.binary);
                command
            }
        };
        command.args(words).current_dir(self.folder.path());
        command.env("RIPSTOP_STATE", self.path("state"));
        Guard::spawn(&format!("ripstop {}", words.join(" ")), &mut command)
    }

    /// A program of the folder, on the host of the mesh and no part of it.
    pub(crate) fn beside(&self, words: &[&str]) -> Guard {
        let outside = self.outside.as_ref().expect("a lab with an outside");
        let mut command = self.inside_of(outside);
        command.args(words).current_dir(self.folder.path());
        Guard::spawn(&words.join(" "), &mut command)
    }

    fn inside_of(&self, outside: &Guard) -> Command {
        let mut command = Command::new(program("nsenter"));
        let target = outside.pid().to_string();
        command.args(["--target", &target, "--net", "--mount"]);
        command.arg(format!("--wdns={}", self.folder.path().display()));
        if self.caller == Caller::Ordinary {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--");
        command
    }

    /// Brings the mesh up and runs checks of `check.py` inside, as the workload `client`.
    pub(crate) fn check(&self, names: &[&str]) {
        let exec = format!("python3 check.py {}", names.join(" "));
        let mut mesh = self.spawn(&["up", "mesh.yaml", "--exec", &exec]);
        let status = mesh.wait(PATIENCE);
        assert!(status.success(), "{}", mesh.report());
        let said = mesh.stdout();
        for name in names {
            assert!(said.contains(&format!("ok   {name} ")), "{}", mesh.report());
        }
        eprintln!("{said}");
    }

    /// A mesh that is up, with what it said.
    pub(crate) fn up(&self) -> Guard {
        let mut mesh = self.spawn(&["up", "mesh.yaml"]);
        mesh.line_with("stop      ripstop down", PATIENCE);
        mesh
    }

    /// Runs checks of `check.py` in the running mesh, as a service account.
    pub(crate) fn check_as(&self, account: &str, names: &[&str]) {
        let mut run = self.spawn(&inside(account, &[], "check.py", names));
        let status = run.wait(PATIENCE);
        assert!(status.success(), "{}", run.report());
    }

    /// Whether one check passes as a service account.
    pub(crate) fn passes(&self, account: &str, name: &str) -> bool {
        let words = inside(account, &[], "check.py", &[name]);
        self.spawn(&words).wait(PATIENCE).success()
    }

    /// A client inside that waits for the file `WHEN`, then makes checks.
    pub(crate) fn probe(&self, when: &str, names: &[&str]) -> Guard {
        let words = [&[when][..], names].concat();
        let mut probe = self.spawn(&inside("prober", &[], "check.py", &words));
        probe.line_with("waiting", PATIENCE);
        probe
    }

    /// Connections that are all open, kept busy until the file `stop` is there: see `hold.py`.
    pub(crate) fn hold(&self, account: &str, connections: &[&str]) -> Guard {
        let mut holder = self.spawn(&inside(account, &[], "hold.py", connections));
        holder.line_with("open", PATIENCE);
        assert!(!holder.stdout().contains("lost"), "{}", holder.report());
        holder
    }

    /// The process below `mesh` whose command line holds `words`.
    pub(crate) fn process(&self, mesh: &Guard, words: &str) -> u32 {
        wait::until(PATIENCE, words, || below(mesh.pid(), words))
    }
}

/// `ripstop run … python3 SCRIPT WORDS`.
fn inside<'a>(
    account: &'a str,
    options: &[&'a str],
    script: &'a str,
    words: &[&'a str],
) -> Vec<&'a str> {
    let run = ["run", "--service-account", account];
    [&run, options, &["--", "python3", script], words].concat()
}
