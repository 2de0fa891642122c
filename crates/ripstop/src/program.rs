//! Our own executable, as a command that starts another subcommand of it.

use std::process::Command;

/// `ripstop SUBCOMMAND`. By what this process runs, so that a binary that was replaced meanwhile does not meet an older self.
pub(crate) fn ourselves(subcommand: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(subcommand);
    command
}
