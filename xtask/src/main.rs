//! What is done twice: `cargo xtask tidy` checks the crate edges and the invariants, `cargo xtask bench` measures,
//! `cargo xtask instructions` compares what a request costs, `cargo xtask order` renews the order of the binary's functions,
//! `cargo xtask mutants` tests the tests.

mod bench;
mod mutants;
mod order;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask tidy                check the crate edges and the invariants of ARCHITECTURE.md
       cargo xtask bench [SECTION…]    measure target/release/ripstop (or RIPSTOP_BIN) beside its peers: binary, http,
                                       tcp, connect, memory
       cargo xtask instructions        compare the instructions per request of target/quick/ripstop (or RIPSTOP_BIN) with
                                       xtask/instructions.tsv (needs valgrind)
       cargo xtask order               renew crates/ripstop/sidecar.order (needs valgrind; some minutes)
       cargo xtask mutants [NUMBER…]   who notices each of crates/ripstop/tests/oracle/mutants.tsv (some 20 minutes)";

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => tidy::run(root()?),
        ["bench", ref sections @ ..] => bench::run(root()?, sections),
        ["instructions"] => bench::instructions(root()?),
        ["mutants", ref only @ ..] => mutants::run(root()?, only),
        ["order"] => order::run(root()?).map(|()| ExitCode::SUCCESS),
        ["bench-peer", ref arguments @ ..] => bench::peer(arguments),
        _ => {
            eprintln!("{USAGE}");
            Ok(ExitCode::from(2))
        }
    }
}

fn root() -> anyhow::Result<&'static Path> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .ok_or_else(|| anyhow::anyhow!("{} has no parent folder", here.display()))
}
