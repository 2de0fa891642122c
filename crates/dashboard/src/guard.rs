//! A request's head → whether it is answered.
//!
//! The page needs no password on loopback, so what any web site could make a browser send must be turned away: requests for
//! a name that was made to resolve to us (DNS rebinding) by their `Host`, those of another origin by `Origin` and
//! `Sec-Fetch-Site` (Fetch Metadata, W3C). The API only reads; a method that could write is refused all the same.

use std::net::{IpAddr, Ipv6Addr};

use hyper::header::{HOST, HeaderMap, HeaderName, ORIGIN};
use hyper::http::uri::Authority;
use hyper::{Method, StatusCode, Uri};

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("only GET and HEAD: the dashboard is read-only")]
    Method,
    /// RFC 9110, 15.5.20.
    #[error(
        "this Host is not the dashboard's: ask for it by its address or as localhost (names can be made to resolve to anything)"
    )]
    Host,
    #[error("pages of other origins get no answer here")]
    Origin,
}

impl Refusal {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Refusal::Method => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::Host => StatusCode::MISDIRECTED_REQUEST,
            Refusal::Origin => StatusCode::FORBIDDEN,
        }
    }
}

/// `names`: host names that are ours beside `localhost`.
pub(crate) fn judge(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    names: &[String],
) -> Result<(), Refusal> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Refusal::Method);
    }
    let host = one(headers, &HOST).ok_or(Refusal::Host)?;
    let host: Authority = host.parse().map_err(|_| Refusal::Host)?;
    // An absolute request target overrides Host (RFC 9112, 3.2.2).
    let target = uri.authority().unwrap_or(&host);
    if !is_ours(&host, names) || !is_ours(target, names) {
        return Err(Refusal::Host);
    }
    if headers.contains_key(ORIGIN) {
        let origin = one(headers, &ORIGIN).unwrap_or_default();
        let authority = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        if !authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host.as_str())) {
            return Err(Refusal::Origin);
        }
    }
    match headers.get(FETCH_SITE).map(|site| site.as_bytes()) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        // A link on another page may lead to ours; what our page says to others it says to nobody.
        Some(_) if uri.path() == "/" && one(headers, &FETCH_MODE) == Some("navigate") => Ok(()),
        Some(_) => Err(Refusal::Origin),
    }
}

/// The header's value, where there is exactly one.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// An address is nobody's to rebind: the browser asked for it and no resolver was involved.
fn is_ours(authority: &Authority, names: &[String]) -> bool {
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match bare {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            host.parse::<IpAddr>().is_ok()
                || host.eq_ignore_ascii_case("localhost")
                || names.iter().any(|name| name.eq_ignore_ascii_case(host))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(method: &str, target: &str, headers: &[(&str, &str)]) -> Result<(), Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        judge(
            &method,
            &target.parse().unwrap(),
            &map,
            &["meshbox".to_owned()],
        )
    }

    #[test]
    fn hosts_that_no_resolver_gave() {
        for host in [
            "127.0.0.1:15080",
            "[::1]:15080",
            "10.0.0.7",
            "localhost",
            "LOCALHOST:1",
            "meshbox:9",
        ] {
            assert_eq!(judged("GET", "/api", &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.nip.io:15080",
            "x@127.0.0.1",
            "",
            "[evil]",
            "0x7f000001",
        ] {
            assert_eq!(
                judged("GET", "/api", &[("host", host)]),
                Err(Refusal::Host),
                "{host}"
            );
        }
        assert_eq!(judged("GET", "/api", &[]), Err(Refusal::Host));
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(judged("GET", "/api", &twice), Err(Refusal::Host));
        let absolute = judged("GET", "http://evil.example/api", &[("host", "localhost")]);
        assert_eq!(absolute, Err(Refusal::Host));
    }

    #[test]
    fn other_origins_are_turned_away() {
        let with = |name, value| judged("GET", "/api", &[("host", "localhost:1"), (name, value)]);
        assert_eq!(with("origin", "http://localhost:1"), Ok(()));
        assert_eq!(with("sec-fetch-site", "same-origin"), Ok(()));
        assert_eq!(with("sec-fetch-site", "none"), Ok(()));
        for origin in [
            "http://localhost:2",
            "https://evil.example",
            "null",
            "",
            "localhost:1",
        ] {
            assert_eq!(with("origin", origin), Err(Refusal::Origin), "{origin}");
        }
        for site in ["cross-site", "same-site", "new-thing"] {
            assert_eq!(with("sec-fetch-site", site), Err(Refusal::Origin), "{site}");
        }
    }

    #[test]
    fn a_link_elsewhere_may_lead_to_the_page_and_to_nothing_else() {
        let link = [
            ("host", "localhost"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
        ];
        assert_eq!(judged("GET", "/", &link), Ok(()));
        assert_eq!(judged("GET", "/api", &link), Err(Refusal::Origin));
    }

    #[test]
    fn it_only_reads() {
        let host = [("host", "localhost")];
        assert_eq!(judged("HEAD", "/", &host), Ok(()));
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
            assert_eq!(
                judged(method, "/api", &host),
                Err(Refusal::Method),
                "{method}"
            );
        }
    }
}
