//! A unary call of gRPC between a client and a server in memory: this codec at both ends, or the `h2` crate at both.
//!
//! Prints nanoseconds per exchange. For instructions, run the built binary under `valgrind --tool=callgrind` with two
//! counts and divide the difference (`exchange ours 1000`, `exchange ours 11000`; `exchange h2 …`).

use std::time::{Duration, Instant};

use bytes::Bytes;
use ripstop_h2::{Config, Connection, Event, Role};

/// Calls on their way at once, as on a connection that many share.
const AT_ONCE: u64 = 20;
const MESSAGE: &[u8] = b"\0\0\0\0\x20a message of thirty-two bytes....";

const REQUEST: &[(&str, &str)] = &[
    ("content-type", "application/grpc"),
    ("te", "trailers"),
    ("user-agent", "grpc-go/1.60.1"),
    ("x-forwarded-proto", "http"),
];

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let count = words.iter().find_map(|word| word.parse().ok());
    let count: u64 = count.unwrap_or(200_000) / AT_ONCE * AT_ONCE;
    for (name, run) in [("ours", ours as fn(u64)), ("h2", theirs)] {
        if words.iter().any(|word| word == "ours" || word == "h2")
            && !words.iter().any(|word| word == name)
        {
            continue;
        }
        let begun = Instant::now();
        run(count);
        let each = begun.elapsed().as_nanos() / u128::from(count.max(1));
        println!("{name}: {each} ns per exchange, both ends");
    }
}

fn request_id(number: u64) -> String {
    format!("{number:032x}")
}

fn ours(count: u64) {
    let mut client = Connection::new(Role::Client, Config::default());
    let mut server = Connection::new(Role::Server, Config::default());
    let mut now = Duration::ZERO;
    for round in 0..count / AT_ONCE {
        now += Duration::from_micros(100);
        for number in 0..AT_ONCE {
            let id = request_id(round * AT_ONCE + number);
            let stream = client.request(false, false, false, |writer| {
                writer.field(b":method", b"POST");
                writer.field(b":scheme", b"http");
                writer.field(b":authority", b"greeter.default:8080");
                writer.field(b":path", b"/greeter.Greeter/SayHello");
                for (name, value) in REQUEST {
                    writer.field(name.as_bytes(), value.as_bytes());
                }
                writer.field(b"x-request-id", id.as_bytes());
            });
            client.send(stream.expect("room for a stream"), MESSAGE, true);
        }
        pass(&mut client, &mut server, now, |server, stream| {
            let answered = server.respond(stream, false, false, |writer| {
                writer.field(b":status", b"200");
                writer.field(b"content-type", b"application/grpc");
            });
            assert_eq!(answered, Ok(true));
            server.send(stream, MESSAGE, false);
            let ended = server.trailers(stream, |writer| writer.field(b"grpc-status", b"0"));
            assert_eq!(ended, Ok(true));
            server.forget(stream);
        });
        pass(&mut server, &mut client, now, Connection::forget);
        assert_eq!(client.open_streams(), 0);
    }
}

/// What `from` says reaches `to`; `ended`: a message is whole.
fn pass(
    from: &mut Connection,
    to: &mut Connection,
    now: Duration,
    ended: impl Fn(&mut Connection, u32),
) {
    let mut bytes = from.output();
    let length = bytes.len();
    loop {
        let (stream, held, end) = match to.next(&mut bytes, now).expect("a valid peer") {
            Some(Event::Head { stream, end, .. }) => (stream, 0, end),
            Some(Event::Data { stream, data, end }) => (stream, data.len(), end),
            Some(_) => continue,
            None => break,
        };
        to.consumed(stream, held);
        if end {
            ended(to, stream);
        }
    }
    from.written(length);
}

fn theirs(count: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime.expect("a runtime"), async move {
        let (near, far) = tokio::io::duplex(256 * 1024);
        tokio::task::spawn_local(serve(far));
        let (mut sender, connection) = h2::client::handshake(near).await.expect("a handshake");
        tokio::task::spawn_local(connection);
        for round in 0..count / AT_ONCE {
            let mut calls = Vec::new();
            for number in 0..AT_ONCE {
                sender = sender.ready().await.expect("a connection");
                let mut request =
                    http::Request::post("http://greeter.default:8080/greeter.Greeter/SayHello");
                for (name, value) in REQUEST {
                    request = request.header(*name, *value);
                }
                let id = request_id(round * AT_ONCE + number);
                let request = request
                    .header("x-request-id", id)
                    .body(())
                    .expect("a request");
                let (response, mut out) = sender.send_request(request, false).expect("room");
                out.send_data(Bytes::from_static(MESSAGE), true)
                    .expect("a window");
                calls.push(response);
            }
            for call in calls {
                let mut body = call.await.expect("a response").into_body();
                while let Some(data) = body.data().await {
                    let length = data.expect("data").len();
                    body.flow_control()
                        .release_capacity(length)
                        .expect("held data");
                }
                body.trailers().await.expect("trailers");
            }
        }
    });
}

async fn serve(io: tokio::io::DuplexStream) {
    let mut connection = h2::server::handshake(io).await.expect("a handshake");
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::task::spawn_local(async move {
            let mut body = request.into_body();
            while let Some(data) = body.data().await {
                let length = data.expect("data").len();
                body.flow_control()
                    .release_capacity(length)
                    .expect("held data");
            }
            let response = http::Response::builder().header("content-type", "application/grpc");
            let response = response.body(()).expect("a response");
            let mut out = respond.send_response(response, false).expect("a stream");
            out.send_data(Bytes::from_static(MESSAGE), false)
                .expect("a window");
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            out.send_trailers(trailers).expect("a stream");
        });
    }
}
