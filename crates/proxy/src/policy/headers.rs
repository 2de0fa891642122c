//! Header edits of the configuration, compiled: values are literals or templates with Envoy's `%…%` operators.

use ripstop_model::format::Template;
use ripstop_model::snapshot::header::{Append, Edits};
use ripstop_telemetry::access::header_value;
use ripstop_telemetry::record::Record;

use crate::headers::Headers;

/// Edits ready to apply. Removals come before additions (Envoy's order).
#[derive(Debug, Clone, Default)]
pub struct Compiled {
    remove: Vec<String>,
    add: Vec<Addition>,
    /// Some value depends on the request.
    asks: bool,
}

#[derive(Debug, Clone)]
struct Addition {
    /// Lower case.
    name: String,
    value: Template,
    append: Append,
    keep_empty: bool,
}

/// The values of the additions that are not literal, in their order: computed from what the message was before any
/// edit of its level.
#[derive(Debug, Default)]
pub struct Values(Vec<String>);

impl Compiled {
    /// A value that is no template (decoding reports those) is left out.
    pub fn new(edits: &Edits) -> Compiled {
        let add: Vec<Addition> = edits
            .add
            .iter()
            .filter_map(|edit| {
                Some(Addition {
                    name: edit.name.to_ascii_lowercase(),
                    value: Template::parse(&edit.value).ok()?,
                    append: edit.append,
                    keep_empty: edit.keep_empty,
                })
            })
            .collect();
        Compiled {
            remove: edits.remove.clone(),
            asks: add.iter().any(|edit| edit.value.literal().is_none()),
            add,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Whether [`Compiled::values`] has to be called before [`Compiled::apply`].
    pub fn asks(&self) -> bool {
        self.asks
    }

    pub fn values(&self, record: &Record<'_>) -> Values {
        let asking = self
            .add
            .iter()
            .filter(|edit| edit.value.literal().is_none());
        Values(
            asking
                .map(|edit| header_value(&edit.value, record))
                .collect(),
        )
    }

    pub fn apply(&self, headers: &mut Headers, values: &Values) {
        for name in &self.remove {
            headers.remove_named(name);
        }
        let mut values = values.0.iter();
        for edit in &self.add {
            let value = match edit.value.literal() {
                Some(text) => text,
                None => values.next().map_or("", String::as_str),
            };
            if value.is_empty() && !edit.keep_empty {
                continue;
            }
            let name = &edit.name;
            let present = headers.first_named(name).is_some();
            match edit.append {
                Append::AppendIfExistsOrAdd => {
                    headers.append_named(name, value);
                }
                Append::AddIfAbsent if !present => {
                    headers.append_named(name, value);
                }
                Append::OverwriteIfExistsOrAdd => {
                    headers.set_named(name, value);
                }
                Append::OverwriteIfExists if present => {
                    headers.set_named(name, value);
                }
                Append::AddIfAbsent | Append::OverwriteIfExists => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use ripstop_model::snapshot::header::Edit;
    use ripstop_telemetry::record::{Kind, Reporter};

    use super::*;

    fn edit(name: &str, value: &str, append: Append) -> Edit {
        Edit {
            name: name.into(),
            value: value.into(),
            append,
            keep_empty: false,
        }
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
                edit("e", "%REQ(NONE)%", Append::AppendIfExistsOrAdd),
                edit("f", "<%PROTOCOL%>", Append::AppendIfExistsOrAdd),
            ],
        });
        headers.append_named("gone", "x");
        let mut record = Record::new(Reporter::Source, Kind::Http, SystemTime::UNIX_EPOCH);
        record.protocol = "HTTP/1.1";
        assert!(edits.asks());
        edits.apply(&mut headers, &edits.values(&record));
        let all = |name: &str| {
            headers
                .all_named(name)
                .map(|value| String::from_utf8_lossy(value).into_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(all("a"), ["1", "2"]);
        assert_eq!(all("b"), ["3"]);
        assert_eq!(all("f"), ["<HTTP/1.1>"]);
        assert!(all("c").is_empty() && all("d").is_empty() && all("e").is_empty());
        assert!(all("gone").is_empty());
    }
}
