//! Parts that tests share: upstreams that record bytes, real programs that end with the test, what they left behind.
//!
//! Everything is blocking and runs on threads of its own, so that a plain `#[test]` and a `#[tokio::test]` use it
//! alike. Nothing here skips: what is missing panics with the line that installs it. All traffic stays on loopback
//! or in namespaces that the test made.

pub mod caller;
pub mod capture;
pub mod envoy;
pub mod example;
pub mod frames;
pub mod http;
pub mod leftovers;
pub mod otlp;
pub mod port;
pub mod process;
pub mod standalone;
pub mod upstream;
pub mod wait;

use std::path::{Path, PathBuf};

/// The repository's root folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("testkit lies two folders below the root")
        .to_path_buf()
}

/// The path of an installed program, looked for in PATH and where Debian keeps what only root calls.
///
/// Panics with the line that installs it.
pub fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: run scripts/prerequisites.sh test"))
}
