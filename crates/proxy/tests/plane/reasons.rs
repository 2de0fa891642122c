//! Every response that the proxy itself makes says why, to the client and in the access log, and names the resource
//! that decided. The table walks the whole of [`Reason::ALL`]: a new reason needs a row, or a place in [`ELSEWHERE`].

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use ripstop_model::reason::Reason;
use ripstop_model::snapshot::http::RouteSource;
use ripstop_proxy::Running;
use ripstop_testkit::http::Client;
use ripstop_testkit::upstream::{Step, Upstream, response};
use ripstop_testkit::wait;

use crate::kit::{H2Server, Reply, bootstrap, edit, options, serve, start};

/// Reasons that end connections rather than requests, or that need a mesh: shown by other tests.
const ELSEWHERE: &[(Reason, &str)] = &[
    (
        Reason::FloodControl,
        "floods end HTTP/2 connections: shown in `floods`",
    ),
    (Reason::FloodEmpty, "as above"),
    (Reason::FloodPriority, "as above"),
    (Reason::FloodWindowUpdate, "as above"),
    (Reason::FloodReset, "as above"),
    (Reason::FloodHead, "as above"),
    (Reason::FloodCodec, "as above"),
    (Reason::FloodSlowHead, "as above"),
    (Reason::UpstreamInterimFlood, "as above"),
    (Reason::TlsHandshakeTimeout, "as above"),
    (
        Reason::ListenerNotFound,
        "a connection without a chain is closed",
    ),
    (
        Reason::MtlsRequired,
        "plain text to a STRICT port is closed",
    ),
    (
        Reason::NotRegistered,
        "shown with a mesh whose Sidecar keeps it in, in the tests of `protocols`",
    ),
    (Reason::MaxConnectionDuration, "ends opaque connections"),
    (
        Reason::UpstreamReset,
        "an HTTP/2 server resets a stream: shown in `http2`",
    ),
    (
        Reason::CircuitOpenConnections,
        "refuses opaque connections; requests wait",
    ),
    (
        Reason::DnsFailure,
        "says which name was not found, where it is dialled by name",
    ),
    (
        Reason::TlsUntrusted,
        "shown with certificates, in the tests of `tls`",
    ),
    (
        Reason::DiscoveryTimeout,
        "shown with a control plane, in the tests of `refusal`",
    ),
    (
        Reason::ServiceUnknown,
        "shown with a control plane, in the tests of `refusal`",
    ),
];

/// What refusals for a limit say of it: its field and its value.
const LIMITS: &[(Reason, &str)] = &[
    (
        Reason::RequestHeadTooLarge,
        "max_request_headers_kb = 60 KiB",
    ),
    (Reason::TooManyRequestHeaders, "max_headers_count = 100"),
    (
        Reason::RequestHeadTimeout,
        "request_headers_timeout = 500ms",
    ),
    (Reason::RequestTimeout, "request_timeout = 700ms"),
    (Reason::RequestIdle, "idle_timeout = 200ms"),
    (Reason::StreamIdle, "idle_timeout = 200ms"),
    (Reason::MaxStreamDuration, "max_stream_duration = 200ms"),
    (Reason::UpstreamTimeout, "timeout = 200ms"),
    (Reason::PerTryTimeout, "per_try_timeout = 200ms"),
    (Reason::PerTryIdleTimeout, "per_try_idle_timeout = 200ms"),
    (Reason::ConnectTimeout, "connect_timeout = 300ms"),
    (Reason::CircuitOpenRequests, "max_requests = 0"),
    (Reason::CircuitOpenPending, "max_pending_requests = 0"),
    (Reason::UpstreamHeadTooLarge, "a response's head = 64 KiB"),
];

/// What is sent, and what comes of it: reason, status (0: none is given), response flags.
struct Row {
    sent: Vec<u8>,
    reason: Reason,
    status: u16,
    flags: &'static str,
    /// The log names the route's resource.
    by_route: bool,
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n\r\n").into_bytes()
}

fn raw(text: impl Into<String>) -> Vec<u8> {
    text.into().into_bytes()
}

