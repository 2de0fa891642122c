//! Istio's access logs, text and JSON, as a stock Envoy writes them and as ripstop does: the same bootstrap, the same
//! requests → the same lines, but for clocks and ports that the kernel chose.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use ripstop_model::defaults::{ISTIO_LOG_JSON, ISTIO_LOG_TEXT};
use ripstop_testkit::port::{self, Port};
use ripstop_testkit::process::Guard;
use ripstop_testkit::upstream::{Step, Upstream, response};
use ripstop_testkit::{http, wait};
use serde_json::{Map, Value, json};

use super::subject;

/// What Envoy writes, and what ripstop does instead, with the reason. Replaced in ripstop's lines before they are compared.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    (
        " \"\"tester\"\" ",
        " \"\\x22tester\\x22\" ",
        "what a client sends cannot end its field or its line",
    ),
    (
        "response_timeout - \"-\" 0 24 ",
        "response_timeout - \"-\" 0 49 ",
        "a refusal for a limit names the limit: ` (limit: timeout = 200ms)`",
    ),
    ("\"bytes_sent\":24,", "\"bytes_sent\":49,", "as above"),
];

/// Who may not connect is refused before the upstream is dialled, and not, as by Envoy, after its first bytes: lines about it
/// are compared as far as this.
const REFUSED: &str = "rbac_access_denied_matched_policy[ns[shop]-policy[nobody]-rule[0]]";

const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions";

/// The two logs of a program.
#[derive(Debug)]
struct Written {
    text: Vec<String>,
    json: Vec<Map<String, Value>>,
}

struct Lab {
    admin: Port,
    http: Port,
    opaque: Vec<Port>,
    dead: Port,
    up: Upstream,
    echo: Upstream,
}

impl Lab {
    fn new() -> Lab {
        Lab {
            admin: port::reserve(),
            http: port::reserve(),
            opaque: (0..4).map(|_| port::reserve()).collect(),
            dead: port::reserve(),
            up: Upstream::http(|request| match request.target().as_str() {
                "/timeout" => vec![Step::Wait(std::time::Duration::from_secs(3))],
                "/closed" => vec![Step::Close],
                "/busy" => response(503, "busy"),
                _ => response(200, "hello"),
            }),
            echo: Upstream::tcp(|conversation| {
                conversation.play(&Step::Write(b"hi".to_vec()))?;
                Ok(())
            }),
        }
    }

