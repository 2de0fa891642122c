use proptest::prelude::*;

use super::*;

fn roots(text: &str) -> Vec<Node> {
    parse(text).into_iter().filter_map(|d| d.root).collect()
}

#[test]
fn positions_of_keys_and_values() {
    let text = "# c\na: 1\nb:\n  - x: \"é\"  # c\n    y: z\n";
    let root = &roots(text)[0];
    let b = root.entry("b").unwrap();
    assert_eq!((b.key_span.line, b.key_span.column), (3, 1));
    let x = b.value.item(0).unwrap().entry("x").unwrap();
    assert_eq!((x.key_span.line, x.key_span.column), (4, 5));
    assert_eq!(&text[x.value.span.bytes()], "\"é\"");
    assert_eq!((x.value.span.line, x.value.span.column), (4, 8));
    let y = b.value.item(0).unwrap().entry("y").unwrap();
    assert_eq!(&text[y.value.span.bytes()], "z");
}

#[test]
fn a_broken_document_costs_only_itself() {
    let text = "a: 1\n---\nb: [1\n---\nc: 3\n...\n# nothing\n---\nd: 4\n";
    let documents = parse(text);
    let read: Vec<bool> = documents.iter().map(|d| d.root.is_some()).collect();
    assert_eq!(read, [true, false, true, true]);
    assert_eq!(documents[1].faults.len(), 1);
    let line = documents[1].faults[0].span.line;
    assert!((3..=4).contains(&line), "{line}");
    let d = documents[3].root.as_ref().unwrap().entry("d").unwrap();
    assert_eq!(d.key_span.line, 9);
}

#[test]
fn repeated_keys_are_all_reported() {
    let documents = parse("a: 1\na: 2\nb: {c: 1, c: 2}\n");
    let found: Vec<_> = documents[0]
        .faults
        .iter()
        .map(|f| (f.kind, f.span.line, f.earlier.map(|e| e.column)))
        .collect();
    assert_eq!(
        found,
        [
            (FaultKind::DuplicateKey, 2, Some(1)),
            (FaultKind::DuplicateKey, 3, Some(5))
        ]
    );
}

#[test]
fn json_is_read_too() {
    let root = &roots("{\n\t\"kind\": \"X\", \"n\": [1, 2.5, true, null, \"\\u00e9\"]}")[0];
    assert_eq!(
        root.to_json(),
        serde_json::json!({"kind": "X", "n": [1, 2.5, true, null, "é"]})
    );
}

#[test]
fn directives_stay_with_their_document() {
    assert_eq!(roots("%YAML 1.2\n---\na: 1\n---\nb: 2\n").len(), 2);
}

#[test]
fn merges_and_aliases() {
    let root = &roots("base: &b {x: 1, y: 2}\nown:\n  <<: *b\n  y: 3\n")[0];
    assert_eq!(
        root.field("own").unwrap().to_json(),
        serde_json::json!({"y": 3, "x": 1})
    );
}

#[test]
fn bombs_are_bounded() {
    let mut laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..12 {
        let below = format!("*a{}", level - 1);
        let list = vec![below; 10].join(",");
        laughs += &format!("a{level}: &a{level} [{list}]\n");
    }
    let fault = &parse(&laughs)[0].faults[0];
    assert_eq!(fault.kind, FaultKind::TooLarge);
    let deep = "[".repeat(5_000);
    assert!(parse(&deep)[0].root.is_none());
}

#[test]
fn plain_scalars_follow_the_core_schema() {
    for (text, want) in [
        ("8080", Plain::Int(8080)),
        ("-1", Plain::Int(-1)),
        ("0x1f", Plain::Int(31)),
        ("1.5", Plain::Float(1.5)),
        ("1e3", Plain::Float(1000.0)),
        ("no", Plain::Text),
        ("on", Plain::Text),
        ("1.2.3", Plain::Text),
        ("-", Plain::Text),
        ("1s", Plain::Text),
        ("true", Plain::Bool(true)),
    ] {
        assert_eq!(Plain::of(text), want, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC*|([-a:\\[\\]{},&*!%#'\"|>? \\n\\t~<0.]){0,80}") {
        for document in parse(&text) {
            for fault in document.faults {
                prop_assert!(fault.span.end as usize <= text.len());
                prop_assert!(text.get(fault.span.bytes()).is_some());
            }
        }
    }
}