fn row(sent: Vec<u8>, reason: Reason, status: u16, flags: &'static str) -> Row {
    Row {
        sent,
        reason,
        status,
        flags,
        by_route: false,
    }
}

fn routed(path: &str, reason: Reason, status: u16, flags: &'static str) -> Row {
    Row {
        by_route: true,
        ..row(get(path), reason, status, flags)
    }
}

/// Refused before there is a request.
fn malformed() -> Vec<Row> {
    use Reason::*;
    let many: String = (0..300).map(|n| format!("x-{n}: 1\r\n")).collect();
    let long = "x".repeat(70 * 1024);
    let head = "GET / HTTP/1.1\r\nhost: a.test\r\n";
    vec![
        row(
            raw(format!("{head}bad header: 1\r\n\r\n")),
            BadRequest,
            400,
            "DPE",
        ),
        row(get("/%00"), BadPath, 400, "DPE"),
        row(
            raw(format!("{head}host: b\r\n\r\n")),
            BadAuthority,
            400,
            "DPE",
        ),
        row(raw("GET / HTTP/1.1\r\n\r\n"), MissingHost, 400, "DPE"),
        row(
            raw(format!("{head}x: {long}\r\n\r\n")),
            RequestHeadTooLarge,
            431,
            "DPE",
        ),
        row(
            raw(format!("{head}{many}\r\n")),
            TooManyRequestHeaders,
            431,
            "DPE",
        ),
        row(
            raw("GET / HTTP/2.0\r\n\r\n"),
            UnsupportedVersion,
            426,
            "DPE",
        ),
        row(
            raw("TRACE / HTTP/1.1\r\nhost: a\r\n\r\n"),
            MethodNotAllowed,
            405,
            "-",
        ),
        row(
            raw(format!("{head}expect: tea\r\n\r\n")),
            ExpectationFailed,
            417,
            "DPE",
        ),
        row(raw(head), RequestHeadTimeout, 408, "DPE"),
    ]
}

/// Decided by a route, a policy, a limit.
fn decided() -> Vec<Row> {
    use Reason::*;
    let head = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n");
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let preflight = "OPTIONS /cors HTTP/1.1\r\nhost: a.test\r\norigin: http://good.test\r\naccess-control-request-method: PUT\r\n\r\n";
    vec![
        row(get("/elsewhere"), RouteNotFound, 404, "NR"),
        row(
            raw(format!("{}{upgrade}", head("/ws"))),
            UpgradeNotAllowed,
            403,
            "-",
        ),
        row(
            raw(format!("{}x-to: nobody\r\n\r\n", head("/by-header"))),
            ClusterNotFound,
            503,
            "NC",
        ),
        row(
            raw("GET / HTTP/1.1\r\nhost: tls.test\r\n\r\n"),
            TlsRequired,
            301,
            "-",
        ),
        row(get("/denied"), AuthzDenied, 403, "-"),
        row(get("/unlisted"), AuthzNotAllowed, 403, "-"),
        row(raw(preflight), PreflightAnswered, 200, "-"),
        routed("/direct", DirectResponse, 418, "-"),
        routed("/redirect", Redirected, 301, "-"),
        routed("/abort", FaultAbort, 418, "FI"),
        routed("/full", CircuitOpenRequests, 503, "UO"),
        routed("/pending", CircuitOpenPending, 503, "UO"),
        row(
            raw("POST /up/fine HTTP/1.1\r\nhost: a.test\r\ncontent-length: 9\r\n\r\nhalf"),
            RequestTimeout,
            408,
            "-",
        ),
    ]
}

