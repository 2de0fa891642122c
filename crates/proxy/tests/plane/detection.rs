//! Ports whose protocol nobody declared: what is HTTP is served as HTTP, held to its rules; what is not is passed on as it
//! came (R11.3).

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use ripstop_testkit::upstream::Upstream;
use ripstop_testkit::wait;

use crate::kit::{start, with_listener};

/// HTTP/1 where it is found, answered here, and a chain for everything else. `opaque`: what stands before its TCP proxy.
fn listener(opaque: &str, http: &str) -> String {
    const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";
    format!(
        r#"    listener_filters:
    - {{name: http, typed_config: {{"@type": {FILTERS}.listener.http_inspector.v3.HttpInspector}}}}
    filter_chains:
    - filter_chain_match: {{application_protocols: [http/1.1]}}
      filters:
      - name: http
        typed_config:
          "@type": {FILTERS}.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: l
{http}
          http_filters: [{{name: router, typed_config: {{"@type": {FILTERS}.http.router.v3.Router}}}}]
          route_config:
            virtual_hosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, direct_response: {{status: 418}}}}]}}]
    - filters:
{opaque}
      - {{name: tcp, typed_config: {{"@type": {FILTERS}.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: up}}}}
"#
    )
}

/// What a client is told that sends these bytes and then waits.
fn told(at: std::net::SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(wait::GENEROUS)).unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut said = Vec::new();
    // A refusal may end in a reset.
    let _end = stream.read_to_end(&mut said);
    String::from_utf8_lossy(&said).into_owned()
}

/// Says back what it heard.
fn echo() -> Upstream {
    Upstream::tcp(|conversation| {
        let mut heard = Vec::new();
        conversation.read_to_end(&mut heard)?;
        conversation.write_all(b"heard ")?;
        conversation.write_all(&heard)
    })
}

const NOT_HTTP: &[&[u8]] = &[
    b"\x00\x01\x02 binary",
    b"PING\r\n",
    b"GET /\r\n",
    b"GET / HTTP/2.0\r\n\r\n",
    b"GET / HTTP/1.7\r\n\r\n",
    b"get / HTTP/1.1\r\n\r\n",
    b"GET /a b HTTP/1.1\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\n\r\n",
    b"GET nowhere HTTP/1.1\r\n\r\n",
    b"DESCRIBE rtsp://a/ RTSP/1.0\r\n\r\n",
    b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\nwhatever",
];

/// HTTP by its first line, and in doubt about where it ends.
const MALFORMED: &[&[u8]] = &[
    b"GET / HTTP/1.1\nHost: a\n\n",
    b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\n",
];

#[test]
fn what_is_not_http_is_passed_on_as_it_came() {
    let up = echo();
    let running = start(
        &with_listener(&listener("", ""), &[("up", &[up.port()], "")]),
        1,
    );
    let at = running.address("l").unwrap();
    for bytes in NOT_HTTP {
        let heard = format!("heard {}", String::from_utf8_lossy(bytes));
        assert_eq!(told(at, bytes), heard);
    }
    let fine = told(at, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(fine.starts_with("HTTP/1.1 418 "), "{fine}");
    for bytes in MALFORMED {
        let said = told(at, bytes);
        let sent = String::from_utf8_lossy(bytes);
        assert!(said.starts_with("HTTP/1.1 400 "), "{sent:?}: {said:?}");
    }
}

/// Where policies do not let opaque bytes in, being no HTTP is no way around them; a tunnel is served where it is enabled.
#[test]
fn nothing_is_passed_on_past_a_policy() {
    let up = echo();
    let deny = r#"      - {name: rbac, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC, stat_prefix: r, rules: {action: DENY, policies: {all: {permissions: [{any: true}], principals: [{any: true}]}}}}}"#;
    let clusters: &[(&str, &[u16], &str)] = &[("up", &[up.port()], "")];
    let running = start(&with_listener(&listener(deny, ""), clusters), 1);
    let at = running.address("l").unwrap();
    for bytes in NOT_HTTP {
        let said = told(at, bytes);
        let refused = said.is_empty() || said.starts_with("HTTP/1.1 404 ");
        assert!(refused, "{said}");
    }
    assert_eq!(up.connections(), 0);
    let tunnels = "          upgrade_configs: [{upgrade_type: CONNECT}]";
    let running = start(&with_listener(&listener("", tunnels), clusters), 1);
    let said = told(
        running.address("l").unwrap(),
        b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    );
    assert!(said.starts_with("HTTP/1.1 4"), "{said}");
}
