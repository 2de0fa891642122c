//! A control plane, a service behind a ripstop sidecar, and a configuration that has something of everything.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use ripstop_testkit::process::Guard;
use ripstop_testkit::{program, wait};
use serde_json::Value;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Tells what it was asked.
const HELLO: &str = r#"
import http.server, json
class Hello(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = json.dumps({"path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *rest):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Hello).serve_forever()
"#;

/// Prints the status and the body, also of a refusal.
const ASK: &str = r#"
import sys, urllib.request, urllib.error
try:
    answer = urllib.request.urlopen(sys.argv[1], timeout=30)
except urllib.error.HTTPError as refusal:
    answer = refusal
print("answer:", answer.status, answer.read().decode())
"#;

const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: legacy}
spec:
  selector: {matchLabels: {app: legacy}}
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/caller]}}], to: [{operation: {methods: [GET]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: hello}
spec:
  selector: {matchLabels: {app: hello}}
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/legacy]}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: split}
spec:
  hosts: [s0.example.com]
  http:
  - match: [{uri: {prefix: /old}, headers: {x-user: {regex: '[a-z]+'}}}]
    rewrite: {uri: /new}
    headers: {request: {set: {x-a: b}, remove: [x-c]}, response: {add: {x-d: e}}}
    route: [{destination: {host: s0.example.com, subset: v1}}]
  - match: [{uri: {exact: /gone}, method: {exact: POST}}]
    redirect: {uri: /here, redirectCode: 308}
  - fault: {delay: {percentage: {value: 1}, fixedDelay: 10ms}, abort: {percentage: {value: 0.1}, httpStatus: 503}}
    timeout: 5s
    retries: {attempts: 3, perTryTimeout: 1s, retryOn: 'gateway-error,connect-failure,retriable-4xx,503'}
    mirror: {host: s1.example.com}
    corsPolicy: {allowOrigins: [{exact: 'https://a.example'}], allowMethods: [GET]}
    route:
    - {destination: {host: s0.example.com, subset: v1}, weight: 90}
    - {destination: {host: s0.example.com, subset: v2}, weight: 10}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: s0}
spec:
  host: s0.example.com
  trafficPolicy:
    loadBalancer: {simple: LEAST_REQUEST}
    connectionPool: {tcp: {maxConnections: 10, connectTimeout: 1s}, http: {http1MaxPendingRequests: 5, maxRequestsPerConnection: 100}}
    outlierDetection: {consecutive5xxErrors: 3, interval: 5s, baseEjectionTime: 30s, maxEjectionPercent: 50}
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: s1}
spec:
  host: s1.example.com
  trafficPolicy: {tls: {mode: SIMPLE, sni: s1.example.com}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: tcp}
