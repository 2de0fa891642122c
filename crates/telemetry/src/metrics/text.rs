//! Metric families → the Prometheus text exposition format, version 0.0.4.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

/// `Content-Type` of a [`Page`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Lines gathered by family, since the format wants each family in one block.
#[derive(Debug, Default)]
pub struct Page {
    families: BTreeMap<String, (&'static str, String)>,
}

impl Page {
    fn family(&mut self, name: &str, kind: &'static str) -> &mut String {
        &mut self
            .families
            .entry(name.to_owned())
            .or_insert_with(|| (kind, String::new()))
            .1
    }

    /// `labels` as [`labels`] writes them.
    pub fn counter(&mut self, name: &str, labels: &str, value: u64) {
        line(self.family(name, "counter"), name, "", labels, value);
    }

    pub fn gauge(&mut self, name: &str, labels: &str, value: i64) {
        line(self.family(name, "gauge"), name, "", labels, value);
    }

    /// `counts` per bucket, the last one beyond all `edges`; the sum in thousandths.
    pub fn histogram(
        &mut self,
        name: &str,
        labels: &str,
        edges: &[f64],
        counts: &[u64],
        thousandths: u64,
    ) {
        let out = self.family(name, "histogram");
        let comma = if labels.is_empty() { "" } else { "," };
        let mut below = 0;
        for (edge, count) in edges.iter().zip(counts) {
            below += count;
            line(
                out,
                name,
                "_bucket",
                &format!("{labels}{comma}le=\"{edge}\""),
                below,
            );
        }
        let all: u64 = counts.iter().sum();
        line(
            out,
            name,
            "_bucket",
            &format!("{labels}{comma}le=\"+Inf\""),
            all,
        );
        let sum = match thousandths % 1000 {
            0 => (thousandths / 1000).to_string(),
            part => format!("{}.{part:03}", thousandths / 1000),
        };
        line(out, name, "_sum", labels, sum);
        line(out, name, "_count", labels, all);
    }

    pub fn finish(self) -> String {
        let size = self
            .families
            .iter()
            .map(|(name, (_, lines))| name.len() + lines.len() + 24)
            .sum();
        let mut out = String::with_capacity(size);
        for (name, (kind, lines)) in self.families {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "# TYPE {name} {kind}");
            out.push_str(&lines);
        }
        out
    }
}

fn line(out: &mut String, name: &str, suffix: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = match labels {
        "" => writeln!(out, "{name}{suffix} {value}"),
        labels => writeln!(out, "{name}{suffix}{{{labels}}} {value}"),
    };
}

/// `a="b",c="d"` with values escaped.
pub fn labels<'a>(pairs: impl IntoIterator<Item = (&'a str, Cow<'a, str>)>) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(name);
        out.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    out
}
