//! Where fields are in this kernel, and whose connections are meant → the three programs.
//!
//! They see every arrival, read and write of a TCP socket on the host. Those of another network namespace leave at once, those of
//! a program that is not among the allowed ones a little later. What is left is a thread's word, as `ripstop_preload` takes
//! it: a read from a connection to one of the workload's ports says what the thread serves, a write to it is the answer,
//! a write on any other connection is noted before the bytes are queued.
//!
//! A thread says something only where it waits for its one connection in the read itself. Until one has been seen to, an
//! allowed program is no more than a candidate. And it is silenced, for good, by an inbound connection that does not block,
//! that is in an epoll, or that is waited for by poll(2) or select(2) or another thread when bytes arrive; by a thread that
//! uses io_uring, reads a second request before it has answered the first, reads or answers a request that another thread
//! has read, goes back to a connection after another one, or reads the answer to another request's call.

use super::assembler::{Assembler, Helper, Label, Register, Size, When};
use super::btf::Btf;
use super::maps::{self, ALLOWED, Inbound, Maps, SILENT};
use Register::{R0, R1, R2, R3, R4, R6, R7, R8, R9, Stack};
use Size::{U16, U32, U64};
use When::{Common, Different, Equal, NotPositive};

/// The tracepoint after a read, with its result.
pub(super) const READ: &str = "sock_recv_length";
/// The one before each part of a write is queued. `sock_send_length` comes after it, when the bytes are under way.
pub(super) const WRITE: &str = "tcp_sendmsg_locked";

/// The one of bytes that have arrived, before those who wait for them are woken.
pub(super) const ARRIVAL: &str = "sk_data_ready";

/// Whose connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The cookie of the workload's network namespace.
    pub network: u64,
    /// Where the workload accepts requests: one at least.
    pub ports: Vec<u16>,
}

/// Places of fields, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields {
    family: i16,
    protocol: i16,
    network: i16,
    cookie: i16,
    local_v4: i16,
    remote_v4: i16,
    local_v6: i16,
    remote_v6: i16,
    local_port: i16,
    remote_port: i16,
    socket: i16,
    epoll: i16,
    file: i16,
    flags: i16,
    queue: i16,
    waiting: i16,
    waiter: i16,
    private: i16,
    inode: i16,
    number: i16,
    size: i16,
    memory: i16,
    executable: i16,
    thread: i16,
    started: i16,
    /// Not every kernel has it.
    io_uring: Option<i16>,
    received: i16,
    next: i16,
    read: i16,
}

impl Fields {
    /// The error is the name of the first field that this kernel does not have.
    pub(super) fn of(btf: &Btf) -> Result<Fields, String> {
        let find = |of: &str, path: &[&str]| {
            btf.offset(of, path)
                .ok_or_else(|| format!("{of}.{}", path.join(".")))
        };
        let sock = |name: &str| find("sock", &["__sk_common", name]);
        Ok(Fields {
            family: sock("skc_family")?,
            protocol: find("sock", &["sk_protocol"])?,
            network: find("sock", &["__sk_common", "skc_net", "net"])?,
            cookie: find("net", &["net_cookie"])?,
            local_v4: sock("skc_rcv_saddr")?,
            remote_v4: sock("skc_daddr")?,
            local_v6: sock("skc_v6_rcv_saddr")?,
            remote_v6: sock("skc_v6_daddr")?,
            local_port: sock("skc_num")?,
            remote_port: sock("skc_dport")?,
            socket: find("sock", &["sk_socket"])?,
            file: find("socket", &["file"])?,
            flags: find("file", &["f_flags"])?,
            epoll: find("file", &["f_ep"])?,
            queue: find("sock", &["sk_wq"])?,
            waiting: find("socket_wq", &["wait", "head", "next"])?,
            waiter: find("wait_queue_entry", &["entry", "next"])?,
            private: find("wait_queue_entry", &["private"])?,
            inode: find("file", &["f_inode"])?,
            number: find("inode", &["i_ino"])?,
            size: find("inode", &["i_size"])?,
            memory: find("task_struct", &["mm"])?,
            executable: find("mm_struct", &["exe_file"])?,
            thread: find("task_struct", &["pid"])?,
            started: find("task_struct", &["start_time"])?,
            io_uring: btf.offset("task_struct", &["io_uring"]),
            received: find("tcp_sock", &["bytes_received"])?,
            next: find("tcp_sock", &["rcv_nxt"])?,
            read: find("tcp_sock", &["copied_seq"])?,
        })
    }
}

