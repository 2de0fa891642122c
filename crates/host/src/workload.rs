//! What a caller wants of one workload replica → a checked [`Spec`] that the keeper can build.
//!
//! Everything the environment decides (the user database, the host's resolv.conf) is resolved here, at the edge, by
//! functions that take it as an argument; the keeper only executes.

use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ripstop_model::seam::Producer;
use serde::{Deserialize, Serialize};

use crate::capture;

/// One replica of a workload: who it is, where it lives and what it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// The service it belongs to, without namespace (`orders`).
    pub service: String,
    /// The mesh namespace (not a kernel one).
    pub namespace: String,
    pub service_account: String,
    /// The workload's name (`orders-v1`).
    pub workload: String,
    /// 0-based.
    pub replica: u32,
    pub addresses: Addresses,
    /// Ports the app listens on (target ports).
    #[serde(default)]
    pub target_ports: Vec<u16>,
    /// Ports of the host's loopback that the app may reach as `host.ripstop.internal` or on its own loopback.
    #[serde(default)]
    pub host_ports: Vec<u16>,
    /// Program and arguments. A program without `/` is looked up in `env`'s PATH.
    pub command: Vec<String>,
    /// The whole environment of the app; nothing is inherited.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Absolute. Entered before `command` is looked up.
    pub cwd: PathBuf,
    /// `None`: the caller.
    #[serde(default)]
    pub user: Option<User>,
    #[serde(default)]
    pub stdio: Stdio,
    /// Files, sockets and folders hidden from the app, beside those of nscd and systemd-resolved, which always are.
    /// Missing ones are passed over.
    #[serde(default)]
    pub mask: Vec<PathBuf>,
    #[serde(default)]
    pub resolver: HostResolver,
    /// Who notes in the app's process what causes its outbound requests (see [`crate::trace`]).
    #[serde(default)]
    pub hooks: Vec<Producer>,
}

/// The workload's own addresses, the "pod IP". At least one family; the app sees only the families given here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

impl Addresses {
    /// v4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v6 = self.v6.map(IpAddr::V6);
        self.v4.map(IpAddr::V4).into_iter().chain(v6)
    }
}

/// What the app's stdin, stdout and stderr are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stdio {
    /// The supervisor's own.
    #[default]
    Inherit,
    /// As `Inherit`, and while it runs the app is the foreground job of the terminal at stdin (if there is one, and the
    /// supervisor is): it reads the keyboard, and Ctrl-C goes to it alone. What a shell in a workload needs; a server
    /// is better off with `Inherit`, where Ctrl-C reaches the supervisor, which drains first.
    Terminal,
    /// stdin from `/dev/null`, stdout and stderr through pipes (see [`crate::supervise::Running::output`]).
    Piped,
    /// `/dev/null`.
    Null,
}

/// Whom the app runs as, already looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, `gid` included or not.
    pub groups: Vec<u32>,
    pub home: PathBuf,
}

impl User {
    /// Looks `name` (or a number) up in the host's user database.
    ///
    /// # Errors
    /// Unknown users, and an unreadable database.
    pub fn lookup(name: &str) -> Result<User, UserError> {
        let found = match name.parse::<u32>() {
            Ok(uid) => nix::unistd::User::from_uid(uid.into()),
            Err(_) => nix::unistd::User::from_name(name),
        }
        .map_err(|error| UserError::Database(error.into()))?
        .ok_or_else(|| UserError::Unknown(name.to_owned()))?;
        let groups = CString::new(found.name.as_bytes())
            .ok()
            .and_then(|name| nix::unistd::getgrouplist(&name, found.gid).ok())
            .unwrap_or_else(|| vec![found.gid]);
        Ok(User {
            name: found.name,
            uid: found.uid.as_raw(),
            gid: found.gid.as_raw(),
            groups: groups.into_iter().map(|group| group.as_raw()).collect(),
            home: found.dir,
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error(
        "user `{0}` does not exist on this host: create it (`useradd --system {0}`) or change `user:`"
    )]
    Unknown(String),
    #[error("the user database cannot be read: {0}")]
    Database(std::io::Error),
}

/// How the host resolves names: what queries outside the mesh follow.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostResolver {
    /// In order of preference; reached from the host's namespace, so 127.0.0.53 is a good answer. Port 53.
    pub nameservers: Vec<IpAddr>,
    /// Search domains, kept for the app.
    pub search: Vec<String>,
    /// The host's name, answered with the workload's own addresses.
    pub hostname: String,
}

impl HostResolver {
    /// Reads the text of a resolv.conf (resolv.conf(5): the last `search` or `domain` line wins, at most three
    /// nameservers count). Without a nameserver the answer is 127.0.0.1, as in glibc and musl.
    pub fn parse(resolv_conf: &str, hostname: &str) -> HostResolver {
        let mut nameservers = Vec::new();
        let mut search = Vec::new();
        for line in resolv_conf.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // A scoped address (`fe80::1%eth0`) cannot be told without the interface: passed over.
                    nameservers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
                }
                Some("search" | "domain") => search = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        nameservers.truncate(3);
        if nameservers.is_empty() {
            nameservers.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        HostResolver {
            nameservers,
            search,
            hostname: hostname.to_owned(),
        }
    }

