//! What several kinds share: how a string is matched, a port named, a workload selected.

use std::collections::BTreeMap;

use crate::schema::{Path, Sink, Typed, record};
use crate::yaml::{Entry, Node, Value};

/// Istio's `StringMatch`; an empty one (`{}`) asks only that the thing be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StringMatch {
    Present,
    Exact(String),
    /// A prefix of characters: `/foo` matches `/foobar`.
    Prefix(String),
    /// RE2, matched against the whole value.
    Regex(String),
}

impl Typed for StringMatch {
    fn read(node: &Node, at: &Path<'_>, sink: &mut Sink) -> Option<Self> {
        let Parts {
            exact,
            prefix,
            regex,
        } = match &node.value {
            Value::Scalar(scalar) => {
                sink.wrong_type(at, node, "a mapping with `exact`, `prefix` or `regex`");
                if let Some(last) = sink.diagnostics.last_mut() {
                    last.help(format!("write {{exact: {}}}", scalar.text));
                }
                return None;
            }
            Value::Null | Value::List(_) | Value::Map(_) => Parts::read(node, at, sink)?,
        };
        Some(match (exact, prefix, regex) {
            (Some(exact), _, _) => StringMatch::Exact(exact),
            (_, Some(prefix), _) => StringMatch::Prefix(prefix),
            (_, _, Some(regex)) => StringMatch::Regex(regex),
            (None, None, None) => StringMatch::Present,
        })
    }
}

record! {
    struct Parts {
        exact: Option<String>,
        prefix: Option<String>,
        regex: Option<String>,
    }
    exclusive { "exact" | "prefix" | "regex" }
}

record! {
    /// A port by its number, 1 to 65535.
    #[derive(Eq, Copy)]
    pub struct PortSelector {
        number: u16,
    }
}

record! {
    /// `type.v1beta1.WorkloadSelector`: labels that must all be equal; in the resource's namespace.
    #[derive(Eq, Default)]
    pub struct WorkloadSelector {
        match_labels: BTreeMap<String, String>,
    }
}

impl WorkloadSelector {
    /// `{}` selects what no selector at all does.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty()
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    }
}

record! {
    /// 0 to 100.
    #[derive(Copy)]
    pub struct Percent {
        value: f64,
    }
}

/// Labels of a document that was not read as a whole.
pub(crate) fn labels(entries: &[Entry]) -> BTreeMap<String, String> {
    entries
        .iter()
        .filter_map(|entry| Some((entry.key.clone(), entry.value.text()?.to_owned())))
        .collect()
}
