//! A tree with faults → what of it can still be judged: the tree without the fields at fault.
//!
//! The items of a list keep their places, so a fault in an item that cannot be read without it takes the whole list.

use std::collections::BTreeSet;

use super::Path;
use crate::diagnostic::{Code, Diagnostic};
use crate::yaml::{Entry, Node, Value};

/// The paths of what is at fault or was left out for it.
#[derive(Debug, Default)]
pub(crate) struct Lost(Vec<String>);

impl Lost {
    /// What is at fault itself.
    pub(crate) fn of(faults: &[Diagnostic]) -> Lost {
        let errors = faults.iter().filter(|fault| fault.is_error());
        Lost(errors.map(|fault| fault.path.clone()).collect())
    }

    /// Whether what is said of `path` may come of the loss alone: it is at what is lost, in it, or encloses it; or it misses
    /// something beside it, which may be what was misspelt.
    pub(crate) fn explains(&self, code: Code, path: &str) -> bool {
        let within = |inner: &str, outer: &str| {
            inner
                .strip_prefix(outer)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.0.iter().any(|lost| {
            let beside = lost.rsplit_once('.').map_or("", |(parent, _)| parent);
            within(path, lost)
                || within(lost, path)
                || (code == Code::MissingField && within(path, beside))
        })
    }
}

/// `node`, which stands at `at`, without what is at fault by `faults`; adds to `lost` what goes with it. `None`: nothing is left
/// that could be read.
pub(crate) fn without(
    node: &Node,
    at: &Path<'_>,
    faults: &[Diagnostic],
    lost: &mut Lost,
) -> Option<Node> {
    let faults: BTreeSet<&str> = faults
        .iter()
        .filter(|fault| fault.is_error())
        .map(|fault| match (fault.code, fault.path.rsplit_once('.')) {
            // What lacks a field cannot be read at all.
            (Code::MissingField, Some((enclosing, _))) => enclosing,
            _ => &fault.path,
        })
        .collect();
    if faults.contains(at.to_string().as_str()) {
        return None;
    }
    keep(node, at, &faults, &mut lost.0)
}

fn keep(
    node: &Node,
    at: &Path<'_>,
    faults: &BTreeSet<&str>,
    lost: &mut Vec<String>,
) -> Option<Node> {
    let mut judge = |value: &Node, at: &Path<'_>| {
        let sound = !faults.contains(at.to_string().as_str());
        sound.then(|| keep(value, at, faults, lost)).flatten()
    };
    let value = match &node.value {
        Value::Map(entries) => {
            let mut kept = Vec::with_capacity(entries.len());
            let mut gone = Vec::new();
            for entry in entries {
                let at = at.field(&entry.key);
                match judge(&entry.value, &at) {
                    Some(value) => kept.push(Entry {
                        value,
                        ..entry.clone()
                    }),
                    None => gone.push(at.to_string()),
                }
            }
            lost.append(&mut gone);
            Value::Map(kept)
        }
        Value::List(items) => {
            let mut kept = Vec::with_capacity(items.len());
            for (index, item) in items.iter().enumerate() {
                kept.push(judge(item, &at.index(index))?);
            }
            Value::List(kept)
        }
        Value::Scalar(_) | Value::Null => node.value.clone(),
    };
    Some(Node {
        span: node.span,
        value,
    })
}
