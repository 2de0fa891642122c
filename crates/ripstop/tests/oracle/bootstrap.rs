//! The bootstraps of all cases, with their words replaced → one file for both programs.
//!
//! Words keep a case short: `AT name` stands for the address of the listener or upstream of that name, `NAMED name` for
//! the same with `localhost` in place of the address, `PORT name` for its port, `PIPE name` for the path of a Unix socket
//! in front of it, and a `"@type"` without a slash for the message of that name in [`MESSAGES`].

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::case::Case;
use super::pki::Pki;

const MESSAGES: &[&str] = &[
    "envoy.extensions.filters.http.cors.v3.Cors",
    "envoy.extensions.filters.http.cors.v3.CorsPolicy",
    "envoy.extensions.filters.http.fault.v3.HTTPFault",
    "envoy.extensions.filters.http.rbac.v3.RBAC",
    "envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
    "envoy.extensions.filters.http.router.v3.Router",
    "envoy.extensions.filters.network.rbac.v3.RBAC",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "envoy.extensions.access_loggers.file.v3.FileAccessLog",
    "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
    "envoy.extensions.clusters.dns.v3.DnsCluster",
    "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
    "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
    "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
    "envoy.extensions.load_balancing_policies.maglev.v3.Maglev",
    "envoy.extensions.load_balancing_policies.random.v3.Random",
    "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash",
    "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
    "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
    "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
    "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
    "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
    "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
    "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig",
    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
];

/// The cluster that both programs are members of.
const LOCAL: &str = "zone-local";

const PIPE: &str = "PIPE ";

/// The names that follow `PIPE`.
pub(crate) fn pipes(bootstrap: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    walk(&mut bootstrap.clone(), &mut |value| {
        let name = value.as_str().and_then(|text| text.strip_prefix(PIPE));
        found.extend(name.map(str::to_owned));
    });
    found
}

/// The Unix socket in front of the upstream on this port.
pub(crate) fn pipe(port: u16) -> PathBuf {
    std::env::temp_dir().join(format!("oracle-{port}.sock"))
}

/// The names that follow `AT`.
pub(crate) fn words(bootstrap: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    walk(&mut bootstrap.clone(), &mut |value| {
        for word in ["AT ", "NAMED ", "PORT ", PIPE] {
            if let Some(name) = value.as_str().and_then(|text| text.strip_prefix(word)) {
                found.insert(name.to_owned());
            }
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
        if let Some(name) = value.as_str().and_then(|text| text.strip_prefix("NAMED ")) {
            *value = json!({"socket_address": {"address": "localhost", "port_value": port(name)}});
        }
        if let Some(name) = value.as_str().and_then(|text| text.strip_prefix("PORT ")) {
            *value = port(name).into();
        }
        if let Some(name) = value.as_str().and_then(|text| text.strip_prefix(PIPE)) {
            *value = pipe(port(name)).to_string_lossy().into();
        }
        if let Some(text) = value.as_str().and_then(|word| Pki::shared().text(word)) {
            let pem = value.as_str().is_some_and(|word| word.starts_with("PEM "));
            *value = match pem {
                true => json!({"inline_string": text}),
                false => text.into(),
            };
        }
        if let Some(kind) = value.get_mut("@type")
            && let Some(short) = kind.as_str().filter(|kind| !kind.contains('/'))
        {
            let whole = MESSAGES
                .iter()
                .find(|whole| whole.ends_with(&format!(".{short}")));
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
    ports(bootstrap, |_| true)
}

/// The ports of the listeners that accept connections of their own.
pub(crate) fn bound(bootstrap: &Value) -> BTreeSet<u16> {
    ports(bootstrap, |listener| {
        let bind = ["/bind_to_port", "/deprecated_v1/bind_to_port"];
        !bind
            .iter()
            .any(|at| listener.pointer(at) == Some(&Value::Bool(false)))
    })
}

fn ports(bootstrap: &Value, which: fn(&Value) -> bool) -> BTreeSet<u16> {
    resources(bootstrap, "listeners")
        .iter()
        .filter(|listener| which(listener))
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
    let mut secrets: Vec<Value> = Vec::new();
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
        for secret in resources(&case.bootstrap, "secrets") {
            if !secrets.contains(secret) {
                secrets.push(secret.clone());
            }
        }
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
    // The one that the case `zones` has: where it is not played, localities are not minded.
    let local = match names.contains(LOCAL) {
        true => json!({"local_cluster_name": LOCAL}),
        false => json!({}),
    };
    let joined = json!({
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin.port()}}},
        "node": {"id": "oracle", "cluster": "oracle", "locality": {"zone": "here"}},
        "cluster_manager": local,
        "static_resources": {"listeners": listeners, "clusters": clusters, "secrets": secrets},
    });
    serde_json::to_string(&joined).expect("JSON of JSON")
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
