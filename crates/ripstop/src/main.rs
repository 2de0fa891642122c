//! `ripstop`, the one binary: arguments → the subcommand that [`command`] lists → its exit code.

#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic when nobody reads; `say!` and `note!` of `console` do not"
)]

#[macro_use]
mod console;

mod admin;
mod agent;
mod client;
mod command;
mod controller;
mod dashboard;
mod descriptors;
mod enrollment;
mod folder;
mod log;
mod membership;
mod mesh;
mod output;
mod overview;
mod place;
mod plan;
mod program;
mod replica;
mod runtime;
mod scrape;
mod sidecar;
mod stage;
mod standalone;
mod table;
mod traffic;
mod turn;

use std::process::ExitCode;

use clap::Parser;

// Unwinding, from GCC's static library rather than its shared one: the binary then needs nothing but libc.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[link(name = "gcc_eh", kind = "static", modifiers = "-bundle")]
unsafe extern "C" {}

/// A service mesh in one binary: Istio's configuration, Envoy's xDS, SPIFFE's identities.
#[derive(Parser)]
#[command(
    name = "ripstop",
    version,
    max_term_width = 110,
    arg_required_else_help = true
)]
#[command(
    after_help = "RIPSTOP_LOG sets what is logged to stderr: a level, or as in `info,ripstop_proxy=debug`."
)]
struct Arguments {
    #[command(subcommand)]
    command: command::Command,
}

fn main() -> ExitCode {
    let code = match Arguments::parse().command.run() {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            return ExitCode::FAILURE;
        }
    };
    match console::lost() {
        // Who asked goes without an answer. A command that failed has said so already.
        Some(error) if code == ExitCode::SUCCESS => {
            note!("error: what was said could not be written: {error}");
            ExitCode::FAILURE
        }
        _ => code,
    }
}

/// An error and, indented, what caused it. A cause that its effect has already told is left out.
fn report(error: &anyhow::Error) {
    let mut told = error.to_string();
    note!("error: {told}");
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !told.contains(&cause) {
            note!("  because: {cause}");
        }
        told = cause;
    }
}
