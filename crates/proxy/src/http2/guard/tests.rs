use std::time::Duration;

use proptest::prelude::*;
use ripstop_model::defaults::envoy;
use ripstop_testkit::frames::{self, flag, frame, kind, settings, window_update};

use super::*;

const LIMITS: FloodLimits = envoy::HTTP2.floods;
const HEAD: u32 = envoy::HTTP_LIMITS.max_request_headers_bytes;

/// How many of these frames pass before one is too many.
fn passed(frame: &[u8], most: usize) -> (usize, Option<Violation>) {
    let now = Instant::now();
    let mut guard = Guard::of_client(LIMITS, HEAD, now);
    guard.received(PREFACE, now).unwrap();
    for count in 0..most {
        if let Err(violation) = guard.received(frame, now) {
            return (count, Some(violation));
        }
    }
    (most, None)
}

#[test]
fn floods_end_early() {
    let ping = frame(kind::PING, 0, 0, &[0; 8]);
    let empty_head = frame(kind::CONTINUATION, 0, 1, &[]);
    for (what, bytes, most, flood) in [
        ("PING", ping, 1000, Flood::Control),
        ("SETTINGS", settings(&[]), 1000, Flood::Control),
        (
            "huge SETTINGS",
            settings(&[(9, 1); 2000]),
            1000,
            Flood::Control,
        ),
        (
            "unknown frames",
            frame(0xfa, 0, 0, b"grease"),
            1000,
            Flood::Control,
        ),
        (
            "PRIORITY",
            frame(kind::PRIORITY, 0, 3, &[0; 5]),
            100,
            Flood::Priority,
        ),
        ("WINDOW_UPDATE", window_update(0, 1), 5, Flood::WindowUpdate),
        ("empty DATA", frame(kind::DATA, 0, 1, &[]), 1, Flood::Empty),
        ("empty CONTINUATION", empty_head, 1, Flood::Empty),
    ] {
        let ended = (most, Some(Violation::Flood(flood)));
        assert_eq!(passed(&bytes, 200_000), ended, "{what}");
    }
}

/// A client that downloads, with a PING and two WINDOW_UPDATEs for each piece; one that uploads small messages; one that
/// gives each stream a priority and answers PINGs.
#[test]
fn busy_peers_are_never_cut() {
    let now = Instant::now();
    let mut guard = Guard::of_client(LIMITS, HEAD, now);
    guard.received(PREFACE, now).unwrap();
    for round in 0..100_000u32 {
        let stream = round * 2 + 1;
        guard.received(&frames::get(stream), now).unwrap();
        guard
            .received(&frame(kind::PRIORITY, 0, stream, &[0; 5]), now)
            .unwrap();
        guard.sent(&frame(kind::DATA, 0, stream, &[0; 100]));
        guard.received(&window_update(0, 100), now).unwrap();
        guard.received(&window_update(stream, 100), now).unwrap();
        guard
            .received(&frame(kind::PING, 0, 0, &[0; 8]), now)
            .unwrap();
        guard
            .received(&frame(kind::DATA, 0, stream, &[7]), now)
            .unwrap();
        guard
            .received(&frame(kind::DATA, 0, stream, &[]), now)
            .unwrap();
        guard
            .received(&frame(kind::DATA, flag::END_STREAM, stream, &[]), now)
            .unwrap();
        guard
            .received(&frame(kind::PING, flag::ACK, 0, &[0; 8]), now)
            .unwrap();
    }
}

#[test]
fn an_allowance_comes_back_with_time() {
    let now = Instant::now();
    let mut allowance = Allowance::new(10, 5, now);
    assert!((0..10).all(|_| allowance.take(now)));
    assert!(!allowance.take(now));
    let later = now + Duration::from_secs(1);
    assert!((0..4).all(|_| allowance.take(later)));
    assert!(!allowance.take(later));
    let much_later = now + Duration::from_secs(1000);
    assert_eq!((0..100).filter(|_| allowance.take(much_later)).count(), 10);
}

#[test]
fn an_unfinished_head_is_noticed() {
    let now = Instant::now();
    let later = now + Duration::from_secs(1);
    let head = frames::get(1);
    for cut in 1..head.len() {
        let mut guard = Guard::of_server(LIMITS, HEAD, now);
        guard.received(&head[..cut], now).unwrap();
        assert_eq!(guard.unfinished(), Some(now), "{cut}");
        guard.received(&[], later).unwrap();
        assert_eq!(guard.unfinished(), Some(now), "{cut}");
        guard.received(&head[cut..], later).unwrap();
        assert_eq!(guard.unfinished(), None, "{cut}");
    }
    let mut guard = Guard::of_server(LIMITS, HEAD, now);
    guard
        .received(&frame(kind::HEADERS, 0, 1, &[0x82]), now)
        .unwrap();
    guard
        .received(&frame(kind::CONTINUATION, 0, 1, &[0x84]), later)
        .unwrap();
    assert_eq!(guard.unfinished(), Some(now));
    // A body may take its time.
    let mut guard = Guard::of_server(LIMITS, HEAD, now);
    guard
        .received(&frame(kind::DATA, 0, 1, &[0; 100])[..50], now)
        .unwrap();
    assert_eq!(guard.unfinished(), None);
}

#[test]
fn sizes_are_checked() {
    for (bytes, wrong) in [
        (frame(kind::PING, 0, 0, &[0; 7]), true),
        (frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]), true),
        (frame(kind::SETTINGS, 0, 0, &[0; 7]), true),
        (frame(kind::RST_STREAM, 0, 1, &[0; 5]), true),
        (frame(kind::GOAWAY, 0, 0, &[0; 7]), true),
        (frame(kind::PRIORITY, 0, 1, &[0; 4]), true),
        (frame(kind::DATA, flag::PADDED, 1, &[]), true),
        (frame(kind::DATA, flag::PADDED, 1, &[0]), false),
        (frame(kind::GOAWAY, 0, 0, &[0; 20]), false),
        (settings(&[(1, 1), (2, 0)]), false),
    ] {
        let end = passed(&bytes, 1).1;
        assert_eq!(end == Some(Violation::FrameSize), wrong, "{bytes:?}");
    }
}

proptest! {
    /// However the bytes are cut, the account is the same.
    #[test]
    fn any_split_gives_the_same(bytes in proptest::collection::vec(0u8..12, 0..400), step in 1usize..30) {
        let now = Instant::now();
        let mut whole = Guard::of_server(LIMITS, HEAD, now);
        let mut pieces = Guard::of_server(LIMITS, HEAD, now);
        let at_once = whole.received(&bytes, now);
        let by_pieces: Result<(), Violation> = bytes.chunks(step).try_for_each(|piece| pieces.received(piece, now));
        prop_assert_eq!(at_once, by_pieces);
        prop_assert_eq!(whole.streams, pieces.streams);
    }
}
