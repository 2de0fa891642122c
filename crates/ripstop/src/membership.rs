//! A token file and the control plane of another host → a registered workload, also after a reboot: one that joined before comes
//! back with the credential that it was given then, and only a new one spends the token.
//!
//! The credentials are token files themselves, `joined/<id of the token>/<workload>.json` in the state folder (mode 0600), each
//! locked by the process that uses it: so that several replicas on one token come back as themselves, in whatever order.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use ripstop_control::api::message::{Register, Registered};
use ripstop_identity::token::TokenFile;

use crate::client::{Client, Error};
use crate::folder;

/// As long as the control plane lets a silent workload come back.
const REJOIN: Duration = Duration::from_secs(30 * 24 * 3600);
/// Between attempts to come back.
const RETRY: Duration = Duration::from_secs(1);

/// A workload that has joined; its credential is taken for as long as this lives.
pub(crate) struct Membership {
    /// Speaks for the workload.
    pub(crate) client: Client,
    pub(crate) registered: Registered,
    /// What the application must not see.
    pub(crate) secrets: Vec<PathBuf>,
    _held: Option<File>,
}

/// A credential of an earlier run.
struct Kept {
    token: TokenFile,
    replica: u32,
    file: File,
    path: PathBuf,
}

/// Registers what `register` describes at `control`, with the token in the file `token` or as who it was before.
///
/// # Errors
/// A token that cannot be read, is refused or has expired, and a control plane that is not the token's. Whoever comes back
/// waits for a control plane that does not answer; whoever is new does not.
pub(crate) async fn join(
    control: &str,
    token: &Path,
    state: Option<&Path>,
    mut register: Register,
) -> anyhow::Result<Membership> {
    let name = token.display();
    let text =
        fs::read_to_string(token).with_context(|| format!("cannot read the token file {name}"))?;
    let invitation = TokenFile::parse(&text).with_context(|| format!("{name}"))?;
    let folder = folder::joined(state)?.join(invitation.id());
    folder::private(&folder)?;
    let secrets = vec![std::path::absolute(token)?, folder.clone()];
    if let Some(kept) = kept(&folder, &register) {
        register.replica = Some(kept.replica);
        match comeback(control, &kept, &register).await {
            Ok((client, registered)) => {
                return Ok(Membership {
                    client,
                    registered,
                    secrets,
                    _held: Some(kept.file),
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot come back as before; joining anew");
                // Good for nothing any more.
                let _ = fs::remove_file(&kept.path);
                register.replica = None;
            }
        }
    }
    invitation
        .check(SystemTime::now())
        .with_context(|| format!("{name}"))?;
    let client = Client::join(control, &invitation).await?;
    let registered: Registered = client
        .post("/v1/workloads", &register)
        .await
        .context("cannot register")?;
    let (client, held) = match &registered.rejoin {
        Some(secret) => {
            let held = keep(&folder, &invitation, &registered, secret)
                .with_context(|| format!("cannot keep the credential in {}", folder.display()))?;
            (client.with_bearer(secret.clone()), Some(held))
        }
        None => (client, None),
    };
    Ok(Membership {
        client,
        registered,
        secrets,
        _held: held,
    })
}

/// Waits for the control plane. An error: it does not want us as who we were.
async fn comeback(
    control: &str,
    kept: &Kept,
    register: &Register,
) -> Result<(Client, Registered), Error> {
    let mut told = false;
    loop {
        let attempt = async {
            let client = Client::join(control, &kept.token).await?;
            let registered = client.post("/v1/workloads", register).await?;
            Ok((client, registered))
        };
        match attempt.await {
            Err(Error::Unreachable { .. }) => {}
            // It may be told to go away only by whoever it came to.
            Err(Error::Refused { status, message }) if status.is_server_error() => {
                tracing::debug!(message, "the control plane is in trouble");
            }
            outcome => return outcome,
        }
        if !std::mem::replace(&mut told, true) {
            note!("ripstop: waiting for the control plane at {control}");
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The first credential of such a workload that nobody uses, in the order of names.
fn kept(folder: &Path, register: &Register) -> Option<Kept> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .collect();
    paths.sort();
    paths.into_iter().find_map(|path| {
        let mut file = File::open(&path).ok()?;
        file.try_lock().ok()?;
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        let token = TokenFile::parse(&text).ok()?;
        let replica = token.replica()?;
        let same = Register {
            replica: Some(replica),
            ..register.clone()
        };
        (same.id() == token.allows.workload).then_some(Kept {
            token,
            replica,
            file,
            path,
        })
    })
}

/// Whole or not at all, and locked before anybody else can find it.
fn keep(
    folder: &Path,
    invitation: &TokenFile,
    registered: &Registered,
    secret: &str,
) -> std::io::Result<File> {
    let until = SystemTime::now() + REJOIN;
    let mut token = invitation.clone();
    secret.clone_into(&mut token.secret);
    token.expires = until
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    token.allows.workload = Some(registered.id.clone());
    let path = folder.join(format!("{}.json", registered.id));
    let fresh = folder.join(format!(".{}.{}", registered.id, std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.try_lock()?;
    file.write_all(token.to_json().as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, &path)?;
    Ok(file)
}