    fn bootstrap(&self, logs: &Path) -> String {
        let deny = |kind: &str, what: Value| {
            json!({"@type": format!("{EXTENSIONS}.filters.{kind}.rbac.v3.RBAC"), "rules": {"action": "DENY", "policies": {
                "ns[shop]-policy[nobody]-rule[0]": {"permissions": [what], "principals": [{"any": true}]}}}})
        };
        let tcp = |port: &Port, cluster: &str, denied: bool| {
            let mut filters = vec![
                json!({"name": "tcp", "typed_config": {"@type": format!("{EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy"),
                "stat_prefix": cluster, "cluster": cluster, "access_log": access_logs(logs)}}),
            ];
            if denied {
                let mut rbac = deny("network", json!({"any": true}));
                rbac["stat_prefix"] = json!("r");
                filters.insert(0, json!({"name": "rbac", "typed_config": rbac}));
            }
            json!({"name": format!("tcp-{}", port.number()), "address": address(port.number()), "filter_chains": [{"filters": filters}]})
        };
        let cluster = |name: &str, port: Option<u16>| {
            let members: Vec<Value> = port
                .iter()
                .map(|port| json!({"endpoint": {"address": address(*port)}}))
                .collect();
            json!({"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment":
                {"cluster_name": name, "endpoints": [{"lb_endpoints": members}]}})
        };
        let to = |path: &str, cluster: &str| json!({"name": path, "match": {"path": path}, "route": {"cluster": cluster}});
        let mut timed = to("/timeout", "outbound|80||up");
        timed["route"]["timeout"] = json!("0.2s");
        let mut retried = to("/busy", "outbound|80||up");
        retried["route"]["retry_policy"] = json!({"retry_on": "5xx", "num_retries": 1});
        let mut faulty = to("/abort", "outbound|80||up");
        faulty["typed_per_filter_config"] = json!({"fault": {"@type": format!("{EXTENSIONS}.filters.http.fault.v3.HTTPFault"),
            "abort": {"http_status": 418, "percentage": {"numerator": 100}}}});
        let routes = json!([
            to("/ok", "outbound|80||up"), to("/closed", "closing"), to("/denied", "outbound|80||up"),
            to("/dead", "dead"), to("/empty", "empty"), to("/gone", "gone"), timed, retried, faulty,
            {"match": {"path": "/direct"}, "direct_response": {"status": 418, "body": {"inline_string": "tea"}}},
            {"name": "away", "match": {"path": "/redirect"}, "redirect": {"path_redirect": "/ok"}},
        ]);
        let manager = json!({"@type": format!("{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "http", "access_log": access_logs(logs),
        "route_config": {"name": "r", "validate_clusters": false, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {"name": "rbac", "typed_config": deny("http", json!({"url_path": {"path": {"exact": "/denied"}}}))},
            {"name": "fault", "typed_config": {"@type": format!("{EXTENSIONS}.filters.http.fault.v3.HTTPFault")}},
            {"name": "router", "typed_config": {"@type": format!("{EXTENSIONS}.filters.http.router.v3.Router")}},
        ]});
        let [fine, refused, nobody, denied] = &self.opaque[..] else {
            unreachable!("four were reserved");
        };
        json!({
            "admin": {"address": address(self.admin.number())},
            "node": {"id": "oracle", "cluster": "oracle"},
            "static_resources": {
                "listeners": [
                    {"name": "http", "address": address(self.http.number()), "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}]},
                    tcp(fine, "echo", false), tcp(refused, "dead", false), tcp(nobody, "empty", false), tcp(denied, "echo", true),
                ],
                "clusters": [
                    cluster("outbound|80||up", Some(self.up.port())), cluster("closing", Some(self.up.port())), cluster("echo", Some(self.echo.port())),
                    cluster("dead", Some(self.dead.number())), cluster("empty", None),
                ],
            },
        })
        .to_string()
    }

    /// What both programs are asked, one after the other.
    fn ask(&self) {
        let heads = [
            "GET /ok HTTP/1.1\r\nhost: up.test\r\nuser-agent: \"tester\"\r\nx-forwarded-for: 192.0.2.7\r\n\r\n",
            "POST /ok HTTP/1.1\r\nhost: up.test\r\ncontent-length: 4\r\n\r\nbody",
            "HEAD /ok HTTP/1.1\r\nhost: up.test\r\nx-request-id: mine\r\n\r\n",
            "GET /ok HTTP/1.1\r\nhost: up.test\r\nx-envoy-original-path: /before\r\n\r\n",
            "GET /closed HTTP/1.1\r\nhost: up.test\r\n\r\n",
            "GET /denied HTTP/1.1\r\nhost: up.test\r\n\r\n",
            "GET /dead HTTP/1.1\r\nhost: up.test\r\n\r\n",
            "GET /empty HTTP/1.1\r\nhost: up.test\r\n\r\n",
            "GET /gone HTTP/1.1\r\nhost: up.test\r\n\r\n",
            "GET /timeout HTTP/1.1\r\nhost: up.test\r\n\r\n",
            "GET /busy HTTP/1.1\r\nhost: up.test\r\n\r\n",
            "GET /abort HTTP/1.1\r\nhost: up.test\r\n\r\n",
            "GET /direct HTTP/1.1\r\nhost: up.test\r\n\r\n",
            "GET /redirect HTTP/1.1\r\nhost: up.test\r\n\r\n",
            "GET /nowhere?x=1 HTTP/1.1\r\nhost: up.test\r\n\r\n",
        ];
        for head in heads {
            if head.starts_with("HEAD ") {
                head_alone(self.http.addr(), head);
                continue;
            }
            let mut client = http::Client::connect(self.http.addr());
            client.send(head.as_bytes());
            client
                .response()
                .unwrap_or_else(|error| panic!("{head}: {error}"));
        }
        for port in &self.opaque {
            let mut stream = TcpStream::connect(port.addr()).expect("it listens");
            stream
                .set_read_timeout(Some(wait::GENEROUS))
                .expect("a time");
            // Refused: whether that is heard here is a matter of time.
            let _sent = stream.write_all(b"hello");
            let _said = stream.read_to_end(&mut Vec::new());
        }
    }

    /// The logs in `folder`, masked.
    fn written(&self, folder: &Path) -> Written {
        let mut known: BTreeSet<u16> = self.opaque.iter().map(Port::number).collect();
        let fixed = [self.http.number(), self.up.port(), self.echo.port()];
        known.extend(fixed.into_iter().chain([self.dead.number()]));
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        let comparable = |line: &str| {
            let line = masked(line, &known);
            match line.find(REFUSED) {
                Some(at) if line.contains("\"- - -\"") => line[..at + REFUSED.len()].to_owned(),
                _ => line,
            }
        };
        let mut text: Vec<String> = read("text").lines().map(comparable).collect();
        text.sort();
        let json = read("json");
        let mut json: Vec<Map<String, Value>> = json
            .lines()
            .map(|line| {
                let mut line: Map<String, Value> = serde_json::from_str(line).expect("JSON");
                for (key, value) in &mut line {
                    mask(key, value, &known);
                }
                line
            })
            // Told of by the text already.
            .filter(|line| line["connection_termination_details"].is_null())
            .collect();
        json.sort_by_key(|line| serde_json::to_string(line).expect("JSON"));
        Written { text, json }
    }
}

/// The answer to HEAD has no body, whatever it says of its length.
fn head_alone(at: SocketAddr, head: &str) {
    let mut stream = TcpStream::connect(at).expect("it listens");
    stream.write_all(head.as_bytes()).expect("it reads");
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head");
        said.extend(byte);
    }
}

fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

fn access_logs(folder: &Path) -> Value {
    let file = |name: &str, format: Value| {
        json!({"name": "file", "typed_config": {"@type": format!("{EXTENSIONS}.access_loggers.file.v3.FileAccessLog"),
            "path": folder.join(name), "log_format": format}})
    };
    let fields: Map<String, Value> = ISTIO_LOG_JSON
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(value)))
        .collect();
    json!([
        file(
            "text",
            json!({"text_format_source": {"inline_string": ISTIO_LOG_TEXT}})
        ),
        file("json", json!({"json_format": fields})),
    ])
}

