//! Bad input: each a clear error that says what to do, nothing started, nothing lost.

use std::net::TcpListener;

use crate::bench::{Bench, MESH, callers, nothing_left, text};

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
    let bench = Bench::new(
        crate::bench::Caller::Ordinary,
        &MESH.replace("replicas: 2", "user: root"),
    );
    if callers().contains(&crate::bench::Caller::Root) {
        refused(&bench, 1, &["`user: root`", "run ripstop as root"]);
    }
}
