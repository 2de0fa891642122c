//! What this process says → its stdout and stderr, whatever has become of them.
//!
//! `println!` panics when nobody reads any more (`ripstop ps | head`) and when a program that shares the pipe made it
//! non-blocking (Node does); its panic then has nowhere to be told. Here the first is no error, the second is waited out.

use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A reader of a non-blocking pipe that stands still for this long loses what does not fit.
const PATIENCE_MS: u16 = 5000;

/// One of the two streams; a write is whole, not mixed with another one's.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Console {
    Stdout,
    Stderr,
}

impl Console {
    pub(crate) fn is_terminal(self) -> bool {
        match self {
            Console::Stdout => io::stdout().is_terminal(),
            Console::Stderr => io::stderr().is_terminal(),
        }
    }

    /// Says `text`. A failure is remembered for [`lost`], unless it is that nobody reads.
    pub(crate) fn say(mut self, text: &str) {
        if let Err(error) = self.write_all(text.as_bytes())
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            // Only the first is told.
            let _ = LOST.set(error);
        }
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        match self {
            Console::Stdout => whole(io::stdout().as_fd(), bytes),
            Console::Stderr => whole(io::stderr().as_fd(), bytes),
        }
    }

    /// Nothing is kept back.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn whole(descriptor: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(descriptor, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let mut writable = [PollFd::new(descriptor, PollFlags::POLLOUT)];
                if poll(&mut writable, PollTimeout::from(PATIENCE_MS)) == Ok(0) {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
            }
            // As std has it: a descriptor that is closed is nobody's loss.
            Err(Errno::EBADF) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

static LOST: OnceLock<io::Error> = OnceLock::new();

/// Why something that was said is lost, if it is: a full disk, a terminal that is gone.
pub(crate) fn lost() -> Option<&'static io::Error> {
    LOST.get()
}

/// A line on stdout.
macro_rules! say {
    ($($words:tt)*) => {
        $crate::console::Console::Stdout.say(&format!("{}\n", format_args!($($words)*)))
    };
}

/// A line on stderr.
macro_rules! note {
    ($($words:tt)*) => {
        $crate::console::Console::Stderr.say(&format!("{}\n", format_args!($($words)*)))
    };
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_full_pipe_that_does_not_block_is_waited_for() {
        let (read, write) = io::pipe().unwrap();
        // SAFETY: sets a flag of a descriptor that is ours.
        assert_eq!(
            unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) },
            0
        );
        let reader = std::thread::spawn(move || {
            let mut read = read;
            let mut text = Vec::new();
            read.read_to_end(&mut text).unwrap();
            text.len()
        });
        whole(write.as_fd(), &[b'x'; 1 << 20]).unwrap();
        drop(write);
        assert_eq!(reader.join().unwrap(), 1 << 20);
    }

    #[test]
    fn nobody_reads() {
        let (read, write) = io::pipe().unwrap();
        drop(read);
        let error = whole(write.as_fd(), b"words").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
