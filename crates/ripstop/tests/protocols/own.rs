//! A service that calls itself by whatever name or address, apps bound to whatever address, clients of IPv6 alone, headless
//! services, and names in every form (R12.1, R12.2).

use crate::lab::{Lab, PATIENCE, STRICT, callers};

const MESH: &str = "
  services:
  - name: selfish
    ports: [{port: 8000, targetPort: 8080}, {port: 7000}]
    workloads:
    - command: [sh, -c, 'python3 peers.py web 8080 & python3 peers.py greeter 7000 & until test -e up; do sleep 0.1; done;
        python3 check.py own_name own_name_tcp own_address own_host_name own_loopback; echo the code is $?; wait']
      env: {SERVICE: selfish}
  - name: web
    ports: [{port: 8000, targetPort: 8080}]
    workloads: [{command: [python3, peers.py, web, '8080']}]
  - name: greeter
    ports: [{port: 7000}]
    workloads: [{command: [python3, peers.py, greeter, '7000']}]
  - name: nodes
    headless: true
    ports: [{port: 7003}]
    workloads: [{replicas: 2, command: [python3, peers.py, greeter, '7003']}]
";

#[test]
fn a_service_calls_itself() {
    for (caller, more) in callers().into_iter().zip([STRICT, ""]) {
        let lab = Lab::of(caller, &format!("{MESH}{more}"));
        let mut mesh = lab.up();
        lab.write("up", "");
        let line = mesh.line_with("the code is", PATIENCE);
        assert!(line.ends_with("the code is 0"), "{}", mesh.report());
        assert!(mesh.terminate(PATIENCE).success(), "{}", mesh.report());
    }
}

#[test]
fn by_ipv6_and_without_a_virtual_address() {
    for more in ["", STRICT] {
        Lab::new(&format!("{MESH}{more}")).check(&["v6", "headless"]);
    }
}

const BOUND: &str = "
  services:
  - name: bound-loopback
    ports: [{port: 8000, targetPort: 8080}]
    workloads: [{command: [python3, peers.py, web, '8080', 127.0.0.1]}]
  - name: bound-loopback6
    ports: [{port: 8000, targetPort: 8080}]
    workloads: [{command: [python3, peers.py, web, '8080', '::1']}]
  - name: bound-any
    ports: [{port: 8000, targetPort: 8080}]
    workloads: [{command: [python3, peers.py, web, '8080', 0.0.0.0]}]
  - name: bound-own
    ports: [{port: 8000, targetPort: 8080}]
    workloads: [{command: [python3, peers.py, web, '8080', own]}]
";

#[test]
fn whatever_an_app_binds() {
    for (caller, more) in callers().into_iter().zip([STRICT, ""]) {
        Lab::of(caller, &format!("{BOUND}{more}")).check(&["bound"]);
    }
}

const NAMED: &str = "
  services:
  - name: web
    ports: [{port: 8000, targetPort: 8080}]
    workloads: [{command: [python3, peers.py, web, '8080']}]
  - name: web
    namespace: far
    ports: [{port: 8000, targetPort: 8080}]
    workloads: [{command: [python3, peers.py, web, '8080']}]
  - name: far-only
    namespace: far
    ports: [{port: 8000, targetPort: 8080}]
    workloads: [{command: [python3, peers.py, web, '8080']}]
";

#[test]
fn names_in_every_form() {
    Lab::with_outside(NAMED).check(&["names"]);
}

#[test]
fn only_the_sidecar_lets_anybody_in() {
    let lab = Lab::with_outside(&format!("{NAMED}{STRICT}"));
    let mut mesh = lab.up();
    let addresses: Vec<String> = mesh
        .stdout()
        .split([' ', ',', '\n'])
        .filter(|word| word.starts_with("10.88.") || word.starts_with("fd72:"))
        .map(str::to_owned)
        .collect();
    assert!(!addresses.is_empty(), "{}", mesh.report());
    let mut words = vec!["python3", "check.py", "listening"];
    words.extend(addresses.iter().map(String::as_str));
    let mut beside = lab.beside(&words);
    assert!(beside.wait(PATIENCE).success(), "{}", beside.report());
    eprintln!("{}", beside.stdout());
    // By a workload, the same addresses lead through the sidecar.
    lab.check_as("friend", &["allowed_http"]);
    assert!(mesh.terminate(PATIENCE).success(), "{}", mesh.report());
}
