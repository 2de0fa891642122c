//! A field block in → its fields, checked, in a [`Head`].

use super::huffman;
use super::integer;
use super::table::{Entry, Table};
use crate::head::{Head, Kind, classify, is_value};

/// Bytes of memory that are kept from block to block.
const KEPT: usize = 16 * 1024;

/// Why a block was not decoded to its end: the tables of both sides differ from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undecoded {
    /// It is not one that a peer's encoder could have made.
    Corrupt,
    /// It stands for more than anybody would decode.
    Endless,
}

use Undecoded::Corrupt;

#[derive(Debug)]
pub(crate) struct Decoder {
    table: Table,
    /// What the dynamic table may be set to.
    max: usize,
    /// Where literals are put together.
    text: Vec<u8>,
}

impl Decoder {
    pub(crate) fn new(max: usize) -> Decoder {
        Decoder {
            table: Table::new(max),
            max,
            text: Vec::new(),
        }
    }

    /// Decodes the whole block even when `head` is full, since the next block builds on it. `most`: the largest header
    /// list, counted as RFC 9113 section 6.5.2 does; `endless`: what no list may come to, whoever refuses it.
    pub(crate) fn decode(
        &mut self,
        mut block: &[u8],
        kind: Kind,
        most: usize,
        endless: usize,
        head: &mut Head,
    ) -> Result<(), Undecoded> {
        head.begin(kind, most);
        self.text.shrink_to(KEPT);
        let mut updates = 0;
        while let Some(first) = block.first().copied() {
            if first & 0x80 != 0 {
                let index = integer::read(&mut block, 7).ok_or(Corrupt)?;
                head.push(&self.table.entry(index).ok_or(Corrupt)?);
            } else if first & 0x40 != 0 {
                self.literal(&mut block, 6, true, head)?;
            } else if first & 0x20 == 0 {
                self.literal(&mut block, 4, false, head)?;
            } else {
                // Two at most, before anything else (RFC 7541 section 4.2).
                let size = integer::read(&mut block, 5).ok_or(Corrupt)?;
                updates += 1;
                if size > self.max || updates > 2 || !head.is_untouched() {
                    return Err(Corrupt);
                }
                self.table.resize(size);
                continue;
            }
            // From the first field on.
            updates = 3;
            if head.weight() > endless {
                return Err(Undecoded::Endless);
            }
        }
        head.finish();
        Ok(())
    }

    fn literal(
        &mut self,
        block: &mut &[u8],
        bits: u32,
        index: bool,
        head: &mut Head,
    ) -> Result<(), Undecoded> {
        self.text.clear();
        let class = match integer::read(block, bits).ok_or(Corrupt)? {
            0 => {
                self.string(block)?;
                classify(&self.text)
            }
            known => {
                let entry = self.table.entry(known).ok_or(Corrupt)?;
                self.text.extend_from_slice(entry.name);
                entry.class
            }
        };
        let name = self.text.len();
        self.string(block)?;
        let (name, value) = self.text.split_at_checked(name).ok_or(Corrupt)?;
        let entry = Entry {
            name,
            value,
            class,
            sound: is_value(value),
        };
        head.push(&entry);
        if index {
            self.table.insert(entry);
        }
        Ok(())
    }

    /// Appends a string (RFC 7541 section 5.2).
    fn string(&mut self, block: &mut &[u8]) -> Result<(), Undecoded> {
        let coded = block.first().ok_or(Corrupt)? & 0x80 != 0;
        let length = integer::read(block, 7).ok_or(Corrupt)?;
        let (string, rest) = block.split_at_checked(length).ok_or(Corrupt)?;
        *block = rest;
        if !coded {
            self.text.extend_from_slice(string);
            return Ok(());
        }
        match huffman::decode(string, &mut self.text) {
            true => Ok(()),
            false => Err(Corrupt),
        }
    }
}

impl Head {
    fn push(&mut self, entry: &Entry<'_>) {
        self.add(entry.name, entry.value, entry.class, entry.sound);
    }
}

#[cfg(test)]
impl Decoder {
    pub(super) fn table(&self) -> &Table {
        &self.table
    }
}