/// The upstream's doing.
fn failed() -> Vec<Row> {
    use Reason::*;
    vec![
        routed("/empty", NoEndpoint, 503, "UH"),
        routed("/unhealthy", NoHealthyEndpoint, 503, "UH"),
        routed("/dead", ConnectFailure, 503, "UF"),
        routed("/blackhole", ConnectTimeout, 503, "UF"),
        routed("/tls", TlsFailure, 503, "UF"),
        routed("/up/reset", UpstreamClosed, 503, "UC"),
        routed("/up/close", UpstreamClosed, 503, "UC"),
        routed("/up/nonsense", UpstreamProtocol, 502, "UPE"),
        routed("/up/large", UpstreamHeadTooLarge, 502, "UPE"),
        routed("/h2/refused", UpstreamRefusedStream, 503, "UR"),
        routed("/timeout/slow", UpstreamTimeout, 504, "UT"),
        routed("/try/slow", PerTryTimeout, 504, "UT"),
        routed("/stalled/slow", PerTryIdleTimeout, 504, "UT"),
        routed("/idle/slow", StreamIdle, 504, "SI"),
        row(
            raw("POST /idle/slow HTTP/1.1\r\nhost: a.test\r\ncontent-length: 9\r\n\r\nhalf"),
            RequestIdle,
            408,
            "SI",
        ),
        routed("/stream/slow", MaxStreamDuration, 504, "UMSDR"),
        routed("/up/half", UpstreamClosedMidResponse, 0, "UC"),
    ]
}

fn behave(path: &str) -> Vec<Step> {
    let write = |text: &str| Step::Write(text.as_bytes().to_vec());
    match path.rsplit('/').next().unwrap_or_default() {
        "reset" => vec![Step::Reset],
        "close" => vec![Step::Close],
        "nonsense" => vec![write("HTTP/1.1 banana\r\n\r\n"), Step::Close],
        "large" => vec![write(&format!(
            "HTTP/1.1 200 OK\r\nx: {}\r\n\r\n",
            "x".repeat(70 * 1024)
        ))],
        "slow" => vec![Step::Wait(Duration::from_secs(3))],
        "half" => vec![
            write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"),
            Step::Wait(Duration::from_millis(100)),
            Step::Close,
        ],
        _ => response(200, ""),
    }
}

