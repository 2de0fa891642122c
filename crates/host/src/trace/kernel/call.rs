//! bpf(2): typed requests → descriptors of maps, programs and attachments, each freed when it is closed.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Commands, linux/bpf.h.
const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP: libc::c_int = 1;
const MAP_UPDATE: libc::c_int = 2;
const MAP_DELETE: libc::c_int = 3;
const PROG_LOAD: libc::c_int = 5;
const RAW_TRACEPOINT_OPEN: libc::c_int = 17;

/// What a map does when it is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    /// It refuses.
    Hash = 1,
    /// It forgets what was not used for the longest time.
    Recent = 9,
}

/// Plain bytes of `K` → plain bytes of `V`, shared with programs in the kernel.
#[derive(Debug)]
pub(super) struct Map<K, V> {
    descriptor: OwnedFd,
    of: PhantomData<fn(K) -> V>,
}

/// A type that any bytes of its size are a value of, without padding.
pub(super) trait Plain: Copy + Default {}
impl Plain for u64 {}
impl<const N: usize> Plain for [u64; N] where [u64; N]: Default {}

#[derive(Default)]
#[repr(C)]
struct Create {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
    inner: u32,
    node: u32,
    name: [u8; 16],
}

#[repr(C)]
struct Element {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl<K: Plain, V: Plain> Map<K, V> {
    pub(super) fn new(kind: Kind, name: &str, entries: u32) -> io::Result<Map<K, V>> {
        let request = Create {
            kind: kind as u32,
            key: size_of::<K>() as u32,
            value: size_of::<V>() as u32,
            entries,
            name: named(name),
            ..Create::default()
        };
        Ok(Map {
            descriptor: open(MAP_CREATE, &request)?,
            of: PhantomData,
        })
    }

    pub(super) fn number(&self) -> i32 {
        self.descriptor.as_raw_fd()
    }

    pub(super) fn get(&self, key: &K) -> Option<V> {
        let mut value = V::default();
        self.ask(MAP_LOOKUP, key, (&raw mut value) as u64).ok()?;
        Some(value)
    }

    pub(super) fn set(&self, key: &K, value: &V) -> io::Result<()> {
        self.ask(MAP_UPDATE, key, value as *const V as u64)
    }

    /// What is not there is gone.
    pub(super) fn remove(&self, key: &K) {
        let _ = self.ask(MAP_DELETE, key, 0);
    }

    fn ask(&self, command: libc::c_int, key: &K, value: u64) -> io::Result<()> {
        let request = Element {
            map: self.number().cast_unsigned(),
            _pad: 0,
            key: key as *const K as u64,
            value,
            flags: 0,
        };
        call(command, &request).map(|_| ())
    }
}

#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    _version: u32,
    flags: u32,
    name: [u8; 16],
    _interface: u32,
    attach_kind: u32,
    _types: [u32; 9],
    attach_to: u32,
}

#[repr(C)]
struct Attach {
    name: u64,
    program: u32,
    _pad: u32,
}

const TRACING: u32 = 26;
/// linux/bpf.h, `BPF_TRACE_RAW_TP`.
const RAW_TRACEPOINT: u32 = 23;
/// The kernel shows the fields of its structs to programs with a compatible license only. ripstop is Apache-2.0; the few
/// hundred instructions that `programs` writes are offered under MIT and GPL as well.
const LICENSE: &std::ffi::CStr = c"Dual MIT/GPL";
/// Of the verifier's account of a program that it refuses: its last lines say why.
const LOG: usize = 1 << 20;

/// A program that runs until this is dropped, however that comes about.
#[derive(Debug)]
pub(super) struct Attached {
    _program: OwnedFd,
    _link: OwnedFd,
}

/// Loads a program and attaches it to the tracepoint that has this number in the kernel's types.
///
/// # Errors
/// `PermissionDenied` without CAP_BPF and CAP_PERFMON, or where a security module refuses.
pub(super) fn attach(name: &str, code: &[u64], tracepoint: u32) -> io::Result<Attached> {
    let program = load(name, code, tracepoint, &mut []).or_else(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Err(error),
        // Once more, for the reason.
        _ => {
            let mut log = vec![0; LOG];
            let again = load(name, code, tracepoint, &mut log);
            again.map_err(|error| explained(&error, &log))
        }
    })?;
    let request = Attach {
        name: 0,
        program: program.as_raw_fd().cast_unsigned(),
        _pad: 0,
    };
    let link = open(RAW_TRACEPOINT_OPEN, &request)?;
    Ok(Attached {
        _program: program,
        _link: link,
    })
}

fn load(name: &str, code: &[u64], tracepoint: u32, log: &mut [u8]) -> io::Result<OwnedFd> {
    let request = Load {
        kind: TRACING,
        count: code.len() as u32,
        code: code.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: log.len() as u32,
        log: if log.is_empty() {
            0
        } else {
            log.as_mut_ptr() as u64
        },
        _version: 0,
        flags: 0,
        name: named(name),
        _interface: 0,
        attach_kind: RAW_TRACEPOINT,
        _types: [0; 9],
        attach_to: tracepoint,
    };
    open(PROG_LOAD, &request)
}

/// With the verifier's last words.
fn explained(error: &io::Error, log: &[u8]) -> io::Error {
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    let lines: Vec<&str> = text.lines().rev().skip(1).take(4).collect();
    let said: Vec<&str> = lines.into_iter().rev().collect();
    io::Error::new(error.kind(), format!("{error}: {}", said.join("; ")))
}

fn named(name: &str) -> [u8; 16] {
    let mut named = [0; 16];
    for (to, byte) in named.iter_mut().take(15).zip(name.bytes()) {
        *to = byte;
    }
    named
}

fn open<R>(command: libc::c_int, request: &R) -> io::Result<OwnedFd> {
    let descriptor = call(command, request)?;
    // SAFETY: these commands give a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The kernel takes fewer bytes than it knows as zeros, and opens descriptors close-on-exec.
fn call<R>(command: libc::c_int, request: &R) -> io::Result<i32> {
    let (at, size) = (request as *const R, size_of::<R>());
    // SAFETY: the request is as large as told; addresses in it are of memory that outlives the call, as large as the
    // sizes in it or in the map say.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, at, size) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(done as i32)
}
