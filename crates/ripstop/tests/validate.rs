//! `ripstop proxy --mode validate`: a bootstrap in → 0, or every problem that it has with its place.

use std::process::{Command, Output};

const VALID: &str = r#"
static_resources:
  clusters:
  - name: up
    connect_timeout: 1s
    load_assignment:
      cluster_name: up
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9}}}}]}]
"#;

#[test]
fn a_valid_bootstrap_is_valid() {
    let output = validate(VALID);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.trim_end().ends_with(": valid"), "{said}");
}

#[test]
fn every_problem_is_listed_with_its_place() {
    let output = validate(
        r#"
static_resources:
  clusters:
  - name: up
    connect_timeout: soon
    preconnect_policy: {per_upstream_preconnect_ratio: 2}
    no_such_field: 1
  - name: up
    lb_policy: NONE_SUCH
  listeners:
  - address: {socket_address: {address: nowhere, port_value: 99999}}
    filter_chains:
    - filters:
      - name: odd
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy}
"#,
    );
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    for (place, about) in [
        ("bootstrap.yaml:5:", "connect_timeout"),
        ("bootstrap.yaml:6:", "preconnect_policy"),
        ("bootstrap.yaml:7:", "no_such_field"),
        ("bootstrap.yaml:9:", "lb_policy"),
        ("bootstrap.yaml:11:", "port_value"),
        ("bootstrap.yaml:15:", "RedisProxy"),
    ] {
        let line = said.lines().find(|line| line.contains(about));
        let line = line.unwrap_or_else(|| panic!("nothing about {about}:\n{said}"));
        assert!(line.contains(place), "{about} is not at {place}:\n{said}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output = run("/no/such/bootstrap.yaml");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("cannot read /no/such/bootstrap.yaml"),
        "{said}"
    );
}

fn validate(bootstrap: &str) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bootstrap.yaml");
    std::fs::write(&path, bootstrap).expect("room for the bootstrap");
    run(path.to_str().expect("a plain path"))
}

fn run(path: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ripstop"))
        .args(["proxy", "--mode", "validate", "--bootstrap", path])
        .output()
        .expect("ripstop runs")
}
