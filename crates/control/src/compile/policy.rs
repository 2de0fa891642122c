//! AuthorizationPolicy → RBAC filters: DENY, then ALLOW (B10). Identities are compared as strings, never as patterns (R28.2).

use std::sync::Arc;

use ipnet::IpNet;
use ripstop_model::intent::AuthorizationPolicy;
use ripstop_model::intent::authorization_policy::{
    Action as Typed, Operation, Rule as Clause, Source,
};
use ripstop_model::snapshot::authz::{Action, AuthzFilter, Policy, Rule};
use ripstop_model::snapshot::matching::{HeaderMatch, HeaderTest, StringMatch};

use super::route::subnet;
use crate::registry::Member;
use crate::view::{Declared, View};

/// What is known where the filter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The target port, where the chain serves one only: rules about ports are then decided here, whatever address the
    /// connection was made to.
    pub port: Option<u16>,
    /// HTTP attributes exist.
    pub http: bool,
}

/// The filters of a workload, in the order in which they judge.
pub(super) fn filters(view: &View<'_>, member: &Member, place: Place) -> Vec<Arc<AuthzFilter>> {
    let root = &view.mesh.settings.root_namespace;
    let selected: Vec<&Arc<Declared<AuthorizationPolicy>>> = view
        .mesh
        .authorization_policies
        .iter()
        .filter(|policy| policy.namespace == *member.namespace || policy.namespace == *root)
        .filter(|policy| {
            let selector = policy.spec.selector.as_ref();
            selector.is_none_or(|selector| selector.matches(&member.labels))
        })
        .collect();
    let mut filters = Vec::new();
    for dry_run in [true, false] {
        for action in [Action::Deny, Action::Allow] {
            let of_action: Vec<_> = selected
                .iter()
                .filter(|policy| action_of(&policy.spec) == action && is_dry_run(policy) == dry_run)
                .collect();
            if of_action.is_empty() {
                continue;
            }
            let mut policies: Vec<Policy> = of_action
                .iter()
                .flat_map(|policy| clauses(view, policy, action, place))
                .collect();
            policies.sort_by(|a, b| a.name.cmp(&b.name));
            // A DENY without rules denies nothing; an ALLOW without rules allows nothing.
            if policies.is_empty() && action == Action::Deny {
                continue;
            }
            filters.push(Arc::new(AuthzFilter {
                name: if place.http {
                    "envoy.filters.http.rbac".into()
                } else {
                    "envoy.filters.network.rbac".into()
                },
                action,
                policies,
                dry_run,
                stat_prefix: stat_prefix(place.http, dry_run, action).to_owned(),
            }));
        }
    }
    filters
}

/// Istio's prefixes (B10).
fn stat_prefix(http: bool, dry_run: bool, action: Action) -> &'static str {
    match (dry_run, action) {
        (true, Action::Deny) => "istio_dry_run_deny_",
        (true, _) => "istio_dry_run_allow_",
        (false, _) if http => "",
        (false, _) => "tcp.",
    }
}

fn action_of(policy: &AuthorizationPolicy) -> Action {
    match policy.action {
        None | Some(Typed::Allow) => Action::Allow,
        Some(Typed::Deny) => Action::Deny,
    }
}

fn is_dry_run(policy: &Declared<AuthorizationPolicy>) -> bool {
    policy
        .annotations
        .get("istio.io/dry-run")
        .map(String::as_str)
        == Some("true")
}

/// The rules that can match at all here.
fn clauses(
    view: &View<'_>,
    policy: &Declared<AuthorizationPolicy>,
    action: Action,
    place: Place,
) -> Vec<Policy> {
    let compile = |(index, clause): (usize, &Clause)| {
        let permissions = if clause.to.is_empty() {
            vec![Rule::Any]
        } else {
            let operations = clause.to.iter();
            operations
                .filter_map(|to| operation(&to.operation, action, place))
                .collect()
        };
        let principals: Vec<Rule> = if clause.from.is_empty() {
            vec![Rule::Any]
        } else {
            let sources = clause.from.iter();
            sources
                .map(|from| source(view, &policy.namespace, &from.source))
                .collect()
        };
        let name = Policy::name_of_rule(&policy.namespace, &policy.name, index);
        (!permissions.is_empty()).then(|| Policy {
            resource: Policy::resource_of_name(&name),
            name,
            permissions,
            principals,
        })
    };
    policy
        .spec
        .rules
        .iter()
        .enumerate()
        .filter_map(compile)
        .collect()
}

/// All of the parts; a list of none is anything.
fn all(mut parts: Vec<Rule>) -> Rule {
    match parts.len() {
        0 => Rule::Any,
        1 => parts.swap_remove(0),
        _ => Rule::And(parts),
    }
}

/// Any of the values, or none of them; nothing where nothing is written.
fn any(parts: &mut Vec<Rule>, values: &[String], negated: bool, rule: impl Fn(&str) -> Rule) {
    let mut rules: Vec<Rule> = values.iter().map(|value| rule(value)).collect();
    let either = match rules.len() {
        0 => return,
        1 => rules.swap_remove(0),
        _ => Rule::Or(rules),
    };
    parts.push(if negated {
        Rule::Not(Box::new(either))
    } else {
        either
    });
}

