//! R3.3: whatever a valid configuration compiles to, the proxy's own decoder takes without complaint, and gets what was meant.

use std::time::Instant;

use proptest::prelude::*;
use ripstop_control::address::{Allocator, Pool, Ranges};
use ripstop_control::compile::compile;
use ripstop_control::registry::Registry;
use ripstop_control::settings::Settings;
use ripstop_control::source::Change;
use ripstop_control::store::Store;
use ripstop_control::view::{Client, Mesh, Scope, View};
use ripstop_model::discovery::Resource;
use ripstop_model::intent::mesh::Defaults;

const SERVICES: &str = "apiVersion: ripstop.dev/v1alpha1
kind: Mesh
metadata: {name: m}
spec:
  services:
  - {name: a, ports: [{name: http, port: 80, targetPort: 8080}, {name: grpc, port: 90}, {port: 91}], workloads: [{command: [x]}]}
  - {name: b, ports: [{name: tcp, port: 70}, {name: tls, port: 443}], workloads: [{command: [x]}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: out}
spec: {hosts: [out.example], ports: [{number: 443, name: https}, {number: 80, name: http}], resolution: DNS}
";

fn string_match() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z/*%.]{1,8}".prop_map(|text| format!("{{exact: \"/{text}\"}}")),
        "[a-zA-Z/]{1,8}".prop_map(|text| format!("{{prefix: \"/{text}\"}}")),
        "[a-z]{1,4}".prop_map(|text| format!("{{regex: \"/({text}|[0-9]+)?.*\"}}")),
    ]
}

fn http_route() -> impl Strategy<Value = String> {
    let matches = prop::collection::vec(
        (
            string_match(),
            prop::option::of("[a-z-]{1,6}"),
            any::<bool>(),
        )
            .prop_map(|(uri, header, fold)| {
                let headers = header.map(|name| {
                    format!(
                        ", headers: {{x{name}: {{}}}}, withoutHeaders: {{y{name}: {{exact: z}}}}"
                    )
                });
                format!(
                    "{{uri: {uri}, ignoreUriCase: {fold}{}}}",
                    headers.unwrap_or_default()
                )
            }),
        0..3,
    );
    let action = prop_oneof![
        (0u32..100, 1u32..100, any::<bool>()).prop_map(|(one, two, edit)| {
            let headers = if edit { ", headers: {request: {set: {x-a: \"%START_TIME%\", host: h.example}, remove: [x-b]}, response: {add: {x-c: d}}}" } else { "" };
            format!("route: [{{destination: {{host: a, port: {{number: 80}}}}, weight: {one}{headers}}}, {{destination: {{host: a, subset: v1, port: {{number: 80}}}}, weight: {two}}}]")
        }),
        Just("route: [{destination: {host: out.example, port: {number: 80}}}]".to_owned()),
        prop::sample::select(vec![301, 302, 303, 307, 308]).prop_map(|code| format!("redirect: {{authority: o.example, redirectCode: {code}, uri: /n, derivePort: FROM_REQUEST_PORT}}")),
        (200u16..600).prop_map(|status| format!("directResponse: {{status: {status}, body: {{string: hi}}}}")),
    ];
    let extras = (
        prop::option::of(0u64..100),
        prop::option::of((
            0i32..5,
            prop::option::of(1u64..9),
            prop::sample::subsequence(
                vec![
                    "5xx",
                    "gateway-error",
                    "reset",
                    "connect-failure",
                    "retriable-4xx",
                    "503",
                    "unavailable",
                ],
                0..4,
            ),
        )),
        prop::option::of(0.0f64..100.0),
        any::<bool>(),
    );
    (matches, action, extras).prop_map(|(matches, action, (timeout, retry, fault, cors))| {
        let mut route = format!("{{{action}");
        if !matches.is_empty() {
            route.push_str(&format!(", match: [{}]", matches.join(", ")));
        }
        if action.starts_with("route") {
            if let Some(timeout) = timeout {
                route.push_str(&format!(", timeout: {timeout}s"));
            }
            if let Some((attempts, per_try, on)) = retry {
                let per_try = per_try.map(|s| format!(", perTryTimeout: {s}s")).unwrap_or_default();
                route.push_str(&format!(", retries: {{attempts: {attempts}{per_try}, retryOn: \"{}\"}}", on.join(",")));
            }
        }
        if let Some(percent) = fault {
            route.push_str(&format!(", fault: {{abort: {{httpStatus: 503, percentage: {{value: {percent}}}}}, delay: {{fixedDelay: 1s, percentage: {{value: {percent}}}}}}}"));
        }
        if cors {
            route.push_str(", corsPolicy: {allowOrigins: [{prefix: http}], allowMethods: [GET], maxAge: 5s}");
        }
        route.push('}');
        route
    })
}

fn destination_rule() -> impl Strategy<Value = String> {
    let number = || prop::option::of(0i32..50);
    (number(), number(), prop::option::of(0u32..9), prop::option::of(0i32..100), prop::sample::select(vec!["ROUND_ROBIN", "RANDOM", "LEAST_REQUEST", "PASSTHROUGH"]), prop::sample::select(vec!["", "DISABLE", "ISTIO_MUTUAL", "SIMPLE"]))
        .prop_map(|(connections, pending, errors, percent, lb, tls)| {
            let mut spec = format!("host: a, subsets: [{{name: v1, labels: {{version: v1}}}}], trafficPolicy: {{loadBalancer: {{simple: {lb}}}");
            if let (Some(connections), Some(pending)) = (connections, pending) {
                spec.push_str(&format!(", connectionPool: {{tcp: {{maxConnections: {connections}}}, http: {{http1MaxPendingRequests: {pending}, useClientProtocol: true}}}}"));
            }
            if let (Some(errors), Some(percent)) = (errors, percent) {
                spec.push_str(&format!(", outlierDetection: {{consecutive5xxErrors: {errors}, maxEjectionPercent: {percent}, minHealthPercent: {percent}}}"));
            }
            if !tls.is_empty() {
                spec.push_str(&format!(", tls: {{mode: {tls}}}"));
            }
            spec.push('}');
            spec
        })
}

fn policy() -> impl Strategy<Value = String> {
    let pattern = prop_oneof![
        Just("*".to_owned()),
        "[a-z./]{1,6}",
        "[a-z/]{1,6}\\*",
        "\\*[a-z/]{1,6}"
    ];
    let list = prop::collection::vec(pattern.prop_map(|p| format!("\"{p}\"")), 1..3)
        .prop_map(|list| list.join(", "));
    (any::<bool>(), list.clone(), list.clone(), list, prop::option::of(1u16..9999)).prop_map(|(deny, principals, paths, hosts, port)| {
        let action = if deny { "DENY" } else { "ALLOW" };
        let port = port.map(|port| format!(", ports: [\"{port}\", \"8080\"]")).unwrap_or_default();
        format!("action: {action}, rules: [{{from: [{{source: {{principals: [{principals}], notNamespaces: [{hosts}], ipBlocks: [10.88.0.0/16, 127.0.0.0/8], notIpBlocks: [192.0.2.1, \"fd72:6970:7374::5\"]}}}}], to: [{{operation: {{paths: [{paths}], notHosts: [{hosts}], methods: [GET]{port}}}}}]}}]")
    })
}

fn sidecar() -> impl Strategy<Value = Option<String>> {
    let host = prop::sample::select(vec![
        "./*",
        "*/*",
        "*/out.example",
        "./a.default.svc.cluster.local",
        "~./b.default.svc.cluster.local",
        "~/*",
    ]);
    let hosts = prop::collection::vec(host, 1..3);
    let mode = prop::sample::select(vec!["ALLOW_ANY", "REGISTRY_ONLY"]);
    let pool = prop::option::of(1i32..9);
    prop::option::of((hosts, prop::option::of(Just(80)), pool, mode).prop_map(|(hosts, port, pool, mode)| {
        let port = port.map(|port| format!(", port: {{number: {port}}}")).unwrap_or_default();
        let pool = pool.map(|most| format!(", inboundConnectionPool: {{tcp: {{maxConnections: {most}, idleTimeout: 9s}}}}")).unwrap_or_default();
        format!("egress: [{{hosts: [\"{}\"]{port}}}], outboundTrafficPolicy: {{mode: {mode}}}{pool}", hosts.join("\", \""))
    }))
}

