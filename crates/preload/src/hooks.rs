//! The socket calls that programs make, by their names: each does its work and calls the function that it stands before.

use core::ffi::{c_char, c_int, c_long, c_uint, c_void};
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use crate::connection::{Connection, Connections, FOLLOWED, Kind};
use crate::libc::{self, MessageHeader, Poll, Slice};
use crate::table::{Ends, Table};

/// Programs that have a hook of their own.
const OTHERS: [&[u8]; 4] = [b"node", b"python", b"pypy", b"uwsgi"];
const LONGEST_PATH: usize = 256;

static PATH: [AtomicU32; LONGEST_PATH / 4] = [const { AtomicU32::new(0) }; LONGEST_PATH / 4];
/// 0: not opened yet; 1: somebody is at it; 2: open; 3: there is nothing to do in this process.
static STATE: AtomicU32 = AtomicU32::new(3);
static TABLE: AtomicPtr<AtomicU32> = AtomicPtr::new(null_mut());
static TABLE_BYTES: AtomicU32 = AtomicU32::new(0);
static FOLLOWING: AtomicPtr<Connection> = AtomicPtr::new(null_mut());
static GENERATIONS: AtomicU32 = AtomicU32::new(1);
static SILENT: AtomicBool = AtomicBool::new(false);

/// Nothing here panics.
#[cfg(shared_object)]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

#[cfg(shared_object)]
#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

/// Before the program's first line: is there a table, and is this a program whose threads say something?
pub extern "C" fn begin() {
    let mut name = [0u8; LONGEST_PATH];
    // SAFETY: plain calls; the buffers are as large as told, and `getenv` gives a string or nothing.
    unsafe {
        let length = libc::readlink(
            c"/proc/self/exe".as_ptr(),
            name.as_mut_ptr().cast(),
            name.len(),
        );
        let path = name
            .get(..usize::try_from(length).unwrap_or(0))
            .unwrap_or_default();
        let file = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if OTHERS.iter().any(|other| file.starts_with(other)) {
            return;
        }
        let table = libc::getenv(c"RIPSTOP_TRACE".as_ptr());
        if table.is_null() {
            return;
        }
        let length = libc::strlen(table);
        if length == 0 || length >= LONGEST_PATH {
            return;
        }
        let to = PATH.as_ptr().cast::<u8>().cast_mut();
        core::ptr::copy_nonoverlapping(table.cast::<u8>(), to, length);
    }
    STATE.store(0, Ordering::Release);
}

/// What is followed; `None` before the first socket, and where there is nothing to do.
fn following() -> Option<Connections<'static>> {
    if STATE.load(Ordering::Acquire) != 2 {
        return None;
    }
    let words = TABLE.load(Ordering::Relaxed);
    // SAFETY: both mappings were made by `open`, as large as told, and stay.
    let (table, of) = unsafe {
        let table = Table::new(words, TABLE_BYTES.load(Ordering::Relaxed) as usize)?;
        let first = FOLLOWING.load(Ordering::Relaxed);
        (table, core::slice::from_raw_parts(first, FOLLOWED))
    };
    Some(Connections::new(of, table, &GENERATIONS, &SILENT))
}

/// The same, for calls that a socket begins with.
fn followed_from_here() -> Option<Connections<'static>> {
    if STATE
        .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire)
        .is_ok()
    {
        let opened = kept(open);
        STATE.store(if opened.is_some() { 2 } else { 3 }, Ordering::Release);
    }
    following()
}

/// Maps a table; gives its memory and how many bytes it has.
///
/// # Safety
/// `path` is a string.
pub(crate) unsafe fn map(path: *const c_char) -> Option<(*mut c_void, usize)> {
    // SAFETY: plain system calls; what they return is checked.
    unsafe {
        let file = libc::open(path, libc::O_RDWR | libc::O_CLOEXEC);
        if file < 0 {
            return None;
        }
        let end = libc::lseek(file, 0, libc::SEEK_END);
        let bytes = usize::try_from(end).ok().filter(|bytes| *bytes < 1 << 30);
        let table = bytes.map_or(libc::MAP_FAILED, |bytes| {
            let (access, kind) = (libc::PROT_READ_WRITE, libc::MAP_SHARED);
            libc::mmap(null_mut(), bytes, access, kind, file, 0)
        });
        close(file);
        let bytes = bytes.filter(|_| table != libc::MAP_FAILED)?;
        Table::new(table.cast(), bytes)?;
        Some((table, bytes))
    }
}

