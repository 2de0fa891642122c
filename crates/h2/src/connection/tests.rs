//! What a peer does, frame by frame → what the connection makes of it.

mod mutations;
mod violations;

use std::time::Duration;

use super::*;
use crate::frame::Kind;
use crate::violation::Malformed;

pub(super) const NOW: Duration = Duration::ZERO;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A field block of literals.
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            bytes.push(text.len() as u8);
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

pub(super) const GET: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "a"),
];

/// HEADERS with END_HEADERS.
pub(super) fn headers(stream: u32, end: bool, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(1, 4 | u8::from(end), stream, &block(fields))
}

pub(super) fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in entries {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    frame(4, 0, 0, &payload)
}

/// A connection whose peer's preface has come.
pub(super) fn begun(role: Role, config: Config) -> Connection {
    let mut connection = Connection::new(role, config);
    let mut bytes = match role {
        Role::Server => PREFACE.to_vec(),
        Role::Client => Vec::new(),
    };
    bytes.extend_from_slice(&settings(&[]));
    bytes.extend_from_slice(&frame(4, 1, 0, &[]));
    let told = feed(&mut connection, &bytes, NOW).unwrap();
    assert_eq!(told, ["settings", "settings taken"]);
    let all = connection.waits();
    connection.written(all);
    connection
}

/// Feeds bytes and says in words what came of them.
pub(super) fn feed(
    connection: &mut Connection,
    mut bytes: &[u8],
    now: Duration,
) -> Result<Vec<String>, Violation> {
    let mut told = Vec::new();
    while let Some(event) = connection.next(&mut bytes, now)? {
        told.push(tell(&event));
    }
    assert!(bytes.is_empty());
    Ok(told)
}

fn tell(event: &Event<'_>) -> String {
    match event {
        Event::Head {
            stream,
            kind,
            head,
            end,
        } => {
            let what = match kind {
                HeadKind::Request => String::from_utf8_lossy(head.path()).into_owned(),
                HeadKind::Interim | HeadKind::Response => head.status().to_string(),
                HeadKind::Trailers => head.fields().len().to_string(),
            };
            format!("{kind:?} {stream} {what}{}", if *end { " end" } else { "" })
        }
        Event::Data { stream, data, end } => {
            format!(
                "data {stream} {}{}",
                data.len(),
                if *end { " end" } else { "" }
            )
        }
        Event::Reset { stream, code } => format!("reset {stream} {code}"),
        Event::Broken { stream, violation } => format!("broken {stream} {}", violation.name()),
        Event::GoAway { last, code, debug } => {
            format!("goaway {last} {code} {}", String::from_utf8_lossy(debug))
        }
        Event::Pong(payload) => format!("pong {}", payload[0]),
        Event::Settings => "settings".to_owned(),
        Event::SettingsTaken => "settings taken".to_owned(),
    }
}

/// The frames in the output, which is emptied: kind, flags, stream, payload.
pub(super) fn sent(connection: &mut Connection) -> Vec<(Kind, u8, u32, Vec<u8>)> {
    let mut rest = connection.output();
    let mut frames = Vec::new();
    while let Some((head, tail)) = rest.split_first_chunk::<HEADER>() {
        let head = frame::Header::parse(head);
        let (payload, tail) = tail.split_at(head.length);
        frames.push((head.kind, head.flags, head.stream, payload.to_vec()));
        rest = tail;
    }
    assert!(rest.is_empty());
    let all = connection.waits();
    connection.written(all);
    frames
}

fn code_of(frame: &(Kind, u8, u32, Vec<u8>)) -> Code {
    let at = if frame.0 == Kind::GoAway { 4 } else { 0 };
    Code(u32::from_be_bytes(frame.3[at..at + 4].try_into().unwrap()))
}

fn get(writer: &mut crate::FieldWriter<'_>) {
    for (name, value) in GET {
        writer.field(name.as_bytes(), value.as_bytes());
    }
}

fn ok(writer: &mut crate::FieldWriter<'_>) {
    writer.field(b":status", b"200");
}

