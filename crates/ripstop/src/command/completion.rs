//! `ripstop completion SHELL` → the shell's completion script.

use std::process::ExitCode;

use clap::CommandFactory;

use crate::console::Console;

#[derive(clap::Args)]
#[command(after_help = "For bash: source <(ripstop completion bash)")]
pub(crate) struct Options {
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

impl Options {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut command = crate::Arguments::command();
        let name = command.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        Console::Stdout.say(&String::from_utf8_lossy(&script));
        Ok(ExitCode::SUCCESS)
    }
}
