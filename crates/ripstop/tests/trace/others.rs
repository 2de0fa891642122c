//! HTTP/2, gRPC, TLS of the application's own, and forked processes, through real sidecars → who is unattributed, and that
//! nobody has a wrong parent.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use ripstop_testkit::otlp::{Collector, Span};
use ripstop_testkit::process::Guard;

use super::{PATIENCE, id};

const REQUESTS: usize = 12;
/// To ports of their own.
const SEALED: usize = 4;

/// Who calls, what is in the URL, and who knows the cause.
const CALLS: [(&str, &str, &str); 6] = [
    // Over gRPC, and over HTTP/1, while it serves gRPC.
    ("rpc", "/t.T/id=", "unattributed"),
    ("rpc", "/?id=", "unattributed"),
    ("into", "/?id=", "unattributed"),
    ("outof", "/?id=", "unattributed"),
    ("forked", "/?id=", "python"),
    ("pool", "/?id=", "unattributed"),
];

#[test]
fn what_cannot_be_told_is_unattributed_and_not_wrong() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let collector = Collector::start();
    let source = ripstop_testkit::root().join("crates/ripstop/tests/trace");
    let files = fs::read_dir(source.join("others")).expect("the test's own folder");
    let files = files.flatten().map(|entry| entry.path());
    for file in files.chain([source.join("leaf.py")]) {
        let text = fs::read_to_string(&file).expect("the test's own file");
        let text = text.replace("COLLECTOR", &collector.endpoint());
        let name = file.file_name().expect("a file");
        fs::write(folder.path().join(name), text).expect("a writable copy");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_ripstop"));
    command.arg("up").arg(folder.path().join("mesh.yaml"));
    command.arg("--state").arg(folder.path().join("state"));
    let asks = folder.path().join("asks.py");
    command
        .arg("--exec")
        .arg(format!("/usr/bin/python3 {}", asks.display()));
    let mut mesh = Guard::spawn("up", &mut command);
    let status = mesh.wait(PATIENCE);
    assert!(status.success(), "{}", mesh.report());

    let spans = collector.spans();
    let by_id: BTreeMap<&str, &Span> = spans
        .iter()
        .map(|span| (span.span_id.as_str(), span))
        .collect();
    let of = |span: &Span, service: &str| {
        span.resource["service.name"].split('.').next() == Some(service)
    };
    for (caller, mark, expected) in CALLS {
        let calls = spans.iter().filter(|span| {
            let url = span.attributes.get("http.url");
            span.kind == 3 && of(span, caller) && url.is_some_and(|url| url.contains(mark))
        });
        let calls: Vec<&Span> = calls.filter(|span| id(span).is_some()).collect();
        assert_eq!(calls.len(), REQUESTS, "{caller} {mark}: {}", mesh.report());
        for call in calls {
            assert_eq!(
                call.attributes["ripstop.trace.cause"], expected,
                "{call:#?}"
            );
            judge(&by_id, call, caller, id(call).as_deref(), expected);
        }
    }
    let sealed: Vec<&Span> = spans
        .iter()
        .filter(|span| span.kind == 3 && of(span, "secret"))
        .collect();
    assert_eq!(sealed.len(), SEALED, "{}", mesh.report());
    for call in sealed {
        let cluster = &call.attributes["upstream_cluster"];
        let number = cluster
            .strip_prefix("outbound|744")
            .and_then(|rest| rest.get(..1));
        assert_eq!(
            call.attributes["ripstop.trace.cause"], "python",
            "{call:#?}"
        );
        judge(&by_id, call, "secret", number, "python");
    }
}

/// Unattributed begins a trace; whoever knows has named the span of this very request.
fn judge(
    by_id: &BTreeMap<&str, &Span>,
    call: &Span,
    caller: &str,
    number: Option<&str>,
    cause: &str,
) {
    if cause == "unattributed" {
        assert_eq!(call.parent_id, "", "{call:#?}");
        return;
    }
    let parent = by_id.get(call.parent_id.as_str());
    let parent = parent.unwrap_or_else(|| panic!("no parent: {call:#?}"));
    assert_eq!(parent.kind, 2, "{call:#?} under {parent:#?}");
    assert!(
        parent.resource["service.name"].starts_with(caller),
        "{parent:#?}"
    );
    assert_eq!(id(parent).as_deref(), number, "{call:#?} under {parent:#?}");
}
