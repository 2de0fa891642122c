//! Checks of an AuthorizationPolicy: above all, rules that match more or less than they seem to.

use std::collections::BTreeSet;

use super::Checker;
use super::leaf::is_token;
use crate::diagnostic::Code;
use crate::intent::AuthorizationPolicy;
use crate::intent::authorization_policy::{Action, Operation, Rule, Source};
use crate::intent::peer_authentication::MtlsMode;
use crate::schema::Path;

/// Bounds of Istio's CRD.
const MAX_RULES: usize = 512;
const MAX_ACCOUNTS: usize = 16;

pub(super) fn check(on: &mut Checker<'_>, spec: &AuthorizationPolicy) {
    let root = Path::ROOT.field("spec");
    if let Some(selector) = &spec.selector {
        on.selector(&root.field("selector"), selector);
    }
    let action = spec.action.unwrap_or(Action::Allow);
    let rules = root.field("rules");
    if spec.rules.is_empty() && action == Action::Deny {
        on.warning(
            Code::NoEffect,
            &root.field("action"),
            "a DENY policy without rules denies nothing",
        )
        .help("write `rules: [{}]` to deny everything");
    }
    if spec.rules.len() > MAX_RULES {
        on.error(
            Code::TooLarge,
            &rules,
            format!(
                "{} rules; at most {MAX_RULES} are allowed",
                spec.rules.len()
            ),
        )
        .help("split the policy");
    }
    for (index, rule) in spec.rules.iter().enumerate() {
        check_rule(on, &rules.index(index), rule, spec, action);
    }
    split(on, &rules, &spec.rules, action);
}

/// `- from: …` and `- to: …` as two rules where one was meant: each alone matches far more.
fn split(on: &mut Checker<'_>, at: &Path<'_>, rules: &[Rule], action: Action) {
    for (index, pair) in rules.windows(2).enumerate() {
        let [first, second] = pair else { continue };
        let callers = !first.from.is_empty() && first.to.is_empty();
        let operations = second.from.is_empty() && !second.to.is_empty();
        if callers && operations {
            let effect = match action {
                Action::Allow => {
                    "the first allows these callers everything, the second allows everybody these operations"
                }
                Action::Deny => {
                    "the first denies these callers everything, the second denies everybody these operations"
                }
            };
            let file = on.object.origin.file.clone();
            let earlier = on.span(&at.index(index));
            on.warning(
                Code::SplitRule,
                &at.index(index + 1),
                format!("two rules, either of which is enough: {effect}"),
            )
            .help("if both were meant together, remove the `-` before `to`")
            .related(&file, earlier, "the first rule");
        }
    }
}

fn check_rule(
    on: &mut Checker<'_>,
    at: &Path<'_>,
    rule: &Rule,
    spec: &AuthorizationPolicy,
    action: Action,
) {
    // `from: []` reads like "nobody" and means "everybody".
    for (field, empty) in [("from", rule.from.is_empty()), ("to", rule.to.is_empty())] {
        let at = at.field(field);
        if empty && at.value(&on.object.origin.tree).is_some() {
            on.error(
                Code::EmptyField,
                &at,
                format!("an empty `{field}` would match everything"),
            )
            .help(format!("remove `{field}` if everything is meant"));
        }
    }
    let list = at.field("from");
    for (index, from) in rule.from.iter().enumerate() {
        let at = list.index(index);
        source(on, &at.field("source"), &from.source, spec, action);
    }
    let list = at.field("to");
    for (index, to) in rule.to.iter().enumerate() {
        let at = list.index(index);
        operation(on, &at.field("operation"), &to.operation, spec, action);
    }
}

