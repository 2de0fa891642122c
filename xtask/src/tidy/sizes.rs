//! Files and functions in → those that have outgrown a sitting. Tests, comments and blank lines do not count.

use super::Finding;
use super::source::{Source, Tree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

const FILE_WARNING: usize = 600;
const FILE_ERROR: usize = 900;
const FUNCTION_WARNING: usize = 100;
const FUNCTION_ERROR: usize = 150;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    tree.sources
        .iter()
        .filter(|source| !source.is_test)
        .flat_map(source_findings)
        .collect()
}

fn source_findings(source: &Source) -> Vec<Finding> {
    let mut functions = Functions {
        source,
        findings: Vec::new(),
    };
    functions.visit_file(&source.syntax);
    let mut findings = functions.findings;
    let lines = source.code_lines(1..=usize::MAX);
    let text = format!(
        "{lines} lines of code; a file of more than {FILE_WARNING} usually holds a second noun: give it a file"
    );
    if lines > FILE_ERROR {
        findings.push(Finding::error(&source.path, 1, text));
    } else if lines > FILE_WARNING {
        findings.push(Finding::warning(&source.path, 1, text));
    }
    findings
}

struct Functions<'a> {
    source: &'a Source,
    findings: Vec<Finding>,
}

impl Functions<'_> {
    fn measure(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let start = signature.span().start().line;
        if self.source.in_test(start) {
            return;
        }
        let lines = self.source.code_lines(start..=block.span().end().line);
        let text = format!(
            "`{}` has {lines} lines of code; above {FUNCTION_WARNING} (the request spine {FUNCTION_ERROR}) its steps want names",
            signature.ident
        );
        if lines > FUNCTION_ERROR {
            self.findings
                .push(Finding::error(&self.source.path, start, text));
        } else if lines > FUNCTION_WARNING {
            self.findings
                .push(Finding::warning(&self.source.path, start, text));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    fn severities(text: &str) -> Vec<Severity> {
        let source = Source::new("crates/proxy/src/http.rs", text).expect("Rust");
        source_findings(&source)
            .iter()
            .map(|finding| finding.severity)
            .collect()
    }

    fn function(lines: usize) -> String {
        format!(
            "fn f() {{\n{}}}\n",
            "    // why\n\n    g();\n".repeat(lines - 2)
        )
    }

    #[test]
    fn functions_are_measured_in_code() {
        assert!(severities(&function(100)).is_empty());
        assert_eq!(severities(&function(101)), [Severity::Warning]);
        assert_eq!(severities(&function(151)), [Severity::Error]);
        assert!(
            severities(&format!(
                "#[cfg(test)]\nmod tests {{\n{}}}\n",
                function(200)
            ))
            .is_empty()
        );
    }

    #[test]
    fn files_are_measured_in_code() {
        assert!(severities(&"fn g() {}\n".repeat(600)).is_empty());
        assert_eq!(severities(&"fn g() {}\n".repeat(601)), [Severity::Warning]);
        assert_eq!(severities(&"fn g() {}\n".repeat(901)), [Severity::Error]);
    }
}
