//! What `encode` writes is what a real Envoy accepts, from a file and over ADS.

mod ads;
mod models;

use std::process::Command;
use std::sync::Arc;

use models::{clusters, listeners};
use ripstop_model::discovery::Resource as Discovered;
use ripstop_model::snapshot::Listener;
use ripstop_model::snapshot::listener::Terminal;
use ripstop_wire::descriptor::Descriptors;
use ripstop_wire::dump;

fn bootstrap() -> serde_json::Value {
    let descriptors = Descriptors::load().unwrap();
    let json = |resource| {
        let mut value = dump::json(&descriptors, &resource).unwrap();
        value.as_object_mut().unwrap().remove("@type");
        value
    };
    let grpc = |name: &str| {
        serde_json::json!({
            "name": name, "connect_timeout": "1s",
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": {"http2_protocol_options": {}},
                },
            },
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint":
                {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}}}}]}]},
        })
    };
    let mut all = vec![grpc("sds-grpc"), grpc("xds-grpc")];
    all.extend(
        clusters()
            .into_iter()
            .map(|c| json(Discovered::Cluster(Arc::new(c)))),
    );
    let listeners: Vec<_> = listeners()
        .into_iter()
        .map(|l| json(Discovered::Listener(Arc::new(l))))
        .collect();
    serde_json::json!({
        "node": {"id": "test", "cluster": "test"},
        "static_resources": {"clusters": all, "listeners": listeners},
        "dynamic_resources": {"ads_config": {
            "api_type": "DELTA_GRPC", "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
        }},
    })
}

#[test]
fn a_stock_envoy_accepts_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bootstrap.json");
    let text = serde_json::to_string_pretty(&bootstrap()).unwrap();
    std::fs::write(&file, &text).unwrap();
    let output = Command::new(ripstop_testkit::envoy::binary())
        .args(["--mode", "validate", "--log-level", "error", "-c"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // Envoy repeats the whole file in one line of its complaint.
    let said: String = said.chars().take(2000).collect();
    assert!(output.status.success(), "{said}");
    // And the reader of files reads it back whole: the same resources. Only a collector it does not take from a file.
    let problems = ripstop_wire::bootstrap::parse(&text).unwrap_err();
    let mut paths = problems.0.iter().map(|problem| &problem.path);
    assert!(
        paths.all(|path| path.ends_with(".tracing.provider")),
        "{problems}"
    );
    let mut file = bootstrap();
    without_collectors(&mut file);
    let read = ripstop_wire::bootstrap::parse(&file.to_string())
        .unwrap_or_else(|problems| panic!("{problems}"));
    let read: Vec<&Listener> = read.listeners.iter().map(|l| &**l).collect();
    let mut written = listeners();
    for listener in &mut written {
        for chain in listener
            .chains
            .iter_mut()
            .chain(&mut listener.default_chain)
        {
            if let Terminal::Http(proxy) = &mut Arc::make_mut(chain).terminal
                && let Some(tracing) = &mut Arc::make_mut(proxy).tracing
            {
                tracing.cluster = None;
                tracing.service_name = String::new();
            }
        }
    }
    assert_eq!(read, written.iter().collect::<Vec<_>>());
}

fn without_collectors(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(fields) => {
            if let Some(tracing) = fields.get_mut("tracing").and_then(|v| v.as_object_mut()) {
                tracing.remove("provider");
            }
            fields.values_mut().for_each(without_collectors);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(without_collectors),
        _ => {}
    }
}
