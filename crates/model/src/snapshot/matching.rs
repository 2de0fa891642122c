//! String, header and query matchers with Envoy's semantics (`type.matcher.v3`), regexes linear in time and full-match.

use std::borrow::Cow;
use std::fmt;
use std::sync::OnceLock;

use regex::{Regex, RegexBuilder};

use crate::request::RequestView;

/// A compiled regex that must match the whole value; equal when the sources are.
#[derive(Clone)]
pub struct Pattern {
    source: String,
    full: Regex,
    /// The same unanchored, once something is to be replaced.
    search: OnceLock<Option<Regex>>,
}

impl Pattern {
    /// Largest compiled size in bytes: a pattern from configuration cannot take more memory than this.
    pub const SIZE_LIMIT: usize = 1 << 20;

    pub fn new(source: &str) -> Result<Pattern, regex::Error> {
        // By itself first: what closes the group around it would match more than it says.
        compile(source)?;
        Ok(Pattern {
            source: source.to_owned(),
            full: compile(&format!("^(?:{source})$"))?,
            search: OnceLock::new(),
        })
    }

    pub fn as_str(&self) -> &str {
        &self.source
    }

    pub fn is_match(&self, value: &str) -> bool {
        self.full.is_match(value)
    }

    /// Replaces every match inside `value`; `\1` in `substitution` is a capture (Envoy's `RegexMatchAndSubstitute`).
    pub fn substitute(&self, value: &str, substitution: &str) -> String {
        let search = self.search.get_or_init(|| compile(&self.source).ok());
        match search {
            Some(search) => search
                .replace_all(value, to_dollar(substitution).as_str())
                .into_owned(),
            // It was compiled before, so it can be.
            None => value.to_owned(),
        }
    }
}

fn compile(source: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(source)
        .size_limit(Pattern::SIZE_LIMIT)
        .build()
}

/// `\1` → `${1}`, `\\` → `\`, `$` → `$$`.
fn to_dollar(substitution: &str) -> String {
    let mut out = String::with_capacity(substitution.len() + 8);
    let mut chars = substitution.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(d) if d.is_ascii_digit() => {
                    out.push_str("${");
                    out.push(d);
                    out.push('}');
                }
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            '$' => out.push_str("$$"),
            c => out.push(c),
        }
    }
    out
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.source)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StringMatch {
    /// `ignore_case` folds ASCII only, as Envoy does.
    Exact {
        value: String,
        ignore_case: bool,
    },
    Prefix {
        value: String,
        ignore_case: bool,
    },
    Suffix {
        value: String,
        ignore_case: bool,
    },
    Contains {
        value: String,
        ignore_case: bool,
    },
    Regex(Pattern),
}

impl StringMatch {
    pub fn exact(value: impl Into<String>) -> StringMatch {
        StringMatch::Exact {
            value: value.into(),
            ignore_case: false,
        }
    }

    pub fn prefix(value: impl Into<String>) -> StringMatch {
        StringMatch::Prefix {
            value: value.into(),
            ignore_case: false,
        }
    }

    pub fn suffix(value: impl Into<String>) -> StringMatch {
        StringMatch::Suffix {
            value: value.into(),
            ignore_case: false,
        }
    }

    pub fn matches(&self, candidate: &str) -> bool {
        let c = candidate.as_bytes();
        match self {
            StringMatch::Exact { value, ignore_case } => same(c, value.as_bytes(), *ignore_case),
            StringMatch::Prefix { value, ignore_case } => c
                .get(..value.len())
                .is_some_and(|head| same(head, value.as_bytes(), *ignore_case)),
            StringMatch::Suffix { value, ignore_case } => c
                .len()
                .checked_sub(value.len())
                .and_then(|at| c.get(at..))
                .is_some_and(|tail| same(tail, value.as_bytes(), *ignore_case)),
            StringMatch::Contains {
                value,
                ignore_case: false,
            } => candidate.contains(value.as_str()),
            StringMatch::Contains {
                value,
                ignore_case: true,
            } => candidate
                .to_ascii_lowercase()
                .contains(&value.to_ascii_lowercase()),
            StringMatch::Regex(pattern) => pattern.is_match(candidate),
        }
    }
}

fn same(a: &[u8], b: &[u8], ignore_case: bool) -> bool {
    if ignore_case {
        a.eq_ignore_ascii_case(b)
    } else {
        a == b
    }
}

/// `config.route.v3.HeaderMatcher`. `name` is lower case and may be a pseudo header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatch {
    pub name: String,
    pub test: HeaderTest,
    pub invert: bool,
    pub missing_as_empty: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderTest {
    Present(bool),
    String(StringMatch),
    /// Half-open, on a base-10 integer.
    Range {
        start: i64,
        end: i64,
    },
}

