//! The control plane as a child process of `up`: started, started again when it dies, ended with us.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::Ipv4Net;
use ripstop_control::api::message::Status;
use tokio::process::{Child, ChildStdin};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::client::Client;
use crate::folder::Folder;
use crate::program::ourselves;
use crate::replica::append;

/// For the first answer.
const START: Duration = Duration::from_secs(20);
/// For an orderly end.
const END: Duration = Duration::from_secs(5);
const BACK_OFF: Duration = Duration::from_millis(200);
const BACK_OFF_MOST: Duration = Duration::from_secs(5);
const STEADY: Duration = Duration::from_secs(10);

/// What the child is started with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Arguments {
    pub(crate) sources: Vec<PathBuf>,
    pub(crate) folder: PathBuf,
    pub(crate) transport: Ipv4Net,
    pub(crate) xds: SocketAddr,
    pub(crate) xds_tls: SocketAddr,
    pub(crate) monitoring: SocketAddr,
}

impl Arguments {
    fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        let mut pair = |name: &str, value: OsString| words.extend([name.into(), value]);
        for source in &self.sources {
            pair("--config", source.into());
        }
        pair("--state", self.folder.clone().into());
        pair("--xds", self.xds.to_string().into());
        pair("--xds-tls", self.xds_tls.to_string().into());
        pair("--monitoring", self.monitoring.to_string().into());
        pair("--transport-range", self.transport.to_string().into());
        words.push("--until-stdin-closes".into());
        words
    }
}

pub(crate) struct Controller {
    arguments: Arguments,
    folder: Folder,
    client: Client,
    child: Child,
    /// Its lifeline: it ends when this closes. (Not left in `child`, whose `wait` would close it.)
    lifeline: Option<ChildStdin>,
    born: Instant,
    delay: Duration,
    /// When a dead one is started again.
    due: Option<Instant>,
}

impl Controller {
    /// Starts it and waits for its first answer.
    pub(crate) async fn start(folder: Folder, arguments: Arguments) -> anyhow::Result<Controller> {
        let client = Client::local(&folder.socket());
        let (child, lifeline) = spawn(&folder, &arguments)?;
        let mut controller = Controller {
            arguments,
            folder,
            client,
            child,
            lifeline,
            born: Instant::now(),
            delay: BACK_OFF,
            due: None,
        };
        controller.answers().await?;
        Ok(controller)
    }

    async fn answers(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        loop {
            match self.client.fetch::<Status>("/v1/status").await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_unreachable() => {}
                Err(error) => return Err(error).context("the control plane does not start"),
            }
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "the control plane does not start ({status}):\n{}",
                    self.last_words()
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "the control plane does not answer after {} s; {} may say why",
                    START.as_secs(),
                    self.log().display()
                );
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn log(&self) -> PathBuf {
        log(&self.folder)
    }

    /// The end of its log, from the last `error:` on.
    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let mut last: VecDeque<&str> = VecDeque::new();
        for line in text.lines() {
            if line.starts_with("error:") || last.len() == 20 {
                last.clear();
            }
            last.push_back(line);
        }
        last.into_iter()
            .map(|line| format!("  {line}\n"))
            .collect::<String>()
            .trim_end()
            .to_owned()
    }

    /// Waits for its death, starts it again, and tells how it died. Cancel-safe: the next call goes on where this one was.
    pub(crate) async fn revive(&mut self) -> String {
        let how = match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        if self.due.is_none() && self.born.elapsed() > STEADY {
            self.delay = BACK_OFF;
        }
        let due = *self.due.get_or_insert_with(|| Instant::now() + self.delay);
        sleep_until(due).await;
        self.due = None;
        self.delay = (self.delay * 2).min(BACK_OFF_MOST);
        self.born = Instant::now();
        match spawn(&self.folder, &self.arguments) {
            Ok((child, lifeline)) => {
                (self.child, self.lifeline) = (child, lifeline);
                format!(
                    "the control plane ended ({how}) and was started again; proxies keep what they have"
                )
            }
            Err(error) => {
                format!("the control plane ended ({how}) and cannot be started again: {error:#}")
            }
        }
    }

    /// Starts it anew with other arguments; proxies keep serving meanwhile.
    pub(crate) async fn replace(&mut self, arguments: Arguments) -> anyhow::Result<()> {
        if arguments == self.arguments {
            return Ok(());
        }
        self.stop().await;
        self.arguments = arguments;
        (self.child, self.lifeline) = spawn(&self.folder, &self.arguments)?;
        self.born = Instant::now();
        self.answers().await
    }

    pub(crate) fn arguments(&self) -> &Arguments {
        &self.arguments
    }

    pub(crate) async fn stop(&mut self) {
        drop(self.lifeline.take());
        if timeout(END, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

fn log(folder: &Folder) -> PathBuf {
    folder.logs().join("control.log")
}

fn spawn(folder: &Folder, arguments: &Arguments) -> anyhow::Result<(Child, Option<ChildStdin>)> {
    let mut command = ourselves("control");
    command
        .args(arguments.words())
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let path = log(folder);
    command.stderr(append(&path).with_context(|| format!("cannot write {}", path.display()))?);
    let mut command = tokio::process::Command::from(command);
    // A group of its own: Ctrl-C at a terminal is ours to judge.
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn().context("cannot start the control plane")?;
    let lifeline = child.stdin.take();
    Ok((child, lifeline))
}
