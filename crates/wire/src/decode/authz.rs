//! RBAC, of HTTP and of connections: one rule tree for permissions and principals.

use ripstop_model::snapshot::authz::{Action, AuthzFilter, Policy, Rule};
use ripstop_model::snapshot::matching::StringMatch;

use super::value::{cidr, header_match, string_match};
use super::{Decoding, fields, is};
use crate::pb::{
    core, google, http_rbac, kind, matcher, mtls_authenticated, network_rbac, rbac, route,
    uri_template,
};

/// The filters one HTTP RBAC filter amounts to: its rules, and its shadow rules as a dry run. A filter without rules
/// stays, denying nothing, because a route may give it some.
pub(super) fn http(cx: &mut Decoding, name: &str, m: http_rbac::Rbac) -> Vec<AuthzFilter> {
    fields!(cx, m => http_rbac::Rbac { rules, rules_stat_prefix, shadow_rules, shadow_rules_stat_prefix }
        refuse { matcher }
        ignore { shadow_matcher }
        inert { track_per_rule_stats });
    both(
        cx,
        name,
        rules,
        rules_stat_prefix,
        shadow_rules,
        shadow_rules_stat_prefix,
    )
}

pub(super) fn network(cx: &mut Decoding, name: &str, m: network_rbac::Rbac) -> Vec<AuthzFilter> {
    // A connection is judged again whenever policy changes, which is what CONTINUOUS asks for.
    fields!(cx, m => network_rbac::Rbac { rules, shadow_rules, shadow_rules_stat_prefix, stat_prefix }
        refuse { matcher }
        ignore { shadow_matcher, delay_deny }
        inert { enforcement_type });
    let filters = both(
        cx,
        name,
        rules,
        stat_prefix,
        shadow_rules,
        shadow_rules_stat_prefix,
    );
    let policies = filters.iter().flat_map(|f| &f.policies);
    if policies
        .flat_map(|p| p.permissions.iter().chain(&p.principals))
        .any(asks_http)
    {
        cx.invalid_here("rules on headers or paths cannot be judged on a connection; put them into the HTTP filter");
    }
    filters
}

fn asks_http(rule: &Rule) -> bool {
    match rule {
        Rule::Header(_) | Rule::Path(_) | Rule::PathTemplate(_) => true,
        Rule::And(rules) | Rule::Or(rules) => rules.iter().any(asks_http),
        Rule::Not(rule) => asks_http(rule),
        Rule::Any
        | Rule::DestinationIp(_)
        | Rule::DestinationPort(_)
        | Rule::DestinationPorts { .. }
        | Rule::Sni(_)
        | Rule::Principal(_)
        | Rule::DirectIp(_)
        | Rule::RemoteIp(_) => false,
    }
}

fn both(
    cx: &mut Decoding,
    name: &str,
    rules: Option<rbac::Rbac>,
    stat_prefix: String,
    shadow: Option<rbac::Rbac>,
    shadow_stat_prefix: String,
) -> Vec<AuthzFilter> {
    let filter = |(action, policies), dry_run, stat_prefix| AuthzFilter {
        name: name.into(),
        action,
        policies,
        dry_run,
        stat_prefix,
    };
    let has_shadow = shadow.is_some();
    let enforced = match rules {
        Some(m) => cx.field("rules", |cx| self::rules(cx, m)),
        None => (!has_shadow).then(|| (Action::Deny, Vec::new())),
    };
    let shadow = cx.optional("shadow_rules", shadow, self::rules);
    enforced
        .map(|rules| filter(rules, false, stat_prefix))
        .into_iter()
        .chain(shadow.map(|rules| filter(rules, true, shadow_stat_prefix)))
        .collect()
}

fn rules(cx: &mut Decoding, m: rbac::Rbac) -> Option<(Action, Vec<Policy>)> {
    fields!(cx, m => rbac::Rbac { action, policies } ignore { audit_logging_options });
    let action = match cx.enumeration("action", action)? {
        rbac::rbac::Action::Allow => Action::Allow,
        rbac::rbac::Action::Deny => Action::Deny,
        rbac::rbac::Action::Log => Action::Log,
    };
    let mut named: Vec<_> = policies.into_iter().collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    let policies = cx.field("policies", |cx| {
        named
            .into_iter()
            .filter_map(|(name, m)| cx.key(&name, |cx| policy(cx, name.clone(), m)))
            .collect()
    });
    Some((action, policies))
}

