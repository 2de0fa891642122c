//! What every test here stands on: a folder that anybody can read, a workload to describe, a process to watch.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use ripstop_host::workload::{Addresses, HostResolver, Spec, Stdio as AppStdio};
use serde_json::json;

use ripstop_testkit::caller;
pub(crate) use ripstop_testkit::caller::{Caller, NOBODY, callers};

/// Long enough for a loaded machine; nothing here is about speed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const V4: &str = "10.88.0.5";
pub(crate) const V6: &str = "fd72:6970:7374::5";
/// The example beside this test, which must be of the same sources: `cargo test --test namespaces` alone does not build
/// it.
fn built() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let built = tests
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("examples/confine");
    let age = |path: &Path| {
        std::fs::metadata(path)
            .and_then(|metadata| metadata.modified())
            .ok()
    };
    let mut sources = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/confine.rs")];
    let mut folders = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path())
            } else {
                sources.push(entry.path())
            }
        }
    }
    let newest = sources.iter().filter_map(|path| age(path)).max();
    assert!(
        age(&built) >= newest,
        "{} is missing or older than its sources: `cargo build -p ripstop-host --example confine` builds it",
        built.display()
    );
    built
}

/// One workload to be, and the folder it is described in.
pub(crate) struct Bench {
    pub(crate) caller: Caller,
    pub(crate) spec: Spec,
    pub(crate) names: BTreeMap<String, Vec<IpAddr>>,
    pub(crate) nameservers: Vec<SocketAddr>,
    pub(crate) datagrams: Option<SocketAddr>,
    /// Words before the command, such as `unshare`.
    pub(crate) wrapper: Vec<String>,
    folder: tempfile::TempDir,
}

impl Bench {
    /// A workload that runs a Python program.
    pub(crate) fn python(caller: Caller, program: &str) -> Bench {
        Bench::command(caller, &["/usr/bin/python3", "-c", program])
    }

    pub(crate) fn shell(caller: Caller, program: &str) -> Bench {
        Bench::command(caller, &["/bin/sh", "-c", program])
    }

    pub(crate) fn command(caller: Caller, command: &[&str]) -> Bench {
        let folder = caller::folder("ripstop-host-");
        caller::copy(&built(), folder.path());
        let spec = Spec {
            service: "app".into(),
            namespace: "default".into(),
            service_account: "app".into(),
            workload: "app-v1".into(),
            replica: 0,
            addresses: Addresses {
                v4: Some(V4.parse().unwrap()),
                v6: Some(V6.parse().unwrap()),
            },
            target_ports: vec![8080],
            host_ports: vec![],
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            env: vec![("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into())],
            cwd: folder.path().to_owned(),
            user: None,
            stdio: AppStdio::Inherit,
            mask: vec![],
            resolver: HostResolver::parse("nameserver 127.0.0.53\nsearch corp.example\n", "laptop"),
            hooks: Vec::new(),
        };
        Bench {
            caller,
            spec,
            names: BTreeMap::new(),
            nameservers: vec![],
            datagrams: None,
            wrapper: vec![],
            folder,
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn inbound(&self) -> PathBuf {
        self.folder.path().join("inbound.sock")
    }

    /// The supervisor's command line, as the caller.
    fn supervisor(&self) -> Command {
        let description = json!({
            "spec": self.spec,
            "sidecar": {
                "names": self.names,
                "nameservers": self.nameservers,
                "datagrams": self.datagrams,
                "inbound": self.inbound(),
            },
        });
        let file = self.folder.path().join("workload.json");
        std::fs::write(&file, description.to_string()).unwrap();
        let mut words = self.caller.wrapper();
        words.extend(self.wrapper.iter().cloned());
        words.push(self.folder.path().join("confine").display().to_string());
        words.extend(["run".to_owned(), file.display().to_string()]);
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .current_dir("/")
            .stdin(Stdio::null());
        command
    }

    /// Runs to the end.
    pub(crate) fn run(&self) -> Output {
        let running = self.start();
        running.finish()
    }

    /// Runs to the end, which must be a good one; what the app printed.
    pub(crate) fn lines(&self) -> Vec<String> {
        let output = self.run();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{:?} as {:?}: {text}\n{}",
            output.status,
            self.caller,
            String::from_utf8_lossy(&output.stderr)
        );
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn start(&self) -> Running {
        let mut child = self
            .supervisor()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (told, stderr) = sync_channel(1024);
        let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = told.try_send(line);
            }
        });
        Running {
            child: Some(child),
            stderr,
            inbound: self.inbound(),
        }
    }

    /// The processes of this bench: every one whose command line names its folder, zombies aside.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        let marker = self.folder.path().display().to_string();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
                continue;
            };
            // Zombies have an empty command line.
            let Ok(words) = std::fs::read(entry.path().join("cmdline")) else {
                continue;
            };
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            let program = std::fs::read_link(entry.path().join("exe")).unwrap_or_default();
            if !words.is_empty()
                && (words.contains(&marker) || program.starts_with(self.folder.path()))
            {
                found.push((pid, words));
            }
        }
        found
    }

    /// Waits until none of its processes is left.
    pub(crate) fn assert_gone(&self) {
        eventually("processes are left", || {
            let left = self.processes();
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        });
    }
}

pub(crate) struct Running {
    child: Option<Child>,
    stderr: Receiver<String>,
    inbound: PathBuf,
}

impl Running {
    /// The supervisor's process id.
    pub(crate) fn pid(&self) -> i32 {
        self.child.as_ref().unwrap().id() as i32
    }

    /// The numbers of the next line on stderr that starts with `word`.
    pub(crate) fn told(&self, word: &str) -> Vec<i32> {
        let mut others = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.stderr.recv_timeout(left) else {
                panic!("no `{word}` among {others:?}")
            };
            match line.strip_prefix(word) {
                Some(numbers) => {
                    return numbers
                        .split_whitespace()
                        .map(|number| number.parse().unwrap())
                        .collect();
                }
                None => others.push(line),
            }
        }
    }

    /// What an inbound connection through the sidecar reads until its end, tried until the app listens.
    pub(crate) fn dial(&self, address: &str) -> String {
        eventually(&format!("dial {address}"), || {
            let mut stream =
                UnixStream::connect(&self.inbound).map_err(|error| error.to_string())?;
            stream
                .write_all(format!("{address}\n").as_bytes())
                .map_err(|error| error.to_string())?;
            let mut text = String::new();
            stream
                .read_to_string(&mut text)
                .map_err(|error| error.to_string())?;
            if text.starts_with("failed") || text.is_empty() {
                Err(text)
            } else {
                Ok(text.trim().to_owned())
            }
        })
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        kill(self.pid(), signal);
    }

    /// Waits for the end; stdout, and what was told on stderr.
    pub(crate) fn finish(mut self) -> Output {
        let child = self.child.take().unwrap();
        let mut output = child.wait_with_output().unwrap();
        let told: Vec<String> = self.stderr.iter().collect();
        output.stderr = told.join("\n").into_bytes();
        output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) fn kill(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

/// Tries until it works.
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) if Instant::now() > deadline => panic!("{what}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
