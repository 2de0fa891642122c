//! The functions that the suite exercises too.

#[path = "../crates/ripstop/tests/fuzz/targets.rs"]
mod targets;

/// Runs the target of that name.
pub fn run(name: &str, data: &[u8]) {
    let target = targets::TARGETS.iter().find(|(target, _)| *target == name);
    let (_, target) = target.expect("a target of that name");
    target(data);
}
