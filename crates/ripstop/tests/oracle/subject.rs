//! The file → the two programs, running.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use ripstop_testkit::envoy::Envoy;
use ripstop_testkit::process::Guard;
use ripstop_testkit::wait;

use super::bootstrap;
use super::case::Case;

/// With one worker, so that round robin and limits are exact.
pub(crate) fn envoy(file: &str, admin: SocketAddr) -> Envoy {
    Envoy::start(file, admin)
}

pub(crate) struct Ripstop {
    _process: Guard,
    _folder: tempfile::TempDir,
}

/// With one worker as well; returns when every listener accepts.
pub(crate) fn ripstop(file: &str, cases: &[&Case]) -> Ripstop {
    let folder = tempfile::tempdir().expect("a folder for the bootstrap");
    let path = folder.path().join("bootstrap.yaml");
    std::fs::write(&path, file).expect("room for the bootstrap");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ripstop"));
    command
        .args([
            "proxy",
            "--workers",
            "1",
            "--drain-time",
            "0",
            "--bootstrap",
        ])
        .arg(&path);
    let mut process = Guard::spawn("ripstop", &mut command);
    for port in cases
        .iter()
        .flat_map(|case| bootstrap::bound(&case.bootstrap))
    {
        let open = wait::within(wait::GENEROUS, || {
            let open = TcpStream::connect(("127.0.0.1", port)).is_ok();
            (open || process.exited().is_some()).then_some(open)
        });
        assert!(
            open == Some(true),
            "ripstop does not serve: {}",
            process.report()
        );
    }
    Ripstop {
        _process: process,
        _folder: folder,
    }
}
