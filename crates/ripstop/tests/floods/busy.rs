//! Real clients that ask as much as they can.

use std::process::Command;

use ripstop_testkit::program;

use super::Lab;

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
