//! Extended CONNECT (RFC 8441) ⇄ the handshake of RFC 6455: inside, a WebSocket is what it is on HTTP/1.

use crate::headers::Known;
use crate::message::{RequestHead, ResponseHead};

const KEY: &str = "sec-websocket-key";

/// Gives a handshake the key that an HTTP/1 server wants and HTTP/2 knows nothing of (RFC 8441 section 5).
pub(super) fn key(head: &mut RequestHead, mut random: impl FnMut() -> u64) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if head.headers.first_named(KEY).is_some() {
        return;
    }
    // 16 bytes in base64: the last digit that counts has two bits.
    let mut digit = |mask: u64| ALPHABET.get((random() & mask) as usize).copied();
    let digits: Vec<u8> = (0..21).filter_map(|_| digit(0b11_1111)).collect();
    let last = digit(0b11_0000);
    let text: Vec<u8> = digits.into_iter().chain(last).chain(*b"==").collect();
    head.headers.set_named(KEY, text);
}

/// The answer to a handshake as HTTP/2 says it.
pub(super) fn answer(head: &ResponseHead) -> ResponseHead {
    let mut answer = head.clone();
    answer.status = 200;
    answer.headers.remove(Known::Upgrade);
    answer.headers.remove_named("sec-websocket-accept");
    answer
}

/// What an HTTP/1 server says that let the handshake pass: on HTTP/2 a 2xx would open the WebSocket (RFC 8441 section 4).
pub(super) fn unanswered(head: &ResponseHead) -> ResponseHead {
    let mut answer = head.clone();
    answer.status = 502;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_sixteen_bytes_and_the_clients_own_stays() {
        let mut head = RequestHead::default();
        let mut number = 0x9e37_79b9_7f4a_7c15u64;
        key(&mut head, || {
            number = number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            number >> 20
        });
        let made = head.headers.first_named(KEY).unwrap().to_vec();
        assert_eq!(made.len(), 24);
        assert!(made.ends_with(b"=="));
        assert!(b"AQgw".contains(&made[21]), "{made:?}");
        key(&mut head, || 7);
        assert_eq!(head.headers.first_named(KEY).unwrap(), made);
    }
}
