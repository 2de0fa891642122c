//! A folder with a mesh file, and `ripstop` on it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

pub(crate) use ripstop_testkit::caller::{Caller, callers};
use ripstop_testkit::process::{Guard, below};
use ripstop_testkit::{caller, wait};

/// For a mesh to be up on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

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
        let folder = caller::folder("mesh");
        let binary = caller::copy(Path::new(env!("CARGO_BIN_EXE_ripstop")), folder.path());
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
        let mut command = self.caller.command(&self.binary);
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
        wait::until(PATIENCE, words, || below(mesh.pid(), words))
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
