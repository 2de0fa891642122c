//! The application's word on what causes its calls → one trace across them, or none. In this process, on loopback: the test
//! is the application, and notes in the table what a hook would.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ripstop_model::seam::{Cause, Causes, Ends, Family, Producer};
use ripstop_proxy::{Options, Pending, Running, Sidecar, Sockets};
use ripstop_telemetry::Registry;
use ripstop_testkit::frames;
use ripstop_testkit::http::Client;
use ripstop_testkit::upstream::{Conversation, Request, Upstream, response};
use ripstop_testkit::wait;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const OTHER: &str = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-01";

#[derive(Default)]
struct Table(Mutex<HashMap<Ends, Cause>>);

impl Causes for Table {
    fn cause(&self, outbound: Ends) -> Option<Cause> {
        self.0.lock().unwrap().get(&outbound).copied()
    }

    fn forget(&self, outbound: Ends) {
        self.0.lock().unwrap().remove(&outbound);
    }
}

/// The application lives on this host.
struct Here;

impl Sockets for Here {
    fn stream(&self, _family: Family) -> Pending<'_, io::Result<OwnedFd>> {
        Box::pin(async {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            Ok(socket.into())
        })
    }
}

fn listener(name: &str, direction: &str, port: u16) -> String {
    format!(
        r#"
  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    traffic_direction: {direction}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          http_filters:
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            name: {name}
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{prefix: /}}
                route: {{cluster: to-{port}}}
"#
    )
}

fn bootstrap(app: u16, leaf: u16) -> String {
    let cluster = |port: u16| {
        format!(
            "  - name: to-{port}\n    type: STATIC\n    connect_timeout: 1s\n    load_assignment: {{cluster_name: to-{port}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}\n"
        )
    };
    format!(
        "static_resources:\n  listeners:{}{}  clusters:\n{}{}",
        listener("in", "INBOUND", app),
        listener("out", "OUTBOUND", leaf),
        cluster(app),
        cluster(leaf)
    )
}

fn start(text: &str, table: Arc<Table>) -> Running {
    let parsed = ripstop_wire::bootstrap::parse(text).unwrap_or_else(|error| panic!("{error}"));
    let running = ripstop_proxy::run(Options {
        workers: 2,
        snapshot: Arc::new(parsed.snapshot()),
        demand: None,
        sidecar: Some(Sidecar {
            adopted: Vec::new(),
            sockets: Arc::new(Here),
            addresses: Vec::new(),
            source: None,
            causes: Some(table),
        }),
        node: "test".into(),
        registry: Registry::new(ripstop_telemetry::metrics::Limits::default()),
        spans: None,
        workload: None,
        identity: None,
        secrets: Vec::new(),
        most: ripstop_proxy::admission::Most::UNLIMITED,
        drain_time: Duration::from_secs(5),
    })
    .expect("threads");
    assert!(running.listen_errors.is_empty());
    wait::until_true(wait::GENEROUS, "ready", || running.ready());
    running
}

/// An application behind a sidecar, and the service that it calls.
struct Scene {
    table: Arc<Table>,
    leaf: Upstream,
    _app: Upstream,
    running: Running,
    outbound: Arc<Mutex<Option<SocketAddr>>>,
}

impl Scene {
    fn new() -> Scene {
        let table = Arc::new(Table::default());
        let leaf = Upstream::always(200, "leaf");
        let outbound = Arc::new(Mutex::new(None));
        let app = Upstream::tcp({
            let (table, outbound) = (table.clone(), outbound.clone());
            move |conversation| serve(conversation, &table, &outbound)
        });
        let running = start(&bootstrap(app.port(), leaf.port()), table.clone());
        let scene = Scene {
            table,
            leaf,
            _app: app,
            running,
            outbound,
        };
        *scene.outbound.lock().unwrap() = scene.running.address("out");
        scene
    }

    fn client(&self) -> Client {
        Client::connect(self.running.address("in").expect("bound"))
    }

    /// The trace headers of the call to the leaf that carries this mark.
    fn seen(&self, mark: &str) -> Option<String> {
        let requests = self.leaf.requests();
        let call = requests.iter().find(|call| call.target().contains(mark));
        call.unwrap_or_else(|| panic!("{mark}: not called"))
            .header("traceparent")
    }

    fn count(&self, result: &str) -> i64 {
        let text = self
            .running
            .shared
            .registry
            .stats()
            .text("ripstop_trace_causes");
        let matching = text
            .lines()
            .filter(|line| line.contains(&format!("result=\"{result}\"")));
        matching
            .filter_map(|line| line.rsplit_once(": ")?.1.parse::<i64>().ok())
            .sum()
    }
}

/// What the application does with a request depends on its path: `/call` notes its cause rightly, `/before` notes what it
/// had read before this request, `/silent` notes nothing, `/own` passes a context on by itself, `/two` calls over HTTP/2.
fn serve(
    conversation: &mut Conversation,
    table: &Table,
    outbound: &Mutex<Option<SocketAddr>>,
) -> io::Result<()> {
    let mut read = 0;
    while let Some(request) = conversation.request()? {
        let before = read;
        read += (request.head.len() + request.raw_body.len()) as u64;
        call(conversation, &request, table, outbound, (before, read))?;
        for step in response(200, "done") {
            conversation.play(&step)?;
        }
    }
    Ok(())
}

