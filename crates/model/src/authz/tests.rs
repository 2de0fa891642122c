use super::*;
use crate::request::tests::Fixture;
use crate::snapshot::matching::HeaderMatch;

fn caller(principal: Option<&str>, port: u16) -> Caller {
    Caller {
        principals: principal.map(|p| Arc::from([p.to_owned()])),
        direct_ip: "10.88.0.7".parse().unwrap(),
        remote_ip: "192.0.2.1".parse().unwrap(),
        destination: SocketAddr::from(([10, 88, 0, 1], port)),
        sni: "".into(),
    }
}

fn policy(name: &str, permissions: Vec<Rule>, principals: Vec<Rule>) -> Policy {
    Policy {
        name: name.into(),
        permissions,
        principals,
        resource: None,
    }
}

fn filter(action: Action, policies: Vec<Policy>) -> Arc<AuthzFilter> {
    Arc::new(AuthzFilter {
        name: "rbac".into(),
        action,
        policies,
        dry_run: false,
        stat_prefix: String::new(),
    })
}

fn principal(name: &str) -> Rule {
    Rule::Principal(Some(StringMatch::exact(name)))
}

fn path(path: &str) -> Rule {
    Rule::Path(StringMatch::exact(path))
}

fn decided(verdict: Verdict<'_>) -> Option<String> {
    match verdict {
        Verdict::Allowed => None,
        Verdict::Denied { reason, policy } => Some(format!(
            "{reason}:{}",
            policy.map(|p| p.name.to_string()).unwrap_or_default()
        )),
    }
}

#[test]
fn deny_comes_before_allow_and_no_match_denies() {
    let judge = Judge::new(&[
        filter(
            Action::Deny,
            vec![policy("admin", vec![path("/admin")], vec![Rule::Any])],
        ),
        filter(
            Action::Allow,
            vec![policy(
                "orders",
                vec![Rule::Any],
                vec![principal("spiffe://t/ns/a/sa/orders")],
            )],
        ),
    ]);
    let verdict = |who: Option<&str>, target: &str| {
        decided(judge.judge(&caller(who, 80), Some(&Fixture::get("h", target))))
    };
    assert_eq!(verdict(Some("spiffe://t/ns/a/sa/orders"), "/"), None);
    assert_eq!(
        verdict(Some("spiffe://t/ns/a/sa/orders"), "/admin").unwrap(),
        "authz_denied:admin"
    );
    assert_eq!(
        verdict(Some("spiffe://t/ns/a/sa/other"), "/").unwrap(),
        "authz_not_allowed:"
    );
    assert_eq!(verdict(None, "/").unwrap(), "authz_not_allowed:");
}

#[test]
fn no_spelling_of_a_path_gets_past_a_rule() {
    let below = |prefix: &str| vec![Rule::Path(StringMatch::prefix(prefix))];
    let deny = policy("admin", below("/admin"), vec![Rule::Any]);
    let deny = Judge::new(&[filter(Action::Deny, vec![deny])]);
    let exact = policy("admin", vec![path("/admin")], vec![Rule::Any]);
    let exact = Judge::new(&[filter(Action::Deny, vec![exact])]);
    let allow = policy("public", below("/public"), vec![Rule::Any]);
    let allow = Judge::new(&[filter(Action::Allow, vec![allow])]);
    let allowed = |judge: &Judge, target: &str| {
        let request = Fixture::get("h", target);
        judge.judge(&caller(None, 80), Some(&request)).is_allowed()
    };
    for target in [
        "/x/..%2fadmin",
        "/%2Fadmin",
        "/;/admin",
        "/x/..;a/admin",
        "/%5cadmin",
        "/x%5C..%5cadmin",
    ] {
        assert!(
            !allowed(&deny, target) && !allowed(&exact, target),
            "{target}"
        );
    }
    for target in [
        "/public/..%2fadmin",
        "/public/..%2fadmin%2fx",
        "/public/..;/admin",
        "/public%2f..%2fadmin",
    ] {
        assert!(!allowed(&allow, target), "{target}");
    }
    for target in [
        "/public/caf%C3%A9",
        "/public/a%2fb",
        "/public/a;v=1",
        "/public/%25",
        "/public/x?y=/../z",
    ] {
        assert!(
            allowed(&allow, target) && allowed(&deny, target),
            "{target}"
        );
    }
}

