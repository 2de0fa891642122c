//! Sidecars that are killed between requests → what they knew is gone, what the application notes finds the next ones: calls
//! are attributed again, and none wrongly.

use std::fs;
use std::process::Command;

use ripstop_testkit::http;
use ripstop_testkit::otlp::{Collector, Span};
use ripstop_testkit::port::reserve;
use ripstop_testkit::process::{Guard, alive, below, signal_pid};
use ripstop_testkit::wait::{until_true, within};

use super::PATIENCE;

const MESH: &str = r#"
apiVersion: ripstop.dev/v1alpha1
kind: Mesh
metadata: {name: restart}
spec:
  tracing: {otlp: "COLLECTOR"}
  services:
  - name: ruby
    ports: [{name: http, port: 80, targetPort: 8080, publish: "PUBLISHED"}]
    workloads: [{name: ruby, command: [ruby, ruby.rb]}]
  - name: leaf
    ports: [{name: http, port: 80, targetPort: 8080}]
    workloads: [{name: leaf, command: [python3, leaf.py]}]
"#;

#[test]
fn a_restarted_sidecar_attributes_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (collector, port) = (Collector::start(), reserve());
    let source = ripstop_testkit::root().join("crates/ripstop/tests/trace");
    for file in ["ruby.rb", "leaf.py"] {
        fs::copy(source.join(file), folder.path().join(file)).expect("the test's own file");
    }
    let mesh = MESH
        .replace("COLLECTOR", &collector.endpoint())
        .replace("PUBLISHED", &port.addr().to_string());
    fs::write(folder.path().join("mesh.yaml"), mesh).expect("a writable folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ripstop"));
    command.arg("up").arg(folder.path().join("mesh.yaml"));
    command.arg("--state").arg(folder.path().join("state"));
    let mut mesh = Guard::spawn("up", &mut command);
    mesh.line_with("is up", PATIENCE);

    let ask = |id: u32| {
        let answered = || http::get(port.addr(), "ruby", &format!("/?id={id}"));
        until_true(PATIENCE, "an answer", || {
            answered().is_ok_and(|response| response.status == 200)
        });
    };
    (0..5).for_each(ask);
    for _ in 0..2 {
        let sidecar = below(mesh.pid(), "proxy --sidecar").expect("a sidecar");
        signal_pid(sidecar, libc::SIGKILL).expect("our own process");
        until_true(PATIENCE, "its end", || !alive(sidecar));
    }
    (5..15).for_each(ask);

    let calls = |spans: &[Span], id: u32| -> Vec<Span> {
        let of = format!("id={id}&by=ruby");
        let mine = |span: &&Span| {
            let url = span.attributes.get("http.url");
            span.kind == 3 && url.is_some_and(|url| url.ends_with(&of))
        };
        spans.iter().filter(mine).cloned().collect()
    };
    let arrived = within(PATIENCE, || {
        let spans = collector.spans();
        let last = calls(&spans, 14);
        (!last.is_empty()).then_some(spans)
    });
    let spans = arrived.unwrap_or_else(|| panic!("no spans\n{}", mesh.report()));
    let mut attributed = 0;
    for id in 5..15 {
        for call in calls(&spans, id) {
            let parent = spans.iter().find(|span| span.span_id == call.parent_id);
            if let Some(parent) = parent {
                let asked = &parent.attributes["http.url"];
                assert!(
                    asked.ends_with(&format!("?id={id}")),
                    "{call:#?} under {asked}"
                );
            }
            attributed += u32::from(call.attributes["ripstop.trace.cause"] == "preload");
        }
    }
    assert!(
        attributed >= 5,
        "{attributed} of ten calls are attributed again"
    );
}
