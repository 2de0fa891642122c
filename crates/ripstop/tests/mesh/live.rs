//! What changes while a mesh runs.

use ripstop_testkit::process::Guard;
use ripstop_testkit::wait;

use crate::bench::{Bench, MESH, PATIENCE, callers, text};

const RETRIES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: hello}
spec:
  hosts: [hello]
  http: [{retries: {attempts: 3, retryOn: 5xx}, route: [{destination: {host: hello}}]}]
";

#[test]
fn a_changed_file_is_applied_and_a_broken_one_is_not() {
    for caller in callers() {
        let bench = Bench::new(caller, MESH);
        let mut mesh = bench.up();
        let kept = bench.process(&mesh, "keeper worker-0");
        bench.write(
            "mesh.yaml",
            &MESH
                .replace("replicas: 2", "replicas: 3")
                .replace("blue", "green"),
        );
        mesh.line_with("1 started, 2 restarted, 0 stopped", PATIENCE);
        wait::until_true(PATIENCE, "the third replica", || {
            text(&bench.run(&["ps"]).stdout).contains("hello-v1-2.default")
                && bench.run(&["wait"]).status.success()
        });
        bench.write("mesh.yaml", &MESH.replace("replicas: 2", "replicas: none"));
        mesh.line_with("the mesh goes on as it was", PATIENCE);
        bench.write(
            "mesh.yaml",
            &MESH
                .replace("replicas: 2", "replicas: 1")
                .replace("blue", "green"),
        );
        mesh.line_with("0 started, 0 restarted, 2 stopped", PATIENCE);
        wait::until_true(PATIENCE, "one replica", || {
            !text(&bench.run(&["ps"]).stdout).contains("hello-v1-1.default")
        });
        assert_eq!(
            bench.process(&mesh, "keeper worker-0"),
            kept,
            "an unchanged workload goes on"
        );
        assert!(mesh.terminate(PATIENCE).success());
    }
}

/// Asks without a pause, and says when it was not answered.
const CALLER: &str = "
import time, urllib.request
asked = 0
while True:
    try:
        urllib.request.urlopen('http://hello/').read()
    except Exception as error:
        print('no answer:', error, flush=True)
    asked += 1
    if asked % 20 == 0:
        print('asked', asked, flush=True)
    time.sleep(0.01)
";

/// A new version takes over replica by replica, and one that never gets ready takes over no more than the first.
#[test]
fn replicas_are_replaced_one_after_the_other() {
    let mesh = MESH.replace(
        "[sh, -c, 'echo working; exec sleep 600']",
        "[python3, caller.py]",
    );
    let bench = Bench::new(callers()[0], &mesh);
    bench.write("caller.py", CALLER);
    let mut running = bench.up();
    // It may ask before somebody is there to answer.
    running.line_with("asked 20", PATIENCE);
    let unanswered = |running: &Guard| running.stdout().matches("no answer").count();
    let at_first = unanswered(&running);
    let second = bench.process(&running, "keeper hello-v1-1");
    bench.write("mesh.yaml", &mesh.replace("blue", "green"));
    running.line_with("0 started, 2 restarted, 0 stopped", PATIENCE);
    wait::until_true(PATIENCE, "the second to be replaced", || {
        bench.process(&running, "keeper hello-v1-1") != second
    });
    assert!(bench.run(&["wait"]).status.success());

    let second = bench.process(&running, "keeper hello-v1-1");
    bench.write("mesh.yaml", &mesh.replace("path: /", "path: /missing"));
    wait::until_true(PATIENCE, "the first not to get ready", || {
        let ps = text(&bench.run(&["ps"]).stdout);
        ps.lines()
            .any(|line| line.starts_with("hello-v1-0") && line.contains("not ready"))
    });
    let asked = |running: &Guard| running.stdout().matches("asked").count();
    let before = asked(&running);
    wait::until_true(PATIENCE, "more answers", || asked(&running) > before + 2);
    assert_eq!(bench.process(&running, "keeper hello-v1-1"), second);
    assert!(running.terminate(PATIENCE).success());
    assert_eq!(unanswered(&running), at_first, "{}", running.report());
}