fn call(
    conversation: &Conversation,
    request: &Request,
    table: &Table,
    outbound: &Mutex<Option<SocketAddr>>,
    (before, read): (u64, u64),
) -> io::Result<()> {
    let target = request.target();
    let remote = outbound.lock().unwrap().expect("known");
    let stream = TcpStream::connect(remote)?;
    let ends = Ends {
        local: stream.local_addr()?,
        remote,
    };
    let note = |received| {
        let inbound = Ends {
            local: conversation.local().expect("connected"),
            remote: conversation.peer().expect("connected"),
        };
        let cause = Cause {
            inbound,
            received,
            producer: Producer::Python,
        };
        table.0.lock().unwrap().insert(ends, cause);
    };
    let mut headers = Vec::new();
    match target.split('?').next() {
        Some("/call") => note(read),
        Some("/before") => note(before),
        Some("/own") => {
            note(read);
            headers.push(("traceparent", OTHER));
        }
        Some("/agreed") => {
            note(read);
            headers.push(("traceparent", PARENT));
        }
        Some("/two") => {
            note(read);
            let fields = [&frames::GET[..3], &[(":path", &target)]].concat();
            let mut two = frames::Connection::on(stream);
            two.send(&[frames::PREFACE, &frames::settings(&[])].concat());
            two.send(&frames::headers(1, frames::flag::END_STREAM, &fields));
            assert_eq!(two.fate(1), frames::Fate::Answered(200));
            return Ok(());
        }
        _ => {}
    }
    Client::on(stream)?.request("GET", "leaf", &target, &headers, b"")?;
    Ok(())
}

fn ask(client: &mut Client, path: &str) {
    let sent = [("traceparent", PARENT), ("x-request-id", "an-id")];
    let response = client.request("GET", "app", path, &sent, b"").unwrap();
    assert_eq!(response.text(), "done", "{path}");
}

#[test]
fn a_call_gets_the_context_of_the_request_that_caused_it_and_of_no_other() {
    let scene = Scene::new();
    let mut client = scene.client();
    ask(&mut client, "/call?1");
    assert_eq!(scene.seen("?1").as_deref(), Some(PARENT));
    let id = scene.leaf.requests()[0].header("x-request-id");
    assert_eq!(id.as_deref(), Some("an-id"));
    // On the same connection to the application: what it had read before is of the request before.
    ask(&mut client, "/before?2");
    assert_eq!(scene.seen("?2"), None);
    ask(&mut client, "/silent?3");
    assert_eq!(scene.seen("?3"), None);
    ask(&mut client, "/call?4");
    assert_eq!(scene.seen("?4").as_deref(), Some(PARENT));
    // The application's own word stands; whether it says the same is counted.
    ask(&mut client, "/own?5");
    assert_eq!(scene.seen("?5").as_deref(), Some(OTHER));
    ask(&mut client, "/agreed?6");
    assert_eq!(scene.seen("?6").as_deref(), Some(PARENT));
    let counts = ["inherited", "unknown", "agreed", "disagreed"];
    assert_eq!(counts.map(|result| scene.count(result)), [2, 2, 1, 1]);
}

#[test]
fn a_call_over_http_2_has_no_cause_whatever_is_noted() {
    let scene = Scene::new();
    let mut client = scene.client();
    ask(&mut client, "/two?1");
    let began = scene.seen("?1");
    assert!(began.is_none_or(|own| own[3..35] != PARENT[3..35]));
    assert_eq!(
        ["inherited", "unknown"].map(|result| scene.count(result)),
        [0, 1]
    );
}

#[test]
fn a_note_dies_with_its_connection() {
    let scene = Scene::new();
    ask(&mut scene.client(), "/call?1");
    wait::until_true(wait::GENEROUS, "the slot is free", || {
        scene.table.0.lock().unwrap().is_empty()
    });
}

#[test]
fn many_requests_at_once_are_told_apart() {
    let scene = Scene::new();
    let threads: Vec<_> = (0..50)
        .map(|number: u32| {
            let address = scene.running.address("in").expect("bound");
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                let parent = format!("00-{:032x}-{:016x}-01", number + 1, number + 1);
                for round in 0..4 {
                    let path = format!("/call?of={number}-{round}.");
                    let sent = [("traceparent", parent.as_str())];
                    client.request("GET", "app", &path, &sent, b"").unwrap();
                }
                parent
            })
        })
        .collect();
    let parents: Vec<String> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    for (number, parent) in parents.iter().enumerate() {
        for round in 0..4 {
            let seen = scene.seen(&format!("?of={number}-{round}."));
            assert_eq!(seen.as_ref(), Some(parent), "{number} {round}");
        }
    }
}
