//! The table of subcommands: each is a file in `command/` with its `Options` and `Options::run`, and a row here.

mod analyze;
mod completion;
mod keeper;
mod proxy;

use std::process::ExitCode;

/// Rows are `module => Variant`; the comment above a row is its line in `--help`.
macro_rules! commands {
    ($( $(#[$attribute:meta])* $module:ident => $Variant:ident, )*) => {
        #[derive(clap::Subcommand)]
        pub(crate) enum Command {
            $( $(#[$attribute])* $Variant($module::Options), )*
        }

        impl Command {
            /// Runs it. An error is for the user to read: what failed and what to do next.
            pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
                match self {
                    $( Command::$Variant(options) => options.run(), )*
                }
            }
        }
    };
}

commands! {
    /// Check files of Istio, Gateway API and mesh configuration
    analyze => Analyze,
    /// Print a script that completes ripstop's commands in a shell
    completion => Completion,
    #[command(hide = true)]
    keeper => Keeper,
    /// Run the data plane from an Envoy bootstrap
    proxy => Proxy,
}
