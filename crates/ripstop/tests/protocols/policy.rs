//! Who may call, and what a change does to connections that are open: only what is now denied ends (R18.1).

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ripstop_testkit::{http, port, wait};

use crate::lab::{Lab, PATIENCE, STRICT};

const MESH: &str = "
  services:
  - name: web
    ports: [{port: 8000, targetPort: 8080}]
    workloads: [{command: [python3, peers.py, web, '8080']}]
  - name: greeter
    ports: [{port: 7000}]
    workloads: [{command: [python3, peers.py, greeter, '7000']}]
";

const FRIENDS: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: friends, namespace: default}
spec:
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/friend]}}]}]
";

const NO_FOES: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: foes, namespace: default}
spec:
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/foe]}}]}]
";

#[test]
fn principals_are_allowed_and_denied() {
    for more in ["", STRICT] {
        let lab = Lab::new(&format!("{MESH}{more}"));
        lab.write("config/policy.yaml", FRIENDS);
        let mut mesh = lab.up();
        lab.check_as("friend", &["allowed_tcp", "allowed_http"]);
        lab.check_as("foe", &["denied_tcp", "denied_http"]);
        lab.write("config/policy.yaml", NO_FOES);
        wait::until_true(PATIENCE, "the other policy", || {
            lab.passes("friend", "allowed_http") && lab.passes("foe", "denied_http")
        });
        lab.check_as("stranger", &["allowed_tcp", "allowed_http"]);
        lab.check_as("foe", &["denied_tcp", "denied_http"]);
        assert!(mesh.terminate(PATIENCE).success(), "{}", mesh.report());
    }
}

#[test]
fn a_policy_ends_what_it_denies_and_nothing_else() {
    let lab = Lab::new(MESH);
    let mut mesh = lab.up();
    let held = ["tcp:5:greeter:7000", "ws:5:web:8000", "http:5:web:8000"];
    let mut friend = lab.hold("friend", &held);
    let mut foe = lab.hold("foe", &held);
    lab.write("config/policy.yaml", NO_FOES);
    wait::until_true(PATIENCE, "the foe to be shown out", || {
        foe.stdout().contains("and lost 15")
    });
    // A request that was under way is cut off; one that comes later is answered.
    let said = foe.stdout();
    let told = said
        .matches("lost http ConnectionError('HTTP/1.1 403")
        .count();
    let cut = said.matches("lost http ConnectionResetError").count();
    assert_eq!(told + cut, 5, "{said}");
    lab.check_as("foe", &["denied_tcp", "denied_http"]);
    std::thread::sleep(Duration::from_secs(1));
    lab.write("stop", "");
    friend.wait(PATIENCE);
    assert!(
        friend.stdout().contains("and lost 0"),
        "{}",
        friend.report()
    );
    foe.wait(PATIENCE);
    assert!(mesh.terminate(PATIENCE).success(), "{}", mesh.report());
}

/// 50 of each kind; 200 in the long run.
const OPEN: usize = if cfg!(feature = "long") { 200 } else { 50 };

#[test]
fn a_hundred_changes_close_nothing() {
    let lab = Lab::new(MESH);
    let mut mesh = lab.up();
    let mut holder = lab.hold(
        "holder",
        &[
            &format!("tcp:{OPEN}:greeter:7000"),
            &format!("ws:{OPEN}:web:8000"),
            "http:5:web:8000",
            "get:2:web:8000",
        ],
    );
    for turn in 0..100 {
        match turn % 4 {
            0 => lab.write("config/route.yaml", &route(turn)),
            1 => lab.write("config/rule.yaml", &rule(turn)),
            2 => lab.write("config/foes.yaml", NO_FOES),
            _ => std::fs::remove_file(lab.path("config/foes.yaml")).unwrap(),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // The last one is in force before the connections are asked.
    lab.write("config/route.yaml", &route(1000));
    wait::until_true(PATIENCE, "the last change", || {
        lab.passes("holder", "routed_1000")
    });
    std::thread::sleep(Duration::from_secs(1));
    lab.write("stop", "");
    holder.wait(PATIENCE);
    assert!(
        holder.stdout().contains("and lost 0"),
        "{}",
        holder.report()
    );
    eprintln!("{}", holder.stdout());
    assert!(mesh.terminate(PATIENCE).success(), "{}", mesh.report());
}

fn route(turn: usize) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web}}
spec:
  hosts: [web]
  http:
  - timeout: {}s
    headers: {{request: {{set: {{x-routed: '{turn}'}}}}}}
    route: [{{destination: {{host: web}}}}]
",
        10 + turn
    )
}

fn rule(turn: usize) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: greeter}}
spec:
  host: greeter
  trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {}}}}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: web}}
spec:
  host: web
  trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {}}}}}}}
",
        5000 + turn,
        5000 + turn
    )
}

#[test]
fn plain_clients_from_outside() {
    for strict in [false, true] {
        let (web, greeter) = (port::reserve(), port::reserve());
        let published = MESH
            .replace(
                "targetPort: 8080}",
                &format!("targetPort: 8080, publish: {}}}", web.number()),
            )
            .replace(
                "{port: 7000}",
                &format!("{{port: 7000, publish: {}}}", greeter.number()),
            );
        let lab = Lab::new(&format!("{published}{}", if strict { STRICT } else { "" }));
        let mut mesh = lab.up();
        for _ in 0..3 {
            assert_eq!(answers_http(web.addr()), !strict, "{}", mesh.report());
            assert_eq!(greets(greeter.addr()), !strict, "{}", mesh.report());
        }
        assert!(mesh.terminate(PATIENCE).success(), "{}", mesh.report());
    }
}

fn answers_http(addr: SocketAddr) -> bool {
    http::get(addr, "web", "/").is_ok_and(|response| response.status == 200)
}

/// Whether the server's greeting reaches a client that waits for it; panics when the client is left hanging.
fn greets(addr: SocketAddr) -> bool {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(wait::GENEROUS)).unwrap();
    let mut said = [0; 5];
    match stream.read(&mut said) {
        Ok(n) => said[..n] == *b"hello",
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
        Err(error) => panic!("{addr}: {error}"),
    }
}