fn source(
    on: &mut Checker<'_>,
    at: &Path<'_>,
    source: &Source,
    spec: &AuthorizationPolicy,
    action: Action,
) {
    if *source == Source::default() {
        on.error(
            Code::EmptyField,
            at,
            "an empty source would match every caller",
        )
        .help("remove `from` if every caller is meant");
    }
    for (field, list) in [
        ("principals", &source.principals),
        ("notPrincipals", &source.not_principals),
        ("namespaces", &source.namespaces),
        ("notNamespaces", &source.not_namespaces),
        ("serviceAccounts", &source.service_accounts),
        ("notServiceAccounts", &source.not_service_accounts),
    ] {
        let at = at.field(field);
        for (index, value) in list.iter().enumerate() {
            let at = at.index(index);
            pattern(on, &at, value);
            if value.is_empty() {
                continue;
            }
            match field {
                "principals" | "notPrincipals" => principal(on, &at, value),
                "serviceAccounts" | "notServiceAccounts" => account(on, &at, value),
                "namespaces" | "notNamespaces" if !value.contains('*') => on.in_use(&at, value),
                _ => {}
            }
        }
        if field.ends_with("erviceAccounts") && list.len() > MAX_ACCOUNTS {
            on.error(
                Code::TooLarge,
                &at,
                format!("{} entries; at most {MAX_ACCOUNTS} are allowed", list.len()),
            )
            .help("use `namespaces`, or split the rule");
        }
    }
    for (field, list) in [
        ("ipBlocks", &source.ip_blocks),
        ("notIpBlocks", &source.not_ip_blocks),
    ] {
        let at = at.field(field);
        for (index, block) in list.iter().enumerate() {
            on.block(&at.index(index), block);
        }
    }
    if source.needs_mtls() {
        identity(on, at, source, spec, action);
    }
}

/// Callers have an identity only over mTLS.
fn identity(
    on: &mut Checker<'_>,
    at: &Path<'_>,
    source: &Source,
    spec: &AuthorizationPolicy,
    action: Action,
) {
    let namespace = on.namespace();
    let modes: Vec<MtlsMode> = on
        .world
        .selected(namespace, spec.selector.as_ref())
        .map(|workload| on.world.mtls(&workload.namespace, &workload.labels, None))
        .collect();
    let named = !(source.principals.is_empty()
        && source.namespaces.is_empty()
        && source.service_accounts.is_empty());
    if !modes.is_empty() && modes.iter().all(|mode| *mode == MtlsMode::Disable) {
        on.warning(
            Code::NeedsMtls,
            at,
            "mTLS is DISABLEd for these workloads: no caller has an identity to compare",
        )
        .help("set PeerAuthentication to PERMISSIVE or STRICT");
    } else if action == Action::Deny && named && modes.contains(&MtlsMode::Permissive) {
        on.warning(
            Code::NeedsMtls,
            at,
            "plain text is accepted here (PERMISSIVE), and a caller without mTLS is none of these: it is not denied",
        )
        .help("set PeerAuthentication to STRICT");
    }
}

/// Exact, `abc*`, `*abc` or `*`.
fn pattern(on: &mut Checker<'_>, at: &Path<'_>, value: &str) {
    if value.is_empty() {
        on.error(Code::EmptyField, at, "an empty value matches nothing")
            .help("remove it");
        return;
    }
    let middle = value.strip_prefix('*').unwrap_or(value);
    let middle = middle.strip_suffix('*').unwrap_or(middle);
    let both = value.len() > 1 && value.starts_with('*') && value.ends_with('*');
    if middle.contains('*') || both {
        on.error(
            Code::InvalidValue,
            at,
            format!("`{value}` is compared letter by letter: `*` works only as the first or the last character, not both"),
        )
        .help("write abc*, *abc or *");
    }
}

fn principal(on: &mut Checker<'_>, at: &Path<'_>, value: &str) {
    if let Some(rest) = value.strip_prefix("spiffe://") {
        on.error(
            Code::InvalidValue,
            at,
            "principals are written without the scheme; this matches nobody",
        )
        .help(format!("write `{rest}`"));
        return;
    }
    if value.contains('*') {
        return;
    }
    let parts: Vec<&str> = value.split('/').collect();
    let [_, "ns", namespace, "sa", account] = parts.as_slice() else {
        on.warning(
            Code::Unreachable,
            at,
            format!("`{value}` is no identity of this mesh; it matches nobody"),
        )
        .help("cluster.local/ns/NAMESPACE/sa/ACCOUNT");
        return;
    };
    known_account(on, at, namespace, account);
}

