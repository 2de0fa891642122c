//! HPACK's Huffman code (RFC 7541 section 5.2 and appendix B): coded bytes in, text out, four bits at a step.
//!
//! The code is canonical: the lengths of appendix B determine it. The compiler makes the automaton from them.

/// Bits of each symbol's code; the last symbol is EOS.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, //
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, //
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, //
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
    30,
];
const EOS: u16 = 256;

/// What four more bits make of a state.
#[derive(Clone, Copy)]
struct Step {
    next: u8,
    outcome: Outcome,
    symbol: u8,
}

#[derive(Clone, Copy)]
enum Outcome {
    None,
    Symbol,
    /// EOS itself is never sent.
    Forbidden,
}

const SYMBOL: u16 = 0x8000;

/// The code as a tree: a child is an inner node or, marked, a symbol.
#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const fn tree() -> [[u16; 2]; 256] {
    let mut nodes = [[0u16; 2]; 256];
    let mut used = 1;
    let mut code: u32 = 0;
    let mut length = 1;
    while length <= 30 {
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] == length {
                let mut node = 0;
                let mut bit = length - 1;
                while bit > 0 {
                    let side = (code >> bit & 1) as usize;
                    if nodes[node][side] == 0 {
                        nodes[node][side] = used;
                        used += 1;
                    }
                    node = nodes[node][side] as usize;
                    bit -= 1;
                }
                nodes[node][(code & 1) as usize] = SYMBOL | symbol as u16;
                code += 1;
            }
            symbol += 1;
        }
        code <<= 1;
        length += 1;
    }
    assert!(used == 256);
    nodes
}

#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const fn automaton() -> ([[Step; 16]; 256], [bool; 256]) {
    let nodes = tree();
    let idle = Step {
        next: 0,
        outcome: Outcome::None,
        symbol: 0,
    };
    let mut steps = [[idle; 16]; 256];
    let mut state = 0;
    while state < 256 {
        let mut nibble = 0;
        while nibble < 16 {
            let mut step = idle;
            let mut node = state;
            let mut bit = 4;
            while bit > 0 {
                bit -= 1;
                let child = nodes[node][nibble >> bit & 1];
                if child & SYMBOL == 0 {
                    node = child as usize;
                    continue;
                }
                node = 0;
                let symbol = child & !SYMBOL;
                step.symbol = symbol as u8;
                step.outcome = if symbol == EOS {
                    Outcome::Forbidden
                } else {
                    Outcome::Symbol
                };
            }
            step.next = node as u8;
            steps[state][nibble] = step;
            nibble += 1;
        }
        state += 1;
    }
    // Where text may end: padding is fewer than eight bits of EOS, which are ones.
    let mut ends = [false; 256];
    let mut node = 0;
    let mut ones = 0;
    while ones < 8 {
        ends[node] = true;
        node = nodes[node][1] as usize;
        ones += 1;
    }
    (steps, ends)
}

static STEPS: [[Step; 16]; 256] = automaton().0;
static ENDS: [bool; 256] = automaton().1;

/// Appends what `coded` says. `false`: it is not this code, or wrongly padded.
#[must_use]
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> bool {
    // The shortest code has five bits.
    out.reserve(coded.len() * 8 / 5);
    let mut state = 0u8;
    for byte in coded {
        for nibble in [byte >> 4, byte & 15] {
            let steps = STEPS.get(usize::from(state));
            let Some(step) = steps.and_then(|steps| steps.get(usize::from(nibble))) else {
                return false;
            };
            match step.outcome {
                Outcome::None => {}
                Outcome::Symbol => out.push(step.symbol),
                Outcome::Forbidden => return false,
            }
            state = step.next;
        }
    }
    ENDS.get(usize::from(state)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each symbol's code, made anew from the lengths.
    fn codes() -> Vec<(u32, u8)> {
        let mut order: Vec<usize> = (0..LENGTHS.len()).collect();
        order.sort_by_key(|symbol| (LENGTHS[*symbol], *symbol));
        let mut codes = vec![(0, 0); LENGTHS.len()];
        let (mut code, mut length) = (0u32, 0u8);
        for symbol in order {
            code <<= LENGTHS[symbol] - length;
            length = LENGTHS[symbol];
            codes[symbol] = (code, length);
            code += 1;
        }
        codes
    }

    fn encode(text: &[u8]) -> Vec<u8> {
        let codes = codes();
        let mut bits = String::new();
        for byte in text {
            let (code, length) = codes[usize::from(*byte)];
            bits.push_str(&format!("{code:0width$b}", width = usize::from(length)));
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        bits.as_bytes()
            .chunks(8)
            .map(|byte| u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap())
            .collect()
    }

    #[test]
    fn the_code_is_that_of_appendix_b() {
        let codes = codes();
        assert_eq!(codes[0], (0x1ff8, 13));
        assert_eq!(codes[usize::from(b'0')], (0, 5));
        assert_eq!(codes[usize::from(b'~')], (0x1ffd, 13));
        assert_eq!(codes[10], (0x3fff_fffc, 30));
        assert_eq!(codes[255], (0x3ff_ffee, 26));
        assert_eq!(codes[256], (0x3fff_ffff, 30));
    }

    #[test]
    fn every_byte_comes_back() {
        let text: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        let mut out = Vec::new();
        assert!(decode(&encode(&text), &mut out));
        assert_eq!(out, text);
    }

    #[test]
    fn padding_is_short_and_of_ones() {
        let mut out = Vec::new();
        // "0" is five zero bits.
        assert!(decode(&[0b0000_0111], &mut out));
        for wrong in [
            &[0b0000_0110][..],
            &[0b0000_0111, 0xff],
            &[0xff],
            &[0xff, 0xff, 0xff, 0xff],
        ] {
            assert!(!decode(wrong, &mut out), "{wrong:x?}");
        }
    }
}