    /// The resolv.conf that the app sees. Any nameserver would do, since port 53 is captured whatever the address.
    /// `ndots:0`: a name is asked as it is before the search list is tried, so `orders` costs one query.
    pub fn app_resolv_conf(&self) -> String {
        let mut text = String::from(
            "# Written by ripstop: queries are answered by the sidecar.\nnameserver 127.0.0.1\n",
        );
        if !self.search.is_empty() {
            text.push_str(&format!("search {}\n", self.search.join(" ")));
        }
        text.push_str("options ndots:0\n");
        text
    }
}

/// The nsswitch.conf that the app sees: the host's, but hosts come from `/etc/hosts` and DNS alone. Modules such as
/// `resolve`, `mymachines` or `mdns` ask daemons of the host over Unix sockets and would pass the mesh by.
pub fn app_nsswitch_conf(host: &str) -> String {
    let mut text: String = host
        .lines()
        .filter(|line| !line.trim_start().starts_with("hosts:"))
        .map(|line| format!("{line}\n"))
        .collect();
    text.push_str("hosts: files dns\n");
    text
}

impl Spec {
    /// Everything that is wrong with it, all at once; empty when it can be built.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.command.is_empty() {
            problems.push(Problem::NoCommand);
        }
        if self.addresses.iter().next().is_none() {
            problems.push(Problem::NoAddress);
        }
        if !self.cwd.is_absolute() {
            problems.push(Problem::RelativeFolder(self.cwd.clone()));
        }
        for port in &self.host_ports {
            if self.target_ports.contains(port) {
                problems.push(Problem::Shadowed(*port));
            }
        }
        for port in &self.target_ports {
            if capture::PORTS.contains(port) {
                problems.push(Problem::Reserved(*port));
            }
        }
        let strings = self
            .command
            .iter()
            .chain(self.env.iter().flat_map(|(name, value)| [name, value]));
        problems.extend(
            strings
                .filter(|text| text.contains('\0'))
                .map(|text| Problem::Nul(text.clone())),
        );
        problems
    }
}

/// A reason why a [`Spec`] cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("no command: say what to run after `--`, or `command: [program, argument, …]`")]
    NoCommand,
    #[error("the workload has neither an IPv4 nor an IPv6 address")]
    NoAddress,
    #[error("the working folder {0:?} is not absolute")]
    RelativeFolder(PathBuf),
    #[error(
        "hostPorts: {0} is also a port of the app itself and would shadow it: move the app to another targetPort"
    )]
    Shadowed(u16),
    #[error("targetPort {0} is used by the sidecar inside the workload: choose another")]
    Reserved(u16),
    #[error("{0:?} contains a NUL byte, which no command or environment can carry")]
    Nul(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_glibc_reads_it() {
        let text = "# a comment\ndomain old.example\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver ::1\n\
                    search corp.example lab.example\noptions edns0 trust-ad\n";
        let resolver = HostResolver::parse(text, "box");
        assert_eq!(
            resolver.nameservers,
            [
                "127.0.0.53".parse::<IpAddr>().unwrap(),
                "::1".parse().unwrap()
            ]
        );
        assert_eq!(
            resolver
                .app_resolv_conf()
                .lines()
                .skip(1)
                .collect::<Vec<_>>(),
            [
                "nameserver 127.0.0.1",
                "search corp.example lab.example",
                "options ndots:0"
            ]
        );
        assert_eq!(
            HostResolver::parse("", "box").nameservers,
            [Ipv4Addr::LOCALHOST]
        );
    }

    #[test]
    fn nsswitch_keeps_all_but_hosts() {
        let host = "passwd: files systemd\nhosts: mymachines resolve [!UNAVAIL=return] files dns\ngroup: files";
        assert_eq!(
            app_nsswitch_conf(host),
            "passwd: files systemd\ngroup: files\nhosts: files dns\n"
        );
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let spec = Spec {
            service: "a".into(),
            namespace: "default".into(),
            service_account: "a".into(),
            workload: "a-v1".into(),
            replica: 0,
            addresses: Addresses { v4: None, v6: None },
            target_ports: vec![5432, 15001],
            host_ports: vec![5432],
            command: vec![],
            env: vec![("A".into(), "b\0".into())],
            cwd: "relative".into(),
            user: None,
            stdio: Stdio::Null,
            mask: vec![],
            resolver: HostResolver::default(),
            hooks: vec![],
        };
        assert_eq!(
            spec.problems(),
            [
                Problem::NoCommand,
                Problem::NoAddress,
                Problem::RelativeFolder("relative".into()),
                Problem::Shadowed(5432),
                Problem::Reserved(15001),
                Problem::Nul("b\0".into()),
            ]
        );
    }
}
