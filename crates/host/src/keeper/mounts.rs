//! The host's file tree → the app's: a `/proc` of its own, resolver files of ours, sockets and folders masked.
//!
//! All are mounts in a private mount namespace that the app has no power over; in a further namespace of its own making
//! they are locked, so it cannot lift one to see what is below.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::namespace::{Rank, refused};
use super::setup;
use crate::link::Failure;
use crate::trace;
use crate::workload::{Spec, app_nsswitch_conf};

/// Daemons that would answer name queries over Unix sockets, past the mesh.
const DAEMONS: [&str; 3] = [
    "/run/nscd/socket",
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/systemd/resolve/io.systemd.Resolve.Monitor",
];

/// Where the tmpfs with our files is mounted while they are bound: folders of every `/proc`, so nothing that is to be
/// masked can lie below.
const SCRATCH: [&str; 3] = ["/proc/fs", "/proc/driver", "/proc/bus"];

/// Makes the mount namespace private and mounts the new PID namespace's `/proc`, which also hides the host's processes.
pub(super) fn proc() -> Result<(), Failure> {
    attach(
        None,
        Path::new("/"),
        None,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
    )?;
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    attach(Some("proc"), Path::new("/proc"), Some("proc"), plain)
}

/// Binds our resolver files over the host's and empty ones over what is masked.
pub(super) fn private_files(spec: &Spec, rank: Rank) -> Result<(), Failure> {
    let root = SCRATCH.iter().map(Path::new).find(|path| path.is_dir());
    let root = root.ok_or_else(|| setup("mounts", "/proc has neither fs nor driver nor bus"))?;
    attach(Some("tmpfs"), root, Some("tmpfs"), MsFlags::empty())?;
    let nsswitch = fs::read_to_string("/etc/nsswitch.conf")
        .ok()
        .map(|host| app_nsswitch_conf(&host));
    let written = fill(root, &spec.resolver.app_resolv_conf(), nsswitch.as_deref());
    written.map_err(|error| setup("resolver files", error))?;
    // Without a resolv.conf glibc and musl ask 127.0.0.1, and without nsswitch.conf files and DNS: both are right.
    cover(Path::new("/etc/resolv.conf"), &root.join("resolv.conf"))?;
    if nsswitch.is_some() {
        cover(Path::new("/etc/nsswitch.conf"), &root.join("nsswitch.conf"))?;
    }
    for path in DAEMONS
        .iter()
        .map(PathBuf::from)
        .chain(spec.mask.iter().cloned())
    {
        let source = if path.is_dir() { "folder" } else { "file" };
        cover(&path, &root.join(source))?;
    }
    // The bound files keep the file system alive.
    umount2(root, MntFlags::MNT_DETACH).map_err(|errno| refused("unmount", errno))?;
    if rank == Rank::Root {
        // A root app owns the files of /proc/sys by its uid, whatever its capabilities: core_pattern would be a way out.
        cover(Path::new("/proc/sys"), Path::new("/proc/sys"))?;
    }
    Ok(())
}

/// Mounts the folder of the tracing hooks, where it stays for the application's life: the folder, and the table in it.
pub(super) fn hooks(spec: &Spec) -> Result<Option<(String, OwnedFd)>, Failure> {
    // Folders of every `/proc`, in which an application looks for nothing.
    let place = SCRATCH.iter().rev().find(|path| Path::new(path).is_dir());
    let Some(place) = place.filter(|_| !spec.hooks.is_empty()) else {
        return Ok(None);
    };
    let root = Path::new(place);
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("tmpfs"),
        root,
        Some("tmpfs"),
        plain,
        Some("size=8m,mode=0755"),
    )
    .map_err(|errno| explained(root, errno))?;
    let table = trace::fill(root, &spec.hooks).map_err(|error| setup("tracing hooks", error))?;
    Ok(Some(((*place).to_owned(), table)))
}

fn fill(root: &Path, resolv_conf: &str, nsswitch_conf: Option<&str>) -> io::Result<()> {
    fs::write(root.join("resolv.conf"), resolv_conf)?;
    if let Some(text) = nsswitch_conf {
        fs::write(root.join("nsswitch.conf"), text)?;
    }
    // In place of a socket an empty file refuses connections.
    fs::write(root.join("file"), "")?;
    fs::create_dir(root.join("folder"))
}

/// Binds `source` read-only over `target`. A target that is missing, or that the caller may not reach and the app thus
/// neither, needs no cover.
fn cover(target: &Path, source: &Path) -> Result<(), Failure> {
    if fs::metadata(target).is_err() {
        return Ok(());
    }
    let locked = MsFlags::MS_BIND
        | MsFlags::MS_REMOUNT
        | MsFlags::MS_RDONLY
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV;
    let none = None::<&Path>;
    mount(Some(source), target, none, MsFlags::MS_BIND, none)
        .and_then(|()| mount(none, target, none, locked, none))
        .map_err(|errno| explained(target, errno))
}

fn attach(
    source: Option<&str>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
) -> Result<(), Failure> {
    mount(source, target, kind, flags, None::<&Path>).map_err(|errno| explained(target, errno))
}

fn explained(target: &Path, errno: Errno) -> Failure {
    refused(&format!("mount on {}", target.display()), errno)
}
