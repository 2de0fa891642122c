//! The application's side of tracing: the hooks that are put into its runtimes, and the table that they write.
//!
//! The keeper mounts a folder with the hooks and the table into the application's file tree and sets the runtimes up
//! through their environment variables; the sidecar gets the table's descriptor. A hook notes, before a request leaves,
//! which inbound connection the application was serving. The table is a file of fixed size in memory:
//!
//! ```text
//! header  64 bytes   magic "ripstop1", u32 number of slots, u32 size of a slot
//! slot   128 bytes     0 u32 seq: odd while it is being written
//!                      4 u8 state: 0 free, 1 no request, 2 request      5 u8 producer
//!                     16 the outbound connection: local address (16), remote address (16), local port, remote port
//!                     64 the inbound connection, in the same form      104 u64 bytes that were read from it
//! ```
//!
//! All numbers are little-endian, addresses IPv6 with IPv4 mapped, `local` is the application's end. A slot is found from
//! the outbound connection by a hash and at most [`PROBES`] steps. The sidecar reads with `pread` and believes nothing:
//! whatever the application does to the file, a read is short or does not fit, and the request is unattributed.

pub mod kernel;
mod statics;

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use self::kernel::Scope;
use self::statics::Statics;
use ripstop_model::seam::{Cause, Causes, Ends, Producer};

const MAGIC: &[u8; 8] = b"ripstop1";
const HEADER: usize = 64;
const SLOT: usize = 128;
/// A power of two.
const SLOTS: u32 = 8192;
/// Slots that a connection may be found in.
const PROBES: usize = 8;
/// Of the whole file, in bytes.
pub(crate) const SIZE: usize = HEADER + SLOT * SLOTS as usize;

/// The variable that tells a hook where the table is.
const TABLE: &str = "RIPSTOP_TRACE";

const FREE: u8 = 0;
const REQUEST: u8 = 2;

/// What a producer puts into the application's process.
struct Hook {
    /// Its place in the mounted folder. Python's has a folder of its own: all of that is put on the search path.
    file: &'static str,
    content: &'static [u8],
    /// The variable that leads the runtime to it.
    variable: &'static str,
    /// Its value in a folder, beside what the application has there itself.
    value: fn(&str, Option<&str>) -> String,
}

const NODE: Hook = Hook {
    file: "node.js",
    content: include_bytes!("trace/node.js"),
    variable: "NODE_OPTIONS",
    value: |folder, own| match own {
        None => format!("--require={folder}/node.js"),
        Some(own) => format!("--require={folder}/node.js {own}"),
    },
};

const PYTHON: Hook = Hook {
    file: "python/sitecustomize.py",
    content: include_bytes!("trace/sitecustomize.py"),
    variable: "PYTHONPATH",
    value: |folder, own| match own {
        None => format!("{folder}/python"),
        Some(own) => format!("{folder}/python:{own}"),
    },
};

/// Last: what the application preloads itself comes before it, and what that calls is seen.
const PRELOAD: Hook = Hook {
    file: "preload.so",
    content: include_bytes!(concat!(env!("OUT_DIR"), "/preload.so")),
    variable: "LD_PRELOAD",
    value: |folder, own| match own {
        None => format!("{folder}/preload.so"),
        Some(own) => format!("{own}:{folder}/preload.so"),
    },
};

fn hook(producer: Producer) -> Option<Hook> {
    let hook = match producer {
        Producer::Node => NODE,
        Producer::Python => PYTHON,
        Producer::Preload => PRELOAD,
        // It is put into nothing.
        Producer::Kernel => return None,
    };
    // Empty: not for this processor.
    (!hook.content.is_empty()).then_some(hook)
}

/// The table's first bytes.
pub(crate) fn header() -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&SLOTS.to_le_bytes());
    header[12..16].copy_from_slice(&(SLOT as u32).to_le_bytes());
    header
}

/// Adds the variables that set the hooks up to an application's environment. What it has of them keeps working.
pub(crate) fn set_up(producers: &[Producer], folder: &str, env: &mut Vec<(String, String)>) {
    for hook in producers.iter().copied().filter_map(hook) {
        let own = env.iter().rev().find(|(name, _)| name == hook.variable);
        let own = own.map(|(_, value)| value.as_str());
        let value = (hook.value)(folder, own.filter(|value| !value.is_empty()));
        env.retain(|(name, _)| name != hook.variable);
        env.push((hook.variable.to_owned(), value));
    }
    env.push((TABLE.to_owned(), format!("{folder}/table")));
}

/// The table as the sidecar sees it.
#[derive(Debug)]
pub struct Table(File);

impl Table {
    /// Of the descriptor that the keeper passed.
    pub fn new(descriptor: OwnedFd) -> Table {
        Table(File::from(descriptor))
    }