spec:
  hosts: [s2.example.com]
  tcp: [{route: [{destination: {host: s2.example.com, port: {number: 5432}}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: tls}
spec:
  hosts: [s3.example.com]
  tls: [{match: [{port: 443, sniHosts: [s3.example.com]}], route: [{destination: {host: s3.example.com}}]}]
";

/// Twenty of them, of every protocol.
fn services() -> String {
    const PORTS: [&str; 5] = [
        "{name: http, number: 80, protocol: HTTP}",
        "{name: grpc, number: 8080, protocol: GRPC}",
        "{name: tcp, number: 5432, protocol: TCP}",
        "{name: tls, number: 443, protocol: TLS}",
        "{name: any, number: 9000}",
    ];
    let mut text = String::new();
    for number in 0..20 {
        let port = PORTS[number % PORTS.len()];
        let second = if number == 0 {
            ""
        } else {
            ", {name: http-admin, number: 8000, protocol: HTTP}"
        };
        let (port, second) = if number == 1 {
            (PORTS[0], "")
        } else {
            (port, second)
        };
        writeln!(
            text,
            "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: s{number}}}
spec:
  hosts: [s{number}.example.com]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{port}{second}]
  endpoints:
  - {{address: 127.0.1.{number}, labels: {{version: v1}}}}
  - {{address: 127.0.2.{number}, labels: {{version: v2}}, weight: 2, locality: eu/a}}"
        )
        .unwrap();
    }
    text
}

pub(crate) struct Mesh {
    folder: tempfile::TempDir,
    _control: Guard,
    _hello: Guard,
}

pub(crate) struct Agent {
    process: Guard,
    bootstrap: PathBuf,
    socket: PathBuf,
}

impl Mesh {
    pub(crate) fn start() -> Mesh {
        program("python3");
        let folder = tempfile::Builder::new()
            .prefix("envoy")
            .tempdir_in("/tmp")
            .unwrap();
        let config = folder.path().join("config");
        std::fs::create_dir(&config).unwrap();
        std::fs::write(config.join("policy.yaml"), POLICY).unwrap();
        std::fs::write(config.join("services.yaml"), services()).unwrap();
        let mut command = ripstop(&folder);
        command.arg("control").arg("--config").arg(&config);
        command.arg("--state").arg(folder.path().join("state"));
        let mut control = Guard::spawn("ripstop control", &mut command);
        control.line_with("control plane is up", PATIENCE);
        let mut command = ripstop(&folder);
        command.args(["run", "--service", "hello", "--port", "http=80:8080", "--"]);
        command.args(["python3", "-c", HELLO]);
        let hello = Guard::spawn("hello", &mut command);
        let mesh = Mesh {
            folder,
            _control: control,
            _hello: hello,
        };
        wait::until_true(PATIENCE, "hello", || {
            mesh.workload("hello-0.default")
                .is_some_and(|hello| hello["readiness"] == "ready")
        });
        mesh
    }

    /// Envoy's, for the service `legacy` on port 80, whose application listens on `target`.
    pub(crate) fn agent(&self, protocol: &str, target: u16, admin: &str) -> Agent {
        let (socket, bootstrap) = (self.path("sds.sock"), self.path("bootstrap.json"));
        let mut command = ripstop(&self.folder);
        command.args(["agent", "--service", "legacy", "--port"]);
        command.arg(format!("http=80:{target}"));
        command.args(["--protocol", protocol, "--admin", admin]);
        command.arg("--socket").arg(&socket);
        command.arg("--bootstrap").arg(&bootstrap);
        let mut process = Guard::spawn("ripstop agent", &mut command);
        process.line_with("serving Envoy its secrets", PATIENCE);
        Agent {
            process,
            bootstrap,
            socket,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file of the watched configuration.
    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path("config").join(name), text).unwrap();
    }

    pub(crate) fn api(&self, path: &str) -> Value {
        let mut stream = UnixStream::connect(self.path("state/control.sock")).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: control\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    pub(crate) fn services(&self) -> Vec<Value> {
        self.api("/v1/services").as_array().cloned().unwrap()
    }

    pub(crate) fn workload(&self, id: &str) -> Option<Value> {
        let all = self.api("/v1/workloads");
        all.as_array()
            .unwrap()
            .iter()
            .find(|workload| workload["id"] == id)
            .cloned()
    }

    /// The address on which a workload's sidecar takes its peers, whose ports begin at 20000 (one target port per workload here).
    pub(crate) fn inbound(&self, id: &str) -> SocketAddr {
        let workload = self.workload(id).unwrap();
        let transport: IpAddr = workload["addresses"]["transport"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        let port = &workload["ports"][0];
        let target = port["target_port"].as_u64().unwrap();
        (transport, u16::try_from(20_000 + target % 10_000).unwrap()).into()
    }

    /// The first address of a service, with its port 80.
    pub(crate) fn vip(&self, host: &str) -> SocketAddr {
        let services = self.services();
        let service = services
            .iter()
            .find(|service| service["host"] == host)
            .unwrap_or_else(|| panic!("no {host} in {services:?}"));
        let address = service["addresses"][0].as_str().unwrap();
        (address.parse::<IpAddr>().unwrap(), 80).into()
    }

    /// What an Envoy that sees all services has to hold, as `KIND NAME`.
    pub(crate) fn expected(&self) -> BTreeSet<String> {
        let mut expected = BTreeSet::new();
        for service in self.services() {
            let host = service["host"].as_str().unwrap();
            for port in service["ports"].as_array().unwrap() {
                let number = &port["number"];
                expected.insert(format!("cluster outbound|{number}||{host}"));
                expected.insert(format!("endpoints outbound|{number}||{host}"));
                for address in service["addresses"].as_array().unwrap() {
                    expected.insert(format!("listener {}_{number}", address.as_str().unwrap()));
                }
                let protocol = port["protocol"].to_string().to_lowercase();
                if !["\"tcp\"", "\"tls\"", "\"https\""].contains(&protocol.as_str()) {
                    expected.insert(format!("route {host}:{number}"));
                }
            }
        }
        let legacy = self.workload("legacy-0.default").unwrap();
        let target = &legacy["ports"][0]["target_port"];
        expected.insert(format!("listener inbound|{target}||legacy-0.default"));
        expected.insert(format!("cluster inbound|{target}||"));
        for subset in ["v1", "v2"] {
            expected.insert(format!("cluster outbound|80|{subset}|s0.example.com"));
        }
        expected
    }

    /// As a workload of its own with this service account: `STATUS BODY`.
    pub(crate) fn ask_as(&self, account: &str, url: &str) -> String {
        let mut command = ripstop(&self.folder);
        command.args(["run", "--service-account", account, "--"]);
        command.args(["python3", "-c", ASK, url]);
        let mut asking = Guard::spawn(account, &mut command);
        let line = asking.line_with("answer: ", PATIENCE);
        assert!(asking.wait(PATIENCE).success(), "{}", asking.report());
        line.trim_start_matches("answer: ").to_owned()
    }
}

impl Agent {
    pub(crate) fn bootstrap(&self) -> String {
        std::fs::read_to_string(&self.bootstrap).unwrap()
    }

    /// Leaves no socket behind.
    pub(crate) fn stop(mut self) {
        assert!(self.process.terminate(PATIENCE).success());
        assert!(!self.socket.exists());
    }
}

fn ripstop(folder: &tempfile::TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ripstop"));
    command.env("RIPSTOP_STATE", folder.path().join("state"));
    command.current_dir(folder.path());
    command
}
