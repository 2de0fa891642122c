//! What the running thread serves: sixteen bytes of its own.
//!
//! Stable Rust has thread-locals only with `std`. A variable of the initial-exec model is two instructions, needs no
//! destructor, and its storage exists before the first line of the program runs.

use core::arch::{asm, global_asm};

/// An inbound connection by its descriptor and generation, and the bytes that were read from it when the work began.
/// All zeros, as threads begin: nothing.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    pub descriptor: u32,
    /// 0: nothing is served.
    pub generation: u32,
    pub received: u64,
}

pub const NOTHING: Serving = Serving {
    descriptor: 0,
    generation: 0,
    received: 0,
};

global_asm!(
    ".pushsection .tbss.ripstop_serving,\"awT\",@nobits",
    ".p2align 3",
    ".type ripstop_serving,@object",
    ".size ripstop_serving,16",
    ".hidden ripstop_serving",
    ".globl ripstop_serving",
    "ripstop_serving:",
    ".zero 16",
    ".popsection",
);

fn place() -> *mut Serving {
    let place;
    // SAFETY: reads this thread's base and the variable's offset, which the dynamic linker has set.
    unsafe {
        asm!(
            "mov {place}, qword ptr fs:0",
            "add {place}, qword ptr [rip + ripstop_serving@GOTTPOFF]",
            place = out(reg) place,
            options(nostack, readonly),
        );
    }
    place
}

pub fn serving() -> Serving {
    // SAFETY: of this thread alone, and as large as a `Serving`. Volatile: a signal handler may come in between.
    unsafe { place().read_volatile() }
}

pub fn serve(serving: Serving) {
    // SAFETY: as above.
    unsafe { place().write_volatile(serving) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_begins_with_nothing_of_its_own() {
        assert_eq!(serving(), NOTHING);
        let mine = Serving {
            descriptor: 1,
            generation: 2,
            received: 3,
        };
        serve(mine);
        std::thread::spawn(|| assert_eq!(serving(), NOTHING))
            .join()
            .unwrap();
        assert_eq!(serving(), mine);
    }
}
