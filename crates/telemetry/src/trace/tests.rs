//! Tables of headers in and out.

use std::borrow::Cow;

use super::{Format, Hop, Policy, SpanContext, request_id};
use crate::record::Fields;
use crate::rng::Rng;

struct Head<'a>(&'a [(&'a str, &'a str)]);

impl Fields for Head<'_> {
    fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| (*v).into())
    }
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn hop(headers: &[(&str, &str)], policy: &Policy) -> Hop {
    SpanContext::hop(&Head(headers), policy, &mut Rng::seeded([7, 7, 7, 7]))
}

fn exporting(share: f64) -> Policy {
    Policy {
        export: true,
        share,
        ..Policy::default()
    }
}

fn get<'a>(hop: &'a Hop, name: &str) -> Option<&'a str> {
    hop.set
        .iter()
        .find(|(n, _)| *n == name)
        .map(|(_, v)| v.as_str())
}

#[test]
fn valid_contexts_pass_unchanged_unless_exported() {
    let parent_01 = format!("00-{TRACE}-{SPAN}-01");
    let parent_00 = format!("00-{TRACE}-{SPAN}-00");
    let single = format!("{TRACE}-{SPAN}-1");
    let silent = Policy {
        export: false,
        share: 1.0,
        ..Policy::default()
    };
    for headers in [
        vec![("traceparent", parent_01.as_str())],
        vec![("b3", &single)],
        vec![
            ("x-b3-traceid", TRACE),
            ("x-b3-spanid", SPAN),
            ("x-b3-sampled", "1"),
        ],
    ] {
        let hop = hop(&headers, &silent);
        assert!(hop.set.is_empty() && hop.remove.is_empty(), "{headers:?}");
        let context = hop.context.unwrap();
        assert_eq!(format!("{:032x}", context.trace_id), TRACE);
        assert!(!context.export);
    }
    for headers in [
        vec![("traceparent", parent_00.as_str()), ("tracestate", "a=b")],
        vec![
            ("x-b3-traceid", TRACE),
            ("x-b3-spanid", SPAN),
            ("x-b3-sampled", "0"),
        ],
        vec![("b3", "0")],
        vec![("x-b3-sampled", "0")],
    ] {
        let hop = hop(&headers, &exporting(1.0));
        assert!(
            hop.set.is_empty() && hop.remove.is_empty(),
            "{headers:?}: the caller decided against sampling"
        );
        assert!(hop.context.is_none_or(|c| !c.export));
    }
}

#[test]
fn sampled_contexts_are_continued_in_their_own_format() {
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let hop1 = hop(
        &[("traceparent", &parent), ("tracestate", "vendor=1")],
        &exporting(0.0),
    );
    let context = hop1.context.clone().unwrap();
    assert_eq!(
        (context.parent, context.export),
        (Some(0x00f0_67aa_0ba9_02b7), true)
    );
    assert_eq!(
        hop1.set,
        [(
            "traceparent",
            format!("00-{TRACE}-{:016x}-01", context.span_id)
        )]
    );
    assert!(hop1.remove.is_empty(), "tracestate stays");

    for (b3, tail) in [("1", "1"), ("d", "d")] {
        let hop = hop(&[("b3", &format!("{TRACE}-{SPAN}-{b3}"))], &exporting(0.0));
        let span = hop.context.as_ref().unwrap().span_id;
        assert_eq!(
            hop.set,
            [("b3", format!("{TRACE}-{span:016x}-{tail}-{SPAN}"))]
        );
    }

    let multi = [
        ("x-b3-traceid", "a3ce929d0e0e4736"),
        ("x-b3-spanid", SPAN),
        ("x-b3-flags", "1"),
    ];
    let hop2 = hop(&multi, &exporting(0.0));
    assert_eq!(
        get(&hop2, "x-b3-traceid"),
        Some("a3ce929d0e0e4736"),
        "a short id stays short"
    );
    assert_eq!(get(&hop2, "x-b3-parentspanid"), Some(SPAN));
    assert_eq!(get(&hop2, "x-b3-flags"), Some("1"));
    assert_eq!(get(&hop2, "x-b3-sampled"), None);

    // Both formats of one trace are kept in step; a foreign B3 trace beside W3C is left alone.
    let both = [
        ("traceparent", parent.as_str()),
        ("x-b3-traceid", TRACE),
        ("x-b3-spanid", SPAN),
        ("x-b3-sampled", "1"),
    ];
    assert_eq!(hop(&both, &exporting(0.0)).set.len(), 5);
    let foreign = [
        ("traceparent", parent.as_str()),
        ("b3", "463ac35c9f6413ad48485a3953bb6124-0020000000000001-1"),
    ];
    assert_eq!(hop(&foreign, &exporting(0.0)).set.len(), 1);
}

