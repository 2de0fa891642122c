//! Bytes and file descriptors in one message over a Unix socket, and documents passed as descriptors.
//!
//! All sockets are `SOCK_SEQPACKET`: a message arrives whole or not at all, and a closed peer reads as end of file.
//! Every received descriptor is close-on-exec.

use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The longest message; larger documents travel as a memfd.
const MESSAGE: usize = 64 * 1024;
/// Descriptors in one message; the kernel's own limit is 253.
const DESCRIPTORS: usize = 32;

/// A connected pair, both ends close-on-exec and non-blocking.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        flags,
    )?)
}

/// Sends `message` as JSON with `descriptors`.
///
/// # Errors
/// `WouldBlock` when the peer's queue is full, `BrokenPipe` when it is gone.
pub(crate) fn send<M: Serialize>(
    socket: BorrowedFd<'_>,
    message: &M,
    descriptors: &[RawFd],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    send_bytes(socket, &bytes, descriptors)
}

pub(crate) fn send_bytes(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[RawFd],
) -> io::Result<()> {
    let control = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() {
        &[][..]
    } else {
        &control[..]
    };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        control,
        flags,
        None,
    )?;
    Ok(())
}

/// The next message and its descriptors; `None` when the peer has closed.
///
/// # Errors
/// `WouldBlock` when there is none yet, `InvalidData` when it is not the JSON expected.
pub(crate) fn receive<M: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    let mut buffer = vec![0; MESSAGE];
    let (length, descriptors) = receive_bytes(socket, &mut buffer)?;
    if length == 0 {
        return Ok(None);
    }
    buffer.truncate(length);
    Ok(Some((serde_json::from_slice(&buffer)?, descriptors)))
}

/// As [`receive`], raw; length 0 is the end.
pub(crate) fn receive_bytes(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; DESCRIPTORS]);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just installed these for us, and nobody else knows their numbers.
            descriptors.extend(
                raw.into_iter()
                    .map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }),
            );
        }
    }
    if message
        .flags
        .intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC)
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "message cut short",
        ));
    }
    Ok((message.bytes, descriptors))
}

/// Writes `document` as JSON into an anonymous file that a child can inherit; its offset is at the start.
pub(crate) fn write_document<D: Serialize>(name: &str, document: &D) -> io::Result<OwnedFd> {
    let mut file = std::fs::File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&serde_json::to_vec(document)?)?;
    file.rewind()?;
    Ok(file.into())
}

pub(crate) fn read_document<D: DeserializeOwned>(descriptor: OwnedFd) -> io::Result<D> {
    let mut bytes = Vec::new();
    let mut file = std::fs::File::from(descriptor);
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// One end of a pair in a runtime; any thread may wait on it.
#[derive(Debug)]
pub(crate) struct Line(AsyncFd<OwnedFd>);

impl Line {
    pub(crate) fn new(descriptor: OwnedFd) -> io::Result<Line> {
        // SAFETY: an OwnedFd names the same open file from here until the AsyncFd drops it.
        let line = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
        Ok(Line(line.map_err(io::Error::from)?))
    }

    pub(crate) fn send<M: Serialize>(&self, message: &M, descriptors: &[RawFd]) -> io::Result<()> {
        send(self.0.get_ref().as_fd(), message, descriptors)
    }

    /// As [`receive`], waiting. Cancel-safe: a message is taken only when it is returned.
    pub(crate) async fn receive<M: DeserializeOwned>(
        &self,
    ) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        self.when_readable(|socket| receive::<M>(socket)).await
    }

    /// Runs `take` now and again whenever something may have come, until it does not answer `WouldBlock`.
    pub(crate) async fn when_readable<T>(
        &self,
        take: impl Fn(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        match take(self.0.get_ref().as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            taken => return taken,
        }
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(taken) = ready.try_io(|socket| take(socket.get_ref().as_fd())) {
                return taken;
            }
        }
    }
}

/// Takes a descriptor that this process inherited under a number agreed upon, and makes it close-on-exec.
///
/// # Errors
/// `NotFound` when nothing was inherited there.
pub(crate) fn inherited(number: RawFd, what: &str) -> io::Result<OwnedFd> {
    // SAFETY: plain system calls on a number; failure is an error code.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!(
                "{what} was not inherited as descriptor {number}: this command is started by `ripstop run` or `ripstop up`, not by hand"
            ),
        ));
    }
    // SAFETY: it is open and was meant for us; the flag just checked tells that nobody in this process has opened or
    // taken it, since both would have set close-on-exec.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    // SAFETY: as above.
    if unsafe { libc::fcntl(number, libc::F_SETFD, flags | libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(descriptor)
}

/// Makes every descriptor but stdin, stdout and stderr close-on-exec, those the caller leaked into us included: an app
/// must not find a door to the host among its files.
pub(crate) fn seal() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<RawFd>().ok())
        else {
            continue;
        };
        // SAFETY: a flag of a number; a number that has been closed meanwhile is an error without consequence.
        if number > 2 && unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            tracing::trace!(number, "descriptor closed meanwhile");
        }
    }
    Ok(())
}

/// Makes `command`'s child inherit each descriptor under the number beside it.
pub(crate) fn pass(command: &mut std::process::Command, descriptors: Vec<(OwnedFd, RawFd)>) {
    use std::os::unix::process::CommandExt;
    let highest = descriptors
        .iter()
        .map(|(_, number)| *number)
        .max()
        .unwrap_or(2);
    // Made before the fork: nothing may allocate after it.
    let mut lifted = vec![0; descriptors.len()];
    // SAFETY: the closure only makes async-signal-safe system calls on numbers captured before the fork.
    unsafe {
        command.pre_exec(move || {
            // First out of the way of every target, then into place: a source may sit on another's target.
            for (slot, (descriptor, _)) in lifted.iter_mut().zip(&descriptors) {
                *slot = libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, highest + 1);
                if *slot < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            for (lifted, (_, number)) in lifted.iter().zip(&descriptors) {
                if libc::dup2(*lifted, *number) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_bounds_and_descriptors() {
        let (a, b) = pair().unwrap();
        let (payload, _kept) = pair().unwrap();
        send(a.as_fd(), &"one", &[payload.as_raw_fd()]).unwrap();
        send(a.as_fd(), &2, &[]).unwrap();
        let (text, descriptors) = receive::<String>(b.as_fd()).unwrap().unwrap();
        assert_eq!((text.as_str(), descriptors.len()), ("one", 1));
        assert_eq!(receive::<u32>(b.as_fd()).unwrap().unwrap().0, 2);
        assert_eq!(
            receive::<u32>(b.as_fd()).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        drop(a);
        assert!(receive::<u32>(b.as_fd()).unwrap().is_none());
    }

    #[test]
    fn documents_of_any_size_pass() {
        let long = "x".repeat(3 * MESSAGE);
        assert_eq!(
            read_document::<String>(write_document("test", &long).unwrap()).unwrap(),
            long
        );
    }

    #[test]
    fn a_child_finds_its_descriptors_where_agreed() {
        let first = write_document("first", &1).unwrap();
        let second = write_document("second", &2).unwrap();
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", "cat <&8; cat <&7"]);
        pass(&mut command, vec![(first, 7), (second, 8)]);
        assert_eq!(command.output().unwrap().stdout, b"21");
    }
}
