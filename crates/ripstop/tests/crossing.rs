//! Edge HTTP/1 → mesh HTTP/2 → application HTTP/1: what node, Python and nginx make of a request is what the policy in
//! between saw. Requests are rows; whatever their spelling, no application reads `/admin`, which the policy denies.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use ripstop_testkit::http::{Client, Response};
use ripstop_testkit::process::Guard;
use ripstop_testkit::{port, program, root, standalone, wait};

const APPS: [&str; 3] = ["node", "python", "nginx"];

struct Lab {
    edge: SocketAddr,
    _programs: Vec<Guard>,
    _folder: tempfile::TempDir,
}

impl Lab {
    fn start() -> Lab {
        let folder = tempfile::tempdir().expect("a folder");
        let held: Vec<port::Port> = (0..5).map(|_| port::reserve()).collect();
        let [edge, mesh, node, python, nginx] = [0, 1, 2, 3, 4].map(|n| held[n].addr());
        let source = root().join("crates/ripstop/tests/crossing");
        let mut programs = Vec::new();
        for (name, file, address) in [
            ("node", "app.js", node),
            ("/usr/bin/python3", "app.py", python),
        ] {
            let mut command = match name.starts_with('/') {
                true => Command::new(name),
                false => Command::new(program(name)),
            };
            command
                .arg(source.join(file))
                .arg(address.port().to_string());
            let mut app = Guard::spawn(file, &mut command);
            app.line_with("serving", wait::GENEROUS);
            programs.push(app);
        }
        let conf = folder.path().join("nginx.conf");
        let here = folder.path().display();
        let text = NGINX
            .replace("HERE", &here.to_string())
            .replace("PORT", &nginx.port().to_string());
        fs::write(&conf, text).expect("room");
        let mut command = Command::new(program("nginx"));
        programs.push(Guard::spawn(
            "nginx",
            command
                .arg("-e")
                .arg(folder.path().join("errors"))
                .arg("-c")
                .arg(&conf),
        ));
        let file = folder.path().join("bootstrap.yaml");
        let ports = [edge, mesh, node, python, nginx].map(|address| address.port());
        fs::write(&file, bootstrap(ports)).expect("room");
        let ripstop = env!("CARGO_BIN_EXE_ripstop");
        programs.push(standalone::start(&[], ripstop, &[], &file));
        wait::until_true(wait::GENEROUS, "nginx", || {
            Client::try_connect(nginx).is_ok()
        });
        Lab {
            edge,
            _programs: programs,
            _folder: folder,
        }
    }

    /// The answer of `app` to these bytes, in which `APP` stands for its name.
    fn ask(&self, app: &str, bytes: &str) -> Response {
        let mut client = Client::connect(self.edge);
        client.send(bytes.replace("APP", app).as_bytes());
        let answer = client.response();
        answer.unwrap_or_else(|error| panic!("{app}, {bytes:?}: {error}"))
    }
}

/// nginx tells its own reading, `$uri`: decoded, dots resolved, slashes merged.
const NGINX: &str = r#"
daemon off;
master_process off;
pid HERE/pid;
error_log HERE/errors;
events {}
http {
  access_log off;
  client_body_temp_path HERE/body;
  proxy_temp_path HERE/proxy;
  fastcgi_temp_path HERE/fastcgi;
  uwsgi_temp_path HERE/uwsgi;
  scgi_temp_path HERE/scgi;
  server {
    listen 127.0.0.1:PORT;
    location / {
      default_type application/json;
      return 200 '{"method":"$request_method","target":"$request_uri","read":"$uri","host":"$http_host","seen":"$http_x_seen"}';
    }
  }
}
"#;

fn manager(more: &str, filters: &str, routes: &str) -> String {
    format!(
        r#"
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: l
          {more}
          http_filters:
{filters}
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              request_headers_to_add: [{{header: {{key: x-seen, value: "%REQ(:METHOD)% %REQ(:PATH)% %REQ(:AUTHORITY)%"}}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}]
              routes:
{routes}"#
    )
}

fn bootstrap([edge, mesh, node, python, nginx]: [u16; 5]) -> String {
    const DENY: &str = r#"          - name: rbac
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules:
                action: DENY
                policies:
                  admin:
                    permissions: [{url_path: {path: {prefix: /admin, ignore_case: false}}}]
                    principals: [{any: true}]"#;
    let listener = |name: &str, port: u16| {
        format!(
            "  - name: {name}\n    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}"
        )
    };
    let apps: String = APPS
        .iter()
        .map(|app| {
            format!("              - match: {{prefix: \"\", headers: [{{name: x-app, string_match: {{exact: {app}}}}}]}}\n                route: {{cluster: {app}}}\n")
                .replace("prefix: \"\"", "safe_regex: {regex: \".*\"}")
        })
        .collect();
    let clusters: String = [("mesh", mesh, "http2_protocol_options"), ("node", node, "http_protocol_options"), ("python", python, "http_protocol_options"), ("nginx", nginx, "http_protocol_options")]
        .iter()
        .map(|(name, port, protocol)| {
            format!(
                r#"
  - name: {name}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{{protocol}: {{}}}}
    load_assignment:
      cluster_name: {name}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]"#
            )
        })
        .collect();
    let all = "              - match: {safe_regex: {regex: \".*\"}}\n                route: {cluster: mesh}\n";
    let edge =
        listener("edge", edge) + &manager("http_protocol_options: {accept_http_10: true}", "", all);
    let inner = listener("mesh", mesh)
        + &manager(
            "normalize_path: true\n          merge_slashes: true",
            DENY,
            &apps,
        );
    format!("static_resources:\n  listeners:\n{edge}\n{inner}\n  clusters:{clusters}\n")
}

