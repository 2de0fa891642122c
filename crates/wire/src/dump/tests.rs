use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use ripstop_model::snapshot::tls::{Pem, Secret, SecretBody};

use super::*;
use crate::bootstrap;

#[test]
fn timestamps() {
    let at = |seconds: u64| timestamp(UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 5));
    assert_eq!(at(0), "1970-01-01T00:00:00.005Z");
    assert_eq!(at(951_782_400), "2000-02-29T00:00:00.005Z");
    assert_eq!(at(1_795_000_000), "2026-11-18T11:06:40.005Z");
}

#[test]
fn a_dump_shows_what_is_held_and_no_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/bootstrap/front.yaml");
    let loaded = bootstrap::load(&path).unwrap();
    let fixed = |resource| Held {
        resource,
        version: String::new(),
        is_static: true,
        updated: UNIX_EPOCH,
    };
    let held = [
        fixed(Resource::Listener(loaded.listeners[0].clone())),
        fixed(Resource::Cluster(loaded.clusters[0].clone())),
        Held {
            version: "v7".into(),
            is_static: false,
            ..fixed(Resource::Cluster(loaded.clusters[1].clone()))
        },
        Held {
            is_static: false,
            ..fixed(Resource::Secret(Arc::new(Secret {
                name: "default".into(),
                body: SecretBody::Certificate {
                    chain: Pem::Inline(b"chain".to_vec()),
                    key: Pem::Inline(b"hidden".to_vec()),
                },
            })))
        },
    ];
    let dump = config_dump(&loaded.node, &held).unwrap();
    let text = serde_json::to_string_pretty(&dump).unwrap();
    assert!(
        text.contains("[redacted]") && !text.contains("aGlkZGVu"),
        "{text}"
    );
    let section = |name: &str| {
        let kind = format!("type.googleapis.com/envoy.admin.v3.{name}");
        dump["configs"]
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["@type"] == kind)
            .unwrap()
            .clone()
    };
    let clusters = section("ClustersConfigDump");
    assert_eq!(clusters["static_clusters"][0]["cluster"]["name"], "one");
    assert_eq!(
        clusters["static_clusters"][0]["cluster"]["connect_timeout"],
        "0.250s"
    );
    assert_eq!(clusters["dynamic_active_clusters"][0]["version_info"], "v7");
    let listeners = section("ListenersConfigDump");
    let filter = &listeners["static_listeners"][0]["listener"]["filter_chains"][0]["filters"][0];
    assert_eq!(
        filter["typed_config"]["codec_type"],
        Value::Null,
        "AUTO is the default"
    );
    assert_eq!(filter["typed_config"]["stat_prefix"], "ingress");
    assert!(config_dump(&loaded.node, &[]).is_ok());
}
