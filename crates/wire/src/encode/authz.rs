//! RBAC, of HTTP and of connections.

use ripstop_model::snapshot::authz::{Action, AuthzFilter, Policy, Rule};

use super::value::{cidr, extension, header_match, string_match};
use crate::pb::{http_rbac, kind, matcher, network_rbac, rbac, uri_template};

pub(super) fn http(f: &AuthzFilter) -> http_rbac::Rbac {
    let rules = Some(rules(f));
    if f.dry_run {
        http_rbac::Rbac {
            shadow_rules: rules,
            shadow_rules_stat_prefix: f.stat_prefix.clone(),
            ..Default::default()
        }
    } else {
        http_rbac::Rbac {
            rules,
            rules_stat_prefix: f.stat_prefix.clone(),
            ..Default::default()
        }
    }
}

pub(super) fn network(f: &AuthzFilter) -> network_rbac::Rbac {
    let rules = Some(rules(f));
    if f.dry_run {
        network_rbac::Rbac {
            shadow_rules: rules,
            shadow_rules_stat_prefix: f.stat_prefix.clone(),
            // Envoy requires one even where it counts nothing.
            stat_prefix: "rbac".to_owned(),
            ..Default::default()
        }
    } else {
        network_rbac::Rbac {
            rules,
            stat_prefix: f.stat_prefix.clone(),
            ..Default::default()
        }
    }
}

fn rules(f: &AuthzFilter) -> rbac::Rbac {
    let action = match f.action {
        Action::Allow => rbac::rbac::Action::Allow,
        Action::Deny => rbac::rbac::Action::Deny,
        Action::Log => rbac::rbac::Action::Log,
    };
    rbac::Rbac {
        action: action.into(),
        policies: f
            .policies
            .iter()
            .map(|p| (p.name.to_string(), policy(p)))
            .collect(),
        ..Default::default()
    }
}

fn policy(p: &Policy) -> rbac::Policy {
    rbac::Policy {
        permissions: p.permissions.iter().map(permission).collect(),
        principals: p.principals.iter().map(principal).collect(),
        ..Default::default()
    }
}

/// A rule as a permission. There is no permission for a leaf that only a principal can be: it is left empty, which every
/// reader refuses, so that a mistake in compiling a policy never loosens it.
fn permission(r: &Rule) -> rbac::Permission {
    use rbac::permission::{Rule as Wire, Set};
    let set = |rules: &[Rule]| Set {
        rules: rules.iter().map(permission).collect(),
    };
    let rule = match r {
        Rule::Any => Wire::Any(true),
        Rule::And(rules) => Wire::AndRules(set(rules)),
        Rule::Or(rules) => Wire::OrRules(set(rules)),
        Rule::Not(rule) => Wire::NotRule(Box::new(permission(rule))),
        Rule::Header(m) => Wire::Header(header_match(m)),
        Rule::Path(m) => Wire::UrlPath(path(m)),
        Rule::PathTemplate(template) => Wire::UriTemplate(extension(
            "envoy.path.match.uri_template.uri_template_matcher",
            &uri_template::UriTemplateMatchConfig {
                // Istio's wildcards in braces, Envoy's without.
                path_template: template.replace("{**}", "**").replace("{*}", "*"),
            },
        )),
        Rule::DestinationIp(net) => Wire::DestinationIp(cidr(net)),
        Rule::DestinationPort(port) => Wire::DestinationPort((*port).into()),
        Rule::DestinationPorts { start, end } => Wire::DestinationPortRange(kind::Int32Range {
            start: (*start).into(),
            end: (*end).into(),
        }),
        Rule::Sni(m) => Wire::RequestedServerName(string_match(m)),
        Rule::Principal(_) | Rule::DirectIp(_) | Rule::RemoteIp(_) => {
            return rbac::Permission { rule: None };
        }
    };
    rbac::Permission { rule: Some(rule) }
}

fn principal(r: &Rule) -> rbac::Principal {
    use rbac::principal::{Authenticated, Identifier as Wire, Set};
    let set = |rules: &[Rule]| Set {
        ids: rules.iter().map(principal).collect(),
    };
    let identifier = match r {
        Rule::Any => Wire::Any(true),
        Rule::And(rules) => Wire::AndIds(set(rules)),
        Rule::Or(rules) => Wire::OrIds(set(rules)),
        Rule::Not(rule) => Wire::NotId(Box::new(principal(rule))),
        Rule::Header(m) => Wire::Header(header_match(m)),
        Rule::Path(m) => Wire::UrlPath(path(m)),
        Rule::Principal(name) => Wire::Authenticated(Authenticated {
            principal_name: name.as_ref().map(string_match),
        }),
        Rule::DirectIp(net) => Wire::DirectRemoteIp(cidr(net)),
        Rule::RemoteIp(net) => Wire::RemoteIp(cidr(net)),
        Rule::PathTemplate(_)
        | Rule::DestinationIp(_)
        | Rule::DestinationPort(_)
        | Rule::DestinationPorts { .. }
        | Rule::Sni(_) => return rbac::Principal { identifier: None },
    };
    rbac::Principal {
        identifier: Some(identifier),
    }
}

fn path(m: &ripstop_model::snapshot::matching::StringMatch) -> matcher::PathMatcher {
    matcher::PathMatcher {
        rule: Some(matcher::path_matcher::Rule::Path(string_match(m))),
    }
}
