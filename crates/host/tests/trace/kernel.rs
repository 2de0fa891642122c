//! The producer in the kernel, for programs of a test: questions on a socket in, answers out, a line each.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};

use ripstop_host::trace::kernel::{Executable, Kernel, Scope, Unavailable, available, network};
use ripstop_model::seam::Ends;

/// Answers whoever connects, for as long as the test runs.
pub(crate) struct Served {
    folder: tempfile::TempDir,
}

impl Served {
    /// `None` where the kernel may not be asked: programs that nothing can be put into are unattributed then.
    pub(crate) fn new() -> Option<Served> {
        match available() {
            Ok(()) => {}
            Err(error @ (Unavailable::Refused(_) | Unavailable::Format)) => panic!("{error}"),
            Err(error) => {
                eprintln!("only what is unattributed is tested: {error}");
                return None;
            }
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let listener = UnixListener::bind(folder.path().join("kernel")).expect("a socket");
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                std::thread::spawn(move || answer(client));
            }
        });
        Some(Served { folder })
    }

    pub(crate) fn path(&self) -> String {
        self.folder.path().join("kernel").display().to_string()
    }
}

/// One program: its own producer, for its own port.
fn answer(client: UnixStream) {
    let mut to = client.try_clone().expect("a descriptor");
    let mut kernel = None;
    for line in BufReader::new(client).lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["follow", port, executable] => {
                kernel = Some(follow(port, executable));
                "done".to_owned()
            }
            // Of no namespace that there is.
            ["foreign"] => {
                let (network, ports) = (0, vec![1]);
                kernel = Some(Kernel::load(&Scope { network, ports }).expect("as before"));
                "done".to_owned()
            }
            ["end"] => {
                kernel = None;
                "done".to_owned()
            }
            ["cause", key] => said(kernel.as_ref(), key),
            // In one step, as near as can be: the pair of addresses may be in use again.
            ["forget", key, inbound, received] => {
                if said(kernel.as_ref(), key) == format!("{inbound} {received}") {
                    kernel.as_ref().inspect(|kernel| kernel.forget(ends(key)));
                }
                String::new()
            }
            _ => panic!("{line}"),
        };
        if writeln!(to, "{answer}").is_err() {
            return;
        }
    }
}

fn said(kernel: Option<&Kernel>, key: &str) -> String {
    let cause = kernel.and_then(|kernel| kernel.cause(ends(key)));
    cause.map_or_else(String::new, |cause| {
        format!("{} {}", hex(cause.inbound), cause.received)
    })
}

fn follow(port: &str, executable: &str) -> Kernel {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let scope = Scope {
        network: network(&socket).expect("a network namespace"),
        ports: vec![port.parse().expect("a port")],
    };
    let kernel = Kernel::load(&scope).unwrap_or_else(|error| panic!("as root: {error}"));
    let executable = fs::metadata(executable).expect("a program");
    assert!(kernel.allow(Executable::of(&executable)));
    kernel
}

fn ends(hex: &str) -> Ends {
    let bytes: Vec<u8> = (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"))
        .collect();
    let end = |address: usize, port: usize| {
        let octets: [u8; 16] = bytes[address..address + 16].try_into().expect("16 bytes");
        let port = u16::from_le_bytes([bytes[port], bytes[port + 1]]);
        SocketAddr::new(Ipv6Addr::from(octets).to_canonical(), port)
    };
    Ends {
        local: end(0, 32),
        remote: end(16, 34),
    }
}

fn hex(ends: Ends) -> String {
    let mapped = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    let (local, remote) = (ends.local, ends.remote);
    let mut bytes = [mapped(local.ip()), mapped(remote.ip())].concat();
    bytes.extend(local.port().to_le_bytes());
    bytes.extend(remote.port().to_le_bytes());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
