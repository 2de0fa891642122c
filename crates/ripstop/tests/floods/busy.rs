//! Real clients that ask as much as they can.

use std::process::Command;

use ripstop_testkit::http::Client;
use ripstop_testkit::{port, program, root};

use super::{Lab, Turn};

/// What a program prints; it must succeed.
fn run(command: &mut Command) -> String {
    let output = command.output().expect("a program that starts");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}\n{printed}\n{errors}",
        output.status
    );
    printed
}

/// Thousands of requests over few connections, a hundred streams at a time, each window filled again and again.
#[test]
fn h2load_is_never_cut() {
    let lab = Lab::start("codec_type: AUTO");
    for (requests, path) in [("8000", "/"), ("200", "/big")] {
        let url = format!("http://{}{path}", lab.address);
        let args = ["-n", requests, "-c", "4", "-m", "100", &url];
        let printed = run(Command::new(program("h2load")).args(args));
        let wanted = format!("{requests} succeeded, 0 failed, 0 errored, 0 timeout");
        assert!(printed.contains(&wanted), "{printed}");
    }
}

/// Over HTTP/1.1: curl 7.88 mixes up its own streams when it starts many over HTTP/2 without TLS, with Envoy as well.
#[test]
fn curl_in_parallel_is_never_cut() {
    let lab = Lab::start("codec_type: AUTO");
    let url = format!("http://{}/[1-1500]", lab.address);
    let args =
        "--silent --show-error --fail --http1.1 --parallel --parallel-max 100 --output /dev/null";
    let mut curl = Command::new(program("curl"));
    curl.args(args.split(' '));
    let printed = run(curl.args(["--write-out", "%{http_code}\n", &url]));
    let fine = printed.lines().filter(|line| line.ends_with("200"));
    assert_eq!(fine.count(), 1500);
}

/// Deadlines that nobody meets and calls that are cancelled, thousands on one channel: the calls beside them succeed.
#[test]
fn grpc_that_gives_up_is_never_cut() {
    let server = port::reserve();
    let server = server.addr().port().to_string();
    let http2 = "\n    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}";
    let lab = Lab::written(Turn::shared(), &[], &[], |bootstrap, upstream| {
        bootstrap
            .replace(
                "connect_timeout: 10s",
                &format!("connect_timeout: 10s{http2}"),
            )
            .replace(&upstream.to_string(), &server)
    });
    let python = root().join(".venv/bin/python");
    let mut client = Command::new(python);
    client
        .arg(root().join("crates/ripstop/tests/floods/cancels.py"))
        .args([&server, &lab.address.port().to_string()]);
    println!("{}", run(&mut client));
    let stats = Client::connect(lab.admin)
        .get("a", "/stats?filter=http2.inbound")
        .text();
    assert!(stats.contains("http2.inbound_reset_flood: 0"), "{stats}");
}
