//! `ripstop top` → a live table of the traffic between services.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};

use crate::console::Console;
use crate::folder::Target;
use crate::scrape::fetch;
use crate::table;
use crate::traffic::{Row, Sample};

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// Scrape this address instead of the mesh's own
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
    /// As in 500ms or 2s
    #[arg(long, default_value = "2s", value_parser = super::duration)]
    interval: Duration,
    /// One table, then end
    #[arg(long)]
    once: bool,
    /// One JSON array an interval
    #[arg(long)]
    json: bool,
}

impl Options {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        crate::runtime::small(self.show())
    }

    async fn show(self) -> anyhow::Result<ExitCode> {
        let at = match self.metrics {
            Some(at) => at,
            None => {
                let folder = self.target.folder()?;
                let presence = folder.holder().map(|(_, presence)| presence);
                presence.and_then(|presence| presence.metrics).with_context(|| {
                    format!("no `ripstop up` runs in {}: name a proxy's metrics with --metrics ADDR", folder.path().display())
                })?
            }
        };
        let mut table = Live::new(at);
        let live = Console::Stdout.is_terminal() && !self.once && !self.json;
        loop {
            sleep(self.interval).await;
            let Some(rows) = table.next().await else {
                bail!("{at} does not answer; has the mesh ended?")
            };
            let text = match self.json {
                true => serde_json::to_string(&rows)? + "\n",
                false => text(&rows),
            };
            // Home, and clear below: no flicker of an empty screen.
            let clear = if live { "\x1b[H\x1b[J" } else { "" };
            match Console::Stdout.write_all(format!("{clear}{text}").as_bytes()) {
                Ok(()) if self.once => return Ok(ExitCode::SUCCESS),
                Ok(()) => {}
                // Who watched has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(ExitCode::SUCCESS);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// One metrics address, read again and again.
pub(crate) struct Live {
    at: SocketAddr,
    last: Option<(Instant, Sample)>,
}

impl Live {
    pub(crate) fn new(at: SocketAddr) -> Live {
        Live { at, last: None }
    }

    /// What happened since the last call; the first call waits a moment to have something to compare. `None`: no answer.
    pub(crate) async fn next(&mut self) -> Option<Vec<Row>> {
        if self.last.is_none() {
            self.last = Some((
                Instant::now(),
                Sample::read(&fetch(self.at, "/metrics").await?),
            ));
            sleep(Duration::from_millis(500)).await;
        }
        let sample = Sample::read(&fetch(self.at, "/metrics").await?);
        let now = Instant::now();
        let (then, before) = self.last.replace((now, sample.clone()))?;
        Some(sample.since(&before, now - then))
    }
}

pub(crate) fn text(rows: &[Row]) -> String {
    let number = |value: Option<f64>, digits: usize| {
        value.map(|v| format!("{v:.digits$}")).unwrap_or_default()
    };
    let rate = |value: f64| {
        if value > 0.0 {
            format!("{value:.1}")
        } else {
            String::new()
        }
    };
    let cells = rows.iter().map(|row| {
        [
            row.source.clone(),
            row.destination.clone(),
            rate(row.requests),
            number(row.success, 1),
            number(row.p50, 1),
            number(row.p90, 1),
            number(row.p99, 1),
            rate(row.connections),
            rate(row.bytes / 1024.0),
            number(row.mutual_tls, 0),
        ]
    });
    table::render(
        [
            "FROM",
            "TO",
            "REQ/S",
            "OK %",
            "P50 MS",
            "P90 MS",
            "P99 MS",
            "TCP CONN/S",
            "TCP KIB/S",
            "MTLS %",
        ],
        cells,
    )
}
