//! Exported spans in, over gRPC or HTTP on one port → the spans, as a test wants to read them.
//!
//! The few protobuf fields that matter are read by hand, by the numbers of `opentelemetry/proto/trace/v1/trace.proto`.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// One span.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Span {
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits.
    pub span_id: String,
    /// 16 hex digits, or empty for a root.
    pub parent_id: String,
    pub name: String,
    /// 1 internal, 2 server, 3 client, as in the protocol.
    pub kind: u64,
    /// Values as text, whatever their type.
    pub attributes: BTreeMap<String, String>,
    /// Trace and span ids, as above.
    pub links: Vec<(String, String)>,
    /// Of the process that exported it, such as `service.name`.
    pub resource: BTreeMap<String, String>,
}

/// A receiver on a port of loopback: gRPC (HTTP/2) and `POST /v1/traces` (HTTP/1 or 2, protobuf).
pub struct Collector {
    addr: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Collector {
    pub fn start() -> Collector {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        listener
            .set_nonblocking(true)
            .expect("a non-blocking listener");
        let addr = listener.local_addr().expect("a bound listener");
        let spans = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn({
            let spans = Arc::clone(&spans);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(async {
                    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                    tokio::select! {
                        _ = accept(listener, spans) => {}
                        _ = stopped => {}
                    }
                });
            }
        });
        Collector {
            addr,
            spans,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:PORT`, what exporters are configured with.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Every span received so far.
    pub fn spans(&self) -> Vec<Span> {
        self.spans
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

async fn accept(listener: tokio::net::TcpListener, spans: Arc<Mutex<Vec<Span>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let spans = Arc::clone(&spans);
        tokio::spawn(async move {
            let mut start = [0; 3];
            let preface = stream
                .peek(&mut start)
                .await
                .is_ok_and(|read| read > 0 && start[0] == b'P' && start[1] == b'R');
            let io = TokioIo::new(stream);
            let service = service_fn(move |request| answer(request, Arc::clone(&spans)));
            let _ended = if preface {
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(io, service)
                    .await
            } else {
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(io, service)
                    .await
            };
        });
    }
}

type Answer = http::Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>;

async fn answer(
    request: http::Request<Incoming>,
    spans: Arc<Mutex<Vec<Span>>>,
) -> Result<Answer, hyper::Error> {
    let grpc = request
        .headers()
        .get("content-type")
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    let body = request.into_body().collect().await?.to_bytes();
    // gRPC puts a flag and four bytes of length before the one message of a unary call.
    let message = if grpc {
        body.get(5..).unwrap_or_default()
    } else {
        &body[..]
    };
    spans
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .extend(read_export(message));
    let mut response = http::Response::builder();
    let body = if grpc {
        response = response.header("content-type", "application/grpc");
        let trailers = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("0"),
        )]);
        Full::new(Bytes::from_static(&[0; 5]))
            .with_trailers(async move { Some(Ok(trailers)) })
            .boxed()
    } else {
        response = response.header("content-type", "application/x-protobuf");
        Full::new(Bytes::new()).boxed()
    };
    Ok(response.body(body).expect("static headers"))
}

/// ExportTraceServiceRequest: resource_spans = 1 { resource = 1 { attributes = 1 }, scope_spans = 2 { spans = 2 } }.
fn read_export(message: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    for resource_spans in messages(message, 1) {
        let resource: BTreeMap<_, _> = messages(resource_spans, 1)
            .flat_map(|resource| messages(resource, 1))
            .filter_map(attribute)
            .collect();
        for span in messages(resource_spans, 2).flat_map(|scope| messages(scope, 2)) {
            spans.push(Span {
                resource: resource.clone(),
                ..read_span(span)
            });
        }
    }
    spans
}

fn read_span(message: &[u8]) -> Span {
    let mut span = Span::default();
    for (number, value) in fields(message) {
        match (number, value) {
            (1, Value::Bytes(id)) => span.trace_id = hex(id),
            (2, Value::Bytes(id)) => span.span_id = hex(id),
            (4, Value::Bytes(id)) => span.parent_id = hex(id),
            (5, Value::Bytes(name)) => span.name = text(name),
            (6, Value::Number(kind)) => span.kind = kind,
            (9, Value::Bytes(pair)) => span.attributes.extend(attribute(pair)),
            (13, Value::Bytes(link)) => span.links.extend(read_link(link)),
            _ => {}
        }
    }
    span
}

/// Link: trace_id = 1, span_id = 2.
fn read_link(message: &[u8]) -> Option<(String, String)> {
    Some((
        hex(messages(message, 1).next()?),
        hex(messages(message, 2).next()?),
    ))
}

/// KeyValue: key = 1, value = 2 { string = 1, bool = 2, int = 3, double = 4 }.
fn attribute(message: &[u8]) -> Option<(String, String)> {
    let key = text(messages(message, 1).next()?);
    let (number, value) = fields(messages(message, 2).next()?).next()?;
    let value = match (number, value) {
        (2, Value::Number(flag)) => (flag != 0).to_string(),
        (4, Value::Number(bits)) => f64::from_bits(bits).to_string(),
        (_, Value::Number(number)) => number.to_string(),
        (_, Value::Bytes(bytes)) => text(bytes),
    };
    Some((key, value))
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn messages(message: &[u8], wanted: u64) -> impl Iterator<Item = &[u8]> {
    fields(message).filter_map(move |(number, value)| match value {
        Value::Bytes(bytes) if number == wanted => Some(bytes),
        _ => None,
    })
}

/// The fields of a protobuf message; ends at the first byte that is none.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = (u64, Value<'_>)> {
    std::iter::from_fn(move || {
        let tag = varint(&mut rest)?;
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut rest)?),
            1 => Value::Number(u64::from_le_bytes(take(&mut rest, 8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                Value::Bytes(take(&mut rest, length)?)
            }
            5 => Value::Number(u32::from_le_bytes(take(&mut rest, 4)?.try_into().ok()?).into()),
            _ => return None,
        };
        Some((tag >> 3, value))
    })
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *take(rest, 1)?.first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A length-delimited field.
    fn field(number: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).expect("a short field");
        [&[number << 3 | 2, length], payload].concat()
    }

    fn export() -> Vec<u8> {
        let pair = |key: &str, value: &str| {
            [
                field(1, key.as_bytes()),
                field(2, &field(1, value.as_bytes())),
            ]
            .concat()
        };
        let span = [
            field(1, &[0xab; 16]),
            field(2, &[0xcd; 8]),
            field(5, b"GET /users"),
            vec![6 << 3, 2],
            field(9, &pair("http.status_code", "200")),
        ]
        .concat();
        let resource = field(1, &pair("service.name", "orders"));
        field(
            1,
            &[field(1, &resource), field(2, &field(2, &span))].concat(),
        )
    }

    fn assert_received(collector: &Collector) {
        let spans = collector.spans();
        assert_eq!(spans.len(), 1);
        assert_eq!(
            (spans[0].trace_id.as_str(), spans[0].kind),
            ("ab".repeat(16).as_str(), 2)
        );
        assert_eq!(
            (spans[0].span_id.as_str(), spans[0].parent_id.as_str()),
            ("cd".repeat(8).as_str(), "")
        );
        assert_eq!(spans[0].name, "GET /users");
        assert_eq!(spans[0].attributes["http.status_code"], "200");
        assert_eq!(spans[0].resource["service.name"], "orders");
    }

    #[test]
    fn reads_spans_over_http() {
        let collector = Collector::start();
        let headers = [("content-type", "application/x-protobuf")];
        let response = crate::http::request(
            collector.addr(),
            "POST",
            "otlp",
            "/v1/traces",
            &headers,
            &export(),
        );
        assert_eq!(response.expect("an answer").status, 200);
        assert_received(&collector);
    }

    #[tokio::test]
    async fn reads_spans_over_grpc() {
        let collector = Collector::start();
        let stream = tokio::net::TcpStream::connect(collector.addr())
            .await
            .expect("a connection");
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .expect("HTTP/2");
        tokio::spawn(connection);
        let message = export();
        let length = u32::try_from(message.len())
            .expect("a short message")
            .to_be_bytes();
        let service = "opentelemetry.proto.collector.trace.v1.TraceService";
        let request = http::Request::post(format!("{}/{service}/Export", collector.endpoint()))
            .header("content-type", "application/grpc")
            .body(Full::new(Bytes::from(
                [&[0], &length[..], &message].concat(),
            )))
            .expect("a request");
        let response = client.send_request(request).await.expect("an answer");
        let answer = response.into_body().collect().await.expect("a body");
        assert_eq!(answer.trailers().expect("trailers")["grpc-status"], "0");
        assert_received(&collector);
    }
}
