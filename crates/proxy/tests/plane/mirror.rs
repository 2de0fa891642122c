//! Copies of requests: of any size, as they come, and never at the cost of the request.

use std::time::Duration;

use ripstop_testkit::upstream::{Step, Upstream, response};
use ripstop_testkit::wait;

use crate::kit::{bootstrap, client, reaches, start};

const MIRRORED: &str = "              - match: {prefix: /}\n                route: {cluster: a, request_mirror_policies: [{cluster: shadow}]}\n";

#[test]
fn bodies_of_any_size_are_copied() {
    let (up, shadow) = (Upstream::always(200, "up"), Upstream::always(200, "shadow"));
    let clusters: [(&str, &[u16], &str); 2] =
        [("a", &[up.port()], ""), ("shadow", &[shadow.port()], "")];
    let running = start(&bootstrap("", MIRRORED, &clusters), 1);
    let mut client = client(&running);
    for size in [0, 10, 900_000] {
        let body = vec![b'x'; size];
        let response = client.request("POST", "a", "/", &[], &body).unwrap();
        assert_eq!(response.text(), "up");
        wait::until_true(wait::GENEROUS, "the copy", || {
            shadow.requests().iter().any(|copy| copy.body.len() == size)
        });
    }
    client.send(
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    );
    assert_eq!(client.response().unwrap().text(), "up");
    wait::until_true(wait::GENEROUS, "the copy", || {
        shadow.requests().iter().any(|copy| copy.body == b"abc")
    });
    // Any size at all, at a pace that the copy can keep.
    client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5000000\r\n\r\n");
    for piece in 1..=10 {
        client.send(&[b'y'; 500_000]);
        wait::until_true(wait::GENEROUS, "the copy", || {
            shadow.received().iter().map(Vec::len).sum::<usize>() > 900_000 + piece * 500_000
        });
    }
    assert_eq!(client.response().unwrap().text(), "up");
    wait::until_true(wait::GENEROUS, "the copy", || {
        shadow
            .requests()
            .iter()
            .any(|copy| copy.body.len() == 5_000_000)
    });
    assert_eq!(shadow.requests().len(), 5);
    assert_eq!(
        shadow.requests()[0].header("host").as_deref(),
        Some("a-shadow")
    );
}

#[test]
fn a_copy_that_cannot_keep_up_is_given_up_and_counted() {
    let up = Upstream::always(200, "up");
    // Accepts and never reads.
    let shadow = Upstream::tcp(|conversation| {
        conversation.play(&Step::Wait(Duration::from_secs(20)))?;
        Ok(())
    });
    let clusters: [(&str, &[u16], &str); 2] =
        [("a", &[up.port()], ""), ("shadow", &[shadow.port()], "")];
    let running = start(&bootstrap("", MIRRORED, &clusters), 1);
    let body = vec![b'x'; 16 << 20];
    let response = client(&running).request("POST", "a", "/", &[], &body);
    assert_eq!(response.unwrap().text(), "up");
    assert_eq!(up.requests()[0].body.len(), body.len());
    reaches(&running, "cluster.a.retry_or_shadow_abandoned", 1);
}

#[test]
fn a_dead_mirror_costs_nothing() {
    let up = Upstream::http(|_| response(200, "up"));
    let dead = ripstop_testkit::port::reserve();
    let clusters: [(&str, &[u16], &str); 2] =
        [("a", &[up.port()], ""), ("shadow", &[dead.number()], "")];
    let running = start(&bootstrap("", MIRRORED, &clusters), 1);
    let body = vec![b'x'; 1 << 20];
    for _ in 0..3 {
        let response = client(&running).request("POST", "a", "/", &[], &body);
        assert_eq!(response.unwrap().text(), "up");
    }
}
