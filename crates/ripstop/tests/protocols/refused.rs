//! Opaque connections that are not let through end in the access log with flags and the resource that decided, as requests
//! do; what may not leave the mesh is told so.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ripstop_testkit::{port, wait};

use crate::lab::{Lab, PATIENCE, STRICT};

const GREETER: &str = "
  services:
  - name: greeter
    ports: [{name: tcp, port: 7000}]
    workloads: [{command: [python3, peers.py, greeter, '7000']}]
";

const FOES: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: foes}
spec:
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/foe]}}]}]
";

/// Nobody listens there.
const GONE: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: gone}
spec:
  hosts: [gone.test]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 7009, name: tcp, protocol: TCP}]
  endpoints: [{address: 127.0.0.1}]
";

#[test]
fn opaque_refusals_are_logged_with_what_decided() {
    let published = port::reserve();
    let greeter = GREETER.replace(
        "port: 7000}",
        &format!("port: 7000, publish: {}}}", published.number()),
    );
    let lab = Lab::new(&format!("{greeter}{STRICT}"));
    lab.write("config/foes.yaml", FOES);
    lab.write("config/gone.yaml", GONE);
    let mut mesh = lab.up();
    lab.check_as("foe", &["denied_tcp", "nobody_there"]);
    lab.logged(&[
        "\"- - -\" 0 - - rbac_access_denied_matched_policy[ns[default]-policy[foes]-rule[0]] ",
        ":27000 127.88.",
    ]);
    lab.logged(&[
        "\"- - -\" 0 UF,URX - ",
        "ServiceEntry/default/gone",
        "refused",
    ]);
    lab.logged(&["\"- - -\" 0 NC - service_unknown "]);
    // Neither a client that says something nor one that waits for the server is left hanging.
    for said in [&b"hi\n"[..], b""] {
        let took = shown_out(published.addr(), said);
        assert!(took < Duration::from_secs(15), "{took:?} after {said:?}");
    }
    let strict = "filter_chain_not_found[PeerAuthentication/istio-system/default] ";
    lab.logged(&["\"- - -\" 0 NR - ", strict]);
    assert!(mesh.terminate(PATIENCE).success(), "{}", mesh.report());
}

/// How long a plain client is kept until its connection ends, without a byte.
fn shown_out(addr: SocketAddr, said: &[u8]) -> Duration {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(wait::GENEROUS)).unwrap();
    stream.write_all(said).unwrap();
    match stream.read(&mut [0; 64]) {
        Ok(0) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        other => panic!("{other:?}"),
    }
    begun.elapsed()
}

/// Plain text alone, on a port whose protocol nobody names: whoever speaks first, and HTTP.
#[test]
fn mtls_disabled_on_a_port_without_a_protocol() {
    let lab = Lab::new(
        "
  services:
  - name: web
    ports: [{port: 8000, targetPort: 8080}]
    workloads: [{command: [python3, peers.py, web, '8080']}]
  - name: greeter
    ports: [{port: 7000}]
    workloads: [{command: [python3, peers.py, greeter, '7000']}]
  - name: quiet
    ports: [{port: 7001}]
    workloads: [{command: [python3, peers.py, quiet, '7001']}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: DISABLE}}
",
    );
    lab.check(&["greeter", "both_first", "quiet", "allowed_http"]);
}

const KEPT_IN: &str = "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: kept-in}
spec:
  egress: [{hosts: ['*/*']}]
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
";

const DECLARED: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside}
spec:
  hosts: [outside.example]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 203.0.113.10}]
";

#[test]
fn what_is_not_registered_is_not_left_to() {
    let lab = Lab::with_outside(GREETER);
    let mut mesh = lab.up();
    lab.check_as("friend", &["outside_by_address", "allowed_tcp"]);
    lab.logged(&[" PassthroughCluster ", " 203.0.113.10:80 "]);
    lab.write("config/kept-in.yaml", KEPT_IN);
    wait::until_true(PATIENCE, "the policy", || {
        lab.passes("friend", "kept_in_http")
    });
    lab.check_as("friend", &["kept_in_tcp", "allowed_tcp"]);
    let by = "not_registered[Sidecar/default/kept-in] ";
    lab.logged(&["\"GET / HTTP/1.1\" 502 UH ", by]);
    lab.logged(&["\"- - -\" 0 UH - ", by]);
    lab.write("config/declared.yaml", DECLARED);
    wait::until_true(PATIENCE, "the declared outside", || {
        lab.passes("friend", "outside_declared")
    });
    assert!(mesh.terminate(PATIENCE).success(), "{}", mesh.report());
    std::fs::remove_file(lab.path("config/declared.yaml")).unwrap();
    lab.check(&["kept_in_http", "kept_in_tcp", "kept_in_metric"]);
}
