//! A mapped table, a row → the row in its place. The layout is `ripstop_host::trace`'s.

use core::sync::atomic::{AtomicU32, Ordering, fence};

/// In 32-bit words, as everything here: the table's fields are little-endian, and so is this machine.
const HEADER: usize = 16;
const SLOT: usize = 32;
/// Slots that a connection may be found in.
const PROBES: u32 = 8;
/// Of a row, the words after its sequence number.
const ROW: usize = 27;

/// The producer, as the table numbers it, above the state in the same word.
const PRELOAD: u32 = 3 << 8;
const NOBODYS: u32 = 1;
const REQUEST: u32 = 2;

/// Both ends of a connection: local and remote address as IPv6, local port below remote port.
pub type Ends = [u32; 9];

/// What a row says: an inbound connection, and how much had been read from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    pub inbound: Ends,
    pub received: u64,
}

/// A table in memory that other processes write and read at the same time.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    words: *const AtomicU32,
    slots: u32,
}

impl Table {
    /// `None`: not a table of this format.
    ///
    /// # Safety
    /// `words` points to `bytes` readable and writable bytes that stay mapped.
    pub unsafe fn new(words: *const AtomicU32, bytes: usize) -> Option<Table> {
        if words.is_null() || bytes < HEADER * 4 {
            return None;
        }
        // SAFETY: the header is inside, as just checked.
        let word = |at: usize| unsafe { (*words.add(at)).load(Ordering::Relaxed) };
        let magic = [u32::from_le_bytes(*b"rips"), u32::from_le_bytes(*b"top1")];
        let slots = word(2);
        let fits = HEADER * 4 + SLOT * 4 * slots as usize <= bytes;
        let known = [word(0), word(1)] == magic && word(3) as usize == SLOT * 4;
        (known && slots.is_power_of_two() && slots >= PROBES && fits)
            .then_some(Table { words, slots })
    }

    /// Writes the row of a connection, in `slot` where it is still there. Gives the slot; `None` when all are taken.
    pub fn write(
        &self,
        slot: Option<u32>,
        outbound: &Ends,
        served: Option<&Served>,
    ) -> Option<u32> {
        if let Some(slot) = slot.filter(|slot| self.holds(*slot, outbound)) {
            self.put(slot, &row(outbound, served));
            return Some(slot);
        }
        let home = hash(outbound);
        let probes = || (0..PROBES).map(|probe| home.wrapping_add(probe) & (self.slots - 1));
        if let Some(slot) = probes().find(|slot| self.holds(*slot, outbound)) {
            self.put(slot, &row(outbound, served));
            return Some(slot);
        }
        probes().find(|slot| self.take(*slot, &row(outbound, served)))
    }

    /// Frees the row of a connection, if it is still the connection's.
    pub fn free(&self, slot: u32, outbound: &Ends) {
        if self.holds(slot, outbound) {
            self.put(slot, &[0; ROW]);
        }
    }

    fn word(&self, slot: u32, at: usize) -> &AtomicU32 {
        let slot = (slot & (self.slots - 1)) as usize;
        // SAFETY: every slot was found to be inside the mapping, and `at` is below SLOT.
        unsafe { &*self.words.add(HEADER + slot * SLOT + (at % SLOT)) }
    }

    fn holds(&self, slot: u32, outbound: &Ends) -> bool {
        let same =
            |(at, word): (usize, &u32)| self.word(slot, 4 + at).load(Ordering::Relaxed) == *word;
        self.word(slot, 1).load(Ordering::Acquire) & 0xff != 0
            && outbound.iter().enumerate().all(same)
    }

    /// An odd sequence number first, so that a reader of a half-written row knows.
    fn put(&self, slot: u32, row: &[u32; ROW]) {
        let sequence = self.word(slot, 0);
        let odd = sequence.load(Ordering::Relaxed) | 1;
        sequence.store(odd, Ordering::Relaxed);
        self.fill(slot, row, odd);
    }