#[test]
fn resources_are_applied_listed_and_deleted() {
    let bench = Bench::new(callers()[0], MESH);
    bench.write("retries.yaml", RETRIES);
    let mut mesh = bench.up();
    let applied = bench.run(&["apply", "retries.yaml"]);
    assert!(
        applied.status.success()
            && text(&applied.stdout).contains("applied VirtualService/default/hello")
    );
    let listed = text(&bench.run(&["get", "virtualservices"]).stdout);
    assert!(
        listed.contains("VirtualService  default    hello"),
        "{listed}"
    );
    assert!(
        text(
            &bench
                .run(&["get", "virtualservice", "hello", "--yaml"])
                .stdout
        )
        .contains("attempts: 3")
    );
    assert!(text(&bench.run(&["status"]).stdout).contains("VirtualService/default/hello"));
    bench.write("broken.yaml", &RETRIES.replace("attempts: 3", "atempts: 3"));
    let refused = bench.run(&["apply", "broken.yaml"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(
        said.contains("broken.yaml:7:") && said.contains("atempts"),
        "{said}"
    );
    assert!(
        bench
            .run(&["delete", "virtualservice", "hello"])
            .status
            .success()
    );
    assert_eq!(
        bench.run(&["get", "virtualservice", "hello"]).status.code(),
        Some(1)
    );
    assert!(mesh.terminate(PATIENCE).success());
}

#[test]
fn a_config_folder_may_come_into_the_mesh_and_disappear() {
    let bench = Bench::new(callers()[0], MESH);
    std::fs::create_dir(bench.path("config")).unwrap();
    bench.write("config/retries.yaml", RETRIES);
    let mut mesh = bench.up();
    bench.write(
        "mesh.yaml",
        &MESH.replace("spec:", "spec:\n  config: [./config]"),
    );
    wait::until_true(PATIENCE, "the resource to be in force", || {
        text(&bench.run(&["get", "virtualservice"]).stdout).contains("hello")
    });
    std::fs::rename(bench.path("config"), bench.path("away")).unwrap();
    wait::until_true(PATIENCE, "the loss to be told", || {
        let status = bench.run(&["status"]);
        status.status.code() == Some(1) && text(&status.stdout).contains("config")
    });
    assert!(
        text(&bench.run(&["get", "virtualservice"]).stdout).contains("hello"),
        "what it said last stays in force"
    );
    // It comes back with something new in it.
    bench.write(
        "away/retries.yaml",
        &RETRIES.replace("attempts: 3", "attempts: 4"),
    );
    std::fs::rename(bench.path("away"), bench.path("config")).unwrap();
    wait::until_true(PATIENCE, "the folder's return", || {
        let listed = bench.run(&["get", "virtualservice", "hello", "--yaml"]);
        text(&listed.stdout).contains("attempts: 4") && bench.run(&["status"]).status.success()
    });
    assert!(mesh.terminate(PATIENCE).success());
}

/// `ipBlocks` are what people know: the workloads' own addresses, not those between sidecars.
#[test]
fn address_blocks_are_the_workloads_own() {
    const POLICIES: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: hello}
spec:
  selector: {matchLabels: {app: hello}}
  rules: [{from: [{source: {ipBlocks: [10.88.0.0/16], notIpBlocks: [127.0.0.0/8]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: worker}
spec:
  selector: {matchLabels: {app: worker}}
  action: DENY
  rules: [{from: [{source: {ipBlocks: [10.88.0.0/16]}}]}]
";
    const ASK: &str = "
import urllib.request, urllib.error
for name in ['hello', 'worker']:
    try:
        answer = urllib.request.urlopen(f'http://{name}/', timeout=30)
    except urllib.error.HTTPError as refusal:
        answer = refusal
    print(name, answer.status)
";
    let mesh = MESH
        .replace(
            "- name: worker",
            "- name: worker\n    ports: [{name: http, port: 80, targetPort: 8081}]",
        )
        .replace(
            "[sh, -c, 'echo working; exec sleep 600']",
            "[python3, -m, http.server, '8081']",
        );
    let bench = Bench::new(callers()[0], &format!("{mesh}---{POLICIES}"));
    bench.write("ask.py", ASK);
    let output = bench.run(&["up", "mesh.yaml", "--exec", "python3 ask.py"]);
    let told = text(&output.stdout);
    assert!(output.status.success(), "{told}{}", text(&output.stderr));
    assert!(
        told.contains("hello 200") && told.contains("worker 403"),
        "{told}"
    );
}
