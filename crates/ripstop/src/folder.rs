//! A mesh's name or nothing at all → the folder that holds its state, and who runs it.
//!
//! Unless `--state DIR` says otherwise a mesh lives in `NAME` below the user's state folder: `$XDG_STATE_HOME/ripstop`, for
//! root `/var/lib/ripstop`, else `~/.local/state/ripstop`, and for a user without a home that can be written
//! `ripstop-UID` in the folder for temporary files.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::{AccessFlags, Uid, access};
use serde::{Deserialize, Serialize};

/// The longest path of a Unix socket, without the zero at its end (unix(7)).
const SOCKET_PATH: usize = 107;

/// Which mesh a command is about.
#[derive(clap::Args)]
pub(crate) struct Target {
    /// Folder with the mesh's state
    #[arg(long, env = "RIPSTOP_STATE", value_name = "DIR")]
    state: Option<PathBuf>,
    /// The mesh's name, where several run
    #[arg(long, value_name = "NAME", conflicts_with = "state")]
    mesh: Option<String>,
}

impl Target {
    /// The folder named, if one is.
    pub(crate) fn state(&self) -> Option<&Path> {
        self.state.as_deref()
    }

    /// The folder named, or that of the only mesh of this user that runs.
    pub(crate) fn folder(&self) -> anyhow::Result<Folder> {
        let home = home()?;
        match (&self.state, &self.mesh) {
            (Some(path), _) => Ok(Folder(absolute(path)?)),
            (None, Some(name)) => Ok(Folder(home.join(name))),
            (None, None) => only(running(&home), &home),
        }
    }
}

fn only(mut running: Vec<Folder>, home: &Path) -> anyhow::Result<Folder> {
    match running.pop() {
        None => bail!(
            "no mesh of yours runs here (looked in {}): start one with `ripstop up FILE`, or name its state folder with --state DIR",
            home.display()
        ),
        Some(folder) if running.is_empty() => Ok(folder),
        Some(last) => {
            running.push(last);
            let names: Vec<String> = running.iter().map(Folder::name).collect();
            bail!(
                "several meshes run here: choose one with --mesh NAME ({})",
                names.join(", ")
            )
        }
    }
}

/// The folders below `home` whose control plane answers.
fn running(home: &Path) -> Vec<Folder> {
    let entries = std::fs::read_dir(home).into_iter().flatten().flatten();
    let mut found: Vec<Folder> = entries.map(|entry| Folder(entry.path())).collect();
    found.retain(|folder| std::os::unix::net::UnixStream::connect(folder.socket()).is_ok());
    found.sort_by_key(Folder::name);
    found
}

/// Where the meshes of this user live.
fn home() -> anyhow::Result<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    if let Some(state) = set("XDG_STATE_HOME") {
        return Ok(state.join("ripstop"));
    }
    if Uid::effective().is_root() {
        return Ok("/var/lib/ripstop".into());
    }
    let writable = |path: &PathBuf| access(path, AccessFlags::W_OK).is_ok();
    if let Some(home) = set("HOME").filter(writable) {
        return Ok(home.join(".local/state/ripstop"));
    }
    let uid = Uid::effective();
    let path = std::env::temp_dir().join(format!("ripstop-{uid}"));
    private(&path)?;
    Ok(path)
}

/// Where this host keeps what it needs to come back to meshes of other hosts. Created if need be.
pub(crate) fn joined(state: Option<&Path>) -> anyhow::Result<PathBuf> {
    let path = match state {
        Some(state) => absolute(state)?,
        None => home()?,
    };
    private(&path)?;
    let path = path.join("joined");
    private(&path)?;
    Ok(path)
}

/// Creates a folder that only we can enter, or makes sure that the one there is.
pub(crate) fn private(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| {
            format!(
                "cannot create the folder {}; name another with --state DIR",
                path.display()
            )
        })?;
    let found = std::fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
    if !found.is_dir() || found.uid() != Uid::effective().as_raw() || found.mode() & 0o022 != 0 {
        bail!(
            "{} is not a folder that belongs to you alone: remove it, or name another with --state DIR",
            path.display()
        );
    }
    Ok(())
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))
}

