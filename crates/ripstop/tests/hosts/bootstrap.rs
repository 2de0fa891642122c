//! `ripstop proxy --bootstrap` follows a control plane over TLS, with a certificate of its own, as the bootstrap's cluster says.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use ripstop_control::api::message::{Register, Registered};
use ripstop_control::plane::Caller;
use ripstop_control::{Options, Running};
use ripstop_identity::ca::Lifetimes;
use ripstop_identity::{Authority, Key};
use ripstop_model::spiffe::Spiffe;
use ripstop_testkit::process::Guard;
use ripstop_testkit::wait;

use crate::lab::PATIENCE;

const BOOTSTRAP: &str = r#"
node: {id: NODE, cluster: users, metadata: {NAMESPACE: default, SERVICE_ACCOUNT: users}}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    grpc_services: [{envoy_grpc: {cluster_name: xds}}]
  lds_config: {ads: {}, resource_api_version: V3}
  cds_config: {ads: {}, resource_api_version: V3}
static_resources:
  clusters:
  - name: xds
    type: STATIC
    connect_timeout: 5s
    load_assignment:
      cluster_name: xds
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: PORT}}}}]}]
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}
          tls_certificates: [{certificate_chain: {filename: FOLDER/chain.pem}, private_key: {filename: FOLDER/key.pem}}]
          validation_context:
            trusted_ca: {filename: FOLDER/roots.pem}
            match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: "IDENTITY"}}]
"#;

/// Key and chain of the workload, as files.
fn certify(running: &Running, registered: &Registered, folder: &Path) {
    let key = Key::generate().unwrap();
    let identity = Spiffe::new(&registered.trust_domain, "default", "users").unwrap();
    let caller = Caller {
        bearer: Some(registered.credential.clone()),
        ..Caller::default()
    };
    let csr = key.csr(&identity).unwrap();
    let hour = Duration::from_secs(3600);
    let chain = running
        .plane()
        .create_certificate(&csr, hour, &caller)
        .unwrap();
    std::fs::write(folder.join("chain.pem"), chain.concat()).unwrap();
    std::fs::write(folder.join("key.pem"), key.private_key_pem().as_bytes()).unwrap();
}

fn proxy(bootstrap: &Path) -> Guard {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ripstop"));
    command
        .args(["proxy", "--workers", "1", "--bootstrap"])
        .arg(bootstrap);
    Guard::spawn(
        "proxy",
        command.env("RIPSTOP_LOG", "info,ripstop_proxy=debug"),
    )
}

#[test]
fn ads_over_tls_as_the_cluster_says() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let running = runtime
        .block_on(ripstop_control::start(Options {
            xds_tls: Some("127.0.0.1:0".parse().unwrap()),
            ..Options::new(folder.path().join("state"))
        }))
        .unwrap();
    let owner = Caller {
        local: true,
        ..Caller::default()
    };
    let asked: Register =
        serde_json::from_str(r#"{"service": "users", "ports": [{"port": 80}]}"#).unwrap();
    let registered = running.plane().register(asked, &owner).unwrap();
    certify(&running, &registered, folder.path());
    let path = folder.path().join("bootstrap.yaml");
    let port = running.listening().xds_tls.unwrap().port().to_string();
    let text = BOOTSTRAP
        .replace("NODE", &registered.node)
        .replace("PORT", &port)
        .replace("IDENTITY", &registered.control_identity)
        .replace("FOLDER", folder.path().to_str().unwrap());
    std::fs::write(&path, &text).unwrap();

    // Somebody else's root: nothing is said to this control plane.
    let other =
        Authority::create("cluster.local", Lifetimes::default(), SystemTime::now()).unwrap();
    std::fs::write(folder.path().join("roots.pem"), other.root_pem()).unwrap();
    let mut wary = proxy(&path);
    wary.line_with("cannot be reached", PATIENCE);
    assert!(running.plane().status().proxies.is_empty());

    // The files are read again for each connection.
    std::fs::write(folder.path().join("roots.pem"), &registered.roots).unwrap();
    let identity = format!("spiffe://{}/ns/default/sa/users", registered.trust_domain);
    wait::until_true(PATIENCE, "the proxy to be connected as itself", || {
        let proxies = running.plane().status().proxies;
        proxies
            .iter()
            .any(|proxy| proxy.identity == identity && proxy.node == registered.node)
    });
    assert!(wary.terminate(PATIENCE).success(), "{}", wary.report());

    // A context that cannot work is told before anything listens.
    std::fs::write(&path, text.replace("roots.pem", "missing.pem")).unwrap();
    let mut broken = proxy(&path);
    assert_eq!(broken.wait(PATIENCE).code(), Some(1));
    assert!(
        broken.stderr().contains("missing.pem"),
        "{}",
        broken.report()
    );
    runtime.block_on(running.stop());
}
