//! The bootstraps of all cases, with their words replaced → one file for both programs.
//!
//! Two words keep a case short: `AT name` stands for the address of the listener or upstream of that name, and a
//! `"@type"` without a slash for the message of that name in [`MESSAGES`].

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::case::Case;

const MESSAGES: &[&str] = &[
    "envoy.extensions.filters.http.cors.v3.Cors",
    "envoy.extensions.filters.http.cors.v3.CorsPolicy",
    "envoy.extensions.filters.http.fault.v3.HTTPFault",
    "envoy.extensions.filters.http.rbac.v3.RBAC",
    "envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
    "envoy.extensions.filters.http.router.v3.Router",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig",
    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
];

/// The names that follow `AT`.
pub(crate) fn words(bootstrap: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    walk(&mut bootstrap.clone(), &mut |value| {
        if let Some(name) = value.as_str().and_then(|text| text.strip_prefix("AT ")) {
            found.insert(name.to_owned());
        }
    });
    found
}

/// Replaces the words.
pub(crate) fn fill(case: &str, bootstrap: &mut Value, port: &dyn Fn(&str) -> u16) {
    walk(bootstrap, &mut |value| {
        if let Some(name) = value.as_str().and_then(|text| text.strip_prefix("AT ")) {
            *value = json!({"socket_address": {"address": "127.0.0.1", "port_value": port(name)}});
        }
        if let Some(kind) = value.get_mut("@type")
            && let Some(short) = kind.as_str().filter(|kind| !kind.contains('/'))
        {
            let whole = MESSAGES
                .iter()
                .find(|whole| whole.rsplit('.').next() == Some(short));
            let whole = whole.unwrap_or_else(|| panic!("{case}: `{short}` is not in MESSAGES"));
            *kind = format!("type.googleapis.com/{whole}").into();
        }
    });
}

/// Leaves out what is at a JSON pointer.
pub(crate) fn cut(bootstrap: &mut Value, at: &str) {
    let (parent, key) = at.rsplit_once('/').expect("a pointer to something");
    let key = key.replace("~1", "/").replace("~0", "~");
    match bootstrap.pointer_mut(parent) {
        Some(Value::Object(fields)) => {
            fields.remove(&key);
        }
        Some(Value::Array(items)) => {
            let index: usize = key.parse().expect("an index");
            if index < items.len() {
                items.remove(index);
            }
        }
        _ => {}
    }
}

/// Gives the clusters names of their own, wherever they are named; the names as they were.
pub(crate) fn mark(bootstrap: &mut Value, mark: &str) -> Vec<String> {
    let names: Vec<String> = resources(bootstrap, "clusters")
        .iter()
        .filter_map(|cluster| Some(cluster["name"].as_str()?.to_owned()))
        .collect();
    walk(bootstrap, &mut |value| {
        if let Some(name) = value.as_str()
            && names.iter().any(|known| known == name)
        {
            *value = format!("{name}{mark}").into();
        }
    });
    names
}

/// The ports of the listeners.
pub(crate) fn listeners(bootstrap: &Value) -> BTreeSet<u16> {
    resources(bootstrap, "listeners")
        .iter()
        .filter_map(|listener| {
            listener
                .pointer("/address/socket_address/port_value")?
                .as_u64()
        })
        .map(|port| u16::try_from(port).expect("a port"))
        .collect()
}

/// One bootstrap of all cases' resources.
pub(crate) fn join(cases: &[&Case], admin: SocketAddr) -> String {
    let mut names = BTreeSet::new();
    let mut listeners = Vec::new();
    let mut clusters = Vec::new();
    for &case in cases {
        let keys: Vec<&String> = case
            .bootstrap
            .as_object()
            .expect("a mapping")
            .keys()
            .collect();
        assert_eq!(
            keys,
            ["static_resources"],
            "{}: only these are joined",
            case.name
        );
        listeners.extend_from_slice(resources(&case.bootstrap, "listeners"));
        for cluster in resources(&case.bootstrap, "clusters") {
            let name = cluster["name"].as_str().expect("a cluster has a name");
            assert!(
                names.insert(name.to_owned()),
                "{}: another case has a cluster `{name}`",
                case.name
            );
            clusters.push(cluster.clone());
        }
    }
    let joined = json!({
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin.port()}}},
        "node": {"id": "oracle", "cluster": "oracle"},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    });
    serde_json::to_string_pretty(&joined).expect("JSON of JSON")
}

fn resources<'a>(bootstrap: &'a Value, kind: &str) -> &'a [Value] {
    bootstrap["static_resources"][kind]
        .as_array()
        .map_or(&[], Vec::as_slice)
}

fn walk(value: &mut Value, visit: &mut dyn FnMut(&mut Value)) {
    visit(value);
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| walk(item, visit)),
        Value::Object(fields) => fields.values_mut().for_each(|field| walk(field, visit)),
        _ => {}
    }
}
