//! Caller and request + authorization filters → allowed or denied, and by what. Pure; connections that live on are judged
//! again with the same code when policies change.
//!
//! Policies are found by what they name: each is filed under the exact principals, paths or ports that every match of it
//! needs, so that a request looks at a few candidates, not at every rule.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::normalize;
use crate::reason::Reason;
use crate::request::RequestView;
use crate::snapshot::authz::{Action, AuthzFilter, Policy, Rule};
use crate::snapshot::matching::{HeaderTest, StringMatch};

/// What authorization may know of a connection. Bounded and cheap to keep for as long as the connection lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Names of the verified certificate in Envoy's order of preference: URI SANs, else DNS SANs, else the subject.
    /// `None`: no verified certificate.
    pub principals: Option<Arc<[String]>>,
    /// The peer of the connection.
    pub direct_ip: IpAddr,
    /// The client after XFF or PROXY protocol; the same as `direct_ip` where neither is trusted.
    pub remote_ip: IpAddr,
    /// Where the client wanted to go.
    pub destination: SocketAddr,
    pub sni: Arc<str>,
}

/// The outcome, and the policy that decided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict<'a> {
    Allowed,
    Denied {
        reason: Reason,
        policy: Option<&'a Policy>,
    },
}

impl Verdict<'_> {
    pub fn is_allowed(self) -> bool {
        self == Verdict::Allowed
    }
}

/// Filters in evaluation order (Istio: DENY before ALLOW), indexed.
#[derive(Debug, Clone, Default)]
pub struct Judge {
    filters: Vec<Indexed>,
}

#[derive(Debug, Clone)]
struct Indexed {
    filter: Arc<AuthzFilter>,
    by_principal: HashMap<String, Vec<u32>>,
    by_path: HashMap<String, Vec<u32>>,
    by_port: HashMap<u16, Vec<u32>>,
    /// Policies that name nothing exactly.
    rest: Vec<u32>,
}

impl Judge {
    pub fn new(filters: &[Arc<AuthzFilter>]) -> Judge {
        Judge {
            filters: filters
                .iter()
                .map(|filter| Indexed::new(Arc::clone(filter)))
                .collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// `request` is `None` for a TCP connection: rules about HTTP then do not match.
    ///
    /// An application may read a path that it gets in another way than the rules do. A rule that denies is asked about
    /// both, and one that allows must allow both, or the spelling would decide.
    pub fn judge(&self, caller: &Caller, request: Option<&dyn RequestView>) -> Verdict<'_> {
        let reread = request
            .filter(|_| !self.filters.is_empty())
            .and_then(Reread::of);
        let other = reread.as_ref().map(|reread| reread as &dyn RequestView);
        for indexed in self
            .filters
            .iter()
            .filter(|indexed| !indexed.filter.dry_run)
        {
            let matched = indexed.first_match(caller, request);
            let matched = match (indexed.filter.action, other) {
                (Action::Deny, Some(_)) => matched.or_else(|| indexed.first_match(caller, other)),
                (Action::Allow, Some(_)) if is_structural(request) => {
                    matched.filter(|_| indexed.first_match(caller, other).is_some())
                }
                (Action::Deny | Action::Allow | Action::Log, _) => matched,
            };
            match (indexed.filter.action, matched) {
                (Action::Deny, Some(policy)) => {
                    return Verdict::Denied {
                        reason: Reason::AuthzDenied,
                        policy: Some(policy),
                    };
                }
                (Action::Allow, None) => {
                    return Verdict::Denied {
                        reason: Reason::AuthzNotAllowed,
                        policy: None,
                    };
                }
                (Action::Allow, Some(_)) | (Action::Deny, None) | (Action::Log, _) => {}
            }
        }
        Verdict::Allowed
    }
}

/// A request whose path is as the most generous application would read it.
struct Reread<'a> {
    request: &'a dyn RequestView,
    path: String,
}

impl<'a> Reread<'a> {
    /// `None` where every application reads the path that is there.
    fn of(request: &'a dyn RequestView) -> Option<Reread<'a>> {
        let path = request.path();
        let reading = normalize::application_reading(path);
        (reading != path).then(|| Reread {
            request,
            path: reading.into_owned(),
        })
    }
}

impl RequestView for Reread<'_> {
    fn method(&self) -> &str {
        self.request.method()
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn query(&self) -> Option<&str> {
        self.request.query()
    }

    fn authority(&self) -> &str {
        self.request.authority()
    }

    fn scheme(&self) -> &str {
        self.request.scheme()
    }

    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        self.request.header(name)
    }

    fn any_value(&self, name: &str, test: &dyn Fn(&str) -> bool) -> Option<bool> {
        self.request.any_value(name, test)
    }
}

/// Whether a path could have other segments to some reader, rather than escaped characters within them, which a rule that
/// allows may well spell out.
fn is_structural(request: Option<&dyn RequestView>) -> bool {
    const MARKS: [&str; 8] = [";", "\\", "//", "/.", "%2f", "%2F", "%5c", "%5C"];
    request.is_some_and(|request| MARKS.iter().any(|mark| request.path().contains(mark)))
}

