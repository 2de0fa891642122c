//! Fields in → a field block: what was seen before is indexed, the rest is literal and never Huffman-coded.
//!
//! Huffman's code saves a quarter of a header's bytes and costs both sides more than all else that HPACK does; between
//! sidecars, on one host or in one data centre, bytes are the cheaper of the two. A field enters the table when it is seen
//! for the second time within a while, so that values which change with every request never push out those that do not.

use super::integer;
use super::table::{Entry, OVERHEAD, Table, find_static};
use crate::head::{Class, classify, is_value};

/// Slots of each of the encoder's memories; they map a hash to one entry and forget what they are overwritten with, which
/// costs compression and nothing else.
const SLOTS: usize = 256;
/// Fields larger than this are never indexed: a few of them would empty the table.
const INDEXABLE: usize = 512;
/// A cookie shorter than this can be guessed value by value through what compression makes of it (RFC 7541 section 7.1.3).
const SHORT_COOKIE: usize = 20;

#[derive(Debug)]
pub(crate) struct Encoder {
    table: Table,
    /// How many entries were ever inserted.
    inserted: u32,
    /// Hash of a field → the number of the entry it was.
    fields: Vec<u32>,
    /// Hash of a name → the number of the last entry with it.
    names: Vec<u32>,
    /// Hashes of fields that were seen.
    seen: Vec<u32>,
    /// Sizes of the table that the peer has not been told of: the smallest, and the last (RFC 7541 section 4.2).
    resized: Option<(usize, usize)>,
}

impl Encoder {
    pub(crate) fn new() -> Encoder {
        Encoder {
            table: Table::new(super::TABLE),
            inserted: 0,
            fields: Vec::new(),
            names: Vec::new(),
            seen: Vec::new(),
            resized: None,
        }
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE; more than the default is not made use of.
    pub(crate) fn resize(&mut self, max: u32) {
        let max = usize::try_from(max).unwrap_or(usize::MAX).min(super::TABLE);
        if max == self.table.max() && self.resized.is_none() {
            return;
        }
        let least = self.resized.map_or(max, |(least, _)| least.min(max));
        self.resized = Some((least, max));
        self.table.resize(max);
    }

    /// Forgets the table and makes the peer forget it: a block that used it is not sent after all.
    fn forget(&mut self) {
        let max = self.table.max();
        self.table.resize(0);
        self.table.resize(max);
        self.resized = Some((0, max));
    }

    /// Before a block's first field.
    fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some((least, last)) = self.resized.take() {
            if least < last {
                integer::write(out, 0x20, 5, least);
            }
            integer::write(out, 0x20, 5, last);
        }
        if self.seen.is_empty() {
            for memory in [&mut self.fields, &mut self.names, &mut self.seen] {
                memory.resize(SLOTS, 0);
            }
        }
    }

    fn field(&mut self, name: &[u8], value: &[u8], class: Class, out: &mut Vec<u8>) {
        let name_hash = hash(0, name);
        let field_hash = hash(name_hash, value);
        if let Some(index) = self.recall(&self.fields, field_hash, name, Some(value)) {
            return integer::write(out, 0x80, 7, index);
        }
        let fixed = find_static(name, value);
        if let Some((_, Some(index))) = fixed {
            return integer::write(out, 0x80, 7, index);
        }
        let index = match fixed {
            Some((index, _)) => index,
            None => self
                .recall(&self.names, name_hash, name, None)
                .unwrap_or_default(),
        };
        if is_secret(name, value) {
            return literal(out, 0x10, 4, index, name, value);
        }
        let small = name.len() + value.len() + OVERHEAD <= INDEXABLE;
        let repeated = match self.seen.get_mut(slot(field_hash)) {
            Some(seen) => std::mem::replace(seen, field_hash) == field_hash,
            None => false,
        };
        if !small || !repeated {
            return literal(out, 0, 4, index, name, value);
        }
        literal(out, 0x40, 6, index, name, value);
        let entry = Entry {
            name,
            value,
            class,
            sound: true,
        };
        if self.table.insert(entry) {
            self.inserted = self.inserted.wrapping_add(1);
            for (memory, hash) in [(&mut self.fields, field_hash), (&mut self.names, name_hash)] {
                if let Some(slot) = memory.get_mut(slot(hash)) {
                    *slot = self.inserted;
                }
            }
        }
    }

