//! A file, or a folder of `.yaml`, `.yml` and `.json` files → listings, by inotify and by a slow poll that covers what it misses.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Change, Source, SourceError};

/// An editor writes in several steps: changes are read once it has been quiet for this long, or after [`PATIENCE`].
const QUIET: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_secs(5);
const MAX_FILES: usize = 10_000;
const MAX_BYTES: u64 = 16 << 20;
const MAX_DEPTH: usize = 16;

struct Files {
    path: PathBuf,
}

pub(super) fn open(path: &str) -> Result<Box<dyn Source>, SourceError> {
    Ok(Box::new(Files { path: path.into() }))
}

impl Source for Files {
    fn watch(self: Box<Self>, changes: mpsc::Sender<Change>) -> JoinHandle<()> {
        tokio::spawn(run(self.path, changes))
    }
}

async fn run(path: PathBuf, changes: mpsc::Sender<Change>) {
    // One pending wake-up is enough: the whole listing is read anyway.
    let (wake, mut woken) = mpsc::channel::<()>(1);
    let mut watcher = watcher(&wake);
    let mut watched = false;
    let mut last = None;
    loop {
        if !watched {
            watched = watcher
                .as_mut()
                .is_some_and(|watcher| watch(watcher, &path));
        }
        let at = path.clone();
        let Ok(now) = tokio::task::spawn_blocking(move || list(&at)).await else {
            return;
        };
        if matches!(now, Change::Failed { .. }) {
            // The watch went with the folder.
            watched = false;
        }
        if last.as_ref() != Some(&now) {
            if changes.send(now.clone()).await.is_err() {
                return;
            }
            last = Some(now);
        }
        tokio::select! {
            () = changes.closed() => return,
            event = timeout(POLL, woken.recv()) => {
                if event.is_ok() {
                    settle(&mut woken).await;
                }
            }
        }
    }
}

/// Waits until no event has come for [`QUIET`].
async fn settle(woken: &mut mpsc::Receiver<()>) {
    let quiet = async { while timeout(QUIET, woken.recv()).await.is_ok() {} };
    // Patience over: read what is there.
    let _ = timeout(PATIENCE, quiet).await;
}

/// Without inotify (its limits are small) the poll is all there is.
fn watcher(wake: &mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let wake = wake.clone();
    let notified = move |event: notify::Result<notify::Event>| {
        // Reading the files is an event as well.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            // Full means that a wake-up is pending.
            let _ = wake.try_send(());
        }
    };
    match notify::recommended_watcher(notified) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::warn!(%error, "no file notifications: configuration is polled every {POLL:?}");
            None
        }
    }
}

/// A file's folder is watched, since editors replace the file.
fn watch(watcher: &mut RecommendedWatcher, path: &Path) -> bool {
    let (target, mode) = if path.is_dir() {
        (path, RecursiveMode::Recursive)
    } else {
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        (
            folder.unwrap_or(Path::new(".")),
            RecursiveMode::NonRecursive,
        )
    };
    // A path that was watched before it went away has to be unwatched first; there may be nothing to unwatch.
    let _ = watcher.unwatch(target);
    watcher.watch(target, mode).is_ok()
}

fn list(path: &Path) -> Change {
    let source: Arc<str> = path.display().to_string().into();
    let failed = |error: std::io::Error| Change::Failed {
        source: source.clone(),
        error: format!(
            "cannot read {}: {error}; what it said last stays in force until it is back",
            path.display()
        ),
    };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return failed(error),
    };
    let mut found = Vec::new();
    let mut problems = Vec::new();
    if metadata.is_dir() {
        if let Err(error) = walk(path, 0, &mut found, &mut problems) {
            return failed(error);
        }
        found.sort();
    } else {
        found.push(path.to_owned());
    }
    let mut files = Vec::new();
    for file in found {
        match read(&file) {
            Ok(text) => files.push((file.display().to_string(), text)),
            Err(error) => problems.push(format!("cannot read {}: {error}", file.display())),
        }
    }
    if files.is_empty() && !problems.is_empty() && !metadata.is_dir() {
        return Change::Failed {
            source,
            error: problems.swap_remove(0),
        };
    }
    Change::Listing {
        source,
        files,
        problems,
    }
}

fn walk(
    folder: &Path,
    depth: usize,
    found: &mut Vec<PathBuf>,
    problems: &mut Vec<String>,
) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // Hidden ones are editors' and Kubernetes' own (`..data`, `.file.swp`).
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            if depth >= MAX_DEPTH {
                problems.push(format!(
                    "{} is nested too deep and not read",
                    path.display()
                ));
            } else if let Err(error) = walk(&path, depth + 1, found, problems) {
                problems.push(format!("cannot read {}: {error}", path.display()));
            }
        } else if matches!(
            path.extension().and_then(|e| e.to_str()),
            Some("yaml" | "yml" | "json")
        ) {
            if found.len() == MAX_FILES {
                problems.push(format!("more than {MAX_FILES} files: the rest is not read"));
                return Ok(());
            }
            found.push(path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> std::io::Result<String> {
    let size = fs::metadata(path)?.len();
    if size > MAX_BYTES {
        let message = format!("{size} bytes are more than the {MAX_BYTES} that are read");
        return Err(std::io::Error::other(message));
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(changes: &mut mpsc::Receiver<Change>) -> Change {
        timeout(Duration::from_secs(30), changes.recv())
            .await
            .expect("a change within 30 s")
            .expect("the source is alive")
    }

    fn texts(change: &Change) -> Vec<&str> {
        match change {
            Change::Listing { files, .. } => files.iter().map(|(_, text)| text.as_str()).collect(),
            Change::Failed { error, .. } => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn a_folder_is_followed_through_edits_and_its_own_disappearance() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("config");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("a.yaml"), "a: 1").unwrap();
        fs::write(folder.join("notes.txt"), "no").unwrap();
        let (sender, mut changes) = mpsc::channel(4);
        let source = open(folder.to_str().unwrap()).unwrap();
        let task = source.watch(sender);
        assert_eq!(texts(&next(&mut changes).await), ["a: 1"]);
        fs::write(folder.join("a.yaml"), "a: 2").unwrap();
        assert_eq!(texts(&next(&mut changes).await), ["a: 2"]);
        fs::rename(&folder, dir.path().join("away")).unwrap();
        let Change::Failed { error, .. } = next(&mut changes).await else {
            panic!("a folder that is gone is an error");
        };
        assert!(
            error.contains("config") && error.contains("stays in force"),
            "{error}"
        );
        fs::rename(dir.path().join("away"), &folder).unwrap();
        assert_eq!(texts(&next(&mut changes).await), ["a: 2"]);
        fs::write(folder.join("b.yml"), "b: 1").unwrap();
        assert_eq!(texts(&next(&mut changes).await), ["a: 2", "b: 1"]);
        drop(changes);
        timeout(Duration::from_secs(30), task)
            .await
            .unwrap()
            .unwrap();
    }
}
