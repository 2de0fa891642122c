//! Spans over both OTLP transports to receivers inside the test.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use ripstop_telemetry::export::{ExportError, Settings, Spans, Transport};
use ripstop_telemetry::record::{Kind, Record, Reporter};
use ripstop_telemetry::trace::SpanContext;
use ripstop_telemetry::{Scope, Stats};
use tokio::net::TcpListener;

const LIMIT: Duration = Duration::from_secs(30);

struct Collector(SyncSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        self.0.send(request.into_inner()).unwrap();
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn grpc_collector() -> (SocketAddr, Receiver<ExportTraceServiceRequest>) {
    let (send, receive) = sync_channel(16);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server =
        tonic::transport::Server::builder().add_service(TraceServiceServer::new(Collector(send)));
    tokio::spawn(server.serve_with_incoming(incoming));
    (address, receive)
}

async fn http_collector() -> (SocketAddr, Receiver<ExportTraceServiceRequest>) {
    let (send, receive) = sync_channel(16);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let send = send.clone();
            let service = service_fn(move |request: hyper::Request<Incoming>| {
                let send = send.clone();
                async move {
                    assert_eq!(request.uri().path(), "/v1/traces");
                    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    send.send(ExportTraceServiceRequest::decode(body).unwrap())
                        .unwrap();
                    Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::new())))
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    (address, receive)
}

fn context(span_id: u64, export: bool) -> SpanContext {
    SpanContext {
        trace_id: 0x4bf9_2f35,
        span_id,
        parent: Some(7),
        export,
        attribution: ripstop_telemetry::trace::Attribution::NotAsked,
    }
}

/// A request of five milliseconds that failed.
fn push(spans: &Spans, context: &SpanContext) {
    let request = |name: &str| {
        Some(match name {
            ":method" => "GET".to_owned(),
            ":authority" => "users".to_owned(),
            ":path" => format!("/{}", "é".repeat(500)),
            _ => return None,
        })
    };
    let mut record = Record::new(
        Reporter::Source,
        Kind::Http,
        SystemTime::UNIX_EPOCH + Duration::from_secs(1000),
    );
    record.request = &request;
    record.status = 503;
    record.timings.total = Duration::from_millis(5);
    record.operation = Some("users.shop.svc.cluster.local:80/*");
    record.span = Some(context);
    spans.push(&record);
}

fn check(request: &ExportTraceServiceRequest) {
    let resource = &request.resource_spans[0];
    let service = &resource.resource.as_ref().unwrap().attributes;
    let text = |attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue], key: &str| {
        let found = attributes.iter().find(|a| a.key == key)?;
        match found.value.as_ref()?.value.as_ref()? {
            Value::StringValue(text) => Some(text.clone()),
            other => Some(format!("{other:?}")),
        }
    };
    assert_eq!(
        text(service, "service.name").as_deref(),
        Some("orders.shop")
    );
    assert_eq!(text(service, "host.name").as_deref(), Some("box"));
    let spans: Vec<&Span> = resource.scope_spans.iter().flat_map(|s| &s.spans).collect();
    assert_eq!(
        spans.len(),
        2,
        "the span that is not ours to export is missing"
    );
    let span = spans[0];
    assert_eq!(span.name, "users.shop.svc.cluster.local:80/*");
    assert_eq!(span.trace_id, 0x4bf9_2f35u128.to_be_bytes());
    assert_eq!(span.span_id, 1u64.to_be_bytes());
    assert_eq!(span.parent_span_id, 7u64.to_be_bytes());
    assert_eq!(span.kind, 3, "client");
    assert_eq!(span.start_time_unix_nano, 1_000_000_000_000);
    assert_eq!(span.end_time_unix_nano, 1_000_005_000_000);
    assert_eq!(span.status.as_ref().unwrap().code, 2);
    assert_eq!(
        text(&span.attributes, "http.status_code").as_deref(),
        Some("IntValue(503)")
    );
    let url = text(&span.attributes, "http.url").unwrap();
    assert!(
        url.starts_with("http://users/é") && url.len() <= 256,
        "{url}"
    );
    assert_eq!(text(&span.attributes, "user_agent"), None);
}

async fn delivers(settings: Settings, received: Receiver<ExportTraceServiceRequest>) {
    let stats = Stats::default();
    let settings = Settings {
        resource: vec![("host.name".into(), "box".into())],
        ..settings
    };
    let spans = Spans::start(settings, &stats).unwrap();
    for (id, export) in [(1, true), (2, false), (3, true)] {
        push(&spans, &context(id, export));
    }
    assert!(spans.flush(LIMIT).await);
    check(&received.recv_timeout(LIMIT).unwrap());
    let sent = stats.counter(Scope::Own(&[("result", "sent")]), "ripstop_spans_total");
    assert_eq!((sent.read(), spans.dropped()), (2, 0));
}

#[tokio::test]
async fn over_grpc() {
    let (address, received) = grpc_collector().await;
    delivers(
        Settings::new(Transport::Grpc, &format!("http://{address}"), "orders.shop"),
        received,
    )
    .await;
}

#[tokio::test]
async fn over_http() {
    for path in ["", "/", "/v1/traces"] {
        let (address, received) = http_collector().await;
        let endpoint = format!("http://{address}{path}");
        delivers(
            Settings::new(Transport::Http, &endpoint, "orders.shop"),
            received,
        )
        .await;
    }
}

#[tokio::test]
async fn spans_leave_without_being_flushed() {
    let (address, received) = grpc_collector().await;
    let settings = Settings {
        interval: Duration::from_millis(50),
        ..Settings::new(Transport::Grpc, &format!("http://{address}"), "orders.shop")
    };
    let spans = Spans::start(settings, &Stats::default()).unwrap();
    push(&spans, &context(1, true));
    let received = tokio::task::spawn_blocking(move || received.recv_timeout(LIMIT))
        .await
        .unwrap();
    assert_eq!(received.unwrap().resource_spans.len(), 1);
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_spans_and_nothing_else() {
    // Bound and dropped: nobody listens there.
    let address = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let stats = Stats::default();
    let spans = Spans::start(
        Settings::new(Transport::Grpc, &format!("http://{address}"), "orders.shop"),
        &stats,
    )
    .unwrap();
    push(&spans, &context(1, true));
    assert!(spans.flush(LIMIT).await);
    let failed = stats.counter(Scope::Own(&[("result", "failed")]), "ripstop_spans_total");
    assert_eq!(failed.read(), 1);
}

#[tokio::test]
async fn a_full_queue_drops_and_counts() {
    // Accepts connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = Settings {
        queue: 4,
        batch: 1,
        timeout: Duration::from_millis(500),
        ..Settings::new(
            Transport::Http,
            &format!("http://{}/v1/traces", silent.local_addr().unwrap()),
            "orders.shop",
        )
    };
    let spans = Spans::start(settings, &Stats::default()).unwrap();
    for id in 1..=100 {
        push(&spans, &context(id, true));
    }
    assert!(spans.dropped() >= 90, "{}", spans.dropped());
    assert!(spans.flush(LIMIT).await, "and it still ends");
}

#[tokio::test]
async fn only_plain_http_endpoints() {
    for endpoint in ["https://collector:4317", "collector:4317", ""] {
        let started = Spans::start(
            Settings::new(Transport::Grpc, endpoint, "x"),
            &Stats::default(),
        );
        assert!(
            matches!(started, Err(ExportError::Endpoint(_))),
            "{endpoint}"
        );
    }
}