/// On the stack: both ends of the connection at hand.
const ENDS: i16 = -40;
/// The connection's cookie.
const COOKIE: i16 = -48;
/// The thread's number.
const THREAD: i16 = -56;
/// A key or value that is about to be used.
const VALUE: i16 = VALUE_END - maps::ROW;
const VALUE_END: i16 = -56;
/// What a read was asked with.
const FLAGS: i16 = VALUE - 8;

const TCP: i32 = libc::IPPROTO_TCP;

/// A program under construction. `R6` holds the socket, `R8` the verdict on the program, `R9` the thread.
struct Program<'a> {
    code: Assembler,
    fields: &'a Fields,
    maps: &'a Maps,
    out: Label,
    silence: Label,
}

impl<'a> Program<'a> {
    fn new(fields: &'a Fields, maps: &'a Maps) -> Program<'a> {
        let mut code = Assembler::default();
        let (out, silence) = (code.label(), code.label());
        Program {
            code,
            fields,
            maps,
            out,
            silence,
        }
    }

    /// Leaves unless the socket is of the scope.
    fn scope(&mut self, scope: &Scope) {
        let (code, fields, out) = (&mut self.code, self.fields, self.out);
        let internet = code.label();
        code.load(U16, R1, R6, fields.family);
        code.jump_if(R1, Equal, libc::AF_INET, internet);
        code.jump_if(R1, Different, libc::AF_INET6, out);
        code.here(internet);
        code.load(U16, R1, R6, fields.protocol);
        code.jump_if(R1, Different, TCP, out);
        code.load(U64, R1, R6, fields.network);
        code.load(U64, R1, R1, fields.cookie);
        code.set_wide(R2, scope.network);
        code.jump_if_both(R1, Different, R2, out);
    }

    /// Leaves unless the program is one of those that are followed.
    fn follow(&mut self) {
        let (code, fields, out) = (&mut self.code, self.fields, self.out);
        code.call(Helper::CurrentTask);
        code.copy(R9, R0);
        // The executable's inode says which program this is.
        code.load(U64, R1, R9, fields.memory);
        for field in [fields.executable, fields.inode] {
            code.jump_if(R1, Equal, 0, out);
            code.load(U64, R1, R1, field);
        }
        code.jump_if(R1, Equal, 0, out);
        code.load(U64, R2, R1, fields.number);
        code.store(U64, Stack, VALUE, R2);
        code.load(U64, R2, R1, fields.size);
        code.store(U64, Stack, VALUE + 8, R2);
        self.look_up(self.maps.programs.number(), VALUE, out);
        let code = &mut self.code;
        code.copy(R8, R0);
        code.load(U32, R1, R9, fields.thread);
        code.store(U64, Stack, THREAD, R1);
        self.name();
    }

    /// Puts the connection's cookie on the stack.
    fn name(&mut self) {
        let code = &mut self.code;
        code.copy(R1, R6);
        code.call(Helper::SocketCookie);
        code.store(U64, Stack, COOKIE, R0);
    }

    /// The element of the key at `key`, in `R0`; jumps where there is none.
    fn look_up(&mut self, map: i32, key: i16, otherwise: Label) {
        let code = &mut self.code;
        code.map(R1, map);
        code.copy(R2, Stack);
        code.add(R2, i32::from(key));
        code.call(Helper::Lookup);
        code.jump_if(R0, Equal, 0, otherwise);
    }

    /// Stores [`VALUE`] under the key at `key`.
    fn update(&mut self, map: i32, key: i16) {
        let code = &mut self.code;
        code.map(R1, map);
        code.copy(R2, Stack);
        code.add(R2, i32::from(key));
        code.copy(R3, Stack);
        code.add(R3, i32::from(VALUE));
        code.set(R4, 0);
        code.call(Helper::Update);
    }

    /// Jumps unless the connection is one to the workload.
    fn unless_inbound(&mut self, scope: &Scope, otherwise: Label) {
        let inbound = self.code.label();
        self.code.load(U16, R1, R6, self.fields.local_port);
        for port in &scope.ports {
            self.code.jump_if(R1, Equal, i32::from(*port), inbound);
        }
        self.code.jump(otherwise);
        self.code.here(inbound);
    }

    /// Writes both ends to the stack, as keys of the table are.
    fn ends(&mut self, to: i16) {
        let (code, fields) = (&mut self.code, self.fields);
        let (v6, ports) = (code.label(), code.label());
        code.load(U16, R1, R6, fields.family);
        code.jump_if(R1, Different, libc::AF_INET, v6);
        for (place, field) in [(to, fields.local_v4), (to + 16, fields.remote_v4)] {
            code.store_number(U64, Stack, place, 0);
            // The two bytes of ones of a mapped address.
            code.store_number(U32, Stack, place + 8, 0xffff_0000_u32.cast_signed());
            code.load(U32, R1, R6, field);
            code.store(U32, Stack, place + 12, R1);
        }
        code.jump(ports);
        code.here(v6);
        for (place, field) in [(to, fields.local_v6), (to + 16, fields.remote_v6)] {
            for half in [0, 8] {
                code.load(U64, R1, R6, field + half);
                code.store(U64, Stack, place + half, R1);
            }
        }
        code.here(ports);
        code.store_number(U64, Stack, to + 32, 0);
        code.load(U16, R1, R6, fields.local_port);
        code.store(U16, Stack, to + 32, R1);
        code.load(U16, R1, R6, fields.remote_port);
        code.swap_16(R1);
        code.store(U16, Stack, to + 34, R1);
    }

    /// What the thread serves, in `R0`; jumps where it serves nothing.
    fn serving(&mut self, otherwise: Label) {
        self.look_up(self.maps.threads.number(), THREAD, otherwise);
        let code = &mut self.code;
        // The number may have been another thread's.
        code.load(U64, R1, R0, maps::STARTED);
        code.load(U64, R2, R9, self.fields.started);
        code.jump_if_both(R1, Different, R2, otherwise);
        code.load(U64, R1, R0, maps::SERVES);
        code.jump_if(R1, Equal, 0, otherwise);
    }

    fn finish(mut self, silences: bool) -> Option<Vec<u64>> {
        let code = &mut self.code;
        if silences {
            code.jump(self.out);
            code.here(self.silence);
            code.store_number(U64, R8, 0, SILENT);
        }
        code.here(self.out);
        code.set(R0, 0);
        code.exit();
        self.code.finish()
    }
}

