//! The routes of one virtual host, filed by the literal path that each begins with: a request looks at the few that its
//! path can match, however many there are, and the first in order still wins.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::snapshot::route::{PathMatch, Route, RouteMatch};

#[derive(Debug, Default)]
pub(super) struct Paths {
    /// Sorted by their literals.
    literals: Vec<Literal>,
    /// Routes whose path cannot be told from its first bytes.
    rest: Vec<usize>,
}

#[derive(Debug)]
struct Literal {
    text: Box<[u8]>,
    /// The longest other literal that this one begins with.
    parent: Option<usize>,
    /// Indexes of routes, ascending.
    routes: Vec<usize>,
}

impl Paths {
    pub(super) fn new(routes: &[Arc<Route>]) -> Paths {
        let mut filed: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
        let mut rest = Vec::new();
        for (index, route) in routes.iter().enumerate() {
            match literal(&route.matches) {
                Some(text) => filed.entry(text.as_bytes()).or_default().push(index),
                None => rest.push(index),
            }
        }
        let mut literals: Vec<Literal> = Vec::new();
        for (text, routes) in filed {
            // What the one before begins with includes all that this one begins with.
            let mut parent = literals.len().checked_sub(1);
            while let Some(literal) = parent.and_then(|at| literals.get(at)) {
                if text.starts_with(&literal.text) {
                    break;
                }
                parent = literal.parent;
            }
            literals.push(Literal {
                text: text.into(),
                parent,
                routes,
            });
        }
        Paths { literals, rest }
    }

    /// The first route in order that `holds`, of those that `path` can match.
    pub(super) fn first(&self, path: &str, holds: impl Fn(usize) -> bool) -> Option<usize> {
        let path = path.as_bytes();
        let first_of = |routes: &[usize], before: Option<usize>| {
            let earlier = |index: &usize| before.is_none_or(|before| *index < before);
            let mut earlier = routes.iter().copied().take_while(earlier);
            earlier.find(|index| holds(*index)).or(before)
        };
        let mut first = first_of(&self.rest, None);
        // Every literal that the path begins with is the last one not after it, or an ancestor of that one.
        let after = self
            .literals
            .partition_point(|literal| *literal.text <= *path);
        let mut next = after.checked_sub(1);
        while let Some(literal) = next.and_then(|at| self.literals.get(at)) {
            if path.starts_with(&literal.text) {
                first = first_of(&literal.routes, first);
            }
            next = literal.parent;
        }
        first
    }
}

/// What every path that matches begins with.
fn literal(matches: &RouteMatch) -> Option<&str> {
    match &matches.path {
        _ if matches.ignore_case => None,
        PathMatch::Prefix(text) | PathMatch::SegmentPrefix(text) | PathMatch::Exact(text) => {
            Some(text)
        }
        PathMatch::Regex(_) | PathMatch::Connect => None,
    }
}
