//! Addresses and routes of `lo` → rtnetlink requests, sent and acknowledged one by one.
//!
//! Blocking and by hand (rtnetlink(7)): the keeper must stay single-threaded, needs four kinds of request, and may not
//! count on `ip` in an ordinary user's PATH.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Not in libc: linux/if_addr.h, linux/rtnetlink.h.
const IFA_F_NODAD: u32 = 0x02;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const RTA_OIF: u16 = 4;
const RTA_PREFSRC: u16 = 7;

/// A routing socket of the network namespace it was made in.
pub(crate) struct Routing {
    socket: OwnedFd,
    sequence: u32,
}

impl Routing {
    pub(crate) fn open() -> io::Result<Routing> {
        // SAFETY: creates a descriptor, or an error.
        let raw = unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                libc::NETLINK_ROUTE,
            )
        };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Routing {
            // SAFETY: just made, known to nobody else.
            socket: unsafe { OwnedFd::from_raw_fd(raw) },
            sequence: 0,
        })
    }

    /// `ip link set INDEX up`.
    pub(crate) fn up(&mut self, index: u32) -> io::Result<()> {
        let up = libc::IFF_UP as u32;
        let mut body = vec![libc::AF_UNSPEC as u8, 0, 0, 0];
        body.extend(index.to_ne_bytes());
        body.extend(up.to_ne_bytes());
        body.extend(up.to_ne_bytes());
        self.request(libc::RTM_NEWLINK, 0, body)
    }

    /// `ip addr add ADDRESS/32 dev INDEX`, or `/128 … nodad`: without it a v6 address is tentative at first, and a
    /// route that prefers it as source is refused.
    pub(crate) fn address(&mut self, index: u32, address: IpAddr) -> io::Result<()> {
        let (family, prefix) = family(address);
        let mut body = vec![family, prefix, 0, libc::RT_SCOPE_UNIVERSE];
        body.extend(index.to_ne_bytes());
        attribute(&mut body, IFA_LOCAL, &octets(address));
        attribute(&mut body, IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes());
        self.request(
            libc::RTM_NEWADDR,
            libc::NLM_F_CREATE | libc::NLM_F_EXCL,
            body,
        )
    }

    /// `ip route add local default dev INDEX src SOURCE`: AnyIP.
    pub(crate) fn local_default(&mut self, index: u32, source: IpAddr) -> io::Result<()> {
        let (family, _) = family(source);
        let scope = if source.is_ipv4() {
            libc::RT_SCOPE_HOST
        } else {
            libc::RT_SCOPE_UNIVERSE
        };
        let (table, protocol) = (libc::RT_TABLE_LOCAL, libc::RTPROT_BOOT);
        let mut body = vec![family, 0, 0, 0, table, protocol, scope, libc::RTN_LOCAL];
        body.extend(0u32.to_ne_bytes());
        attribute(&mut body, RTA_OIF, &index.to_ne_bytes());
        attribute(&mut body, RTA_PREFSRC, &octets(source));
        self.request(
            libc::RTM_NEWROUTE,
            libc::NLM_F_CREATE | libc::NLM_F_EXCL,
            body,
        )
    }

    fn request(&mut self, kind: u16, flags: i32, body: Vec<u8>) -> io::Result<()> {
        self.sequence += 1;
        let flags = (flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut message = Vec::with_capacity(16 + body.len());
        message.extend((16 + body.len() as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(body);
        // SAFETY: sends the bytes of a live buffer.
        let sent = unsafe {
            libc::send(
                self.socket.as_raw_fd(),
                message.as_ptr().cast(),
                message.len(),
                0,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut reply = [0u8; 4096];
        // SAFETY: receives at most the length of a live buffer.
        let length = unsafe {
            libc::recv(
                self.socket.as_raw_fd(),
                reply.as_mut_ptr().cast(),
                reply.len(),
                0,
            )
        };
        if length < 0 {
            return Err(io::Error::last_os_error());
        }
        acknowledged(&reply[..length as usize], self.sequence)
    }
}

/// Reads the one acknowledgement (`NLMSG_ERROR`, 0 for success) that answers a request.
fn acknowledged(reply: &[u8], sequence: u32) -> io::Result<()> {
    let word = |at: usize| {
        reply
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_ne_bytes)
    };
    let kind = reply
        .get(4..6)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u16::from_ne_bytes);
    match (kind.map(i32::from), word(8), word(16)) {
        (Some(libc::NLMSG_ERROR), Some(echoed), Some(error)) if echoed == sequence => {
            match error as i32 {
                0 => Ok(()),
                error => Err(io::Error::from_raw_os_error(-error)),
            }
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "unexpected netlink answer",
        )),
    }
}

fn family(address: IpAddr) -> (u8, u8) {
    match address {
        IpAddr::V4(_) => (libc::AF_INET as u8, 32),
        IpAddr::V6(_) => (libc::AF_INET6 as u8, 128),
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Appends one attribute, padded to four bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}
