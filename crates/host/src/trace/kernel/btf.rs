//! What the running kernel says of its own types (`/sys/kernel/btf/vmlinux`) → where a field is, which number a tracepoint
//! has.
//!
//! The format: <https://docs.kernel.org/bpf/btf.html>. A file that is not of it yields nothing, never an error of its own.

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const TYPEDEF: u32 = 8;
/// Typedefs and qualifiers: volatile, const, restrict, a tag.
const WRAPPERS: [u32; 5] = [TYPEDEF, 9, 10, 11, 18];
/// Types may be nested in each other so deep, and a path be so long.
const DEPTH: u32 = 16;

pub(super) struct Btf {
    bytes: Vec<u8>,
    strings: usize,
    /// Where the description of each type begins; the first is of type 1.
    types: Vec<u32>,
}

/// One type's description.
#[derive(Clone, Copy)]
struct Type {
    at: usize,
    name: u32,
    kind: u32,
    count: u32,
    /// Offsets of members carry a width in their upper byte.
    flag: bool,
    /// The size, or the type that this one stands for.
    size_or_type: u32,
}

impl Btf {
    /// `None`: not of this format, or of the other byte order.
    pub(super) fn parse(bytes: Vec<u8>) -> Option<Btf> {
        let magic = bytes.get(..2)?;
        if u16::from_le_bytes([magic[0], magic[1]]) != MAGIC {
            return None;
        }
        let word = |at: usize| word(&bytes, at);
        let header = word(4)? as usize;
        let first = header.checked_add(word(8)? as usize)?;
        let end = first.checked_add(word(12)? as usize)?;
        let strings = header.checked_add(word(16)? as usize)?;
        let mut types = Vec::new();
        let mut at = first;
        while at < end {
            types.push(u32::try_from(at).ok()?);
            at = at.checked_add(length(described(&bytes, at)?)?)?;
        }
        Some(Btf {
            bytes,
            strings,
            types,
        })
    }

    /// The number of a tracepoint that a program can be attached to.
    pub(super) fn tracepoint(&self, name: &str) -> Option<u32> {
        let name = format!("btf_trace_{name}");
        self.named(TYPEDEF, &name)
    }

    /// Where a field of a struct is, in bytes; a path leads through structs in structs. Members of unnamed ones count as
    /// those of the struct around them.
    pub(super) fn offset(&self, of: &str, path: &[&str]) -> Option<i16> {
        let mut of = self.named(STRUCT, of)?;
        let mut bytes = 0;
        for name in path {
            let (offset, member) = self.member(of, name, DEPTH)?;
            bytes += offset;
            of = self.bare(member)?;
        }
        i16::try_from(bytes).ok()
    }

    fn named(&self, kind: u32, name: &str) -> Option<u32> {
        let is_it = |at: &u32| {
            described(&self.bytes, *at as usize)
                .is_some_and(|found| found.kind == kind && self.is_called(found.name, name))
        };
        let index = self.types.iter().position(is_it)?;
        u32::try_from(index + 1).ok()
    }

    fn of(&self, number: u32) -> Option<Type> {
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        described(&self.bytes, *self.types.get(index)? as usize)
    }

    /// What is behind names and qualifiers.
    fn bare(&self, mut number: u32) -> Option<u32> {
        for _ in 0..DEPTH {
            let found = self.of(number)?;
            if !WRAPPERS.contains(&found.kind) {
                return Some(number);
            }
            number = found.size_or_type;
        }
        None
    }

    fn member(&self, of: u32, name: &str, depth: u32) -> Option<(u32, u32)> {
        let of = self.of(of)?;
        if !matches!(of.kind, STRUCT | UNION) || depth == 0 {
            return None;
        }
        for index in 0..of.count as usize {
            let at = of.at + 12 + 12 * index;
            let [called, kind, offset] = [0, 4, 8].map(|field| word(&self.bytes, at + field));
            let (called, kind, offset) = (called?, kind?, offset?);
            let (bits, width) = match of.flag {
                true => (offset & 0x00ff_ffff, offset >> 24),
                false => (offset, 0),
            };
            if self.is_called(called, name) {
                // A field of some bits has no address.
                return (width == 0 && bits % 8 == 0).then_some((bits / 8, kind));
            }
            if self.is_called(called, "")
                && let Some(inner) = self.bare(kind)
                && let Some((inside, kind)) = self.member(inner, name, depth - 1)
            {
                return Some((bits / 8 + inside, kind));
            }
        }
        None
    }

