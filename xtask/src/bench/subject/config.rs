//! The same job for every proxy → its configuration file.

use std::fmt::Write;
use std::path::Path;

use super::MESSAGE;

/// What a proxy is to do: take what comes, and pass it on to `to`.
#[derive(Clone, Copy)]
pub(super) struct Job<'f> {
    pub(super) to: u16,
    pub(super) kind: Kind,
    pub(super) tls: Tls<'f>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// By the last of so many routes, allowed by the last of so many rules.
    Http {
        routes: usize,
        rules: usize,
    },
    /// On both sides, with one route.
    Http2,
    Tcp,
}

/// Mutual TLS. Keys and certificates are in the folder.
#[derive(Clone, Copy)]
pub(super) enum Tls<'f> {
    None,
    Originate(&'f Path),
    Terminate(&'f Path),
}

/// The trust domain's names, as the mesh writes them.
pub(super) const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/client";
pub(super) const SERVER: &str = "spiffe://cluster.local/ns/default/sa/server";

/// Of what answers; more than anybody holds open.
const BACKEND_CONNECTIONS: u32 = 16_384;
/// The path that answers as gRPC does.
pub(in super::super) const UNARY: &str = "/bench.Echo/Unary";

/// For ripstop and Envoy: one listener, one cluster, and what a mesh always has on (retries, outlier detection, a check of
/// the peer's identity).
pub(super) fn bootstrap(port: u16, job: Job<'_>) -> String {
    let to = job.to;
    let http2 = job.kind == Kind::Http2;
    let (listener_tls, cluster_tls) = match job.tls {
        Tls::None => (String::new(), String::new()),
        Tls::Originate(keys) => {
            let alpn = if http2 { "h2" } else { "istio-http/1.1" };
            let common = common_tls(keys, "client", SERVER, alpn);
            let context = format!("sni: server, {common}");
            (String::new(), tls("    ", "UpstreamTlsContext", &context))
        }
        Tls::Terminate(keys) => {
            let alpn = if http2 {
                "h2"
            } else {
                "ripstop-h2, istio-http/1.1"
            };
            let context = common_tls(keys, "server", CLIENT, alpn);
            let context = format!("require_client_certificate: true, {context}");
            (
                tls("      ", "DownstreamTlsContext", &context),
                String::new(),
            )
        }
    };
    let filter = match job.kind {
        Kind::Tcp => TCP.to_owned(),
        Kind::Http { routes, rules } => manager(routes, rules),
        Kind::Http2 => manager(1, 0),
    };
    let protocol = match job.kind {
        Kind::Http { .. } => "",
        Kind::Http2 => HTTP2,
        Kind::Tcp => MANY,
    };
    format!(
        r#"
static_resources:
  listeners:
  - name: bench
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
{filter}{listener_tls}  clusters:
  - name: b
    type: STATIC
    outlier_detection: {{consecutive_5xx: 5}}
{protocol}{cluster_tls}    load_assignment:
      cluster_name: b
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {to}}}}}}}}}]}}]
"#
    )
}

const HTTP2: &str = r#"    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
"#;

/// More connections than the 1,024 that a cluster may have by default.
const MANY: &str = "    circuit_breakers: {thresholds: [{max_connections: 100000}]}\n";

const TCP: &str = r#"      - name: envoy.filters.network.tcp_proxy
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: bench, cluster: b}
"#;

fn manager(count: usize, rules: usize) -> String {
    let routes: String = (1..count)
        .map(|at| route(&format!("/route-{at}/")))
        .collect();
    let routes = routes + &route("/");
    let filters = if rules > 0 {
        rbac(rules)
    } else {
        String::new()
    };
    format!(
        r#"      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          route_config:
            virtual_hosts:
            - name: b
              domains: ["*"]
              routes:
{routes}          http_filters:
{filters}          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"#
    )
}

fn route(prefix: &str) -> String {
    format!(
        "              - {{match: {{prefix: {prefix}}}, route: {{cluster: b, retry_policy: {{retry_on: connect-failure, num_retries: 2}}}}}}\n"
    )
}

fn rbac(rules: usize) -> String {
    let mut text = String::from(
        "          - name: envoy.filters.http.rbac\n            typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC\n              rules:\n                action: ALLOW\n                policies:\n",
    );
    for at in 1..=rules {
        // The last one lets in what is sent.
        let path = match at == rules {
            true => "/".to_owned(),
            false => format!("/route-{at}/"),
        };
        // A `String` takes everything.
        let _ = writeln!(
            text,
            "                  rule-{at:03}: {{permissions: [{{and_rules: {{rules: [{{header: {{name: ':method', string_match: {{exact: GET}}}}}}, {{url_path: {{path: {{exact: {path}}}}}}}]}}}}], principals: [{{any: true}}]}}"
        );
    }
    text
}

