//! A command in → a running program that ends, by its process id, with the value that owns it.

use crate::wait;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The variable by which what a program left behind is found, however it was re-parented.
pub const MARKER: &str = "RIPSTOP_TEST_MARKER";

/// How long a program may take to end after SIGTERM before it is killed.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A running program. Dropping it sends SIGTERM, waits [`PATIENCE`], then SIGKILL.
#[derive(Debug)]
pub struct Guard {
    name: String,
    marker: String,
    child: Child,
    ended: Option<ExitStatus>,
    logs: tempfile::TempDir,
}

impl Guard {
    /// Starts `command` with its output going to files ([`Guard::stdout`], [`Guard::stderr`]) and a [`MARKER`] of its
    /// own in its environment. `name` appears in panics.
    pub fn spawn(name: &str, command: &mut Command) -> Guard {
        let logs = tempfile::tempdir().expect("a folder for the program's output");
        let file = |stream: &str| {
            std::fs::File::create(logs.path().join(stream)).expect("a file for the output")
        };
        let output = [file("stdout").into(), file("stderr").into()];
        Guard::start(name, command, output, logs)
    }

    /// Starts `command` with its output going to pipes that nobody reads any more.
    pub fn spawn_unread(name: &str, command: &mut Command) -> Guard {
        let logs = tempfile::tempdir().expect("a folder");
        let output = [(); 2].map(|()| io::pipe().expect("a pipe").1.into());
        Guard::start(name, command, output, logs)
    }

    fn start(
        name: &str,
        command: &mut Command,
        [stdout, stderr]: [Stdio; 2],
        logs: tempfile::TempDir,
    ) -> Guard {
        let marker = new_marker();
        let child = command
            .env(MARKER, &marker)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: cannot start {command:?}: {error}"));
        Guard {
            name: name.to_owned(),
            marker,
            child,
            ended: None,
            logs,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The value of [`MARKER`] in this program and in all that it started.
    pub fn marker(&self) -> &str {
        &self.marker
    }

    pub fn stdout(&self) -> String {
        read(&self.logs.path().join("stdout"))
    }

    pub fn stderr(&self) -> String {
        read(&self.logs.path().join("stderr"))
    }

    /// Waits until a line of stdout or stderr contains `text`, and gives that line.
    pub fn line_with(&mut self, text: &str, limit: Duration) -> String {
        let found = wait::within(limit, || {
            let line = [self.stdout(), self.stderr()]
                .iter()
                .flat_map(|output| output.lines())
                .find(|line| line.contains(text))
                .map(str::to_owned);
            match line {
                Some(line) => Some(Some(line)),
                None => self.exited().is_some().then_some(None),
            }
        });
        found.flatten().unwrap_or_else(|| {
            panic!(
                "no line with {text:?} within {limit:?} from {}",
                self.report()
            )
        })
    }

    /// How the program ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("waitpid of our own child");
        }
        self.ended
    }

    /// Waits for the program to end by itself. Panics after `limit` with its output.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        wait::within(limit, || self.exited())
            .unwrap_or_else(|| panic!("not ended within {limit:?}: {}", self.report()))
    }

    /// Sends a signal (`libc::SIG…`) to this one process. Nothing when it has ended.
    pub fn signal(&mut self, signal: i32) {
        if self.exited().is_none() {
            signal_pid(self.pid(), signal)
                .unwrap_or_else(|error| panic!("{}: kill: {error}", self.name));
        }
    }

    /// SIGTERM, then waits. Panics after `limit`.
    pub fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait(limit)
    }

    /// SIGKILL to this one process, then waits for it (not for what it started).
    pub fn kill(&mut self) -> ExitStatus {
        self.signal(libc::SIGKILL);
        self.wait(PATIENCE)
    }

    /// The name, the end if any, and all output: what a failed assertion wants to show.
    pub fn report(&mut self) -> String {
        let ended = match self.exited() {
            None => "running".to_owned(),
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("ended with {code}"),
                (None, Some(signal)) => format!("ended by signal {signal}"),
                (None, None) => "ended".to_owned(),
            },
        };
        format!(
            "{} (pid {}, {ended})\n--- stdout\n{}\n--- stderr\n{}",
            self.name,
            self.pid(),
            self.stdout(),
            self.stderr()
        )
    }
}

impl Drop for Guard {
    // Work in `drop` is what this type is for: a test that panics must leave nothing behind.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.report());
        }
        self.signal(libc::SIGTERM);
        if wait::within(PATIENCE, || self.exited()).is_none() {
            self.signal(libc::SIGKILL);
            let _ended = wait::within(PATIENCE, || self.exited());
        }
    }
}

/// Sends `signal` to exactly one process.
pub fn signal_pid(pid: u32, signal: i32) -> io::Result<()> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    // A zero or a negative number would mean a whole group of processes.
    assert!(pid > 1, "refusing to signal pid {pid}");
    // SAFETY: kill takes two integers.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Is there such a process, and is it more than a zombie?
pub fn alive(pid: u32) -> bool {
    state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

/// The direct children of a process, zombies excepted.
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    tasks
        .flat_map(|task| {
            read(&task.path().join("children"))
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .filter_map(|pid| pid.parse().ok())
        .filter(|pid| alive(*pid))
        .collect()
}

/// The first process below `ancestor` whose command line, with spaces between its words, holds `words`.
pub fn below(ancestor: u32, words: &str) -> Option<u32> {
    let mut family = children(ancestor);
    let mut next = 0;
    while let Some(pid) = family.get(next).copied() {
        family.extend(children(pid));
        next += 1;
    }
    family
        .into_iter()
        .find(|pid| command_line(*pid).contains(words))
}

/// The words of a process, with spaces between; empty when it has ended.
pub fn command_line(pid: u32) -> String {
    read(Path::new(&format!("/proc/{pid}/cmdline"))).replace('\0', " ")
}

/// The state letter of `/proc/PID/stat`; the name before it may hold spaces and parentheses.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn new_marker() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

fn read(path: &Path) -> String {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::GENEROUS;

    #[test]
    fn output_end_and_signals() {
        let mut guard = Guard::spawn(
            "shell",
            Command::new("sh").args(["-c", "echo ready; trap 'exit 7' TERM; sleep 60 & wait"]),
        );
        assert_eq!(guard.line_with("ready", GENEROUS), "ready");
        assert!(alive(guard.pid()));
        assert_eq!(children(guard.pid()).len(), 1);
        let sleep = children(guard.pid())[0];
        assert_eq!(guard.terminate(GENEROUS).code(), Some(7));
        assert!(!alive(guard.pid()));
        signal_pid(sleep, libc::SIGKILL).expect("our own grandchild");
    }

    #[test]
    fn dropping_ends_the_program() {
        let guard = Guard::spawn("sleeper", Command::new("sleep").arg("60"));
        let pid = guard.pid();
        drop(guard);
        assert!(!alive(pid));
    }
}
