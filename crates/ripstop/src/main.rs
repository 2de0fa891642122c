//! The one binary: a file per subcommand.
fn main() {}
