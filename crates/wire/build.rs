//! `envoy-types` package → `$OUT_DIR/envoy.bin`: the descriptor set that the package carries but does not export
//! (decisions.md, 8). Found through `cargo metadata`, so nothing is checked in and no protoc is needed.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let source = package().join("src/generated/types.bin");
    println!("cargo::rerun-if-changed={}", source.display());
    std::fs::copy(&source, out.join("envoy.bin")).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; this version of envoy-types carries its descriptor set elsewhere: adapt crates/wire/build.rs",
            source.display()
        )
    });
}

/// The folder of the `envoy-types` package.
fn package() -> PathBuf {
    let cargo = std::env::var_os("CARGO").expect("cargo sets CARGO");
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline"])
        .output()
        .expect("cargo metadata runs");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "envoy-types")
        .and_then(|package| package["manifest_path"].as_str())
        .expect("envoy-types is a dependency of this crate");
    Path::new(manifest)
        .parent()
        .expect("a manifest has a folder")
        .to_owned()
}
