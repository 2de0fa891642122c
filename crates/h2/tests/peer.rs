//! The codec beside the `h2` crate, in both roles, in memory: many streams at once, bodies larger than every window,
//! trailers, resets and the end of a connection.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use ripstop_h2::{Code, Config, Connection, Event, HeadKind, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const STREAMS: usize = 60;
/// Less than a window, exactly one, more than one.
const SIZES: [usize; 6] = [0, 1, 16_384, 65_535, 70_000, 300_000];

fn size(number: usize) -> usize {
    SIZES[number % SIZES.len()]
}

fn body(number: usize) -> Vec<u8> {
    (0..size(number))
        .map(|at| (at * 31 + number) as u8)
        .collect()
}

fn config() -> Config {
    Config {
        streams: 20,
        connection_window: 100_000,
        output: 50_000,
        ..Config::default()
    }
}

/// What one side still has to say on a stream.
#[derive(Default)]
struct Speech {
    bytes: Vec<u8>,
    said: usize,
    whole: bool,
    trailers: bool,
    /// It is an answer.
    serves: bool,
    /// What came.
    heard: Vec<u8>,
    done: bool,
}

impl Speech {
    fn say(&mut self, connection: &mut Connection, stream: u32) {
        let end = self.whole && !self.trailers;
        let rest = &self.bytes[self.said..];
        if !rest.is_empty() || end {
            self.said += connection.send(stream, rest, end);
        }
        if self.whole && self.trailers && self.said == self.bytes.len() {
            let sent = connection.trailers(stream, |writer| {
                writer.field(b"Checksum", self.said.to_string().as_bytes());
            });
            self.trailers = !sent.unwrap();
        }
        // Heard to its end, and said to its end.
        if self.whole && !self.trailers && self.said == self.bytes.len() && self.serves {
            connection.forget(stream);
        }
    }
}

/// Reads or writes, whichever is possible. `Some`: so much was read.
async fn turn(
    connection: &mut Connection,
    io: &mut DuplexStream,
    scratch: &mut [u8],
) -> Option<usize> {
    let (mut reader, mut writer) = tokio::io::split(io);
    let waits = connection.waits() > 0;
    tokio::select! {
        written = writer.write(connection.output()), if waits => {
            connection.written(written.unwrap_or(usize::MAX));
            None
        }
        read = reader.read(scratch) => Some(read.unwrap()),
    }
}

/// Answers each request with its body, and with trailers where it asks for them; resets where it asks for that.
async fn echo(mut io: DuplexStream) -> Connection {
    let mut connection = Connection::new(Role::Server, config());
    let mut speeches: BTreeMap<u32, Speech> = BTreeMap::new();
    let mut scratch = vec![0; 40_000];
    loop {
        while let Some(stream) = connection.ready() {
            if let Some(speech) = speeches.get_mut(&stream) {
                speech.say(&mut connection, stream);
            }
        }
        let Some(count) = turn(&mut connection, &mut io, &mut scratch).await else {
            continue;
        };
        if count == 0 {
            return connection;
        }
        let mut input = &scratch[..count];
        loop {
            let event = connection.next(&mut input, Duration::ZERO);
            let (stream, held) = match event.unwrap() {
                None => break,
                Some(Event::Head {
                    stream,
                    kind: HeadKind::Request,
                    head,
                    end,
                }) => {
                    let path = head.path().to_vec();
                    let trailers = head.fields().any(|field| field.name == b"want-trailers");
                    if path == b"/reset" {
                        connection.reset(stream, Code::CANCEL);
                        connection.forget(stream);
                        continue;
                    }
                    let speech = Speech {
                        whole: end,
                        trailers,
                        serves: true,
                        ..Speech::default()
                    };
                    speeches.insert(stream, speech);
                    let answered = connection.respond(stream, false, false, |writer| {
                        writer.field(b":status", b"200");
                        writer.field(b"Path", &path);
                    });
                    assert_eq!(answered, Ok(true));
                    (stream, 0)
                }
                Some(Event::Head { stream, .. }) => {
                    speeches.get_mut(&stream).unwrap().whole = true;
                    (stream, 0)
                }
                Some(Event::Data { stream, data, end }) => {
                    let speech = speeches.get_mut(&stream).unwrap();
                    speech.bytes.extend_from_slice(data);
                    speech.whole = end;
                    (stream, data.len())
                }
                Some(Event::Reset { stream, .. }) => {
                    connection.forget(stream);
                    speeches.remove(&stream);
                    continue;
                }
                Some(_) => continue,
            };
            connection.consumed(stream, held);
            if let Some(speech) = speeches.get_mut(&stream) {
                speech.say(&mut connection, stream);
            }
        }
    }
}

