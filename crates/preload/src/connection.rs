//! What the program does with its descriptors → what each of them is, and whose work a write on one is.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::table::{Ends, Served, Table};
use crate::thread::{NOTHING, Serving, serve, serving};

/// Descriptors from here on are not followed.
pub const FOLLOWED: usize = 65_536;

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    Other = 0,
    Listener = 1,
    /// Accepted.
    Inbound = 2,
    /// Opened here; nothing was written yet.
    Opened = 3,
    /// Opened here, and speaks HTTP/1.
    Outbound = 4,
    /// Opened here, and speaks something else.
    Opaque = 5,
}

const NO_SLOT: u32 = u32::MAX;
/// What a row says that was not written yet.
const UNSET: u64 = u64::MAX;
const NOBODY: u64 = 0;

/// A descriptor. All zeros is one that is not followed, which is how memory begins and what a fork leaves of it.
#[derive(Default)]
pub struct Connection {
    kind: AtomicU32,
    /// Of this use of the number; never 0.
    generation: AtomicU32,
    process: AtomicU32,
    slot: AtomicU32,
    ends: [AtomicU32; 9],
    /// Inbound: something was read, and nothing written since. Outbound: the other way round.
    unanswered: AtomicBool,
    /// Of an inbound one.
    received: AtomicU64,
    /// What the row of an outbound one says: descriptor and generation of the inbound one, and the bytes.
    serves: AtomicU64,
    serves_received: AtomicU64,
}

impl Connection {
    fn kind(&self) -> Kind {
        match self.kind.load(Ordering::Acquire) {
            1 => Kind::Listener,
            2 => Kind::Inbound,
            3 => Kind::Opened,
            4 => Kind::Outbound,
            5 => Kind::Opaque,
            _ => Kind::Other,
        }
    }

    fn begin(&self, kind: Kind, generation: u32, process: u32, ends: &Ends) {
        self.kind.store(Kind::Other as u32, Ordering::Release);
        self.generation.store(generation, Ordering::Relaxed);
        self.process.store(process, Ordering::Relaxed);
        self.slot.store(NO_SLOT, Ordering::Relaxed);
        self.name(ends);
        self.unanswered.store(false, Ordering::Relaxed);
        self.received.store(0, Ordering::Relaxed);
        self.serves.store(UNSET, Ordering::Relaxed);
        self.serves_received.store(0, Ordering::Relaxed);
        self.kind.store(kind as u32, Ordering::Release);
    }

    fn name(&self, ends: &Ends) {
        for (to, word) in self.ends.iter().zip(ends) {
            to.store(*word, Ordering::Relaxed);
        }
    }

    fn ends(&self) -> Ends {
        let mut ends = [0; 9];
        for (to, word) in ends.iter_mut().zip(&self.ends) {
            *to = word.load(Ordering::Relaxed);
        }
        ends
    }
}

/// All descriptors of a process.
pub struct Connections<'m> {
    of: &'m [Connection],
    table: Table,
    /// Counted in memory that a fork keeps, so that what a thread serves cannot be mistaken for something newer.
    generations: &'m AtomicU32,
    /// Threads say nothing in this process.
    silent: &'m AtomicBool,
}

