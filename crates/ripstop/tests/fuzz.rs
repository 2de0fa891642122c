//! The corpus of every parser's fuzz target, and seeded mutations of it: a bounded run of what cargo-fuzz runs for long
//! (`fuzz/README.md`), on a stable compiler.
//!
//! An input that breaks something becomes a file of its target's corpus together with the fix.

#[path = "fuzz/targets.rs"]
mod targets;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// For each target. The parsers take some hundred thousand a minute, the whole proxy some hundred.
const MUTATIONS: usize = 20_000;
/// However slow the machine.
const AT_MOST: Duration = Duration::from_secs(4);

/// SplitMix64: the same mutations in every run.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `most`, which is not 0.
    fn below(&mut self, most: usize) -> usize {
        (self.next() % most as u64) as usize
    }
}

/// What parsers look at.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"%",
    b"%2e",
    b"%2f",
    b"%5c",
    b"%00",
    b"/../",
    b"//",
    b"\\",
    b"Content-Length: 1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: a\r\n",
    b"0\r\n\r\n",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    b"\x16\x03\x01",
    b"\x80",
    b"\x7f",
    b"9999999999999999999",
];

fn mutate(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[dice.below(corpus.len())].clone();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        let end = at + dice.below(bytes.len() - at + 1).min(40);
        match dice.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 if at < bytes.len() => bytes[at] = dice.next() as u8,
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => drop(bytes.splice(at..at, WORDS[dice.below(WORDS.len())].iter().copied())),
            5 => {
                let other = &corpus[dice.below(corpus.len())];
                let from = dice.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => bytes.truncate(end),
        }
    }
    bytes.truncate(16 * 1024);
    bytes
}

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = ripstop_testkit::root().join("fuzz/corpus").join(name);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    let read = |path: PathBuf| (path.clone(), std::fs::read(path).expect("a readable file"));
    files.into_iter().map(read).collect()
}

/// Runs one input; a panic tells which it was.
fn run(target: targets::Target, what: &str, input: &[u8]) {
    if let Err(panic) = std::panic::catch_unwind(|| target(input)) {
        let folder = std::env::temp_dir();
        let file = folder.join(format!("ripstop-fuzz-{}", std::process::id()));
        let kept = std::fs::write(&file, input).map(|()| file);
        eprintln!(
            "{what} failed on {:?}, kept as {kept:?}",
            input.escape_ascii().to_string()
        );
        std::panic::resume_unwind(panic);
    }
}

fn exercise(name: &str) {
    let (_, target) = targets::TARGETS
        .iter()
        .find(|(target, _)| *target == name)
        .expect("a target of that name");
    let corpus = corpus(name);
    for (path, input) in &corpus {
        run(*target, &path.display().to_string(), input);
    }
    let seeds: Vec<Vec<u8>> = corpus.into_iter().map(|(_, input)| input).collect();
    let mut dice = Dice(0x7269_7073);
    let begun = Instant::now();
    for _ in 0..MUTATIONS {
        if begun.elapsed() > AT_MOST {
            break;
        }
        run(*target, name, &mutate(&mut dice, &seeds));
    }
}

macro_rules! exercised {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            exercise(stringify!($name));
        })*

        /// A target without a test, or a corpus without a target, would be forgotten.
        #[test]
        fn every_target_has_a_test_a_corpus_and_a_binary() {
            let tested = [$(stringify!($name)),*];
            let names: Vec<&str> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, tested);
            let fuzz = ripstop_testkit::root().join("fuzz");
            let listed = |folder: &Path| {
                let entries = std::fs::read_dir(folder).expect("a folder");
                let stem = |path: PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
                let mut names: Vec<String> = entries.map(|entry| stem(entry.expect("a file").path())).collect();
                names.sort();
                names
            };
            let mut sorted: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            sorted.sort();
            assert_eq!(listed(&fuzz.join("corpus")), sorted);
            assert_eq!(listed(&fuzz.join("fuzz_targets")), sorted);
        }
    };
}

exercised! {
    http1_request http1_response chunked_body path tls_hello detection proxy_protocol dns xds downstream upstream
}
