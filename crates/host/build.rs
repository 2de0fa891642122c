//! The preload crate's sources → the shared object that the binary carries.
//!
//! Cargo builds no cdylib of another package for a build script, so the compiler is called as Cargo would: one crate
//! without dependencies, for the same processor and glibc, whatever ripstop itself is linked against.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    const SOURCES: &str = "../preload/src";
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={SOURCES}");
    let told = |name: &str| std::env::var(name).unwrap_or_default();
    let object = PathBuf::from(told("OUT_DIR")).join("preload.so");
    let machine = (told("CARGO_CFG_TARGET_OS"), told("CARGO_CFG_TARGET_ARCH"));
    if machine != ("linux".to_owned(), "x86_64".to_owned()) {
        // An empty file is a producer that this build does not have.
        std::fs::write(&object, "").expect("OUT_DIR can be written");
        return;
    }
    let mut compiler = Command::new(told("RUSTC"));
    compiler
        .args(["--edition", "2024", "--crate-name", "ripstop_preload"])
        .args(["--crate-type", "cdylib", "--cfg", "shared_object"])
        .args(["--check-cfg", "cfg(shared_object, test)"])
        .args(["--target", "x86_64-unknown-linux-gnu"]);
    // A thread may be cancelled in a read: unwinding passes through, though nothing here unwinds.
    for option in [
        "opt-level=s",
        "panic=abort",
        "force-unwind-tables=yes",
        "strip=symbols",
    ] {
        compiler.args(["-C", option]);
    }
    // Before glibc 2.34 dlsym is libdl's. No other library is asked for, and no version of any symbol.
    for argument in [
        "-nostdlib",
        "-Wl,--no-as-needed",
        "-l:libdl.so.2",
        "-Wl,-z,now",
        "-Wl,-z,noseparate-code",
        "-Wl,-Bsymbolic",
    ] {
        compiler.args(["-C", &format!("link-arg={argument}")]);
    }
    compiler.arg("-o").arg(&object);
    compiler.arg(format!("{SOURCES}/lib.rs"));
    let status = compiler.status();
    assert!(
        status.as_ref().is_ok_and(|status| status.success()),
        "the preload object was not built ({status:?}): it needs glibc's linker files (Debian: libc6-dev) and the target \
         x86_64-unknown-linux-gnu (`rustup target add x86_64-unknown-linux-gnu`)"
    );
}
