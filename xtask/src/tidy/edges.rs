//! `cargo metadata` in → crate edges that ARCHITECTURE.md does not draw.

use super::Finding;
use super::source::{Text, Tree};
use std::path::{Path, PathBuf};

/// Every crate and the crates of ours that it may depend on. `testkit` is free for all as a dev-dependency.
const EDGES: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("wire", &["model"]),
    ("identity", &["model"]),
    ("telemetry", &["model"]),
    ("h2", &[]),
    ("proxy", &["model", "wire", "identity", "telemetry", "h2"]),
    ("control", &["model", "wire", "identity", "telemetry"]),
    ("host", &["model"]),
    ("preload", &[]),
    ("dashboard", &["model"]),
    (
        "ripstop",
        &[
            "model",
            "wire",
            "identity",
            "telemetry",
            "proxy",
            "control",
            "host",
            "dashboard",
        ],
    ),
    ("testkit", &[]),
    ("xtask", &[]),
];

/// Crates of others that only some of ours may name, by the start of their name.
const OUTSIDERS: &[(&str, Allowed, &str)] = &[
    (
        "envoy-types",
        Allowed::Only(&["wire"]),
        "only wire knows a protobuf, so that the others compile without it and mean types of their own",
    ),
    (
        "prost",
        Allowed::Only(&["wire"]),
        "only wire knows a protobuf, so that the others compile without it and mean types of their own",
    ),
    (
        "tonic-prost",
        Allowed::Only(&["wire"]),
        "only wire knows a protobuf, so that the others compile without it and mean types of their own",
    ),
    (
        "opentelemetry",
        Allowed::Only(&["telemetry"]),
        "one crate exports; the others fill in its Record",
    ),
    (
        "tokio",
        Allowed::Except(&["model"]),
        "model is pure: it never awaits, so that compile and match can be tested and run anywhere",
    ),
    (
        "futures",
        Allowed::Except(&["model"]),
        "model is pure: it never awaits, so that compile and match can be tested and run anywhere",
    ),
    (
        "hyper",
        Allowed::Except(&["model"]),
        "model opens no sockets",
    ),
    (
        "socket2",
        Allowed::Except(&["model"]),
        "model opens no sockets",
    ),
    ("nix", Allowed::Except(&["model"]), "model calls no kernel"),
    ("libc", Allowed::Except(&["model"]), "model calls no kernel"),
    (
        "tracing",
        Allowed::Except(&["model"]),
        "model never logs: it returns what there is to say",
    ),
    (
        "anyhow",
        Allowed::Only(&["ripstop", "xtask"]),
        "libraries have error enums without a catch-all; anyhow is for the binary",
    ),
];

#[derive(Clone, Copy)]
enum Allowed {
    Only(&'static [&'static str]),
    Except(&'static [&'static str]),
}

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let packages = tree.metadata["packages"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    packages
        .iter()
        .flat_map(|package| package_findings(package, tree))
        .collect()
}

