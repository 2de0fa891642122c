//! What is done twice: tidy, bench, gen, release.
fn main() {}
