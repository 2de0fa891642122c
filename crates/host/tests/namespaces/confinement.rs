//! What an app can and cannot do: its capture, its neighbours, the mesh's state, the rights it keeps.

use ripstop_host::workload::User;

use crate::bench::{Bench, Caller, NOBODY, callers, stderr};

/// Tries to break out, and prints what worked.
const ESCAPES: &str = r#"
import ctypes, os, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
worked = []
def quiet(*words):
    return subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
def attempt(name, action):
    try:
        if action():
            worked.append(name)
    except OSError:
        pass
attempt('nft flush', lambda: quiet('/usr/sbin/nft', 'flush', 'ruleset'))
attempt('ip link', lambda: quiet('/usr/sbin/ip', 'link', 'set', 'lo', 'down'))
attempt('ip route', lambda: quiet('/usr/sbin/ip', 'route', 'flush', 'table', 'local'))
attempt('umount', lambda: quiet('/usr/bin/umount', '/etc/resolv.conf'))
attempt('umount in a namespace of its own', lambda: quiet('/usr/bin/unshare', '-Urm', '/usr/bin/umount', '/etc/resolv.conf'))
for number in (1, os.getpid()):
    for kind, flag in (('net', 0x40000000), ('mnt', 0x20000), ('pid', 0x20000000), ('user', 0x10000000)):
        def enter():
            descriptor = os.open(f'/proc/{number}/ns/{kind}', os.O_RDONLY)
            return libc.setns(descriptor, flag) == 0
        attempt(f'setns {kind} of {number}', enter)
attempt('the root of pid 1', lambda: os.listdir('/proc/1/root'))
attempt('the descriptors of pid 1', lambda: [os.readlink('/proc/1/fd/' + number) for number in os.listdir('/proc/1/fd')])
attempt('the environment of pid 1', lambda: open('/proc/1/environ').read())
attempt('ptrace of pid 1', lambda: libc.ptrace(16, 1, 0, 0) == 0)
def mark():
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, 36, 0x72697073)
        return True
attempt('SO_MARK', mark)
attempt('raw socket', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
attempt('sysctl', lambda: open('/proc/sys/net/ipv4/ip_unprivileged_port_start', 'w'))
attempt('core_pattern', lambda: open('/proc/sys/kernel/core_pattern', 'a'))
attempt('resolv.conf', lambda: open('/etc/resolv.conf', 'a'))
state = sys.argv[1]
attempt('state', lambda: os.listdir(state))
attempt('secret', lambda: open(state + '/secret'))
attempt('control socket', lambda: socket.socket(socket.AF_UNIX).connect(sys.argv[2]) or True)
for number in os.listdir('/proc'):
    if number.isdigit() and int(number) > 1 and 'confine' in os.readlink(f'/proc/{number}/exe'):
        worked.append('sees ' + number)
attempt('pid 1', lambda: os.kill(1, 9))
attempt('sidecar', lambda: os.kill(int(sys.argv[3]), 9) is None)
print(worked)
with socket.create_connection(('192.0.2.1', 80), timeout=30) as s:
    print(s.recv(100).decode().split()[0])
"#;

fn escaping(caller: Caller) -> Bench {
    let mut bench = Bench::python(caller, ESCAPES);
    let state = bench.folder().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("secret"), "key").unwrap();
    let control = bench.folder().join("control.sock");
    let listener = std::os::unix::net::UnixListener::bind(&control).unwrap();
    for path in [&state, &state.join("secret"), &control] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    // Nobody accepts: connecting would succeed all the same.
    std::mem::forget(listener);
    let sidecar = std::process::id();
    bench.spec.command.extend([
        state.display().to_string(),
        control.display().to_string(),
        sidecar.to_string(),
    ]);
    bench.spec.mask = vec![state, control, "/no/such/path".into()];
    bench
}

#[test]
fn an_app_of_its_own_user_cannot_lift_its_capture() {
    for caller in callers() {
        let mut bench = escaping(caller);
        if caller == Caller::Root {
            bench.spec.user = Some(User::lookup("nobody").unwrap());
        }
        assert_eq!(bench.lines(), ["[]", "outbound"], "{caller:?}");
    }
}

