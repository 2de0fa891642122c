//! A folder with a mesh file and the programs beside this file, and `ripstop` on it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use ripstop_testkit::process::{Guard, children};
use ripstop_testkit::{program, wait};

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

pub(crate) struct Lab {
    folder: tempfile::TempDir,
}

impl Lab {
    /// `services` is the list under `services:`, as YAML; resources may follow it.
    pub(crate) fn new(services: &str) -> Lab {
        for needed in ["nft", "python3", "node", "redis-server"] {
            program(needed);
        }
        let lab = Lab {
            folder: tempfile::Builder::new()
                .prefix("lab")
                .tempdir_in("/tmp")
                .unwrap(),
        };
        for (name, text) in [
            ("peers.py", include_str!("peers.py")),
            ("check.py", include_str!("check.py")),
            ("hold.py", include_str!("hold.py")),
            ("h2.js", include_str!("h2.js")),
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
        lab.write("mesh.yaml", &format!("{HEAD}{services}"));
        lab
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file whole: a reader sees the old one or the new one.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let new = self.path(".new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    /// `ripstop WORDS`, in the folder.
    pub(crate) fn spawn(&self, words: &[&str]) -> Guard {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ripstop"));
        command.args(words).current_dir(self.folder.path());
        command.env("RIPSTOP_STATE", self.path("state"));
        Guard::spawn(&format!("ripstop {}", words.join(" ")), &mut command)
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

    /// A client inside that waits for the file `go`, then makes one check.
    pub(crate) fn probe(&self, name: &str) -> Guard {
        let mut probe = self.spawn(&inside("prober", &[], "check.py", &["go", name]));
        probe.line_with("waiting", PATIENCE);
        probe
    }

    /// Connections that are all open, kept busy until the file `stop` is there: see `hold.py`.
    pub(crate) fn hold(&self, account: &str, connections: &[&str]) -> Guard {
        self.hold_with(account, &[], connections)
    }

    /// The same with options of `ripstop run`.
    pub(crate) fn hold_with(&self, account: &str, options: &[&str], connections: &[&str]) -> Guard {
        let mut holder = self.spawn(&inside(account, options, "hold.py", connections));
        holder.line_with("open", PATIENCE);
        assert!(!holder.stdout().contains("lost"), "{}", holder.report());
        holder
    }

    /// The process below `mesh` whose command line holds `words`.
    pub(crate) fn process(&self, mesh: &Guard, words: &str) -> u32 {
        wait::until(PATIENCE, words, || {
            let mut family = children(mesh.pid());
            let mut next = 0;
            while let Some(pid) = family.get(next).copied() {
                family.extend(children(pid));
                next += 1;
            }
            family.into_iter().find(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&line)
                    .replace('\0', " ")
                    .contains(words)
            })
        })
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
