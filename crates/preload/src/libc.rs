//! The few functions, structures and numbers of libc that are needed here, as Linux on this machine has them. The `libc`
//! crate would be a dependency, and the build script compiles this one without any.

use core::ffi::{c_char, c_int, c_long, c_void};

pub(crate) const O_RDWR: c_int = 2;
pub(crate) const O_CLOEXEC: c_int = 0o2_000_000;
pub(crate) const SEEK_END: c_int = 2;
pub(crate) const PROT_READ_WRITE: c_int = 1 | 2;
pub(crate) const MAP_SHARED: c_int = 1;
pub(crate) const MAP_PRIVATE: c_int = 2;
pub(crate) const MAP_ANONYMOUS: c_int = 0x20;
pub(crate) const MAP_NORESERVE: c_int = 0x4000;
pub(crate) const MAP_FAILED: *mut c_void = core::ptr::without_provenance_mut(usize::MAX);
/// Linux 4.14.
pub(crate) const MADV_WIPEONFORK: c_int = 18;
pub(crate) const AF_INET: u32 = 2;
pub(crate) const AF_INET6: u32 = 10;
pub(crate) const SOCK_STREAM: u32 = 1;
pub(crate) const SOL_SOCKET: c_int = 1;
pub(crate) const SO_TYPE: c_int = 3;
pub(crate) const SO_DOMAIN: c_int = 39;
pub(crate) const MSG_PEEK: c_int = 2;
pub(crate) const EINPROGRESS: c_int = 115;
const ENOSYS: c_int = 38;

/// `struct iovec`.
#[repr(C)]
pub struct Slice {
    pub(crate) start: *mut c_void,
    pub(crate) length: usize,
}

/// `struct msghdr`.
#[repr(C)]
pub struct MessageHeader {
    name: *mut c_void,
    name_length: u32,
    pub(crate) slices: *mut Slice,
    pub(crate) count: usize,
    control: *mut c_void,
    control_length: usize,
    flags: c_int,
}

/// `struct pollfd`.
#[repr(C)]
pub struct Poll {
    pub(crate) descriptor: c_int,
    events: i16,
    returned: i16,
}

unsafe extern "C" {
    fn dlsym(from: *mut c_void, name: *const c_char) -> *mut c_void;
    pub(crate) fn __errno_location() -> *mut c_int;
    pub(crate) fn getenv(name: *const c_char) -> *const c_char;
    pub(crate) fn strlen(text: *const c_char) -> usize;
    pub(crate) fn readlink(path: *const c_char, to: *mut c_char, room: usize) -> isize;
    pub(crate) fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    pub(crate) fn lseek(file: c_int, offset: c_long, from: c_int) -> c_long;
    pub(crate) fn mmap(
        at: *mut c_void,
        size: usize,
        protection: c_int,
        flags: c_int,
        file: c_int,
        offset: c_long,
    ) -> *mut c_void;
    pub(crate) fn madvise(at: *mut c_void, size: usize, advice: c_int) -> c_int;
    pub(crate) fn getpid() -> c_int;
    pub(crate) fn fileno(file: *mut c_void) -> c_int;
    pub(crate) fn getsockname(socket: c_int, name: *mut c_void, length: *mut u32) -> c_int;
    pub(crate) fn getpeername(socket: c_int, name: *mut c_void, length: *mut u32) -> c_int;
    pub(crate) fn getsockopt(
        socket: c_int,
        level: c_int,
        name: c_int,
        value: *mut c_void,
        length: *mut u32,
    ) -> c_int;
}

/// The function of this name (which ends with a zero) in the objects that come after this one.
pub(crate) fn next(name: &'static str) -> *mut c_void {
    const RTLD_NEXT: *mut c_void = core::ptr::without_provenance_mut(usize::MAX);
    // SAFETY: the name ends with a zero.
    unsafe { dlsym(RTLD_NEXT, name.as_ptr().cast()) }
}

/// The function of this name (which ends with a zero) in the program.
pub(crate) fn anywhere(name: &'static str) -> *mut c_void {
    // SAFETY: the name ends with a zero; null is RTLD_DEFAULT.
    unsafe { dlsym(core::ptr::null_mut(), name.as_ptr().cast()) }
}

/// What a function gives that this libc does not have.
pub(crate) fn missing() -> c_int {
    // SAFETY: the address of this thread's errno.
    unsafe { *__errno_location() = ENOSYS };
    -1
}
