//! The target → how the binary is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=sidecar.order");
    if target("OS") != "linux" || target("ENV") != "gnu" {
        return;
    }
    // Relocations are read at every start, and stay: packed (glibc 2.36) they are kilobytes, not most of a megabyte.
    link("-z,pack-relative-relocs");
    if linked_by_lld() && variable("PROFILE") == "release" {
        // What a sidecar runs lies together: docs/decisions/0005-functions-in-order.md.
        let order = format!("{}/sidecar.order", variable("CARGO_MANIFEST_DIR"));
        link(&format!("--symbol-ordering-file={order}"));
        link("--no-warn-symbol-ordering");
    }
}

fn link(argument: &str) {
    println!("cargo::rustc-link-arg-bins=-Wl,{argument}");
}

/// rustc brings LLD and uses it for this target, unless it is told to use another linker.
fn linked_by_lld() -> bool {
    let told = variable("CARGO_ENCODED_RUSTFLAGS");
    let other = ["linker", "fuse-ld", "link-self-contained"];
    let chosen = !variable("RUSTC_LINKER").is_empty();
    target("ARCH") == "x86_64" && !chosen && !other.iter().any(|word| told.contains(word))
}

fn target(what: &str) -> String {
    variable(&format!("CARGO_CFG_TARGET_{what}"))
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}