    /// The index of the entry that a slot names, if it still is that field, or one with that name.
    fn recall(
        &self,
        memory: &[u32],
        hash: u32,
        name: &[u8],
        value: Option<&[u8]>,
    ) -> Option<usize> {
        let number = memory.get(slot(hash)).copied().filter(|at| *at != 0)?;
        let age = usize::try_from(self.inserted.wrapping_sub(number)).ok()?;
        let entry = self.table.newest(age)?;
        let same = entry.name == name && value.is_none_or(|value| entry.value == value);
        same.then_some(super::table::STATIC.len() + 1 + age)
    }
}

fn slot(hash: u32) -> usize {
    (hash >> 24) as usize % SLOTS
}

/// Eight bytes at a step; good enough to spread what one peer sends, and nothing hangs on it but compression.
fn hash(seed: u32, bytes: &[u8]) -> u32 {
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = u64::from(seed) ^ (bytes.len() as u64).wrapping_mul(MIX);
    let (words, tail) = bytes.as_chunks::<8>();
    for word in words {
        state = (state.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(MIX);
    }
    let mut last = 0u64;
    for byte in tail {
        last = last << 8 | u64::from(*byte);
    }
    state = (state.rotate_left(23) ^ last).wrapping_mul(MIX);
    (state >> 32) as u32
}

/// What no intermediary may index either (RFC 7541 section 7.1.3).
fn is_secret(name: &[u8], value: &[u8]) -> bool {
    match name {
        b"authorization" | b"proxy-authorization" => true,
        b"cookie" | b"set-cookie" => value.len() < SHORT_COOKIE,
        _ => false,
    }
}

fn literal(out: &mut Vec<u8>, pattern: u8, bits: u32, index: usize, name: &[u8], value: &[u8]) {
    integer::write(out, pattern, bits, index);
    if index == 0 {
        string(out, name);
    }
    string(out, value);
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    integer::write(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

/// Takes the fields of one head, pseudo-header fields first.
#[derive(Debug)]
pub struct FieldWriter<'a> {
    encoder: &'a mut Encoder,
    out: &'a mut Vec<u8>,
    /// Where the block begins.
    start: usize,
    invalid: bool,
    /// Where a name's upper-case letters are lowered.
    lower: &'a mut Vec<u8>,
}

impl<'a> FieldWriter<'a> {
    pub(crate) fn new(
        encoder: &'a mut Encoder,
        out: &'a mut Vec<u8>,
        lower: &'a mut Vec<u8>,
    ) -> FieldWriter<'a> {
        let start = out.len();
        encoder.begin(out);
        FieldWriter {
            encoder,
            out,
            start,
            invalid: false,
            lower,
        }
    }

    /// A field, its name in any case. One that HTTP/2 cannot carry makes the whole head invalid.
    pub fn field(&mut self, name: &[u8], value: &[u8]) {
        if name.iter().any(u8::is_ascii_uppercase) {
            let mut lower = std::mem::take(self.lower);
            lower.clear();
            lower.extend(name.iter().map(u8::to_ascii_lowercase));
            self.checked(&lower, value);
            *self.lower = lower;
        } else {
            self.checked(name, value);
        }
    }

    fn checked(&mut self, name: &[u8], value: &[u8]) {
        let class = classify(name);
        let fit = !matches!(class, Class::Invalid | Class::Connection) && is_value(value);
        match fit {
            true => self.encoder.field(name, value, class, self.out),
            false => self.invalid = true,
        }
    }

    /// `false`: some field was invalid, and nothing is to be sent.
    #[must_use]
    pub(crate) fn finish(self) -> bool {
        if self.invalid {
            self.out.truncate(self.start);
            self.encoder.forget();
        }
        !self.invalid
    }
}

#[cfg(test)]
impl Encoder {
    pub(super) fn table(&self) -> &Table {
        &self.table
    }
}