/// When something arrives: (socket). Whoever waits in a read has put its thread into the queue; poll and epoll put
/// something else, or nothing, there.
pub(super) fn arrival(fields: &Fields, maps: &Maps, scope: &Scope) -> Option<Vec<u64>> {
    const UNNAMED: i32 = 1;
    let mut program = Program::new(fields, maps);
    let out = program.out;
    program.code.load(U64, R6, R1, 0);
    program.scope(scope);
    program.unless_inbound(scope, out);
    let code = &mut program.code;
    let (named, new) = (code.label(), code.label());
    code.load(U64, R1, R6, fields.queue);
    code.jump_if(R1, Equal, 0, out);
    code.load(U64, R3, R1, fields.waiting);
    code.add(R1, i32::from(fields.waiting));
    code.jump_if_both(R1, Equal, R3, out);
    code.add(R3, i32::from(fields.private - fields.waiter));
    code.set(R2, 8);
    code.copy(R1, Stack);
    code.add(R1, i32::from(VALUE + maps::WAITER));
    code.call(Helper::ReadKernel);
    code.load(U64, R7, Stack, VALUE + maps::WAITER);
    code.jump_if(R7, Different, 0, named);
    code.set(R7, UNNAMED);
    code.here(named);
    program.name();
    program.look_up(maps.connections.number(), COOKIE, new);
    let code = &mut program.code;
    code.store(U64, R0, maps::WAITER, R7);
    code.jump(out);
    code.here(new);
    for word in 0..size_of::<Inbound>() as i16 / 8 {
        code.store_number(U64, Stack, VALUE + 8 * word, 0);
    }
    code.store(U64, Stack, VALUE + maps::WAITER, R7);
    program.update(maps.connections.number(), COOKIE);
    program.finish(false)
}

/// After a read: (socket, result, flags).
pub(super) fn read(fields: &Fields, maps: &Maps, scope: &Scope) -> Option<Vec<u64>> {
    let mut program = Program::new(fields, maps);
    let (out, outbound) = (program.out, program.code.label());
    let code = &mut program.code;
    code.load(U64, R6, R1, 0);
    code.load(U64, R7, R1, 8);
    code.load(U64, R2, R1, 16);
    code.jump_if(R7, NotPositive, 0, out);
    code.jump_if(R2, Common, libc::MSG_PEEK, out);
    code.store(U64, Stack, FLAGS, R2);
    program.scope(scope);
    program.follow();
    program.code.load(U64, R1, R8, 0);
    program.code.jump_if(R1, Equal, SILENT, out);
    program.unless_inbound(scope, outbound);
    program.blocks();
    program.connection();
    program.nothing_else();
    program.code.load(U64, R1, R8, 0);
    program.code.jump_if(R1, Different, ALLOWED, out);
    program.serve();
    program.code.jump(out);
    program.code.here(outbound);
    program.answered();
    program.finish(true)
}

