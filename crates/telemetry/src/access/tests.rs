//! Golden lines, formats that are refused, and clients that try to forge.

use std::borrow::Cow;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ripstop_model::defaults::{ISTIO_LOG_JSON, ISTIO_LOG_TEXT};
use ripstop_model::reason::{Flag, Reason};

use super::sink::{Sink, Target};
use super::{Format, Template, header_value};
use crate::metrics::stats::Counter;
use crate::record::{Fields, Kind, Record, Reporter};

struct Head(&'static [(&'static str, &'static str)]);

impl Fields for Head {
    fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| (*v).into())
    }
}

static REQUEST: Head = Head(&[
    (":method", "GET"),
    (":path", "/users/7?x=1"),
    (":authority", "users"),
    ("user-agent", "curl/8.1"),
    ("x-request-id", "0b7f5d0e-6d1c-4b0a-9f5e-2f9e0a8a7c11"),
]);
static RESPONSE: Head = Head(&[("x-envoy-upstream-service-time", "4")]);

fn record() -> Record<'static> {
    let start = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_410_460_849);
    let mut record = Record::new(Reporter::Source, Kind::Http, start);
    record.protocol = "HTTP/1.1";
    record.request = &REQUEST;
    record.response = &RESPONSE;
    record.status = 200;
    record.bytes_sent = 95;
    record.timings.total = Duration::from_micros(5_900);
    record.upstream_host = Some("10.88.0.7:8080".parse().unwrap());
    record.upstream_local = Some("10.88.0.5:41234".parse().unwrap());
    record.downstream_local = Some("240.240.0.3:80".parse().unwrap());
    record.downstream_remote = Some("10.88.0.5:52000".parse().unwrap());
    record.cluster = Some("outbound|80||users.default.svc.cluster.local");
    record.route = Some("default");
    record
}

fn line(format: &Format, record: &Record<'_>) -> String {
    let mut out = String::new();
    format.write(record, &mut out);
    out
}

#[test]
fn istio_text() {
    assert_eq!(
        line(&Format::text(ISTIO_LOG_TEXT).unwrap(), &record()),
        "[2026-11-23T05:07:40.849Z] \"GET /users/7?x=1 HTTP/1.1\" 200 - via_upstream - \"-\" 0 95 5 4 \"-\" \
         \"curl/8.1\" \"0b7f5d0e-6d1c-4b0a-9f5e-2f9e0a8a7c11\" \"users\" \"10.88.0.7:8080\" \
         outbound|80||users.default.svc.cluster.local 10.88.0.5:41234 240.240.0.3:80 10.88.0.5:52000 - default\n"
    );
}

#[test]
fn istio_text_of_a_local_answer_names_the_resource() {
    let mut record = record();
    record.response = &crate::record::NoFields;
    record.status = 403;
    record.upstream_host = None;
    record.upstream_local = None;
    record.decide(
        Reason::AuthzDenied,
        Some("AuthorizationPolicy/default/deny-all#rules[0]"),
    );
    record.flag(Flag::DelayInjected);
    let text = line(&Format::text(ISTIO_LOG_TEXT).unwrap(), &record);
    assert!(
        text.contains(
            "\" 403 DI rbac_access_denied_matched_policy[ns[default]-policy[deny-all]-rule[0]] - \"-\" 0 95 5 - "
        ),
        "{text}"
    );
    let json: serde_json::Value =
        serde_json::from_str(&line(&Format::json(ISTIO_LOG_JSON).unwrap(), &record)).unwrap();
    assert_eq!(
        json["response_code_details"],
        "rbac_access_denied_matched_policy[ns[default]-policy[deny-all]-rule[0]]"
    );
}

#[test]
fn istio_text_of_a_tcp_connection() {
    let mut record = Record::new(Reporter::Destination, Kind::Tcp, SystemTime::UNIX_EPOCH);
    record.bytes_received = 12;
    record.server_name = Some("outbound_.5432_._.db");
    record.decide(Reason::ConnectFailure, None);
    record.upstream_failure = Some("delayed connect error: Connection refused");
    assert_eq!(
        line(&Format::text(ISTIO_LOG_TEXT).unwrap(), &record),
        "[1970-01-01T00:00:00.000Z] \"- - -\" 0 UF - - \
         \"delayed_connect_error:_Connection_refused\" 12 0 0 - \"-\" \"-\" \"-\" \"-\" \"-\" - - - - \
         outbound_.5432_._.db -\n"
    );
}

#[test]
fn istio_json_keeps_types() {
    assert_eq!(
        line(&Format::json(ISTIO_LOG_JSON).unwrap(), &record()),
        "{\"start_time\":\"2026-11-23T05:07:40.849Z\",\"route_name\":\"default\",\"method\":\"GET\",\
         \"path\":\"/users/7?x=1\",\"protocol\":\"HTTP/1.1\",\"response_code\":200,\"response_flags\":\"-\",\
         \"response_code_details\":\"via_upstream\",\"connection_termination_details\":null,\"bytes_received\":0,\
         \"bytes_sent\":95,\"duration\":5,\"upstream_service_time\":\"4\",\"x_forwarded_for\":null,\
         \"user_agent\":\"curl/8.1\",\"request_id\":\"0b7f5d0e-6d1c-4b0a-9f5e-2f9e0a8a7c11\",\"authority\":\"users\",\
         \"upstream_host\":\"10.88.0.7:8080\",\"upstream_cluster\":\"outbound|80||users.default.svc.cluster.local\",\
         \"upstream_local_address\":\"10.88.0.5:41234\",\"downstream_local_address\":\"240.240.0.3:80\",\
         \"downstream_remote_address\":\"10.88.0.5:52000\",\"requested_server_name\":null,\
         \"upstream_transport_failure_reason\":null}\n"
    );
}

