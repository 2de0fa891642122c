//! R3.1: of many resources one is bad, in every way in which one can be. The others are in force; the bad one keeps its last good
//! version, and one that never had any fails closed for what it names and for nothing else.

use std::collections::BTreeSet;
use std::time::Instant;

use ripstop_control::address::{Allocator, Pool, Ranges};
use ripstop_control::compile::compile;
use ripstop_control::registry::Registry;
use ripstop_control::settings::Settings;
use ripstop_control::source::Change;
use ripstop_control::store::Store;
use ripstop_control::view::{Client, Mesh, Scope, View};
use ripstop_model::analyze::analyze;
use ripstop_model::diagnostic::Code;
use ripstop_model::snapshot::Snapshot;

/// Two services with all that can be said about each; the bad ones are about `a`.
const MESH: &str = "apiVersion: ripstop.dev/v1alpha1
kind: Mesh
metadata: {name: m}
spec:
  services:
  - {name: a, ports: [{name: http, port: 80, targetPort: 8080}], workloads: [{command: [x], labels: {version: v1}}]}
  - {name: b, ports: [{name: http, port: 80, targetPort: 8080}], workloads: [{command: [x], labels: {version: v1}}]}
";

fn about(service: &str) -> [(&'static str, String); 5] {
    let document = |group: &str, kind: &str, spec: &str| {
        format!(
            "apiVersion: {group}.istio.io/v1\nkind: {kind}\nmetadata: {{name: {service}}}\nspec:\n  {}\n",
            spec.replace("SERVICE", service).replace('\n', "\n  ")
        )
    };
    [
        (
            "VirtualService",
            document(
                "networking",
                "VirtualService",
                "hosts: [SERVICE]
http:
- match: [{uri: {prefix: /api}, headers: {x-user: {exact: me}}}]
  timeout: 2s
  retries: {attempts: 2, retryOn: 5xx}
  rewrite: {uri: /}
  route:
  - {destination: {host: SERVICE}, weight: 90}
  - {destination: {host: SERVICE, subset: v1}, weight: 10}
- route: [{destination: {host: SERVICE}}]",
            ),
        ),
        (
            "DestinationRule",
            document(
                "networking",
                "DestinationRule",
                "host: SERVICE
trafficPolicy: {loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {maxConnections: 5}}}
subsets: [{name: v1, labels: {version: v1}}]",
            ),
        ),
        (
            "ServiceEntry",
            document(
                "networking",
                "ServiceEntry",
                "hosts: [SERVICE.example.com]
resolution: STATIC
addresses: [192.0.2.0/24]
ports: [{number: 80, name: http, protocol: HTTP}]
endpoints: [{address: 192.0.2.7}]",
            ),
        ),
        (
            "PeerAuthentication",
            document(
                "security",
                "PeerAuthentication",
                "selector: {matchLabels: {app: SERVICE}}
mtls: {mode: PERMISSIVE}",
            ),
        ),
        (
            "AuthorizationPolicy",
            document(
                "security",
                "AuthorizationPolicy",
                "selector: {matchLabels: {app: SERVICE}}
action: ALLOW
rules: [{from: [{source: {namespaces: [default]}}], to: [{operation: {methods: [GET]}}]}]",
            ),
        ),
    ]
}

