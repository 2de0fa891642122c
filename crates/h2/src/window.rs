//! Flow-control windows (RFC 9113 section 5.2): bytes sent, bytes consumed → what may be sent, and when to say so.

use crate::frame::MAX_STREAM;

const MOST: i64 = MAX_STREAM as i64;

/// What the peer allows this side to send. A change of SETTINGS may make it negative.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outbound(i64);

impl Outbound {
    pub(crate) fn new(size: u32) -> Outbound {
        Outbound(i64::from(size))
    }

    pub(crate) fn room(self) -> usize {
        usize::try_from(self.0).unwrap_or_default()
    }

    pub(crate) fn take(&mut self, bytes: usize) {
        self.0 -= bytes as i64;
    }

    /// `false`: it would be more than a window can be.
    #[must_use]
    pub(crate) fn enlarge(&mut self, by: i64) -> bool {
        self.0 += by;
        self.0 <= MOST
    }
}

/// What this side allows the peer to send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inbound {
    /// What the peer may still send.
    left: i64,
    /// What was consumed and the peer has not been told.
    freed: u32,
    size: u32,
}

impl Inbound {
    pub(crate) fn new(size: u32) -> Inbound {
        Inbound {
            left: i64::from(size),
            freed: 0,
            size,
        }
    }

    /// The window was `told` to be of one size and is meant to be of another.
    pub(crate) fn grown(told: u32, size: u32) -> Inbound {
        Inbound {
            left: i64::from(told.max(size)),
            freed: 0,
            size,
        }
    }

    /// `false`: the peer sent more than it may.
    #[must_use]
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        self.left -= bytes as i64;
        self.left >= 0
    }

    /// Bytes were consumed; `Some`: it is time for a WINDOW_UPDATE by so many.
    pub(crate) fn free(&mut self, bytes: u32) -> Option<u32> {
        self.freed = self.freed.saturating_add(bytes);
        if self.freed == 0 || self.freed < self.size / 2 {
            return None;
        }
        let by = std::mem::take(&mut self.freed);
        self.left += i64::from(by);
        Some(by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outbound_overflows_at_31_bits_and_may_be_negative() {
        let mut window = Outbound::new(10);
        assert!(window.enlarge(-20));
        assert_eq!(window.room(), 0);
        assert!(window.enlarge(15));
        assert_eq!(window.room(), 5);
        assert!(window.enlarge(MOST - 5));
        assert!(!window.enlarge(1));
    }

    #[test]
    fn inbound_tells_of_room_by_halves() {
        let mut window = Inbound::new(100);
        assert!(window.take(100));
        assert_eq!(window.free(49), None);
        assert_eq!(window.free(1), Some(50));
        assert!(window.take(50));
        assert!(!window.take(1));
    }

    #[test]
    fn a_window_of_nothing_is_never_enlarged_by_nothing() {
        let mut window = Inbound::new(0);
        assert_eq!(window.free(0), None);
        assert_eq!(window.free(3), Some(3));
    }
}
