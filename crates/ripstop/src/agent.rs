//! A workload's key and signed chain → the secrets of the stock Envoy beside it; and whether that workload is ready.
//!
//! The key is made here and stays on this machine: it leaves the process through a Unix socket that only its owner can
//! open, and nothing is written to disk.

pub(crate) mod bootstrap;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use ripstop_identity::key::Key;
use ripstop_model::seam::Family;
use ripstop_model::snapshot::Name;
use ripstop_model::snapshot::tls::{Pem, Roots, Secret, SecretBody, Validation};
use ripstop_wire::sds::Secrets;
use tokio::net::{TcpStream, UnixListener};
use tokio::sync::watch;

use crate::enrollment::Issued;

/// What Istio's agents call them, and what the control plane's configuration asks for.
const OWN: &str = "default";
const ROOTS: &str = "ROOTCA";
/// The roots that this host trusts, for TLS toward services outside the mesh.
const SYSTEM_ROOTS: &str = "file-root:system";
/// Of one attempt to reach a listener of Envoy's.
const CONNECT: Duration = Duration::from_secs(1);

type Held = Arc<BTreeMap<Name, Arc<Secret>>>;

/// The secrets as they are renewed: [`Vault::issued`] puts them in, [`Vault::secrets`] are served.
pub(crate) struct Vault {
    held: watch::Sender<Held>,
}

impl Vault {
    /// With the mesh's roots and the system's (PEM), and no certificate yet.
    pub(crate) fn new(mesh: &str, system: Option<&str>) -> Arc<Vault> {
        let mesh = roots(ROOTS, mesh);
        let system = system.map(|pem| roots(SYSTEM_ROOTS, pem));
        let held = Arc::new([mesh].into_iter().chain(system).collect());
        Arc::new(Vault {
            held: watch::Sender::new(held),
        })
    }

    pub(crate) fn secrets(&self) -> Secrets {
        self.held.subscribe()
    }

    /// Takes in every certificate that enrollment and renewal get.
    pub(crate) fn issued(self: &Arc<Vault>) -> Issued {
        let vault = Arc::clone(self);
        Arc::new(move |key: &Key, chain: &[String]| {
            let body = SecretBody::Certificate {
                chain: inline(&chain.concat()),
                key: inline(&key.private_key_pem()),
            };
            let (name, secret) = secret(OWN, body);
            vault.held.send_modify(|held| {
                Arc::make_mut(held).insert(name, secret);
            });
        })
    }
}

fn roots(name: &str, pem: &str) -> (Name, Arc<Secret>) {
    let validation = Validation {
        roots: Roots::Bundle(inline(pem)),
        sans: Vec::new(),
        host_name: false,
        certificate_hashes: Vec::new(),
        spki_hashes: Vec::new(),
        accept_untrusted: false,
    };
    secret(name, SecretBody::Validation(validation))
}

fn inline(text: &str) -> Pem {
    Pem::Inline(text.as_bytes().to_vec())
}

fn secret(name: &str, body: SecretBody) -> (Name, Arc<Secret>) {
    let name: Name = name.into();
    let secret = Secret {
        name: name.clone(),
        body,
    };
    (name, Arc::new(secret))
}

/// A socket at `path` that only its owner may connect to. What an earlier agent left there is removed.
pub(crate) fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let name = path.display();
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            bail!("{name} is there and is not a socket: name another path with --socket PATH")
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            bail!("another agent serves {name}: stop it, or name another path with --socket PATH")
        }
        Ok(_) => std::fs::remove_file(path).with_context(|| format!("cannot replace {name}"))?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).with_context(|| {
        format!(
            "cannot listen on {name}: its folder must exist, and the path may have 107 bytes at most"
        )
    })?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))
        .with_context(|| format!("cannot keep others from {name}"))?;
    Ok(listener)
}

/// Whether Envoy accepts connections on all of `listeners`, which it does once it has its configuration and certificate.
pub(crate) async fn serving(listeners: &[SocketAddr]) -> bool {
    for address in listeners {
        let connected = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await;
        if !matches!(connected, Ok(Ok(_))) {
            return false;
        }
    }
    true
}

/// The application of a stock Envoy runs where we run.
pub(crate) struct Here;

impl ripstop_proxy::Sockets for Here {
    fn stream(&self, family: Family) -> ripstop_proxy::Pending<'_, io::Result<OwnedFd>> {
        let family = match family {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        let made = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
        Box::pin(std::future::ready(made.map_err(io::Error::from)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_replaces_the_one_before_it() {
        let vault = Vault::new("roots", Some("others"));
        let secrets = vault.secrets();
        assert_eq!(
            secrets.borrow().keys().map(|n| &**n).collect::<Vec<_>>(),
            [ROOTS, SYSTEM_ROOTS]
        );
        let mut keys = Vec::new();
        for chain in ["first", "second"] {
            let key = Key::generate().unwrap();
            vault.issued()(&key, &[chain.to_owned(), " and its issuer".to_owned()]);
            let held = secrets.borrow().get(OWN).cloned().unwrap();
            let SecretBody::Certificate { chain: sent, key } = &held.body else {
                panic!("{held:?}")
            };
            assert_eq!(*sent, inline(&format!("{chain} and its issuer")));
            assert!(!keys.contains(key));
            keys.push(key.clone());
        }
        assert_eq!(secrets.borrow().len(), 3);
    }

    #[tokio::test]
    async fn the_socket_is_ours_alone_and_takes_over_only_what_nobody_serves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let first = listen(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let refused = listen(&path).unwrap_err().to_string();
        assert!(refused.contains("another agent"), "{refused}");
        drop(first);
        listen(&path).unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let refused = listen(&file).unwrap_err().to_string();
        assert!(refused.contains("not a socket"), "{refused}");
        assert!(file.exists());
    }
}