fn configuration() -> impl Strategy<Value = String> {
    let routes = prop::collection::vec(http_route(), 0..4);
    let mode = prop::sample::select(vec!["STRICT", "PERMISSIVE", "DISABLE"]);
    (routes, destination_rule(), policy(), mode, sidecar()).prop_map(|(routes, rule, policy, mode, scope)| {
        let mut text = SERVICES.to_owned();
        let mut add = |kind: &str, group: &str, spec: &str| {
            text.push_str(&format!("---\napiVersion: {group}.istio.io/v1\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{{spec}}}\n"));
        };
        if !routes.is_empty() {
            add("VirtualService", "networking", &format!("hosts: [a, unknown.example, \"*.wild.example\"], http: [{}]", routes.join(", ")));
        }
        if let Some(scope) = scope {
            add("Sidecar", "networking", &scope);
        }
        add("DestinationRule", "networking", &rule);
        add("AuthorizationPolicy", "security", &policy);
        add("PeerAuthentication", "security", &format!("mtls: {{mode: {mode}}}"));
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_compile_emits_the_wire_takes(text in configuration(), istio: bool, stock: bool) {
        let (ranges, now) = (Ranges::default(), Instant::now());
        let mut store = Store::default();
        store.change(Change::Listing {
            source: "in".into(),
            files: vec![("in.yaml".to_owned(), text.clone())],
            problems: Vec::new(),
        });
        let (mut allocator, mut registry) = (Allocator::default(), Registry::default());
        let request = serde_json::json!({
            "service": "a", "ready": true, "labels": {"version": "v1"},
            "ports": [{"name": "http", "port": 80, "target_port": 8080}, {"name": "grpc", "port": 90}, {"port": 91}],
        });
        let joined = registry.register(serde_json::from_value(request).unwrap(), &mut allocator, &ranges, now).unwrap();
        let workloads = registry.workloads(now);
        let settings = Settings {
            defaults: if istio { Defaults::Istio } else { Defaults::Ripstop },
            ..Settings::default()
        };
        let mut vips = |host: &str| ranges.vips(allocator.index(Pool::Vip, host, &ranges).unwrap().0).to_vec();
        let mesh = Mesh::new(1, settings, &store.configuration(), std::slice::from_ref(&joined.member), &mut vips);
        let client = Client {
            namespace: "default".to_owned(),
            labels: joined.member.labels.clone(),
            service_account: "a".to_owned(),
            member: Some(joined.member.clone()),
            host: String::new(),
            stock,
            captured: true,
        };
        let view = |scope| View { mesh: &mesh, workloads: &workloads, client: &client, scope };
        let mut snapshot = compile(&view(&Scope::All));
        // Of a sidecar's inbound side too, which a stock Envoy gets as one listener.
        let names = joined.member.inbound().into_iter().map(|inbound| inbound.listener.into()).collect();
        let inbound = Scope::Named(ripstop_control::view::Wanted { listeners: names, ..Default::default() });
        snapshot.listeners.extend(compile(&view(&inbound)).listeners);
        let resources = snapshot.clusters.values().cloned().map(Resource::Cluster)
            .chain(snapshot.endpoints.values().cloned().map(Resource::Endpoints))
            .chain(snapshot.listeners.values().cloned().map(Resource::Listener))
            .chain(snapshot.routes.values().cloned().map(Resource::Route));
        for resource in resources {
            let encoded = ripstop_wire::resource::encode(&resource);
            match ripstop_wire::resource::decode(resource.kind(), &encoded.name, &encoded.bytes) {
                Err(rejection) => prop_assert!(false, "{rejection}\n{text}"),
                Ok(decoded) => {
                    prop_assert!(decoded.warnings.is_empty(), "{:?}\n{text}", decoded.warnings);
                    let (was, is) = (format!("{resource:#?}"), format!("{:#?}", decoded.resource));
                    let lines: Vec<_> = was.lines().zip(is.lines()).filter(|(a, b)| a != b).take(3).collect();
                    prop_assert!(decoded.resource == resource, "{} does not travel: {lines:#?}\n{text}", encoded.name);
                }
            }
        }
    }
}
