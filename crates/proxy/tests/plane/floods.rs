//! Peers that send what costs more than it carries: each flood ends its connection within its first thousand frames, is
//! counted, and is nobody else's trouble. What each limit counts is beside the code (`http2/guard/tests.rs`).

mod busy;
mod crowd;
mod downstream;
mod stalls;
mod upstream;

use std::time::Duration;

use ripstop_proxy::Running;
use ripstop_testkit::frames::{self, Connection, Fate};

/// A client that asks for something every now and then, on one connection.
struct Bystander {
    connection: Connection,
    next: u32,
}

impl Bystander {
    fn new(running: &Running) -> Bystander {
        Bystander {
            connection: Connection::client(running.address("l").unwrap()),
            next: 1,
        }
    }

    #[track_caller]
    fn is_served(&mut self) {
        self.connection.send(&frames::get(self.next));
        assert_eq!(self.connection.fate(self.next), Fate::Answered(200));
        self.next += 2;
    }
}

/// No write of a flood waits longer for a peer that has stopped reading.
const FULL: Duration = Duration::from_secs(2);