fn policy(cx: &mut Decoding, name: String, m: rbac::Policy) -> Option<Policy> {
    fields!(cx, m => rbac::Policy { permissions, principals }
        refuse { condition, checked_condition, cel_config });
    let permissions = cx.each("permissions", permissions, permission);
    let principals = cx.each("principals", principals, principal);
    Some(Policy {
        resource: Policy::resource_of_name(&name),
        name: name.into(),
        permissions,
        principals,
    })
}

#[allow(deprecated)]
fn permission(cx: &mut Decoding, m: rbac::Permission) -> Option<Rule> {
    use rbac::permission::Rule as Wire;
    match m.rule {
        Some(Wire::AndRules(set)) => {
            let length = set.rules.len();
            all(cx.each("and_rules.rules", set.rules, permission), length).map(Rule::And)
        }
        Some(Wire::OrRules(set)) => {
            let length = set.rules.len();
            all(cx.each("or_rules.rules", set.rules, permission), length).map(Rule::Or)
        }
        Some(Wire::NotRule(rule)) => cx
            .field("not_rule", |cx| permission(cx, *rule))
            .map(|rule| Rule::Not(Box::new(rule))),
        Some(Wire::Any(value)) => any(cx, value),
        Some(Wire::Header(m)) => header(cx, m),
        Some(Wire::UrlPath(m)) => url_path(cx, m),
        Some(Wire::DestinationIp(m)) => cx
            .field("destination_ip", |cx| cidr(cx, m))
            .map(Rule::DestinationIp),
        Some(Wire::DestinationPort(port)) => {
            cx.port("destination_port", port).map(Rule::DestinationPort)
        }
        Some(Wire::DestinationPortRange(kind::Int32Range { start, end })) => {
            match (u16::try_from(start), u16::try_from(end)) {
                (Ok(start), Ok(end)) => Some(Rule::DestinationPorts { start, end }),
                _ => {
                    cx.invalid("destination_port_range", "is not a range of ports");
                    None
                }
            }
        }
        Some(Wire::RequestedServerName(m)) => cx
            .field("requested_server_name", |cx| string_match(cx, m))
            .map(Rule::Sni),
        Some(Wire::UriTemplate(m)) => cx.field("uri_template", |cx| {
            let any = m.typed_config.unwrap_or_default();
            let m: uri_template::UriTemplateMatchConfig = cx.expect(&any)?;
            path_template(cx, &m.path_template).map(Rule::PathTemplate)
        }),
        Some(Wire::Metadata(_)) => unsupported(cx, "metadata"),
        Some(Wire::SourcedMetadata(_)) => unsupported(cx, "sourced_metadata"),
        Some(Wire::Matcher(_)) => unsupported(cx, "matcher"),
        None => empty(cx),
    }
}

