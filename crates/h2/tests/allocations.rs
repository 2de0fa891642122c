//! Once the buffers have grown, a request allocates nothing, on either side.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ripstop_h2::{Config, Connection, Event, Role};

struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn exchange(client: &mut Connection, server: &mut Connection, number: u32) {
    let now = Duration::from_millis(u64::from(number));
    let mut id = *b"0000000000";
    for (place, digit) in id.iter_mut().rev().zip(0..) {
        *place = b'0' + (number / 10u32.pow(digit) % 10) as u8;
    }
    let stream = client
        .request(false, false, false, |writer| {
            writer.field(b":method", b"POST");
            writer.field(b":scheme", b"http");
            writer.field(b":authority", b"greeter.default:8080");
            writer.field(b":path", b"/greeter.Greeter/SayHello");
            writer.field(b"content-type", b"application/grpc");
            writer.field(b"te", b"trailers");
            writer.field(b"X-Request-Id", &id);
        })
        .unwrap();
    client.send(stream, b"\0\0\0\0\x05hello", true);
    pass(client, server, now);
    assert!(
        server.respond(stream, false, false, |writer| {
            writer.field(b":status", b"200");
            writer.field(b"content-type", b"application/grpc");
        }) == Ok(true)
    );
    server.send(stream, b"\0\0\0\0\x05world", false);
    assert!(server.trailers(stream, |writer| writer.field(b"grpc-status", b"0")) == Ok(true));
    server.forget(stream);
    pass(server, client, now);
    client.forget(stream);
}

fn pass(from: &mut Connection, to: &mut Connection, now: Duration) {
    let mut bytes = from.output();
    let length = bytes.len();
    loop {
        let (stream, count) = match to.next(&mut bytes, now).unwrap() {
            Some(Event::Data { stream, data, .. }) => (stream, data.len()),
            Some(_) => continue,
            None => break,
        };
        to.consumed(stream, count);
    }
    from.written(length);
}

#[test]
fn a_request_allocates_nothing_after_warm_up() {
    let mut client = Connection::new(Role::Client, Config::default());
    let mut server = Connection::new(Role::Server, Config::default());
    pass(&mut client, &mut server, Duration::ZERO);
    pass(&mut server, &mut client, Duration::ZERO);
    for number in 0..3_000 {
        exchange(&mut client, &mut server, number);
    }
    let before = COUNT.load(Ordering::Relaxed);
    for number in 3_000..4_000 {
        exchange(&mut client, &mut server, number);
    }
    let after = COUNT.load(Ordering::Relaxed);
    assert_eq!(after - before, 0, "allocations in a thousand requests");
}
