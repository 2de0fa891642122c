//! A [`Spec`] → addresses, AnyIP routes, sysctls and capture rules of the new network namespace.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;

use super::{namespace, setup};
use crate::capture::{self, Datagrams};
use crate::link::Failure;
use crate::netlink::Routing;
use crate::workload::Spec;

/// `lo` is the first interface of every namespace.
const LOOPBACK: u32 = 1;

pub(super) struct Network {
    /// Whether this kernel speaks IPv6.
    pub(super) v6: bool,
    pub(super) notes: Vec<String>,
}

/// Addresses and routes. After it every address of the workload's families is local.
pub(super) fn build(spec: &Spec) -> Result<Network, Failure> {
    let v6 = Path::new("/proc/net/if_inet6").exists();
    let mut notes = Vec::new();
    // Lets an app without capabilities bind port 80.
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
        .map_err(|error| failed("sysctl", &error))?;
    if v6 {
        // A host that disabled IPv6 by sysctl may hand that to new namespaces.
        let _ = fs::write("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "0");
    }
    let mut routing = Routing::open().map_err(|error| failed("netlink", &error))?;
    routing
        .up(LOOPBACK)
        .map_err(|error| failed("lo up", &error))?;
    for address in spec.addresses.iter() {
        if address.is_ipv6() && !v6 {
            notes.push(format!(
                "this kernel has no IPv6: {address} is not given to the workload"
            ));
            continue;
        }
        add(&mut routing, address)
            .map_err(|error| failed(&format!("address {address}"), &error))?;
    }
    Ok(Network { v6, notes })
}

fn add(routing: &mut Routing, address: IpAddr) -> std::io::Result<()> {
    routing.address(LOOPBACK, address)?;
    routing.local_default(LOOPBACK, address)
}

/// Loads the rules. The answer is a warning when datagrams cannot be relayed on this kernel.
pub(super) fn capture(spec: &Spec) -> Result<Option<String>, Failure> {
    let nft = tool("nft").ok_or_else(|| Failure::Missing("nft".to_owned()))?;
    let load = |datagrams| {
        load(
            &nft,
            &capture::ruleset(spec.addresses, &spec.host_ports, datagrams),
        )
    };
    let Err(refused) = load(Datagrams::Relay)? else {
        return Ok(None);
    };
    match load(Datagrams::Drop)? {
        Ok(()) => Ok(Some(format!(
            "this kernel cannot redirect datagrams (module nft_tproxy), so UDP other than DNS is dropped: {refused}"
        ))),
        Err(text) => Err(Failure::Setup(format!("nft: {text}"))),
    }
}

/// Feeds one transaction to nft; what it said when it refused.
fn load(nft: &Path, rules: &str) -> Result<Result<(), String>, Failure> {
    let mut child = Command::new(nft)
        .args(["-f", "-"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| setup("nft", error))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(rules.as_bytes())
            .map_err(|error| setup("nft", error))?;
    }
    let output = child
        .wait_with_output()
        .map_err(|error| setup("nft", error))?;
    if output.status.success() {
        return Ok(Ok(()));
    }
    Ok(Err(String::from_utf8_lossy(&output.stderr)
        .trim()
        .to_owned()))
}

/// By absolute path: an ordinary user's PATH lacks the sbin folders, and a caller's PATH is not to be trusted with what
/// runs as root.
fn tool(name: &str) -> Option<std::path::PathBuf> {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
}

fn failed(what: &str, error: &std::io::Error) -> Failure {
    match error.raw_os_error() {
        Some(errno) => namespace::refused(what, Errno::from_raw(errno)),
        None => setup(what, error),
    }
}
