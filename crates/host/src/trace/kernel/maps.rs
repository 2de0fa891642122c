//! What the programs remember, and where in it: all of it bounded, freed with the last descriptor.

use std::io;

use super::call::{Kind, Map};

/// Both ends of a connection, as keys of the table are, and four bytes of nothing.
pub(super) type Ends = [u64; 5];
/// An executable file: inode and size.
pub(super) type Executable = [u64; 2];
/// What a thread serves, or what a row says: see the offsets.
pub(super) type Row = [u64; 9];

/// An inbound connection: see the offsets.
pub(super) type Inbound = [u64; 3];

/// Of a verdict: nothing is known yet.
pub(super) const CANDIDATE: i32 = 1;
/// One of its threads has waited for a request in the read itself.
pub(super) const ALLOWED: i32 = 2;
/// Its threads turned out to say nothing.
pub(super) const SILENT: i32 = 3;

/// Of a thread and of a row, after the ends of the inbound connection: the bytes read from it.
pub(super) const RECEIVED: i16 = 40;
/// The inbound connection's cookie; 0: nothing is served.
pub(super) const SERVES: i16 = 48;
/// Of a thread: the cookie of the inbound connection that it read last.
pub(super) const LAST: i16 = 56;
/// Of a thread: when it began.
pub(super) const STARTED: i16 = 64;
/// Of a row: its outbound connection's cookie.
pub(super) const OUTBOUND: i16 = 56;
/// Of a row: whether something was written, and nothing read since.
pub(super) const AWAITED: i16 = 64;
/// A thread's, and a row's size.
pub(super) const ROW: i16 = 72;

/// Of an inbound connection: who has read from it last.
pub(super) const READER: i16 = 0;
/// Whether something was read, and nothing written since.
pub(super) const UNANSWERED: i16 = 8;
/// Who waited for it when something arrived last: the thread, or what poll and epoll leave in its place; 0: nobody.
pub(super) const WAITER: i16 = 16;

/// Different executables of a workload.
const PROGRAMS: u32 = 64;
/// Connections and threads in use at a time. What is forgotten is unattributed.
const IN_USE: u32 = 8192;

#[derive(Debug)]
pub(super) struct Maps {
    pub(super) programs: Map<Executable, u64>,
    pub(super) threads: Map<u64, Row>,
    pub(super) connections: Map<u64, Inbound>,
    pub(super) rows: Map<Ends, Row>,
}

impl Maps {
    pub(super) fn new() -> io::Result<Maps> {
        Ok(Maps {
            programs: Map::new(Kind::Hash, "ripstop_program", PROGRAMS)?,
            threads: Map::new(Kind::Recent, "ripstop_thread", IN_USE)?,
            connections: Map::new(Kind::Recent, "ripstop_inbound", IN_USE)?,
            rows: Map::new(Kind::Recent, "ripstop_row", IN_USE)?,
        })
    }
}
