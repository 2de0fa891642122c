//! More clients than there are descriptors.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ripstop_testkit::http::Client;
use ripstop_testkit::wait;

use super::Lab;

const CROWD: usize = 400;

/// Connections that say nothing.
fn crowd(to: SocketAddr) -> Vec<TcpStream> {
    let come = || TcpStream::connect_timeout(&to, wait::GENEROUS).expect("room in the backlog");
    (0..CROWD).map(|_| come()).collect()
}

fn is_served(client: &mut Client) -> bool {
    let answer = client.request("GET", "a", "/", &[], b"");
    answer.is_ok_and(|response| response.text() == "fine")
}

/// Whoever is there is served on; whoever comes next is, once the crowd has gone.
fn stands(lab: &Lab, meanwhile: impl Fn()) {
    let mut early = Client::connect(lab.address);
    assert!(is_served(&mut early));
    let crowd = crowd(lab.address);
    let before = lab.cpu();
    std::thread::sleep(Duration::from_secs(1));
    let spent = lab.cpu() - before;
    assert!(
        spent < Duration::from_millis(500),
        "{spent:?} in a second of rest"
    );
    for _ in 0..20 {
        assert!(is_served(&mut early));
    }
    meanwhile();
    drop(crowd);
    wait::until_true(wait::GENEROUS, "the crowd to be gone", || {
        Client::try_connect(lab.address).is_ok_and(|mut client| is_served(&mut client))
    });
}

#[test]
fn half_of_the_descriptors_are_for_clients() {
    let lab = Lab::limited(&["prlimit", "--nofile=200:200"], &[], "codec_type: AUTO");
    stands(&lab, || {
        // The admin interface is nobody's client.
        assert_eq!(Client::connect(lab.admin).get("a", "/ready").status, 200);
    });
    assert!(lab.proxy.stderr().contains("a connection was refused"));
}

/// Told to take more than it can, the proxy runs out of descriptors; it rests and goes on.
#[test]
fn without_descriptors_accepting_rests() {
    let more = ["--max-connections", "100000"];
    let lab = Lab::limited(&["prlimit", "--nofile=100:100"], &more, "codec_type: AUTO");
    stands(&lab, || {});
    assert!(lab.proxy.stderr().contains("ulimit -n"));
}
