//! The files' places and heads in → folders, names, markers and lint headers that break the layout.

use super::Finding;
use super::source::{Source, Text, Tree};

/// Module names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &[
    "common", "core", "types", "util", "utils", "helper", "helpers", "misc", "shared", "manager",
];

/// What a finished line does not say. Put together here, so that this file passes its own check.
const MARKERS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];

/// Crates in which nothing that a peer sends may panic.
const NO_PANIC: &[&str] = &["proxy", "wire"];
const NO_PANIC_LINTS: &[&str] = &["unwrap_used", "expect_used", "panic", "indexing_slicing"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let sources = tree.sources.iter().flat_map(|source| {
        let mut found = place(source);
        found.extend(markers(&Text {
            path: source.path.clone(),
            text: source.text.clone(),
        }));
        found.extend(lint_header(source));
        found
    });
    sources
        .chain(
            tree.texts
                .iter()
                .filter(|text| is_ours(text))
                .flat_map(markers),
        )
        .collect()
}

fn place(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let stem = source
        .path
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    if stem == "mod" && !source.is_test {
        let text =
            "a module foo is foo.rs beside foo/, so that no two open files are called mod.rs";
        findings.push(Finding::error(&source.path, 1, text));
    }
    if EMPTY_NAMES.contains(&stem.as_str()) {
        let text = format!(
            "a module called {stem} gathers whatever has no home: name it after the noun it holds"
        );
        findings.push(Finding::error(&source.path, 1, text));
    }
    let documented = source
        .syntax
        .attrs
        .iter()
        .any(|attribute| attribute.path().is_ident("doc"));
    if !documented && !source.is_test {
        let text = "a file begins with `//!` and one sentence: what goes in → what comes out";
        findings.push(Finding::error(&source.path, 1, text));
    }
    findings
}

fn markers(text: &Text) -> Vec<Finding> {
    let found = text.text.lines().enumerate().filter_map(|(index, line)| {
        let mut words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let word = words.find(|word| MARKERS.contains(word))?;
        Some(Finding::error(
            &text.path,
            index + 1,
            format!("{word}: finish it, or say in an issue what is left"),
        ))
    });
    found.collect()
}

/// Files that somebody wrote here: not the lock file, not the licence.
fn is_ours(text: &Text) -> bool {
    !matches!(text.path.to_str(), Some("Cargo.lock" | "LICENSE"))
}

fn lint_header(source: &Source) -> Option<Finding> {
    let is_root = source.path.ends_with("src/lib.rs");
    if !is_root || !NO_PANIC.contains(&source.krate.as_str()) {
        return None;
    }
    let denied = source
        .syntax
        .attrs
        .iter()
        .any(|attribute| match &attribute.meta {
            syn::Meta::List(list) => {
                let text = list.tokens.to_string();
                text.contains("deny") && NO_PANIC_LINTS.iter().all(|lint| text.contains(lint))
            }
            _ => false,
        });
    let text = "nothing that a peer sends may panic here; the file needs: #![cfg_attr(not(test), deny(clippy::unwrap_used, \
                clippy::expect_used, clippy::panic, clippy::indexing_slicing))]";
    (!denied).then(|| Finding::error(&source.path, 1, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let mut tree = Tree::default();
        tree.add(path, text);
        check(&tree)
            .iter()
            .map(|finding| format!("{}: {}", finding.line, finding.text))
            .collect()
    }

    #[test]
    fn modules_are_nouns_beside_their_folders() {
        assert!(found("crates/host/src/dns/mod.rs", "//! D.\n")[0].contains("foo.rs beside foo/"));
        assert!(found("crates/host/src/utils.rs", "//! U.\n")[0].contains("called utils"));
        assert!(found("crates/host/src/dns.rs", "fn f() {}\n")[0].contains("begins with"));
        assert!(found("crates/host/src/dns.rs", "//! D.\n").is_empty());
    }

    #[test]
    fn nothing_is_left_for_later() {
        let text = format!("//! D.\n// {}: later\n", MARKERS[0]);
        assert!(found("crates/host/src/dns.rs", &text)[0].starts_with("2: "));
        assert_eq!(
            found("scripts/x.sh", &format!("# {}\n", MARKERS[1])).len(),
            1
        );
        assert!(found("scripts/x.sh", "mktemp -t XXXXXX\n").is_empty());
    }

    #[test]
    fn the_data_plane_denies_panics() {
        let header = "//! P.\n#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, \
                      clippy::indexing_slicing))]\n";
        assert!(found("crates/proxy/src/lib.rs", header).is_empty());
        assert!(found("crates/proxy/src/lib.rs", "//! P.\n")[0].contains("may panic"));
        assert!(found("crates/host/src/lib.rs", "//! H.\n").is_empty());
    }
}
