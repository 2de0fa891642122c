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

    /// Whether the value of one of the fields of this name passes `test`; `None` if there is no such field.
    fn any_value(&self, name: &str, test: &dyn Fn(&str) -> bool) -> Option<bool>;

    /// As [`RequestView::any_value`], and the pseudo headers of [`RequestView::field`].
    fn any_field(&self, name: &str, test: &dyn Fn(&str) -> bool) -> Option<bool> {
        match name.starts_with(':') || name == "host" {
            true => self.field(name).map(|value| test(&value)),
            false => self.any_value(name, test),
        }
    }

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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A request in a test.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Fixture {
        pub(crate) method: String,
        pub(crate) path: String,
        pub(crate) query: Option<String>,
        pub(crate) authority: String,
        pub(crate) headers: Vec<(String, String)>,
    }

    impl Fixture {
        pub(crate) fn get(authority: &str, target: &str) -> Fixture {
            let (path, query) = target
                .split_once('?')
                .map_or((target, None), |(p, q)| (p, Some(q.to_owned())));
            Fixture {
                method: "GET".into(),
                path: path.into(),
                query,
                authority: authority.into(),
                headers: Vec::new(),
            }
        }

        pub(crate) fn with(mut self, name: &str, value: &str) -> Fixture {
            self.headers.push((name.to_owned(), value.to_owned()));
            self
        }
    }

    impl RequestView for Fixture {
        fn method(&self) -> &str {
            &self.method
        }
        fn path(&self) -> &str {
            &self.path
        }
        fn query(&self) -> Option<&str> {
            self.query.as_deref()
        }
        fn authority(&self) -> &str {
            &self.authority
        }
        fn scheme(&self) -> &str {
            "http"
        }
        fn header(&self, name: &str) -> Option<Cow<'_, str>> {
            let values: Vec<&str> = self
                .headers
                .iter()
                .filter(|(n, _)| n == name)
                .map(|(_, v)| v.as_str())
                .collect();
            match values.as_slice() {
                [] => None,
                [one] => Some(Cow::Borrowed(one)),
                many => Some(Cow::Owned(many.join(","))),
            }
        }

        fn any_value(&self, name: &str, test: &dyn Fn(&str) -> bool) -> Option<bool> {
            let values = self.headers.iter().filter(|(n, _)| n == name);
            values.map(|(_, value)| test(value)).reduce(|a, b| a || b)
        }
    }

    #[test]
    fn pseudo_headers() {
        let request = Fixture::get("h", "/p?q=1").with("a", "1").with("a", "2");
        assert_eq!(request.field(":path").unwrap(), "/p?q=1");
        assert_eq!(request.field("a").unwrap(), "1,2");
        assert_eq!(request.field("b"), None);
    }
}
