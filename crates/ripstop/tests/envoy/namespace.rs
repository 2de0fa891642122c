//! A test → the same test in a network namespace of its own, where the addresses of the mesh are local.

use std::process::Command;
use std::time::Duration;

use ripstop_testkit::process::Guard;
use ripstop_testkit::program;

/// Says that we are in there.
const INSIDE: &str = "RIPSTOP_TEST_NAMESPACE";
const LIMIT: Duration = Duration::from_secs(240);

/// Loopback, and what README's section on Envoy asks for.
const PREPARE: &str = "set -e
ip link set lo up
ip route add local 240.240.0.0/16 dev lo
ip -6 route add local 2001:2::/48 dev lo
echo 1 >/proc/sys/net/ipv6/ip_nonlocal_bind
exec \"$0\" \"$@\"";

/// Runs `test`, which is the test `name`, in there. An ordinary user gets a user namespace around it.
pub(crate) fn inside(name: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    program("nft");
    program("ip");
    let mut command = Command::new(program("unshare"));
    command.arg("--net");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args(["--", "sh", "-c", PREPARE])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1");
    let mut child = Guard::spawn(name, &mut command);
    let status = child.wait(LIMIT);
    eprintln!("{}{}", child.stdout(), child.stderr());
    assert!(
        status.success(),
        "in its namespace the test failed, as told above"
    );
}
