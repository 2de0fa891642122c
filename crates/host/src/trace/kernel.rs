//! A workload's network namespace and its ports → rows as the hooks write them, of programs that nothing can be put into.
//!
//! Three small programs in the kernel (`programs`) note for whom bytes arrive, which thread reads and which writes. They are put together here, for the
//! kernel that runs, from what it says of its own types; there is no compiler and no object file. They run from
//! [`Kernel::load`] until the value is dropped, or its process ends in whichever way, and see only programs that were
//! [allowed](Kernel::allow).

mod assembler;
mod btf;
mod call;
mod maps;
mod programs;

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;

use ripstop_model::seam::{Cause, Ends, Producer};

use self::btf::Btf;
use self::call::Attached;
use self::maps::{CANDIDATE, Maps, SILENT};
use self::programs::Fields;
pub use self::programs::Scope;

/// The kernel's description of its types.
const TYPES: &str = "/sys/kernel/btf/vmlinux";

/// Why there is no producer in the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    #[error("{TYPES} cannot be read ({0}): the kernel must be built with CONFIG_DEBUG_INFO_BTF")]
    Types(io::Error),
    #[error("{TYPES} is not of a format that is understood")]
    Format,
    #[error("this kernel has no tracepoint `{0}` (`tcp_sendmsg_locked` came with Linux 6.16)")]
    Tracepoint(&'static str),
    #[error("this kernel has no field `{0}`")]
    Field(String),
    #[error("the workload's network namespace cannot be told ({0}): Linux 5.14 is needed")]
    Network(io::Error),
    #[error("the kernel refuses ({0}): CAP_BPF and CAP_PERFMON are needed, which root has")]
    Permission(io::Error),
    #[error("the kernel refuses a program: {0}")]
    Refused(io::Error),
    #[error("a workload with {0} ports is too large for it")]
    Ports(usize),
}

type Written = fn(&Fields, &Maps, &Scope) -> Option<Vec<u64>>;

/// The loaded producer.
#[derive(Debug)]
pub struct Kernel {
    maps: Maps,
    _attached: [Attached; 3],
}

impl Kernel {
    /// Loads and attaches the programs. Takes some milliseconds.
    ///
    /// # Errors
    /// Where the kernel lacks something or does not permit it.
    pub fn load(scope: &Scope) -> Result<Kernel, Unavailable> {
        let types = fs::read(TYPES).map_err(Unavailable::Types)?;
        let btf = Btf::parse(types).ok_or(Unavailable::Format)?;
        let fields = Fields::of(&btf).map_err(Unavailable::Field)?;
        let maps = Maps::new().map_err(refused)?;
        let attach = |name, tracepoint, program: Written| {
            let number = btf.tracepoint(tracepoint);
            let number = number.ok_or(Unavailable::Tracepoint(tracepoint))?;
            let code = program(&fields, &maps, scope);
            let code = code.ok_or(Unavailable::Ports(scope.ports.len()))?;
            call::attach(name, &code, number).map_err(refused)
        };
        let attached = [
            attach("ripstop_arrival", programs::ARRIVAL, programs::arrival)?,
            attach("ripstop_read", programs::READ, programs::read)?,
            attach("ripstop_write", programs::WRITE, programs::write)?,
        ];
        Ok(Kernel {
            maps,
            _attached: attached,
        })
    }

    /// Follows processes that run this executable: one of which it is known that nothing can be put into it. Says whether
    /// there was room.
    pub fn allow(&self, executable: Executable) -> bool {
        let key = executable.0;
        self.maps.programs.get(&key).is_some()
            || self.maps.programs.set(&key, &(CANDIDATE as u64)).is_ok()
    }

    /// Whether the executable's threads turned out to say nothing.
    pub fn is_silent(&self, executable: Executable) -> bool {
        self.maps.programs.get(&executable.0) == Some(SILENT as u64)
    }

    /// What a row says; `None` where there is none, and where a thread wrote that serves nothing.
    pub fn cause(&self, outbound: Ends) -> Option<Cause> {
        let key = words(outbound);
        let row = self.maps.rows.get(&key)?;
        // Twice the same is nothing half-written.
        if row[maps::SERVES as usize / 8] == 0 || self.maps.rows.get(&key) != Some(row) {
            return None;
        }
        let mut inbound = [0; 40];
        for (to, word) in inbound.chunks_exact_mut(8).zip(row) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        Some(Cause {
            inbound: super::ends(&inbound)?,
            received: row[maps::RECEIVED as usize / 8],
            producer: Producer::Kernel,
        })
    }

    /// The connection ends.
    pub fn forget(&self, outbound: Ends) {
        self.maps.rows.remove(&words(outbound));
    }
}

fn refused(error: io::Error) -> Unavailable {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Unavailable::Permission(error),
        _ => Unavailable::Refused(error),
    }
}

/// A connection as a key.
fn words(ends: Ends) -> maps::Ends {
    let mut key = [0; 40];
    key[..36].copy_from_slice(&super::key(ends));
    let mut words = maps::Ends::default();
    for (to, bytes) in words.iter_mut().zip(key.chunks_exact(8)) {
        *to = bytes
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    words
}

/// Whether it can be loaded, by this process.
///
/// # Errors
/// As [`Kernel::load`].
pub fn available() -> Result<(), Unavailable> {
    // Nobody's: cookies begin with 1.
    let (network, ports) = (0, vec![1]);
    Kernel::load(&Scope { network, ports }).map(drop)
}

/// A file as both the kernel and stat(2) name it: inode and size. The device is not part of it, since some file systems
/// tell stat another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Executable(maps::Executable);

impl Executable {
    pub fn of(file: &fs::Metadata) -> Executable {
        Executable([file.ino(), file.len()])
    }
}

/// The cookie of the network namespace in which a socket was born.
///
/// # Errors
/// Before Linux 5.14.
pub fn network(socket: &impl AsFd) -> Result<u64, Unavailable> {
    /// asm-generic/socket.h; the `libc` crate has it for some processors only.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let (mut cookie, mut size) = (0u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the buffer is as large as told.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &mut size,
        )
    };
    match done {
        0 => Ok(cookie),
        _ => Err(Unavailable::Network(io::Error::last_os_error())),
    }
}

#[cfg(test)]
mod tests;
