//! A server, and what stands before it: an address to call.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ripstop_testkit::envoy::Envoy;
use ripstop_testkit::process::Guard;
use ripstop_testkit::{caller, port, root, wait};

/// For all cases of one client, or a mesh to be up, on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The Python of `.venv`, which has the libraries.
pub(crate) fn python() -> PathBuf {
    let python = root().join(".venv/bin/python");
    let has = |name: &str| {
        let found = Command::new(&python).args(["-c", name]).output();
        found.is_ok_and(|output| output.status.success())
    };
    assert!(
        has("import grpc, websockets"),
        "no grpcio or websockets in .venv: run scripts/prerequisites.sh test (make test does)"
    );
    python
}

pub(crate) fn script(name: &str) -> PathBuf {
    root().join("crates/ripstop/tests/interop").join(name)
}

/// What a client's run came to.
pub(crate) struct Report {
    pub(crate) passed: Vec<String>,
    pub(crate) said: String,
}

impl Report {
    pub(crate) fn of(said: &str) -> Report {
        let passed = said.lines().filter_map(|line| line.strip_prefix("ok "));
        Report {
            passed: passed.map(str::to_owned).collect(),
            said: said.to_owned(),
        }
    }

    /// How many cases there were.
    pub(crate) fn count(&self) -> usize {
        let case = |line: &&str| line.starts_with("ok ") || line.starts_with("failed ");
        self.said.lines().filter(case).count()
    }
}

/// The client of `name`, calling `target`.
pub(crate) fn client(name: &str, target: SocketAddr) -> Report {
    let mut command = Command::new(python());
    command
        .arg(script(name))
        .args(["client", &target.to_string()]);
    let mut client = Guard::spawn("client", &mut command);
    client.wait(PATIENCE);
    Report::of(&client.report())
}

/// The server of `name`.
pub(crate) struct Server {
    pub(crate) process: Guard,
    port: port::Port,
}

impl Server {
    pub(crate) fn start(name: &str) -> Server {
        let port = port::reserve();
        let mut command = Command::new(python());
        command
            .arg(script(name))
            .args(["serve", &port.addr().port().to_string()]);
        let mut process = Guard::spawn(name, &mut command);
        process.line_with("serving", wait::GENEROUS);
        Server { process, port }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.port.addr()
    }
}

/// `http2`: what is spoken to the server. Words replaced: LISTEN, SERVER and ADMIN are ports.
fn bootstrap(http2: bool) -> String {
    let options = match http2 {
        true => {
            "\n    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}"
        }
        false => "",
    };
    format!(
        "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: ADMIN}}}}}}
static_resources:
  listeners:
  - name: in
    address: {{socket_address: {{address: 127.0.0.1, port_value: LISTEN}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          upgrade_configs: [{{upgrade_type: websocket}}]
          http_filters:
          - name: router
            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes: [{{match: {{prefix: /}}, route: {{cluster: server, timeout: 0s}}}}]
  clusters:
  - name: server
    connect_timeout: 5s{options}
    load_assignment:
      cluster_name: server
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: SERVER}}}}}}
"
    )
}

/// A proxy before a server.
pub(crate) struct Between {
    listen: port::Port,
    _process: Box<dyn std::any::Any>,
}

impl Between {
    pub(crate) fn addr(&self) -> SocketAddr {
        self.listen.addr()
    }

    pub(crate) fn ripstop(server: SocketAddr, http2: bool) -> Between {
        let (listen, admin) = (port::reserve(), port::reserve());
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("bootstrap.yaml");
        let text = fill(http2, listen.addr(), server, admin.addr());
        std::fs::write(&file, text).expect("room");
        let mut command = Command::new(env!("CARGO_BIN_EXE_ripstop"));
        command
            .args(["proxy", "--drain-time", "0", "--bootstrap"])
            .arg(&file);
        let mut process = Guard::spawn("ripstop", &mut command);
        wait::until_true(wait::GENEROUS, "ripstop", || {
            assert!(process.exited().is_none(), "{}", process.report());
            std::net::TcpStream::connect(listen.addr()).is_ok()
        });
        Between {
            listen,
            _process: Box::new((process, folder)),
        }
    }

    pub(crate) fn envoy(server: SocketAddr, http2: bool) -> Between {
        let (listen, admin) = (port::reserve(), port::reserve());
        let text = fill(http2, listen.addr(), server, admin.addr());
        let envoy = Envoy::start(&text, admin.addr());
        Between {
            listen,
            _process: Box::new(envoy),
        }
    }
}

fn fill(http2: bool, listen: SocketAddr, server: SocketAddr, admin: SocketAddr) -> String {
    bootstrap(http2)
        .replace("LISTEN", &listen.port().to_string())
        .replace("SERVER", &server.port().to_string())
        .replace("ADMIN", &admin.port().to_string())
}

/// A mesh with the server of `name` as a service and its client as a workload: a sidecar each, and mTLS between them.
pub(crate) fn sidecars(name: &str, port_name: &str) -> Report {
    let folder = caller::folder("interop");
    let binary = caller::copy(Path::new(env!("CARGO_BIN_EXE_ripstop")), folder.path());
    let (python, script) = (python(), script(name));
    let (python, script) = (python.display(), script.display());
    let mesh = format!(
        "apiVersion: ripstop.dev/v1alpha1
kind: Mesh
metadata: {{name: interop}}
spec:
  config: [./config]
  services:
  - name: server
    ports: [{{name: {port_name}, port: 9000}}]
    workloads: [{{command: [{python}, {script}, serve, '9000']}}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: istio-system}}
spec: {{mtls: {{mode: STRICT}}}}
"
    );
    std::fs::create_dir(folder.path().join("config")).expect("room");
    std::fs::write(folder.path().join("mesh.yaml"), mesh).expect("room");
    let exec = format!("{python} {script} client server:9000");
    let mut command = Command::new(binary);
    command
        .args(["up", "mesh.yaml", "--exec", &exec])
        .current_dir(folder.path())
        .env("RIPSTOP_STATE", folder.path().join("state"));
    let mut mesh = Guard::spawn("ripstop up", &mut command);
    mesh.wait(PATIENCE);
    Report::of(&mesh.report())
}
