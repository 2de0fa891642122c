//! An `HTTPMatchRequest` → a route's match.

use ripstop_model::intent::selection::StringMatch as Typed;
use ripstop_model::intent::virtual_service::HttpMatch;
use ripstop_model::snapshot::matching::{
    HeaderMatch, HeaderTest, Pattern, QueryMatch, QueryTest, StringMatch,
};
use ripstop_model::snapshot::route::{PathMatch, RouteMatch};

/// `None`: a regular expression that does not compile.
pub(super) fn compile(matching: &HttpMatch) -> Option<RouteMatch> {
    let path = match &matching.uri {
        None | Some(Typed::Present) => PathMatch::Prefix("/".to_owned()),
        Some(Typed::Exact(path)) => PathMatch::Exact(path.clone()),
        Some(Typed::Prefix(path)) => PathMatch::Prefix(path.clone()),
        Some(Typed::Regex(regex)) if regex == "*" => PathMatch::Prefix("/".to_owned()),
        Some(Typed::Regex(regex)) => PathMatch::Regex(Pattern::new(regex).ok()?),
    };
    let mut headers = Vec::new();
    for (name, typed) in [
        (":method", &matching.method),
        (":scheme", &matching.scheme),
        (":authority", &matching.authority),
    ] {
        if let Some(typed) = typed {
            headers.push(header(name, typed, false)?);
        }
    }
    // Istio ignores these keys here (B1).
    let counts =
        |name: &String| !matches!(name.as_str(), "uri" | "scheme" | "method" | "authority");
    for (map, without) in [
        (&matching.headers, false),
        (&matching.without_headers, true),
    ] {
        for (name, typed) in map.iter().filter(|(name, _)| counts(name)) {
            headers.push(header(name, typed, without)?);
        }
    }
    let mut query = Vec::new();
    for (name, typed) in &matching.query_params {
        query.push(QueryMatch {
            name: name.clone(),
            test: string(typed)?.map_or(QueryTest::Present(true), QueryTest::String),
        });
    }
    Some(RouteMatch {
        path,
        ignore_case: matching.ignore_uri_case.unwrap_or(false),
        headers,
        query,
        ..RouteMatch::any()
    })
}

/// `without`: the request must not have it. An absent header then counts as an empty one.
fn header(name: &str, typed: &Typed, without: bool) -> Option<HeaderMatch> {
    let test = match string(typed)? {
        None => HeaderTest::Present(true),
        Some(test) => HeaderTest::String(test),
    };
    Some(HeaderMatch {
        name: name.to_ascii_lowercase(),
        missing_as_empty: without && matches!(test, HeaderTest::String(_)),
        test,
        invert: without,
    })
}

/// Outer `None`: it does not compile. Inner `None`: presence, which Istio also writes as the regex `*`.
pub(super) fn string(typed: &Typed) -> Option<Option<StringMatch>> {
    Some(match typed {
        Typed::Present => None,
        Typed::Exact(value) => Some(StringMatch::exact(value)),
        Typed::Prefix(value) => Some(StringMatch::prefix(value)),
        Typed::Regex(regex) if regex == "*" => None,
        Typed::Regex(regex) => Some(StringMatch::Regex(Pattern::new(regex).ok()?)),
    })
}