fn account(on: &mut Checker<'_>, at: &Path<'_>, value: &str) {
    let (namespace, name) = value.split_once('/').unwrap_or((on.namespace(), value));
    if value.contains('*') || name.contains('/') || name.is_empty() || namespace.is_empty() {
        on.error(
            Code::InvalidValue,
            at,
            format!("`{value}` is not a service account"),
        )
        .help("NAMESPACE/ACCOUNT, or ACCOUNT in the policy's namespace; no `*`");
        return;
    }
    known_account(on, at, namespace, name);
}

fn known_account(on: &mut Checker<'_>, at: &Path<'_>, namespace: &str, account: &str) {
    // The account of `up --exec` exists without being declared.
    let known =
        account == "client"
            || on.world.workloads.iter().any(|workload| {
                workload.namespace == namespace && workload.service_account == account
            });
    if on.world.complete && !known {
        let accounts = on
            .world
            .workloads
            .iter()
            .filter(|workload| workload.namespace == namespace)
            .map(|workload| workload.service_account.as_str());
        let help = match crate::schema::nearest(account, accounts) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "it may belong to a workload that joins later".to_owned(),
        };
        on.warning(
            Code::UnknownServiceAccount,
            at,
            format!("no workload in `{namespace}` runs as service account `{account}`"),
        )
        .help(help);
    }
}

fn operation(
    on: &mut Checker<'_>,
    at: &Path<'_>,
    operation: &Operation,
    spec: &AuthorizationPolicy,
    action: Action,
) {
    if *operation == Operation::default() {
        on.error(
            Code::EmptyField,
            at,
            "an empty operation would match every request",
        )
        .help("remove `to` if every request is meant");
    }
    for (field, list) in [
        ("hosts", &operation.hosts),
        ("notHosts", &operation.not_hosts),
        ("methods", &operation.methods),
        ("notMethods", &operation.not_methods),
        ("paths", &operation.paths),
        ("notPaths", &operation.not_paths),
        ("ports", &operation.ports),
        ("notPorts", &operation.not_ports),
    ] {
        let at = at.field(field);
        for (index, value) in list.iter().enumerate() {
            let at = at.index(index);
            match field {
                "paths" | "notPaths" => path(on, &at, value),
                "methods" | "notMethods" => method(on, &at, value),
                "ports" | "notPorts" => port(on, &at, value),
                _ => pattern(on, &at, value),
            }
        }
    }
    for (field, list) in [
        ("ports", &operation.ports),
        ("notPorts", &operation.not_ports),
    ] {
        let at = at.field(field);
        for (index, value) in list.iter().enumerate() {
            let effect = match field {
                "ports" => "it matches nothing",
                _ => "it excepts nothing",
            };
            target_port(on, &at.index(index), value, effect, spec);
        }
    }
    on_tcp(on, at, operation, spec, action);
}

/// Policies see the port that a workload listens on; the service's port beside it, which callers use, matches nothing.
fn target_port(
    on: &mut Checker<'_>,
    at: &Path<'_>,
    value: &str,
    effect: &str,
    spec: &AuthorizationPolicy,
) {
    let Some(number) = value.parse::<u16>().ok().filter(|number| *number > 0) else {
        return;
    };
    let mut targets = BTreeSet::new();
    let mut meant = None;
    for workload in on.world.selected(on.namespace(), spec.selector.as_ref()) {
        let service = on.world.service(&workload.service);
        for port in service.iter().flat_map(|service| &service.ports) {
            targets.insert(port.target);
            if port.number == number {
                meant.get_or_insert((port.target, workload.service.clone()));
            }
        }
    }
    if targets.is_empty() || targets.contains(&number) {
        return;
    }
    let help = match meant {
        Some((target, service)) => {
            format!(
                "write \"{target}\", where the workloads of `{service}` listen for its port {number}"
            )
        }
        None => {
            let listed: Vec<String> = targets.iter().map(u16::to_string).collect();
            format!("they listen on {}", listed.join(", "))
        }
    };
    on.warning(
        Code::UnknownPort,
        at,
        format!("none of the workloads that this selects listens on port {number}: {effect}"),
    )
    .help(help);
}