/// `None`: it can never match here.
fn operation(operation: &Operation, action: Action, place: Place) -> Option<Rule> {
    if operation.is_http() && !place.http && action == Action::Allow {
        // What cannot be seen cannot be allowed (R28.1).
        return None;
    }
    let mut parts = Vec::new();
    if let Some(port) = place.port {
        let names = |list: &[String]| list.iter().any(|text| text.parse() == Ok(port));
        if (!operation.ports.is_empty() && !names(&operation.ports)) || names(&operation.not_ports)
        {
            return None;
        }
    } else {
        any(&mut parts, &operation.ports, false, by_port);
        any(&mut parts, &operation.not_ports, true, by_port);
    }
    // On opaque connections a DENY ignores what only HTTP has: it denies more rather than less.
    if place.http {
        any(&mut parts, &operation.hosts, false, |host| {
            header(":authority", host, true)
        });
        any(&mut parts, &operation.not_hosts, true, |host| {
            header(":authority", host, true)
        });
        any(&mut parts, &operation.methods, false, |method| {
            header(":method", method, false)
        });
        any(&mut parts, &operation.not_methods, true, |method| {
            header(":method", method, false)
        });
        any(&mut parts, &operation.paths, false, path);
        any(&mut parts, &operation.not_paths, true, path);
    }
    Some(all(parts))
}

/// A port that is no number matches none.
fn by_port(text: &str) -> Rule {
    match text.parse() {
        Ok(port) => Rule::DestinationPort(port),
        Err(_) => Rule::Or(Vec::new()),
    }
}

/// Exact, `abc*`, `*abc`; `None` for `*`: anything that is not empty.
fn pattern(text: &str, ignore_case: bool) -> Option<StringMatch> {
    let own = |value: &str| value.to_owned();
    if text == "*" {
        None
    } else if let Some(value) = text.strip_suffix('*') {
        Some(StringMatch::Prefix {
            value: own(value),
            ignore_case,
        })
    } else if let Some(value) = text.strip_prefix('*') {
        Some(StringMatch::Suffix {
            value: own(value),
            ignore_case,
        })
    } else {
        Some(StringMatch::Exact {
            value: own(text),
            ignore_case,
        })
    }
}

fn header(name: &str, text: &str, ignore_case: bool) -> Rule {
    Rule::Header(HeaderMatch {
        name: name.to_owned(),
        test: match pattern(text, ignore_case) {
            None => HeaderTest::Present(true),
            Some(test) => HeaderTest::String(test),
        },
        invert: false,
        missing_as_empty: false,
    })
}

fn path(text: &str) -> Rule {
    if text.contains("{*}") || text.contains("{**}") {
        return Rule::PathTemplate(text.to_owned());
    }
    Rule::Path(pattern(text, false).unwrap_or_else(|| StringMatch::prefix("/")))
}

fn source(view: &View<'_>, namespace: &str, source: &Source) -> Rule {
    let domain = view.mesh.settings.trust_domain.as_str();
    let mut parts = Vec::new();
    any(&mut parts, &source.principals, false, principal);
    any(&mut parts, &source.not_principals, true, principal);
    any(&mut parts, &source.namespaces, false, |text| {
        of_namespace(domain, text)
    });
    any(&mut parts, &source.not_namespaces, true, |text| {
        of_namespace(domain, text)
    });
    any(&mut parts, &source.service_accounts, false, |text| {
        account(domain, namespace, text)
    });
    any(&mut parts, &source.not_service_accounts, true, |text| {
        account(domain, namespace, text)
    });
    let block = |text: &str| block(view, text);
    any(&mut parts, &source.ip_blocks, false, block);
    any(&mut parts, &source.not_ip_blocks, true, block);
    all(parts)
}

/// `cluster.local/ns/default/sa/orders` is the URI without its scheme.
fn principal(text: &str) -> Rule {
    Rule::Principal(match pattern(text, false) {
        None => None,
        Some(StringMatch::Exact { value, .. }) => {
            Some(StringMatch::exact(format!("spiffe://{value}")))
        }
        Some(StringMatch::Prefix { value, .. }) => {
            Some(StringMatch::prefix(format!("spiffe://{value}")))
        }
        Some(other) => Some(other),
    })
}

/// A namespace of the mesh's own trust domain. The segments of an identity hold no slash, so prefix and infix are exact.
fn of_namespace(domain: &str, text: &str) -> Rule {
    let prefix = |rest: &str| {
        Rule::Principal(Some(StringMatch::prefix(format!(
            "spiffe://{domain}/ns/{rest}"
        ))))
    };
    match pattern(text, false) {
        None => prefix(""),
        Some(StringMatch::Prefix { value, .. }) => prefix(&value),
        Some(StringMatch::Suffix { value, .. }) => Rule::And(vec![
            prefix(""),
            Rule::Principal(Some(StringMatch::Contains {
                value: format!("{value}/sa/"),
                ignore_case: false,
            })),
        ]),
        Some(_) => prefix(&format!("{text}/sa/")),
    }
}

/// `namespace/account`, or `account` in the policy's own namespace.
fn account(domain: &str, namespace: &str, text: &str) -> Rule {
    let (namespace, account) = text.split_once('/').unwrap_or((namespace, text));
    Rule::Principal(Some(StringMatch::exact(format!(
        "spiffe://{domain}/ns/{namespace}/sa/{account}"
    ))))
}

/// A block that does not parse matches nothing. Sidecars of one host come from transport addresses, which stand for the
/// workloads' own and for nothing else.
fn block(view: &View<'_>, text: &str) -> Rule {
    let Some(net) = subnet(text) else {
        return Rule::Or(Vec::new());
    };
    let ranges = &view.mesh.settings.ranges;
    let transport = IpNet::from(ranges.transport);
    let own = if net.contains(&transport) || transport.contains(&net) {
        let peers = Rule::Not(Box::new(Rule::DirectIp(transport)));
        Rule::And(vec![peers, Rule::DirectIp(net)])
    } else {
        Rule::DirectIp(net)
    };
    match ranges.transport_of(net) {
        Some(peers) => Rule::Or(vec![own, Rule::DirectIp(peers.into())]),
        None => own,
    }
}