fn package_findings(package: &serde_json::Value, tree: &Tree) -> Vec<Finding> {
    let Some(manifest) = manifest(package, tree) else {
        return Vec::new();
    };
    let name = short(package["name"].as_str().unwrap_or_default());
    let Some((_, allowed)) = EDGES.iter().find(|(krate, _)| *krate == name) else {
        let text = format!(
            "the crate {name} is not in ARCHITECTURE.md: add it there and to EDGES in xtask/src/tidy/edges.rs"
        );
        return vec![Finding::error(&manifest.path, 1, text)];
    };
    let dependencies = package["dependencies"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    dependencies
        .iter()
        .filter_map(|dependency| edge_finding(name, allowed, dependency, manifest))
        .collect()
}

fn edge_finding(
    from: &str,
    allowed: &[&str],
    dependency: &serde_json::Value,
    manifest: &Text,
) -> Option<Finding> {
    let name = dependency["name"].as_str()?;
    let dev = dependency["kind"].as_str() == Some("dev");
    let text = if dependency["path"].is_string() {
        let to = short(name);
        if allowed.contains(&to) || (dev && to == "testkit") {
            return None;
        }
        format!(
            "{from} must not depend on {to}: edges point down only ({from} may use: {}). \
             A trait that both need belongs in model::seam",
            if allowed.is_empty() {
                "none of ours".to_owned()
            } else {
                allowed.join(", ")
            }
        )
    } else {
        // Tests may use what they like.
        let (_, rule, why) = OUTSIDERS
            .iter()
            .find(|(start, ..)| !dev && name.starts_with(start))?;
        let fine = match rule {
            Allowed::Only(crates) => crates.contains(&from),
            Allowed::Except(crates) => !crates.contains(&from),
        };
        if fine {
            return None;
        }
        format!("{from} must not depend on {name}: {why}")
    };
    Some(Finding::error(
        &manifest.path,
        line_of(&manifest.text, name),
        text,
    ))
}

fn manifest<'a>(package: &serde_json::Value, tree: &'a Tree) -> Option<&'a Text> {
    let path = PathBuf::from(package["manifest_path"].as_str()?);
    let root = Path::new(tree.metadata["workspace_root"].as_str()?);
    let relative = path.strip_prefix(root).ok()?;
    tree.texts.iter().find(|text| text.path == relative)
}

fn short(package: &str) -> &str {
    package.strip_prefix("ripstop-").unwrap_or(package)
}

fn line_of(manifest: &str, dependency: &str) -> usize {
    let names = |line: &str| {
        let rest = line.trim_start().strip_prefix(dependency)?;
        rest.starts_with([' ', '=', '.']).then_some(())
    };
    manifest
        .lines()
        .position(|line| names(line).is_some())
        .map_or(1, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn findings(krate: &str, dependencies: serde_json::Value) -> Vec<Finding> {
        let mut tree = Tree {
            metadata: json!({"workspace_root": "/r", "packages": [{
                "name": krate, "manifest_path": "/r/crates/x/Cargo.toml", "dependencies": dependencies,
            }]}),
            ..Tree::default()
        };
        tree.add(
            "crates/x/Cargo.toml",
            "[package]\n[dependencies]\nripstop-control = {}\nprost.workspace = true\n",
        );
        check(&tree)
    }

    fn ours(name: &str, kind: Option<&str>) -> serde_json::Value {
        json!({"name": name, "path": "/r/crates/y", "kind": kind})
    }

    #[test]
    fn edges_point_down() {
        let found = findings(
            "ripstop-proxy",
            json!([ours("ripstop-model", None), ours("ripstop-control", None)]),
        );
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].line, 3);
        assert!(
            found[0]
                .text
                .starts_with("proxy must not depend on control"),
            "{}",
            found[0]
        );
    }

    #[test]
    fn testkit_is_for_tests_only() {
        assert!(
            findings(
                "ripstop-host",
                json!([ours("ripstop-testkit", Some("dev"))])
            )
            .is_empty()
        );
        assert_eq!(
            findings("ripstop-host", json!([ours("ripstop-testkit", None)])).len(),
            1
        );
    }

    #[test]
    fn outsiders_have_their_crate() {
        let prost = |kind: Option<&str>| json!([{"name": "prost", "kind": kind}]);
        assert_eq!(findings("ripstop-control", prost(None))[0].line, 4);
        assert!(findings("ripstop-control", prost(Some("dev"))).is_empty());
        assert!(findings("ripstop-wire", prost(None)).is_empty());
        assert_eq!(
            findings("ripstop-model", json!([{"name": "tokio", "kind": null}])).len(),
            1
        );
    }

    #[test]
    fn a_new_crate_must_be_drawn() {
        assert!(
            findings("ripstop-common", json!([]))[0]
                .text
                .contains("not in ARCHITECTURE.md")
        );
    }
}
