//! Who ends takes along what must go, and nothing else.

use ripstop_testkit::process::{Guard, signal_pid};
use ripstop_testkit::wait;

use crate::bench::{Bench, Caller, MESH, PATIENCE, callers, nothing_left, text};

#[test]
fn exec_runs_inside_and_its_code_is_ours() {
    for caller in callers() {
        let bench = Bench::new(caller, MESH);
        let script = "set -e; ./ripstop ps; test -S \"$RIPSTOP_CONTROL\"; test -n \"$RIPSTOP_METRICS\"; \
                      grep -q 'answered by the sidecar' /etc/resolv.conf; exit 7";
        let mut mesh = bench.spawn(&["up", "mesh.yaml", "--exec", script]);
        let status = mesh.wait(PATIENCE);
        assert_eq!(status.code(), Some(7), "{}", mesh.report());
        let said = mesh.stdout();
        assert!(
            said.contains("hello-v1-1.default") && said.contains("client-0.default"),
            "{said}"
        );
        assert!(
            !said.contains("working") && mesh.stderr().contains("worker-0 | working"),
            "{}",
            mesh.report()
        );
        nothing_left(mesh.marker(), &bench.state());
    }
}

#[test]
fn a_command_that_is_not_there_and_one_that_is_killed() {
    let bench = Bench::new(callers()[0], MESH);
    for (command, code) in [("exec no-such-program", 127), ("kill -9 $$", 137)] {
        let output = bench.run(&["up", "mesh.yaml", "--exec", command]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    }
}

#[test]
fn kill_9_of_up_leaves_nothing() {
    for caller in callers() {
        let forks = "[sh, -c, 'setsid sh -c \"sleep 600 & sleep 600\" & exec sleep 600']";
        let bench = Bench::new(
            caller,
            &MESH.replace("[sh, -c, 'echo working; exec sleep 600']", forks),
        );
        let mut mesh = bench.up();
        mesh.kill();
        nothing_left(mesh.marker(), &bench.state());
        // And the state is good for the next.
        assert!(
            bench
                .run(&["up", "mesh.yaml", "--exec", "true"])
                .status
                .success()
        );
    }
}

#[test]
fn whatever_part_is_killed_comes_back() {
    for caller in callers() {
        let bench = Bench::new(caller, MESH);
        let mut mesh = bench.up();
        for (part, said) in [
            ("control --config", "the control plane ended"),
            ("proxy --sidecar", "sidecar ended"),
            (
                "keeper hello-v1-0",
                "hello-v1-0.default was killed with its keeper",
            ),
        ] {
            let pid = bench.process(&mesh, part);
            signal_pid(pid, libc::SIGKILL).unwrap();
            mesh.line_with(said, PATIENCE);
            wait::until_true(PATIENCE, "the mesh to be whole again", || {
                bench.run(&["wait"]).status.success()
            });
            assert_ne!(bench.process(&mesh, part), pid);
        }
        assert!(mesh.terminate(PATIENCE).success(), "{}", mesh.report());
        nothing_left(mesh.marker(), &bench.state());
    }
}

#[test]
fn detached_until_down() {
    for caller in callers() {
        let bench = Bench::new(caller, MESH);
        let mut starter = bench.spawn(&["up", "mesh.yaml", "--detach"]);
        assert!(starter.wait(PATIENCE).success(), "{}", starter.report());
        assert!(
            starter.stdout().contains("hello-v1-0.default"),
            "{}",
            starter.report()
        );
        let down = bench.run(&["down"]);
        assert!(down.status.success() && text(&down.stdout).contains("tested is down"));
        nothing_left(starter.marker(), &bench.state());
        assert_eq!(bench.run(&["down"]).status.code(), Some(1));
    }
}

#[test]
fn a_detached_mesh_that_fails_says_so() {
    let bench = Bench::new(
        callers()[0],
        &MESH.replace("[python3, -m", "[no-such-program, -m"),
    );
    let mut starter = bench.spawn(&["up", "mesh.yaml", "--detach"]);
    assert_eq!(
        starter.wait(PATIENCE).code(),
        Some(127),
        "{}",
        starter.report()
    );
    assert!(starter.stderr().contains("no-such-program"));
}

#[test]
fn run_joins_a_mesh_and_leaves_it() {
    for caller in callers() {
        let bench = Bench::new(caller, MESH);
        let mut mesh = bench.up();
        let joined = [
            "run",
            "--service",
            "late",
            "--port",
            "http=80:8090",
            "--label",
            "version=v9",
            "--",
        ];
        let mut joining =
            bench.spawn(&[&joined[..], &["python3", "-m", "http.server", "8090"]].concat());
        wait::until_true(PATIENCE, "the newcomer to be ready", || {
            text(&bench.run(&["ps"]).stdout).contains("late-0.default")
                && bench.run(&["wait", "late"]).status.success()
        });
        let status = joining.terminate(PATIENCE);
        assert_eq!(
            status.code(),
            Some(128 + libc::SIGTERM),
            "{}",
            joining.report()
        );
        assert!(!text(&bench.run(&["ps"]).stdout).contains("late-0.default"));
        let output = bench.run(&[
            "run",
            "--service-account",
            "client",
            "--",
            "sh",
            "-c",
            "exit 5",
        ]);
        assert_eq!(output.status.code(), Some(5));
        nothing_left(joining.marker(), &bench.path("none"));
        assert!(mesh.terminate(PATIENCE).success());
    }
}

/// What an app tries against its own mesh; what works is written to `worked`. Its sidecar and the state are not hidden by
/// their modes: an app that is root in its namespace is refused as well.
const TRIES: &str = "
import os, signal, sys, urllib.request
def works(what, action):
    try:
        action()
        open('worked', 'a').write(what + '\\n')
    except (OSError, IndexError):
        pass
state, sidecar = sys.argv[1], int(open('sidecar').read())
for name in ('ca.key', 'state.redb', 'control.sock'):
    works(name, lambda: os.stat(os.path.join(state, name)))
works('the state folder', lambda: os.listdir(state)[0])
works('a signal', lambda: os.kill(sidecar, signal.SIGKILL))
works('its memory', lambda: open(f'/proc/{sidecar}/mem'))
works('its namespaces', lambda: os.open(f'/proc/{sidecar}/ns/net', os.O_RDONLY))
for words in ('nft flush ruleset', 'ip link set lo down', f'nsenter -t {sidecar} -n true', 'nsenter -t 1 -m true'):
    if os.spawnvp(os.P_WAIT, words.split()[0], words.split()) == 0:
        open('worked', 'a').write(words + '\\n')
page = urllib.request.urlopen('http://hello/', timeout=30)
open('tried', 'w').write(str(page.headers.get('server')))
";

#[test]
fn an_app_has_no_power_over_its_mesh() {
    for caller in callers() {
        let users: &[&str] = match caller {
            Caller::Root => &["", ", user: nobody"],
            Caller::Ordinary => &[""],
        };
        for user in users {
            let bench = Bench::new(caller, "");
            let tries = "[sh, -c, 'PATH=$PATH:/usr/sbin; until test -e sidecar; do sleep 0.1; done; \
                python3 tries.py STATE; exec sleep 600']";
            let mesh = MESH.replace(
                "[sh, -c, 'echo working; exec sleep 600']",
                &format!("{tries}{user}"),
            );
            bench.write(
                "mesh.yaml",
                &mesh.replace("STATE", &bench.state().display().to_string()),
            );
            bench.write("tries.py", TRIES);
            let mut mesh = bench.up();
            let keeper = bench.process(&mesh, "keeper worker-0");
            let sidecar = bench.process(&mesh, "proxy --sidecar");
            assert_ne!(keeper, sidecar);
            bench.write(".sidecar", &sidecar.to_string());
            std::fs::rename(bench.path(".sidecar"), bench.path("sidecar")).unwrap();
            wait::until_true(PATIENCE, "the app to try", || {
                std::fs::read_to_string(bench.path("tried")).is_ok_and(|said| !said.is_empty())
            });
            let worked = std::fs::read_to_string(bench.path("worked")).unwrap_or_default();
            assert_eq!(worked, "", "{caller:?}{user}");
            assert!(mesh.terminate(PATIENCE).success());
        }
    }
}

#[test]
fn a_published_port_lets_clients_in() {
    for caller in callers() {
        let port = ripstop_testkit::port::reserve();
        let publish = format!("targetPort: 8080, publish: {}", port.number());
        let addr = port.addr();
        let bench = Bench::new(caller, &MESH.replace("targetPort: 8080", &publish));
        let mut mesh = bench.up();
        assert!(text(&bench.run(&["ps"]).stdout).contains(&format!("{addr}→80")));
        let answer = ripstop_testkit::http::get(addr, "hello", "/").unwrap();
        assert_eq!(answer.status, 200);
        assert!(mesh.terminate(PATIENCE).success());
    }
}

/// Replicas share a published port: one that was killed gets its share again, and nobody meets one that is not ready.
#[test]
fn replicas_share_a_published_port() {
    let port = ripstop_testkit::port::reserve();
    let addr = port.addr();
    let mesh = MESH.replace(
        "targetPort: 8080",
        &format!("targetPort: 8080, publish: {}", port.number()),
    );
    let bench = Bench::new(callers()[0], &mesh);
    let mut mesh = bench.up();
    let serves =
        || ripstop_testkit::http::get(addr, "hello", "/").is_ok_and(|answer| answer.status == 200);
    assert!(serves());
    for app in 0..2 {
        let pid = bench.process(&mesh, &format!("keeper hello-v1-{app}"));
        signal_pid(pid, libc::SIGKILL).unwrap();
        mesh.line_with(
            &format!("hello-v1-{app}.default was killed with its keeper"),
            PATIENCE,
        );
        wait::until_true(PATIENCE, "the mesh to be whole again", || {
            // Whoever comes meanwhile meets the other replica.
            assert!(serves());
            bench.run(&["wait"]).status.success()
        });
    }
    assert!(mesh.terminate(PATIENCE).success());
}

/// Clients outside share what is ready: a workload that is not has its port closed.
#[test]
fn who_is_not_ready_is_not_published() {
    let port = ripstop_testkit::port::reserve();
    let sulking = "
    - name: hello-sulking
      command: [python3, -m, http.server, '8080']
      readiness: {http: {path: /missing}}
  - name: worker";
    let mesh = MESH
        .replace(
            "targetPort: 8080",
            &format!("targetPort: 8080, publish: {}", port.number()),
        )
        .replace("\n  - name: worker", sulking);
    let bench = Bench::new(callers()[0], &mesh);
    let mut mesh = bench.spawn(&["up", "mesh.yaml"]);
    wait::until_true(PATIENCE, "all but one to be ready", || {
        text(&bench.run(&["ps"]).stdout).contains(" 2/3 ")
    });
    wait::until_true(PATIENCE, "the published port", || {
        ripstop_testkit::http::get(port.addr(), "hello", "/").is_ok()
    });
    for _ in 0..30 {
        let answer = ripstop_testkit::http::get(port.addr(), "hello", "/from-outside").unwrap();
        // The application's own word, not a proxy's.
        assert_eq!(
            (answer.status, answer.header("x-ripstop-reason")),
            (404, None)
        );
    }
    mesh.terminate(PATIENCE);
    let said = mesh.stdout();
    let asked = |name: &str| {
        said.lines()
            .any(|line| line.starts_with(name) && line.contains("/from-outside"))
    };
    assert!(
        asked("hello-v1-0 ") && asked("hello-v1-1 ") && !asked("hello-sulking-0 "),
        "{said}"
    );
}

#[test]
fn nobody_needs_to_read_what_is_said() {
    let bench = Bench::new(
        callers()[0],
        // What it writes comes out of ours.
        &MESH.replace("echo working;", "while sleep 0.1; do echo working; done &"),
    );
    let unread = |words: &[&str]| Guard::spawn_unread(words[0], &mut bench.command(words));
    let mut mesh = unread(&["up", "mesh.yaml"]);
    wait::until_true(PATIENCE, "the mesh to be up", || {
        assert_eq!(mesh.exited(), None);
        // While nothing is registered there is nothing to wait for.
        text(&bench.run(&["ps"]).stdout).contains("worker-0.default")
            && bench.run(&["wait"]).status.success()
    });
    bench.write("broken.yaml", &MESH.replace("replicas: 2", "replikas: 2"));
    for (words, code) in [
        (&["ps"][..], 0),
        (&["ps", "--json"], 0),
        (&["status"], 0),
        (&["get"], 0),
        (&["get", "no-such-kind"], 1),
        (&["analyze", "broken.yaml"], 1),
        (&["completion", "bash"], 0),
        (&["top", "--interval", "100ms"], 0),
        (&["--help"], 0),
        (&["no-such-command"], 2),
    ] {
        let ended = unread(words).wait(PATIENCE);
        assert_eq!(ended.code(), Some(code), "{words:?}");
    }
    let full = std::fs::File::create("/dev/full").unwrap();
    let output = bench.command(&["ps"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("No space left on device"));
    // What it tells of a change is lost, the change is not.
    assert!(text(&bench.run(&["ps"]).stdout).contains("hello-v1-1.default"));
    bench.write("mesh.yaml", &MESH.replace("replicas: 2", "replicas: 1"));
    wait::until_true(PATIENCE, "the change to be in force", || {
        !text(&bench.run(&["ps"]).stdout).contains("hello-v1-1.default")
    });
    assert!(mesh.terminate(PATIENCE).success());
}