impl Indexed {
    fn new(filter: Arc<AuthzFilter>) -> Indexed {
        let mut indexed = Indexed {
            by_principal: HashMap::new(),
            by_path: HashMap::new(),
            by_port: HashMap::new(),
            rest: Vec::new(),
            filter: Arc::clone(&filter),
        };
        for (index, policy) in (0u32..).zip(&filter.policies) {
            if let Some(names) = needed(&policy.principals, &exact_principal) {
                file(&mut indexed.by_principal, names, index);
            } else if let Some(paths) = needed(&policy.permissions, &exact_path) {
                file(&mut indexed.by_path, paths, index);
            } else if let Some(ports) = needed(&policy.permissions, &exact_port) {
                file(&mut indexed.by_port, ports, index);
            } else {
                indexed.rest.push(index);
            }
        }
        indexed
    }

    /// The first policy in configuration order that matches.
    fn first_match(&self, caller: &Caller, request: Option<&dyn RequestView>) -> Option<&Policy> {
        let principals = caller.principals.as_deref().unwrap_or_default();
        let lists = principals
            .iter()
            .filter_map(|name| self.by_principal.get(name))
            .chain(request.and_then(|request| self.by_path.get(request.path())))
            .chain(self.by_port.get(&caller.destination.port()))
            .chain(std::iter::once(&self.rest));
        let subject = Subject { caller, request };
        let mut first: Option<(u32, &Policy)> = None;
        for index in lists.flatten() {
            if first.is_some_and(|(best, _)| best <= *index) {
                continue;
            }
            if let Some(policy) = self
                .filter
                .policies
                .get(*index as usize)
                .filter(|policy| subject.matches(policy))
            {
                first = Some((*index, policy));
            }
        }
        first.map(|(_, policy)| policy)
    }
}

fn file<K: std::hash::Hash + Eq>(index: &mut HashMap<K, Vec<u32>>, keys: Vec<K>, policy: u32) {
    for key in keys {
        let list = index.entry(key).or_default();
        if list.last() != Some(&policy) {
            list.push(policy);
        }
    }
}

/// The keys of which a match of any of `alternatives` needs at least one; `None` when some alternative needs none.
fn needed<K>(alternatives: &[Rule], leaf: &dyn Fn(&Rule) -> Option<K>) -> Option<Vec<K>> {
    let mut keys = Vec::new();
    for rule in alternatives {
        keys.extend(needed_by(rule, leaf)?);
    }
    Some(keys)
}

fn needed_by<K>(rule: &Rule, leaf: &dyn Fn(&Rule) -> Option<K>) -> Option<Vec<K>> {
    match rule {
        Rule::Or(rules) => needed(rules, leaf),
        Rule::And(rules) => rules.iter().find_map(|rule| needed_by(rule, leaf)),
        leaf_rule => leaf(leaf_rule).map(|key| vec![key]),
    }
}

fn exact_principal(rule: &Rule) -> Option<String> {
    match rule {
        Rule::Principal(Some(StringMatch::Exact {
            value,
            ignore_case: false,
        })) => Some(value.clone()),
        _ => None,
    }
}

fn exact_path(rule: &Rule) -> Option<String> {
    match rule {
        Rule::Path(StringMatch::Exact {
            value,
            ignore_case: false,
        }) => Some(value.clone()),
        _ => None,
    }
}

fn exact_port(rule: &Rule) -> Option<u16> {
    match rule {
        Rule::DestinationPort(port) => Some(*port),
        _ => None,
    }
}

struct Subject<'a> {
    caller: &'a Caller,
    request: Option<&'a dyn RequestView>,
}

impl Subject<'_> {
    fn matches(&self, policy: &Policy) -> bool {
        policy.permissions.iter().any(|rule| self.holds(rule))
            && policy.principals.iter().any(|rule| self.holds(rule))
    }

    fn holds(&self, rule: &Rule) -> bool {
        let caller = self.caller;
        match rule {
            Rule::Any => true,
            Rule::And(rules) => rules.iter().all(|rule| self.holds(rule)),
            Rule::Or(rules) => rules.iter().any(|rule| self.holds(rule)),
            Rule::Not(rule) => !self.holds(rule),
            Rule::Header(header) => match self.request {
                Some(request) => header.matches(request),
                // Without a request every header is absent.
                None => matches!(header.test, HeaderTest::Present(false)) != header.invert,
            },
            Rule::Path(path) => self
                .request
                .is_some_and(|request| path.matches(request.path())),
            Rule::PathTemplate(template) => self
                .request
                .is_some_and(|request| template_matches(template, request.path())),
            Rule::DestinationIp(range) => range.contains(&caller.destination.ip()),
            Rule::DestinationPort(port) => caller.destination.port() == *port,
            Rule::DestinationPorts { start, end } => {
                (*start..*end).contains(&caller.destination.port())
            }
            Rule::Sni(sni) => sni.matches(&caller.sni),
            Rule::Principal(None) => caller.principals.is_some(),
            Rule::Principal(Some(name)) => caller
                .principals
                .as_deref()
                .is_some_and(|names| names.iter().any(|candidate| name.matches(candidate))),
            Rule::DirectIp(range) => range.contains(&caller.direct_ip),
            Rule::RemoteIp(range) => range.contains(&caller.remote_ip),
        }
    }
}

/// `{*}` stands for exactly one segment, `{**}` for the rest, one segment or more (Istio's path templates).
fn template_matches(template: &str, path: &str) -> bool {
    let mut segments = path.split('/');
    for part in template.split('/') {
        match part {
            "{**}" => return segments.next().is_some(),
            "{*}" => {
                if segments.next().is_none_or(str::is_empty) {
                    return false;
                }
            }
            literal => {
                if segments.next() != Some(literal) {
                    return false;
                }
            }
        }
    }
    segments.next().is_none()
}

#[cfg(test)]
mod tests;
