use std::time::Duration;

use ripstop_model::snapshot::Fraction;
use ripstop_model::snapshot::cluster::{Discovery, Http2, LbPolicy, Protocol};
use ripstop_model::snapshot::http::{HttpFilter, RouteSource};
use ripstop_model::snapshot::listener::Terminal;
use ripstop_model::snapshot::route::{Action, Split};
use ripstop_model::snapshot::tls::Roots;

use super::*;

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/bootstrap")
        .join(name)
}

#[test]
fn a_front_proxy() {
    let bootstrap = load(&testdata("front.yaml")).unwrap();
    assert_eq!(bootstrap.node.id, "front");
    assert_eq!(bootstrap.admin, Some("127.0.0.1:9901".parse().unwrap()));
    let Terminal::Http(http) = &bootstrap.listeners[0].chains[0].terminal else {
        panic!("no HTTP");
    };
    assert_eq!(http.timeouts.idle, None);
    assert!(http.path.normalize);
    assert!(matches!(
        http.filters[..],
        [HttpFilter::Fault(_), HttpFilter::Router(_)]
    ));
    let RouteSource::Inline(routes) = &http.routes else {
        panic!("no inline routes");
    };
    let routes = &routes.hosts[0].routes;
    assert_eq!(routes[0].matches.headers[0].name, "x-color");
    let Action::Forward(forward) = &routes[0].action else {
        panic!("no forward");
    };
    assert_eq!(forward.timeout, Some(Duration::from_millis(2500)));
    assert!(matches!(&forward.to, Split::Weighted { total: 100, shares } if shares.len() == 2));
    assert_eq!(forward.retry.as_ref().unwrap().retries, 3);
    let Action::Redirect(redirect) = &routes[1].action else {
        panic!("no redirect");
    };
    assert_eq!(redirect.status, 302);
    let fault = routes[3].per_filter.fault.as_ref().unwrap();
    assert_eq!(fault.abort.unwrap().0, Fraction::percent(25.0));
    let [one, two] = &bootstrap.clusters[..] else {
        panic!("two clusters");
    };
    assert!(matches!(one.discovery, Discovery::StrictDns(_)));
    assert_eq!(one.lb, LbPolicy::LeastRequest { choices: 2 });
    assert!(matches!(
        two.protocol,
        Protocol::Http2(Http2 {
            max_concurrent_streams: 1024,
            ..
        })
    ));
    assert_eq!(two.breakers.default.max_connections, 5);
    assert_eq!(two.breakers.default.max_pending, 1024);
    assert_eq!(two.outlier.as_ref().unwrap().consecutive_5xx, Some(7));
    assert_eq!(two.outlier.as_ref().unwrap().consecutive_gateway, None);
}

#[test]
fn a_sidecar_in_json() {
    let bootstrap = load(&testdata("sidecar.json")).unwrap();
    let ads = bootstrap.ads.unwrap();
    assert_eq!(&*ads.cluster, "xds");
    assert!(ads.delta && ads.node_on_first_message_only && bootstrap.lds && bootstrap.cds);
    assert_eq!(bootstrap.node.metadata["PORT"], 8080);
    let tls = bootstrap.clusters[0].transport.default.as_ref().unwrap();
    assert_eq!(tls.validation.roots, Roots::Secret("ROOTCA".into()));
    assert_eq!(tls.sni.as_deref(), Some("control"));
    assert_eq!(bootstrap.secrets.len(), 1);
}

/// Every problem at once, in the order of the text, each with its place.
#[test]
fn problems_are_located() {
    let text = r#"
node: {id: x}
static_resources:
  listeners:
  - name: a
    address: {socket_address: {address: localhost, port_value: 99999}}
    filter_chains:
    - filters:
      - name: lua
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo
  clusters:
  - name: c
    connect_timout: 1s
    type: STATICC
    preconnect_policy: {}
  - name: c
    connect_timeout: 5
    typed_extension_protocol_options:
      x: {"@type": type.googleapis.com/no.such.Type}
"#;
    let problems = parse(text).unwrap_err();
    let shown: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "line 6, column 52: static_resources.listeners[0].address.socket_address.port_value: 99999 is not a port (0 to 65535)",
            "line 10, column 9: static_resources.listeners[0].filter_chains[0].filters[0].typed_config: filter type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo is not supported, and leaving it out could weaken security; remove it",
            "line 14, column 5: static_resources.clusters[0]: unknown field `connect_timout` of envoy.config.cluster.v3.Cluster; did you mean `connect_timeout`?",
            "line 15, column 11: static_resources.clusters[0].type: expected one of STATIC, STRICT_DNS, LOGICAL_DNS, EDS, ORIGINAL_DST, found the text `STATICC`",
            "line 16, column 5: static_resources.clusters[0].preconnect_policy: is not supported; remove it",
            "line 17, column 5: static_resources.clusters[1].name: `c` is taken by an earlier one",
            "line 18, column 22: static_resources.clusters[1].connect_timeout: expected a duration such as 5s or 0.25s, found the number `5`",
            "line 20, column 20: static_resources.clusters[1].typed_extension_protocol_options[x]: `no.such.Type` is not a type of Envoy's v3 API",
        ]
    );
}

/// A file is wrong either way; what comes from discovery is only warned of where the filter may be left out.
#[test]
fn an_optional_filter_that_is_unknown_weakens_nothing() {
    for (optional, want) in [("false", true), ("true", false)] {
        let text = format!(
            r#"
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          route_config: {{}}
          http_filters:
          - name: buffer
            is_optional: {optional}
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer}}
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"#
        );
        let problems = parse(&text).unwrap_err();
        let [problem] = problems.0.as_slice() else {
            panic!("{problems:?}");
        };
        let shown = problem.to_string();
        assert!(
            shown.contains("http_filters[0].typed_config: filter"),
            "{shown}"
        );
        assert_eq!(shown.contains("could weaken security"), want, "{shown}");
    }
}

#[test]
fn broken_text_is_an_error_with_a_place() {
    for (text, want) in [
        ("", "empty"),
        ("a: [", "line"),
        ("[]", "expected the fields of Bootstrap"),
        ("node: {}\n---\nnode: {}", "one document"),
        ("dynamic_resources: {lds_config: {ads: {}}}", "ads_config"),
    ] {
        let problems = parse(text).unwrap_err().to_string();
        assert!(problems.contains(want), "{text:?}: {problems}");
    }
}

#[test]
fn of_what_may_be_too_much_connections_are_counted() {
    let monitored = |name: &str, message: &str| {
        let url = format!("type.googleapis.com/envoy.extensions.resource_monitors.{message}");
        parse(&format!(
            "overload_manager: {{resource_monitors: [{{name: {name}, typed_config: {{\"@type\": {url}}}}}]}}"
        ))
    };
    const CONNECTIONS: &str = "downstream_connections.v3.DownstreamConnectionsConfig";
    let limited = format!("{CONNECTIONS}, max_active_downstream_connections: 7");
    assert_eq!(
        monitored("limit", &limited).unwrap().max_connections,
        Some(7)
    );
    for (message, want) in [
        (
            CONNECTIONS,
            "max_active_downstream_connections: must be above 0",
        ),
        ("fixed_heap.v3.FixedHeapConfig", "is not supported"),
    ] {
        let problems = monitored("other", message).unwrap_err().to_string();
        assert!(problems.contains(want), "{problems}");
    }
    let actions = "overload_manager: {actions: [{name: envoy.overload_actions.shrink_heap}]}";
    let problems = parse(actions).unwrap_err().to_string();
    assert!(problems.contains("overload_manager.actions"), "{problems}");
}
