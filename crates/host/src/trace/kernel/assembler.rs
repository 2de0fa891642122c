//! Calls of methods, one an instruction → eBPF bytecode with its jumps resolved.
//!
//! As much of the instruction set (RFC 9669) as the programs beside need.

/// A register. `R0` is what a helper returns, `R1` to `R5` are its arguments and lost with the call, `R6` to `R9` stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Register {
    R0,
    R1,
    R2,
    R3,
    R4,
    R6 = 6,
    R7,
    R8,
    R9,
    /// The end of the stack's 512 bytes: what is on it has negative offsets.
    Stack,
}

/// How much a load or store moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Size {
    U16 = 0x08,
    U32 = 0x00,
    U64 = 0x18,
}

/// When a jump is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum When {
    Equal = 0x10,
    /// Some bit is set in both.
    Common = 0x40,
    Different = 0x50,
    /// Signed, and the lower 32 bits alone.
    NotPositive = 0xd0,
}

/// A function of the kernel's, by its number in linux/bpf.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Helper {
    Lookup = 1,
    Update = 2,
    Delete = 3,
    SocketCookie = 46,
    ReadKernel = 113,
    TcpSocket = 137,
    CurrentTask = 158,
}

/// Where a jump goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

#[derive(Debug, Default)]
pub(super) struct Assembler {
    code: Vec<u64>,
    /// The instruction that a label stands before.
    labels: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
}

const LOAD_IMMEDIATE: u8 = 0x18;
const LOAD: u8 = 0x61;
const STORE_IMMEDIATE: u8 = 0x62;
const STORE: u8 = 0x63;
const JUMP: u8 = 0x05;
const JUMP_32: u8 = 0x06;
const FROM_REGISTER: u8 = 0x08;
const ADD: u8 = 0x07;
const SUBTRACT_32: u8 = 0x1c;
const SUBTRACT: u8 = 0x1f;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const BIG_ENDIAN: u8 = 0xdc;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// Of a load's source register: the number is a map's descriptor.
const MAP: u8 = 1;

impl Assembler {
    fn push(&mut self, code: u8, to: Register, from: u8, offset: i16, immediate: i32) {
        let registers = to as u8 | from << 4;
        let [low, high] = offset.to_le_bytes();
        let [a, b, c, d] = immediate.to_le_bytes();
        let bytes = [code, registers, low, high, a, b, c, d];
        self.code.push(u64::from_le_bytes(bytes));
    }

    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The next instruction is where jumps to the label go.
    pub(super) fn here(&mut self, label: Label) {
        let here = self.code.len();
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = Some(here);
        }
    }

    pub(super) fn load(&mut self, size: Size, to: Register, from: Register, offset: i16) {
        self.push(LOAD | size as u8, to, from as u8, offset, 0);
    }

    pub(super) fn store(&mut self, size: Size, to: Register, offset: i16, from: Register) {
        self.push(STORE | size as u8, to, from as u8, offset, 0);
    }

    pub(super) fn store_number(&mut self, size: Size, to: Register, offset: i16, number: i32) {
        self.push(STORE_IMMEDIATE | size as u8, to, 0, offset, number);
    }

    pub(super) fn set(&mut self, to: Register, number: i32) {
        self.push(MOVE, to, 0, 0, number);
    }

    pub(super) fn set_wide(&mut self, to: Register, number: u64) {
        self.push(LOAD_IMMEDIATE, to, 0, 0, number as i32);
        self.code.push(number & 0xffff_ffff_0000_0000);
    }

    pub(super) fn copy(&mut self, to: Register, from: Register) {
        self.push(MOVE_REGISTER, to, from as u8, 0, 0);
    }

    pub(super) fn add(&mut self, to: Register, number: i32) {
        self.push(ADD, to, 0, 0, number);
    }

    pub(super) fn subtract(&mut self, to: Register, from: Register) {
        self.push(SUBTRACT, to, from as u8, 0, 0);
    }

    /// Of the lower halves; the upper half of the result is zero.
    pub(super) fn subtract_32(&mut self, to: Register, from: Register) {
        self.push(SUBTRACT_32, to, from as u8, 0, 0);
    }

    /// Turns a port of the network's order around.
    pub(super) fn swap_16(&mut self, to: Register) {
        self.push(BIG_ENDIAN, to, 0, 0, 16);
    }

    pub(super) fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(JUMP, Register::R0, 0, 0, 0);
    }

    pub(super) fn jump_if(&mut self, what: Register, when: When, number: i32, to: Label) {
        self.jumps.push((self.code.len(), to));
        let class = match when {
            When::NotPositive => JUMP_32,
            When::Equal | When::Common | When::Different => JUMP,
        };
        self.push(when as u8 | class, what, 0, 0, number);
    }

    pub(super) fn jump_if_both(&mut self, a: Register, when: When, b: Register, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(when as u8 | FROM_REGISTER | JUMP, a, b as u8, 0, 0);
    }

    /// The map of a descriptor as an argument.
    pub(super) fn map(&mut self, to: Register, descriptor: i32) {
        self.push(LOAD_IMMEDIATE, to, MAP, 0, descriptor);
        self.code.push(0);
    }

    pub(super) fn call(&mut self, helper: Helper) {
        self.push(CALL, Register::R0, 0, 0, helper as i32);
    }

    pub(super) fn exit(&mut self) {
        self.push(EXIT, Register::R0, 0, 0, 0);
    }

    /// The bytecode; `None` when a jump leads nowhere, or too far.
    pub(super) fn finish(mut self) -> Option<Vec<u64>> {
        for (at, label) in self.jumps {
            let target = (*self.labels.get(label.0)?)?;
            let distance = target as i64 - at as i64 - 1;
            let distance = i16::try_from(distance).ok()?;
            *self.code.get_mut(at)? |= u64::from(distance.cast_unsigned()) << 16;
        }
        Some(self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `llvm-mc -triple bpfel -show-encoding` encodes the same instructions.
    #[test]
    fn instructions_are_encoded_as_the_standard_says() {
        use Register::{R0, R1, R2, R6, Stack};
        let mut code = Assembler::default();
        let end = code.label();
        code.load(Size::U64, R6, R1, 0);
        code.load(Size::U16, R2, R6, 16);
        code.store(Size::U32, Stack, -8, R2);
        code.store_number(Size::U64, Stack, -16, 1);
        code.jump_if(R2, When::Different, 6, end);
        code.set_wide(R1, 0x1122_3344_5566_7788);
        code.call(Helper::Lookup);
        code.here(end);
        code.set(R0, 0);
        code.exit();
        let expected: [[u8; 8]; 10] = [
            [0x79, 0x16, 0, 0, 0, 0, 0, 0],
            [0x69, 0x62, 0x10, 0, 0, 0, 0, 0],
            [0x63, 0x2a, 0xf8, 0xff, 0, 0, 0, 0],
            [0x7a, 0x0a, 0xf0, 0xff, 1, 0, 0, 0],
            [0x55, 0x02, 3, 0, 6, 0, 0, 0],
            [0x18, 0x01, 0, 0, 0x88, 0x77, 0x66, 0x55],
            [0, 0, 0, 0, 0x44, 0x33, 0x22, 0x11],
            [0x85, 0, 0, 0, 1, 0, 0, 0],
            [0xb7, 0, 0, 0, 0, 0, 0, 0],
            [0x95, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(code.finish().unwrap(), expected.map(u64::from_le_bytes));
    }

    #[test]
    fn a_jump_to_nowhere_is_no_program() {
        let mut code = Assembler::default();
        let nowhere = code.label();
        code.jump(nowhere);
        assert_eq!(code.finish(), None);
    }
}
