//! Paths that a file names in → those that its crate must not name.
//!
//! Paths are read from the tokens, so that macros and nested imports are seen too.

use super::Finding;
use super::source::{Source, Tree};
use proc_macro2::{TokenStream, TokenTree};

/// Libraries: everything that ends in the binary, but not the binary itself.
const LIBRARIES: &[&str] = &[
    "model",
    "wire",
    "identity",
    "telemetry",
    "proxy",
    "control",
    "host",
    "dashboard",
];
const ALL_BUT_WIRE: &[&str] = &[
    "model",
    "identity",
    "telemetry",
    "proxy",
    "control",
    "host",
    "dashboard",
    "ripstop",
    "testkit",
    "xtask",
];

/// The files of `proxy` that every request passes, by the first part of their module path.
const REQUEST_PATH: &[&str] = &[
    "worker", "listener", "detect", "tls", "tcp", "http", "http1", "http2", "policy", "route",
    "retry", "balance", "pool", "upstream",
];

struct Rule {
    crates: &'static [&'static str],
    /// Only in these modules of the crate; all of it when empty.
    modules: &'static [&'static str],
    /// A path that holds one of these, as whole segments in a row, breaks the rule. With a leading `::` it must start
    /// so.
    paths: &'static [&'static str],
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        crates: ALL_BUT_WIRE,
        modules: &[],
        paths: &[
            "::envoy_types",
            "::prost",
            "::prost_reflect",
            "::prost_types",
            "::tonic_prost",
        ],
        why: "only wire names a protobuf type; give wire a function that takes or returns a type of model",
    },
    Rule {
        crates: LIBRARIES,
        modules: &[],
        paths: &[
            "env::var",
            "env::var_os",
            "env::vars",
            "env::vars_os",
            "env::args",
            "env::args_os",
            "env::home_dir",
            "env::temp_dir",
            "env::current_dir",
            "env::set_var",
            "env::remove_var",
            "libc::getenv",
        ],
        why: "no library reads the environment: the binary does, once, and passes values",
    },
    Rule {
        crates: &["model"],
        modules: &[],
        paths: &[
            "Instant::now",
            "SystemTime::now",
            "OffsetDateTime::now_utc",
            "UtcDateTime::now",
        ],
        why: "model owns no clock: time comes in as an argument",
    },
    Rule {
        crates: &["model"],
        modules: &[],
        paths: &[
            "::tokio",
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "UnixStream",
            "UnixListener",
            "std::fs",
            "std::process",
            "std::thread",
        ],
        why: "model is pure: no I/O, no threads; the caller reads and passes the text or the value",
    },
    Rule {
        crates: &["proxy"],
        modules: REQUEST_PATH,
        paths: &["Mutex", "RwLock", "Condvar"],
        why: "the request path takes no lock: use per-worker state, an atomic or an ArcSwap",
    },
];

/// The first part of the module path of code that lies in a library and runs as a program of its own: it prints its
/// last words and ends by itself. (`host`: the keeper, pid 1 of a workload.)
const PROGRAMS: &[(&str, &str)] = &[("host", "keeper")];

/// Macros that libraries do not call.
const PRINTING: &[&str] = &["println", "eprintln", "print", "eprint"];

/// Calls that libraries do not make.
const ENDING: &[&str] = &["process::exit", "process::abort"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    // A build script is cargo's child: it is told by the environment and answers on stdout.
    let shipped = tree
        .sources
        .iter()
        .filter(|source| !source.path.ends_with("build.rs"));
    shipped.flat_map(source_findings).collect()
}

fn source_findings(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let krate = source.krate.as_str();
    let module = module(source);
    let is_library = LIBRARIES.contains(&krate) && !PROGRAMS.contains(&(krate, module.as_str()));
    let tokens = syn::parse_str::<TokenStream>(&source.text).unwrap_or_default();
    let mut named = Vec::new();
    collect(tokens, &[], &mut named);
    for Named {
        segments,
        line,
        is_macro,
    } in named
        .into_iter()
        .filter(|named| !source.in_test(named.line))
    {
        let holds = |patterns: &[&str]| patterns.iter().any(|pattern| matches(pattern, &segments));
        let path = segments.join("::");
        let mut report = |text: String| findings.push(Finding::error(&source.path, line, text));
        for rule in RULES
            .iter()
            .filter(|rule| rule.covers(krate, &module) && holds(rule.paths))
        {
            report(format!("`{path}`: {}", rule.why));
        }
        if is_library && is_macro && holds(PRINTING) {
            report(format!(
                "`{path}!` in a library: log with tracing, or return what there is to say"
            ));
        }
        if is_library && holds(ENDING) {
            report(format!(
                "`{path}`: a library returns an error; only a program decides to end"
            ));
        }
        if krate == "model" && segments == ["await"] {
            report("model never awaits: it is pure and has no runtime".to_owned());
        }
    }
    findings
}

impl Rule {
    fn covers(&self, krate: &str, module: &str) -> bool {
        self.crates.contains(&krate) && (self.modules.is_empty() || self.modules.contains(&module))
    }
}

