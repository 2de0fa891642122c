//! A stock Envoy takes its certificate and roots from the agent's socket, waits for them, and takes the renewed one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use ripstop_model::snapshot::Name;
use ripstop_model::snapshot::tls::{Pem, Roots, Secret, SecretBody, Validation};
use ripstop_testkit::envoy::Envoy;
use ripstop_testkit::{http, port, wait};
use ripstop_wire::sds;
use tokio::sync::{oneshot, watch};

fn certificate(serial: &str) -> (String, String) {
    let signed = rcgen::generate_simple_self_signed(vec![format!("{serial}.example")]).unwrap();
    (signed.cert.pem(), signed.signing_key.serialize_pem())
}

fn secrets(serial: &str) -> Arc<BTreeMap<Name, Arc<Secret>>> {
    let (chain, key) = certificate(serial);
    let pem = |text: String| Pem::Inline(text.into_bytes());
    let all = [
        Secret {
            name: "default".into(),
            body: SecretBody::Certificate {
                chain: pem(chain.clone()),
                key: pem(key),
            },
        },
        Secret {
            name: "ROOTCA".into(),
            body: SecretBody::Validation(Validation {
                roots: Roots::Bundle(pem(chain)),
                sans: Vec::new(),
                host_name: false,
                certificate_hashes: Vec::new(),
                spki_hashes: Vec::new(),
                accept_untrusted: false,
            }),
        },
    ];
    Arc::new(
        all.into_iter()
            .map(|s| (s.name.clone(), Arc::new(s)))
            .collect(),
    )
}

fn bootstrap(socket: &str, admin: SocketAddr, api_type: &str) -> String {
    let source = serde_json::json!({
        "resource_api_version": "V3", "initial_fetch_timeout": "0s",
        "api_config_source": {"api_type": api_type, "transport_api_version": "V3",
            "set_node_on_first_message_only": true,
            "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}]},
    });
    serde_json::json!({
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": {"socket_address": {"address": admin.ip(), "port_value": admin.port()}}},
        "static_resources": {
            "clusters": [{
                "name": "sds-grpc", "connect_timeout": "1s",
                "typed_extension_protocol_options": {
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                        "explicit_http_config": {"http2_protocol_options": {}}}},
                "load_assignment": {"cluster_name": "sds-grpc", "endpoints": [{"lb_endpoints": [
                    {"endpoint": {"address": {"pipe": {"path": socket}}}}]}]},
            }],
            "listeners": [{
                "name": "tls",
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                "filter_chains": [{
                    "transport_socket": {"name": "tls", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                        "common_tls_context": {
                            "tls_certificate_sds_secret_configs": [{"name": "default", "sds_config": source}],
                            "combined_validation_context": {
                                "default_validation_context": {},
                                "validation_context_sds_secret_config": {"name": "ROOTCA", "sds_config": source}}}}},
                    "filters": [{"name": "tcp", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                        "stat_prefix": "tcp", "cluster": "sds-grpc"}}],
                }],
            }],
        },
    })
    .to_string()
}

fn holds(admin: SocketAddr, name: &str) -> bool {
    wait::within(wait::GENEROUS, || {
        let certs = http::get(admin, "admin", "/certs").ok()?;
        let text = String::from_utf8_lossy(&certs.body).into_owned();
        text.contains(&format!("{name}.example")).then_some(())
    })
    .is_some()
}

fn serves(api_type: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let (change, held) = watch::channel(Arc::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let socket = path.clone();
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::UnixListener::bind(&socket).unwrap();
            let stopped = async {
                let _ = stopped.await;
            };
            sds::serve(listener, held, stopped).await.unwrap();
        });
    });
    // Nothing to serve yet: Envoy must wait, not complain.
    let late = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        change.send(secrets("first")).unwrap();
        change
    });
    let port = port::reserve();
    let admin = port.addr();
    let envoy = Envoy::start(&bootstrap(path.to_str().unwrap(), admin, api_type), admin);
    let change = late.join().unwrap();
    assert!(holds(admin, "first"), "{api_type}");
    change.send(secrets("second")).unwrap();
    assert!(holds(admin, "second"), "{api_type}");
    for secret in ["default", "ROOTCA"] {
        let rejected = format!("sds.{secret}.update_rejected");
        assert_eq!(
            envoy.stat(&rejected).unwrap_or(0),
            0,
            "{api_type} {rejected}"
        );
    }
    drop(envoy);
    let _ = stop.send(());
    server.join().unwrap();
}

#[test]
fn state_of_the_world() {
    serves("GRPC");
}

#[test]
fn delta() {
    serves("DELTA_GRPC");
}
