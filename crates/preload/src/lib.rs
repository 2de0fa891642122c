//! The socket calls of a program whose threads serve one request at a time → rows "this outbound connection serves that
//! inbound connection" in the table that `ripstop_host::trace` describes.
//!
//! Preloaded into dynamically linked programs. The host's build script compiles this crate once more, by itself and with
//! `--cfg shared_object`, into the object that the binary carries; as a member of the workspace it is only checked and
//! tested. It uses no `std`, allocates nothing, takes no lock and needs only what every libc has, without a version: so it
//! loads into any program of any glibc.
//!
//! The rule is that of a thread that works on what it has read last:
//! - a read from an accepted connection says what the thread serves: that connection, and the bytes read from it so far;
//! - a write to it is the answer, and the thread serves nothing from then on;
//! - a write on a connection that this process opened, and that speaks HTTP/1, is noted in the table before it happens.
//!
//! Where a thread says nothing (an event loop), all of the process is nobody's for good. It shows in time: an accepted
//! connection is given to epoll, or polled together with another socket; a thread reads a second request before it has
//! answered the first; or it reads another request's answer.
//!
//! The same object is an addon of Node's, see [`node`]: what it stands before is then called by nobody.
//!
//! The program must not notice: arguments and results pass unchanged, `errno` is kept, the next object's function is
//! called, and nothing is followed across a fork.

#![cfg_attr(shared_object, no_std)]
#![cfg(all(
    target_os = "linux",
    target_arch = "x86_64",
    target_pointer_width = "64"
))]

pub mod connection;
pub mod hooks;
mod libc;
pub mod node;
pub mod table;
pub mod thread;