#[test]
fn a_request_and_its_response_however_the_bytes_are_cut() {
    let mut bytes = headers(1, false, &[GET, &[("content-length", "5")]].concat());
    bytes.extend_from_slice(&frame(0, 8, 1, &[2, b'a', b'b', b'c', 0, 0]));
    bytes.extend_from_slice(&frame(0, 0, 1, b"d"));
    bytes.extend_from_slice(&frame(0, 9, 1, &[1, b'e', 0]));
    for size in [1, 2, 3, 7, 10, 1000] {
        let mut server = begun(Role::Server, Config::default());
        let mut told = Vec::new();
        let mut body = Vec::new();
        for mut piece in bytes.chunks(size) {
            while let Some(event) = server.next(&mut piece, NOW).unwrap() {
                if let Event::Data { data, .. } = event {
                    body.extend_from_slice(data);
                }
                told.push(tell(&event));
            }
        }
        assert_eq!(body, b"abcde");
        assert_eq!(told[0], "Request 1 /");
        assert!(told.last().unwrap().ends_with(" end"), "{told:?}");
        assert!(server.respond(1, false, false, ok).unwrap());
        assert_eq!(server.send(1, b"hello", true), 5);
        assert_eq!(server.open_streams(), 0);
        let sent = sent(&mut server);
        assert_eq!(sent.len(), 2);
        assert_eq!(sent[1], (Kind::Data, 1, 1, b"hello".to_vec()));
    }
}

#[test]
fn a_client_sees_interim_heads_the_response_and_trailers() {
    let mut client = begun(Role::Client, Config::default());
    let stream = client.request(true, false, false, get).unwrap();
    assert_eq!(stream, 1);
    let mut bytes = headers(1, false, &[(":status", "103")]);
    bytes.extend_from_slice(&headers(1, false, &[(":status", "200")]));
    bytes.extend_from_slice(&frame(0, 0, 1, b"x"));
    bytes.extend_from_slice(&headers(1, true, &[("grpc-status", "0")]));
    let told = feed(&mut client, &bytes, NOW).unwrap();
    assert_eq!(
        told,
        [
            "Interim 1 103",
            "Response 1 200",
            "data 1 1",
            "Trailers 1 1 end"
        ]
    );
    assert_eq!(client.open_streams(), 0);
    client.forget(1);
    // Nothing was left to cancel.
    assert!(sent(&mut client).iter().all(|frame| frame.0 != Kind::Reset));
}

#[test]
fn lengths_that_mean_nothing_are_not_checked() {
    for (head_only, connect, status) in [(true, false, "200"), (false, false, "304")] {
        let mut client = begun(Role::Client, Config::default());
        client.request(true, head_only, connect, get).unwrap();
        let answer = headers(1, true, &[(":status", status), ("content-length", "5")]);
        let told = feed(&mut client, &answer, NOW).unwrap();
        assert_eq!(told, [format!("Response 1 {status} end")]);
    }
    let mut client = begun(Role::Client, Config::default());
    client.request(false, false, true, get).unwrap();
    let mut answer = headers(1, false, &[(":status", "200"), ("content-length", "5")]);
    answer.extend_from_slice(&frame(0, 1, 1, b"more than five"));
    let told = feed(&mut client, &answer, NOW).unwrap();
    assert_eq!(told, ["Response 1 200", "data 1 14 end"]);
}

/// The request has ended, and so would the stream: it is an error of the stream all the same.
#[test]
fn a_response_without_its_content_costs_one_stream() {
    let mut client = begun(Role::Client, Config::default());
    client.request(true, false, false, get).unwrap();
    let answer = headers(1, true, &[(":status", "200"), ("content-length", "5")]);
    assert_eq!(
        feed(&mut client, &answer, NOW).unwrap(),
        ["broken 1 malformed"]
    );
    assert_eq!(client.open_streams(), 0);
    assert_eq!(client.request(true, false, false, get), Ok(3));
}

#[test]
fn sending_keeps_to_the_windows_and_goes_on_when_they_open() {
    let mut server = begun(Role::Server, Config::default());
    let mut bytes = settings(&[(4, 10)]);
    bytes.extend_from_slice(&headers(1, true, GET));
    bytes.extend_from_slice(&headers(3, true, GET));
    feed(&mut server, &bytes, NOW).unwrap();
    for stream in [1, 3] {
        server.respond(stream, false, false, ok).unwrap();
        assert_eq!(server.send(stream, &[7; 25], true), 10);
    }
    assert_eq!(server.ready(), None);
    feed(&mut server, &frame(8, 0, 3, &[0, 0, 0, 9]), NOW).unwrap();
    assert_eq!(server.ready(), Some(3));
    assert_eq!(server.send(3, &[7; 15], true), 9);
    assert_eq!(server.ready(), None);
    feed(&mut server, &settings(&[(4, 100)]), NOW).unwrap();
    let mut ready = [server.ready(), server.ready()];
    ready.sort_unstable();
    assert_eq!(ready, [Some(1), Some(3)]);
    assert_eq!(server.send(1, &[7; 15], true), 15);
    assert_eq!(server.send(3, &[7; 6], true), 6);
    assert_eq!((server.ready(), server.open_streams()), (None, 0));
}