impl Program<'_> {
    /// Silences unless the thread has waited in this very read, or could have.
    fn blocks(&mut self) {
        let (code, fields, silence) = (&mut self.code, self.fields, self.silence);
        code.load(U64, R1, Stack, FLAGS);
        code.jump_if(R1, Common, libc::MSG_DONTWAIT, silence);
        code.load(U64, R1, R6, fields.socket);
        code.jump_if(R1, Equal, 0, self.out);
        code.load(U64, R1, R1, fields.file);
        code.jump_if(R1, Equal, 0, self.out);
        code.load(U32, R2, R1, fields.flags);
        code.jump_if(R2, Common, libc::O_NONBLOCK, silence);
        code.load(U64, R2, R1, fields.epoll);
        code.jump_if(R2, Different, 0, silence);
        if let Some(io_uring) = fields.io_uring {
            code.load(U64, R1, R9, io_uring);
            code.jump_if(R1, Different, 0, silence);
        }
    }

    /// Notes that the connection has a request that this thread has read.
    fn connection(&mut self) {
        let map = self.maps.connections.number();
        let (answered, new, noted) = (self.code.label(), self.code.label(), self.code.label());
        let waited = self.code.label();
        self.look_up(map, COOKIE, new);
        let code = &mut self.code;
        code.load(U64, R1, R0, maps::WAITER);
        code.store_number(U64, R0, maps::WAITER, 0);
        code.jump_if(R1, Equal, 0, waited);
        code.jump_if_both(R1, Different, R9, self.silence);
        code.store_number(U64, R8, 0, ALLOWED);
        code.here(waited);
        code.load(U64, R3, Stack, THREAD);
        code.load(U64, R2, R0, maps::READER);
        code.load(U64, R1, R0, maps::UNANSWERED);
        code.jump_if(R1, Equal, 0, answered);
        code.jump_if_both(R2, Different, R3, self.silence);
        code.here(answered);
        code.store(U64, R0, maps::READER, R3);
        code.store_number(U64, R0, maps::UNANSWERED, 1);
        // Who has read it before, for `nothing_else`.
        code.copy(R7, R2);
        code.jump(noted);
        code.here(new);
        code.load(U64, R1, Stack, THREAD);
        code.store(U64, Stack, VALUE + maps::READER, R1);
        code.store_number(U64, Stack, VALUE + maps::UNANSWERED, 1);
        code.store_number(U64, Stack, VALUE + maps::WAITER, 0);
        self.update(map, COOKIE);
        self.code.set(R7, 0);
        self.code.here(noted);
    }

    /// Silences where the thread is in the middle of another request, or is back from another connection.
    fn nothing_else(&mut self) {
        let alone = self.code.label();
        self.look_up(self.maps.threads.number(), THREAD, alone);
        let code = &mut self.code;
        code.load(U64, R1, R0, maps::STARTED);
        code.load(U64, R2, R9, self.fields.started);
        code.jump_if_both(R1, Different, R2, alone);
        code.load(U64, R3, Stack, COOKIE);
        code.load(U64, R2, R0, maps::LAST);
        code.jump_if_both(R2, Equal, R3, alone);
        code.load(U64, R1, Stack, THREAD);
        code.jump_if_both(R7, Equal, R1, self.silence);
        code.load(U64, R2, R0, maps::SERVES);
        code.jump_if(R2, Equal, 0, alone);
        code.store(U64, Stack, VALUE, R2);
        self.look_up(self.maps.connections.number(), VALUE, alone);
        let code = &mut self.code;
        code.load(U64, R1, R0, maps::UNANSWERED);
        code.jump_if(R1, Different, 0, self.silence);
        code.here(alone);
    }

    /// The thread serves this connection from now on.
    fn serve(&mut self) {
        let out = self.out;
        self.code.copy(R1, R6);
        self.code.call(Helper::TcpSocket);
        let (code, fields) = (&mut self.code, self.fields);
        code.jump_if(R0, Equal, 0, out);
        // What has arrived without what waits to be read. In this order more may arrive in between, never less.
        code.load(U32, R1, R0, fields.next);
        code.load(U32, R2, R0, fields.read);
        code.subtract_32(R1, R2);
        code.load(U64, R2, R0, fields.received);
        code.subtract(R2, R1);
        code.store(U64, Stack, VALUE + maps::RECEIVED, R2);
        code.load(U64, R1, Stack, COOKIE);
        code.store(U64, Stack, VALUE + maps::SERVES, R1);
        code.store(U64, Stack, VALUE + maps::LAST, R1);
        code.load(U64, R1, R9, fields.started);
        code.store(U64, Stack, VALUE + maps::STARTED, R1);
        self.ends(VALUE);
        self.update(self.maps.threads.number(), THREAD);
    }

    /// Something was read from a connection that the program opened.
    fn answered(&mut self) {
        let out = self.out;
        self.ends(ENDS);
        self.look_up(self.maps.rows.number(), ENDS, out);
        let code = &mut self.code;
        code.load(U64, R1, R0, maps::OUTBOUND);
        code.load(U64, R2, Stack, COOKIE);
        code.jump_if_both(R1, Different, R2, out);
        code.store_number(U64, R0, maps::AWAITED, 0);
        code.load(U64, R7, R0, maps::SERVES);
        code.jump_if(R7, Equal, 0, out);
        self.serving(out);
        self.code.jump_if_both(R1, Different, R7, self.silence);
    }
}

