//! Everything under `examples/` is valid, and nothing in it is ignored.

use std::path::{Path, PathBuf};

use ripstop_model::analyze::analyze;
use ripstop_model::diagnostic::render;

fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)
        .expect("a folder of examples")
        .flatten()
    {
        let path = entry.path();
        if path.is_dir() {
            files.extend(yaml_files(&path));
        } else if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn findings(files: &[PathBuf]) -> (usize, String) {
    let texts: Vec<(String, String)> = files
        .iter()
        .map(|file| {
            (
                file.display().to_string(),
                std::fs::read_to_string(file).expect("text"),
            )
        })
        .collect();
    let analysis = analyze(&texts);
    (
        analysis.objects.len(),
        render(&analysis.diagnostics, &analysis.sources, false),
    )
}

#[test]
fn every_example_is_valid_and_without_warnings() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    for folder in ["orders", "shop"] {
        let mut files = yaml_files(&examples.join(folder));
        // A mesh by itself: the same services as mesh.yaml.
        let alone: Vec<PathBuf> = files
            .extract_if(.., |file| file.ends_with("mesh-without-retries.yaml"))
            .collect();
        for set in [files, alone].iter().filter(|set| !set.is_empty()) {
            let (objects, text) = findings(set);
            assert!(
                text.is_empty() && objects >= set.len(),
                "{folder}: {objects} objects\n{text}"
            );
        }
    }
}
