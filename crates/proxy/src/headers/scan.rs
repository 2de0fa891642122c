//! Where a run of allowed bytes ends, eight bytes at a time in ordinary integer arithmetic (no `unsafe`, no CPU features).
//!
//! A test yields a word in which high bits mark the bytes in question. It never misses one; it may mark one too many (a
//! borrow went through), so every mark is asked again by itself.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

const fn each(byte: u8) -> u64 {
    ONES * byte as u64
}

/// Marks bytes below `limit` (at most 0x80).
const fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(each(limit)) & !word & HIGH
}

/// Marks bytes equal to `byte`.
const fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ each(byte), 1)
}

const TOKEN: u8 = 1;
const TARGET: u8 = 2;

/// Byte classes: `TOKEN` per RFC 9110 section 5.6.2, `TARGET` for the visible ASCII a request target may hold (no `#`).
#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        let token = matches!(byte as u8,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z');
        if token {
            classes[byte] |= TOKEN;
        }
        if byte as u8 != b'#' {
            classes[byte] |= TARGET;
        }
        byte += 1;
    }
    classes
};

#[inline]
fn class(byte: u8) -> u8 {
    CLASSES.get(usize::from(byte)).copied().unwrap_or_default()
}

#[inline]
pub(crate) fn is_token_byte(byte: u8) -> bool {
    class(byte) & TOKEN != 0
}

#[inline]
pub(crate) fn is_target_byte(byte: u8) -> bool {
    class(byte) & TARGET != 0
}

/// Bytes a field value may not hold: all controls but the tab (RFC 9110 section 5.5).
#[inline]
pub(crate) fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}

/// The first byte that `wanted` refuses; `doubt` marks the bytes of a word that need asking.
#[inline(always)]
fn first(bytes: &[u8], doubt: impl Fn(u64) -> u64, wanted: impl Fn(u8) -> bool) -> Option<usize> {
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let mut marks = doubt(u64::from_le_bytes(*word));
        while marks != 0 {
            let inside = (marks.trailing_zeros() / 8) as usize;
            if !word.get(inside).is_some_and(|byte| wanted(*byte)) {
                return Some(index * 8 + inside);
            }
            marks &= marks - 1;
        }
    }
    let inside = tail.iter().position(|byte| !wanted(*byte))?;
    Some(words.len() * 8 + inside)
}

/// The first control byte.
#[inline]
pub(crate) fn find_control(bytes: &[u8]) -> Option<usize> {
    first(
        bytes,
        |word| below(word, 0x20) | equal(word, 0x7f),
        |byte| !is_control(byte),
    )
}

/// The first byte that is not of a token. Letters and `-` pass in whole words, the rest is asked one by one.
#[inline]
pub(crate) fn find_not_token(bytes: &[u8]) -> Option<usize> {
    let doubt = |word: u64| {
        let folded = (word | each(0x20)) & !HIGH;
        // High bit set: at least `a`; more than `z`; not `-`.
        let from_a = folded + each(0x80 - b'a');
        let past_z = folded + each(0x80 - b'z' - 1);
        let not_dash = ((word & !HIGH) ^ each(b'-')) + each(0x7f);
        (!(from_a & !past_z) & not_dash | word) & HIGH
    };
    first(bytes, doubt, is_token_byte)
}

/// The first byte that no request target holds.
#[inline]
pub(crate) fn find_not_target(bytes: &[u8]) -> Option<usize> {
    first(
        bytes,
        |word| below(word, 0x21) | equal(word, 0x7f) | equal(word, b'#') | word & HIGH,
        is_target_byte,
    )
}

/// Equal but for ASCII case, where one side is a lower-case name of letters, digits and `-`, and the other a token: for
/// these folding one bit is exact.
#[inline]
pub(crate) fn same_token(lower: &[u8], token: &[u8]) -> bool {
    let (length, fold) = (lower.len(), each(0x20));
    if length != token.len() {
        return false;
    }
    let word = |bytes: &[u8], at: usize| {
        bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk::<8>())
            .map(|chunk| u64::from_le_bytes(*chunk) | fold)
    };
    if length < 8 {
        return lower.iter().zip(token).all(|(a, b)| a | 0x20 == b | 0x20);
    }
    let mut at = 0;
    while at + 8 < length {
        if word(lower, at) != word(token, at) {
            return false;
        }
        at += 8;
    }
    // The last word may overlap the one before.
    word(lower, length - 8) == word(token, length - 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every byte in every place of a word, before and after every other interesting byte.
    #[test]
    fn words_agree_with_bytes() {
        type Case = (fn(&[u8]) -> Option<usize>, fn(u8) -> bool, u8);
        let cases: [Case; 3] = [
            (find_control, |byte| !is_control(byte), b'v'),
            (find_not_token, is_token_byte, b'n'),
            (find_not_target, is_target_byte, b'/'),
        ];
        for (find, wanted, filler) in cases {
            for length in 0..20 {
                assert_eq!(find(&vec![filler; length]), None);
                for at in 0..length {
                    for byte in 0..=255 {
                        let mut text = vec![filler; length];
                        text[at] = byte;
                        let want = (!wanted(byte)).then_some(at);
                        assert_eq!(find(&text), want, "{byte:#x} at {at} of {length}");
                        // A second bad byte does not hide the first.
                        if at + 1 < length {
                            text[at + 1] = 0x7f;
                            let want = if wanted(byte) { at + 1 } else { at };
                            assert_eq!(find(&text), Some(want), "{byte:#x} at {at} of {length}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn names_are_the_same_in_any_case() {
        for name in [
            "te",
            "host",
            "x-b3-abc",
            "content-type",
            "x-forwarded-client-cert",
        ] {
            assert!(same_token(name.as_bytes(), name.to_uppercase().as_bytes()));
            for at in 0..name.len() {
                let mut other = name.as_bytes().to_vec();
                other[at] = b'~';
                assert!(!same_token(name.as_bytes(), &other), "{name} {at}");
            }
        }
    }
}
