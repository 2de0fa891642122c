//! SETTINGS (RFC 9113 section 6.5): a payload in → what the peer asks for, or why it may not.

use crate::frame::MAX_STREAM;
use crate::violation::Violation;

pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
pub(crate) const ENABLE_PUSH: u16 = 2;
pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(crate) const MAX_FRAME_SIZE: u16 = 5;
pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;
pub(crate) const ENABLE_CONNECT_PROTOCOL: u16 = 8;

pub(crate) const DEFAULT_WINDOW: u32 = 65_535;
pub(crate) const DEFAULT_TABLE: u32 = 4_096;

/// What a peer set; before its first SETTINGS, the defaults. SETTINGS_MAX_FRAME_SIZE is checked and not kept: this side
/// sends no frame longer than every peer accepts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) table: u32,
    /// `None`: as many as this side likes.
    pub(crate) streams: Option<u32>,
    pub(crate) window: u32,
    pub(crate) extended_connect: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            table: DEFAULT_TABLE,
            streams: None,
            window: DEFAULT_WINDOW,
            extended_connect: false,
        }
    }
}

impl Settings {
    /// `client`: the settings are a client's, which alone may enable push.
    pub(crate) fn apply(&mut self, payload: &[u8], client: bool) -> Result<(), Violation> {
        let (entries, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Violation::FrameLength);
        }
        for [n0, n1, v0, v1, v2, v3] in entries {
            let value = u32::from_be_bytes([*v0, *v1, *v2, *v3]);
            match u16::from_be_bytes([*n0, *n1]) {
                HEADER_TABLE_SIZE => self.table = value,
                ENABLE_PUSH if value > 1 || (value == 1 && !client) => {
                    return Err(Violation::Setting);
                }
                MAX_CONCURRENT_STREAMS => self.streams = Some(value),
                INITIAL_WINDOW_SIZE if value > MAX_STREAM => return Err(Violation::InitialWindow),
                INITIAL_WINDOW_SIZE => self.window = value,
                MAX_FRAME_SIZE if !(16_384..=16_777_215).contains(&value) => {
                    return Err(Violation::Setting);
                }
                // It cannot be taken back (RFC 8441 section 3).
                ENABLE_CONNECT_PROTOCOL if value > 1 || (value == 0 && self.extended_connect) => {
                    return Err(Violation::Setting);
                }
                ENABLE_CONNECT_PROTOCOL => self.extended_connect = value == 1,
                _ => {}
            }
        }
        Ok(())
    }
}
