//! Every class of fault, as the user sees it: `testdata/diagnostics/CASE.yaml` → `CASE.txt`. `UPDATE=1` rewrites.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use proptest::prelude::*;
use ripstop_model::analyze::analyze;
use ripstop_model::diagnostic::{Code, render, summary, to_json};

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/diagnostics"))
}

fn cases() -> Vec<(String, String)> {
    let mut cases: Vec<(String, String)> = std::fs::read_dir(folder())
        .expect("testdata/diagnostics")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml" || e == "json"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&path).expect("text"))
        })
        .collect();
    cases.sort();
    cases
}

#[test]
fn golden() {
    let mut wrong = Vec::new();
    for (name, text) in cases() {
        let analysis = analyze(&[(&name, &text)]);
        let mut shown = render(&analysis.diagnostics, &analysis.sources, false);
        let listed = |keys: &[String]| match keys {
            [] => "nothing".to_owned(),
            keys => keys.join(", "),
        };
        let kept: Vec<String> = analysis
            .objects
            .iter()
            .map(|o| o.key().to_string())
            .collect();
        let rejected: Vec<String> = analysis
            .rejected
            .iter()
            .map(|o| o.key().to_string())
            .collect();
        writeln!(shown, "{}", summary(&analysis.diagnostics)).unwrap();
        writeln!(shown, "applied: {}", listed(&kept)).unwrap();
        writeln!(shown, "rejected: {}", listed(&rejected)).unwrap();
        for conflict in &analysis.conflicts {
            writeln!(
                shown,
                "conflicted: {} with {} over {}",
                conflict.loser, conflict.winner, conflict.over
            )
            .unwrap();
        }
        let expected = folder().join(&name).with_extension("txt");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&expected, &shown).expect("write");
            continue;
        }
        let want = std::fs::read_to_string(&expected).unwrap_or_default();
        if want != shown {
            wrong.push(format!("{name}: expected\n{want}\ngot\n{shown}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\nrun with UPDATE=1 to accept",
        wrong.join("\n")
    );
}

/// A class of fault that no case shows is a class that nobody has read.
#[test]
fn every_code_has_a_case() {
    let seen: BTreeSet<Code> = cases()
        .iter()
        .flat_map(|(name, text)| analyze(&[(name, text)]).diagnostics)
        .map(|diagnostic| diagnostic.code)
        .collect();
    let missing: Vec<&Code> = Code::ALL
        .iter()
        .filter(|code| !seen.contains(code))
        .collect();
    assert!(missing.is_empty(), "no case shows {missing:?}");
}

/// Every diagnostic of a file says where, in JSON as well.
#[test]
fn json_carries_position_and_path() {
    for (name, text) in cases() {
        for entry in to_json(&analyze(&[(&name, &text)]).diagnostics)
            .as_array()
            .unwrap()
        {
            assert!(entry["line"].as_u64().unwrap() > 0, "{entry}");
            assert!(entry["column"].as_u64().unwrap() > 0, "{entry}");
            assert_eq!(entry["file"], name.as_str());
            assert!(entry["code"].is_string() && entry["severity"].is_string());
        }
    }
}

#[test]
fn files_are_analysed_together() {
    let service = r#"
apiVersion: ripstop.dev/v1alpha1
kind: Mesh
metadata: {name: m}
spec:
  services: [{name: a, ports: [{port: 80}], workloads: [{command: [a], labels: {version: v1}}]}]
"#;
    let route = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec: {hosts: [a], http: [{route: [{destination: {host: a, subset: v1}}]}]}
";
    let rule = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec: {host: a, subsets: [{name: v1, labels: {version: v1}}]}
";
    let whole = analyze(&[("m", service), ("v", route), ("d", rule)]);
    assert_eq!(whole.diagnostics, [], "{:#?}", whole.diagnostics);
    let part = analyze(&[("m", service), ("v", route)]);
    assert_eq!(part.diagnostics[0].code, Code::UnknownSubset);
    // The fault is in what it refers to: it is applied, and the route answers 503 until the subset is there.
    assert_eq!(part.objects.len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let text = String::from_utf8_lossy(&bytes);
        let analysis = analyze(&[("f", text.as_ref())]);
        render(&analysis.diagnostics, &analysis.sources, true);
    }

    /// Sound documents with one stretch replaced: the faults are deeper in the readers than noise gets.
    #[test]
    fn damaged_documents_never_panic(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        length in 0usize..12,
        noise in "[-a-z0-9:\\[\\]{},*&!'\" \n\té]{0,12}",
    ) {
        let cases = cases();
        let (name, text) = which.get(&cases);
        let chars: Vec<char> = text.chars().collect();
        let start = at.index(chars.len());
        let end = (start + length).min(chars.len());
        let damaged: String = chars[..start].iter().copied()
            .chain(noise.chars())
            .chain(chars[end..].iter().copied())
            .collect();
        let analysis = analyze(&[(name, &damaged)]);
        render(&analysis.diagnostics, &analysis.sources, false);
    }
}
