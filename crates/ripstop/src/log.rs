//! `RIPSTOP_LOG` → what this process logs to stderr.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

/// Starts logging; `default` is what counts where `RIPSTOP_LOG` says nothing. Once per process.
pub(crate) fn start(default: &str) -> anyhow::Result<()> {
    let wanted = std::env::var("RIPSTOP_LOG").unwrap_or_default();
    let wanted = if wanted.is_empty() { default } else { &wanted };
    let filter = EnvFilter::try_new(wanted).with_context(|| {
        format!(
            "RIPSTOP_LOG={wanted} is not a filter: write a level, or `info,ripstop_proxy=debug`"
        )
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}
