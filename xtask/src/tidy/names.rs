//! Items in → names that style forbids, and attributes that hide unfinished work.

use super::Finding;
use super::source::{Source, Tree};
use syn::visit::{self, Visit};

/// Endings that say what kind of thing a type is, not what it is.
const EMPTY_ENDINGS: &[&str] = &["Manager", "Helper", "Util", "Utils", "Impl", "Data"];

/// Attributes that silence instead of finishing.
const SILENCERS: &[(&str, &str)] = &[
    (
        "ignore",
        "a test that never runs proves nothing: make it pass, or delete it",
    ),
    ("dead_code", "unused code is deleted, not silenced"),
    ("unused", "unused code is deleted, not silenced"),
    ("unused_variables", "unused code is deleted, not silenced"),
    ("unused_imports", "unused code is deleted, not silenced"),
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    tree.sources.iter().flat_map(source_findings).collect()
}

fn source_findings(source: &Source) -> Vec<Finding> {
    let mut names = Names {
        source,
        findings: Vec::new(),
    };
    names.visit_file(&source.syntax);
    names.findings
}

struct Names<'a> {
    source: &'a Source,
    findings: Vec<Finding>,
}

impl Names<'_> {
    fn type_name(&mut self, ident: &syn::Ident) {
        let name = ident.to_string();
        if let Some(ending) = EMPTY_ENDINGS
            .iter()
            .find(|ending| name.len() > ending.len() && name.ends_with(**ending))
        {
            self.report(
                ident,
                format!("`{name}`: a type is named for what it is; `{ending}` says nothing"),
            );
        }
    }

    fn function_name(&mut self, ident: &syn::Ident) {
        let name = ident.to_string();
        // `get_mut`, `get_or_insert…`: what every Rust collection calls them.
        let customary = ["get_mut", "get_or_"]
            .iter()
            .any(|start| name.starts_with(start));
        if let Some(rest) = name.strip_prefix("get_").filter(|_| !customary) {
            self.report(ident, format!("`{name}`: no `get_`; call it `{rest}`"));
        }
    }

    fn report(&mut self, ident: &syn::Ident, text: String) {
        self.findings.push(Finding::error(
            &self.source.path,
            ident.span().start().line,
            text,
        ));
    }
}

impl<'ast> Visit<'ast> for Names<'_> {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.type_name(&item.ident);
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.type_name(&item.ident);
        visit::visit_item_enum(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.type_name(&item.ident);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function_name(&item.sig.ident);
        visit::visit_item_fn(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        // The methods of a trait have the names that the trait gave them.
        if item.trait_.is_none() {
            for inner in &item.items {
                if let syn::ImplItem::Fn(function) = inner {
                    self.function_name(&function.sig.ident);
                }
            }
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let path = attribute.path();
        let text = match &attribute.meta {
            syn::Meta::List(list)
                if path.is_ident("allow")
                    || path.is_ident("expect")
                    || path.is_ident("cfg_attr") =>
            {
                list.tokens.to_string()
            }
            _ if path.is_ident("ignore") => "ignore".to_owned(),
            _ => return,
        };
        let words: Vec<&str> = text
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .collect();
        for (word, why) in SILENCERS.iter().filter(|(word, _)| words.contains(word)) {
            let line = attribute.pound_token.spans[0].start().line;
            self.findings.push(Finding::error(
                &self.source.path,
                line,
                format!("`{word}`: {why}"),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let source = Source::new("crates/proxy/src/pool.rs", text).expect("Rust");
        source_findings(&source)
            .iter()
            .map(|finding| format!("{}: {}", finding.line, finding.text))
            .collect()
    }

    #[test]
    fn types_and_functions_have_names_that_say_something() {
        assert!(found("struct PoolManager;")[0].contains("Manager"));
        assert!(
            found("struct Pool;\nimpl Pool {\n    fn get_size(&self) {}\n}")[0]
                .starts_with("3: `get_size`")
        );
        assert!(
            found(
                "impl Trait for Pool {\n    fn get_size(&self) {}\n}\nstruct Data;\nfn get_mut() {}"
            )
            .is_empty()
        );
    }

    #[test]
    fn nothing_is_silenced() {
        assert!(found("#[allow(dead_code)]\nfn f() {}")[0].contains("deleted"));
        assert!(found("#[test]\n#[ignore = \"slow\"]\nfn f() {}")[0].starts_with("2: "));
        assert!(found("#[allow(clippy::too_many_arguments)]\nfn f() {}").is_empty());
    }
}
