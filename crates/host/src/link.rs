//! The messages between supervisor, keeper and sidecar: JSON in one packet each, descriptors beside them.

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

use crate::supervise::Exit;
use crate::workload::{Addresses, HostResolver};

/// Where the keeper finds its [`crate::workload::Spec`].
pub(crate) const KEEPER_SPEC: RawFd = 3;
/// Where the keeper finds its supervisor.
pub(crate) const KEEPER_CONTROL: RawFd = 4;

/// Supervisor → keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToKeeper {
    /// One descriptor beside it: the link of a new sidecar.
    Sidecar,
    /// Start the app.
    Start,
    /// Pass a signal to the app.
    Signal(i32),
}

/// Keeper → supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromKeeper {
    /// The host's number of the process that is pid 1 inside.
    Init(i32),
    /// Namespaces, rules and sockets stand; the app has not started. Notes are worth a warning each.
    Ready {
        notes: Vec<String>,
    },
    Started,
    /// Nothing was left behind.
    Failed(Failure),
    Exited(Exit),
}

/// Why a workload could not be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// The kernel, a security module or a limit refuses namespaces.
    #[error(
        "namespaces are not allowed here ({0}). One of these allows them: `sysctl user.max_user_namespaces=65536`; on Debian \
         `sysctl kernel.unprivileged_userns_clone=1`; on Ubuntu `sysctl kernel.apparmor_restrict_unprivileged_userns=0` or an \
         AppArmor profile for ripstop with `userns,`; in a container a seccomp profile that permits unshare and mount; or \
         run ripstop as root"
    )]
    Namespaces(String),
    #[error("{0} is needed for capture and was not found: `apt-get install nftables`")]
    Missing(String),
    /// Setting up failed for another reason: what was done, and the system's answer.
    #[error("cannot prepare the workload: {0}")]
    Setup(String),
    /// The command could not be started; `code` is the shell's for it, 126 or 127.
    #[error("cannot start the command: {message}")]
    Command { message: String, code: i32 },
}

/// Keeper → sidecar, the first and only message on its link; a descriptor beside it for each role.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Handover {
    pub(crate) roles: Vec<Role>,
    pub(crate) addresses: Addresses,
    /// Where the app accepts requests.
    pub(crate) target_ports: Vec<u16>,
    pub(crate) host_ports: Vec<u16>,
    pub(crate) resolver: HostResolver,
}

/// What a descriptor is. Each role of sockets may occur twice, v4 and v6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    Outbound,
    DnsDatagrams,
    DnsStreams,
    HostPorts,
    Datagrams,
    /// A queue out of which unconnected in-namespace sockets are taken.
    Supply(Kind),
    /// The table of [`crate::trace`].
    Causes,
    /// The workload's `/proc`, where programs are looked for that the kernel is to follow.
    Processes,
}

/// What a supply holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    StreamV4,
    StreamV6,
    DatagramV4,
    DatagramV6,
}

/// Supervisor → sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Deregister, fail readiness, let inbound requests end, then report [`Report::Drained`]. Outbound goes on.
    Drain,
    /// The application has exited: the same, with nothing left of outbound; what is to be written down is written before
    /// [`Report::Drained`].
    End,
}

/// Sidecar → supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// Outbound, inbound and DNS are served; the app may start.
    Ready,
    Drained,
}
