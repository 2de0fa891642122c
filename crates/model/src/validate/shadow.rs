//! Two matches → whether the first takes every request of the second, so that the second is never reached.
//!
//! Conservative: says yes only where it is certain; two different regexes are never compared.

use std::collections::BTreeMap;

use crate::intent::selection::StringMatch;
use crate::intent::virtual_service::HttpMatch;

/// Whether every request that `later` matches is matched by `earlier` too.
pub(super) fn covers(earlier: &HttpMatch, later: &HttpMatch) -> bool {
    let folds = earlier.ignore_uri_case == Some(true);
    let later_folds = later.ignore_uri_case == Some(true);
    let uri = match (&earlier.uri, &later.uri) {
        (None, _) => true,
        (Some(_), None) => false,
        // A case-sensitive match cannot take all spellings.
        (Some(_), Some(_)) if later_folds && !folds => false,
        (Some(a), Some(b)) if folds => string(&lower(a), &lower(b)),
        (Some(a), Some(b)) => string(a, b),
    };
    let optional = |a: &Option<StringMatch>, b: &Option<StringMatch>| match (a, b) {
        (None, _) => true,
        (Some(a), Some(b)) => string(a, b),
        (Some(_), None) => false,
    };
    uri && optional(&earlier.scheme, &later.scheme)
        && optional(&earlier.method, &later.method)
        && optional(&earlier.authority, &later.authority)
        && each(&earlier.headers, &later.headers, string)
        && each(&earlier.query_params, &later.query_params, string)
        // What must be absent: the same condition has to be there.
        && each(&earlier.without_headers, &later.without_headers, |a, b| a == b)
        && earlier.port.is_none_or(|port| later.port == Some(port))
        && each(&earlier.source_labels, &later.source_labels, |a, b| a == b)
        && earlier
            .source_namespace
            .as_ref()
            .is_none_or(|namespace| later.source_namespace.as_ref() == Some(namespace))
        && (earlier.gateways.is_empty() || earlier.gateways == later.gateways)
}

/// Whether the two say the same, names aside.
pub(super) fn same(a: &HttpMatch, b: &HttpMatch) -> bool {
    covers(a, b) && covers(b, a)
}

fn each<V>(
    earlier: &BTreeMap<String, V>,
    later: &BTreeMap<String, V>,
    covers: impl Fn(&V, &V) -> bool,
) -> bool {
    earlier
        .iter()
        .all(|(key, a)| later.get(key).is_some_and(|b| covers(a, b)))
}

fn string(earlier: &StringMatch, later: &StringMatch) -> bool {
    use StringMatch::{Exact, Prefix, Present, Regex};
    match (earlier, later) {
        (Present, _) => true,
        (Exact(a), Exact(b)) => a == b,
        (Prefix(a), Exact(b) | Prefix(b)) => b.starts_with(a.as_str()),
        (Regex(a), Regex(b)) => a == b,
        (Regex(a), _) => matches!(a.as_str(), ".*" | "*"),
        (Exact(_), Prefix(_) | Regex(_) | Present) | (Prefix(_), Regex(_) | Present) => false,
    }
}

fn lower(value: &StringMatch) -> StringMatch {
    match value {
        StringMatch::Exact(text) => StringMatch::Exact(text.to_ascii_lowercase()),
        StringMatch::Prefix(text) => StringMatch::Prefix(text.to_ascii_lowercase()),
        StringMatch::Regex(_) | StringMatch::Present => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(path: &str) -> HttpMatch {
        HttpMatch {
            uri: Some(StringMatch::Prefix(path.to_owned())),
            ..HttpMatch::default()
        }
    }

    #[test]
    fn prefixes_and_headers() {
        let mut with_header = prefix("/a/b");
        with_header
            .headers
            .insert("x".to_owned(), StringMatch::Exact("1".to_owned()));
        assert!(covers(&prefix("/a"), &prefix("/a/b")));
        assert!(covers(&prefix("/a"), &with_header));
        assert!(!covers(&with_header, &prefix("/a/b")));
        assert!(!covers(&prefix("/a/b"), &prefix("/a")));
        assert!(covers(&HttpMatch::default(), &with_header));
        assert!(same(&with_header, &with_header.clone()));
        let folded = HttpMatch {
            ignore_uri_case: Some(true),
            ..prefix("/A")
        };
        assert!(covers(&folded, &prefix("/a/b")));
        assert!(!covers(&prefix("/a"), &folded));
    }
}
