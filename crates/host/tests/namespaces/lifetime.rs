//! Exits, signals, output, and who dies with whom.

use nix::sys::signal::Signal;
use ripstop_host::workload::Stdio;

use crate::bench::{Bench, Caller, Running, callers, eventually, kill, stderr};

/// Starts children that leave their parent, their session and their group, and waits. Their command line names the
/// bench's folder, which is how the test finds them.
fn forking(caller: Caller) -> Bench {
    let program = "
import os, sys, time
def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv('/usr/bin/python3', ['python3', '-c', 'import time; time.sleep(600)', os.getcwd()])
        os._exit(0)
    os.wait()
daemon(); daemon()
open('forked', 'w').close()
time.sleep(600)";
    let mut bench = Bench::python(caller, program);
    let folder = bench.folder().display().to_string();
    bench.spec.command.push(folder);
    bench
}

/// Until the daemons run.
fn forked(bench: &Bench) -> Running {
    let running = bench.start();
    eventually("the daemons", || {
        let daemons = bench
            .processes()
            .iter()
            .filter(|(_, words)| words.contains("-c import time; time.sleep(600) /"))
            .count();
        if daemons == 2 && bench.folder().join("forked").exists() {
            Ok(())
        } else {
            Err(format!("{daemons}"))
        }
    });
    running
}