#[test]
fn the_connection_s_window_and_the_output_hold_streams_back_in_turn() {
    let config = Config {
        output: 20_000,
        ..Config::default()
    };
    let mut server = begun(Role::Server, config);
    let mut bytes = settings(&[(4, 1 << 20)]);
    for stream in [1, 3, 5] {
        bytes.extend_from_slice(&headers(stream, true, GET));
    }
    feed(&mut server, &bytes, NOW).unwrap();
    let body = vec![1; 40_000];
    let mut left = std::collections::BTreeMap::new();
    for stream in [1, 3, 5] {
        server.respond(stream, false, false, ok).unwrap();
        left.insert(stream, 40_000 - server.send(stream, &body, true));
    }
    let mut total = 0;
    loop {
        assert!(server.waits() <= 20_000 + 200);
        total += sent(&mut server)
            .iter()
            .filter(|frame| frame.0 == Kind::Data)
            .map(|frame| frame.3.len())
            .sum::<usize>();
        let Some(stream) = server.ready() else {
            break;
        };
        let rest = left[&stream];
        let count = server.send(stream, &body[..rest], true);
        left.insert(stream, rest - count);
    }
    assert_eq!(total, 65_535);
    feed(&mut server, &frame(8, 0, 0, &[0, 1, 0, 0]), NOW).unwrap();
    assert!(server.ready().is_some());
}

#[test]
fn consumed_data_opens_the_windows_and_what_is_forgotten_does_too() {
    let mut server = begun(Role::Server, Config::default());
    feed(&mut server, &headers(1, false, GET), NOW).unwrap();
    let data = frame(0, 0, 1, &[0; 16_384]);
    feed(&mut server, &data, NOW).unwrap();
    feed(&mut server, &data, NOW).unwrap();
    server.consumed(1, 32_767);
    assert_eq!(
        sent(&mut server),
        [
            (Kind::Window, 0, 1, 32_767u32.to_be_bytes().to_vec()),
            (Kind::Window, 0, 0, 32_767u32.to_be_bytes().to_vec()),
        ]
    );
    for _ in 0..3 {
        feed(&mut server, &data, NOW).unwrap();
    }
    server.forget(1);
    let after = sent(&mut server);
    assert_eq!(after[0].0, Kind::Reset);
    assert_eq!(
        after[1],
        (Kind::Window, 0, 0, 49_153u32.to_be_bytes().to_vec())
    );
    // What was on its way is dropped, and its window given back.
    for _ in 0..2 {
        assert!(feed(&mut server, &data, NOW).unwrap().is_empty());
    }
    assert_eq!(sent(&mut server)[0].0, Kind::Window);
}

#[test]
fn going_away_in_two_steps() {
    let mut server = begun(Role::Server, Config::default());
    feed(&mut server, &headers(1, true, GET), NOW).unwrap();
    server.go_away(None, Code::NO_ERROR, "");
    feed(&mut server, &headers(3, true, GET), NOW).unwrap();
    let last = server.last_remote();
    server.go_away(Some(last), Code::NO_ERROR, "");
    // A word that was given is not taken back.
    server.go_away(None, Code::NO_ERROR, "");
    assert!(
        feed(&mut server, &headers(5, true, GET), NOW)
            .unwrap()
            .is_empty()
    );
    let frames = sent(&mut server);
    let kinds: Vec<_> = frames.iter().map(|frame| (frame.0, frame.2)).collect();
    assert_eq!(
        kinds,
        [(Kind::GoAway, 0), (Kind::GoAway, 0), (Kind::Reset, 5)]
    );
    assert_eq!(frames[0].3[..4], MAX_STREAM.to_be_bytes());
    assert_eq!(frames[1].3[..4], 3u32.to_be_bytes());
    assert_eq!(code_of(&frames[2]), Code::REFUSED_STREAM);
}

#[test]
fn a_server_s_goaway_ends_the_opening_of_streams() {
    let mut client = begun(Role::Client, Config::default());
    client.request(true, false, false, get).unwrap();
    let goaway = frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 11, b'w', b'h', b'y']);
    let told = feed(&mut client, &goaway, NOW).unwrap();
    assert_eq!(told, ["goaway 1 ENHANCE_YOUR_CALM why"]);
    assert_eq!(client.room(), 0);
    let refused = client.request(true, false, false, get);
    assert_eq!(refused, Err(Unopened::GoingAway));
    let told = feed(&mut client, &headers(1, true, &[(":status", "200")]), NOW).unwrap();
    assert_eq!(told, ["Response 1 200 end"]);
}

