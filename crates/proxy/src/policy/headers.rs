//! Header edits of the configuration, compiled: values are literals or templates with Envoy's `%…%` operators.

use ripstop_model::snapshot::header::{Append, Edits};

use crate::headers::Headers;

/// What operators of a template may ask for. An answer of `None` is written as nothing.
pub trait Context {
    fn value(&self, operator: &Operator) -> Option<String>;
}

/// An operator: `%NAME(argument?alternative):limit%`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    pub name: String,
    /// Lower case.
    pub argument: String,
    pub alternative: Option<String>,
    pub limit: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Operator(Operator),
}

/// A header value, taken apart once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

impl Template {
    /// Text between two `%` is an operator, `%%` a percent sign; a `%` without its partner stands for itself.
    pub fn new(text: &str) -> Template {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            literal.push_str(before);
            match after.split_once('%') {
                Some(("", tail)) => {
                    literal.push('%');
                    rest = tail;
                }
                Some((inside, tail)) => {
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    }
                    pieces.push(Piece::Operator(Operator::new(inside)));
                    rest = tail;
                }
                None => {
                    literal.push('%');
                    rest = after;
                }
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() || pieces.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Template(pieces)
    }

    fn write<'t>(&'t self, context: &dyn Context, out: &'t mut String) -> &'t str {
        if let [Piece::Literal(text)] = self.0.as_slice() {
            return text;
        }
        out.clear();
        for piece in &self.0 {
            match piece {
                Piece::Literal(text) => out.push_str(text),
                Piece::Operator(operator) => {
                    let value = context.value(operator).unwrap_or_default();
                    let end = operator.limit.unwrap_or(value.len());
                    out.push_str(value.get(..end).unwrap_or(&value));
                }
            }
        }
        out
    }
}

impl Operator {
    fn new(inside: &str) -> Operator {
        let (name, rest) = inside.split_once('(').unwrap_or((inside, ""));
        let (argument, rest) = rest.rsplit_once(')').unwrap_or((rest, ""));
        let (argument, alternative) = match argument.split_once('?') {
            Some((argument, alternative)) => (argument, Some(alternative.to_ascii_lowercase())),
            None => (argument, None),
        };
        Operator {
            name: name.to_owned(),
            argument: argument.to_ascii_lowercase(),
            alternative,
            limit: rest.strip_prefix(':').and_then(|limit| limit.parse().ok()),
        }
    }
}

/// Edits ready to apply. Removals come before additions (Envoy's order).
#[derive(Debug, Clone, Default)]
pub struct Compiled {
    remove: Vec<String>,
    add: Vec<(String, Template, Append, bool)>,
}

impl Compiled {
    pub fn new(edits: &Edits) -> Compiled {
        Compiled {
            remove: edits.remove.clone(),
            add: edits
                .add
                .iter()
                .map(|edit| {
                    (
                        edit.name.to_ascii_lowercase(),
                        Template::new(&edit.value),
                        edit.append,
                        edit.keep_empty,
                    )
                })
                .collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Values are computed from what the message was before any of these edits.
    pub fn apply<H>(
        &self,
        head: &mut H,
        context: impl Fn(&H, &Operator) -> Option<String>,
        headers: impl Fn(&mut H) -> &mut Headers,
    ) {
        struct Asking<'a, H, F>(&'a H, &'a F);
        impl<H, F: Fn(&H, &Operator) -> Option<String>> Context for Asking<'_, H, F> {
            fn value(&self, operator: &Operator) -> Option<String> {
                self.1(self.0, operator)
            }
        }
        let mut scratch = String::new();
        let values: Vec<String> = self
            .add
            .iter()
            .map(|(_, template, _, _)| {
                template
                    .write(&Asking(head, &context), &mut scratch)
                    .to_owned()
            })
            .collect();
        let headers = headers(head);
        for name in &self.remove {
            headers.remove_named(name);
        }
        for ((name, _, append, keep_empty), value) in self.add.iter().zip(values) {
            if value.is_empty() && !keep_empty {
                continue;
            }
            let present = headers.first_named(name).is_some();
            match append {
                Append::AppendIfExistsOrAdd => {
                    headers.append_named(name, &value);
                }
                Append::AddIfAbsent if !present => {
                    headers.append_named(name, &value);
                }
                Append::OverwriteIfExistsOrAdd => {
                    headers.set_named(name, &value);
                }
                Append::OverwriteIfExists if present => {
                    headers.set_named(name, &value);
                }
                Append::AddIfAbsent | Append::OverwriteIfExists => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ripstop_model::snapshot::header::Edit;

    fn edit(name: &str, value: &str, append: Append) -> Edit {
        Edit {
            name: name.into(),
            value: value.into(),
            append,
            keep_empty: false,
        }
    }

    #[test]
    fn templates() {
        let of = |text: &str| {
            let mut out = String::new();
            struct Echo;
            impl Context for Echo {
                fn value(&self, operator: &Operator) -> Option<String> {
                    (operator.name == "REQ").then(|| format!("<{}>", operator.argument))
                }
            }
            Template::new(text).write(&Echo, &mut out).to_owned()
        };
        assert_eq!(of("plain"), "plain");
        assert_eq!(of("100%%"), "100%");
        assert_eq!(of("a-%REQ(X-Y)%-b"), "a-<x-y>-b");
        assert_eq!(of("%REQ(abcdef):3%"), "<ab");
        assert_eq!(of("%UNKNOWN%"), "");
        assert_eq!(of("50% off"), "50% off");
    }

    #[test]
    fn the_four_ways_to_append() {
        let mut headers = Headers::default();
        headers.append_named("a", "1");
        let edits = Compiled::new(&Edits {
            remove: vec!["gone".into()],
            add: vec![
                edit("a", "2", Append::AppendIfExistsOrAdd),
                edit("b", "3", Append::AddIfAbsent),
                edit("b", "4", Append::AddIfAbsent),
                edit("c", "5", Append::OverwriteIfExists),
                edit("d", "", Append::OverwriteIfExistsOrAdd),
                edit("e", "%NONE%", Append::AppendIfExistsOrAdd),
            ],
        });
        headers.append_named("gone", "x");
        edits.apply(&mut headers, |_, _| None, |headers| headers);
        let all = |name: &str| {
            headers
                .all_named(name)
                .map(|value| String::from_utf8_lossy(value).into_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(all("a"), ["1", "2"]);
        assert_eq!(all("b"), ["3"]);
        assert!(all("c").is_empty() && all("d").is_empty() && all("e").is_empty());
        assert!(all("gone").is_empty());
    }
}