#[test]
fn operators() {
    let mut record = record();
    record.grpc_status = Some(14);
    record.attempts = 3;
    record.hostname = Some("node-7");
    record.timings.response_started = Some(Duration::from_millis(2));
    record.flag(Flag::UpstreamRetryLimitExceeded);
    for (format, want) in [
        ("100%% %PROTOCOL%", "100% HTTP/1.1"),
        (
            "%REQ(USER-AGENT):4%|%REQ(NOPE?USER-AGENT):100%",
            "curl|curl/8.1",
        ),
        (
            "%START_TIME(%Y/%m/%d %H:%M:%S.%3f %s)%",
            "2026/11/23 05:07:40.849 1795410460",
        ),
        ("%START_TIME(%F %T%z)%", "2026-11-23 05:07:40+0000"),
        ("%GRPC_STATUS% %GRPC_STATUS_NUMBER%", "Unavailable 14"),
        (
            "%RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%",
            "URX UpstreamRetryLimitExceeded",
        ),
        (
            "%RESPONSE_DURATION% %RESPONSE_TX_DURATION% %REQUEST_DURATION%",
            "2 3 -",
        ),
        ("%UPSTREAM_REQUEST_ATTEMPT_COUNT%", "3"),
        (
            "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT%",
            "10.88.0.5 80",
        ),
        ("%HOSTNAME%/%VIRTUAL_CLUSTER_NAME%", "node-7/-"),
        ("%RIPSTOP_REASON%", "-"),
        ("", ""),
    ] {
        assert_eq!(
            line(&Format::text(format).unwrap(), &record),
            want,
            "{format}"
        );
    }
    let template = Template::parse("<%REQ(NOPE)%%REQ(USER-AGENT)%>").unwrap();
    assert_eq!(header_value(&template, &record), "<curl/8.1>");
    let mixed = Format::json(&[("a", "x %REQ(NOPE)% y"), ("b", "%GRPC_STATUS_NUMBER%")]).unwrap();
    assert_eq!(line(&mixed, &record), "{\"a\":\"x - y\",\"b\":14}\n");
}

#[test]
fn clients_cannot_forge_lines_or_fields() {
    static EVIL: Head = Head(&[("user-agent", "a\" \"b\\\n[2026] \u{85}\x7f é")]);
    let mut record = record();
    record.request = &EVIL;
    let format = Format::text("\"%REQ(USER-AGENT)%\"\n").unwrap();
    assert_eq!(
        line(&format, &record),
        "\"a\\x22 \\x22b\\x5C\\x0A[2026] \\xC2\\x85\\x7F é\"\n"
    );
    let json = line(
        &Format::json(&[("u", "%REQ(USER-AGENT)%"), ("v", "<%REQ(USER-AGENT)%>")]).unwrap(),
        &record,
    );
    assert_eq!(json.lines().count(), 1);
    let read: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(read["u"], "a\" \"b\\\n[2026] \u{85}\x7f é");
    assert_eq!(read["v"], "<a\" \"b\\\n[2026] \u{85}\x7f é>");
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_sink_writes_in_order_and_flushes() {
    let out = Shared::default();
    let sink = Sink::to(Box::new(out.clone()), Counter::default()).unwrap();
    sink.send(b"one\n".to_vec());
    sink.send(b"two\n".to_vec());
    assert!(sink.flush(Duration::from_secs(10)));
    assert_eq!(*out.0.lock().unwrap(), b"one\ntwo\n");
}

#[test]
fn a_stuck_sink_drops_and_counts() {
    struct Stuck(std::sync::mpsc::Receiver<()>);
    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (release, stuck) = std::sync::mpsc::sync_channel(1);
    let dropped = Counter::default();
    let sink = Sink::to(Box::new(Stuck(stuck)), dropped.clone()).unwrap();
    for _ in 0..1000 {
        sink.send(b"a\nb\n".to_vec());
    }
    assert!(dropped.read() >= 2 * (1000 - 256 - 1), "{}", dropped.read());
    drop(release);
    assert!(sink.flush(Duration::from_secs(10)));
}

#[test]
fn a_sink_appends_to_its_file() {
    let path = std::env::temp_dir().join(format!("ripstop-access-{}.log", std::process::id()));
    for _ in 0..2 {
        let sink = Sink::open(&Target::of_path(&path), Counter::default()).unwrap();
        sink.send(b"line\n".to_vec());
        assert!(sink.flush(Duration::from_secs(10)));
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"line\nline\n");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(Target::of_path("/dev/stdout".as_ref()), Target::Stdout);
}
