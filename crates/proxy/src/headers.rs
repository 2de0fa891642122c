//! The one header collection of the proxy: field lines in, an ordered list with the case of names kept out,
//! looked up by [`Known`] kind or by name in any case.
//!
//! All names and values of a message live in one text buffer; a field is 16 bytes of offsets into it. Nothing is
//! allocated per header, a clone is two copies of memory, and a collection that is cleared keeps its capacity.
//!
//! Invariant: a field marked *canonical* is followed in the text exactly as the writer would write it
//! (`Name: value\r\n`), so a run of untouched neighbours is written with one copy.

mod known;
pub(crate) mod scan;

use std::borrow::Cow;
use std::fmt;

pub use known::Known;
use scan::{find_control, is_control};

/// A part of the text buffer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// Offsets are bounded by the head limits; what would not fit is an empty span.
    #[inline]
    pub(crate) fn new(start: usize, end: usize) -> Span {
        match (
            u32::try_from(start),
            u32::try_from(end.saturating_sub(start)),
        ) {
            (Ok(start), Ok(len)) => Span { start, len },
            _ => Span::default(),
        }
    }

    #[inline]
    pub(crate) fn start(self) -> usize {
        self.start as usize
    }

    #[inline]
    pub(crate) fn end(self) -> usize {
        self.start as usize + self.len as usize
    }

    pub(crate) fn is_empty(self) -> bool {
        self.len == 0
    }

    #[inline]
    pub(crate) fn of(self, text: &[u8]) -> &[u8] {
        text.get(self.start()..self.end()).unwrap_or_default()
    }
}

/// One field line as offsets into the text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    name_start: u32,
    value_start: u32,
    value_len: u32,
    name_len: u16,
    known: Known,
    canonical: bool,
}

impl Field {
    /// A field read at these offsets; `None` if they do not fit, which the head limits exclude.
    #[inline]
    pub(crate) fn read(name: Span, value: Span, known: Known, canonical: bool) -> Option<Field> {
        Some(Field {
            name_start: name.start,
            value_start: value.start,
            value_len: value.len,
            name_len: u16::try_from(name.len).ok()?,
            known,
            canonical,
        })
    }

    #[inline]
    fn name(self) -> Span {
        Span {
            start: self.name_start,
            len: u32::from(self.name_len),
        }
    }

    #[inline]
    fn value(self) -> Span {
        Span {
            start: self.value_start,
            len: self.value_len,
        }
    }
}

/// A field as readers see it: the name in its original case, the value without surrounding whitespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldRef<'a> {
    pub name: &'a [u8],
    pub value: &'a [u8],
    pub known: Known,
}

/// Header fields in their original order, names in their original case.
#[derive(Clone, Default)]
pub struct Headers {
    text: Vec<u8>,
    fields: Vec<Field>,
    /// The kinds that occur; a clear bit is a sure absence.
    present: u64,
}

impl Headers {
    pub fn new() -> Headers {
        Headers::default()
    }

    /// Forgets all fields, keeps the memory.
    pub fn clear(&mut self) {
        self.text.clear();
        self.fields.clear();
        self.present = 0;
    }

    pub fn len(&self) -> usize {
        self.fields.len()
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Bytes as RFC 9113 section 6.5.2 counts a header list: names, values and 32 per field.
    pub fn weight(&self) -> usize {
        self.fields
            .iter()
            .map(|field| usize::from(field.name_len) + field.value_len as usize + 32)
            .sum()
    }

    #[inline]
    pub fn has(&self, known: Known) -> bool {
        self.present & known.bit() != 0
    }

    /// Any field of the kinds in this set of bits.
    #[inline]
    pub(crate) fn has_any(&self, kinds: u64) -> bool {
        self.present & kinds != 0
    }

    /// The value of the first field of this kind.
    #[inline]
    pub fn get(&self, known: Known) -> Option<&[u8]> {
        if !self.has(known) {
            return None;
        }
        self.all(known).next()
    }

    /// The value of the first field of this kind, if it is UTF-8.
    pub fn text(&self, known: Known) -> Option<&str> {
        std::str::from_utf8(self.get(known)?).ok()
    }

    /// The values of every field of this kind, in order.
    pub fn all(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        self.fields
            .iter()
            .filter(move |field| field.known == known)
            .map(|field| field.value().of(&self.text))
    }

    /// As [`Headers::all`], as spans.
    pub(crate) fn all_spans(&self, known: Known) -> impl Iterator<Item = Span> {
        self.fields
            .iter()
            .filter(move |field| field.known == known)
            .map(|field| field.value())
    }

    /// The value of the first field with this name, in any case.
    pub fn first_named(&self, name: &str) -> Option<&[u8]> {
        let wanted = Wanted::new(name);
        self.fields_named(wanted.known)
            .iter()
            .find(|field| wanted.matches(field, &self.text))
            .map(|field| field.value().of(&self.text))
    }

    /// The values of every field with this name, in order.
    pub fn all_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let wanted = Wanted::new(name);
        self.fields_named(wanted.known)
            .iter()
            .filter(move |field| wanted.matches(field, &self.text))
            .map(|field| field.value().of(&self.text))
    }