/// Kind, class of fault, and the edit that makes a good resource bad.
const FAULTS: &[(&str, Code, &str, &str)] = &[
    ("VirtualService", Code::Syntax, "http:", "http: ["),
    (
        "VirtualService",
        Code::DuplicateKey,
        "timeout: 2s",
        "timeout: 2s\n    timeout: 3s",
    ),
    (
        "VirtualService",
        Code::TooLarge,
        "timeout: 2s",
        "timeout: DEEP",
    ),
    ("VirtualService", Code::UnknownField, "timeout:", "timeoot:"),
    (
        "VirtualService",
        Code::MissingField,
        "{destination: {host: a}, weight: 90}",
        "{weight: 90}",
    ),
    (
        "VirtualService",
        Code::WrongType,
        "attempts: 2",
        "attempts: two",
    ),
    (
        "VirtualService",
        Code::InvalidValue,
        "attempts: 2",
        "attempts: -1",
    ),
    (
        "VirtualService",
        Code::Exclusive,
        "timeout: 2s",
        "redirect: {uri: /}",
    ),
    (
        "VirtualService",
        Code::NotSupportedYet,
        "timeout: 2s",
        "delegate: {name: x}",
    ),
    (
        "VirtualService",
        Code::EmptyField,
        "{uri: {prefix: /api}, headers: {x-user: {exact: me}}}",
        "{}",
    ),
    (
        "VirtualService",
        Code::InvalidHost,
        "hosts: [a]",
        "hosts: [a, \"A:80\"]",
    ),
    (
        "VirtualService",
        Code::InvalidRegex,
        "prefix: /api",
        "regex: \"(\"",
    ),
    (
        "VirtualService",
        Code::InvalidDuration,
        "timeout: 2s",
        "timeout: 2",
    ),
    (
        "VirtualService",
        Code::InvalidHeader,
        "x-user:",
        "\"x user\":",
    ),
    (
        "VirtualService",
        Code::InvalidPort,
        "host: a, subset",
        "port: {number: 0}, host: a, subset",
    ),
    ("VirtualService", Code::Weights, "weight: 90", "weight: -90"),
    ("DestinationRule", Code::UnknownField, "simple:", "simpel:"),
    (
        "DestinationRule",
        Code::InvalidValue,
        "RANDOM",
        "ROUNDABOUT",
    ),
    (
        "DestinationRule",
        Code::InvalidName,
        "name: v1",
        "name: \"v 1\"",
    ),
    (
        "DestinationRule",
        Code::Conflict,
        "[{name: v1,",
        "[{name: v1, labels: {a: b}}, {name: v1,",
    ),
    (
        "DestinationRule",
        Code::NotSupportedYet,
        "connectionPool:",
        "tunnel: {targetHost: x, targetPort: 1}, connectionPool:",
    ),
    (
        "ServiceEntry",
        Code::UnknownField,
        "resolution:",
        "resolutoin:",
    ),
    (
        "ServiceEntry",
        Code::InvalidAddress,
        "address: 192.0.2.7",
        "address: nowhere",
    ),
    (
        "ServiceEntry",
        Code::PortConflict,
        "[{number: 80,",
        "[{number: 80, name: other}, {number: 80,",
    ),
    (
        "PeerAuthentication",
        Code::InvalidValue,
        "PERMISSIVE",
        "PERMISIVE",
    ),
    (
        "PeerAuthentication",
        Code::InvalidPort,
        "mtls:",
        "portLevelMtls: {\"0\": {mode: STRICT}}\n  mtls:",
    ),
    (
        "AuthorizationPolicy",
        Code::UnknownField,
        "methods:",
        "method:",
    ),
    (
        "AuthorizationPolicy",
        Code::InvalidValue,
        "[GET]",
        "[\"GE T\"]",
    ),
    (
        "AuthorizationPolicy",
        Code::NotSupportedYet,
        "action: ALLOW",
        "action: CUSTOM",
    ),
];

/// The resources as files, the one of `kind` about `a` replaced or left out.
fn files(kind: &str, instead: Option<&str>) -> Vec<(String, String)> {
    let mut files = vec![("mesh.yaml".to_owned(), MESH.to_owned())];
    for (other, text) in about("b") {
        files.push((format!("b-{other}.yaml"), text));
    }
    for (other, text) in about("a") {
        let text = if other == kind {
            instead.map(str::to_owned)
        } else {
            Some(text)
        };
        files.extend(text.map(|text| (format!("a-{other}.yaml"), text)));
    }
    files
}

fn change(files: Vec<(String, String)>) -> Change {
    Change::Listing {
        source: "config".into(),
        files,
        problems: Vec::new(),
    }
}

/// What the sidecars of both services would run, and a client beside them.
fn run(store: &Store) -> [Snapshot; 2] {
    let (ranges, now) = (Ranges::default(), Instant::now());
    let (mut allocator, mut registry) = (Allocator::default(), Registry::default());
    let members: Vec<_> = ["a", "b"]
        .into_iter()
        .map(|service| {
            let request = serde_json::json!({
                "service": service, "ready": true, "labels": {"version": "v1", "app": service},
                "ports": [{"name": "http", "port": 80, "target_port": 8080}],
            });
            let request = serde_json::from_value(request).unwrap();
            let joined = registry.register(request, &mut allocator, &ranges, now);
            joined.unwrap().member
        })
        .collect();
    let workloads = registry.workloads(now);
    let mut vips = |host: &str| {
        ranges
            .vips(allocator.index(Pool::Vip, host, &ranges).unwrap().0)
            .to_vec()
    };
    let mesh = Mesh::new(
        1,
        Settings::default(),
        &store.configuration(),
        &members,
        &mut vips,
    );
    let run = |which: usize| {
        let client = Client {
            namespace: "default".to_owned(),
            labels: members[which].labels.clone(),
            service_account: members[which].service_account.to_string(),
            member: Some(members[which].clone()),
            ..Client::default()
        };
        compile(&View {
            mesh: &mesh,
            workloads: &workloads,
            client: &client,
            scope: &Scope::All,
        })
    };
    [run(0), run(1)]
}

