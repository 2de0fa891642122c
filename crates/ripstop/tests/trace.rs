//! Services that know nothing of tracing → one trace through those whose runtime has a hook, and none that is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::time::Duration;

use ripstop_testkit::otlp::{Collector, Span};
use ripstop_testkit::process::Guard;

#[path = "trace/kernel.rs"]
mod kernel;
#[path = "trace/others.rs"]
mod others;
#[path = "trace/restart.rs"]
mod restart;
#[path = "trace/shop.rs"]
mod shop;

/// A loaded machine is slow; only a hang takes longer.
const PATIENCE: Duration = Duration::from_secs(180);

const FILES: [&str; 7] = [
    "front.js",
    "middle.py",
    "gap.rb",
    "ruby.rb",
    "leaf.py",
    "ask.py",
    "mesh.yaml",
];

#[test]
fn a_trace_goes_through_services_that_do_not_know_of_it() {
    for program in ["node", "python3", "ruby"] {
        ripstop_testkit::program(program);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let collector = Collector::start();
    let source = ripstop_testkit::root().join("crates/ripstop/tests/trace");
    for file in FILES {
        let text = fs::read_to_string(source.join(file)).expect("the test's own file");
        let text = text.replace("COLLECTOR", &collector.endpoint());
        fs::write(folder.path().join(file), text).expect("a writable copy");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_ripstop"));
    command
        .arg("up")
        .arg(folder.path().join("mesh.yaml"))
        .arg("--state")
        .arg(folder.path().join("state"));
    command.arg("--exec").arg(format!(
        "python3 {}",
        folder.path().join("ask.py").display()
    ));
    let mut mesh = Guard::spawn("up", &mut command);
    let status = mesh.wait(PATIENCE);
    assert!(status.success(), "{}", mesh.report());

    // Readiness probes and the like are no business of this test.
    let spans: Vec<Span> = collector
        .spans()
        .into_iter()
        .filter(|span| id(span).is_some())
        .collect();
    let mut by_id: BTreeMap<String, Vec<&Span>> = BTreeMap::new();
    for span in &spans {
        by_id
            .entry(id(span).expect("filtered"))
            .or_default()
            .push(span);
    }
    assert_eq!(by_id.len(), 30, "{} spans", spans.len());
    for (number, spans) in by_id {
        judge(&number, &spans);
    }
}

/// The request's number, which every call for it carries in its URL.
fn id(span: &Span) -> Option<String> {
    let url = span.attributes.get("http.url")?;
    let (_, rest) = url.split_once("id=")?;
    Some(rest.split('&').next().unwrap_or(rest).to_owned())
}

/// Eight hops, of which the one from `gap` begins a trace of its own.
fn judge(number: &str, spans: &[&Span]) {
    let described = || -> Vec<String> {
        let line = |span: &&Span| {
            format!(
                "{} {} {} under {}: {:?}",
                span.trace_id, span.span_id, span.kind, span.parent_id, span.attributes
            )
        };
        spans.iter().map(line).collect()
    };
    let is_gap = |span: &Span| span.attributes["http.url"].ends_with("by=gap");
    let (gap, main): (Vec<&Span>, Vec<&Span>) = spans.iter().partition(|span| is_gap(span));
    // front, middle, gap, ruby, and leaf by front, middle and ruby: a client's and a server's span each.
    assert_eq!(
        (main.len(), gap.len()),
        (14, 2),
        "{number}: {:#?}",
        described()
    );

    let traces: BTreeSet<&str> = main.iter().map(|span| span.trace_id.as_str()).collect();
    assert_eq!(traces.len(), 1, "{number}: {:#?}", described());
    let ids: BTreeMap<&str, &Span> = main
        .iter()
        .map(|span| (span.span_id.as_str(), *span))
        .collect();
    let roots: Vec<&&Span> = main
        .iter()
        .filter(|span| span.parent_id.is_empty())
        .collect();
    assert_eq!(roots.len(), 1, "{number}: {:#?}", described());
    for span in main.iter().filter(|span| !span.parent_id.is_empty()) {
        let parent = ids.get(span.parent_id.as_str());
        let parent = parent.unwrap_or_else(|| panic!("{number}: no parent: {:#?}", described()));
        // A server's span is under the client's of the same call, a client's under the server's of the caller.
        assert_ne!(parent.kind, span.kind, "{number}: {:#?}", described());
        if span.kind == 3 {
            let caller = &span.resource["service.name"];
            assert_eq!(
                &parent.resource["service.name"],
                caller,
                "{number}: {:#?}",
                described()
            );
            let cause = span
                .attributes
                .get("ripstop.trace.cause")
                .map(String::as_str);
            let (workload, _) = caller.split_once('.').unwrap_or((caller, ""));
            let expected = match workload {
                "front" => "node",
                "ruby" => "preload",
                _ => "python",
            };
            assert_eq!(cause, Some(expected), "{number}: {:#?}", described());
        }
    }

    let root = gap
        .iter()
        .find(|span| span.kind == 3)
        .expect("a client's span");
    let cause = root
        .attributes
        .get("ripstop.trace.cause")
        .map(String::as_str);
    assert_eq!(cause, Some("unattributed"), "{number}");
    assert!(
        root.parent_id.is_empty() && !traces.contains(root.trace_id.as_str()),
        "{number}"
    );
    // What may have caused it is linked: this request's span is among them.
    let incoming = main
        .iter()
        .find(|span| span.kind == 2 && span.resource["service.name"].starts_with("gap"));
    let incoming = incoming.expect("gap's server span");
    assert!(
        root.links
            .contains(&(incoming.trace_id.clone(), incoming.span_id.clone()))
            || root.links.len() == 8,
        "{number}: {:?}",
        root.links
    );
}
