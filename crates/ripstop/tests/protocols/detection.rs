//! Ports that name no protocol: whoever speaks first is understood, and nothing hangs (R11.1, R11.2).

use crate::lab::{Lab, STRICT};

const SERVERS: &str = "
  services:
  - name: mail
    ports: [{port: 25, targetPort: 2525}]
    workloads: [{command: [/usr/bin/python3, -m, aiosmtpd, -n, -l, '0.0.0.0:2525']}]
  - name: cache
    ports: [{port: 6379}]
    workloads: [{command: [redis-server, --save, '', --protected-mode, 'no']}]
  - name: greeter
    ports: [{port: 7000}]
    workloads: [{command: [python3, peers.py, greeter, '7000']}]
  - name: quiet
    ports: [{port: 7001}]
    workloads: [{command: [python3, peers.py, quiet, '7001']}]
  - name: early
    ports: [{port: 7002}]
    workloads: [{command: [python3, peers.py, early, '7002']}]
  - name: web
    ports: [{port: 8000, targetPort: 8080}]
    workloads: [{command: [python3, peers.py, web, '8080']}]
  - name: web2
    ports: [{port: 8002}]
    workloads: [{command: [node, h2.js, serve, '8002']}]
  - name: secure
    ports: [{port: 8443}]
    workloads: [{command: [python3, peers.py, tls, '8443', .]}]
  - name: refusing
    ports: [{port: 7100}, {name: tcp-other, port: 7101}]
    workloads:
    - command: [python3, peers.py, echo, '7101']
      readiness: {tcp: {port: 7101}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: [web]
  http:
  - retries: {attempts: 2, perTryTimeout: 5s, retryOn: gateway-error}
    headers: {request: {set: {x-routed: routed}}}
    route: [{destination: {host: web}}]
";

const CHECKS: [&str; 15] = [
    "smtp",
    "redis",
    "greeter",
    "both_first",
    "quiet",
    "nearly_http",
    "silent",
    "early",
    "http_unnamed",
    "http_byte_by_byte",
    "http2",
    "tls",
    "refused",
    "refused_silent",
    "refused_http",
];

#[test]
fn every_protocol_in_permissive() {
    Lab::new(SERVERS).check(&CHECKS);
}

#[test]
fn every_protocol_in_strict() {
    Lab::new(&format!("{SERVERS}{STRICT}")).check(&CHECKS);
}
