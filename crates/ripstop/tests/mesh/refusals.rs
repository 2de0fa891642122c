//! Bad input: each a clear error that says what to do, nothing started, nothing lost.

use std::net::TcpListener;

use crate::bench::{Bench, Caller, MESH, callers, nothing_left, text};

/// Expects `up` to end with `code` and to say all of `words`.
fn refused(bench: &Bench, code: i32, words: &[&str]) {
    let output = bench.run(&["up", "mesh.yaml"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    nothing_left(&bench.state().display().to_string(), &bench.path("ripstop"));
}

#[test]
fn a_broken_file_is_told_whole_and_starts_nothing() {
    for caller in callers() {
        let bench = Bench::new(
            caller,
            &MESH
                .replace("replicas: 2", "replicas: two")
                .replace("ports:", "prts:"),
        );
        refused(
            &bench,
            1,
            &[
                "nothing was started",
                "2 errors",
                "did you mean `ports`?",
                "mesh.yaml:11:17",
            ],
        );
        assert!(!bench.state().exists());
    }
}

#[test]
fn a_missing_command_ends_with_the_shells_code() {
    for caller in callers() {
        let bench = Bench::new(
            caller,
            &MESH.replace("[python3, -m", "[no-such-program, -m"),
        );
        refused(&bench, 127, &["no-such-program", "hello-v1-"]);
    }
}

#[test]
fn a_port_in_use_is_named() {
    for caller in callers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let bench = Bench::new(
            caller,
            &MESH.replace(
                "targetPort: 8080",
                &format!("targetPort: 8080, publish: {port}"),
            ),
        );
        refused(
            &bench,
            1,
            &[
                "hello cannot publish on",
                &port.to_string(),
                "stop what listens there",
            ],
        );
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    for caller in callers() {
        let bench = Bench::new(caller, &MESH.replace("spec:", "spec:\n  config: [./gone]"));
        refused(&bench, 1, &["`config` of mesh.yaml", "gone"]);
    }
}

/// R3.2: what is sound serves, the bad resource closes the host that it names and is told with its place.
#[test]
fn a_bad_resource_in_the_folder_keeps_nobody_from_starting() {
    const CONFIG: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: worker}
spec:
  hosts: [worker]
  http: [{timeoot: 3s, route: [{destination: {host: worker}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: hello}
spec:
  hosts: [hello]
  http: [{headers: {response: {set: {x-ruled: 'yes'}}}, route: [{destination: {host: hello}}]}]
";
    const ASK: &str = "
import urllib.request, urllib.error
print('hello', urllib.request.urlopen('http://hello/', timeout=30).headers['x-ruled'])
try:
    urllib.request.urlopen('http://worker/', timeout=30)
except urllib.error.HTTPError as refusal:
    print('worker', refusal.status, refusal.read().decode())
";
    let mesh = MESH
        .replace("spec:", "spec:\n  config: [./config]")
        .replace(
            "- name: worker",
            "- name: worker\n    ports: [{name: http, port: 80, targetPort: 8081}]",
        )
        .replace(
            "[sh, -c, 'echo working; exec sleep 600']",
            "[python3, -m, http.server, '8081']",
        );
    let bench = Bench::new(callers()[0], &mesh);
    std::fs::create_dir(bench.path("config")).unwrap();
    bench.write("config/rules.yaml", CONFIG);
    bench.write("ask.py", ASK);
    let output = bench.run(&["up", "mesh.yaml", "--exec", "python3 ask.py"]);
    let (told, said) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{told}{said}");
    assert!(told.contains("hello yes"), "{told}{said}");
    assert!(
        told.contains("worker 503 VirtualService/default/worker is not accepted"),
        "{told}{said}"
    );
    assert!(
        said.contains("rules.yaml:7:") && said.contains("timeoot"),
        "{said}"
    );
}

#[test]
fn corrupt_state_is_never_replaced() {
    for caller in callers() {
        let bench = Bench::new(caller, MESH);
        assert!(
            bench
                .run(&["up", "mesh.yaml", "--exec", "true"])
                .status
                .success()
        );
        let state = bench.state().join("state.redb");
        std::fs::write(&state, b"not what it was").unwrap();
        refused(
            &bench,
            1,
            &["state.redb", "cannot be read", "Restore it from a copy"],
        );
        assert_eq!(std::fs::read(&state).unwrap(), b"not what it was");
    }
}

#[test]
fn a_second_mesh_on_the_same_state_is_refused() {
    for caller in callers() {
        let bench = Bench::new(caller, MESH);
        let mut mesh = bench.up();
        let second = bench.run(&["up", "mesh.yaml"]);
        assert_eq!(second.status.code(), Some(1));
        let said = text(&second.stderr);
        assert!(
            said.contains("runs already") && said.contains(&mesh.pid().to_string()),
            "{said}"
        );
        assert!(bench.run(&["wait"]).status.success());
        assert!(mesh.terminate(crate::bench::PATIENCE).success());
    }
}

#[test]
fn commands_without_a_mesh_say_how_to_get_one() {
    for caller in callers() {
        let bench = Bench::new(caller, MESH);
        for words in [
            &["ps"][..],
            &["status"],
            &["get"],
            &["wait"],
            &["run", "--service-account", "a", "--", "true"],
        ] {
            let output = bench.run(words);
            assert_eq!(output.status.code(), Some(1), "{words:?}");
            assert!(
                text(&output.stderr).contains("ripstop up FILE"),
                "{words:?}"
            );
        }
    }
}

#[test]
fn only_root_may_choose_a_user() {
    let bench = Bench::new(Caller::Ordinary, &MESH.replace("replicas: 2", "user: root"));
    if callers().contains(&Caller::Root) {
        refused(&bench, 1, &["`user: root`", "run ripstop as root"]);
    }
}

/// Maps every id, then forbids namespaces below and gives up being root. The second shell is for its capabilities: the
/// first was started before any id was mapped.
const FORBIDDEN: &str = r#"
unshare --user sh -c 'until grep -q 65536 /proc/self/gid_map; do sleep 0.01; done; exec sh -c "$0"' "
  echo 0 >/proc/sys/user/max_user_namespaces
  exec setpriv --reuid=65534 --regid=65534 --clear-groups ./ripstop up mesh.yaml" &
until test "$(readlink /proc/$!/ns/user)" != "$(readlink /proc/self/ns/user)"; do sleep 0.01; done
echo 0 0 65536 >/proc/$!/uid_map
echo 0 0 65536 >/proc/$!/gid_map
wait $!"#;

#[test]
fn forbidden_user_namespaces_are_told_with_the_remedy() {
    if !callers().contains(&Caller::Root) {
        return;
    }
    let bench = Bench::new(Caller::Root, MESH);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", FORBIDDEN]).current_dir(bench.path(""));
    command.env("RIPSTOP_STATE", bench.state());
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for word in [
        "namespaces are not allowed here",
        "user.max_user_namespaces",
        "run ripstop as root",
    ] {
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
    nothing_left(&bench.state().display().to_string(), &bench.path("ripstop"));
}
