//! The hooks against real programs: whom the table blames for each call, and whom the URL says.
//!
//! The work is done by Python programs in `trace/`; all traffic stays on loopback. By hand:
//! `python3 crates/host/tests/trace/drive.py`, which takes interpreters of other versions.

use std::process::Command;

#[path = "trace/kernel.rs"]
mod kernel;

/// The shared object that the keeper mounts.
const PRELOAD: &str = concat!(env!("OUT_DIR"), "/preload.so");

/// Runs a program of `trace/`; its output is shown when it fails.
fn run(name: &str, arguments: &[&str]) {
    let program = format!("{}/tests/trace/{name}", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("python3")
        .arg("-B")
        .arg(&program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("python3: {error}: run scripts/prerequisites.sh test"));
    assert!(
        output.status.success(),
        "{name}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    println!("{}", String::from_utf8_lossy(&output.stdout));
}

/// Drives with the producer in the kernel, where that is permitted.
fn asked(arguments: &[&str]) {
    match kernel::Served::new() {
        Some(kernel) => {
            let path = kernel.path();
            run("drive.py", &[&["--kernel", &path], arguments].concat());
        }
        None => run("drive.py", arguments),
    }
}

#[test]
fn every_call_is_attributed_to_the_request_that_made_it_or_to_none() {
    let few = ["--preload", PRELOAD, "--requests", "2", "--parallel", "6"];
    let kinds = ["python", "node", "ruby", "php", "c"];
    run("drive.py", &[&few[..], &kinds].concat());
}

/// Programs that nothing can be put into, and the producer in the kernel.
#[test]
fn what_the_kernel_sees_is_the_request_that_made_the_call_or_none() {
    asked(&["--requests", "2", "--parallel", "4", "static", "go"]);
}

/// The whole table of docs/tracing.md, Java included.
#[cfg(feature = "long")]
#[test]
fn every_call_is_attributed_to_the_request_that_made_it_or_to_none_however_often() {
    asked(&["--preload", PRELOAD]);
}

#[test]
fn a_program_does_not_notice_its_hook() {
    run("unnoticed.py", &["--preload", PRELOAD]);
}