    /// Whether the value of one of the fields with this name passes `test`; `None` if there is no such field.
    pub fn any_named(&self, name: &str, test: &dyn Fn(&str) -> bool) -> Option<bool> {
        self.all_named(name)
            .map(|value| test(&String::from_utf8_lossy(value)))
            .reduce(|a, b| a || b)
    }

    /// The fields among which one of this kind may be.
    fn fields_named(&self, known: Known) -> &[Field] {
        match self.has(known) {
            true => &self.fields,
            false => &[],
        }
    }

    /// All values of a name joined by commas, as policies see them (Envoy and Istio join the same way).
    pub fn joined(&self, name: &str) -> Option<Cow<'_, str>> {
        let wanted = Wanted::new(name);
        let mut values = self
            .fields_named(wanted.known)
            .iter()
            .filter(|field| wanted.matches(field, &self.text))
            .map(|field| String::from_utf8_lossy(field.value().of(&self.text)));
        let first = values.next()?;
        let Some(second) = values.next() else {
            return Some(first);
        };
        let mut all = first.into_owned();
        for value in std::iter::once(second).chain(values) {
            all.push(',');
            all.push_str(&value);
        }
        Some(Cow::Owned(all))
    }

    pub fn iter(&self) -> impl Iterator<Item = FieldRef<'_>> {
        self.fields.iter().map(|field| self.view(field))
    }

    /// Adds a field of this kind after all others, under its lower-case name. Kinds that are families are named by
    /// [`Headers::append_named`].
    pub fn append(&mut self, known: Known, value: impl AsRef<[u8]>) {
        if known.is_single() {
            let field = self.push_text(known.name().as_bytes(), known, value.as_ref());
            self.fields.push(field);
        }
    }

    /// Adds a field after all others. `false`, and nothing added, if the name is not a token.
    pub fn append_named(&mut self, name: &str, value: impl AsRef<[u8]>) -> bool {
        if !is_token(name.as_bytes()) || name.len() > usize::from(u16::MAX) {
            return false;
        }
        let known = Known::of(name.as_bytes());
        let field = self.push_text(name.as_bytes(), known, value.as_ref());
        self.fields.push(field);
        true
    }

    /// Takes over the fields of an HTTP/2 message or its trailers, which the codec has checked.
    pub(crate) fn take_over(&mut self, head: &ripstop_h2::Head) {
        self.text.reserve(head.text_len() + 4 * head.fields().len());
        for field in head.fields() {
            let known = Known::of(field.name);
            let field = self.push_text(field.name, known, field.value);
            self.fields.push(field);
        }
    }

    /// Writes the fields as HTTP/2 carries them, without the kinds in `except`.
    pub(crate) fn write_fields(&self, writer: &mut ripstop_h2::FieldWriter<'_>, except: u64) {
        for field in self.iter().filter(|field| field.known.bit() & except == 0) {
            writer.field(field.name, field.value);
        }
    }

    /// Takes every field with this name out, and says where the first one's value still stands.
    pub(crate) fn cut(&mut self, name: &str) -> Option<Span> {
        let wanted = Wanted::new(name);
        let found = self
            .fields_named(wanted.known)
            .iter()
            .find(|field| wanted.matches(field, &self.text))
            .map(|field| field.value())?;
        self.remove_named(name);
        Some(found)
    }

    /// Spells the names as in `names`, a list with commas in the order of the fields; where it says `Host`, such a field
    /// with the value `host` is put. Fields beyond the list stay as they are. `false` if it lists other names; the fields are
    /// then not to be used.
    pub(crate) fn respell(&mut self, names: Span, host: Span) -> bool {
        let (mut start, end) = (names.start(), names.end());
        let mut at = 0;
        while start < end {
            let list = self.text.get(start..end).unwrap_or_default();
            let name = match memchr::memchr(b',', list) {
                Some(length) => Span::new(start, start + length),
                None => Span::new(start, end),
            };
            let spelt = name.of(&self.text);
            if spelt.eq_ignore_ascii_case(b"host") && !host.is_empty() {
                let field = self.push_again(name, host);
                self.fields.insert(at, field);
            } else {
                let field = self.fields.get(at).map(|field| field.name());
                let same = |field: &Span| field.of(&self.text).eq_ignore_ascii_case(spelt);
                let Some(field) = field.filter(same) else {
                    return false;
                };
                self.text
                    .copy_within(name.start()..name.end(), field.start());
            }
            at += 1;
            start = name.end() + 1;
        }
        true
    }

    /// A Host field of what stands in the text already.
    fn push_again(&mut self, name: Span, value: Span) -> Field {
        let name_start = self.text.len();
        self.text.extend_from_within(name.start()..name.end());
        self.text.extend_from_slice(b": ");
        let value_start = self.text.len();
        self.text.extend_from_within(value.start()..value.end());
        let value = Span::new(value_start, self.text.len());
        self.text.extend_from_slice(b"\r\n");
        self.present |= Known::Host.bit();
        Field {
            name_start: Span::new(name_start, value_start).start,
            value_start: value.start,
            value_len: value.len,
            name_len: u16::try_from(name.len).unwrap_or(u16::MAX),
            known: Known::Host,
            canonical: true,
        }
    }

    /// Gives the first field of this kind a new value, in its place and with its spelling of the name, and removes
    /// the others; appends if there is none.
    pub fn set(&mut self, known: Known, value: impl AsRef<[u8]>) {
        if !known.is_single() {
            return;
        }
        self.replace(Wanted::new(known.name()), value.as_ref());
    }

    /// As [`Headers::set`]. `false`, and nothing changed, if the name is not a token.
    pub fn set_named(&mut self, name: &str, value: impl AsRef<[u8]>) -> bool {
        if !is_token(name.as_bytes()) || name.len() > usize::from(u16::MAX) {
            return false;
        }
        self.replace(Wanted::new(name), value.as_ref());
        true
    }

    fn replace(&mut self, wanted: Wanted<'_>, value: &[u8]) {
        let mut candidates = self.fields_named(wanted.known).iter();
        let Some(at) = candidates.position(|field| wanted.matches(field, &self.text)) else {
            let field = self.push_text(wanted.name.as_bytes(), wanted.known, value);
            self.fields.push(field);
            return;
        };
        let name = self
            .fields
            .get(at)
            .map(|field| field.name())
            .unwrap_or_default();
        let spelling = name.of(&self.text).to_vec();
        let fresh = self.push_text(&spelling, wanted.known, value);
        let text = &self.text;
        let mut index = 0;
        self.fields.retain(|field| {
            let keep = index <= at || !wanted.matches(field, text);
            index += 1;
            keep
        });
        if let Some(field) = self.fields.get_mut(at) {
            *field = fresh;
        }
    }

    /// Removes every field of this kind (for a family: all of the family). Says whether there was one.
    pub fn remove(&mut self, known: Known) -> bool {
        if known == Known::Other || !self.has(known) {
            return false;
        }
        self.fields.retain(|field| field.known != known);
        self.present &= !known.bit();
        true
    }

    /// Removes every field with this name, in any case. Says whether there was one.
    pub fn remove_named(&mut self, name: &str) -> bool {
        let wanted = Wanted::new(name);
        if !self.has(wanted.known) {
            return false;
        }
        let before = self.fields.len();
        let text = &self.text;
        self.fields.retain(|field| !wanted.matches(field, text));
        self.recount();
        self.fields.len() != before
    }

    /// Keeps the fields the closure wants.
    pub fn retain(&mut self, mut keep: impl FnMut(FieldRef<'_>) -> bool) {
        let text = &self.text;
        self.fields.retain(|field| {
            keep(FieldRef {
                name: field.name().of(text),
                value: field.value().of(text),
                known: field.known,
            })
        });
        self.recount();
    }

    /// Removes all fields whose kind is in this set.
    pub(crate) fn remove_all(&mut self, kinds: u64) {
        if self.has_any(kinds) {
            self.fields.retain(|field| field.known.bit() & kinds == 0);
            self.recount();
        }
    }

    fn recount(&mut self) {
        self.present = self
            .fields
            .iter()
            .fold(0, |all, field| all | field.known.bit());
    }

    /// Appends `name: value\r\n` to the text. Control bytes of the value become spaces (RFC 9110 section 5.5) and
    /// surrounding whitespace goes, so no value that was computed can start a line of its own.
    fn push_text(&mut self, name: &[u8], known: Known, value: &[u8]) -> Field {
        let value = value.trim_ascii();
        let name_start = self.text.len();
        self.text.reserve(name.len() + value.len() + 4);
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(b": ");
        let value_start = self.text.len();
        if find_control(value).is_none() {
            self.text.extend_from_slice(value);
        } else {
            let clean = value.iter().map(|byte| match is_control(*byte) {
                true => b' ',
                false => *byte,
            });
            self.text.extend(clean);
        }
        let value_end = self.text.len();
        self.text.extend_from_slice(b"\r\n");
        self.present |= known.bit();
        let value = Span::new(value_start, value_end);
        Field {
            name_start: Span::new(name_start, value_start).start,
            value_start: value.start,
            value_len: value.len,
            name_len: u16::try_from(name.len()).unwrap_or(u16::MAX),
            known,
            canonical: true,
        }
    }

    /// The parts, for the parser that fills them in place.
    pub(crate) fn parts_mut(&mut self) -> (&mut Vec<u8>, &mut Vec<Field>, &mut u64) {
        (&mut self.text, &mut self.fields, &mut self.present)
    }

    /// The text that spans of a head refer to.
    pub(crate) fn buffer(&self) -> &[u8] {
        &self.text
    }

    /// Adds text that is not a field (a rewritten path, a normalised authority).
    pub(crate) fn intern(&mut self, text: &[u8]) -> Span {
        let start = self.text.len();
        self.text.extend_from_slice(text);
        Span::new(start, self.text.len())
    }

    /// Writes the fields as field lines, in order. Fields whose kind is in `special` are shown to `line`, which may
    /// drop them or give them another value. Neighbours that stand canonically in the text are copied as one run.
    pub(crate) fn write_lines<'v>(
        &self,
        out: &mut Vec<u8>,
        special: u64,
        line: impl Fn(FieldRef<'_>) -> Line<'v>,
    ) {
        let mut run = 0..0;
        for field in &self.fields {
            let fate = match field.known.bit() & special {
                0 => Line::Keep,
                _ => line(self.view(field)),
            };
            let value = match fate {
                Line::Drop => continue,
                Line::Keep if field.canonical => {
                    let (start, end) = (field.name_start as usize, field.value().end() + 2);
                    if run.end != start {
                        out.extend_from_slice(self.text.get(run).unwrap_or_default());
                        run = start..start;
                    }
                    run.end = end;
                    continue;
                }
                Line::Keep => field.value().of(&self.text),
                Line::Value(value) => value,
            };
            out.extend_from_slice(self.text.get(run).unwrap_or_default());
            run = 0..0;
            out.extend_from_slice(field.name().of(&self.text));
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(self.text.get(run).unwrap_or_default());
    }

    fn view(&self, field: &Field) -> FieldRef<'_> {
        FieldRef {
            name: field.name().of(&self.text),
            value: field.value().of(&self.text),
            known: field.known,
        }
    }
}

/// What becomes of a special field while writing.
pub(crate) enum Line<'v> {
    Keep,
    Drop,
    /// Same name, this value.
    Value(&'v [u8]),
}

/// A name being looked for.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    known: Known,
    name: &'a str,
}

impl<'a> Wanted<'a> {
    fn new(name: &'a str) -> Wanted<'a> {
        Wanted {
            known: Known::of(name.as_bytes()),
            name,
        }
    }

    #[inline]
    fn matches(&self, field: &Field, text: &[u8]) -> bool {
        field.known == self.known
            && (self.known.is_single()
                || (usize::from(field.name_len) == self.name.len()
                    && field
                        .name()
                        .of(text)
                        .eq_ignore_ascii_case(self.name.as_bytes())))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|field| {
                (
                    String::from_utf8_lossy(field.name).into_owned(),
                    String::from_utf8_lossy(field.value).into_owned(),
                )
            }))
            .finish()
    }
}

impl PartialEq for Headers {
    /// The same fields in the same order and case.
    fn eq(&self, other: &Headers) -> bool {
        self.iter().eq(other.iter())
    }
}

/// A non-empty token (RFC 9110 section 5.6.2).
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && scan::find_not_token(bytes).is_none()
}

#[cfg(test)]
mod tests;
