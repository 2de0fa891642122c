//! `RIPSTOP_LOG` → what this process logs to stderr.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::console::Console;

/// Starts logging; `default` is what counts where `RIPSTOP_LOG` says nothing. Once per process.
pub(crate) fn start(default: &str) -> anyhow::Result<()> {
    let wanted = std::env::var("RIPSTOP_LOG").unwrap_or_default();
    let wanted = if wanted.is_empty() { default } else { &wanted };
    let filter = EnvFilter::try_new(wanted).with_context(|| {
        format!(
            "RIPSTOP_LOG={wanted} is not a filter: write a level, or `info,ripstop_proxy=debug`"
        )
    })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Console::Stderr)
        .with_ansi(Console::Stderr.is_terminal())
        // Where it would be told has just failed.
        .log_internal_errors(false)
        .with_filter_reloading();
    let handle = subscriber.reload_handle();
    subscriber.init();
    let levels = Arc::new(Levels {
        current: Mutex::new(wanted.to_owned()),
        replace: Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string())),
    });
    // Logging starts once: the place is free.
    let _ = LEVELS.set(levels);
    Ok(())
}

static LEVELS: OnceLock<Arc<Levels>> = OnceLock::new();

/// What this process logs, to be shown and changed; `None` before [`start`].
pub(crate) fn levels() -> Option<Arc<Levels>> {
    LEVELS.get().cloned()
}

type Replace = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

pub(crate) struct Levels {
    current: Mutex<String>,
    replace: Replace,
}

impl ripstop_proxy::admin::Levels for Levels {
    fn current(&self) -> String {
        let current = self.current.lock();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, wanted: &str) -> Result<(), String> {
        let filter = EnvFilter::try_new(wanted)
            .map_err(|error| format!("{wanted} is not a filter: {error}"))?;
        (self.replace)(filter)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.clone_into(&mut current);
        Ok(())
    }
}
