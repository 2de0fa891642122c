//! More clients at once than are granted.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};

use ripstop_proxy::admission::Most;
use ripstop_testkit::http::Client;
use ripstop_testkit::upstream::Upstream;
use ripstop_testkit::wait;
use socket2::{Domain, Socket, Type};

use crate::kit::{TO_A, bootstrap, options, reaches, serve};

/// A connection from an address of the loopback.
fn from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let source = SocketAddr::from((IpAddr::from(source), 0));
    socket.bind(&source.into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(wait::GENEROUS)).unwrap();
    stream
}

/// Ended by the proxy before a byte was sent.
#[track_caller]
fn is_shown_out(mut stream: TcpStream) {
    match stream.read(&mut [0; 16]) {
        Ok(0) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn is_served(stream: TcpStream) -> Client {
    let mut client = Client::on(stream).unwrap();
    assert_eq!(client.get("a", "/").text(), "fine");
    client
}

#[test]
fn connections_beyond_what_is_granted_are_closed_and_the_others_go_on() {
    let up = Upstream::always(200, "fine");
    let running = serve(ripstop_proxy::Options {
        most: Most {
            all: 3,
            of_address: Some(2),
        },
        ..options(&bootstrap("", TO_A, &[("a", &[up.port()], "")]), 2)
    });
    let to = running.address("l").unwrap();
    let counter = |name: &str| format!("listener.{}.{name}", to.to_string().replace(':', "_"));
    let mut first = is_served(from([127, 0, 0, 1], to));
    let second = is_served(from([127, 0, 0, 1], to));
    is_shown_out(from([127, 0, 0, 1], to));
    reaches(&running, &counter("downstream_address_cx_overflow"), 1);
    let _third = is_served(from([127, 0, 0, 2], to));
    is_shown_out(from([127, 0, 0, 3], to));
    reaches(&running, &counter("downstream_global_cx_overflow"), 1);
    assert_eq!(first.get("a", "/").text(), "fine");
    // A place that is given up is another's.
    drop(second);
    wait::until_true(wait::GENEROUS, "a free place", || {
        let again = Client::on(from([127, 0, 0, 1], to))
            .and_then(|mut client| client.request("GET", "a", "/", &[], b""));
        again.is_ok_and(|response| response.status == 200)
    });
}