/// A line of [`ISTIO_LOG_TEXT`] without what no two runs share.
fn masked(line: &str, known: &BTreeSet<u16>) -> String {
    let mut tokens: Vec<String> = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        quoted ^= c == '"';
        match c {
            ' ' if !quoted => tokens.push(String::new()),
            c => tokens.last_mut().expect("never empty").push(c),
        }
    }
    const START: usize = 0;
    const TIMES: [usize; 2] = [9, 10];
    for (at, token) in tokens.iter_mut().enumerate() {
        if at == START && token.len() == "[2026-01-01T00:00:00.000Z]".len() {
            *token = "[time]".to_owned();
        } else if TIMES.contains(&at) && token.parse::<u64>().is_ok() {
            *token = "ms".to_owned();
        } else {
            *token = without_chance(token, known);
        }
    }
    tokens.join(" ")
}

fn mask(key: &str, value: &mut Value, known: &BTreeSet<u16>) {
    match (key, &*value) {
        ("start_time", Value::String(at)) if at.len() == "2026-01-01T00:00:00.000Z".len() => {
            *value = json!("time");
        }
        ("duration", Value::Number(_)) => *value = json!(0),
        ("upstream_service_time", Value::String(ms)) if ms.parse::<u64>().is_ok() => {
            *value = json!("ms");
        }
        (_, Value::String(text)) => *value = json!(without_chance(text, known)),
        _ => {}
    }
}

/// Ports of the kernel's choice, and random request ids.
fn without_chance(token: &str, known: &BTreeSet<u16>) -> String {
    let plain = token.trim_matches('"');
    if let Ok(address) = plain.parse::<SocketAddr>()
        && !known.contains(&address.port())
    {
        return token.replace(&format!(":{}", address.port()), ":port");
    }
    if plain.len() == 36 && plain.matches('-').count() == 4 {
        return token.replace(plain, "uuid");
    }
    token.to_owned()
}

/// Plays both; what differs and may not.
pub(crate) fn compare() -> String {
    let lab = Lab::new();
    let of_envoy = tempfile::tempdir().expect("a folder");
    let of_ripstop = tempfile::tempdir().expect("a folder");
    let envoy = subject::envoy(&lab.bootstrap(of_envoy.path()), lab.admin.addr());
    lab.ask();
    // Both write their last lines when they end.
    drop(envoy);
    let file = of_ripstop.path().join("bootstrap.json");
    std::fs::write(&file, lab.bootstrap(of_ripstop.path())).expect("room");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ripstop"));
    command.args([
        "proxy",
        "--workers",
        "1",
        "--drain-time",
        "1",
        "--bootstrap",
    ]);
    let mut ripstop = Guard::spawn("ripstop", command.arg(&file));
    wait::until_true(wait::GENEROUS, "ripstop", || {
        http::get(lab.admin.addr(), "admin", "/ready").is_ok_and(|ready| ready.status == 200)
    });
    lab.ask();
    ripstop.terminate(wait::GENEROUS);
    let (envoy, ripstop) = (lab.written(of_envoy.path()), lab.written(of_ripstop.path()));
    let allowed = |line: &str| {
        let replaced = DIFFERENCES.iter();
        replaced.fold(line.to_owned(), |line, (theirs, ours, _)| {
            line.replace(ours, theirs)
        })
    };
    let text: Vec<String> = ripstop.text.iter().map(|line| allowed(line)).collect();
    let mut wrong = differing("text", &envoy.text, &text);
    let flat = |lines: &[Map<String, Value>]| -> Vec<String> {
        let mut flat: Vec<String> = lines
            .iter()
            .map(|line| allowed(&serde_json::to_string(line).expect("JSON")))
            .collect();
        flat.sort();
        flat
    };
    wrong.push_str(&differing("JSON", &flat(&envoy.json), &flat(&ripstop.json)));
    assert!(envoy.text.len() > 15, "{:?}", envoy.text);
    wrong
}

fn differing(what: &str, envoy: &[String], ripstop: &[String]) -> String {
    let mut sorted = ripstop.to_vec();
    sorted.sort();
    let mut envoy = envoy.to_vec();
    envoy.sort();
    let mut wrong = String::new();
    for line in &envoy {
        if !sorted.contains(line) {
            wrong.push_str(&format!("{what}, only Envoy:   {line}\n"));
        }
    }
    for line in &sorted {
        if !envoy.contains(line) {
            wrong.push_str(&format!("{what}, only ripstop: {line}\n"));
        }
    }
    if envoy.len() != sorted.len() {
        wrong.push_str(&format!(
            "{what}: {} and {} lines\n",
            envoy.len(),
            sorted.len()
        ));
    }
    wrong
}