    /// The slot of a connection: its offset in the file, and what is in it.
    fn find(&self, outbound: Ends) -> Option<(u64, [u8; SLOT])> {
        let key = key(outbound);
        let first = hash(outbound) as usize;
        let mut window = [0; SLOT * PROBES];
        let (here, wrapped) = window.split_at_mut(SLOT * PROBES.min(SLOTS as usize - first));
        self.0.read_exact_at(here, offset(first)).ok()?;
        self.0.read_exact_at(wrapped, offset(0)).ok()?;
        let found = window
            .chunks_exact(SLOT)
            .position(|slot| slot[4] != FREE && slot[16..52] == key)?;
        let slot = window[found * SLOT..][..SLOT].try_into().ok()?;
        Some((offset((first + found) % SLOTS as usize), slot))
    }

    fn read(&self, at: u64) -> Option<[u8; SLOT]> {
        let mut slot = [0; SLOT];
        self.0.read_exact_at(&mut slot, at).ok()?;
        Some(slot)
    }
}

impl Causes for Table {
    fn cause(&self, outbound: Ends) -> Option<Cause> {
        let (at, slot) = self.find(outbound)?;
        // Twice the same is nothing half-written.
        if slot[4] != REQUEST || sequence(&slot) % 2 == 1 || self.read(at)? != slot {
            return None;
        }
        let producer = match slot[5] {
            1 => Producer::Node,
            2 => Producer::Python,
            3 => Producer::Preload,
            4 => Producer::Kernel,
            _ => return None,
        };
        Some(Cause {
            inbound: ends(&slot[64..100])?,
            received: u64::from_le_bytes(slot[104..112].try_into().ok()?),
            producer,
        })
    }

    fn forget(&self, outbound: Ends) {
        let Some((at, slot)) = self.find(outbound) else {
            return;
        };
        let sequence = (sequence(&slot) | 1).wrapping_add(1);
        let mut begin = [0; 8];
        begin[..4].copy_from_slice(&sequence.to_le_bytes());
        // A table that cannot be written has nothing to forget.
        let _ = self.0.write_all_at(&begin, at);
    }
}

/// All that is said of a workload's calls.
#[derive(Debug)]
pub struct Known {
    table: Table,
    /// `None`: not wanted.
    statics: Option<Statics>,
}

impl Known {
    /// `processes` is the workload's `/proc`, where the kernel's word on programs in it is wanted.
    pub(crate) fn new(table: Table, processes: Option<(OwnedFd, Scope)>) -> io::Result<Known> {
        let watch = |(processes, scope)| Statics::watch(processes, scope);
        Ok(Known {
            table,
            statics: processes.map(watch).transpose()?,
        })
    }
}

impl Causes for Known {
    fn cause(&self, outbound: Ends) -> Option<Cause> {
        let statics = || self.statics.as_ref()?.cause(outbound);
        self.table.cause(outbound).or_else(statics)
    }

    fn forget(&self, outbound: Ends) {
        self.table.forget(outbound);
        if let Some(statics) = &self.statics {
            statics.forget(outbound);
        }
    }
}

fn sequence(slot: &[u8; SLOT]) -> u32 {
    u32::from_le_bytes([slot[0], slot[1], slot[2], slot[3]])
}

fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn key(ends: Ends) -> [u8; 36] {
    let mut key = [0; 36];
    key[..16].copy_from_slice(&mapped(ends.local.ip()));
    key[16..32].copy_from_slice(&mapped(ends.remote.ip()));
    key[32..34].copy_from_slice(&ends.local.port().to_le_bytes());
    key[34..36].copy_from_slice(&ends.remote.port().to_le_bytes());
    key
}

fn ends(key: &[u8]) -> Option<Ends> {
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = key.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(octets).to_canonical())
    };
    let port = |at: usize| Some(u16::from_le_bytes([*key.get(at)?, *key.get(at + 1)?]));
    Some(Ends {
        local: SocketAddr::new(address(0)?, port(32)?),
        remote: SocketAddr::new(address(16)?, port(34)?),
    })
}

fn hash(ends: Ends) -> u32 {
    let remote = mapped(ends.remote.ip());
    let tail = u32::from(u16::from_be_bytes([remote[14], remote[15]]));
    let ports = u32::from(ends.local.port()) * 31 + u32::from(ends.remote.port()) * 17;
    ports.wrapping_add(tail) % SLOTS
}

fn offset(slot: usize) -> u64 {
    (HEADER + SLOT * slot) as u64
}