#[test]
fn even_a_root_app_has_no_power_over_its_namespaces() {
    if callers().contains(&Caller::Root) {
        assert_eq!(escaping(Caller::Root).lines(), ["[]", "outbound"]);
    }
}

#[test]
fn where_user_namespaces_are_refused_root_is_bounded() {
    // Root in a user namespace in which no further one may be made: what a container's root often is.
    let mut bench = escaping(Caller::Ordinary);
    let limit = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
    bench.wrapper = ["/usr/bin/unshare", "-Ur", "/bin/sh", "-c", limit, "sh"]
        .map(str::to_owned)
        .into();
    assert_eq!(bench.lines(), ["[]", "outbound"]);
}

#[test]
fn refused_namespaces_are_one_clear_error() {
    let mut bench = Bench::shell(Caller::Ordinary, "true");
    let limit = "echo 0 > /proc/sys/user/max_net_namespaces && exec \"$@\"";
    bench.wrapper = ["/usr/bin/unshare", "-Ur", "/bin/sh", "-c", limit, "sh"]
        .map(str::to_owned)
        .into();
    let output = bench.run();
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains("namespaces are not allowed here (unshare: No space left on device)"),
        "{text}"
    );
    assert!(
        text.contains("max_user_namespaces") && text.contains("run ripstop as root"),
        "{text}"
    );
    bench.assert_gone();
}

#[test]
fn root_servers_chown_and_setuid() {
    if !callers().contains(&Caller::Root) {
        return;
    }
    let program = "
import os
open('log', 'w').close()
os.chown('log', 33, 33)
os.setgroups([33]); os.setgid(33); os.setuid(33)
print(os.stat('log').st_uid, os.getuid(), os.getgroups())";
    assert_eq!(Bench::python(Caller::Root, program).lines(), ["33 33 [33]"]);
}

#[test]
fn the_user_is_switched_by_root_and_refused_to_others() {
    let program = "id -u; id -g; id -G; cat /proc/self/status | grep CapEff; ulimit -n";
    for caller in callers() {
        let mut bench = Bench::shell(caller, program);
        bench.spec.user = Some(User::lookup("nobody").unwrap());
        let own = NOBODY.to_string();
        let lines = bench.lines();
        assert_eq!(lines[..3], [own.clone(), own.clone(), own], "{caller:?}");
        assert_eq!(lines[3], "CapEff:\t0000000000000000", "{caller:?}");
    }
    let mut other = Bench::shell(Caller::Ordinary, program);
    other.spec.user = Some(User::lookup("daemon").unwrap());
    let output = other.run();
    assert!(
        stderr(&output).contains("`user: daemon` needs ripstop to run as root"),
        "{}",
        stderr(&output)
    );
    assert!(
        User::lookup("no-such-user")
            .unwrap_err()
            .to_string()
            .contains("useradd --system no-such-user")
    );
}

#[test]
fn the_process_starts_as_a_shell_would_start_it() {
    for caller in callers() {
        let program = "
import os, signal
print(sorted(os.listdir('/proc/self/fd')))
print(signal.pthread_sigmask(signal.SIG_BLOCK, []), os.getppid(), os.getpid() > 1, os.getcwd() == os.environ['FOLDER'])
print(sorted(os.environ))";
        let mut bench = Bench::python(caller, program);
        let folder = bench.folder().display().to_string();
        bench.spec.env = vec![
            ("FOLDER".into(), folder),
            ("LC_CTYPE".into(), "C.UTF-8".into()),
        ];
        let lines = bench.lines();
        // 0, 1, 2 and the folder being listed; nothing that the caller of the supervisor left open.
        assert_eq!(lines[0], "['0', '1', '2', '3']", "{caller:?}");
        assert_eq!(lines[1], "set() 1 True True", "{caller:?}");
        assert_eq!(lines[2], "['FOLDER', 'LC_CTYPE']", "{caller:?}");
        let ignored = Bench::command(caller, &["/bin/grep", "SigIgn", "/proc/self/status"]).lines();
        let ignored = ignored[0].trim_start_matches("SigIgn:\t");
        let ignored = u64::from_str_radix(ignored, 16).unwrap();
        assert_eq!(
            ignored >> (nix::libc::SIGPIPE - 1) & 1,
            0,
            "{caller:?}: Rust ignores SIGPIPE, the app must not"
        );
    }
}
