//! `examples/shop`, in which no line is about tracing → one trace for each of the load generator's requests, through all of
//! the services, the one that speaks plain TCP included.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use ripstop_testkit::example;
use ripstop_testkit::otlp::{Collector, Span};
use ripstop_testkit::port::reserve;
use ripstop_testkit::process::Guard;
use ripstop_testkit::wait::within;

use super::PATIENCE;

const REQUESTS: usize = 60;
const SERVICES: [&str; 7] = [
    "catalog",
    "inventory",
    "load",
    "prices",
    "recommendations",
    "reviews",
    "shop",
];

type Traces = BTreeMap<String, Vec<Span>>;

#[test]
fn the_shop_is_one_trace_for_each_request() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let shop = example::copy("shop", folder.path());
    let (collector, port) = (Collector::start(), reserve());
    let mesh = shop.join("mesh.yaml");
    let traced = format!("tracing: {{otlp: \"{}\", hooks", collector.endpoint());
    example::change(&mesh, "tracing: {hooks", &traced);
    let published = format!("publish: \"{}\"", port.addr());
    example::change(&mesh, "publish: \"127.0.0.1:8088\"", &published);
    let bounded = format!("RATE: \"20\", COUNT: \"{REQUESTS}\"");
    example::change(&mesh, "RATE: \"10\"", &bounded);
    let mut command = Command::new(env!("CARGO_BIN_EXE_ripstop"));
    command.arg("up").arg(mesh);
    command.arg("--state").arg(folder.path().join("state"));
    let mut mesh = Guard::spawn("up", &mut command);

    // While the mesh starts some requests fail; one product in five meets a fault; the others go everywhere.
    let goes_everywhere =
        |trace: &&Vec<Span>| trace.iter().map(service).collect::<BTreeSet<_>>() == SERVICES.into();
    let everywhere = |traces: &Traces| traces.values().filter(goes_everywhere).count();
    let complete = within(PATIENCE, || {
        let traces = of_load(collector.spans());
        let arrived = traces.len() == REQUESTS && traces.values().all(|trace| is_whole(trace));
        (arrived && everywhere(&traces) > REQUESTS / 4).then_some(traces)
    });
    let Some(traces) = complete else {
        let traces = of_load(collector.spans());
        let broken = traces.values().find(|trace| !is_whole(trace));
        panic!(
            "{} traces, {} of them through every service; {broken:#?}\n{}",
            traces.len(),
            everywhere(&traces),
            mesh.report()
        );
    };
    mesh.terminate(PATIENCE);
    for trace in traces.values() {
        judge(trace);
    }
}

fn service(span: &Span) -> &str {
    let name = &span.resource["service.name"];
    name.split_once('.').map_or(name.as_str(), |(name, _)| name)
}

/// The traces that the load generator began.
fn of_load(spans: Vec<Span>) -> Traces {
    let mut traces = Traces::new();
    for span in spans {
        traces.entry(span.trace_id.clone()).or_default().push(span);
    }
    let begun =
        |span: &Span| span.parent_id.is_empty() && span.kind == 3 && service(span) == "load";
    traces.retain(|_, trace| trace.iter().any(begun));
    traces
}

/// Every span's parent has arrived.
fn is_whole(trace: &[Span]) -> bool {
    let ids: BTreeSet<&str> = trace.iter().map(|span| span.span_id.as_str()).collect();
    let known = |span: &Span| span.parent_id.is_empty() || ids.contains(span.parent_id.as_str());
    trace.iter().all(known)
}

fn path(span: &Span) -> Option<&str> {
    span.attributes.get("http.url").map(String::as_str)
}

/// Whose number every call of a request ends with.
fn product(span: &Span) -> Option<u32> {
    path(span)?.rsplit('/').next()?.parse().ok()
}

fn judge(trace: &[Span]) {
    let roots = trace.iter().filter(|span| span.parent_id.is_empty());
    assert_eq!(roots.count(), 1, "{trace:#?}");
    let products: BTreeSet<u32> = trace.iter().filter_map(product).collect();
    assert!(products.len() <= 1, "two requests in one trace: {trace:#?}");
    let by_id: BTreeMap<&str, &Span> = trace
        .iter()
        .map(|span| (span.span_id.as_str(), span))
        .collect();
    for span in trace.iter().filter(|span| !span.parent_id.is_empty()) {
        let parent = by_id[span.parent_id.as_str()];
        // A client's span is under the server's of the same service, a server's under the client's of the same call.
        match span.kind {
            3 => assert_eq!(
                (parent.kind, service(parent)),
                (2, service(span)),
                "{trace:#?}"
            ),
            _ => assert_eq!(parent.kind, 3, "{trace:#?}"),
        }
        let knew = span
            .attributes
            .get("ripstop.trace.cause")
            .map(String::as_str);
        let expected = match (span.kind, service(span)) {
            (3, "shop") => Some("node"),
            (3, _) => Some("python"),
            _ => None,
        };
        assert_eq!(knew, expected, "{trace:#?}");
    }
}