    fn is_called(&self, offset: u32, name: &str) -> bool {
        let found = self.bytes.get(self.strings + offset as usize..);
        let found = found.and_then(|found| found.get(..name.len() + 1));
        found.is_some_and(|found| &found[..name.len()] == name.as_bytes() && found[name.len()] == 0)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let found = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(found.try_into().ok()?))
}

fn described(bytes: &[u8], at: usize) -> Option<Type> {
    let info = word(bytes, at + 4)?;
    Some(Type {
        at,
        name: word(bytes, at)?,
        kind: info >> 24 & 0x1f,
        count: info & 0xffff,
        flag: info >> 31 == 1,
        size_or_type: word(bytes, at + 8)?,
    })
}

/// Of a description, in bytes.
fn length(of: Type) -> Option<usize> {
    let count = of.count as usize;
    let more = match of.kind {
        // Pointers, forward declarations, functions, floats and the wrappers.
        2 | 7..=12 | 16 | 18 => 0,
        // An integer, a variable, a tag of a declaration.
        1 | 14 | 17 => 4,
        // An array.
        3 => 12,
        // Structs and unions, the variables of a section, enums of 64 bits.
        STRUCT | UNION | 15 | 19 => 12 * count,
        // Enums, the arguments of a function.
        6 | 13 => 8 * count,
        _ => return None,
    };
    Some(12 + more)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes() -> Vec<u8> {
        let strings = b"\0outer\0inner\0field\0flag\0btf_trace_told\0";
        // name, info, size or type; members: name, type, bits.
        let types: &[u32] = &[
            // 1: an int of 32 bits
            0,
            1 << 24,
            4,
            32, //
            // 2: a union without a name, of `field`
            0,
            5 << 24 | 1,
            4,
            13,
            1,
            0, //
            // 3: struct inner: a number, then the union
            7,
            4 << 24 | 2,
            8,
            0,
            1,
            0,
            0,
            2,
            32, //
            // 4: what `inner` is called
            7,
            8 << 24,
            3, //
            // 5: struct outer: `flag` of one bit, `inner` by its name
            1,
            1 << 31 | 4 << 24 | 2,
            24,
            19,
            1,
            1 << 24 | 8,
            7,
            4,
            64, //
            // 6: a tracepoint
            24,
            8 << 24,
            1,
        ];
        let length = types.len() as u32 * 4;
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend([1, 0]);
        for word in [24, 0, length, length, strings.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(types.iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn fields_are_found_through_names_and_unnamed_members() {
        let btf = Btf::parse(bytes()).unwrap();
        assert_eq!(btf.offset("inner", &["field"]), Some(4));
        assert_eq!(btf.offset("outer", &["inner"]), Some(8));
        assert_eq!(btf.offset("outer", &["inner", "field"]), Some(12));
        assert_eq!(btf.tracepoint("told"), Some(6));
        // Some bits have no address; what is not there is not there.
        assert_eq!(btf.offset("outer", &["flag"]), None);
        assert_eq!(btf.offset("outer", &["field"]), None);
        assert_eq!(btf.offset("none", &["field"]), None);
        assert_eq!(btf.tracepoint("untold"), None);
    }

    #[test]
    fn a_file_cut_off_anywhere_is_none_or_answers_nothing_wrong() {
        let whole = bytes();
        for length in 0..whole.len() {
            if let Some(btf) = Btf::parse(whole[..length].to_vec()) {
                assert!(matches!(btf.offset("inner", &["field"]), None | Some(4)));
            }
        }
    }
}
