//! The repository's files in → what the checks look at: parsed Rust, other texts, and which lines are tests.

use super::Finding;
use anyhow::Context;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;
use syn::spanned::Spanned;

/// Everything that the checks see.
#[derive(Default)]
pub(crate) struct Tree {
    pub(crate) sources: Vec<Source>,
    /// Other text files: manifests, scripts, configuration, pages.
    pub(crate) texts: Vec<Text>,
    /// `cargo metadata --no-deps`.
    pub(crate) metadata: serde_json::Value,
    /// Rust files that do not parse.
    pub(crate) unreadable: Vec<Finding>,
}

pub(crate) struct Text {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// One Rust file.
pub(crate) struct Source {
    /// Relative to the root.
    pub(crate) path: PathBuf,
    /// The folder under `crates/`, or `xtask`.
    pub(crate) krate: String,
    pub(crate) text: String,
    pub(crate) syntax: syn::File,
    /// The whole file is a test: `tests/…`, `benches/…`, `…/tests.rs`, or a module below one.
    pub(crate) is_test: bool,
    /// Lines of items that only a test build has.
    test_lines: Vec<RangeInclusive<usize>>,
}

impl Source {
    pub(crate) fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> syn::Result<Source> {
        let (path, text) = (path.into(), text.into());
        let syntax = syn::parse_file(&text)?;
        let mut parts = path
            .components()
            .map(|part| part.as_os_str().to_string_lossy().into_owned());
        let krate = match parts.next().as_deref() {
            Some("crates") => parts.next().unwrap_or_default(),
            first => first.unwrap_or_default().to_owned(),
        };
        let is_test = path.components().any(|part| {
            matches!(
                part.as_os_str().to_str(),
                Some("tests" | "tests.rs" | "benches" | "examples")
            )
        });
        let test_lines = test_lines(&syntax.items);
        Ok(Source {
            path,
            krate,
            text,
            syntax,
            is_test,
            test_lines,
        })
    }

    pub(crate) fn in_test(&self, line: usize) -> bool {
        self.is_test || self.test_lines.iter().any(|range| range.contains(&line))
    }

    /// Lines of the range that hold code: no blank ones, no comments, no tests.
    pub(crate) fn code_lines(&self, range: RangeInclusive<usize>) -> usize {
        let lines = self
            .text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line.trim()));
        lines
            .filter(|(number, line)| {
                range.contains(number) && !line.is_empty() && !line.starts_with("//")
            })
            .filter(|(number, _)| !self.test_lines.iter().any(|tests| tests.contains(number)))
            .count()
    }
}

impl Tree {
    /// Reads every file that git tracks or would track.
    pub(crate) fn load(root: &Path) -> anyhow::Result<Tree> {
        let listed = output(
            Command::new("git")
                .args([
                    "ls-files",
                    "--cached",
                    "--others",
                    "--exclude-standard",
                    "-z",
                ])
                .current_dir(root),
        )?;
        let metadata = output(
            Command::new("cargo")
                .args([
                    "metadata",
                    "--no-deps",
                    "--format-version",
                    "1",
                    "--offline",
                ])
                .current_dir(root),
        )?;
        let mut tree = Tree {
            metadata: serde_json::from_str(&metadata)?,
            ..Tree::default()
        };
        let paths: BTreeSet<&str> = listed.split('\0').filter(|path| !path.is_empty()).collect();
        for path in paths {
            // A file that git knows and that was just deleted, or one that is not text, has nothing to check.
            if let Ok(text) = std::fs::read_to_string(root.join(path)) {
                tree.add(path, text);
            }
        }
        Ok(tree)
    }

    pub(crate) fn add(&mut self, path: &str, text: impl Into<String>) {
        let text = text.into();
        if !path.ends_with(".rs") {
            self.texts.push(Text {
                path: path.into(),
                text,
            });
            return;
        }
        match Source::new(path, text) {
            Ok(source) => self.sources.push(source),
            Err(error) => {
                let line = error.span().start().line;
                self.unreadable.push(Finding::error(
                    path,
                    line,
                    format!("does not parse: {error}"),
                ));
            }
        }
    }
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Is this attribute `#[cfg(test)]`, `#[cfg(all(test, …))]`, `#[test]` or `#[tokio::test]`?
fn marks_test(attribute: &syn::Attribute) -> bool {
    let path = attribute.path();
    if path
        .segments
        .last()
        .is_some_and(|segment| segment.ident == "test")
    {
        return true;
    }
    let text = match &attribute.meta {
        syn::Meta::List(list) if path.is_ident("cfg") => list.tokens.to_string(),
        _ => return false,
    };
    let negated = text.contains("not");
    !negated
        && text
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|word| word == "test")
}

fn test_lines(items: &[syn::Item]) -> Vec<RangeInclusive<usize>> {
    let mut ranges = Vec::new();
    for item in items {
        if attributes(item).iter().any(marks_test) {
            ranges.push(item.span().start().line..=item.span().end().line);
        } else if let syn::Item::Mod(syn::ItemMod {
            content: Some((_, inner)),
            ..
        }) = item
        {
            ranges.extend(test_lines(inner));
        }
    }
    ranges
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::ExternCrate(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_tests_from_code() {
        let text = "//! A file.\n\nfn code() {\n    // why\n    work();\n}\n\n#[cfg(test)]\nmod tests {\n    fn t() {}\n}\n\
                    #[cfg(not(test))]\nfn more() {}\n";
        let source = Source::new("crates/model/src/route.rs", text).expect("Rust");
        assert_eq!(source.krate, "model");
        assert_eq!(source.code_lines(1..=99), 5);
        assert!(source.in_test(10) && !source.in_test(5) && !source.in_test(13));
        assert!(
            Source::new("crates/model/src/route/tests.rs", "")
                .expect("Rust")
                .is_test
        );
        assert!(
            Source::new("crates/host/tests/netns.rs", "")
                .expect("Rust")
                .is_test
        );
    }

    #[test]
    fn a_file_that_does_not_parse_is_a_finding() {
        let mut tree = Tree::default();
        tree.add("crates/model/src/lib.rs", "fn ok() {}\nfn (");
        assert_eq!((tree.unreadable.len(), tree.unreadable[0].line), (1, 2));
    }
}