#[test]
fn exit_codes_and_signals_are_reported() {
    for caller in callers() {
        assert_eq!(Bench::shell(caller, "exit 7").run().status.code(), Some(7));
        let output = Bench::shell(caller, "kill -TERM $$").run();
        assert_eq!(output.status.code(), Some(128 + 15), "{}", stderr(&output));
        assert!(
            stderr(&output).contains("Signal(15)"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn a_command_that_cannot_start_says_why() {
    for caller in callers() {
        let missing = Bench::command(caller, &["no-such-program"]).run();
        assert_eq!(missing.status.code(), Some(127));
        assert!(
            stderr(&missing).contains("no-such-program: No such file or directory (in its PATH)"),
            "{}",
            stderr(&missing)
        );
        let refused = Bench::command(caller, &["/etc/hostname"]).run();
        assert_eq!(refused.status.code(), Some(126), "{}", stderr(&refused));
        let mut bench = Bench::shell(caller, "true");
        bench.spec.cwd = "/no/such/folder".into();
        let folder = bench.run();
        assert!(
            stderr(&folder).contains("folder /no/such/folder"),
            "{}",
            stderr(&folder)
        );
        bench.assert_gone();
    }
}

#[test]
fn every_problem_of_a_spec_is_told() {
    let mut bench = Bench::command(Caller::Ordinary, &[]);
    bench.spec.host_ports = vec![8080];
    let output = bench.run();
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains("no command") && text.contains("8080 is also a port of the app"),
        "{text}"
    );
}

#[test]
fn sigterm_drains_and_reaches_the_app() {
    for caller in callers() {
        // Not pid 1: the default action of SIGTERM works.
        let plain = Bench::shell(caller, "test $$ != 1 || exit 9; exec sleep 600");
        let running = plain.start();
        running.told("sidecar");
        running.signal(Signal::SIGTERM);
        assert_eq!(running.finish().status.code(), Some(128 + 15), "{caller:?}");
        plain.assert_gone();

        let handling = Bench::shell(
            caller,
            "trap 'echo hup' HUP; trap 'exit 3' TERM; touch ready; while :; do sleep 0.1; done",
        );
        let running = handling.start();
        eventually("ready", || {
            handling
                .folder()
                .join("ready")
                .exists()
                .then_some(())
                .ok_or_else(String::new)
        });
        running.signal(Signal::SIGHUP);
        std::thread::sleep(std::time::Duration::from_millis(500));
        running.signal(Signal::SIGTERM);
        let output = running.finish();
        assert_eq!(
            (output.status.code(), &output.stdout[..]),
            (Some(3), &b"hup\n"[..]),
            "{caller:?}"
        );
        handling.assert_gone();
    }
}

#[test]
fn an_app_that_ignores_sigterm_is_killed_after_its_grace() {
    for caller in callers() {
        let bench = Bench::shell(
            caller,
            "trap '' TERM; touch ready; while :; do sleep 0.1; done",
        );
        let running = bench.start();
        eventually("ready", || {
            bench
                .folder()
                .join("ready")
                .exists()
                .then_some(())
                .ok_or_else(String::new)
        });
        running.signal(Signal::SIGTERM);
        assert_eq!(running.finish().status.code(), Some(137), "{caller:?}");
        bench.assert_gone();
    }
}

#[test]
fn the_apps_exit_takes_its_daemons_along() {
    for caller in callers() {
        let mut bench = forking(caller);
        let program = &mut bench.spec.command[2];
        *program = program.replace("\ntime.sleep(600)", "\nsys.exit(5)");
        assert_eq!(bench.run().status.code(), Some(5), "{caller:?}");
        bench.assert_gone();
    }
}

#[test]
fn killing_either_keeper_process_leaves_nothing_and_is_told() {
    for caller in callers() {
        for which in [0, 1] {
            let bench = forking(caller);
            let running = forked(&bench);
            let keeper = running.told("keeper");
            kill(keeper[which], Signal::SIGKILL);
            let output = running.finish();
            assert_eq!(
                output.status.code(),
                Some(137),
                "{caller:?} {}",
                stderr(&output)
            );
            assert!(stderr(&output).contains("Lost"), "{}", stderr(&output));
            bench.assert_gone();
        }
    }
}

#[test]
fn killing_the_supervisor_leaves_nothing() {
    for caller in callers() {
        let bench = forking(caller);
        let running = forked(&bench);
        assert!(bench.processes().len() >= 7, "{:?}", bench.processes());
        running.signal(Signal::SIGKILL);
        running.finish();
        bench.assert_gone();
    }
}

#[test]
fn killing_the_sidecar_leaves_the_app_alone() {
    for caller in callers() {
        let bench = forking(caller);
        let running = forked(&bench);
        let mut last = running.told("sidecar");
        for restarts in 1..=2 {
            kill(last[0], Signal::SIGKILL);
            last = running.told("sidecar");
            assert_eq!(last[1], restarts, "{caller:?}");
        }
        running.signal(Signal::SIGTERM);
        assert_eq!(running.finish().status.code(), Some(143), "{caller:?}");
        bench.assert_gone();
    }
}

#[test]
fn piped_output_reaches_the_supervisor() {
    for caller in callers() {
        let mut bench = Bench::shell(
            caller,
            "cat; echo words; echo again > /dev/stdout; echo wrong >&2; exit 4",
        );
        bench.spec.stdio = Stdio::Piped;
        let output = bench.run();
        assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "piped: words\nagain\n",
            "{caller:?}"
        );
        assert!(stderr(&output).contains("wrong"));
    }
}

/// Runs its arguments on a terminal, types, and prints what the terminal shows.
const TERMINAL: &str = r#"
import os, pty, signal, sys
def late(*_):
    sys.exit(f'only {shown}')
signal.signal(signal.SIGALRM, late)
signal.alarm(90)
pid, terminal = pty.fork()
if pid == 0:
    os.execv('/bin/sh', ['sh', '-c', '"$@"; code=$?; read line; echo "back with $code and $line"; exit $code', 'sh'] + sys.argv[1:])
shown = b''
def until(word):
    global shown
    while word not in shown:
        shown += os.read(terminal, 1000)
until(b'name?')
os.write(terminal, b'nobody\n')
until(b'hello nobody')
os.write(terminal, b'\x1a')
until(b'continued')
os.write(terminal, b'\x03')
until(b'interrupted')
until(b'ended')
os.write(terminal, b'words\n')
until(b'back with')
try:
    while True: shown += os.read(terminal, 1000)
except OSError:
    pass
sys.stdout.write(shown.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

#[test]
fn an_app_on_a_terminal_has_the_keyboard_and_gives_it_back() {
    for caller in callers() {
        let program = "
import os, signal, sys, time
signal.signal(signal.SIGCONT, lambda *_: os.write(1, b'continued\\n'))
try:
    name = input('name?')
    os.write(1, b'hello ' + name.encode() + b'\\n')
    while True: time.sleep(0.1)
except KeyboardInterrupt:
    os.write(1, b'interrupted\\n')
    sys.exit(6)";
        let mut bench = Bench::python(caller, program);
        bench.spec.stdio = Stdio::Terminal;
        bench.wrapper = ["/usr/bin/python3", "-c", TERMINAL]
            .map(str::to_owned)
            .into();
        let output = bench.run();
        let shown = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            output.status.code(),
            Some(6),
            "{caller:?} {shown} {}",
            stderr(&output)
        );
        assert!(
            shown.contains("back with 6 and words"),
            "{caller:?} {shown}"
        );
        bench.assert_gone();
    }
}