async fn ask(mut sender: h2::client::SendRequest<Bytes>, number: usize) {
    sender = sender.ready().await.unwrap();
    let mut request = http::Request::post(format!("http://a/{number}?q"))
        .body(())
        .unwrap();
    if number.is_multiple_of(2) {
        request
            .headers_mut()
            .insert("want-trailers", "yes".parse().unwrap());
    }
    if number.is_multiple_of(3) {
        let length = size(number).to_string();
        request
            .headers_mut()
            .insert("content-length", length.parse().unwrap());
    }
    let (response, mut out) = sender.send_request(request, false).unwrap();
    let sending = tokio::spawn(async move {
        let mut rest = Bytes::from(body(number));
        while !rest.is_empty() {
            out.reserve_capacity(rest.len());
            let room = std::future::poll_fn(|cx| out.poll_capacity(cx))
                .await
                .unwrap()
                .unwrap();
            out.send_data(rest.split_to(room.min(rest.len())), false)
                .unwrap();
        }
        if number.is_multiple_of(5) {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("end", "1".parse().unwrap());
            out.send_trailers(trailers).unwrap();
        } else {
            out.send_data(Bytes::new(), true).unwrap();
        }
    });
    let response = response.await.unwrap();
    assert_eq!(response.headers()["path"], format!("/{number}?q").as_str());
    let mut stream = response.into_body();
    let mut heard = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data.unwrap();
        stream.flow_control().release_capacity(data.len()).unwrap();
        heard.extend_from_slice(&data);
    }
    assert!(heard == body(number), "stream {number}");
    let trailers = stream.trailers().await.unwrap();
    assert_eq!(trailers.is_some(), number.is_multiple_of(2));
    sending.await.unwrap();
}

#[tokio::test]
async fn a_server_before_the_h2_crate_s_client() {
    let (ours, theirs) = tokio::io::duplex(30_000);
    let server = tokio::spawn(echo(ours));
    let mut builder = h2::client::Builder::new();
    // The server's limit, which would otherwise come after the first streams.
    builder.initial_max_send_streams(20);
    let (sender, mut connection) = builder.handshake(theirs).await.unwrap();
    let mut pings = connection.ping_pong().unwrap();
    let driving = tokio::spawn(connection);
    let mut asking = Vec::new();
    for number in 0..STREAMS {
        asking.push(tokio::spawn(ask(sender.clone(), number)));
        if number.is_multiple_of(7) {
            let mut sender = sender.clone().ready().await.unwrap();
            let request = http::Request::get("http://a/reset").body(()).unwrap();
            let (response, _) = sender.send_request(request, true).unwrap();
            let error = response.await.unwrap_err();
            assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
            // And one that the client gives up.
            let request = http::Request::post("http://a/given-up").body(()).unwrap();
            let mut sender = sender.ready().await.unwrap();
            let (response, mut out) = sender.send_request(request, false).unwrap();
            response.await.unwrap();
            out.send_reset(h2::Reason::CANCEL);
        }
    }
    for asked in asking {
        asked.await.unwrap();
    }
    pings.ping(h2::Ping::opaque()).await.unwrap();
    drop((sender, pings));
    driving.await.unwrap().unwrap();
    let connection = server.await.unwrap();
    assert_eq!(connection.open_streams(), 0);
}

async fn serve(io: DuplexStream) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(17);
    let mut connection = builder.handshake::<_, Bytes>(io).await.unwrap();
    let mut served = 0;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted.unwrap();
        served += 1;
        if served == STREAMS {
            connection.graceful_shutdown();
        }
        tokio::spawn(async move {
            if request.uri().path() == "/reset" {
                return respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
            let interim = http::Response::builder().status(103).body(()).unwrap();
            respond.send_informational(interim).unwrap();
            let mut response = http::Response::new(());
            let path = request.uri().path().parse().unwrap();
            response.headers_mut().insert("path", path);
            let mut out = respond.send_response(response, false).unwrap();
            let mut stream = request.into_body();
            while let Some(data) = stream.data().await {
                let mut data = data.unwrap();
                stream.flow_control().release_capacity(data.len()).unwrap();
                while !data.is_empty() {
                    out.reserve_capacity(data.len());
                    let room = std::future::poll_fn(|cx| out.poll_capacity(cx))
                        .await
                        .unwrap()
                        .unwrap();
                    out.send_data(data.split_to(room.min(data.len())), false)
                        .unwrap();
                }
            }
            match stream.trailers().await.unwrap() {
                Some(trailers) => out.send_trailers(trailers).unwrap(),
                None => out.send_data(Bytes::new(), true).unwrap(),
            }
        });
    }
}

