//! `ripstop control` as a process of its own, and `ripstop run` beside it: what each says when something is wrong, and that nothing
//! is lost.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use ripstop_testkit::wait;

use crate::lab::{Host, Lab, PATIENCE, STRICT, callers, text, with_rights};

/// Expects `ripstop control` to end with an error that says all of `words`.
fn refused(host: &Host, more: &[&str], words: &[&str]) {
    let mut asked = [&["control", "--state", "state"], more].concat();
    for port in ["--xds", "--xds-tls", "--monitoring"] {
        if !more.contains(&port) {
            asked.extend([port, "127.0.0.1:0"]);
        }
    }
    let output = host.run(&asked);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn what_is_wrong_is_told_and_nothing_is_lost() {
    with_rights("control::what_is_wrong_is_told_and_nothing_is_lost", || {
        let lab = Lab::new(callers()[0], &["a"]);
        let a = lab.host("a");
        a.write("config/mesh.yaml", STRICT);
        let mut control = a.control(&[]);
        let identity = |name: &str| {
            let made = a.run(&["token", "create", "--state", "state", "--service", name]);
            let made = text(&made.stdout);
            let line = made.lines().find(|line| line.contains("rootSha256"));
            line.unwrap().trim().to_owned()
        };
        let root = identity("x");
        refused(
            a,
            &["--config", "config"],
            &["state.redb", "in use by another control plane"],
        );
        let status = || text(&a.run(&["status", "--state", "state"]).stdout);
        assert!(status().contains("PeerAuthentication/mesh-root/default"));
        // What it said last stays in force.
        std::fs::rename(a.path("config"), a.path("away")).unwrap();
        wait::until_true(PATIENCE, "the loss to be told", || {
            let status = status();
            let told = status
                .lines()
                .any(|line| line.contains("config") && line.contains("No such file"));
            told && status.contains("PeerAuthentication/mesh-root/default")
        });
        std::fs::rename(a.path("away"), a.path("config")).unwrap();
        wait::until_true(PATIENCE, "the folder to be read again", || {
            !status().contains("No such file")
        });
        assert!(
            control.terminate(PATIENCE).success(),
            "{}",
            control.report()
        );

        let keys = a.path("state/ca.key");
        std::fs::set_permissions(&keys, PermissionsExt::from_mode(0o644)).unwrap();
        refused(a, &[], &["ca.key", "others can read it", "chmod 600"]);
        std::fs::set_permissions(&keys, PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::rename(&keys, a.path("keys")).unwrap();
        refused(
            a,
            &["--config", "config"],
            &["not its keys", "restore the file"],
        );
        std::fs::rename(a.path("keys"), &keys).unwrap();
        let (state, good) = (a.path("state/state.redb"), a.path("good"));
        std::fs::copy(&state, &good).unwrap();
        std::fs::write(&state, b"not what it was").unwrap();
        refused(
            a,
            &[],
            &["state.redb", "cannot be read", "Restore it from a copy"],
        );
        assert_eq!(std::fs::read(&state).unwrap(), b"not what it was");
        std::fs::copy(&good, &state).unwrap();
        refused(
            a,
            &["--trust-domain", "other"],
            &["trust domain `cluster.local`", "other"],
        );
        refused(a, &["--xds", "10.9.0.1:0"], &["loopback only", "--xds-tls"]);
        let control = a.control(&[]);
        assert_eq!(identity("y"), root);
        drop(control);
    });
}

#[test]
fn a_port_in_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (option, what) in [
        ("--xds", "plain-text xDS"),
        ("--xds-tls", "xDS over TLS"),
        ("--monitoring", "monitoring"),
    ] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ripstop"));
        command
            .arg("control")
            .arg("--state")
            .arg(folder.path().join("state"));
        for other in ["--xds", "--xds-tls", "--monitoring"] {
            command.args([
                other,
                if other == option {
                    &taken
                } else {
                    "127.0.0.1:0"
                },
            ]);
        }
        let output = command.output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(&taken) && said.contains(what) && said.contains("another port"),
            "{said}"
        );
    }
}

#[test]
fn run_is_as_good_as_the_command() {
    with_rights("control::run_is_as_good_as_the_command", || {
        for caller in callers() {
            let lab = Lab::new(caller, &["a"]);
            let a = lab.host("a");
            a.write("config/mesh.yaml", STRICT);
            let _control = a.control(&[]);
            let joined = [
                "run",
                "--state",
                "state",
                "--service",
                "app",
                "--port",
                "80:8080",
                "--",
            ];
            let code = |command: &[&str]| {
                let output = a.run(&[&joined[..], command].concat());
                (output.status.code(), text(&output.stderr))
            };
            assert_eq!(code(&["sh", "-c", "exit 5"]).0, Some(5));
            assert_eq!(code(&["sh", "-c", "kill -9 $$"]).0, Some(137));
            let (missing, said) = code(&["no-such-program"]);
            assert!(
                missing == Some(127) && said.contains("no-such-program"),
                "{said}"
            );
            a.write("not-a-program", "x");
            let (forbidden, said) = code(&["./not-a-program"]);
            assert!(
                forbidden == Some(126) && said.contains("not-a-program"),
                "{said}"
            );
            let script = "trap 'echo got HUP' HUP; trap 'echo got USR1' USR1; trap 'echo got USR2' USR2; trap 'echo got QUIT' QUIT; \
                          trap 'echo got CONT' CONT; trap 'echo got INT; exit 9' INT; echo ready; while :; do sleep 0.05; done";
            let mut running = a.spawn(&[&joined[..], &["sh", "-c", script]].concat());
            running.line_with("ready", PATIENCE);
            for (signal, name) in [
                (libc::SIGHUP, "HUP"),
                (libc::SIGUSR1, "USR1"),
                (libc::SIGUSR2, "USR2"),
                (libc::SIGQUIT, "QUIT"),
                (libc::SIGCONT, "CONT"),
            ] {
                running.signal(signal);
                running.line_with(&format!("got {name}"), PATIENCE);
            }
            running.signal(libc::SIGINT);
            assert_eq!(
                running.wait(PATIENCE).code(),
                Some(9),
                "{}",
                running.report()
            );
            assert!(running.stdout().contains("got INT"));
            assert!(!a.ps().contains("app-0.default"));
        }
    });
}
