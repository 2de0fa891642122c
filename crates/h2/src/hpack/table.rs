//! The static and the dynamic table (RFC 7541 section 2.3): fields in, found again by index, the oldest forgotten first.

use std::collections::VecDeque;

use crate::head::Class;

/// What an entry counts beside its text (RFC 7541 section 4.1).
pub(super) const OVERHEAD: usize = 32;

/// A field of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
    /// What its name is, found out once.
    pub(super) class: Class,
    /// Its value is one that a field can have.
    pub(super) sound: bool,
}

#[derive(Debug, Clone, Copy)]
struct Line {
    /// Counted from the first byte ever inserted.
    start: u64,
    name: u32,
    value: u32,
    class: Class,
    sound: bool,
}

/// The dynamic table. All text lives in one buffer.
#[derive(Debug)]
pub(super) struct Table {
    text: Vec<u8>,
    /// How many bytes were inserted before the first one of `text`.
    dropped: u64,
    /// The oldest first.
    lines: VecDeque<Line>,
    size: usize,
    max: usize,
}

impl Table {
    pub(super) fn new(max: usize) -> Table {
        Table {
            text: Vec::new(),
            dropped: 0,
            lines: VecDeque::new(),
            size: 0,
            max,
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    pub(super) fn resize(&mut self, max: usize) {
        self.max = max;
        self.evict(0);
    }

    /// The entry of the dynamic table that so many were inserted after.
    pub(super) fn newest(&self, age: usize) -> Option<Entry<'_>> {
        let at = self.lines.len().checked_sub(age + 1)?;
        let line = self.lines.get(at)?;
        let start = usize::try_from(line.start - self.dropped).ok()?;
        let (name, value) = (line.name as usize, line.value as usize);
        let text = self.text.get(start..start + name + value)?;
        let (name, value) = text.split_at_checked(name)?;
        Some(Entry {
            name,
            value,
            class: line.class,
            sound: line.sound,
        })
    }

    /// By index, as blocks name entries: the static table from 1, then the dynamic one (RFC 7541 section 2.3.3).
    pub(super) fn entry(&self, index: usize) -> Option<Entry<'_>> {
        let Some((name, value)) = STATIC.get(index.checked_sub(1)?) else {
            return self.newest(index - 1 - STATIC.len());
        };
        Some(Entry {
            name: name.as_bytes(),
            value: value.as_bytes(),
            class: static_class(index),
            sound: true,
        })
    }

    /// Larger than the table: it is empty afterwards (RFC 7541 section 4.4). Says whether the entry is there now.
    pub(super) fn insert(&mut self, entry: Entry<'_>) -> bool {
        let size = entry.name.len() + entry.value.len() + OVERHEAD;
        self.evict(size);
        if size > self.max {
            return false;
        }
        let start = self.dropped + self.text.len() as u64;
        self.text.extend_from_slice(entry.name);
        self.text.extend_from_slice(entry.value);
        self.lines.push_back(Line {
            start,
            name: entry.name.len() as u32,
            value: entry.value.len() as u32,
            class: entry.class,
            sound: entry.sound,
        });
        self.size += size;
        true
    }

    /// Forgets the oldest until there is room for so much.
    fn evict(&mut self, room: usize) {
        while self.size + room > self.max {
            let Some(line) = self.lines.pop_front() else {
                break;
            };
            self.size -= line.name as usize + line.value as usize + OVERHEAD;
        }
        let first = match self.lines.front() {
            Some(line) => line.start,
            None => self.dropped + self.text.len() as u64,
        };
        let dead = usize::try_from(first - self.dropped).unwrap_or_default();
        // Moving what is left costs less than it is spared.
        if dead > self.max || dead == self.text.len() {
            self.text.drain(..dead);
            self.dropped = first;
        }
    }
}

/// Index → class of its name.
fn static_class(index: usize) -> Class {
    match index {
        1 => Class::Authority,
        2 | 3 => Class::Method,
        4 | 5 => Class::Path,
        6 | 7 => Class::Scheme,
        8..=14 => Class::Status,
        28 => Class::ContentLength,
        57 => Class::Connection,
        _ => Class::Regular,
    }
}