/// A string of flat JSON as the applications write it.
fn told(answer: &Response, name: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
    Some(value.get(name)?.as_str()?.to_owned())
}

/// Rows: the request line's method and target, further header lines, and the body as it is framed; what it carries.
const REQUESTS: &[(&str, &str, &str, &str)] = &[
    ("GET /", "", "", ""),
    ("GET /a/b?x=1&y=%00&z=a//b/../c", "", "", ""),
    ("GET /a/./b/../c//d", "", "", ""),
    ("GET /%61%2d%7e/%C3%BC", "", "", ""),
    ("GET /a%2fb", "", "", ""),
    ("GET /a;x=1/b;y=2", "", "", ""),
    ("GET /q?/../admin", "", "", ""),
    ("GET http://other.test:8080/absolute?q", "", "", ""),
    (
        "GET /names",
        "X-Twice: 1\r\nx-twice: 2\r\nX_Under: 3\r\nEmpty:\r\n",
        "",
        "",
    ),
    (
        "GET /hops",
        "Connection: close, X-Hop, X-App\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers, gzip\r\n",
        "",
        "",
    ),
    ("GET /claims", "X-Seen: GET /forged forged.test\r\n", "", ""),
    ("GET /bytes", "X-Bytes: \u{e9}\u{fc}\r\n", "", ""),
    ("DELETE /length", "Content-Length: 0\r\n", "", ""),
    ("POST /length", "Content-Length: 0003\r\n", "abc", "abc"),
    (
        "POST /pipelined",
        "Content-Length: 30\r\n",
        "GET /admin HTTP/1.1\r\nHost: a\r\n",
        "GET /admin HTTP/1.1\r\nHost: a\r\n",
    ),
    (
        "POST /chunked",
        "Transfer-Encoding: CHUNKED\r\n",
        "3;x=\"y\"\r\nabc\r\n0002\r\nde\r\n0\r\nX-Sum: 1\r\nHost: evil\r\n\r\n",
        "abcde",
    ),
    (
        "PUT /chunked",
        "Transfer-Encoding: chunked\r\nConnection: transfer-encoding\r\n",
        "1\r\nx\r\n0\r\n\r\n",
        "x",
    ),
    (
        "OPTIONS /options",
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAA\r\n",
        "",
        "",
    ),
];

#[test]
fn what_the_application_gets_is_what_the_policy_saw() {
    let lab = Lab::start();
    for app in APPS {
        for (line, headers, body, carried) in REQUESTS {
            let bytes =
                format!("{line} HTTP/1.1\r\nHost: Shop.Test\r\nX-App: APP\r\n{headers}\r\n{body}");
            let answer = lab.ask(app, &bytes);
            if line.starts_with("GET /hops") {
                // The client named the header that leads to the application: nobody gets it.
                assert_eq!(answer.status, 404, "{app}, {line}");
                continue;
            }
            assert_eq!(answer.status, 200, "{app}, {line}: {}", answer.text());
            let told = |name| {
                told(&answer, name).unwrap_or_else(|| panic!("{app}, {line}: {}", answer.text()))
            };
            let got = format!(
                "{} {} {}",
                told("method"),
                told("target"),
                told("host").to_ascii_lowercase()
            );
            assert_eq!(got, told("seen"), "{app}, {line}");
            if app != "nginx" {
                assert_eq!(told("body"), *carried, "{app}, {line}");
            }
        }
    }
}

/// Spellings that some application reads as `/admin`.
const ADMIN: &[&str] = &[
    "/admin",
    "/admin/",
    "/admin/x",
    "//admin",
    "/./admin",
    "/x/../admin",
    "/%61dmin",
    "/%61%64%6d%69%6e",
    "/x/%2e%2e/admin",
    "/x/..%2fadmin",
    "/%2fadmin",
    "/%2e/admin",
    "/x%2f..%2fadmin",
    "/..%2fadmin",
    "/admin%2fx",
    "/admin;a=b",
    "/;/admin",
    "/x/..;/admin",
    "/x\\..\\admin",
    "/\\admin",
    "/%5cadmin",
    "/admin%00",
    "/admin%20",
    "/%c0%afadmin",
    "/admin?x",
    "/admin%3fx",
    "http://shop.test/admin",
    "http://shop.test//admin",
];

#[test]
fn no_spelling_gets_past_a_policy() {
    let lab = Lab::start();
    for app in APPS {
        for target in ADMIN {
            let bytes = format!("GET {target} HTTP/1.1\r\nHost: shop.test\r\nX-App: APP\r\n\r\n");
            let answer = lab.ask(app, &bytes);
            match answer.status {
                400 | 403 => {}
                200 => {
                    let read = told(&answer, "read").expect("a reading");
                    assert!(
                        !read.starts_with("/admin"),
                        "{app} reads {target} as {read}"
                    );
                }
                other => panic!("{app}, {target}: {other}"),
            }
        }
    }
}
