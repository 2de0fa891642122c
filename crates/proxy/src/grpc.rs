//! The bytes of a gRPC body in, however they are cut → the messages that began in them (gRPC over HTTP/2,
//! "Length-Prefixed-Message": a flag, four bytes of length, the message).

/// Bytes before each message.
const PREFIX: usize = 5;

/// One direction of one call.
#[derive(Debug, Clone, Copy, Default)]
pub struct Messages {
    count: u64,
    prefix: [u8; PREFIX],
    /// How much of the prefix has come.
    have: usize,
    /// Bytes of the message that are still to come.
    left: usize,
}

impl Messages {
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let wanted = PREFIX - self.have;
            if self.left > 0 || bytes.is_empty() {
                return;
            }
            let part = bytes.get(..wanted).unwrap_or(bytes);
            for (slot, byte) in self.prefix.iter_mut().skip(self.have).zip(part) {
                *slot = *byte;
            }
            self.have += part.len();
            bytes = bytes.get(part.len()..).unwrap_or_default();
            if self.have == PREFIX {
                let [_, a, b, c, d] = self.prefix;
                self.left = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                self.have = 0;
                self.count += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let mut bytes = Vec::new();
        for length in [0u32, 1, 300, 0, 7] {
            bytes.push(0);
            bytes.extend(length.to_be_bytes());
            bytes.extend(vec![9; length as usize]);
        }
        for cut in 1..bytes.len() {
            let mut messages = Messages::default();
            bytes.chunks(cut).for_each(|piece| messages.take(piece));
            assert_eq!(messages.count(), 5, "in pieces of {cut}");
        }
    }
}
