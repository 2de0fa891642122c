//! Valid conversations, damaged at random → no panic, no growth without bound, whatever they say.

use super::*;

/// SplitMix64.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most as u64) as usize
    }
}

/// What a client says.
fn conversation() -> Vec<Vec<u8>> {
    let long = "v".repeat(120);
    vec![
        PREFACE.to_vec(),
        settings(&[(1, 4096), (3, 100), (4, 1 << 20), (5, 16_384)]),
        frame(8, 0, 0, &[0, 1, 0, 0]),
        headers(1, true, GET),
        headers(
            3,
            false,
            &[GET, &[("content-length", "4"), ("x", &long)]].concat(),
        ),
        frame(0, 0, 3, b"ab"),
        frame(0, 9, 3, &[1, b'c', b'd', 0]),
        frame(1, 1, 5, &block(GET)[..8]),
        frame(9, 4, 5, &block(GET)[8..]),
        frame(6, 0, 0, &[1; 8]),
        headers(7, false, GET),
        frame(2, 0, 7, &[0, 0, 0, 3, 1]),
        frame(0, 0, 7, b"x"),
        headers(7, true, &[("trailer", "1")]),
        frame(3, 0, 5, &[0, 0, 0, 8]),
        // Huffman's code and the dynamic table.
        frame(
            1,
            5,
            9,
            &[
                0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab,
                0x90, 0xf4, 0xff,
            ],
        ),
        frame(1, 5, 11, &[0x82, 0x86, 0x84, 0xbe]),
        frame(4, 1, 0, &[]),
        frame(7, 0, 0, &[0; 8]),
    ]
}

fn damage(frames: &mut Vec<Vec<u8>>, draw: &mut Draw) {
    for _ in 0..=draw.below(4) {
        let at = draw.below(frames.len());
        match draw.below(7) {
            0 => {
                let frame = frames[at].clone();
                frames.insert(draw.below(frames.len()), frame);
            }
            1 => {
                frames.remove(at);
            }
            2 => frames.swap(at, 2),
            3 => {
                let length = frames[at].len();
                frames[at].truncate(draw.below(length));
            }
            4 => {
                let place = draw.below(frames[at].len() + 1);
                frames[at].insert(place, draw.next() as u8);
            }
            _ => {
                let length = frames[at].len();
                if length > 0 {
                    let place = draw.below(length);
                    frames[at][place] ^= 1 << draw.below(8);
                }
            }
        }
        frames.retain(|frame| !frame.is_empty());
        if frames.len() < 4 {
            return;
        }
    }
}

/// Does what an owner does: answers, consumes, gives up.
fn serve(server: &mut Connection, bytes: &[u8], draw: &mut Draw, now: Duration) {
    let mut rest = bytes;
    loop {
        let acted = match server.next(&mut rest, now) {
            Err(_) | Ok(None) => return,
            Ok(Some(Event::Head { stream, end, .. })) => (stream, end, 0),
            Ok(Some(Event::Data { stream, data, end })) => (stream, end, data.len()),
            Ok(Some(Event::Reset { stream, .. } | Event::Broken { stream, .. })) => {
                server.forget(stream);
                continue;
            }
            Ok(Some(_)) => continue,
        };
        let (stream, end, held) = acted;
        server.consumed(stream, held);
        if draw.below(10) == 0 {
            server.forget(stream);
        } else if end {
            let _ = server.respond(stream, false, false, ok);
            server.send(stream, &[0; 3000], true);
        }
    }
}

#[test]
fn damaged_conversations_do_no_harm() {
    for seed in 0..20_000u64 {
        let mut draw = Draw(seed);
        let mut frames = conversation();
        damage(&mut frames, &mut draw);
        let bytes = frames.concat();
        let mut server = Connection::new(Role::Server, Config::default());
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(1 + draw.below(rest.len()));
            rest = tail;
            serve(&mut server, piece, &mut draw, NOW);
            while let Some(stream) = server.ready() {
                server.send(stream, &[0; 100], true);
            }
            assert!(server.waits() < 100_000, "seed {seed}");
            assert!(server.streams.len() <= 16, "seed {seed}");
            assert!(server.incoming.partial.len() <= HEADER + crate::frame::MAX_FRAME);
            if draw.below(3) == 0 {
                let all = server.waits();
                server.written(draw.below(all + 1));
            }
        }
    }
}

#[test]
fn noise_does_no_harm() {
    for seed in 0..3_000u64 {
        let mut draw = Draw(seed);
        let mut client = begun(Role::Client, Config::default());
        for _ in 0..3 {
            client
                .request(draw.below(2) == 0, false, false, get)
                .unwrap();
        }
        for _ in 0..20 {
            let payload: Vec<u8> = (0..draw.below(40)).map(|_| draw.next() as u8).collect();
            let kind = draw.below(11) as u8;
            let bytes = frame(kind, draw.next() as u8, draw.below(8) as u32, &payload);
            serve(&mut client, &bytes, &mut draw, NOW);
        }
        assert!(client.waits() < 100_000);
    }
}