impl HeaderMatch {
    /// A header that is there several times matches when one of its values does, as in Envoy: a second line cannot hide
    /// a value from a rule that denies it.
    pub fn matches<R: RequestView + ?Sized>(&self, request: &R) -> bool {
        self.decide(|test| request.any_field(&self.name, test))
    }

    /// The same on a value already looked up.
    pub fn matches_value(&self, value: Option<Cow<'_, str>>) -> bool {
        self.decide(|test| value.map(|value| test(&value)))
    }

    /// The same on any headers: `any` says whether one of the values passes a test, `None` if there is no value.
    pub fn decide(&self, any: impl FnOnce(&dyn Fn(&str) -> bool) -> Option<bool>) -> bool {
        let holds = |value: &str| match &self.test {
            HeaderTest::Present(_) => true,
            HeaderTest::String(test) => test.matches(value),
            HeaderTest::Range { start, end } => value
                .parse::<i64>()
                .is_ok_and(|n| (*start..*end).contains(&n)),
        };
        let found = match any(&holds) {
            None if self.missing_as_empty => Some(holds("")),
            found => found,
        };
        let hit = match (&self.test, found) {
            (HeaderTest::Present(want), found) => found.is_some() == *want,
            // An absent header never matches a value test, and inverting does not change that (Envoy's rule).
            (_, None) => return false,
            (_, Some(found)) => found,
        };
        hit != self.invert
    }
}

/// `config.route.v3.QueryParameterMatcher`, on the first value of the parameter, not percent-decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryMatch {
    pub name: String,
    pub test: QueryTest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryTest {
    /// Whether the parameter is there.
    Present(bool),
    String(StringMatch),
}

impl QueryMatch {
    pub fn matches(&self, query: Option<&str>) -> bool {
        let found = query
            .unwrap_or_default()
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find(|(name, _)| *name == self.name);
        match (&self.test, found) {
            (QueryTest::Present(want), found) => found.is_some() == *want,
            (QueryTest::String(_), None) => false,
            (QueryTest::String(test), Some((_, value))) => test.matches(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_headers_never_match_values_even_inverted() {
        let m = |invert, missing_as_empty| HeaderMatch {
            name: "x".into(),
            test: HeaderTest::String(StringMatch::exact("a")),
            invert,
            missing_as_empty,
        };
        assert!(!m(false, false).matches_value(None));
        assert!(!m(true, false).matches_value(None));
        assert!(m(true, true).matches_value(None));
        assert!(m(true, false).matches_value(Some("b".into())));
    }

    /// What takes other engines years: time is linear in the value, and memory is bounded by [`Pattern::SIZE_LIMIT`].
    #[test]
    fn hostile_values_are_matched_in_linear_time() {
        let begun = std::time::Instant::now();
        let value = format!("{}!", "a".repeat(64 * 1024));
        for source in [
            "(a+)+$",
            "(a|aa)+$",
            "(.*a){12}b",
            "([a-z]+)*\\d",
            "(a?){50}a{50}b",
        ] {
            let pattern = Pattern::new(source).unwrap();
            assert!(!pattern.is_match(&value), "{source}");
            pattern.substitute(&value, "x");
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(20));
        for source in ["((a{100}){100}){100}", "a)|(?:b", "(a", "(?=a)a", r"(a)\1"] {
            assert!(Pattern::new(source).is_err(), "{source}");
        }
    }

    #[test]
    fn regexes_match_whole_values() {
        let p = Pattern::new("a|b").unwrap();
        assert!(p.is_match("a") && p.is_match("b") && !p.is_match("ab"));
        assert_eq!(
            Pattern::new("^/api/(.*)$")
                .unwrap()
                .substitute("/api/x", "/v1/\\1$"),
            "/v1/x$"
        );
    }

    #[test]
    fn queries() {
        let a = |test: QueryTest| QueryMatch {
            name: "a".into(),
            test,
        };
        let exact = |text: &str| QueryTest::String(StringMatch::exact(text));
        assert!(a(QueryTest::Present(true)).matches(Some("b=1&a")));
        assert!(!a(QueryTest::Present(true)).matches(None));
        assert!(!a(QueryTest::Present(false)).matches(Some("b=1&a")));
        assert!(a(QueryTest::Present(false)).matches(Some("b=1")));
        assert!(a(exact("1")).matches(Some("a=1&a=2")));
        assert!(!a(exact("2")).matches(Some("a=1&a=2")));
    }
}
