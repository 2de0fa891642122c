//! A service that calls itself by whatever name or address, clients of IPv6 alone, and headless services (R12.1, R12.2).

use crate::lab::{Lab, PATIENCE, STRICT};

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
    for more in ["", STRICT] {
        let lab = Lab::new(&format!("{MESH}{more}"));
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