/// The first part of a file's module path: `pool` for `src/pool.rs` and for `src/pool/idle.rs`.
fn module(source: &Source) -> String {
    let mut parts = source
        .path
        .components()
        .skip_while(|part| part.as_os_str() != "src")
        .skip(1);
    parts
        .next()
        .map(|part| part.as_os_str().to_string_lossy().replace(".rs", ""))
        .unwrap_or_default()
}

fn matches(pattern: &str, segments: &[String]) -> bool {
    let anchored = pattern.starts_with("::");
    let wanted: Vec<&str> = pattern.trim_start_matches("::").split("::").collect();
    match anchored {
        true => segments.len() >= wanted.len() && segments.iter().zip(&wanted).all(|(s, w)| s == w),
        false => segments
            .windows(wanted.len())
            .any(|window| window.iter().zip(&wanted).all(|(s, w)| s == w)),
    }
}

/// One path, or one leaf of an import.
struct Named {
    segments: Vec<String>,
    line: usize,
    is_macro: bool,
}

/// Walks the tokens; `prefix` is the path before the braces that we are in, as in `use std::{env, fs}`.
fn collect(tokens: TokenStream, prefix: &[String], named: &mut Vec<Named>) {
    let trees: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < trees.len() {
        match &trees[at] {
            TokenTree::Ident(ident) => {
                let line = ident.span().start().line;
                let mut segments = prefix.to_vec();
                segments.push(ident.to_string());
                at += 1;
                loop {
                    match (is_colons(&trees, at), trees.get(at + 2)) {
                        (true, Some(TokenTree::Ident(next))) => {
                            segments.push(next.to_string());
                            at += 3;
                        }
                        (true, Some(TokenTree::Group(group))) => {
                            collect(group.stream(), &segments, named);
                            at += 3;
                            break;
                        }
                        _ => break,
                    }
                }
                let is_macro = is_punct(&trees, at, '!')
                    && matches!(trees.get(at + 1), Some(TokenTree::Group(_)));
                named.push(Named {
                    segments,
                    line,
                    is_macro,
                });
            }
            TokenTree::Group(group) => {
                collect(group.stream(), &[], named);
                at += 1;
            }
            _ => at += 1,
        }
    }
}

fn is_colons(trees: &[TokenTree], at: usize) -> bool {
    is_punct(trees, at, ':') && is_punct(trees, at + 1, ':')
}

fn is_punct(trees: &[TokenTree], at: usize, character: char) -> bool {
    matches!(trees.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        source_findings(&Source::new(path, text).expect("Rust"))
            .iter()
            .map(|finding| finding.line)
            .collect()
    }

    #[test]
    fn protobufs_are_wires() {
        let text = "use envoy_types::pb;\nfn f() { prost::Message::encode(); }\nmod x { use {std::fmt, prost_types::Any}; }\n";
        assert_eq!(lines("crates/control/src/push.rs", text), [1, 2, 3]);
        assert!(lines("crates/wire/src/ads.rs", text).is_empty());
        assert!(lines("crates/control/src/push.rs", "use crate::prost_notes;\n").is_empty());
    }

    #[test]
    fn libraries_do_not_read_the_environment() {
        let text = "use std::{env::{self, var_os}, fmt};\nfn f() { env::var(\"X\"); }\nconst V: &str = env!(\"CARGO\");\n\
                    fn g() { std::env::current_exe(); }\n#[cfg(test)]\nmod tests { fn t() { std::env::var(\"X\"); } }\n";
        assert_eq!(lines("crates/host/src/keeper.rs", text), [1, 2]);
        assert!(lines("crates/ripstop/src/main.rs", text).is_empty());
        assert!(lines("crates/host/tests/run.rs", text).is_empty());
    }

    #[test]
    fn model_is_pure() {
        let text = "fn f() { let t = std::time::Instant::now(); }\nasync fn g() { h().await; }\nfn h(now: Instant) {}\n\
                    use std::net::{IpAddr, TcpStream};\n";
        assert_eq!(lines("crates/model/src/retry.rs", text), [1, 2, 4]);
        assert!(lines("crates/proxy/src/listener.rs", text).is_empty());
    }

    #[test]
    fn libraries_print_nothing_and_never_exit() {
        let text = "fn f() { println!(\"x\"); std::process::exit(1) }\n";
        assert_eq!(lines("crates/proxy/src/live.rs", text), [1, 1]);
        assert!(lines("crates/ripstop/src/top.rs", text).is_empty());
        assert!(lines("crates/host/src/keeper.rs", text).is_empty());
    }

    #[test]
    fn no_lock_on_the_request_path() {
        let text = "use std::sync::Mutex;\n";
        assert_eq!(lines("crates/proxy/src/balance/random.rs", text), [1]);
        assert_eq!(lines("crates/proxy/src/pool.rs", text), [1]);
        assert!(lines("crates/proxy/src/admin.rs", text).is_empty());
    }
}