/// Maps the table, and memory for what is followed, which a forked child finds empty.
fn open() -> Option<()> {
    // SAFETY: plain system calls; what they return is checked.
    unsafe {
        let (table, bytes) = map(PATH.as_ptr().cast())?;
        let size = FOLLOWED * size_of::<Connection>();
        let own = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let memory = libc::mmap(null_mut(), size, libc::PROT_READ_WRITE, own, -1, 0);
        if memory == libc::MAP_FAILED || libc::madvise(memory, size, libc::MADV_WIPEONFORK) != 0 {
            return None;
        }
        TABLE.store(table.cast(), Ordering::Relaxed);
        TABLE_BYTES.store(bytes as u32, Ordering::Relaxed);
        FOLLOWING.store(memory.cast(), Ordering::Relaxed);
    }
    Some(())
}

/// Runs something of ours and leaves `errno` as it was.
fn kept<T>(run: impl FnOnce() -> T) -> T {
    // SAFETY: the address of this thread's errno.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let result = run();
        *errno = before;
        result
    }
}

fn process() -> u32 {
    // SAFETY: cannot fail.
    unsafe { libc::getpid() as u32 }
}

/// A `sockaddr`, as far as it is read.
type Name = [u32; 8];

/// Both ends of a TCP connection; `None` for any other socket.
fn ends(local: &Name, remote: &Name) -> Option<Ends> {
    let mut ends = [0; 9];
    for (side, name) in [local, remote].into_iter().enumerate() {
        let (family, port) = (name[0] & 0xffff, (name[0] >> 16).swap_bytes() >> 16);
        let address = match family {
            libc::AF_INET => [0, 0, 0xffff_0000, name[1]],
            libc::AF_INET6 => [name[2], name[3], name[4], name[5]],
            _ => return None,
        };
        for (to, word) in ends.iter_mut().skip(4 * side).zip(address) {
            *to = word;
        }
        ends[8] |= port << (16 * side);
    }
    Some(ends)
}

type Ask = unsafe extern "C" fn(c_int, *mut c_void, *mut u32) -> c_int;

fn name(descriptor: c_int, ask: Ask) -> Option<Name> {
    let mut name = [0; 8];
    let mut length = size_of::<Name>() as u32;
    // SAFETY: the buffer is as large as told.
    let done = kept(|| unsafe { ask(descriptor, name.as_mut_ptr().cast(), &mut length) });
    (done == 0).then_some(name)
}

/// Whether a descriptor is a socket for streams between hosts.
fn is_stream(descriptor: c_int) -> bool {
    kept(|| {
        let ask = |name| {
            let (mut value, mut length) = (0u32, 4u32);
            // SAFETY: the buffer is as large as told.
            let done = unsafe {
                libc::getsockopt(
                    descriptor,
                    libc::SOL_SOCKET,
                    name,
                    (&raw mut value).cast(),
                    &mut length,
                )
            };
            (done == 0).then_some(value)
        };
        matches!(ask(libc::SO_DOMAIN), Some(libc::AF_INET | libc::AF_INET6))
            && ask(libc::SO_TYPE) == Some(libc::SOCK_STREAM)
    })
}

fn accepted(listener: c_int, descriptor: c_int) {
    if descriptor < 0 {
        return;
    }
    if let Some(following) = followed_from_here() {
        if following.kind(listener) != Kind::Listener {
            // It listened before it forked.
            following.begin(listener, Kind::Listener, process(), &[0; 9]);
        }
        let named = name(descriptor, libc::getsockname).zip(name(descriptor, libc::getpeername));
        match named.and_then(|(local, remote)| ends(&local, &remote)) {
            Some(ends) => following.begin(descriptor, Kind::Inbound, process(), &ends),
            None => following.begin(descriptor, Kind::Other, 0, &[0; 9]),
        }
    }
}

/// # Safety
/// `remote` points to `length` readable bytes.
unsafe fn connected(descriptor: c_int, done: c_int, remote: *const c_void, length: u32) {
    // SAFETY: the address of this thread's errno.
    let under_way = || unsafe { *libc::__errno_location() } == libc::EINPROGRESS;
    if done != 0 && !under_way() {
        return;
    }
    if let Some(following) = followed_from_here().filter(|_| is_stream(descriptor)) {
        let mut to: Name = [0; 8];
        let length = (length as usize).min(size_of::<Name>());
        // SAFETY: as the caller says; the kernel has just read as much.
        unsafe {
            core::ptr::copy_nonoverlapping(remote.cast::<u8>(), to.as_mut_ptr().cast(), length)
        };
        let named = name(descriptor, libc::getsockname).and_then(|local| ends(&local, &to));
        match named {
            Some(ends) => following.opened(descriptor, process(), &ends),
            None => following.begin(descriptor, Kind::Other, 0, &[0; 9]),
        }
    }
}