/// The protocols are those of a mesh: two ripstops share connections.
fn common_tls(keys: &Path, own: &str, peer: &str, alpn: &str) -> String {
    let keys = keys.display();
    format!(
        "common_tls_context: {{alpn_protocols: [{alpn}], tls_certificates: [{{certificate_chain: {{filename: {keys}/{own}.pem}}, private_key: {{filename: {keys}/{own}.key}}}}], \
         validation_context: {{trusted_ca: {{filename: {keys}/ca.pem}}, match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: '{peer}'}}}}]}}}}"
    )
}

fn tls(indent: &str, kind: &str, context: &str) -> String {
    format!(
        "{indent}transport_socket: {{name: envoy.transport_sockets.tls, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}, {context}}}}}\n"
    )
}

pub(super) fn nginx(folder: &Path, port: u16, job: Job<'_>) -> String {
    let to = job.to;
    let (listen, scheme) = match job.tls {
        Tls::None => (String::new(), "http"),
        Tls::Originate(keys) => {
            let keys = keys.display();
            let own = format!(
                "proxy_ssl_certificate {keys}/client.pem; proxy_ssl_certificate_key {keys}/client.key; \
                 proxy_ssl_trusted_certificate {keys}/ca.pem; proxy_ssl_verify on; proxy_ssl_name server; \
                 proxy_ssl_protocols TLSv1.3;"
            );
            (own, "https")
        }
        Tls::Terminate(keys) => {
            let keys = keys.display();
            let own = format!(
                "ssl_certificate {keys}/server.pem; ssl_certificate_key {keys}/server.key; \
                 ssl_client_certificate {keys}/ca.pem; ssl_verify_client on; ssl_protocols TLSv1.3;"
            );
            (own, "http")
        }
    };
    let ssl = if matches!(job.tls, Tls::Terminate(_)) {
        " ssl"
    } else {
        ""
    };
    let server = format!(
        "upstream b {{ server 127.0.0.1:{to}; keepalive 64; }}\n\
         server {{ listen 127.0.0.1:{port}{ssl}; {listen} location / {{ proxy_pass {scheme}://b; proxy_http_version 1.1; \
         proxy_set_header Connection ''; }} }}"
    );
    nginx_around(folder, port, &server, 1024)
}

/// What answers: 5 bytes, 16 KiB of announced length, 16 KiB in chunks, and a gRPC message with its trailers.
pub(super) fn backend(folder: &Path, port: u16, http2: u16) -> String {
    let root = folder.display();
    let server = format!(
        "server {{ listen 127.0.0.1:{http2} http2 backlog=4096; http2_max_concurrent_streams 1024; location = / {{ return 200 'hello'; }}\n\
         root {root}; location = {UNARY} {{ error_page 404 405 =200 /{MESSAGE}; }}\n\
         location = /{MESSAGE} {{ default_type application/grpc; add_trailer grpc-status 0 always; }} }}\n\
         server {{ listen 127.0.0.1:{port} backlog=4096; root {root}; location = / {{ return 200 'hello'; }}\n\
         location = /16k {{ }} location = /chunked {{ alias {root}/16k; ssi on; ssi_types *; }} }}"
    );
    nginx_around(folder, port, &server, BACKEND_CONNECTIONS)
}

fn nginx_around(folder: &Path, port: u16, server: &str, connections: u32) -> String {
    let folder = folder.display();
    format!(
        "daemon off; master_process off; pid {folder}/nginx-{port}.pid; error_log {folder}/nginx-{port}.log;\n\
         events {{ worker_connections {connections}; }}\n\
         http {{ access_log off; keepalive_requests 1000000; keepalive_timeout 600s;\n{server} }}\n"
    )
}

pub(super) fn haproxy(port: u16, job: Job<'_>) -> String {
    let to = job.to;
    let (bind, server) = match job.tls {
        Tls::None => (String::new(), String::new()),
        Tls::Originate(keys) => {
            let keys = keys.display();
            let server = format!(
                "ssl crt {keys}/client.both ca-file {keys}/ca.pem verify required sni str(server) verifyhost server"
            );
            (String::new(), server)
        }
        Tls::Terminate(keys) => {
            let keys = keys.display();
            let bind = format!(
                "ssl crt {keys}/server.both ca-file {keys}/ca.pem verify required ssl-min-ver TLSv1.3"
            );
            (bind, String::new())
        }
    };
    let (bind, server) = match job.kind {
        Kind::Http2 => (format!("{bind} proto h2"), format!("{server} proto h2")),
        Kind::Http { .. } | Kind::Tcp => (bind, server),
    };
    let mode = match job.kind {
        Kind::Http { .. } | Kind::Http2 => "http",
        Kind::Tcp => "tcp",
    };
    format!(
        "global\n  nbthread 1\n\
         defaults\n  mode {mode}\n  timeout connect 5s\n  timeout client 600s\n  timeout server 600s\n  http-reuse always\n\
         listen bench\n  bind 127.0.0.1:{port} {bind}\n  server b 127.0.0.1:{to} {server}\n"
    )
}
