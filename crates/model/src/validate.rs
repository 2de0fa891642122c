//! Objects → what is wrong with them or between them, and who wins where they overlap.

use std::collections::BTreeSet;

use crate::diagnostic::{Code, Diagnostic};
use crate::intent::{Key, Object, Spec};
use crate::schema::{Path, Sink};

/// What the checks found.
#[derive(Debug, Default)]
pub struct Verdict {
    pub diagnostics: Vec<Diagnostic>,
    /// Not to be applied: broken in themselves. A reference to something missing does not put a resource here; the
    /// routes that lead nowhere answer 503, the others work.
    pub invalid: BTreeSet<Key>,
    pub conflicts: Vec<Conflict>,
}

/// Two resources about the same thing (R1.1): the loser's status says `Conflicted`, with the winner's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub loser: Key,
    pub winner: Key,
    /// What both are about, and what happens: `host reviews.default.svc.cluster.local`.
    pub over: String,
}

/// Checks each object, then all of them together.
pub fn check(objects: &[Object]) -> Verdict {
    let mut verdict = Verdict::default();
    for object in objects {
        action(object, &mut verdict);
    }
    verdict
}

/// A route must lead somewhere.
fn action(object: &Object, verdict: &mut Verdict) {
    let Spec::VirtualService(service) = &object.spec else {
        return;
    };
    let mut sink = Sink::new(object.origin.file.clone());
    sink.resource = object.key().to_string();
    let spec = Path::ROOT.field("spec");
    let http = spec.field("http");
    for (index, route) in service.http.iter().enumerate() {
        if route.route.is_empty() && route.redirect.is_none() && route.direct_response.is_none() {
            let at = http.index(index);
            sink.error(
                Code::MissingField,
                &at,
                object.origin.locate(&at),
                "this route leads nowhere",
            )
            .help("add `route:`, `redirect:` or `directResponse:`");
            verdict.invalid.insert(object.key());
        }
    }
    verdict.diagnostics.append(&mut sink.diagnostics);
}
