//! A bootstrap → `ripstop proxy`, serving.

use std::path::Path;
use std::process::Command;

use crate::process::Guard;
use crate::{program, wait};

/// Starts `before… ripstop proxy options… --bootstrap file` with one worker, and waits until it serves.
pub fn start(before: &[&str], ripstop: &str, options: &[&str], file: &Path) -> Guard {
    let mut command = match before {
        [first, rest @ ..] => {
            let mut command = Command::new(program(first));
            command.args(rest).arg(ripstop);
            command
        }
        [] => Command::new(ripstop),
    };
    command.args(["proxy", "--workers", "1", "--drain-time", "0"]);
    command.args(options).arg("--bootstrap").arg(file);
    let mut proxy = Guard::spawn("ripstop", &mut command);
    proxy.line_with("serving", wait::GENEROUS);
    proxy
}
