//! The processes of a workload → those of programs that no hook can be put into, and what the kernel sees of them.
//!
//! A thread looks through the workload's `/proc`: often while it starts, later when a call went out of which nobody has
//! said anything. Nothing is loaded into the kernel before there is a program to load it for.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ripstop_model::seam::{Cause, Ends};

use super::kernel::{Executable, Kernel, Scope};

/// Between the looks at a workload that starts: doubled each time, until somebody has to ask for one.
const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(10);
/// Between two that were asked for.
const PAUSE: Duration = Duration::from_secs(1);
/// Programs that are remembered as judged.
const JUDGED: usize = 1024;

/// What is known of the statically linked programs of a workload.
#[derive(Debug)]
pub(super) struct Statics(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    kernel: OnceLock<Kernel>,
    asked: Mutex<Asked>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Asked {
    look: bool,
    over: bool,
}

impl Statics {
    /// Begins to look. `processes` is the workload's `/proc`.
    pub(super) fn watch(processes: OwnedFd, scope: Scope) -> io::Result<Statics> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("statics".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || look_on(&theirs, &processes, &scope))?;
        Ok(Statics(shared))
    }

    /// What the kernel has seen; where that is nothing, it may be time for another look.
    pub(super) fn cause(&self, outbound: Ends) -> Option<Cause> {
        let cause = self
            .0
            .kernel
            .get()
            .and_then(|kernel| kernel.cause(outbound));
        if cause.is_none() {
            self.0.tell(|asked| asked.look = true);
        }
        cause
    }

    pub(super) fn forget(&self, outbound: Ends) {
        if let Some(kernel) = self.0.kernel.get() {
            kernel.forget(outbound);
        }
    }
}

impl Drop for Statics {
    fn drop(&mut self) {
        self.0.tell(|asked| asked.over = true);
    }
}

impl Shared {
    fn tell(&self, what: impl FnOnce(&mut Asked)) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let before = asked.look;
        what(&mut asked);
        if asked.over || !before {
            self.changed.notify_one();
        }
    }

    /// Until somebody asks for a look, or `most` has passed; `false` when it is over.
    fn wait(&self, most: Option<Duration>) -> bool {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |asked: &mut Asked| !asked.look && !asked.over;
        let mut asked = match most {
            None => self.changed.wait_while(asked, idle),
            Some(most) => {
                let waited = self.changed.wait_timeout_while(asked, most, idle);
                waited.map(|(asked, _)| asked).map_err(|error| {
                    let (asked, _) = error.into_inner();
                    PoisonError::new(asked)
                })
            }
        }
        .unwrap_or_else(PoisonError::into_inner);
        asked.look = false;
        !asked.over
    }

    /// A pause that only the end cuts short.
    fn pause(&self, length: Duration) -> bool {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(asked, length, |asked| !asked.over);
        !waited.is_ok_and(|(asked, _)| asked.over)
    }
}

fn look_on(shared: &Shared, processes: &OwnedFd, scope: &Scope) {
    let mut judged = HashSet::new();
    // The keeper, and the application before it is the application.
    judged.extend(fs::metadata("/proc/self/exe").map(|file| Executable::of(&file)));
    let mut delay = FIRST;
    loop {
        for executable in found(processes, &mut judged) {
            let kernel = match shared.kernel.get() {
                Some(kernel) => kernel,
                None => match Kernel::load(scope) {
                    Ok(kernel) => shared.kernel.get_or_init(|| kernel),
                    Err(error) => {
                        let reason = error.to_string();
                        tracing::warn!(
                            reason,
                            "calls of statically linked programs stay unattributed"
                        );
                        return;
                    }
                },
            };
            if !kernel.allow(executable) {
                tracing::warn!(
                    "too many statically linked programs: calls of one stay unattributed"
                );
            }
        }
        let on = match delay < LAST {
            true => shared.wait(Some(delay)),
            false => shared.wait(None) && shared.pause(PAUSE),
        };
        if !on {
            return;
        }
        delay *= 2;
    }
}

/// Programs that run now, that nothing can be put into, and that were not judged before.
fn found(processes: &OwnedFd, judged: &mut HashSet<Executable>) -> Vec<Executable> {
    let root = PathBuf::from(format!("/proc/self/fd/{}", processes.as_raw_fd()));
    let entries = fs::read_dir(&root).into_iter().flatten().flatten();
    let numbered = entries.filter(|entry| {
        let name = entry.file_name();
        name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
    });
    let mut found = Vec::new();
    for process in numbered {
        // Kernel threads, zombies, and what has just ended, have none.
        let Ok(file) = File::open(process.path().join("exe")) else {
            continue;
        };
        let Ok(facts) = file.metadata() else {
            continue;
        };
        let executable = Executable::of(&facts);
        if judged.len() >= JUDGED {
            judged.clear();
        }
        if judged.insert(executable) && takes_nothing(&file).unwrap_or(false) {
            found.push(executable);
        }
    }
    found
}

/// Whether an ELF file asks for no dynamic linker, and so takes no preloaded object; Go's do not count, whose threads say
/// nothing.
fn takes_nothing(file: &File) -> io::Result<bool> {
    const INTERPRETER: u32 = 3;
    const NOTE: u32 = 4;
    /// Of a program header, and how many of them a file may have.
    const ENTRY: usize = 56;
    const ENTRIES: usize = 128;
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0)?;
    let number = |at: usize, bytes: usize, of: &[u8]| {
        let field = of[at..at + bytes].iter().rev();
        field.fold(0u64, |number, byte| number << 8 | u64::from(*byte))
    };
    // 64 bits, little-endian.
    let known = header.starts_with(b"\x7fELF\x02\x01") && number(54, 2, &header) == ENTRY as u64;
    let count = number(56, 2, &header) as usize;
    if !known || count > ENTRIES {
        return Ok(false);
    }
    let mut entries = vec![0; ENTRY * count];
    file.read_exact_at(&mut entries, number(32, 8, &header))?;
    for entry in entries.chunks_exact(ENTRY) {
        match number(0, 4, entry) as u32 {
            INTERPRETER => return Ok(false),
            NOTE => {
                let mut note = [0; 16];
                let there = file.read_exact_at(&mut note, number(8, 8, entry));
                if there.is_ok() && &note[12..] == b"Go\0\0" {
                    return Ok(false);
                }
            }
            _ => {}
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_program_that_asks_for_no_linker_takes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("nothing.c");
        fs::write(&source, "int main(void) { return 0; }").unwrap();
        for (compiler, option, expected) in [
            ("musl-gcc", "-static", true),
            ("cc", "-static-pie", true),
            ("cc", "-pie", false),
        ] {
            let built = folder.path().join(option);
            let mut compiler = Command::new(compiler);
            let done = compiler
                .arg(option)
                .arg(&source)
                .arg("-o")
                .arg(&built)
                .status();
            let done = done.expect("a compiler: run scripts/prerequisites.sh test");
            assert!(done.success(), "{option}");
            let file = File::open(&built).unwrap();
            assert_eq!(takes_nothing(&file).unwrap(), expected, "{option}");
        }
        let script = File::open(&source).unwrap();
        assert!(!takes_nothing(&script).unwrap_or(false));
    }
}