const ROUTES: &str = r#"
              - {match: {path: /direct}, direct_response: {status: 418}}
              - {match: {path: /redirect}, redirect: {path_redirect: /}}
              - {match: {path: /ws}, route: {cluster: up, upgrade_configs: [{upgrade_type: websocket, enabled: false}]}}
              - {match: {path: /by-header}, route: {cluster_header: x-to}}
              - {match: {path: /abort}, route: {cluster: up}, typed_per_filter_config: {fault: {"@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, abort: {http_status: 418, percentage: {numerator: 100}}}}}
              - {match: {path: /cors}, route: {cluster: up}, typed_per_filter_config: {cors: {"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy, allow_origin_string_match: [{exact: "http://good.test"}]}}}
              - {match: {prefix: /timeout}, route: {cluster: up, timeout: 0.2s}}
              - {match: {prefix: /try}, route: {cluster: up, retry_policy: {per_try_timeout: 0.2s}}}
              - {match: {prefix: /stalled}, route: {cluster: up, retry_policy: {per_try_idle_timeout: 0.2s}}}
              - {match: {prefix: /idle}, route: {cluster: up, idle_timeout: 0.2s}}
              - {match: {prefix: /stream}, route: {cluster: up, max_stream_duration: {max_stream_duration: 0.2s}}}
              - {match: {prefix: /unlisted}, route: {cluster: up}}
"#;

/// Filters before the router: two RBAC filters, faults, CORS.
const FILTERS: &str = r#"
          - {name: deny, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, rules: {action: DENY, policies: {none: {permissions: [{url_path: {path: {exact: /denied}}}], principals: [{any: true}]}}}}}
          - {name: allow, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, rules: {action: ALLOW, policies: {most: {permissions: [{not_rule: {url_path: {path: {exact: /unlisted}}}}], principals: [{any: true}]}}}}}
          - {name: fault, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault}}
          - {name: cors, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}}
          - name: router
"#;

const TLS: &str = "    transport_socket: {name: tls, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext}}\n";
const H2: &str = "    typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}\n";

/// The upstreams, the proxy before them, and its log.
struct Lab {
    running: Running,
    log: PathBuf,
    _folder: tempfile::TempDir,
    _up: Upstream,
    _speechless: Upstream,
    _h2: H2Server,
    _dead: ripstop_testkit::port::Port,
    _full: (socket2::Socket, Vec<TcpStream>),
}

impl Lab {
    fn start() -> Lab {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("access.log");
        let up = Upstream::http(|request| behave(&request.target()));
        let h2 = H2Server::start(|_, _| Reply::reset(h2::Reason::REFUSED_STREAM));
        let speechless = Upstream::tcp(|conversation| {
            conversation.play(&Step::Write(b"no TLS here".to_vec()))?;
            Ok(())
        });
        let dead = ripstop_testkit::port::reserve();
        let full = full_listener();
        let full_port = full.0.local_addr().unwrap().as_socket().unwrap().port();
        let limit = |what: &str| format!("    circuit_breakers: {{thresholds: [{{{what}: 0}}]}}\n");
        let (requests, pending) = (limit("max_requests"), limit("max_pending_requests"));
        let ports = [up.port()];
        let clusters: Vec<(&str, &[u16], &str)> = vec![
            ("up", &ports, ""),
            ("empty", &[], ""),
            (
                "unhealthy",
                &[9],
                "    common_lb_config: {healthy_panic_threshold: {value: 0}}\n",
            ),
            ("full", &ports, &requests),
            ("pending", &ports, &pending),
        ];
        let (dead_port, h2_port, full_ports) = ([dead.number()], [h2.port()], [full_port]);
        let plain_ports = [speechless.port()];
        let mut clusters = clusters;
        clusters.push(("dead", &dead_port, ""));
        clusters.push(("blackhole", &full_ports, ""));
        clusters.push(("h2", &h2_port, H2));
        clusters.push(("tls", &plain_ports, TLS));
        let hcm = format!(
            "          request_headers_timeout: 0.5s\n          request_timeout: 0.7s\n          upgrade_configs: [{{upgrade_type: websocket}}]\n          access_log: [{{name: file, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {}, log_format: {{text_format_source: {{inline_string: \"%RIPSTOP_REASON% %RESPONSE_CODE% %RESPONSE_FLAGS% %RIPSTOP_RESOURCE% %RESPONSE_CODE_DETAILS% %REQ(:METHOD)% %REQ(:AUTHORITY)%\\n\"}}}}}}}}]",
            log.display()
        );
        let names = clusters.iter().map(|(name, ..)| *name);
        let own: String = names
            .map(|name| {
                format!(
                    "              - {{match: {{prefix: /{name}}}, route: {{cluster: {name}}}}}\n"
                )
            })
            .collect();
        let routes = format!("{}{own}", ROUTES.trim_start_matches('\n')).replace(
            "- {match",
            "- {metadata: {filter_metadata: {istio: {config: /apis/networking.istio.io/v1/namespaces/default/virtual-service/shop}}}, match",
        );
        let text = bootstrap(&hcm, &routes, &clusters)
            .replace("          - name: router\n", FILTERS.trim_start_matches('\n'))
            .replace(
                "            - name: all\n",
                "            - {name: tls, domains: [tls.test], require_tls: ALL, routes: [{match: {prefix: /}, route: {cluster: up}}]}\n            - name: all\n",
            )
            .replace(
                "port_value: 9}}}\n",
                "port_value: 9}}}\n            health_status: UNHEALTHY\n",
            )
            .replace("connect_timeout: 1s", "connect_timeout: 0.3s");
        Lab {
            running: start(&text, 1),
            log,
            _folder: folder,
            _up: up,
            _speechless: speechless,
            _h2: h2,
            _dead: dead,
            _full: full,
        }
    }

    /// The line of the log that begins so, once it is there.
    #[track_caller]
    fn line(&self, start: &str) -> String {
        wait::until(wait::GENEROUS, start, || {
            let text = std::fs::read_to_string(&self.log).ok()?;
            text.lines()
                .find(|line| line.starts_with(start))
                .map(str::to_owned)
        })
    }

    fn client(&self) -> Client {
        Client::connect(self.running.address("l").unwrap())
    }
}

/// A listener whose queue is full: who dials it waits.
fn full_listener() -> (socket2::Socket, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut held = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        held.push(stream);
    }
    (socket, held)
}

#[test]
fn every_reason_is_told_and_logged() {
    let lab = Lab::start();
    let mut seen: BTreeSet<&str> = ELSEWHERE
        .iter()
        .map(|(reason, _)| reason.as_str())
        .collect();
    let rows: Vec<Row> = malformed()
        .into_iter()
        .chain(decided())
        .chain(failed())
        .collect();
    for row in &rows {
        let mut client = lab.client();
        client.send(&row.sent);
        match (row.status, client.response()) {
            (0, answer) => assert!(answer.is_err(), "{}", row.reason),
            (status, answer) => {
                let answer = answer.unwrap_or_else(|error| panic!("{}: {error}", row.reason));
                let told = answer.header("x-ripstop-reason");
                assert_eq!((told, answer.status), (Some(row.reason.as_str()), status));
                let limit = LIMITS.iter().find(|(reason, _)| *reason == row.reason);
                let said = limit.map(|(_, limit)| format!(" (limit: {limit})"));
                let ends = |said: String| answer.text().ends_with(&said);
                assert!(
                    said.map_or(!answer.text().contains("(limit: "), ends),
                    "{}: {:?}",
                    row.reason,
                    answer.text()
                );
            }
        }
    }
    // Lines are written about once a second.
    let unmatched = lab.line("route_not_found 404 NR VirtualService/default/shop ");
    assert!(unmatched.ends_with(" GET a.test"), "{unmatched}");
    let unread = lab.line("bad_request 400 ");
    assert!(unread.ends_with(" - -"), "{unread}");
    for row in &rows {
        let code = match row.reason {
            // The head had gone out.
            Reason::UpstreamClosedMidResponse => 200,
            _ => row.status,
        };
        let line = lab.line(&format!("{} {code} {} ", row.reason, row.flags));
        let details = line.split(' ').nth(4).unwrap_or_default();
        if row.by_route {
            assert!(line.contains(" VirtualService/default/shop "), "{line}");
            assert!(details.ends_with("[VirtualService/default/shop]"), "{line}");
        }
        assert!(
            details.starts_with(row.reason.details().trim_end_matches('}')),
            "{line}"
        );
        seen.insert(row.reason.as_str());
    }
    seen.insert(a_client_leaves(&lab).as_str());
    seen.insert(a_pooled_connection_ends(&lab).as_str());
    seen.insert(routes_have_not_come().as_str());
    seen.insert(nobody_connects().as_str());
    for reason in Reason::ALL {
        assert!(seen.contains(reason.as_str()), "no row shows {reason}");
    }
}

fn a_client_leaves(lab: &Lab) -> Reason {
    let mut client = lab.client();
    client.send(&get("/up/slow"));
    wait::until_true(wait::GENEROUS, "the request", || {
        lab._up
            .requests()
            .iter()
            .any(|seen| seen.target() == "/up/slow")
    });
    drop(client);
    lab.line("downstream_closed 0 DC VirtualService/default/shop ");
    Reason::DownstreamClosed
}

/// Not sent again, as it may have been processed.
fn a_pooled_connection_ends(lab: &Lab) -> Reason {
    let mut client = lab.client();
    assert_eq!(client.get("a.test", "/up/fine").status, 200);
    let response = client
        .request("POST", "a.test", "/up/close", &[], b"x")
        .unwrap();
    assert_eq!(
        (response.header("x-ripstop-reason"), response.status),
        (Some("upstream_closed_reused_connection"), 503)
    );
    lab.line("upstream_closed_reused_connection 503 UC VirtualService/default/shop ");
    Reason::UpstreamClosedReused
}

/// The listener is there, its route configuration is not.
fn routes_have_not_come() -> Reason {
    let mut options = options(&bootstrap("", crate::kit::TO_A, &[("a", &[9], "")]), 1);
    edit(&mut options.snapshot, |proxy| {
        proxy.routes = RouteSource::Named("later".into());
    });
    let running = serve(options);
    let response = Client::connect(running.address("l").unwrap()).get("a", "/");
    assert_eq!(
        (response.header("x-ripstop-reason"), response.status),
        (Some("route_config_missing"), 404)
    );
    Reason::RouteConfigMissing
}

/// Where no route is for it.
fn nobody_connects() -> Reason {
    let running = start(&bootstrap("", crate::kit::TO_A, &[("a", &[9], "")]), 1);
    let mut client = Client::connect(running.address("l").unwrap());
    client.send(b"CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n");
    let response = client.response().unwrap();
    assert_eq!(
        (response.header("x-ripstop-reason"), response.status),
        (Some("connect_not_allowed"), 404)
    );
    Reason::ConnectNotAllowed
}

/// Opaque connections are told nothing; the log says all.
#[test]
fn opaque_connections_that_go_nowhere_are_logged() {
    let folder = tempfile::tempdir().unwrap();
    let up = Upstream::tcp(|_| Ok(()));
    let dead = ripstop_testkit::port::reserve();
    let (some, none, closed) = ([up.port()], [], [dead.number()]);
    let full = "    circuit_breakers: {thresholds: [{max_connections: 0}]}\n";
    let deny = "      - {name: deny, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC, stat_prefix: r, rules: {action: DENY, policies: {\"ns[shop]-policy[nobody]-rule[0]\": {permissions: [{any: true}], principals: [{any: true}]}}}}}\n";
    let cases: [(&str, &[u16], &str, &str, &str); 5] = [
        (
            "",
            &none,
            "",
            "no_endpoint UH",
            "ServiceEntry/shop/up no_healthy_upstream[ServiceEntry/shop/up]",
        ),
        (
            "",
            &some,
            full,
            "circuit_open:max_connections UO",
            "ServiceEntry/shop/up upstream_reset_before_response_started{overflow}[ServiceEntry/shop/up]",
        ),
        (
            "",
            &closed,
            "",
            "connect_failure UF,URX",
            "ServiceEntry/shop/up upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}[ServiceEntry/shop/up]",
        ),
        (
            deny,
            &some,
            "",
            "authz_denied -",
            "AuthorizationPolicy/shop/nobody#rules[0] rbac_access_denied_matched_policy[ns[shop]-policy[nobody]-rule[0]]",
        ),
        (
            &deny.replace("DENY", "ALLOW").replace(
                "principals: [{any: true}]",
                "principals: [{not_id: {any: true}}]",
            ),
            &some,
            "",
            "authz_not_allowed -",
            "- rbac_access_denied_matched_policy[none]",
        ),
    ];
    for (index, (filters, ports, settings, told, decided)) in cases.into_iter().enumerate() {
        let log = folder.path().join(index.to_string());
        let chain = format!(
            "    filter_chains:\n    - metadata: {{filter_metadata: {{istio: {{config: /apis/networking.istio.io/v1/namespaces/shop/service-entry/up}}}}}}\n      filters:\n{filters}      - {{name: tcp, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: a, access_log: [{{name: file, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {}, log_format: {{text_format_source: {{inline_string: \"%RIPSTOP_REASON% %RESPONSE_FLAGS% %RIPSTOP_RESOURCE% %CONNECTION_TERMINATION_DETAILS%\\n\"}}}}}}}}]}}}}\n",
            log.display()
        );
        let text = crate::kit::with_listener(&chain, &[("a", ports, settings)]);
        let running = start(&text, 1);
        let mut client = TcpStream::connect(running.address("l").unwrap()).unwrap();
        client.set_read_timeout(Some(wait::GENEROUS)).unwrap();
        let ended = std::io::Read::read(&mut client, &mut [0; 8]);
        assert!(!matches!(ended, Ok(n) if n > 0), "{told}: {ended:?}");
        // Its last lines are written when a proxy ends.
        running.stop();
        let line = std::fs::read_to_string(&log).unwrap();
        assert_eq!(line, format!("{told} {decided}\n"));
    }
}