fn has_read(descriptor: c_int, bytes: isize) {
    if bytes > 0
        && let Some(following) = following()
    {
        following.read(descriptor, bytes as u64);
    }
}

/// # Safety
/// `start` points to `length` readable bytes.
unsafe fn will_write(descriptor: c_int, start: *const c_void, length: usize) {
    if let Some(following) = following() {
        // SAFETY: as the caller says.
        let start = match length {
            0..3 => [0; 3],
            _ => unsafe { start.cast::<[u8; 3]>().read_unaligned() },
        };
        following.write(descriptor, start);
    }
}

/// # Safety
/// `slices` points to `count` slices of readable bytes.
unsafe fn will_write_slices(descriptor: c_int, slices: *const Slice, count: usize) {
    // SAFETY: as the caller says.
    unsafe {
        let first = (0..count)
            .map(|at| &*slices.add(at))
            .find(|slice| slice.length > 0);
        let (start, length) = first.map_or((null(), 0), |slice| {
            (slice.start.cast_const(), slice.length)
        });
        will_write(descriptor, start, length);
    }
}

fn will_close(descriptor: c_int) {
    if let Some(following) = following() {
        following.end(descriptor, process);
    }
}

/// # Safety
/// `all` points to `count` descriptors.
unsafe fn will_poll(all: *const Poll, count: usize) {
    if count > 1
        && let Some(following) = following()
    {
        // SAFETY: as the caller says.
        following.wait((0..count).map(|at| unsafe { (*all.add(at)).descriptor }));
    }
}

/// # Safety
/// The sets are large enough for `count` descriptors, or null.
unsafe fn will_select(count: c_int, sets: [*const u64; 2]) {
    if let Some(following) = following() {
        let in_any = |descriptor: &c_int| {
            let (word, bit) = (*descriptor as usize / 64, *descriptor as usize % 64);
            // SAFETY: as the caller says.
            sets.iter()
                .any(|set| !set.is_null() && unsafe { *set.add(word) } >> bit & 1 == 1)
        };
        following.wait((0..count).filter(in_any));
    }
}

/// A function of the program's, with what is done before and after the one that it stands before.
macro_rules! hook {
    ($(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty { $(before $before:block)? $(after($got:ident) $after:block)? })*) => {$(
        /// # Safety
        /// As the function of this name says.
        #[cfg_attr(shared_object, unsafe(no_mangle))]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            static NEXT: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
            let mut next = NEXT.load(Ordering::Relaxed);
            if next.is_null() {
                next = libc::next(concat!(stringify!($name), "\0"));
                NEXT.store(next, Ordering::Relaxed);
            }
            if next.is_null() {
                return libc::missing() as $result;
            }
            // SAFETY: the function of this name has this type; arguments are as the caller promised.
            #[allow(unused_unsafe)]
            unsafe {
                $($before)?
                let next: unsafe extern "C" fn($($type),*) -> $result = core::mem::transmute(next);
                let result = next($($argument),*);
                $(let $got = result; $after)?
                result
            }
        }
    )*};
}