#[tokio::test]
async fn a_client_before_the_h2_crate_s_server() {
    let (mut io, theirs) = tokio::io::duplex(30_000);
    let server = tokio::spawn(serve(theirs));
    let mut connection = Connection::new(Role::Client, config());
    let mut speeches: BTreeMap<u32, Speech> = BTreeMap::new();
    let mut scratch = vec![0; 40_000];
    let (mut opened, mut interim, mut refused, mut goodbye) = (0, 0, 0, false);
    loop {
        while opened < STREAMS && connection.is_begun() && connection.room() > 0 {
            let path = match opened % 6 {
                5 => "/reset".to_owned(),
                _ => format!("/{opened}"),
            };
            let asked = connection.request(false, false, false, |writer| {
                writer.field(b":method", b"POST");
                writer.field(b":scheme", b"http");
                writer.field(b":authority", b"a");
                writer.field(b":path", path.as_bytes());
                writer.field(b"Number", opened.to_string().as_bytes());
            });
            let stream = asked.unwrap();
            let mut speech = Speech {
                bytes: body(opened),
                whole: true,
                trailers: opened % 2 == 0,
                ..Speech::default()
            };
            speech.say(&mut connection, stream);
            speeches.insert(stream, speech);
            opened += 1;
        }
        while let Some(stream) = connection.ready() {
            if let Some(speech) = speeches.get_mut(&stream) {
                speech.say(&mut connection, stream);
            }
        }
        if opened == STREAMS && speeches.values().all(|speech| speech.done) && goodbye {
            break;
        }
        let Some(count) = turn(&mut connection, &mut io, &mut scratch).await else {
            continue;
        };
        assert!(count > 0, "the server left");
        let mut input = &scratch[..count];
        while let Some(event) = connection.next(&mut input, Duration::ZERO).unwrap() {
            let (stream, held) = match event {
                Event::Head {
                    stream,
                    kind,
                    head,
                    end,
                } => {
                    let number = (stream as usize - 1) / 2;
                    match kind {
                        HeadKind::Interim => interim += 1,
                        HeadKind::Response => {
                            let path = format!("/{number}");
                            let found = head.fields().find(|field| field.name == b"path");
                            assert_eq!(found.unwrap().value, path.as_bytes());
                        }
                        _ => {
                            let found = head.fields().find(|field| field.name == b"checksum");
                            assert_eq!(found.unwrap().value, size(number).to_string().as_bytes());
                        }
                    }
                    speeches.get_mut(&stream).unwrap().done = end;
                    (stream, 0)
                }
                Event::Data { stream, data, end } => {
                    let speech = speeches.get_mut(&stream).unwrap();
                    speech.heard.extend_from_slice(data);
                    speech.done = end;
                    (stream, data.len())
                }
                Event::Reset { stream, code } => {
                    assert_eq!(code, Code::REFUSED_STREAM);
                    refused += 1;
                    connection.forget(stream);
                    speeches.remove(&stream);
                    continue;
                }
                Event::GoAway { code, .. } => {
                    assert_eq!(code, Code::NO_ERROR);
                    goodbye = true;
                    continue;
                }
                Event::Broken { stream, violation } => panic!("{stream}: {violation}"),
                _ => continue,
            };
            connection.consumed(stream, held);
            if speeches.get(&stream).is_some_and(|speech| speech.done) {
                connection.forget(stream);
            }
        }
    }
    for (stream, speech) in &speeches {
        let number = (*stream as usize - 1) / 2;
        assert!(speech.heard == body(number), "stream {stream}");
    }
    assert_eq!((refused, interim), (STREAMS / 6, STREAMS - STREAMS / 6));
    assert_eq!(connection.open_streams(), 0);
    drop(io);
    server.await.unwrap();
}