    /// Puts a row where none is, unless somebody else does so at the same time.
    fn take(&self, slot: u32, row: &[u32; ROW]) -> bool {
        let sequence = self.word(slot, 0);
        let even = sequence.load(Ordering::Acquire);
        let free = even & 1 == 0 && self.word(slot, 1).load(Ordering::Acquire) & 0xff == 0;
        let ours = free
            && sequence
                .compare_exchange(even, even | 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        if ours {
            self.fill(slot, row, even | 1);
        }
        ours
    }

    fn fill(&self, slot: u32, row: &[u32; ROW], odd: u32) {
        fence(Ordering::Release);
        for (at, word) in row.iter().enumerate() {
            self.word(slot, 1 + at).store(*word, Ordering::Relaxed);
        }
        self.word(slot, 0)
            .store(odd.wrapping_add(1), Ordering::Release);
    }
}

fn row(outbound: &Ends, served: Option<&Served>) -> [u32; ROW] {
    let mut row = [0; ROW];
    let [state, _, _, rest @ ..] = &mut row;
    *state = PRELOAD | if served.is_some() { REQUEST } else { NOBODYS };
    for (to, word) in rest.iter_mut().zip(outbound) {
        *to = *word;
    }
    if let Some(served) = served {
        let received = [served.received as u32, (served.received >> 32) as u32];
        // From byte 64: the inbound connection, four bytes of nothing, what was received.
        let words = served.inbound.iter().chain(&[0]).chain(&received);
        for (to, word) in rest.iter_mut().skip(12).zip(words) {
            *to = *word;
        }
    }
    row
}

/// The first slot that a connection may be in, before the table's size is taken into account.
fn hash(outbound: &Ends) -> u32 {
    let [.., remote, ports] = outbound;
    let tail = (remote.to_be()) & 0xffff;
    (ports & 0xffff) * 31 + (ports >> 16) * 17 + tail
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: u32 = 16;

    fn memory() -> Vec<AtomicU32> {
        let mut words: Vec<u32> = vec![0; HEADER + SLOT * SLOTS as usize];
        words[0] = u32::from_le_bytes(*b"rips");
        words[1] = u32::from_le_bytes(*b"top1");
        words[2] = SLOTS;
        words[3] = SLOT as u32 * 4;
        words.into_iter().map(AtomicU32::new).collect()
    }

    fn table(memory: &[AtomicU32]) -> Table {
        // SAFETY: the memory outlives the table in every test.
        unsafe { Table::new(memory.as_ptr(), memory.len() * 4) }.expect("of this format")
    }

    fn ends(port: u32) -> Ends {
        [
            0,
            0,
            0xffff_0000,
            0x0100_007f,
            0,
            0,
            0xffff_0000,
            0x0200_007f,
            port | 80 << 16,
        ]
    }

    #[test]
    fn another_format_is_no_table() {
        let memory = memory();
        let of = |bytes| unsafe { Table::new(memory.as_ptr(), bytes) }.is_some();
        assert!(of(memory.len() * 4));
        assert!(!of(memory.len() * 4 - 1));
        assert!(!of(8));
        memory[3].store(64, Ordering::Relaxed);
        assert!(!of(memory.len() * 4));
    }

    #[test]
    fn a_row_is_written_in_place_until_it_is_freed() {
        let memory = memory();
        let table = table(&memory);
        let served = Served {
            inbound: ends(7),
            received: 1 << 33 | 5,
        };
        let slot = table.write(None, &ends(1), Some(&served)).expect("free");
        let words = |slot: u32| &memory[HEADER + SLOT * slot as usize..][..SLOT];
        let read = |at: usize| words(slot)[at].load(Ordering::Relaxed);
        assert_eq!((read(0), read(1)), (2, 2 | 3 << 8));
        assert_eq!((read(12), read(24)), (1 | 80 << 16, 7 | 80 << 16));
        assert_eq!((read(26), read(27)), (5, 2));
        assert_eq!(table.write(Some(slot), &ends(1), None), Some(slot));
        assert_eq!((read(0), read(1), read(24)), (4, 1 | 3 << 8, 0));
        // Somebody else's row is left alone.
        table.free(slot, &ends(2));
        assert_eq!(read(1), 1 | 3 << 8);
        table.free(slot, &ends(1));
        assert_eq!((read(0), read(1)), (6, 0));
    }

    #[test]
    fn a_connection_has_one_row_and_a_full_table_refuses() {
        let memory = memory();
        let table = table(&memory);
        assert_eq!(
            table.write(None, &ends(1), None),
            table.write(None, &ends(1), None)
        );
        // Ports that are 16 apart share a home.
        let slots: Vec<_> = (1..9)
            .map(|n| table.write(None, &ends(1 + 16 * n), None))
            .collect();
        assert!(slots[..7].iter().all(Option::is_some));
        assert_eq!(slots[7], None);
    }
}
