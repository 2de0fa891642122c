//! A network interface in → every byte that crossed it, by tcpdump, which must run as root.

use crate::process::Guard;
use crate::upstream::find;
use crate::{program, wait};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// A running packet capture.
pub struct Capture {
    process: Guard,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Capture {
    /// Starts capturing whole packets on `interface` of our network namespace; `filter` is a tcpdump expression such
    /// as `tcp port 8080`, or empty.
    pub fn start(interface: &str, filter: &str) -> Capture {
        Capture::run(Command::new(program("tcpdump")), interface, filter)
    }

    /// The same inside the network namespace of a process of the test's.
    pub fn start_in(pid: u32, interface: &str, filter: &str) -> Capture {
        let mut command = Command::new(program("nsenter"));
        command
            .args(["--net", "--target", &pid.to_string()])
            .arg(program("tcpdump"));
        Capture::run(command, interface, filter)
    }

    fn run(mut command: Command, interface: &str, filter: &str) -> Capture {
        let folder = tempfile::tempdir().expect("a folder for the capture");
        let file = folder.path().join("capture.pcap");
        // -Z root: tcpdump would otherwise write as a user of its own, who cannot enter the folder.
        command
            .args([
                "-i",
                interface,
                "-s",
                "0",
                "-U",
                "-n",
                "--immediate-mode",
                "-Z",
                "root",
                "-w",
            ])
            .arg(&file)
            .arg(filter);
        let mut process = Guard::spawn("tcpdump", &mut command);
        process.line_with("listening on", wait::GENEROUS);
        Capture {
            process,
            file,
            _folder: folder,
        }
    }

    /// Stops and gives the raw capture file: packet headers and all.
    pub fn stop(mut self) -> Vec<u8> {
        // Packets come one by one, yet tcpdump may lag; what was sent just now must be in the file.
        let mut before = 0;
        wait::within(Duration::from_secs(3), || {
            std::thread::sleep(Duration::from_millis(200));
            let length = std::fs::metadata(&self.file)
                .map(|file| file.len())
                .unwrap_or(0);
            let settled = length == before;
            before = length;
            settled.then_some(())
        });
        self.process.signal(libc::SIGINT);
        self.process.wait(wait::GENEROUS);
        std::fs::read(&self.file).expect("the capture file")
    }
}

/// Does a capture (or any bytes) contain `text`?
pub fn contains(bytes: &[u8], text: &str) -> bool {
    find(bytes, text.as_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http;
    use crate::upstream::Upstream;

    #[test]
    fn plain_text_is_seen() {
        let upstream = Upstream::always(200, "seen-in-the-clear");
        let capture = Capture::start("lo", &format!("tcp port {}", upstream.port()));
        http::get(upstream.addr(), "a", "/path-in-the-clear").expect("an answer");
        let bytes = capture.stop();
        assert!(contains(&bytes, "/path-in-the-clear") && contains(&bytes, "seen-in-the-clear"));
        assert!(!contains(&bytes, "never sent"));
    }
}
