//! The terminal at stdin → its foreground lent to an app and taken back.

use std::io;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

/// The terminal's foreground, lent to the app and taken back when this is dropped.
pub(super) struct Foreground(Pid);

impl Foreground {
    /// If stdin is a terminal and this process's group is its foreground job.
    pub(super) fn ours() -> Option<Foreground> {
        let group = getpgrp();
        (tcgetpgrp(io::stdin()) == Ok(group)).then_some(Foreground(group))
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        // Only the foreground may, or who does not mind SIGTTOU.
        let mut minding = SigSet::empty();
        minding.add(Signal::SIGTTOU);
        if let Ok(before) = minding.thread_swap_mask(SigmaskHow::SIG_BLOCK) {
            // The terminal may have hung up.
            let _ = tcsetpgrp(io::stdin(), self.0);
            let _ = before.thread_set_mask();
        }
    }
}