/// The index of the first entry of the static table with this name, and of the one with this value too.
pub(super) fn find_static(name: &[u8], value: &[u8]) -> Option<(usize, Option<usize>)> {
    let exact = |index: usize, wanted: &[u8]| (value == wanted).then_some(index);
    let index = match name.len() {
        3 => match name {
            b"age" => 21,
            b"via" => 60,
            _ => return None,
        },
        4 => match name {
            b"date" => 33,
            b"host" => 38,
            b"etag" => 34,
            b"vary" => 59,
            b"from" => 37,
            b"link" => 45,
            _ => return None,
        },
        5 => match name {
            b":path" => return Some((4, exact(4, b"/").or_else(|| exact(5, b"/index.html")))),
            b"allow" => 22,
            b"range" => 50,
            _ => return None,
        },
        6 => match name {
            b"accept" => 19,
            b"cookie" => 32,
            b"server" => 54,
            b"expect" => 35,
            _ => return None,
        },
        7 => match name {
            b":method" => return Some((2, exact(2, b"GET").or_else(|| exact(3, b"POST")))),
            b":scheme" => return Some((6, exact(6, b"http").or_else(|| exact(7, b"https")))),
            b":status" => {
                let codes: [&[u8]; 7] = [b"200", b"204", b"206", b"304", b"400", b"404", b"500"];
                let at = codes.iter().position(|code| *code == value);
                return Some((8, at.map(|at| at + 8)));
            }
            b"expires" => 36,
            b"referer" => 51,
            b"refresh" => 52,
            _ => return None,
        },
        8 => match name {
            b"if-match" => 39,
            b"if-range" => 42,
            b"location" => 46,
            _ => return None,
        },
        10 => match name {
            b":authority" => 1,
            b"user-agent" => 58,
            b"set-cookie" => 55,
            _ => return None,
        },
        11 => match name {
            b"retry-after" => 53,
            _ => return None,
        },
        12 => match name {
            b"content-type" => 31,
            b"max-forwards" => 47,
            _ => return None,
        },
        13 => match name {
            b"cache-control" => 24,
            b"accept-ranges" => 18,
            b"authorization" => 23,
            b"content-range" => 30,
            b"if-none-match" => 41,
            b"last-modified" => 44,
            _ => return None,
        },
        14 => match name {
            b"content-length" => 28,
            b"accept-charset" => 15,
            _ => return None,
        },
        15 => match name {
            b"accept-encoding" => return Some((16, exact(16, b"gzip, deflate"))),
            b"accept-language" => 17,
            _ => return None,
        },
        16 => match name {
            b"content-encoding" => 26,
            b"content-language" => 27,
            b"content-location" => 29,
            b"www-authenticate" => 61,
            _ => return None,
        },
        17 => match name {
            b"if-modified-since" => 40,
            b"transfer-encoding" => 57,
            _ => return None,
        },
        18 => match name {
            b"proxy-authenticate" => 48,
            _ => return None,
        },
        19 => match name {
            b"content-disposition" => 25,
            b"if-unmodified-since" => 43,
            b"proxy-authorization" => 49,
            _ => return None,
        },
        25 => match name {
            b"strict-transport-security" => 56,
            _ => return None,
        },
        27 => match name {
            b"access-control-allow-origin" => 20,
            _ => return None,
        },
        _ => return None,
    };
    Some((index, exact(index, b"")))
}

/// RFC 7541 appendix A.
pub(super) const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::classify;

    #[test]
    fn the_static_table_is_found_by_name_and_by_value() {
        for (at, (name, value)) in STATIC.iter().enumerate() {
            let (first, exact) = find_static(name.as_bytes(), value.as_bytes()).unwrap();
            assert_eq!(STATIC[first - 1].0, *name);
            assert!(STATIC[..first - 1].iter().all(|(other, _)| other != name));
            assert_eq!(exact, Some(at + 1), "{name}");
            assert_eq!(find_static(name.as_bytes(), b"\x01"), Some((first, None)));
            assert_eq!(find_static(format!("{name}x").as_bytes(), b""), None);
            assert_eq!(static_class(at + 1), classify(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn the_oldest_are_forgotten_and_the_text_stays_bounded() {
        let mut table = Table::new(200);
        for number in 0..10_000u32 {
            let value = number.to_string();
            assert!(table.insert(Entry {
                name: b"name",
                value: value.as_bytes(),
                class: Class::Regular,
                sound: true,
            }));
            assert!(table.size() <= 200 && table.text.len() <= 600);
            assert_eq!(table.newest(0).unwrap().value, value.as_bytes());
        }
        assert_eq!(table.len(), 5);
        assert_eq!(table.entry(62 + 4).unwrap().value, b"9995");
        assert_eq!(table.entry(62 + 5), None);
        assert_eq!(table.entry(0), None);
        table.resize(40);
        assert_eq!(table.len(), 1);
        table.resize(0);
        assert_eq!((table.len(), table.size(), table.text.len()), (0, 0, 0));
    }
}