impl<'m> Connections<'m> {
    pub fn new(
        of: &'m [Connection],
        table: Table,
        generations: &'m AtomicU32,
        silent: &'m AtomicBool,
    ) -> Connections<'m> {
        Connections {
            of,
            table,
            generations,
            silent,
        }
    }

    fn of(&self, descriptor: i32) -> Option<&'m Connection> {
        self.of.get(usize::try_from(descriptor).ok()?)
    }

    pub fn kind(&self, descriptor: i32) -> Kind {
        self.of(descriptor).map_or(Kind::Other, Connection::kind)
    }

    /// The number stands for something new.
    pub fn begin(&self, descriptor: i32, kind: Kind, process: u32, ends: &Ends) {
        if let Some(connection) = self.of(descriptor) {
            let generation = self.generations.fetch_add(1, Ordering::Relaxed);
            connection.begin(kind, generation.max(1), process, ends);
        }
    }

    /// The number is about to stand for nothing. `process` is asked only where it matters: whoever was forked and closes
    /// its copy ends nothing, and what runs between vfork and exec has its parent's memory.
    pub fn end(&self, descriptor: i32, process: impl FnOnce() -> u32) {
        let Some(connection) = self.of(descriptor) else {
            return;
        };
        if connection.kind() == Kind::Other
            || connection.process.load(Ordering::Relaxed) != process()
        {
            return;
        }
        let slot = connection.slot.load(Ordering::Relaxed);
        if slot != NO_SLOT {
            self.table.free(slot, &connection.ends());
        }
        connection.kind.store(Kind::Other as u32, Ordering::Release);
    }

    /// So many bytes were read.
    pub fn read(&self, descriptor: i32, bytes: u64) {
        let Some(connection) = self.of(descriptor) else {
            return;
        };
        match connection.kind() {
            Kind::Inbound => self.pick_up(descriptor, connection, bytes),
            Kind::Outbound => {
                connection.unanswered.store(false, Ordering::Relaxed);
                // Another request's answer, in the middle of this one.
                let serves = connection.serves.load(Ordering::Relaxed);
                let mine = self.serving();
                if let Some((serving, inbound)) = mine
                    && !matches!(serves, NOBODY | UNSET)
                    && serves != name(serving)
                    && inbound.unanswered.load(Ordering::Relaxed)
                {
                    self.silence();
                }
            }
            Kind::Other | Kind::Listener | Kind::Opened | Kind::Opaque => {}
        }
    }

    fn pick_up(&self, descriptor: i32, inbound: &Connection, bytes: u64) {
        let received = inbound.received.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let next = Serving {
            descriptor: descriptor as u32,
            generation: inbound.generation.load(Ordering::Relaxed),
            received,
        };
        if let Some((before, unfinished)) = self.serving()
            && name(before) != name(next)
            && unfinished.unanswered.load(Ordering::Relaxed)
        {
            self.silence();
        }
        inbound.unanswered.store(true, Ordering::Relaxed);
        serve(next);
    }

    /// A connection was opened. For which request is said at once: what that is worth for bytes that are not HTTP, the
    /// sidecar knows.
    pub fn opened(&self, descriptor: i32, process: u32, ends: &Ends) {
        self.begin(descriptor, Kind::Opened, process, ends);
        if let (Some(connection), Some(mine)) = (self.of(descriptor), self.serving()) {
            self.say(connection, Some(mine));
        }
    }

    /// Something is about to be written; `start` gives its first bytes.
    pub fn write(&self, descriptor: i32, start: [u8; 3]) {
        let Some(connection) = self.of(descriptor) else {
            return;
        };
        match connection.kind() {
            Kind::Inbound => {
                connection.unanswered.store(false, Ordering::Relaxed);
                let mine = serving();
                let generation = connection.generation.load(Ordering::Relaxed);
                if (mine.descriptor, mine.generation) == (descriptor as u32, generation) {
                    serve(NOTHING);
                }
            }
            Kind::Opened => {
                let http = start[0].is_ascii_uppercase() && start != *b"PRI";
                let kind = if http { Kind::Outbound } else { Kind::Opaque };
                connection.kind.store(kind as u32, Ordering::Release);
                if http {
                    self.mark(connection);
                }
            }
            Kind::Outbound => self.mark(connection),
            Kind::Other | Kind::Listener | Kind::Opaque => {}
        }
    }

    /// Says in the table what the bytes that are about to be written serve.
    fn mark(&self, outbound: &Connection) {
        let mut mine = self.serving();
        let serves = outbound.serves.load(Ordering::Relaxed);
        let named = mine.as_ref().map_or(NOBODY, |(serving, _)| name(*serving));
        if outbound.unanswered.swap(true, Ordering::Relaxed) && serves != UNSET {
            // In the middle of a request, or in a pipeline: it keeps its owner, or loses it when another one writes.
            if serves == NOBODY || serves == named {
                return;
            }
            mine = None;
        }
        let named = mine.as_ref().map_or(NOBODY, |(serving, _)| name(*serving));
        let received = mine.as_ref().map_or(0, |(serving, _)| serving.received);
        if serves == named && outbound.serves_received.load(Ordering::Relaxed) == received {
            return;
        }
        self.say(outbound, mine);
    }

    fn say(&self, outbound: &Connection, mine: Option<(Serving, &Connection)>) {
        let named = mine.as_ref().map_or(NOBODY, |(serving, _)| name(*serving));
        let received = mine.as_ref().map_or(0, |(serving, _)| serving.received);
        let served = mine.as_ref().map(|(serving, inbound)| Served {
            inbound: inbound.ends(),
            received: serving.received,
        });
        let before = outbound.slot.load(Ordering::Relaxed);
        let before = (before != NO_SLOT).then_some(before);
        let slot = self.table.write(before, &outbound.ends(), served.as_ref());
        outbound
            .slot
            .store(slot.unwrap_or(NO_SLOT), Ordering::Relaxed);
        let said = if slot.is_some() { named } else { UNSET };
        outbound.serves.store(said, Ordering::Relaxed);
        outbound.serves_received.store(received, Ordering::Relaxed);
    }

    /// Sockets are waited for together.
    pub fn wait(&self, descriptors: impl Iterator<Item = i32>) {
        if self.is_silent() {
            return;
        }
        let (mut inbound, mut all) = (0, 0);
        for descriptor in descriptors {
            let kind = self.kind(descriptor);
            all += u32::from(kind != Kind::Other);
            inbound += u32::from(kind == Kind::Inbound);
        }
        if inbound > 0 && all > 1 {
            self.silence();
        }
    }

    /// A socket was given to epoll.
    pub fn registered(&self, descriptor: i32) {
        if self.kind(descriptor) == Kind::Inbound {
            self.silence();
        }
    }

    pub fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    fn silence(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    /// What this thread serves, if the connection is still the same.
    fn serving(&self) -> Option<(Serving, &'m Connection)> {
        let mine = serving();
        if mine.generation == 0 || self.is_silent() {
            return None;
        }
        let connection = self.of(mine.descriptor as i32)?;
        let same = connection.kind() == Kind::Inbound
            && connection.generation.load(Ordering::Relaxed) == mine.generation;
        same.then_some((mine, connection))
    }
}

fn name(serving: Serving) -> u64 {
    u64::from(serving.descriptor) << 32 | u64::from(serving.generation)
}

#[cfg(test)]
mod tests;
