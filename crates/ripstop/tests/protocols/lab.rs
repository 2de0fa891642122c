//! A folder with a mesh file and the programs beside this file, and `ripstop` on it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use ripstop_testkit::process::Guard;
use ripstop_testkit::program;

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
}