#[test]
fn a_client_keeps_to_the_server_s_limit() {
    let mut client = begun(Role::Client, Config::default());
    feed(&mut client, &settings(&[(3, 1)]), NOW).unwrap();
    assert_eq!(client.room(), 1);
    client.request(true, false, false, get).unwrap();
    assert_eq!(client.request(true, false, false, get), Err(Unopened::Full));
    feed(&mut client, &headers(1, true, &[(":status", "204")]), NOW).unwrap();
    assert_eq!(client.request(true, false, false, get), Ok(3));
}

#[test]
fn pings_are_answered_and_asked() {
    let mut server = begun(Role::Server, Config::default());
    feed(&mut server, &frame(6, 0, 0, &[9; 8]), NOW).unwrap();
    assert_eq!(sent(&mut server), [(Kind::Ping, 1, 0, vec![9; 8])]);
    server.ping([5; 8]);
    assert_eq!(sent(&mut server), [(Kind::Ping, 0, 0, vec![5; 8])]);
    assert_eq!(
        feed(&mut server, &frame(6, 1, 0, &[5; 8]), NOW).unwrap(),
        ["pong 5"]
    );
}

#[test]
fn a_request_that_is_too_large_is_shown_so_that_it_can_be_answered() {
    let config = Config {
        header_list: 300,
        ..Config::default()
    };
    let mut server = begun(Role::Server, config);
    let value = "x".repeat(100);
    let fields = [GET, &[("a", &value), ("b", &value)]].concat();
    let mut bytes: &[u8] = &headers(1, true, &fields);
    match server.next(&mut bytes, NOW).unwrap() {
        Some(Event::Head { head, .. }) => assert!(head.is_oversized()),
        other => panic!("{other:?}"),
    }
    assert!(
        server
            .respond(1, false, true, |w| w.field(b":status", b"431"))
            .unwrap()
    );
    let told = feed(&mut server, &headers(3, true, GET), NOW).unwrap();
    assert_eq!(told, ["Request 3 / end"]);
}

#[test]
fn a_response_that_cannot_be_written_leaves_the_stream_open_for_another() {
    let mut server = begun(Role::Server, Config::default());
    feed(&mut server, &headers(1, true, GET), NOW).unwrap();
    let wrong = server.respond(1, false, true, |writer| {
        ok(writer);
        writer.field(b"bad name", b"x");
    });
    assert_eq!(wrong, Err(Unopened::Invalid));
    assert_eq!(server.waits(), 0);
    assert!(server.respond(1, false, true, ok).unwrap());
    assert!(!server.respond(1, false, true, ok).unwrap());
}

#[test]
fn extended_connect_where_it_is_offered() {
    let fields: &[(&str, &str)] = &[
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/chat"),
        (":authority", "a"),
    ];
    for (extended_connect, want) in [(true, "Request 1 /chat"), (false, "broken 1 malformed")] {
        let config = Config {
            extended_connect,
            ..Config::default()
        };
        let mut server = begun(Role::Server, config);
        let told = feed(&mut server, &headers(1, false, fields), NOW).unwrap();
        assert_eq!(told, [want]);
    }
    assert_eq!(Violation::from(Malformed::Te).code(), Code::PROTOCOL_ERROR);
}

#[test]
fn the_output_s_memory_can_be_shared() {
    let mut server = begun(Role::Server, Config::default());
    assert!(server.reclaim().is_some());
    assert!(server.reclaim().is_none());
    server.lend(Vec::with_capacity(100));
    server.ping([1; 8]);
    assert!(server.reclaim().is_none());
    server.written(5);
    assert_eq!(server.waits(), 12);
    server.written(12);
    assert_eq!(server.reclaim().map(|memory| memory.capacity()), Some(100));
}

#[test]
fn an_end_that_comes_late_needs_no_frame_of_its_own() {
    let mut server = begun(Role::Server, Config::default());
    let asked: Vec<u8> = [1, 3, 5]
        .into_iter()
        .flat_map(|id| headers(id, true, GET))
        .collect();
    feed(&mut server, &asked, NOW).unwrap();
    for id in [1, 3, 5] {
        assert_eq!(server.respond(id, false, false, ok), Ok(true));
    }
    sent(&mut server);
    server.send(1, b"one", false);
    server.send(1, b"", true);
    server.send(3, b"three", false);
    server.send(5, b"five", false);
    server.send(3, b"", true);
    assert!(server.output().starts_with(&frame(0, 1, 1, b"one")));
    server.written(server.waits() - 2);
    server.send(5, b"", true);
    let all = server.output()[2..].to_vec();
    assert_eq!(all, frame(0, 1, 5, b""), "that one was on its way");
    server.written(server.waits());
    assert_eq!(server.open_streams(), 0);
}