#[allow(deprecated)]
fn principal(cx: &mut Decoding, m: rbac::Principal) -> Option<Rule> {
    use matcher::filter_state_matcher::Matcher;
    use rbac::principal::Identifier as Wire;
    match m.identifier {
        Some(Wire::AndIds(set)) => {
            let length = set.ids.len();
            all(cx.each("and_ids.ids", set.ids, principal), length).map(Rule::And)
        }
        Some(Wire::OrIds(set)) => {
            let length = set.ids.len();
            all(cx.each("or_ids.ids", set.ids, principal), length).map(Rule::Or)
        }
        Some(Wire::NotId(rule)) => cx
            .field("not_id", |cx| principal(cx, *rule))
            .map(|rule| Rule::Not(Box::new(rule))),
        Some(Wire::Any(value)) => any(cx, value),
        Some(Wire::Authenticated(m)) => match m.principal_name {
            None => Some(Rule::Principal(None)),
            Some(m) => cx
                .field("authenticated.principal_name", |cx| string_match(cx, m))
                .map(|name| Rule::Principal(Some(name))),
        },
        // Istio's form of the same fact, for peers behind a tunnel.
        Some(Wire::FilterState(matcher::FilterStateMatcher {
            key,
            matcher: Some(Matcher::StringMatch(m)),
        })) if key == "io.istio.peer_principal" => cx
            .field("filter_state.string_match", |cx| string_match(cx, m))
            .map(|name| Rule::Principal(Some(name))),
        Some(Wire::SourceIp(m)) => cx.field("source_ip", |cx| cidr(cx, m)).map(Rule::DirectIp),
        Some(Wire::DirectRemoteIp(m)) => cx
            .field("direct_remote_ip", |cx| cidr(cx, m))
            .map(Rule::DirectIp),
        Some(Wire::RemoteIp(m)) => cx.field("remote_ip", |cx| cidr(cx, m)).map(Rule::RemoteIp),
        Some(Wire::Header(m)) => header(cx, m),
        Some(Wire::UrlPath(m)) => url_path(cx, m),
        Some(Wire::Custom(m)) => cx.field("custom", |cx| custom(cx, m)),
        Some(Wire::FilterState(_)) => unsupported(cx, "filter_state"),
        Some(Wire::Metadata(_)) => unsupported(cx, "metadata"),
        Some(Wire::SourcedMetadata(_)) => unsupported(cx, "sourced_metadata"),
        None => empty(cx),
    }
}

/// Envoy's template (`/a/*/{name}/{rest=**}`) in the model's form (`/a/{*}/{*}/{**}`): names bind nothing in RBAC.
fn path_template(cx: &mut Decoding, template: &str) -> Option<String> {
    let segment = |segment: &str| {
        let variable = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
        let pattern = match variable {
            Some(variable) => variable.split_once('=').map_or("*", |(_, pattern)| pattern),
            None => segment,
        };
        match pattern {
            "*" => Some("{*}".to_owned()),
            "**" => Some("{**}".to_owned()),
            literal if variable.is_none() && !literal.contains(['*', '{', '}']) => {
                Some(literal.to_owned())
            }
            _ => None,
        }
    };
    let segments: Option<Vec<String>> = template.split('/').map(segment).collect();
    if segments.is_none() {
        cx.invalid(
            "path_template",
            format!("`{template}`: only *, **, {{name}} and literal segments are supported"),
        );
    }
    segments.map(|s| s.join("/"))
}

/// Dropping one leaf of a set would change what the set means, so a set is decoded whole or not at all.
fn all(rules: Vec<Rule>, length: usize) -> Option<Vec<Rule>> {
    (rules.len() == length).then_some(rules)
}

fn any(cx: &mut Decoding, value: bool) -> Option<Rule> {
    if value {
        Some(Rule::Any)
    } else {
        cx.invalid("any", "must be true");
        None
    }
}

fn header(cx: &mut Decoding, m: route::HeaderMatcher) -> Option<Rule> {
    cx.field("header", |cx| header_match(cx, m))
        .map(Rule::Header)
}

fn url_path(cx: &mut Decoding, m: matcher::PathMatcher) -> Option<Rule> {
    match m.rule {
        Some(matcher::path_matcher::Rule::Path(m)) => {
            let path: Option<StringMatch> = cx.field("url_path.path", |cx| string_match(cx, m));
            path.map(Rule::Path)
        }
        None => {
            cx.invalid("url_path", "has no path");
            None
        }
    }
}

fn custom(cx: &mut Decoding, m: core::TypedExtensionConfig) -> Option<Rule> {
    let any: google::Any = m.typed_config.unwrap_or_default();
    if !is::<mtls_authenticated::Config>(&any) {
        return unsupported(cx, "typed_config");
    }
    let mtls_authenticated::Config {
        san_matcher,
        any_validated_client_certificate,
    } = cx.unpack(&any)?;
    if san_matcher.is_some() || !any_validated_client_certificate {
        return unsupported(cx, "san_matcher");
    }
    Some(Rule::Principal(None))
}

fn unsupported(cx: &mut Decoding, name: &str) -> Option<Rule> {
    cx.refuse(name, true);
    None
}

fn empty(cx: &mut Decoding) -> Option<Rule> {
    cx.invalid_here("is empty");
    None
}
