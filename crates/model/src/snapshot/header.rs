//! Header edits (`HeaderValueOption`, `request_headers_to_remove`), applied route first, then virtual host, then table
//! unless the table says otherwise.

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    pub request: Edits,
    pub response: Edits,
}

/// Removals happen before additions (Envoy's order).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits {
    /// Lower case.
    pub remove: Vec<String>,
    pub add: Vec<Edit>,
}

impl Edits {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    pub name: String,
    /// May contain `%…%` command operators; the proxy compiles it once.
    pub value: String,
    pub append: Append,
    /// Keep the header when the formatted value is empty; otherwise it is not added.
    pub keep_empty: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Append {
    #[default]
    AppendIfExistsOrAdd,
    AddIfAbsent,
    OverwriteIfExistsOrAdd,
    OverwriteIfExists,
}
