//! A copy of an example of the repository, for a test to change and to run.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Copies `examples/NAME` to `folder/NAME`, where the caller may read it.
pub fn copy(name: &str, folder: &Path) -> PathBuf {
    let copied = Command::new(crate::program("cp"))
        .arg("-r")
        .arg(crate::root().join("examples").join(name))
        .arg(folder)
        .status()
        .expect("cp");
    assert!(copied.success(), "cannot copy the example {name}");
    folder.join(name)
}

/// Replaces the first `from` of a file.
pub fn change(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).expect("a file of the example");
    assert!(text.contains(from), "{from:?} is not in {}", file.display());
    std::fs::write(file, text.replacen(from, to, 1)).expect("a writable copy");
}

/// A copy of `examples/orders` that gives a loaded machine more time for each try: that orders fail three times and
/// no more is what it shows, and a fourth failure would be the machine's.
pub fn orders(folder: &Path) -> PathBuf {
    let orders = copy("orders", folder);
    let config = orders.join("config/user-service.yaml");
    change(&config, "perTryTimeout: 2s", "perTryTimeout: 20s");
    orders
}