/// Before a write: (socket, …).
pub(super) fn write(fields: &Fields, maps: &Maps, scope: &Scope) -> Option<Vec<u64>> {
    let mut program = Program::new(fields, maps);
    let (out, silence, outbound) = (program.out, program.silence, program.code.label());
    program.code.load(U64, R6, R1, 0);
    program.scope(scope);
    program.follow();
    program.unless_inbound(scope, outbound);
    // An answer, or more of it.
    program.look_up(maps.connections.number(), COOKIE, out);
    let code = &mut program.code;
    code.load(U64, R1, R0, maps::UNANSWERED);
    code.jump_if(R1, Equal, 0, out);
    code.load(U64, R1, R0, maps::READER);
    code.load(U64, R2, Stack, THREAD);
    code.jump_if_both(R1, Different, R2, silence);
    code.store_number(U64, R0, maps::UNANSWERED, 0);
    program.serving(out);
    let code = &mut program.code;
    code.load(U64, R2, Stack, COOKIE);
    code.jump_if_both(R1, Different, R2, out);
    code.store_number(U64, R0, maps::SERVES, 0);
    code.jump(out);
    program.code.here(outbound);
    program.call_out();
    program.finish(true)
}

impl Program<'_> {
    /// Something is about to be written on a connection that the program opened.
    fn call_out(&mut self) {
        let (out, rows) = (self.out, self.maps.rows.number());
        let (speaks, nobodys, said) = (self.code.label(), self.code.label(), self.code.label());
        let write = self.code.label();
        self.ends(ENDS);
        self.code.load(U64, R1, R8, 0);
        self.code.jump_if(R1, Equal, ALLOWED, speaks);
        // Nothing that was said before stays.
        self.code.map(R1, rows);
        self.code.copy(R2, Stack);
        self.code.add(R2, i32::from(ENDS));
        self.code.call(Helper::Delete);
        self.code.jump(out);
        self.code.here(speaks);
        self.serving(nobodys);
        for field in (0..maps::SERVES + 8).step_by(8) {
            self.code.load(U64, R1, R0, field);
            self.code.store(U64, Stack, VALUE + field, R1);
        }
        self.code.jump(said);
        self.code.here(nobodys);
        for field in (0..maps::SERVES + 8).step_by(8) {
            self.code.store_number(U64, Stack, VALUE + field, 0);
        }
        self.code.here(said);
        self.look_up(rows, ENDS, write);
        let code = &mut self.code;
        code.load(U64, R1, R0, maps::OUTBOUND);
        code.load(U64, R2, Stack, COOKIE);
        code.jump_if_both(R1, Different, R2, write);
        code.load(U64, R1, R0, maps::AWAITED);
        code.jump_if(R1, Equal, 0, write);
        // In the middle of a request, or in a pipeline: it keeps its owner, or loses it when another one writes.
        code.load(U64, R1, Stack, VALUE + maps::SERVES);
        code.load(U64, R2, R0, maps::SERVES);
        code.jump_if_both(R1, Equal, R2, out);
        code.store_number(U64, R0, maps::SERVES, 0);
        code.jump(out);
        code.here(write);
        code.load(U64, R1, Stack, COOKIE);
        code.store(U64, Stack, VALUE + maps::OUTBOUND, R1);
        code.store_number(U64, Stack, VALUE + maps::AWAITED, 1);
        self.update(rows, ENDS);
    }
}
