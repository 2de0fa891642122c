//! Who starts ripstop → commands that run as them: both kinds of caller where the tests are root's.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program;

/// nobody, on every Debian.
pub const NOBODY: u32 = 65534;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    Root,
    Ordinary,
}

/// Both callers where the tests run as root, else the one there is, and it says so.
pub fn callers() -> Vec<Caller> {
    program("nft");
    program("ip");
    program("python3");
    program("setpriv");
    if nix::unistd::geteuid().is_root() {
        vec![Caller::Root, Caller::Ordinary]
    } else {
        eprintln!(
            "not root: only the ordinary user's half is tested; run the tests as root for the other"
        );
        vec![Caller::Ordinary]
    }
}

impl Caller {
    /// The words before a command line by which root becomes this caller.
    pub fn wrapper(self) -> Vec<String> {
        if self == Caller::Root || !nix::unistd::geteuid().is_root() {
            return Vec::new();
        }
        let setpriv = program("setpriv").display().to_string();
        let ids = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
        [setpriv]
            .into_iter()
            .chain(ids)
            .chain(["--clear-groups".to_owned()])
            .collect()
    }

    /// `program`, as this caller, with the environment that one of its kind has.
    pub fn command(self, program: &Path) -> Command {
        let mut words = self.wrapper();
        words.push(program.display().to_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        if self == Caller::Ordinary {
            command
                .env("HOME", "/nonexistent")
                .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
        }
        command
    }
}

/// A folder that every caller may write, for sockets too: its path is short.
pub fn folder(prefix: &str) -> tempfile::TempDir {
    let folder = tempfile::Builder::new()
        .prefix(prefix)
        .tempdir_in("/tmp")
        .expect("a folder in /tmp");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777))
        .expect("the folder is ours");
    folder
}

/// Copies a program into `folder`, where every caller may run it, wherever the sources are.
pub fn copy(built: &Path, folder: &Path) -> PathBuf {
    // By another process: a descriptor of ours, open for writing, would be inherited by what other tests start
    // meanwhile, and a file that somebody writes cannot be run ("text file busy").
    let copied = Command::new(program("cp")).arg(built).arg(folder).status();
    assert!(
        copied.is_ok_and(|status| status.success()),
        "cannot copy {} to {}",
        built.display(),
        folder.display()
    );
    folder.join(built.file_name().expect("a program has a name"))
}