/// A mesh's state folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// The folder of the mesh `name`, unless `state` names another. Created if need be.
    pub(crate) fn create(state: Option<&Path>, name: &str) -> anyhow::Result<Folder> {
        let path = match state {
            Some(state) => absolute(state)?,
            None => home()?.join(name),
        };
        private(&path)?;
        let folder = Folder(path);
        let length = folder.socket().as_os_str().len();
        if length > SOCKET_PATH {
            bail!(
                "the path of the socket {} has {length} bytes, and a socket's may have {SOCKET_PATH}: name a shorter folder with --state DIR",
                folder.socket().display()
            );
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder.logs())
            .with_context(|| format!("cannot create {}", folder.logs().display()))?;
        Ok(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The control plane's API.
    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join(ripstop_control::SOCKET)
    }

    /// What sidecars and the control plane write.
    pub(crate) fn logs(&self) -> PathBuf {
        self.0.join("log")
    }

    fn name(&self) -> String {
        self.0
            .file_name()
            .unwrap_or(self.0.as_os_str())
            .to_string_lossy()
            .into_owned()
    }

    fn presence(&self) -> PathBuf {
        self.0.join("up.json")
    }

    /// Who runs `ripstop up` here, if anybody does: its process id from the kernel, which knows the lock's holder, and what
    /// it wrote.
    pub(crate) fn holder(&self) -> Option<(i32, Presence)> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.presence())
            .ok()?;
        let pid = holder(&file)?;
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        Some((pid, serde_json::from_str(&text).unwrap_or_default()))
    }

    /// Takes the folder for this process until it ends.
    pub(crate) fn lock(&self) -> anyhow::Result<Lock> {
        let path = self.presence();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let taken = fcntl(&file, FcntlArg::F_SETLK(&whole(libc::F_WRLCK)));
        match taken {
            Ok(_) => Ok(Lock(file)),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => {
                let pid = holder(&file)
                    .map_or("another process".to_owned(), |pid| format!("process {pid}"));
                bail!(
                    "this mesh runs already ({pid} holds {}): stop it with `ripstop down --state {}`, or give this one another folder with --state DIR",
                    self.0.display(),
                    self.0.display()
                )
            }
            Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

/// What `up` tells others of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Presence {
    pub(crate) mesh: String,
    /// The mesh file.
    pub(crate) file: PathBuf,
    /// All metrics of the mesh in one scrape.
    pub(crate) metrics: Option<SocketAddr>,
}

/// The folder is ours while this lives. A second descriptor of the same file would let go of it when closed (fcntl(2)).
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    pub(crate) fn tell(&mut self, presence: &Presence) -> anyhow::Result<()> {
        let text = serde_json::to_vec(presence)?;
        self.0.set_len(0)?;
        self.0.seek(SeekFrom::Start(0))?;
        self.0
            .write_all(&text)
            .context("cannot write up.json in the state folder")
    }
}

fn whole(kind: i32) -> libc::flock {
    // SAFETY: all-zero is a valid flock: from the start, to the end.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock
}

fn holder(file: &File) -> Option<i32> {
    let mut lock = whole(libc::F_WRLCK);
    fcntl(file, FcntlArg::F_GETLK(&mut lock)).ok()?;
    (i32::from(lock.l_type) != libc::F_UNLCK).then_some(lock.l_pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mesh_without_a_name_must_be_the_only_one() {
        let home = Path::new("/home");
        let error = only(Vec::new(), home).unwrap_err().to_string();
        assert!(
            error.contains("ripstop up FILE") && error.contains("/home"),
            "{error}"
        );
        let (a, b) = (Folder("/home/a".into()), Folder("/home/b".into()));
        assert_eq!(only(vec![a.clone()], home).unwrap(), a);
        let error = only(vec![a, b], home).unwrap_err().to_string();
        assert!(error.contains("--mesh NAME (a, b)"), "{error}");
    }

    #[test]
    fn the_folder_is_private_and_too_long_a_path_is_told() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::create(Some(&parent.path().join("mesh")), "x").unwrap();
        assert_eq!(
            std::fs::metadata(folder.path()).unwrap().mode() & 0o777,
            0o700
        );
        let long = parent.path().join("x".repeat(120));
        let error = Folder::create(Some(&long), "x").unwrap_err().to_string();
        assert!(error.contains("shorter folder"), "{error}");
    }

    #[test]
    fn nobody_holds_a_folder_that_only_we_opened() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::create(Some(parent.path()), "x").unwrap();
        assert!(folder.holder().is_none());
        let mut lock = folder.lock().unwrap();
        let presence = Presence {
            mesh: "x".into(),
            ..Presence::default()
        };
        lock.tell(&presence).unwrap();
        let text = std::fs::read_to_string(folder.presence()).unwrap();
        assert_eq!(serde_json::from_str::<Presence>(&text).unwrap(), presence);
    }
}
