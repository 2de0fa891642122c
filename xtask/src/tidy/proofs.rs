//! A page that says what shows each of its claims → the tests that it names and nobody wrote.
//!
//! A table of guarantees is worth what its tests are: one that was renamed or deleted must not stay in it.

use super::Finding;
use super::source::{Text, Tree};
use std::path::Path;

/// Pages whose code spans name files below `crates/`, and tests in them (`crates/a/tests/b.rs::a_test`).
const PAGES: &[&str] = &["docs/strictness.md"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let pages = tree
        .texts
        .iter()
        .filter(|text| PAGES.iter().any(|page| text.path == Path::new(page)));
    pages.flat_map(|page| claims(page, tree)).collect()
}

fn claims(page: &Text, tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in page.text.lines().enumerate() {
        for span in line.split('`').skip(1).step_by(2) {
            if !span.starts_with("crates/") {
                continue;
            }
            let (file, test) = span.split_once("::").unwrap_or((span, ""));
            let source = tree.sources.iter().find(|s| s.path == Path::new(file));
            let text = match source {
                None => format!("there is no {file}: name the file that shows this, or write it"),
                Some(source) if !test.is_empty() && !has(&source.text, test) => {
                    format!("{file} has no test {test}: name the one that shows this, or write it")
                }
                Some(_) => continue,
            };
            findings.push(Finding::error(&page.path, index + 1, text));
        }
    }
    findings
}

fn has(source: &str, test: &str) -> bool {
    source.contains(&format!("#[test]\nfn {test}()"))
        || source.contains(&format!("#[test]\n    fn {test}()"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::Source;

    #[test]
    fn what_nobody_wrote_is_found() {
        let page = "| a | `crates/a/tests/b.rs::there` |\n| b | `crates/a/tests/b.rs::gone`, `crates/a/c.rs` |\n";
        let tree = Tree {
            sources: vec![
                Source::new(
                    "crates/a/tests/b.rs",
                    "#[test]\nfn there() {}\nfn gone() {}\n",
                )
                .unwrap(),
            ],
            texts: vec![Text {
                path: PAGES[0].into(),
                text: page.to_owned(),
            }],
            ..Tree::default()
        };
        let found = check(&tree);
        let lines: Vec<usize> = found.iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [2, 2]);
        assert!(found[0].text.contains("no test gone"), "{}", found[0].text);
        assert!(
            found[1].text.contains("no crates/a/c.rs"),
            "{}",
            found[1].text
        );
    }
}
