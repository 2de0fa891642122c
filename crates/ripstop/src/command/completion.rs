//! `ripstop completion SHELL` → the shell's completion script.

use std::process::ExitCode;

use clap::CommandFactory;

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
        clap_complete::generate(self.shell, &mut command, name, &mut std::io::stdout());
        Ok(ExitCode::SUCCESS)
    }
}
