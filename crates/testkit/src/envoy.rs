//! A bootstrap in → a running stock Envoy, the oracle.

use crate::process::Guard;
use crate::{http, root, wait};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

/// The Envoy of `.venv`, where `make test` installs it.
///
/// Panics with the line that installs it.
pub fn binary() -> PathBuf {
    let libraries = root().join(".venv/lib");
    std::fs::read_dir(&libraries)
        .into_iter()
        .flatten()
        .flatten()
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
        .find(|file| file.is_file())
        .unwrap_or_else(|| {
            panic!(
                "no Envoy under {}: run scripts/prerequisites.sh test (make test does)",
                libraries.display()
            )
        })
}

/// A running Envoy.
pub struct Envoy {
    pub process: Guard,
    admin: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Envoy {
    /// Starts Envoy with one worker on a bootstrap (YAML or JSON) whose admin address is `admin`, and waits until it
    /// serves. Panics with its log when it does not.
    pub fn start(bootstrap: &str, admin: SocketAddr) -> Envoy {
        let folder = tempfile::tempdir().expect("a folder for the bootstrap");
        let file = folder.path().join("bootstrap.yaml");
        std::fs::write(&file, bootstrap).expect("room for the bootstrap");
        let mut command = Command::new(binary());
        command.arg("-c").arg(&file).args([
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "warning",
        ]);
        // A drain of ten minutes is the default; a test's Envoy ends at once.
        command.args(["--drain-time-s", "1", "--parent-shutdown-time-s", "2"]);
        let mut envoy = Envoy {
            process: Guard::spawn("envoy", &mut command),
            admin,
            _folder: folder,
        };
        let live = wait::within(wait::GENEROUS, || {
            let ready =
                http::get(admin, "admin", "/ready").is_ok_and(|response| response.status == 200);
            (ready || envoy.process.exited().is_some()).then_some(ready)
        });
        assert!(
            live == Some(true),
            "Envoy does not serve: {}",
            envoy.process.report()
        );
        envoy
    }

    /// The body of an admin page, such as `/config_dump` or `/stats?filter=update_rejected`.
    pub fn admin(&self, path: &str) -> String {
        http::get(self.admin, "admin", path)
            .unwrap_or_else(|error| panic!("Envoy's admin {path}: {error}"))
            .text()
    }

    /// The value of one counter or gauge; nothing when Envoy has none of that name.
    pub fn stat(&self, name: &str) -> Option<u64> {
        let page = self.admin("/stats");
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))?;
        line.trim().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port;
    use crate::upstream::Upstream;

    #[test]
    fn the_oracle_starts_and_forwards() {
        let upstream = Upstream::always(200, "through envoy");
        let (admin, listener) = (port::reserve(), port::reserve());
        let bootstrap = serde_json::json!({
            "admin": {"address": address(admin.number())},
            "static_resources": {
                "listeners": [{
                    "name": "in",
                    "address": address(listener.number()),
                    "filter_chains": [{"filters": [{
                        "name": "tcp",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                            "stat_prefix": "in",
                            "cluster": "up",
                        }
                    }]}],
                }],
                "clusters": [{
                    "name": "up",
                    "connect_timeout": "1s",
                    "type": "STATIC",
                    "load_assignment": {"cluster_name": "up", "endpoints": [{"lb_endpoints": [
                        {"endpoint": {"address": address(upstream.port())}}
                    ]}]},
                }],
            },
        });
        let envoy = Envoy::start(&bootstrap.to_string(), admin.addr());
        assert_eq!(
            http::get(listener.addr(), "a", "/")
                .expect("an answer")
                .text(),
            "through envoy"
        );
        assert_eq!(envoy.stat("cluster.up.upstream_cx_total"), Some(1));
    }

    fn address(port: u16) -> serde_json::Value {
        serde_json::json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
    }
}
