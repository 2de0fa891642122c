//! The keeper's capturing sockets → listeners that serve them as the control plane's `virtualOutbound` says.

use std::net::TcpListener;
use std::os::fd::OwnedFd;

use ripstop_model::snapshot::Name;

use crate::stage::Fixed;

/// The fixed part of the snapshot, and the sockets of its listeners by name.
pub(crate) struct Capture {
    pub(crate) fixed: Fixed,
    pub(crate) adopted: Vec<(Name, OwnedFd)>,
}

impl Capture {
    pub(crate) fn new(sockets: Vec<TcpListener>) -> std::io::Result<Capture> {
        let mut capture = Capture {
            fixed: Fixed::default(),
            adopted: Vec::new(),
        };
        for socket in sockets {
            let address = socket.local_addr()?;
            let name: Name = if address.is_ipv4() {
                "capture-v4".into()
            } else {
                "capture-v6".into()
            };
            capture.fixed.captures.push((name.clone(), address));
            capture.adopted.push((name, socket.into()));
        }
        Ok(capture)
    }
}