#[test]
fn empty_filters() {
    assert!(Judge::new(&[]).judge(&caller(None, 80), None).is_allowed());
    assert!(
        !Judge::new(&[filter(Action::Allow, vec![])])
            .judge(&caller(None, 80), None)
            .is_allowed()
    );
    assert!(
        Judge::new(&[filter(Action::Deny, vec![])])
            .judge(&caller(None, 80), None)
            .is_allowed()
    );
    let shadow = AuthzFilter {
        dry_run: true,
        ..(*filter(Action::Allow, vec![])).clone()
    };
    assert!(
        Judge::new(&[Arc::new(shadow)])
            .judge(&caller(None, 80), None)
            .is_allowed()
    );
}

#[test]
fn http_rules_never_match_a_tcp_connection() {
    let method = Rule::Header(HeaderMatch {
        name: ":method".into(),
        test: HeaderTest::String(StringMatch::exact("GET")),
        invert: false,
        missing_as_empty: false,
    });
    let allow = Judge::new(&[filter(
        Action::Allow,
        vec![policy("p", vec![method], vec![Rule::Any])],
    )]);
    assert!(!allow.judge(&caller(None, 80), None).is_allowed());
    assert!(
        allow
            .judge(&caller(None, 80), Some(&Fixture::get("h", "/")))
            .is_allowed()
    );
}

/// The index must never change an outcome: every rule shape, judged with and without it.
#[test]
fn the_index_agrees_with_a_scan() {
    let a = "spiffe://t/ns/a/sa/a";
    let b = "spiffe://t/ns/b/sa/b";
    let shapes = [
        policy("both", vec![path("/x")], vec![principal(a)]),
        policy(
            "nested",
            vec![Rule::Any],
            vec![Rule::And(vec![
                Rule::Any,
                Rule::Or(vec![principal(a), principal(b)]),
            ])],
        ),
        policy(
            "half",
            vec![Rule::Any],
            vec![Rule::Or(vec![
                principal(b),
                Rule::DirectIp("10.88.0.0/16".parse().unwrap()),
            ])],
        ),
        policy(
            "not",
            vec![Rule::Not(Box::new(path("/x")))],
            vec![Rule::Not(Box::new(principal(a)))],
        ),
        policy(
            "port",
            vec![Rule::And(vec![Rule::DestinationPort(81), Rule::Any])],
            vec![Rule::Any],
        ),
        policy(
            "prefix",
            vec![Rule::Path(StringMatch::prefix("/x"))],
            vec![Rule::Principal(None)],
        ),
        policy("twice", vec![path("/x"), path("/x")], vec![Rule::Any]),
        policy("never", vec![], vec![Rule::Any]),
    ];
    for rotation in 0..shapes.len() {
        let mut policies = shapes.to_vec();
        policies.rotate_left(rotation);
        let indexed = Indexed::new(filter(Action::Deny, policies.clone()));
        for who in [None, Some(a), Some(b)] {
            for port in [80, 81] {
                for target in [None, Some("/x"), Some("/y")] {
                    let caller = caller(who, port);
                    let request = target.map(|t| Fixture::get("h", t));
                    let request = request.as_ref().map(|r| r as &dyn RequestView);
                    let subject = Subject {
                        caller: &caller,
                        request,
                    };
                    let scanned = policies
                        .iter()
                        .find(|p| subject.matches(p))
                        .map(|p| &p.name);
                    let found = indexed.first_match(&caller, request).map(|p| &p.name);
                    assert_eq!(
                        found, scanned,
                        "{who:?} {port} {target:?} rotation {rotation}"
                    );
                }
            }
        }
    }
}

#[test]
fn path_templates() {
    for (template, path, want) in [
        ("/a/{*}", "/a/b", true),
        ("/a/{*}", "/a/b/c", false),
        ("/a/{*}", "/a/", false),
        ("/a/{*}/c", "/a/b/c", true),
        ("/a/{**}", "/a/b/c", true),
        ("/a/{**}", "/a", false),
        ("/{*}/b/{**}", "/x/b/y/z", true),
        ("/a", "/a", true),
        ("/a", "/ab", false),
    ] {
        assert_eq!(template_matches(template, path), want, "{template} {path}");
    }
}
