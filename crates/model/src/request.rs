//! What routing, hashing and authorization may see of a request, whatever codec it came through.

use std::borrow::Cow;

/// A request head after normalisation. Header names are asked for in lower case.
pub trait RequestView {
    fn method(&self) -> &str;
    /// The normalised path, without query (see [`crate::normalize`]).
    fn path(&self) -> &str;
    /// Without the `?`; `None` when there is no `?`.
    fn query(&self) -> Option<&str>;
    /// The normalised authority: lower case, no trailing dot, no default port.
    fn authority(&self) -> &str;
    /// `http` or `https`.
    fn scheme(&self) -> &str;
    /// All values of a header, comma-joined in order (RFC 9110 section 5.3); `None` when absent.
    fn header(&self, name: &str) -> Option<Cow<'_, str>>;

    /// As [`RequestView::header`], and the pseudo headers `:method`, `:path` (with query), `:authority`, `:scheme`.
    fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        match name {
            ":method" => Some(Cow::Borrowed(self.method())),
            ":authority" | "host" => Some(Cow::Borrowed(self.authority())),
            ":scheme" => Some(Cow::Borrowed(self.scheme())),
            ":path" => Some(match self.query() {
                None => Cow::Borrowed(self.path()),
                Some(query) => Cow::Owned(format!("{}?{query}", self.path())),
            }),
            _ => self.header(name),
        }
    }
}
