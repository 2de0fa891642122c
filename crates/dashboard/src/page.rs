//! The page: its files, embedded, and the headers that keep it to itself.

use bytes::Bytes;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};

pub(crate) struct File {
    pub(crate) path: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! file {
    ($path:literal, $kind:expr, $name:literal) => {
        File {
            path: $path,
            kind: $kind,
            text: include_str!(concat!("page/", $name)),
        }
    };
}

const FILES: &[File] = &[
    file!("/", HTML, "index.html"),
    file!("/style.css", CSS, "style.css"),
    file!("/icon.svg", "image/svg+xml", "icon.svg"),
    file!("/app.js", SCRIPT, "app.js"),
    file!("/dom.js", SCRIPT, "dom.js"),
    file!("/graph.js", SCRIPT, "graph.js"),
    file!("/sections.js", SCRIPT, "sections.js"),
];

pub(crate) fn file(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

impl File {
    pub(crate) fn body(&self) -> Bytes {
        Bytes::from_static(self.text.as_bytes())
    }
}

/// On every answer. The policy allows our own files and nothing inline: a name that were taken for HTML could still do nothing.
pub(crate) fn protect(headers: &mut HeaderMap) {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                          base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    const RULES: [(HeaderName, &str); 7] = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in RULES {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_fetches_only_its_own_files() {
        for File { path, text, .. } in FILES {
            for outside in ["http://", "https://", "//cdn", "@import", "data:"] {
                let text = text.replace("http://www.w3.org/", "");
                assert!(!text.contains(outside), "{path} has {outside}");
            }
        }
        let page = file("/").unwrap().text;
        for attribute in ["href=\"", "src=\""] {
            for rest in page.split(attribute).skip(1) {
                let target = rest.split('"').next().unwrap();
                let known =
                    target.starts_with('#') || target.starts_with("/api") || file(target).is_some();
                assert!(known, "{target} is not served");
            }
        }
    }

    /// What peers and files wrote goes to the page as text nodes and attributes alone.
    #[test]
    fn nothing_is_made_html() {
        let page = file("/").unwrap().text;
        for inline in ["<style", "style=\"", "onclick", "onload", "javascript:"] {
            assert!(!page.contains(inline), "{inline}");
        }
        assert_eq!(
            page.matches("<script").count(),
            page.matches("<script type=\"module\" src=\"/").count()
        );
        for File { path, text, .. } in FILES.iter().filter(|file| file.kind == SCRIPT) {
            for parser in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "DOMParser",
                "eval(",
                "Function(",
            ] {
                assert!(!text.contains(parser), "{path} uses {parser}");
            }
        }
    }
}