hook! {
    fn accept(socket: c_int, name: *mut c_void, length: *mut u32) -> c_int {
        after(got) { accepted(socket, got) }
    }
    fn accept4(socket: c_int, name: *mut c_void, length: *mut u32, flags: c_int) -> c_int {
        after(got) { accepted(socket, got) }
    }
    fn listen(socket: c_int, backlog: c_int) -> c_int {
        before {
            if let Some(following) = followed_from_here().filter(|_| is_stream(socket)) {
                following.begin(socket, Kind::Listener, process(), &[0; 9]);
            }
        }
    }
    fn connect(socket: c_int, name: *const c_void, length: u32) -> c_int {
        after(got) { connected(socket, got, name, length) }
    }
    fn close(descriptor: c_int) -> c_int { before { will_close(descriptor) } }
    fn fclose(file: *mut c_void) -> c_int {
        before { if !file.is_null() { will_close(kept(|| unsafe { libc::fileno(file) })) } }
    }
    fn dup2(from: c_int, to: c_int) -> c_int { before { if from != to { will_close(to) } } }
    fn dup3(from: c_int, to: c_int, flags: c_int) -> c_int { before { if from != to { will_close(to) } } }

    fn read(descriptor: c_int, to: *mut c_void, length: usize) -> isize { after(got) { has_read(descriptor, got) } }
    fn __read_chk(descriptor: c_int, to: *mut c_void, length: usize, room: usize) -> isize {
        after(got) { has_read(descriptor, got) }
    }
    fn readv(descriptor: c_int, slices: *const Slice, count: c_int) -> isize {
        after(got) { has_read(descriptor, got) }
    }
    fn recv(socket: c_int, to: *mut c_void, length: usize, flags: c_int) -> isize {
        after(got) { if flags & libc::MSG_PEEK == 0 { has_read(socket, got) } }
    }
    fn __recv_chk(socket: c_int, to: *mut c_void, length: usize, room: usize, flags: c_int) -> isize {
        after(got) { if flags & libc::MSG_PEEK == 0 { has_read(socket, got) } }
    }
    fn recvfrom(socket: c_int, to: *mut c_void, length: usize, flags: c_int, name: *mut c_void, size: *mut u32) -> isize {
        after(got) { if flags & libc::MSG_PEEK == 0 { has_read(socket, got) } }
    }
    fn __recvfrom_chk(socket: c_int, to: *mut c_void, length: usize, room: usize, flags: c_int, name: *mut c_void, size: *mut u32) -> isize {
        after(got) { if flags & libc::MSG_PEEK == 0 { has_read(socket, got) } }
    }
    fn recvmsg(socket: c_int, message: *mut MessageHeader, flags: c_int) -> isize {
        after(got) { if flags & libc::MSG_PEEK == 0 { has_read(socket, got) } }
    }

    fn write(descriptor: c_int, from: *const c_void, length: usize) -> isize {
        before { will_write(descriptor, from, length) }
    }
    fn writev(descriptor: c_int, slices: *const Slice, count: c_int) -> isize {
        before { will_write_slices(descriptor, slices, usize::try_from(count).unwrap_or(0)) }
    }
    fn send(socket: c_int, from: *const c_void, length: usize, flags: c_int) -> isize {
        before { will_write(socket, from, length) }
    }
    fn sendto(socket: c_int, from: *const c_void, length: usize, flags: c_int, name: *const c_void, size: u32) -> isize {
        before { will_write(socket, from, length) }
    }
    fn sendmsg(socket: c_int, message: *const MessageHeader, flags: c_int) -> isize {
        before { if !message.is_null() { will_write_slices(socket, (*message).slices, (*message).count) } }
    }
    fn sendmmsg(socket: c_int, messages: *mut MessageHeader, count: c_uint, flags: c_int) -> c_int {
        before { if count > 0 && !messages.is_null() { will_write_slices(socket, (*messages).slices, (*messages).count) } }
    }
    fn sendfile(to: c_int, from: c_int, offset: *mut c_long, count: usize) -> isize {
        before { will_write(to, null(), 0) }
    }
    fn sendfile64(to: c_int, from: c_int, offset: *mut c_long, count: usize) -> isize {
        before { will_write(to, null(), 0) }
    }

    fn poll(all: *mut Poll, count: usize, timeout: c_int) -> c_int { before { will_poll(all, count) } }
    fn __poll_chk(all: *mut Poll, count: usize, timeout: c_int, room: usize) -> c_int { before { will_poll(all, count) } }
    fn ppoll(all: *mut Poll, count: usize, timeout: *const c_void, signals: *const c_void) -> c_int {
        before { will_poll(all, count) }
    }
    fn __ppoll_chk(all: *mut Poll, count: usize, timeout: *const c_void, signals: *const c_void, room: usize) -> c_int {
        before { will_poll(all, count) }
    }
    fn select(count: c_int, reads: *mut u64, writes: *mut u64, others: *mut u64, timeout: *mut c_void) -> c_int {
        before { will_select(count, [reads, writes]) }
    }
    fn pselect(count: c_int, reads: *mut u64, writes: *mut u64, others: *mut u64, timeout: *const c_void, signals: *const c_void) -> c_int {
        before { will_select(count, [reads, writes]) }
    }
    fn epoll_ctl(epoll: c_int, operation: c_int, descriptor: c_int, event: *mut c_char) -> c_int {
        before { if let Some(following) = following() { following.registered(descriptor) } }
    }
}