/// What is about a service: its routes and clusters as anybody sees them, and the listeners that take its traffic.
fn of(snapshot: &Snapshot, service: &str) -> String {
    let host = format!("{service}.default.svc.cluster.local");
    let outside = format!("{service}.example.com");
    let named = |name: &str| name.contains(&host) || name.contains(&outside);
    let mut text = String::new();
    for (_, table) in snapshot.routes.iter().filter(|(name, _)| named(name)) {
        let domains = table.hosts.iter().filter(|known| named(&known.name));
        domains.for_each(|known| text.push_str(&format!("{known:#?}\n")));
    }
    for (_, cluster) in snapshot.clusters.iter().filter(|(name, _)| named(name)) {
        text.push_str(&format!("{cluster:#?}\n"));
    }
    text
}

fn inbound(snapshot: &Snapshot) -> String {
    let listeners = snapshot.listeners.iter();
    let own = listeners.filter(|(name, _)| name.starts_with("inbound|"));
    own.map(|(_, listener)| format!("{listener:#?}\n"))
        .collect()
}

#[test]
fn one_bad_resource_among_many() {
    for (kind, code, from, to) in FAULTS {
        let what = format!("{kind} with {}", code.as_str());
        let [(_, good)] = about("a")
            .into_iter()
            .filter(|(k, _)| k == kind)
            .collect::<Vec<_>>()[..]
            .to_vec()
            .try_into()
            .unwrap();
        assert!(good.contains(from), "{what}: `{from}`");
        let deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
        let bad = good.replacen(from, &to.replace("DEEP", &deep), 1);
        let said = analyze(&files(kind, Some(&bad))).diagnostics;
        assert!(
            said.iter().any(|d| d.code == *code && d.is_error()),
            "{what}: {said:#?}"
        );

        // It was good before: nothing at all changes.
        let mut store = Store::default();
        store.change(change(files(kind, Some(&good))));
        let before = run(&store);
        store.change(change(files(kind, Some(&bad))));
        assert_eq!(run(&store), before, "{what}");
        let standing = store.resources();
        let lost = standing.iter().filter(|r| !r.accepted);
        let lost: Vec<_> = lost.map(|r| (r.resource.as_str(), r.last_good)).collect();
        assert_eq!(
            lost,
            [(format!("{kind}/default/a").as_str(), true)],
            "{what}"
        );

        // It never was: the other service does not notice.
        let mut without = Store::default();
        without.change(change(files(kind, None)));
        let mut store = Store::default();
        store.change(change(files(kind, Some(&bad))));
        let (bare, closed) = (run(&without), run(&store));
        assert_eq!(of(&closed[1], "b"), of(&bare[1], "b"), "{what}");
        assert_eq!(inbound(&closed[1]), inbound(&bare[1]), "{what}");
        if *code == Code::Syntax || *code == Code::TooLarge {
            // Nobody can tell what it was about.
            continue;
        }
        let (calls, takes) = (of(&closed[1], "a"), inbound(&closed[0]));
        match *kind {
            "VirtualService" | "DestinationRule" => {
                let refusal = format!("{kind} default/a is not accepted");
                let body = format!("{:?}", refusal.as_bytes());
                let body: String = body.trim_matches(['[', ']']).split(", ").take(5).collect();
                let flat: String = calls
                    .split_whitespace()
                    .collect::<String>()
                    .replace(',', "");
                assert!(
                    calls.contains("\"not-accepted\"") && flat.contains(&body),
                    "{what}: {calls}"
                );
                assert!(!of(&bare[1], "a").contains("not-accepted"));
            }
            "ServiceEntry" => {
                assert!(
                    !calls.contains("a.example.com"),
                    "{what}: nothing behind it"
                );
                assert!(calls == of(&bare[1], "a"), "{what}");
            }
            "PeerAuthentication" => {
                assert!(
                    takes.contains("8080_mtls-http") && !takes.contains("8080_http\""),
                    "{what}: {takes}"
                );
            }
            "AuthorizationPolicy" => {
                assert!(takes.contains("action: Deny"), "{what}: {takes}");
            }
            other => panic!("{other}"),
        }
    }
}

/// A class of fault that keeps a resource out and is not in the table is one that nobody has tried.
#[test]
fn every_class_of_fault_is_tried() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/testdata/diagnostics");
    let mut classes: BTreeSet<Code> = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "yaml") {
            let text = std::fs::read_to_string(&path).unwrap();
            let said = analyze(&[("f", &text)]).diagnostics;
            classes.extend(said.iter().filter(|d| d.is_error()).map(|d| d.code));
        }
    }
    let tried: BTreeSet<Code> = FAULTS.iter().map(|(_, code, _, _)| *code).collect();
    let untried: Vec<&Code> = classes
        .iter()
        .filter(|code| !code.is_reference() && !tried.contains(code))
        .filter(|code| {
            // Not of one resource that is served: no kind, another resource's double, or only in a mesh file.
            !matches!(
                code,
                Code::UnknownKind
                    | Code::UnknownVersion
                    | Code::DuplicateResource
                    | Code::ProtocolConflict
                    | Code::CidrHostBits
            )
        })
        .collect();
    assert!(untried.is_empty(), "{untried:?}");
}