#[test]
fn deferred_decisions_are_ours() {
    let deferred = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)];
    assert!(hop(&deferred, &exporting(1.0)).context.unwrap().export);
    let hop = hop(&deferred, &exporting(0.0));
    assert!(hop.set.is_empty() && !hop.context.unwrap().export);
}

#[test]
fn new_traces_are_started_in_the_configured_formats() {
    let sampled = hop(&[], &exporting(1.0));
    let context = sampled.context.clone().unwrap();
    assert!(context.export && context.parent.is_none() && context.trace_id != 0);
    let (trace, span) = (
        format!("{:032x}", context.trace_id),
        format!("{:016x}", context.span_id),
    );
    assert_eq!(
        sampled.set,
        [
            ("traceparent", format!("00-{trace}-{span}-01")),
            ("x-b3-traceid", trace),
            ("x-b3-spanid", span),
            ("x-b3-sampled", "1".into()),
        ]
    );
    let unsampled = hop(&[], &exporting(0.0));
    assert!(
        get(&unsampled, "traceparent").unwrap().ends_with("-00"),
        "later hops agree not to sample"
    );
    assert_eq!(get(&unsampled, "x-b3-sampled"), Some("0"));
    let single = Policy {
        start: vec![Format::B3Single],
        ..exporting(1.0)
    };
    assert_eq!(get(&hop(&[], &single), "b3").unwrap().split('-').count(), 3);
    assert_eq!(
        hop(&[], &Policy::default()),
        Hop::default(),
        "no exporter: nothing is started"
    );
    assert!(
        hop(&[("x-b3-sampled", "1")], &exporting(0.0))
            .context
            .unwrap()
            .export
    );
}

#[test]
fn invalid_contexts_are_replaced_only_by_a_hop_that_traces() {
    for bad in [
        "",
        "00",
        &format!("00-{}-{SPAN}-01", "0".repeat(32)),
        &format!("00-{TRACE}-{}-01", "0".repeat(16)),
        &format!("ff-{TRACE}-{SPAN}-01"),
        &format!("00-{TRACE}-{SPAN}-01-extra"),
        &format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
        &format!("00-{TRACE}-{SPAN}-0x"),
        &format!("00-{TRACE}-{SPAN}"),
        "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ] {
        let headers = [("traceparent", bad), ("tracestate", "a=b")];
        assert_eq!(hop(&headers, &Policy::default()), Hop::default(), "{bad}");
        let hop = hop(&headers, &exporting(1.0));
        assert_eq!(hop.remove, ["traceparent", "tracestate"], "{bad}");
        assert!(hop.context.unwrap().parent.is_none(), "{bad}");
    }
    for bad in [
        "x-y",
        &format!("{TRACE}-{SPAN}-2"),
        &format!("{TRACE}-{SPAN}-1-{SPAN}-x"),
        &format!("abc-{SPAN}"),
    ] {
        assert!(
            hop(&[("b3", bad)], &exporting(1.0))
                .context
                .unwrap()
                .parent
                .is_none(),
            "{bad}"
        );
    }
}

#[test]
fn a_later_version_of_traceparent_is_understood() {
    let hop = hop(
        &[("traceparent", &format!("cc-{TRACE}-{SPAN}-01-what"))],
        &exporting(0.0),
    );
    assert!(
        get(&hop, "traceparent")
            .unwrap()
            .starts_with(&format!("00-{TRACE}-"))
    );
}

#[test]
fn request_ids() {
    let mut rng = Rng::fresh();
    assert_eq!(request_id(Some("abc-1"), true, &mut rng), "abc-1");
    for (incoming, preserve) in [
        (Some("abc-1"), false),
        (None, true),
        (Some(""), true),
        (Some("a b"), true),
        (Some("é"), true),
    ] {
        assert_eq!(
            request_id(incoming, preserve, &mut rng).len(),
            36,
            "{incoming:?}"
        );
    }
    assert_eq!(request_id(Some(&"x".repeat(129)), true, &mut rng).len(), 36);
}