fn path(on: &mut Checker<'_>, at: &Path<'_>, value: &str) {
    if value.contains(['{', '}']) {
        let mut segments = value.split('/').peekable();
        let mut fault =
            value.contains('*') && value.replace("{**}", "").replace("{*}", "").contains('*');
        while let Some(segment) = segments.next() {
            let template = matches!(segment, "{*}" | "{**}");
            fault |= segment.contains(['{', '}']) && !template;
            fault |= segment == "{**}" && segments.peek().is_some();
        }
        if fault {
            on.error(
                Code::InvalidValue,
                at,
                format!("`{value}` is not a path template"),
            )
            .help("{*} is one whole segment, {**} the rest and comes last; no other `*`");
        }
        return;
    }
    pattern(on, at, value);
    if value.starts_with('*') {
        return;
    }
    let literal = value.strip_suffix('*').unwrap_or(value);
    if !literal.is_empty() {
        on.path(at, literal, literal.len() < value.len());
    }
}

fn method(on: &mut Checker<'_>, at: &Path<'_>, value: &str) {
    pattern(on, at, value);
    if !is_token(value) {
        on.error(Code::InvalidValue, at, format!("`{value}` is not a method"))
            .help("such as GET");
    } else if value.bytes().any(|b| b.is_ascii_lowercase()) {
        on.warning(
            Code::Unreachable,
            at,
            format!("methods are case-sensitive; `{value}` matches no usual request"),
        )
        .help(format!("write {}", value.to_ascii_uppercase()));
    }
}

fn port(on: &mut Checker<'_>, at: &Path<'_>, value: &str) {
    if value.parse::<u16>().is_ok_and(|port| port > 0) {
        return;
    }
    on.error(Code::InvalidPort, at, format!("`{value}` is not a port"))
        .help("1 to 65535, in quotes");
}

/// What only HTTP has does not match on TCP: an ALLOW rule with it never does, a DENY rule leaves it out (Istio).
fn on_tcp(
    on: &mut Checker<'_>,
    at: &Path<'_>,
    operation: &Operation,
    spec: &AuthorizationPolicy,
    action: Action,
) {
    let ports: Vec<u16> = operation
        .ports
        .iter()
        .filter_map(|port| port.parse().ok())
        .collect();
    if !operation.is_http() {
        return;
    }
    let mut opaque = Vec::new();
    let mut http = false;
    for workload in on.world.selected(on.namespace(), spec.selector.as_ref()) {
        let Some(service) = on.world.service(&workload.service) else {
            continue;
        };
        for port in &service.ports {
            if !ports.is_empty() && !ports.contains(&port.target) {
                continue;
            }
            if port.protocol.is_opaque() || port.protocol.is_tls() {
                opaque.push((workload.service.clone(), port.target));
            } else {
                http = true;
            }
        }
    }
    let Some((service, port)) = opaque.first() else {
        return;
    };
    // A wide ALLOW policy rightly says nothing for the TCP ports beside; a DENY surprises always.
    if action == Action::Allow && http {
        return;
    }
    let effect = match action {
        Action::Allow => "this rule never matches there",
        Action::Deny if ports.is_empty() => {
            "there this rule leaves them out and denies every connection that the rest matches"
        }
        Action::Deny => "this rule leaves them out and denies every connection to that port",
    };
    on.warning(
        Code::HttpOnTcp,
        at,
        format!(
            "port {port} of `{service}` is not HTTP: it has no hosts, methods or paths; {effect}"
        ),
    )
    .help("name the HTTP ports in `ports`, or select other workloads");
}