/// Fills the folder that the application sees: the hooks, and an empty table that it may write.
pub(crate) fn fill(folder: &Path, producers: &[Producer]) -> io::Result<OwnedFd> {
    // Node's hook loads the preloaded object too.
    let node = producers.contains(&Producer::Node);
    let loaded = node.then_some(Producer::Preload);
    for hook in producers.iter().copied().chain(loaded).filter_map(hook) {
        let path = folder.join(hook.file);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(path, hook.content)?;
    }
    let path = folder.join("table");
    let table = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    table.set_len(SIZE as u64)?;
    table.write_all_at(&header(), 0)?;
    // Whichever user the application is, or becomes.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    Ok(table.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(local: &str, remote: &str) -> Ends {
        Ends {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
        }
    }

    fn table() -> (Table, File, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let table = Table::new(fill(folder.path(), &[]).unwrap());
        let path = folder.path().join("table");
        let app = File::options().read(true).write(true).open(path).unwrap();
        (table, app, folder)
    }

    /// What a hook writes.
    fn note(app: &File, step: usize, outbound: Ends, inbound: Ends, received: u64) {
        let mut slot = [0; SLOT];
        slot[0] = 2;
        (slot[4], slot[5]) = (REQUEST, 2);
        slot[16..52].copy_from_slice(&key(outbound));
        slot[64..100].copy_from_slice(&key(inbound));
        slot[104..112].copy_from_slice(&received.to_le_bytes());
        let index = (hash(outbound) as usize + step) % SLOTS as usize;
        app.write_all_at(&slot, offset(index)).unwrap();
    }

    #[test]
    fn a_noted_cause_is_found_until_it_is_forgotten() {
        let (table, app, _folder) = table();
        let outbound = ends("10.88.0.2:40001", "240.240.0.7:80");
        let inbound = ends("10.88.0.2:8080", "10.88.0.2:51000");
        assert_eq!(table.cause(outbound), None);
        note(&app, 0, outbound, inbound, 512);
        let cause = table.cause(outbound).unwrap();
        assert_eq!((cause.inbound, cause.received), (inbound, 512));
        assert_eq!(cause.producer, Producer::Python);
        // The same port towards another address is another connection.
        assert_eq!(table.cause(ends("10.88.0.2:40001", "240.240.0.8:80")), None);
        table.forget(outbound);
        assert_eq!(table.cause(outbound), None);
    }

    #[test]
    fn a_connection_is_found_as_far_from_its_place_as_hooks_go_and_across_the_end() {
        let (table, app, _folder) = table();
        let inbound = ends("[::1]:8080", "[::1]:51000");
        for port in 1..=u16::MAX {
            let outbound = ends(&format!("10.88.0.2:{port}"), "240.240.0.7:80");
            let last = hash(outbound) == SLOTS - 1;
            if port == 40_000 || last {
                note(&app, PROBES - 1, outbound, inbound, 1);
                assert_eq!(table.cause(outbound).unwrap().inbound, inbound, "{port}");
                table.forget(outbound);
                assert_eq!(table.cause(outbound), None);
            }
            if last {
                return;
            }
        }
        panic!("no port has the last slot");
    }

    #[test]
    fn what_the_application_does_to_the_file_costs_it_its_traces_only() {
        let (table, app, _folder) = table();
        let outbound = ends("10.88.0.2:40001", "240.240.0.7:80");
        let inbound = ends("10.88.0.2:8080", "10.88.0.2:51000");
        note(&app, 0, outbound, inbound, 512);
        // Half-written.
        app.write_all_at(&[3], offset(hash(outbound) as usize))
            .unwrap();
        assert_eq!(table.cause(outbound), None);
        // By nobody known.
        note(&app, 0, outbound, inbound, 512);
        app.write_all_at(&[9], offset(hash(outbound) as usize) + 5)
            .unwrap();
        assert_eq!(table.cause(outbound), None);
        // Cut off.
        app.set_len(70).unwrap();
        assert_eq!(table.cause(outbound), None);
        table.forget(outbound);
    }

    #[test]
    fn the_applications_own_settings_stay() {
        let mut env = vec![
            ("PYTHONPATH".to_owned(), "/srv/lib".to_owned()),
            ("LD_PRELOAD".to_owned(), "libjemalloc.so.2".to_owned()),
            ("PATH".to_owned(), "/bin".to_owned()),
        ];
        let all = [Producer::Node, Producer::Python, Producer::Preload];
        set_up(&all, "/hooks", &mut env);
        let value = |name: &str| {
            let found = env.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.as_str())
        };
        assert_eq!(value("PYTHONPATH"), Some("/hooks/python:/srv/lib"));
        assert_eq!(value("NODE_OPTIONS"), Some("--require=/hooks/node.js"));
        let preloaded = match PRELOAD.content.is_empty() {
            true => "libjemalloc.so.2",
            false => "libjemalloc.so.2:/hooks/preload.so",
        };
        assert_eq!(value("LD_PRELOAD"), Some(preloaded));
        assert_eq!(value("RIPSTOP_TRACE"), Some("/hooks/table"));
        assert_eq!(value("PATH"), Some("/bin"));
    }
}
