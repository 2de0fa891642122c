//! A folder with a mesh file, and `ripstop` on it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use ripstop_testkit::process::Guard;
use ripstop_testkit::{program, wait};

/// For a mesh to be up on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    Root,
    Ordinary,
}

/// Both callers where the tests run as root, else the one there is, and it says so.
pub(crate) fn callers() -> Vec<Caller> {
    program("nft");
    program("python3");
    if nix::unistd::geteuid().is_root() {
        vec![Caller::Root, Caller::Ordinary]
    } else {
        eprintln!(
            "not root: only the ordinary user's half is tested; run the tests as root for the other"
        );
        vec![Caller::Ordinary]
    }
}

/// Two services: one that answers HTTP and tells who it is, one that only runs.
pub(crate) const MESH: &str = "
apiVersion: ripstop.dev/v1alpha1
kind: Mesh
metadata: {name: tested}
spec:
  services:
  - name: hello
    ports: [{name: http, port: 80, targetPort: 8080}]
    workloads:
    - name: hello-v1
      replicas: 2
      command: [python3, -m, http.server, '8080']
      env: {COLOUR: blue}
      readiness: {http: {path: /}}
  - name: worker
    workloads: [{command: [sh, -c, 'echo working; exec sleep 600']}]
";

pub(crate) struct Bench {
    caller: Caller,
    folder: tempfile::TempDir,
    /// In a folder that the ordinary user can enter, wherever the sources are.
    binary: PathBuf,
}

impl Bench {
    pub(crate) fn new(caller: Caller, mesh: &str) -> Bench {
        let folder = tempfile::Builder::new()
            .prefix("mesh")
            .tempdir_in("/tmp")
            .unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let binary = folder.path().join("ripstop");
        // By another process: a descriptor of ours, open for writing, would be inherited by what other tests start
        // meanwhile, and a file that somebody writes cannot be run.
        let mut copy = Command::new(program("cp"));
        let copied = copy
            .arg(env!("CARGO_BIN_EXE_ripstop"))
            .arg(&binary)
            .status();
        assert!(copied.unwrap().success());
        let bench = Bench {
            caller,
            folder,
            binary,
        };
        bench.write("mesh.yaml", mesh);
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path("state")
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// `ripstop WORDS`, in the folder, as the caller.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let root = nix::unistd::geteuid().is_root();
        let mut command = match self.caller {
            Caller::Ordinary if root => {
                let mut command = Command::new(program("setpriv"));
                command
                    .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
                    .arg(&self.binary);
                command
                    .env("HOME", "/nonexistent")
                    .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
                command
            }
            _ => Command::new(&self.binary),
        };
        command.args(words).current_dir(self.folder.path());
        command.env("RIPSTOP_STATE", self.state());
        command
    }

    pub(crate) fn spawn(&self, words: &[&str]) -> Guard {
        Guard::spawn(
            &format!("ripstop {}", words.join(" ")),
            &mut self.command(words),
        )
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        let output = self.command(words).output().unwrap();
        eprintln!(
            "$ ripstop {}\n{}{}",
            words.join(" "),
            text(&output.stdout),
            text(&output.stderr)
        );
        output
    }

    /// A mesh that is up, with what it said.
    pub(crate) fn up(&self) -> Guard {
        let mut mesh = self.spawn(&["up", "mesh.yaml"]);
        mesh.line_with("stop      ripstop down", PATIENCE);
        mesh
    }

    /// The process whose command line holds all of `words` and whose ancestor is `mesh`.
    pub(crate) fn process(&self, mesh: &Guard, words: &str) -> u32 {
        wait::until(PATIENCE, words, || {
            let mut family = ripstop_testkit::process::children(mesh.pid());
            let mut next = 0;
            while let Some(pid) = family.get(next).copied() {
                family.extend(ripstop_testkit::process::children(pid));
                next += 1;
            }
            family.into_iter().find(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                text(&line).replace('\0', " ").contains(words)
            })
        })
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until nothing of a mesh is left: no process that has its marker or lives in its folder.
pub(crate) fn nothing_left(marker: &str, folder: &Path) {
    wait::until_true(PATIENCE, "the mesh to be gone", || {
        let mut left = ripstop_testkit::leftovers::processes(marker);
        left.extend(ripstop_testkit::leftovers::processes(
            &folder.display().to_string(),
        ));
        if !left.is_empty() {
            eprintln!("still there: {left:?}");
        }
        left.is_empty()
    });
}
