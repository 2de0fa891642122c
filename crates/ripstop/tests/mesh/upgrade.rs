//! HTTP/2 between sidecars, and toward an application what its port declares.

use ripstop_testkit::port;

use crate::bench::{Bench, PATIENCE, callers, text};

/// Knows HTTP/2 alone. (grpc is a package of Debian's own Python.)
const GREET: &str = "
import grpc, concurrent.futures as futures
class Greeter(grpc.GenericRpcHandler):
    def service(self, call): return grpc.unary_unary_rpc_method_handler(lambda request, context: request)
server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Greeter()])
server.add_insecure_port('0.0.0.0:8080')
server.start()
server.wait_for_termination()
";

const ASK: &str = "
import grpc, urllib.request as http
for host in ('declared', 'undeclared'):
    print(host, http.urlopen(f'http://{host}/', timeout=30).status)
for host in ('greeter', 'h2-greeter', 'undeclared-greeter'):
    with grpc.insecure_channel(host + ':90') as channel:
        greet = channel.unary_unary('/test.Greeter/Greet')
        print(host, greet(b'hello', timeout=30, wait_for_ready=True).decode())
";

#[test]
fn applications_are_spoken_to_as_their_ports_declare() {
    let reserved = port::reserve();
    let published = reserved.number();
    let mesh = format!(
        "
apiVersion: ripstop.dev/v1alpha1
kind: Mesh
metadata: {{name: upgraded}}
spec:
  services:
  - name: declared
    ports: [{{name: http, port: 80, targetPort: 8080, publish: {published}}}]
    workloads: [{{command: [python3, -m, http.server, '8080']}}]
  - name: undeclared
    ports: [{{port: 80, targetPort: 8080}}]
    workloads: [{{command: [python3, -m, http.server, '8080']}}]
  - name: greeter
    ports: [{{name: grpc, port: 90, targetPort: 8080}}]
    workloads: [{{command: [/usr/bin/python3, greet.py]}}]
  - name: h2-greeter
    ports: [{{name: http2, port: 90, targetPort: 8080}}]
    workloads: [{{command: [/usr/bin/python3, greet.py]}}]
  - name: undeclared-greeter
    ports: [{{port: 90, targetPort: 8080}}]
    workloads: [{{command: [/usr/bin/python3, greet.py]}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: declared}}
spec:
  host: declared
  trafficPolicy: {{connectionPool: {{http: {{h2UpgradePolicy: UPGRADE}}}}}}
"
    );
    let bench = Bench::new(callers()[0], &mesh);
    bench.write("ask.py", ASK);
    bench.write("greet.py", GREET);
    // From inside, over two sidecars.
    let output = bench.run(&["up", "mesh.yaml", "--exec", "/usr/bin/python3 ask.py"]);
    let said = text(&output.stdout);
    for answer in [
        "\ndeclared 200",
        "\nundeclared 200",
        "\ngreeter hello",
        "\nh2-greeter hello",
        "\nundeclared-greeter hello",
    ] {
        assert!(
            format!("\n{said}").contains(answer),
            "no {answer:?} in {said}"
        );
    }
    // From outside, by HTTP/2 from the first byte.
    let mut mesh = bench.up();
    let url = format!("http://127.0.0.1:{published}/");
    let code = || {
        let curl = ["-so", "/dev/null", "-w", "%{http_code} %{http_version}"];
        let mut command = std::process::Command::new("curl");
        command.args(curl).args(["--http2-prior-knowledge", &url]);
        text(&command.output().unwrap().stdout)
    };
    assert_eq!(code(), "200 2");
    assert!(mesh.terminate(PATIENCE).success());
}
